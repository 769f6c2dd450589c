from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import xarray as xr

from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.brain_files import responses_from_nifti, responses_from_surface, save_map
from topobrain.responses import BrainResponses
from topobrain.results import Result
from topobrain.stimuli import StimulusSet

SHAPE, N = (3, 4, 5), 4
AFFINE = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])


class Scores(Result):
    """A result with a layer, fold and voxel axis."""

    kind = "scores"
    schema = {"r": ("layer", "fold", "voxel")}  # noqa: RUF012


@pytest.fixture
def stimuli() -> StimulusSet:
    return StimulusSet(["a", "b", "c", "d"])


@pytest.fixture
def brain(stimuli) -> BrainResponses:
    generator = np.random.default_rng(0)
    data = generator.standard_normal((*SHAPE, N))
    mask = nibabel.Nifti1Image((generator.random(SHAPE) < 0.5).astype(np.int8), AFFINE)
    return responses_from_nifti(nibabel.Nifti1Image(data, AFFINE), stimuli, mask=mask, space="MNI152NLin6Asym")


@pytest.fixture
def surface(stimuli) -> BrainResponses:
    generator = np.random.default_rng(1)
    sides = {"left": generator.standard_normal((N, 12)), "right": generator.standard_normal((N, 9))}
    sides["left"][:, 3] = 0
    return responses_from_surface({s: rows.astype(np.float32) for s, rows in sides.items()}, stimuli)


def scores(home: BrainResponses) -> Scores:
    generator = np.random.default_rng(2)
    n = home.data.sizes["voxel"]
    coords = {name: c for name, c in home.data.coords.items() if c.dims == ("voxel",)}
    data = xr.Dataset(
        {"r": (("layer", "fold", "voxel"), generator.standard_normal((2, 3, n)))},
        coords={"layer": ["h.0", "h.1"], **coords},
    )
    return Scores(data)


@pytest.mark.parametrize("ending", ["nii.gz", "nii"])
def test_a_layer_of_a_result_becomes_a_volume_at_the_right_places(brain, tmp_path: Path, ending: str) -> None:
    result = scores(brain)
    (path,) = save_map(result, tmp_path / "deep" / f"r.{ending}", like=brain, layer="h.1")
    image = nibabel.load(path)
    assert image.shape == SHAPE
    np.testing.assert_array_equal(image.affine, AFFINE)
    assert image.header["sform_code"] == 4  # MNI
    i, j, k = (brain.data[name].values for name in "ijk")
    written = image.get_fdata()
    np.testing.assert_array_equal(written[i, j, k], result.data["r"].values[1].mean(axis=0))
    outside = np.ones(SHAPE, dtype=bool)
    outside[i, j, k] = False
    assert np.isnan(written[outside]).all()
    (path,) = save_map(result, tmp_path / "zero.nii.gz", like=brain, layer="h.0", outside=0.0)
    assert (nibabel.load(path).get_fdata()[outside] == 0).all()
    assert not list(tmp_path.rglob(".*"))


def test_a_result_that_knows_its_grid_needs_no_like(brain, tmp_path: Path) -> None:
    result = scores(brain)
    placed = Scores(result.data.assign_attrs(affine=brain.data.attrs["affine"], shape=brain.data.attrs["shape"]))
    assert len(save_map(placed, tmp_path / "r.nii.gz", layer="h.0")) == 1
    with pytest.raises(InputError, match=r"the grid of the voxels is not known.*like="):
        save_map(result, tmp_path / "r.nii.gz", layer="h.0")


def test_several_maps_become_volumes_of_one_file(brain, tmp_path: Path) -> None:
    (path,) = save_map(brain.values.astype(np.float32), tmp_path / "all.nii.gz", like=brain)
    image = nibabel.load(path)
    assert image.shape == (*SHAPE, N)
    assert image.get_data_dtype() == np.float32
    i, j, k = (brain.data[name].values for name in "ijk")
    np.testing.assert_array_equal(image.get_fdata()[i, j, k].T, brain.values.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("r.func.gii", ["r_hemi-L.func.gii", "r_hemi-R.func.gii"]),
        ("r_hemi-{hemi}_stat.shape.gii", ["r_hemi-L_stat.shape.gii", "r_hemi-R_stat.shape.gii"]),
        ("r.mgh", ["lh.r.mgh", "rh.r.mgh"]),
        ("r.mgz", ["lh.r.mgz", "rh.r.mgz"]),
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_surfaces_are_written_one_file_a_hemisphere_and_read_again(
    surface, stimuli, tmp_path: Path, name: str, files: list[str], several: bool
) -> None:
    values = surface.values if several else surface.values[0]
    written = save_map(values, tmp_path / name, like=surface)
    assert [path.name for path in written] == files
    shown = stimuli if several else StimulusSet(["a"])
    again = responses_from_surface({"left": written[0], "right": written[1]}, shown)
    np.testing.assert_array_equal(again.values, np.atleast_2d(values))
    assert again.data["vertex"].values.tolist() == surface.data["vertex"].values.tolist()  # NaN outside: left out again
    assert again.data.attrs["n_vertices_left"] == 12
    if name.endswith(".gii"):
        assert nibabel.load(written[1]).meta["AnatomicalStructurePrimary"] == "CortexRight"


def test_what_cannot_be_drawn_is_explained(brain, surface, stimuli, tmp_path: Path) -> None:
    result, path = scores(brain), tmp_path / "r.nii.gz"
    with pytest.raises(InputError, match=r"several layers: give layer= \(h\.0, h\.1\)"):
        save_map(result, path, like=brain)
    with pytest.raises(UnknownNameError, match=r"unknown layer 'h\.2'"):
        save_map(result, path, like=brain, layer="h.2")
    with pytest.raises(UnknownNameError, match=r"unknown variable .* 'q'.*Known: .*r"):
        save_map(result, path, like=brain, variable="q")
    with pytest.raises(InputError, match="an array needs like="):
        save_map(np.zeros(3), path)
    with pytest.raises(InputError, match="3 values for"):
        save_map(np.zeros(3), path, like=brain)
    with pytest.raises(InputError, match=r"expected \(voxel,\) or \(map, voxel\)"):
        save_map(np.zeros((1, 2, 3)), path, like=brain)
    with pytest.raises(InputError, match=r"no place in a volume .*they lie in a surface"):
        save_map(surface.values[0], path, like=surface)
    with pytest.raises(InputError, match=r"no place in a surface .*they lie in a volume"):
        save_map(brain.values[0], tmp_path / "r.func.gii", like=brain)
    table = BrainResponses.from_arrays(np.zeros((4, 2)), stimuli, roi=["a", "b"])
    with pytest.raises(InputError, match="they are regions, or come from a table"):
        save_map(table.values[0], path, like=table)
    with pytest.raises(InputError, match="no format of brain images"):
        save_map(brain.values[0], tmp_path / "r.png", like=brain)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataFileError, match="cannot write"):
        save_map(brain.values[0], tmp_path / "file" / "r.nii.gz", like=brain)


def test_people_whose_voxels_share_places_are_drawn_one_at_a_time(brain, tmp_path: Path) -> None:
    from topobrain.brain_files import side_by_side

    n = brain.data.sizes["voxel"]
    people = [BrainResponses(brain.data.assign_coords(subject=("voxel", [name] * n))) for name in ("s1", "s2")]
    both = side_by_side(people)
    assert both.data.attrs["shape"].tolist() == list(SHAPE)
    values = np.arange(2.0 * n)
    with pytest.raises(InputError, match=r"several people.*subject= \(s1, s2\)"):
        save_map(values, tmp_path / "r.nii", like=both)
    (path,) = save_map(values, tmp_path / "r.nii", like=both, subject="s2")
    i, j, k = (brain.data[name].values for name in "ijk")
    np.testing.assert_array_equal(nibabel.load(path).get_fdata()[i, j, k], values[n:])
    with pytest.raises(UnknownNameError, match="unknown subject 's3'"):
        save_map(values, tmp_path / "r.nii", like=both, subject="s3")
    twice = BrainResponses(both.data.assign_coords(subject=("voxel", ["s1"] * (2 * n))))
    with pytest.raises(InputError, match="two voxels lie at one place"):
        save_map(values, tmp_path / "r.nii", like=twice)


def test_an_encoding_is_drawn_where_its_responses_came_from(brain, tmp_path: Path) -> None:
    from topobrain.activations import Activations
    from topobrain.encoding import encode

    generator = np.random.default_rng(3)
    texts = StimulusSet([f"text {n}" for n in range(30)])
    n_voxels = brain.data.sizes["voxel"]
    features = generator.standard_normal((30, 5)).astype(np.float32)
    weights = generator.standard_normal((5, n_voxels))
    coords = {name: brain.data[name].values for name in "ijk"}
    seen = BrainResponses.from_arrays(features @ weights, texts, voxel_coords=coords)
    placed = BrainResponses(seen.data.assign_attrs({k: brain.data.attrs[k] for k in ("affine", "shape", "space")}))
    encoding = encode(Activations.from_arrays({"h": features}, texts), placed)
    (path,) = save_map(encoding, tmp_path / "r.nii.gz", like=placed)
    i, j, k = coords.values()
    drawn = nibabel.load(path).get_fdata()[i, j, k]
    np.testing.assert_array_equal(drawn, encoding.data["r"].values[0].mean(axis=0))
    assert drawn.min() > 0.95  # the planted weights are found


def reversed_voxels(result: Result) -> xr.Dataset:
    return result.data.isel(voxel=slice(None, None, -1)).assign_coords(voxel=np.arange(result.data.sizes["voxel"]))


def test_a_result_is_drawn_at_its_own_places_in_whichever_order(brain, tmp_path: Path) -> None:
    result = scores(brain)
    expected = result.data["r"].values[0].mean(axis=0)
    turned = Scores(reversed_voxels(result))
    for given, home in ((turned, brain), (result, BrainResponses(reversed_voxels(brain)))):
        (path,) = save_map(given, tmp_path / "r.nii.gz", like=home, layer="h.0")
        i, j, k = (brain.data[name].values for name in "ijk")
        np.testing.assert_array_equal(nibabel.load(path).get_fdata()[i, j, k], expected)
    # Without places of its own a result, like an array, has the voxels of like in their order.
    bare = Scores(result.data.drop_vars(["i", "j", "k"]))
    (path,) = save_map(bare, tmp_path / "r.nii.gz", like=brain, layer="h.0")
    np.testing.assert_array_equal(nibabel.load(path).get_fdata()[i, j, k], expected)


def test_a_surface_result_is_drawn_at_its_own_vertices(surface, tmp_path: Path) -> None:
    result = scores(surface)
    straight = save_map(result, tmp_path / "a.mgh", like=surface, layer="h.1")
    turned = save_map(Scores(reversed_voxels(result)), tmp_path / "b.mgh", like=surface, layer="h.1")
    for one, other in zip(straight, turned, strict=True):
        np.testing.assert_array_equal(nibabel.load(one).get_fdata(), nibabel.load(other).get_fdata())


def test_subjects_belong_to_the_places_that_are_drawn(brain, tmp_path: Path) -> None:
    from topobrain.brain_files import side_by_side

    n = brain.data.sizes["voxel"]
    both = side_by_side([BrainResponses(brain.data.assign_coords(subject=("voxel", [s] * n))) for s in ("s1", "s2")])
    result = scores(both)
    expected = result.data["r"].values[0].mean(axis=0)[n:]
    (path,) = save_map(Scores(reversed_voxels(result)), tmp_path / "r.nii", like=both, layer="h.0", subject="s2")
    i, j, k = (brain.data[name].values for name in "ijk")
    np.testing.assert_array_equal(nibabel.load(path).get_fdata()[i, j, k], expected)


def test_a_result_of_other_voxels_than_like_is_refused(brain, surface, tmp_path: Path) -> None:
    result, path = scores(brain), tmp_path / "r.nii.gz"
    moved = BrainResponses(brain.data.assign_coords(k=("voxel", brain.data["k"].values + 1)))
    with pytest.raises(InputError, match=r"have different voxels: \d+ of the result's are not in like=, e\.g\. i \d"):
        save_map(result, path, like=moved, layer="h.0")
    grid = {k: brain.data.attrs[k] for k in ("affine", "shape")}
    affine = grid["affine"].copy()
    affine[3] += 2
    other = Scores(result.data.assign_attrs({**grid, "affine": affine}))
    with pytest.raises(InputError, match="lie on different grids: affine is"):
        save_map(other, path, like=brain, layer="h.0")
    vertices = {"hemisphere": ("voxel", ["left"] * brain.data.sizes["voxel"])}
    there = brain.data.drop_vars(["i", "j", "k"]).assign_coords(
        **vertices, vertex=("voxel", brain.data["voxel"].values)
    )
    with pytest.raises(InputError, match="voxels have i, j, k, those of like= hemisphere, vertex"):
        save_map(result, path, like=BrainResponses(there), layer="h.0")


def test_a_voxel_unknown_in_one_fold_is_unknown_in_the_image(brain, tmp_path: Path) -> None:
    result = scores(brain)
    result.data["r"].values[0, 1, 2] = np.nan
    (path,) = save_map(result, tmp_path / "r.nii.gz", like=brain, layer="h.0")
    i, j, k = (brain.data[name].values for name in "ijk")
    drawn = nibabel.load(path).get_fdata()[i, j, k]
    assert np.flatnonzero(np.isnan(drawn)).tolist() == [2]


@pytest.mark.parametrize("dtype", [complex, str, object])
def test_what_is_no_real_number_is_not_drawn(brain, tmp_path: Path, dtype) -> None:
    with pytest.raises(InputError, match=r"values are an array of .*: expected real numbers"):
        save_map(brain.values[0].astype(dtype), tmp_path / "r.nii.gz", like=brain)
    result = scores(brain)
    result.data["q"] = ("voxel", brain.values[0].astype(dtype))
    with pytest.raises(InputError, match=r"variable 'q' holds .*: expected real numbers"):
        save_map(result, tmp_path / "r.nii.gz", like=brain, variable="q")
