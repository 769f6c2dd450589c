import numpy as np
import pytest

from topobrain._checks import InputError, UnknownNameError
from topobrain.results import load_result
from topobrain.stats import morans_i
from topobrain.surface import CorticalMap, Surface
from topobrain.topography import cortical_topography

MESH = Surface.icosphere(3)
RNG = np.random.default_rng(0)
SMOOTH = MESH.smooth(RNG.standard_normal((3, MESH.n_vertices)), 60.0)
SMOOTH /= SMOOTH.std(axis=1, keepdims=True)


def cortical(**values):
    p = {name: np.clip(np.exp(-(one**2)), 1e-12, 1) for name, one in values.items() if name.startswith("t")}
    return CorticalMap("toy", values, "an icosphere", "left", p=p, provenance={"simulated": True})


@pytest.fixture(scope="module")
def found():
    with_wall = SMOOTH.copy()
    with_wall[:, :40] = np.nan  # a medial wall
    other = with_wall[0] + 0.3 * with_wall[1]
    maps = cortical(t=6 * with_wall[0], alike=other, unrelated=with_wall[2])
    return cortical_topography(maps, MESH, against="t", n_null=99, n_nearest=100)


def cell(found, measure, contrast, null):
    beside = found.beside(null).sel(measure=measure, layer="an icosphere left", contrast=contrast)
    return {name: float(beside[name]) for name in ("value", "null_mean", "null_sd", "p", "z")}


@pytest.mark.slow
def test_a_smooth_map_is_clustered_and_the_medial_wall_leaves_the_graph(found):
    said = cell(found, "morans_i", "t", "layout")
    assert said["value"] > 0.7
    assert said["p"] == 0.01
    assert abs(said["null_mean"]) < 0.02
    values = np.where(np.arange(MESH.n_vertices) < 40, np.nan, SMOOTH[0])
    assert said["value"] == pytest.approx(float(morans_i(values, MESH)))


def test_nulls_that_keep_smoothness_say_nothing_against_clustering(found):
    for null in ("spin", "variogram"):
        said = cell(found, "morans_i", "t", null)
        assert said["null_mean"] == pytest.approx(said["value"], abs=0.12)
        assert np.isnan(said["p"])


def test_agreement_is_found_where_it_is_and_not_where_it_is_not(found):
    for null in ("spin", "variogram"):
        assert cell(found, "map_correlation", "alike", null)["p"] <= 0.02
    assert np.isnan(cell(found, "map_correlation", "alike", "layout")["p"])
    plain = found.data.sel(measure="map_correlation", contrast="alike")
    assert float(plain["p"].item()) == cell(found, "map_correlation", "alike", "spin")["p"]
    assert cell(found, "map_correlation", "unrelated", "spin")["p"] > 0.05
    # shuffled vertices know nothing of smoothness: their null is far too narrow
    assert cell(found, "map_correlation", "alike", "layout")["null_sd"] < (
        0.6 * cell(found, "map_correlation", "alike", "spin")["null_sd"]
    )


def test_significant_vertices_are_a_statistic_of_their_own(found):
    table = found.summary()
    rows = table[table["measure"] == "morans_i_significant"]
    assert rows["contrast"].tolist() == ["t"]
    assert rows["null"].tolist() == ["layout"]
    n = found.provenance["topography"]["n_significant"]["t"]
    assert 3 < n < MESH.n_vertices - 40


def test_a_map_is_not_compared_with_itself_and_the_result_survives_a_file(found, tmp_path):
    assert np.isnan(float(found.data["value"].sel(measure="map_correlation", contrast="t").item()))
    again = load_result(found.save(tmp_path / "c.nc"))
    assert again.summary().equals(found.summary())
    assert again.simulated


def test_what_does_not_fit_is_refused():
    maps = cortical(t=SMOOTH[0])
    with pytest.raises(InputError, match="does not vary"):
        cortical_topography(cortical(t=np.ones(MESH.n_vertices)), MESH, n_null=9)
    with pytest.raises(UnknownNameError, match="spin"):
        cortical_topography(maps, MESH, nulls=["spins"])
    with pytest.raises(UnknownNameError, match="map of 'toy'"):
        cortical_topography(maps, MESH, against="tt")
    bare = Surface("flat", MESH.coordinates, MESH.faces)
    with pytest.raises(InputError, match="has none"):
        cortical_topography(maps, bare, nulls=["spin"], n_null=9)
    with pytest.raises(InputError):
        cortical_topography(maps, Surface.icosphere(2), n_null=9)
    with pytest.raises(InputError, match="n_null"):
        cortical_topography(maps, MESH, n_null=1)
