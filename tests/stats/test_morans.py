import warnings

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.stats import kstest

from topobrain import stats
from topobrain._checks import InputError, UnknownNameError
from topobrain.sheet import Sheet
from topobrain.surface import Surface


def white(d, n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d))


def smooth_on_torus(values, side, sigma):
    """Multiply the two-dimensional spectrum by exp(-sigma^2 w^2 / 2), w in radians a grid step."""
    w = 2 * np.pi * np.fft.fftfreq(side)
    gain = np.exp(-(sigma**2) * (w[:, None] ** 2 + w[None, :] ** 2) / 2)
    images = values.reshape(-1, side, side)
    return np.fft.ifft2(np.fft.fft2(images) * gain).real.reshape(values.shape)


@pytest.fixture
def esda():
    """Build libpysal's weights and esda's index: ``esda(values, sheet, neighbours, reach, transformation)``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from esda import Moran
        from libpysal.weights import DistanceBand, lat2W, w_subset

    def index(values, sheet, neighbours, reach, transformation):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # units without neighbours
            keep = np.flatnonzero(np.isfinite(values))
            if neighbours == "distance":
                places = np.stack([sheet.x, sheet.y], axis=1)[keep]
                weights = DistanceBand(places, reach * (1 + 1e-9), binary=False, alpha=-1.0)
            else:
                weights = w_subset(lat2W(sheet.height, sheet.width, rook=neighbours == "rook"), keep.tolist())
            return Moran(values[keep], weights, transformation=transformation, permutations=0).I

    return index


@pytest.mark.parametrize("transformation", ["B", "R"])
@pytest.mark.parametrize("missing", [(), (0, 9, 30, 31, 8)])
@pytest.mark.parametrize("shape", [(28, 28), (5, 9)])
@pytest.mark.parametrize(("neighbours", "reach"), [("queen", None), ("rook", None), ("distance", 2.5)])
@pytest.mark.slow
def test_morans_i_equals_esda(esda, neighbours, reach, shape, missing, transformation):
    if neighbours == "distance" and transformation == "B":
        transformation = "O"  # the weights as they are; B would make them 0 and 1
    sheet, maps = Sheet.grid(*shape, spacing=0.7), white(shape[0] * shape[1], 3) + 100
    maps[:, list(missing)] = np.nan
    reach = reach and reach * 0.7
    expected = [esda(one, sheet, neighbours, reach, transformation) for one in maps]
    options = {"neighbours": neighbours, "reach": reach, "row_standardised": transformation == "R"}
    found = stats.morans_i(maps, sheet, **options)
    assert np.allclose(found, expected, rtol=0, atol=1e-12)
    assert stats.morans_i(maps[0], sheet, **options) == pytest.approx(found[0], abs=1e-13)


def dense_index(values, weights):
    z = values - values.mean()
    return len(z) / weights.sum() * (z @ weights @ z) / (z @ z)


def test_weights_of_ones_own_equal_a_dense_product():
    rng, sheet = np.random.default_rng(1), Sheet.grid(5, 6)
    weights = rng.random((30, 30)) * (rng.random((30, 30)) < 0.3)  # neither symmetric nor free of a diagonal
    maps = white(30, 2)
    expected = [dense_index(one, weights) for one in maps]
    assert np.allclose(stats.morans_i(maps, sheet, weights=weights), expected, rtol=0, atol=1e-12)
    assert np.allclose(stats.morans_i(maps, sheet, weights=coo_array(weights)), expected, rtol=0, atol=1e-12)
    rows = weights / weights.sum(axis=1, keepdims=True)
    found = stats.morans_i(maps[0], sheet, weights=weights, row_standardised=True)
    assert found == pytest.approx(dense_index(maps[0], rows), abs=1e-12)
    assert stats.morans_i(maps[0], sheet, weights=weights) != pytest.approx(found, abs=1e-3)
    null = stats.layout_null(maps[0], sheet, weights=weights, n_null=20)
    orders = stats.product_permutations(30, 20).orders()
    assert np.allclose(null, [dense_index(maps[0][order], weights) for order in orders], rtol=0, atol=1e-12)


def test_a_mesh_counts_the_edges_of_its_faces():
    mesh = Surface.icosphere(2)
    edges = np.zeros((mesh.n_units, mesh.n_units))
    for face in mesh.faces:
        for a in face:
            for b in face:
                edges[a, b] = a != b
    values = white(mesh.n_units, 1)[0]
    assert stats.morans_i(values, mesh) == pytest.approx(dense_index(values, edges), abs=1e-12)
    wall = np.arange(mesh.n_units) < 40  # a medial wall has no values
    keep = ~wall
    found = stats.morans_i(np.where(wall, np.nan, values), mesh)
    assert found == pytest.approx(dense_index(values[keep], edges[np.ix_(keep, keep)]), abs=1e-12)
    with pytest.raises(InputError, match="mesh"):
        stats.morans_i(values, mesh, neighbours="rook")
    smooth = mesh.coordinates @ [1.0, 0.3, -0.2]
    assert stats.morans_i_test(smooth, mesh, n_null=99).p == 0.01


def test_contradicting_options_are_refused():
    sheet, values = Sheet.grid(3, 3), np.arange(9.0)
    with pytest.raises(InputError, match="not both"):
        stats.morans_i(values, sheet, neighbours="queen", weights=np.ones((9, 9)))
    with pytest.raises(InputError, match="needs reach"):
        stats.morans_i(values, sheet, neighbours="distance")
    with pytest.raises(InputError, match="goes with"):
        stats.morans_i(values, sheet, reach=2.0)
    with pytest.raises(InputError, match="each of 9 units"):
        stats.morans_i(values, sheet, weights=np.ones((8, 8)))
    with pytest.raises(InputError, match="not negative"):
        stats.morans_i(values, sheet, weights=-np.ones((9, 9)))
    with pytest.raises(InputError, match="infinite"):
        stats.morans_i(np.where(values == 3, np.inf, values), sheet)
    with pytest.raises(UnknownNameError, match="rook"):
        stats.morans_i(values, sheet, neighbours="rok")


def test_maps_with_different_holes_are_each_scored_alone():
    sheet, maps = Sheet.grid(6, 6), white(36, 3)
    maps[0, 3], maps[2, 20:] = np.nan, np.nan
    assert np.allclose(stats.morans_i(maps, sheet), [stats.morans_i(one, sheet) for one in maps])


def test_places_beyond_the_units_of_a_padded_sheet_do_not_count():
    values = white(11, 1)[0]
    full = np.append(values, np.nan)
    assert stats.morans_i(values, Sheet.for_width(11)) == pytest.approx(stats.morans_i(full, Sheet.grid(3, 4)))


def test_morans_i_on_a_torus_equals_array_shifts_and_ignores_shifts():
    sheet, image = Sheet.grid(8, 9, wrapped=True), white(72, 1)[0].reshape(8, 9)
    z = image - image.mean()
    steps = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    expected = sum((z * np.roll(z, step, (0, 1))).sum() for step in steps) / 8 / (z**2).sum()
    for shift in ((0, 0), (3, 0), (5, 7)):
        assert stats.morans_i(np.roll(image, shift, (0, 1)).ravel(), sheet) == pytest.approx(expected, abs=1e-14)


def test_morans_i_ignores_scale_and_offset():
    sheet, values = Sheet.grid(7, 7), white(49, 1)[0]
    assert stats.morans_i(-1e-6 * values + 50, sheet) == pytest.approx(stats.morans_i(values, sheet), rel=1e-6)


def test_white_noise_has_the_expected_mean_and_spread():
    found = stats.morans_i(white(784, 300), Sheet.grid(28, 28))
    assert found.mean() == pytest.approx(-1 / 783, abs=0.004)
    assert found.std() == pytest.approx(0.019, abs=0.003)


def test_maps_without_an_index_are_refused():
    sheet = Sheet.grid(4, 4)
    with pytest.raises(InputError, match="constant"):
        stats.morans_i(np.full(16, 0.1), sheet)
    with pytest.raises(InputError, match="constant"):
        stats.morans_i(np.stack([np.arange(16.0), np.full(16, 1e9 + 0.1)]), sheet)
    with pytest.raises(InputError, match="three units"):
        stats.morans_i(np.r_[1.0, 2.0, np.full(14, np.nan)], sheet)
    with pytest.raises(InputError, match="neighbours"):
        stats.morans_i(np.where(np.isin(np.arange(16), [0, 2, 8, 10]), np.arange(16.0), np.nan), sheet)
    with pytest.raises(InputError, match="each of 16 units"):
        stats.morans_i(np.zeros(15), sheet)
    with pytest.raises(InputError, match=r"Sheet\.for_width"):
        stats.morans_i(np.arange(16.0), Sheet.none(16))


def test_layout_null_is_the_index_of_noise_and_follows_the_seed():
    sheet = Sheet.grid(28, 28)
    values = smooth_on_torus(white(784, 1), 28, 2.0)[0]
    null = stats.layout_null(values, sheet, n_null=300, seed=1)
    assert stats.morans_i(values, sheet) > 0.8
    assert null.mean() == pytest.approx(-1 / 783, abs=0.004)
    assert null.std() == pytest.approx(0.019, abs=0.003)
    assert np.array_equal(null, stats.layout_null(values, sheet, n_null=300, seed=1))
    assert not np.array_equal(null, stats.layout_null(values, sheet, n_null=300, seed=2))


def test_layout_null_leaves_missing_units_where_they_are():
    sheet, values = Sheet.grid(4, 4), np.arange(16.0)
    values[[0, 1, 2, 3, 4]] = np.nan
    null = stats.layout_null(values, sheet, n_null=50)
    slow = []
    for order in stats.product_permutations(11, 50).orders():
        shuffled = values.copy()
        shuffled[5:] = values[5:][order]
        slow.append(stats.morans_i(shuffled, sheet))
    assert np.allclose(null, slow, rtol=0, atol=1e-6)  # draws on a full grid are float32


@pytest.mark.parametrize(
    ("sheet", "weighting"),
    [
        (Sheet.grid(9, 12), {}),  # by shifts
        (Sheet.grid(9, 12, wrapped=True), {"neighbours": "rook"}),
        (Sheet.grid(9, 12), {"neighbours": "distance", "reach": 2.0}),
        (Sheet.grid(9, 12), {"row_standardised": True}),
        (Sheet.grid(9, 13).with_places(np.random.default_rng(5).permutation(117)), {}),
        (Sheet(108, 10, 12), {}),  # the last cells are holes
        (Sheet.grid(1, 108), {}),
    ],
)
def test_layout_null_is_morans_i_of_the_permuted_map(sheet, weighting):
    values = white(sheet.n_units, 1)[0] + 10
    drawn = stats.product_permutations(sheet.n_units, 40, seed=2)
    expected = stats.morans_i(values[drawn.orders()], sheet, **weighting)
    for orders in (None, drawn, drawn.orders()):
        found = stats.layout_null(values, sheet, n_null=40, seed=2, orders=orders, **weighting)
        assert np.allclose(found, expected, rtol=0, atol=1e-6)  # draws on a full grid are float32


def test_maps_that_have_the_same_units_share_their_permutations():
    sheet, maps = Sheet.grid(7, 7), white(49, 3)
    maps[2, :5] = np.nan
    found = stats.layout_null(maps, sheet, n_null=20, seed=3)
    assert found.shape == (3, 20)
    for null, one in zip(found, maps, strict=True):
        assert np.array_equal(null, stats.layout_null(one, sheet, n_null=20, seed=3))
    shared = stats.layout_null(np.stack([maps[0], -2 * maps[0]]), sheet, n_null=20)
    assert np.allclose(shared[0], shared[1])


def test_orders_that_are_no_permutations_of_the_units_are_refused():
    sheet, values = Sheet.grid(3, 3), np.arange(9.0)
    with pytest.raises(InputError, match="each of 0 to 8 once"):
        stats.layout_null(values, sheet, orders=np.zeros((5, 9), dtype=int))
    for orders in (np.tile(np.arange(8), (5, 1)), np.ones((5, 9)), stats.product_permutations(8, 5)):
        with pytest.raises(InputError, match="9 units with a value"):
            stats.layout_null(values, sheet, orders=orders)
    drawn = stats.product_permutations(9, 5)
    with pytest.raises(InputError, match="identity"):
        stats.layout_null(values, sheet, orders=drawn._replace(second=drawn.second[::-1]))
    values[0] = np.nan
    assert stats.layout_null(values, sheet, orders=stats.product_permutations(8, 5)).shape == (5,)


def test_the_test_sets_the_value_beside_its_null():
    sheet, values = Sheet.grid(8, 8), white(64, 1)[0]
    values[3] = np.nan
    for options in ({}, {"neighbours": "distance", "reach": 1.5}):
        found = stats.morans_i_test(values, sheet, n_null=60, seed=4, alternative="less", **options)
        null = stats.layout_null(values, sheet, n_null=60, seed=4, **options)
        expected = stats.compare_with_null(stats.morans_i(values, sheet, **options), null, alternative="less")
        assert np.allclose(found, expected, rtol=0, atol=1e-6)  # draws on a full grid are float32
    with pytest.raises(InputError, match="one map"):
        stats.morans_i_test(values[None], sheet)


@pytest.mark.parametrize("n_null", [99, 70])  # a full table of products, and one with draws left out
@pytest.mark.slow
def test_layout_p_is_uniform_for_unstructured_maps(n_null):
    sheet = Sheet.grid(8, 8)
    p = [stats.morans_i_test(one, sheet, n_null=n_null, seed=seed).p for seed, one in enumerate(white(64, 400, n_null))]
    assert kstest(p, "uniform").pvalue > 0.01
