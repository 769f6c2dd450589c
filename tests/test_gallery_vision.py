"""The real runs on pictures and on the cortex, small: the same code on toys, and what it refuses."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import topobrain as tb
from analyses import map_categories, map_noun_verb_cortex
from analyses.model_families import main
from figures import fig10_category_maps, fig11_noun_verb_cortex
from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.data import surfaces
from topobrain.models.architectures import build
from topobrain.models.directories import save_model
from topobrain.models.resnet import ResNetConfig
from topobrain.surface import CorticalMap

ROOT = Path(__file__).parents[1]
LAYERS = ("layer3.1.conv2", "layer4.1.conv2")
WIDTH = 6.0
"""Smoothness of the simulated cortical map, in mm."""

CATEGORIES = {
    "adult": "faces", "child": "faces", "body": "bodies", "limb": "bodies", "corridor": "places", "house": "places",
    "number": "characters", "word": "characters", "car": "objects", "instrument": "objects",
}  # fmt: skip


def toy_images(n=4):
    """Pictures whose domain is their colour, each with noise of its own."""
    rng = np.random.default_rng(0)
    items, rows = [], []
    for place, (category, domain) in enumerate(CATEGORIES.items()):
        colour = rng.uniform(60, 200, size=(10, 3))[map_categories.DOMAINS.index(domain)]
        for number in range(n):
            items.append(np.clip(colour + rng.normal(0, 40, (32, 32, 3)) + place, 0, 255).astype(np.uint8))
            animacy = {"faces": "animate", "bodies": "animate", "characters": "neither"}.get(domain, "inanimate")
            size = {"instrument": "small", "car": "big", "house": "big", "corridor": "big"}.get(category, "neither")
            rows.append((domain, category, animacy, size, "even" if number % 2 else "odd"))
    table = pd.DataFrame(rows, columns=["condition", "category", "animacy", "real_size", "half"])
    return tb.StimulusSet(items, table, name="toy-floc", provenance={"simulated": True})


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    folder = tmp_path_factory.mktemp("categories")
    places = []
    for seed, name in enumerate(("toy-topographic", "toy-twin")):
        module = build("resnet", ResNetConfig.tiny(), seed=seed)
        places.append(save_model(folder / name, name, module, trained_on="nothing (a toy)"))
    config = map_categories.Config(
        models=tuple(places), out=folder / "out", layers=LAYERS, shown=LAYERS[0], n_null=19, n_untrained=2, device="cpu"
    )
    told = []
    picture = map_categories.run(config, told.append, toy_images())
    return folder / "out", picture, told


# pictures


def test_the_contrasts_are_those_of_the_localizers(real_data):
    floc, animacy, size = (
        tb.load_localizer(name, size=8, n_per_category=2) for name in ("floc", "floc-animacy", "floc-size")
    )
    assert floc.contrasts == map_categories.DOMAIN_CONTRASTS
    assert (*animacy.contrasts, *size.contrasts) == map_categories.OTHER_CONTRASTS
    for contrast in map_categories.OTHER_CONTRASTS:  # and fit the images of all domains
        contrast.masks(floc.stimuli.column(contrast.by))


@pytest.mark.slow
def test_a_run_leaves_maps_measures_and_held_out_results_of_every_network(gallery):
    out, picture, told = gallery
    roles = pd.read_csv(out / "models.csv").set_index("role")
    assert roles["model"].to_dict() == {
        "untrained": "toy-topographic (untrained:0)", "twin": "toy-twin", "topographic": "toy-topographic",
    }  # fmt: skip
    for label in roles["file"]:
        for prefix in ("selectivity-floc", "topography-floc", "halves", "distance", "profile-faces", "profile-objects"):
            assert tb.load_result(out / f"{prefix}_{label}.nc").simulated, (prefix, label)
    assert picture == out / "figures" / "fig10_category_maps.png"
    assert sum(line.startswith("mapping") for line in told) == 3


@pytest.mark.slow
def test_the_topographic_network_stands_beside_every_null_and_reference(gallery):
    out, *_ = gallery
    found = tb.Topography.load(out / "topography-floc_toy-topographic.nc")
    assert found.nulls == ["layout", "labels", "untrained", "twin"]
    table = found.summary()
    maps = table[table["measure"] == "morans_i"]
    assert len(maps) == 4 * 8 * len(LAYERS)  # nulls, contrasts, layers
    assert set(maps["contrast"]) == {*map_categories.DOMAINS, "animacy", "real-world size", "car-instrument"}
    counts = maps.groupby("null")["n_null"].first()
    assert (counts["layout"], counts["labels"], counts["untrained"], counts["twin"]) == (19, 19, 2, 1)
    assert maps.loc[maps["null"] == "labels", "p"].notna().all()
    # the twin's place as a reference is its own measured value
    twin = tb.Topography.load(out / "topography-floc_toy-twin.nc")
    cell = {"measure": "morans_i", "layer": LAYERS[1], "contrast": "faces"}
    assert float(found.beside("twin")["null_mean"].sel(cell)) == float(twin.data["value"].sel(cell))


@pytest.mark.slow
def test_halves_of_the_images_are_held_out(gallery):
    out, *_ = gallery
    images = toy_images()
    profile = tb.Profile.load(out / "profile-places_toy-topographic.nc")
    fields = profile.provenance["profile"]
    assert (fields["split"], fields["layer"], fields["top"]) == ("half", LAYERS[0], 0.1)
    assert sorted(profile.labels("fold")) == ["even", "odd"]
    halves = tb.Topography.load(out / "halves_toy-topographic.nc")
    assert halves.provenance["stimuli"]["n_stimuli"] == len(images) / 2
    assert halves.provenance["topography"]["against"]["stimuli"]["n_stimuli"] == len(images) / 2
    assert halves.nulls == ["layout", "torus"]
    assert halves.data["by_null"].sel(null="torus").isnull().all()  # these sheets have open borders: no shift fits
    agreement = halves.summary().query("measure == 'map_correlation'")
    assert len(agreement) == 5 * len(LAYERS)
    assert agreement["value"].mean() > 0.8  # colours are seen alike in both halves


def test_scaling_units_changes_their_levels_and_no_t():
    images = toy_images()
    rng = np.random.default_rng(1)
    values = rng.standard_normal((len(images), 12)) * 10.0 ** rng.uniform(-2, 2, 12) + rng.uniform(-50, 50, 12)
    values[:, 0] = 3.0  # a channel that never changes
    acts = tb.Activations.from_arrays({"l": values}, images, sheets={"l": tb.Sheet.grid(3, 4)})
    scaled = map_categories.standardised(acts)
    assert np.allclose(scaled.values("l").mean(axis=0), 0, atol=1e-4)
    assert np.allclose(scaled.values("l")[:, 1:].std(axis=0), 1, atol=1e-3)
    assert (scaled.values("l")[:, 0] == 0).all()
    assert np.array_equal(acts.values("l"), values.astype(np.float32))  # the given ones are left alone
    t = [
        tb.localize(one, map_categories.DOMAIN_CONTRASTS, n_null=0).values("l", contrast="faces")
        for one in (acts, scaled)
    ]
    assert np.allclose(t[0], t[1], rtol=1e-2, equal_nan=True)
    assert "standardised" in scaled.provenance
    assert "standardised" not in acts.provenance


@pytest.mark.slow
def test_the_figure_shows_what_the_results_say(gallery):
    out, picture, _ = gallery
    numbers = pd.read_csv(picture.with_suffix(".csv"))
    maps = tb.Selectivity.load(out / "selectivity-floc_toy-topographic.nc")
    rows = numbers.query("part == 'topography' and what == 'morans_i' and role == 'topographic' and null == 'layout'")
    shown = rows.set_index(["layer", "contrast"])["value"]
    for layer in LAYERS:
        expected = float(maps.data["morans_i"].sel(contrast="faces", layer_name=layer))
        assert shown[layer, "faces"] == pytest.approx(expected, rel=1e-4)
    assert set(numbers["part"]) == {"t", "topography", "odd against even images", "profile", "distance curve"}
    caption = picture.with_suffix(".txt").read_text()
    assert f"{LAYERS[0]}, 32 units" in caption


def test_no_results_no_figure(tmp_path):
    assert fig10_category_maps.draw(tmp_path) is None
    assert fig11_noun_verb_cortex.draw(tmp_path) is None


@pytest.mark.slow
def test_figures_are_drawn_from_saved_results_without_torch(gallery, cortex, tmp_path):
    out = gallery[0]
    pd.read_csv(out / "models.csv").query("role == 'topographic'").to_csv(tmp_path / "models.csv", index=False)
    for path in out.glob("*_toy-topographic.nc"):
        shutil.copy(path, tmp_path)
    code = (
        "import sys, pathlib; from figures import fig10_category_maps as a, fig11_noun_verb_cortex as b; "
        f"print(a.draw(pathlib.Path({str(tmp_path)!r})).figure.get_suptitle()); "
        f"print(b.draw(pathlib.Path({str(cortex[0])!r})).figure.get_suptitle()); "
        "sys.exit('torch' in sys.modules)"
    )
    drawn = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert drawn.returncode == 0, drawn.stderr
    assert "Category maps of toy-topographic (simulated)" in drawn.stdout
    assert "not the paper's" in drawn.stdout
    assert "Cortical map 'toy' (simulated)" in drawn.stdout


def test_a_network_that_does_not_see_and_a_layer_that_is_not_mapped_are_told(tmp_path, store):
    config = map_categories.Config(out=tmp_path / "out", recipe="toponet-nanogpt")
    with pytest.raises(InputError, match="categories of pictures"):
        map_categories.run(config, lambda _: None)
    config = map_categories.Config(out=tmp_path / "out", layers=LAYERS, shown="layer3.1.conv1")
    with pytest.raises(UnknownNameError, match=r"layer3\.1\.conv2"):
        map_categories.run(config, lambda _: None)
    told = []
    with pytest.raises(DataFileError, match="floc"):  # before any training
        map_categories.run(map_categories.Config(out=tmp_path / "out"), told.append)
    assert not told


# the cortex


@pytest.fixture(scope="module")
def toy_cortex():
    """Two simulated maps on fsaverage5 that share most of what they are, with a wall of missing vertices."""
    mesh = tb.load_surface("fsaverage5-left")
    near = mesh.smoothing(WIDTH)
    first, second = np.random.default_rng(0).standard_normal((2, mesh.n_vertices))
    maps = {"t_all": near @ first, "t_even": near @ (0.9 * first + 0.4 * second)}
    wall = mesh.coordinates[:, 0] > np.percentile(mesh.coordinates[:, 0], 95)
    values = {name: np.where(wall, np.nan, one / one.std()) for name, one in maps.items()}
    p = {name: np.where(wall, np.nan, np.exp(-(one**2) * 3)) for name, one in values.items()}
    return CorticalMap("toy", values, "fsaverage5", "left", p, {"simulated": True, "name": "toy-data"})


@pytest.fixture(scope="module")
def cortex(toy_cortex, tmp_path_factory):
    out = tmp_path_factory.mktemp("cortex")
    config = map_noun_verb_cortex.Config(out=out, n_null=19, n_nearest=60, noise_mm=(WIDTH,), n_noise=3)
    told = []
    return out, map_noun_verb_cortex.run(config, told.append, toy_cortex), told


@pytest.mark.slow
def test_a_cortical_run_keeps_two_indices_apart_and_gives_no_p_where_a_null_asks_nothing(cortex):
    out, picture, _ = cortex
    table = tb.Topography.load(out / "topography.nc").summary().set_index(["measure", "contrast", "null"]).sort_index()
    index = table.loc[("morans_i", "t_all")]
    assert index.loc["layout", "p"] == 1 / 20
    assert abs(index.loc["layout", "null_mean"]) < 0.05
    for null in ("spin", "variogram"):
        assert index.loc[null, "null_mean"] > 0.4  # they keep the map's smoothness
        assert np.isnan(index.loc[null, ["z", "p", "corrected"]].astype(float)).all()
        assert table.loc[("map_correlation", "t_all", null), "p"] == 1 / 20
    significant = table.loc[("morans_i_significant", "t_all", "layout")]
    assert significant["value"] != pytest.approx(index.loc["layout", "value"], abs=1e-3)
    assert np.isnan(significant["corrected"])  # 1 is not its highest value
    assert picture == out / "figures" / "fig11_noun_verb_cortex.png"


@pytest.mark.slow
def test_smoothed_noise_reaches_the_index_of_the_simulated_map(cortex, toy_cortex):
    out, picture, _ = cortex
    noise = pd.read_csv(out / "smoothed_noise.csv").set_index("fwhm_mm")["morans_i"]
    assert noise.index.tolist() == [0, WIDTH]
    assert abs(noise[0]) < 0.02
    found = tb.Topography.load(out / "topography.nc")
    value = float(found.data["value"].sel(measure="morans_i", contrast="t_all").isel(layer=0))
    assert value == pytest.approx(noise[WIDTH], abs=0.05)  # the map *is* noise smoothed so
    numbers = pd.read_csv(picture.with_suffix(".csv")).set_index("contrast")
    assert numbers.loc[f"noise smoothed at {WIDTH:g} mm", "value"] == pytest.approx(noise[WIDTH], rel=1e-4)
    n_vertices = int(np.isfinite(toy_cortex.values["t_all"]).sum())
    assert f"t of every vertex ({n_vertices:,} have one" in picture.with_suffix(".txt").read_text()


def test_without_the_mesh_the_command_says_where_it_is_had_and_measures_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(surfaces, "_FSLR_PACKAGE", "no_package_of_this_name")
    surfaces._load_surface.cache_clear()
    values = {name: np.random.default_rng(0).standard_normal(32492) for name in ("t_all", "t_even")}
    cortical = CorticalMap("toy", values, "fsLR-32k", "left")
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stopped:
        main(
            map_noun_verb_cortex.Config(out=out),
            lambda config: map_noun_verb_cortex.run(config, pytest.fail, cortical),
        )
    message = str(stopped.value.code)
    assert message.startswith("error: mesh 'fslr32k-left' is not here")
    assert "pip install 'topobrain[fslr]'" in message
    assert "Nothing was measured" in message
    assert "32,492 vertices" in message
    assert not out.exists()


@pytest.mark.slow
def test_the_command_without_the_mesh_ends_with_exit_code_1(real_data, tmp_path):
    code = (
        "import runpy, sys, topobrain.data.surfaces as s; s._FSLR_PACKAGE = 'no_package_of_this_name'; "
        f"sys.argv = ['map', '--out', {str(tmp_path / 'out')!r}]; "
        "runpy.run_module('analyses.map_noun_verb_cortex', run_name='__main__', alter_sys=True)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: mesh 'fslr32k-left' is not here")
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    assert not (tmp_path / "out").exists()


def test_widths_of_noise_that_make_no_sense_are_told(tmp_path):
    for wrong in ({"noise_mm": (0.0, 4.0)}, {"n_noise": 1}):
        with pytest.raises(InputError, match="noise_mm"):
            map_noun_verb_cortex.run(map_noun_verb_cortex.Config(out=tmp_path, **wrong), lambda _: None)
