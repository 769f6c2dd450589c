from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest, spearmanr

from topobrain._checks import InputError, UnknownNameError
from topobrain.stats.map_similarity import map_correlation
from topobrain.stats.surface_nulls import (
    NearestUnits,
    nearest_by_coordinates,
    nearest_by_distance,
    random_rotations,
    spin_correlation,
    spin_permutations,
    spun,
    variogram,
    variogram_surrogates,
)
from topobrain.surface import Surface


@pytest.fixture(scope="module")
def ball() -> Surface:
    return Surface.icosphere(3)


@pytest.fixture(scope="module")
def kernel(ball):
    return ball.smoothing(40.0)


@pytest.fixture(scope="module")
def nearest(ball) -> NearestUnits:
    return nearest_by_distance(ball.distances())


def morans_i(maps: np.ndarray, mesh: Surface) -> np.ndarray:
    """Straight from the definition; none of these maps misses a vertex."""
    z = maps - maps.mean(axis=-1, keepdims=True)
    weights = mesh.neighbours()
    return z.shape[-1] / weights.sum() * ((weights @ z.T).T * z).sum(axis=-1) / (z**2).sum(axis=-1)


def test_random_rotations_turn_and_never_mirror():
    turns = random_rotations(500, seed=1)
    assert np.allclose(turns @ np.moveaxis(turns, 1, 2), np.eye(3), atol=1e-12)
    assert np.allclose(np.linalg.det(turns), 1)
    assert np.array_equal(turns, random_rotations(500, seed=1))
    assert not np.allclose(turns, random_rotations(500, seed=2))


def test_random_rotations_are_uniform():
    turns = random_rotations(4000, seed=0)
    # A uniform rotation takes any axis to a uniform point: its height is uniform, and its angle has density
    # (1 - cos angle) / pi.
    for axis in range(3):
        assert kstest(turns[:, 2, axis], "uniform", args=(-1, 2)).pvalue > 0.01
    angle = np.arccos(np.clip((np.trace(turns, axis1=1, axis2=2) - 1) / 2, -1, 1))
    assert kstest(angle, lambda a: (a - np.sin(a)) / np.pi).pvalue > 0.01


def test_a_spin_takes_the_value_that_now_lies_nearest(ball):
    turns, spins = random_rotations(5, seed=4), spin_permutations(ball.sphere, 5, seed=4)
    for turn, spin in zip(turns, spins, strict=True):
        turned = ball.sphere @ turn.T  # where each vertex, with its value, goes
        gaps = np.linalg.norm(ball.sphere[:, None] - turned[None], axis=2)
        assert np.array_equal(gaps[np.arange(642), spin], gaps.min(axis=1))


def test_spins_move_vertices_rigidly_up_to_the_mesh(ball):
    sphere = ball.sphere
    spin = spin_permutations(sphere, 2, seed=0)[0]
    pairs = np.random.default_rng(0).integers(0, 642, (300, 2))
    before = np.linalg.norm(sphere[pairs[:, 0]] - sphere[pairs[:, 1]], axis=1)
    after = np.linalg.norm(sphere[spin[pairs[:, 0]]] - sphere[spin[pairs[:, 1]]], axis=1)
    assert np.abs(before - after).max() < 2 * ball.edge_lengths.max()


def test_the_other_hemisphere_turns_in_the_mirror(ball):
    flip = np.array([-1.0, 1.0, 1.0])
    left = spin_permutations(ball.sphere, 4, seed=3)
    right = spin_permutations(ball.sphere * flip, 4, seed=3, mirrored=True)
    assert np.array_equal(left, right)
    assert not np.array_equal(left, spin_permutations(ball.sphere, 4, seed=3, mirrored=True))


def test_values_from_the_medial_wall_are_missing(ball):
    wall = ball.coordinates[:, 0] > 70
    whole, spins = spin_permutations(ball.sphere, 20), spin_permutations(ball.sphere, 20, medial_wall=wall)
    assert np.array_equal(spins == -1, wall[whole])
    assert np.array_equal(spins[spins >= 0], whole[spins >= 0])
    turned = spun(np.arange(642.0), spins)
    assert np.array_equal(np.isnan(turned), spins == -1)
    assert np.array_equal(turned[spins >= 0], spins[spins >= 0])
    # the wall covers the same share of the sphere wherever it goes
    assert (spins == -1).mean(axis=1) == pytest.approx(np.full(20, wall.mean()), abs=0.03)


def test_map_correlation_equals_numpy_over_the_vertices_both_have():
    rng = np.random.default_rng(0)
    maps, other = 1e6 + rng.standard_normal((5, 50)), rng.standard_normal(50) - 1e3
    maps[rng.random((5, 50)) < 0.2] = np.nan
    other[:7] = np.nan
    for one, found in zip(maps, map_correlation(other, maps), strict=True):
        both = np.isfinite(one) & np.isfinite(other)
        assert found == pytest.approx(np.corrcoef(one[both], other[both])[0, 1], abs=1e-7)
    maps[0] = 4.0
    maps[1, 9:] = np.nan
    assert np.isnan(map_correlation(other, maps[:2])).all()
    assert np.isnan(map_correlation(np.full(50, 0.1), maps[2:])).all()


def test_spin_correlation_is_that_of_the_turned_maps(ball, kernel):
    rng = np.random.default_rng(0)
    one, other = kernel @ rng.standard_normal((642, 2)) @ np.eye(2)[:, 0], kernel @ rng.standard_normal(642)
    spins = spin_permutations(ball.sphere, 150, medial_wall=ball.coordinates[:, 0] > 70)
    assert np.allclose(spin_correlation(one, other, spins), map_correlation(other, spun(one, spins)))


def test_spins_keep_smoothness_and_shuffles_do_not(ball, kernel):
    one = kernel @ np.random.default_rng(0).standard_normal(642)
    turned = spun(one, spin_permutations(ball.sphere, 40))
    shuffled = np.random.default_rng(1).permuted(np.tile(one, (40, 1)), axis=1)
    assert morans_i(one, ball) > 0.7
    assert np.abs(morans_i(turned, ball) - morans_i(one, ball)).max() < 0.12
    assert np.abs(morans_i(shuffled, ball)).max() < 0.15


@pytest.mark.slow
def test_spins_reject_independent_smooth_maps_as_seldom_as_they_say(ball, kernel):
    rng, spins = np.random.default_rng(0), spin_permutations(ball.sphere, 199, seed=5)
    runs = 200
    spin_p, shuffle_p = np.empty(runs), np.empty(runs)
    for run in range(runs):
        one, other = kernel @ rng.standard_normal(642), kernel @ rng.standard_normal(642)
        r = abs(map_correlation(other, one))
        shuffled = rng.permuted(np.tile(one, (199, 1)), axis=1)
        spin_p[run] = (1 + (np.abs(spin_correlation(one, other, spins)) >= r).sum()) / 200
        shuffle_p[run] = (1 + (np.abs(map_correlation(other, shuffled)) >= r).sum()) / 200
    assert 0.02 <= (spin_p <= 0.05).mean() <= 0.08
    assert kstest(spin_p, "uniform").pvalue > 0.01
    assert (shuffle_p <= 0.05).mean() > 0.3


@pytest.mark.slow
def test_an_agreement_is_found_by_both_nulls(ball, kernel, nearest):
    rng = np.random.default_rng(0)
    shared = kernel @ rng.standard_normal(642)
    one, other = (shared + 0.7 * (kernel @ rng.standard_normal(642)) for _ in range(2))
    r = map_correlation(other, one)
    assert r > 0.4
    assert (spin_correlation(one, other, spin_permutations(ball.sphere, 199)) < r).all()
    assert (map_correlation(other, variogram_surrogates(one, nearest, n_null=199)) < r).all()


@pytest.mark.parametrize("n_nearest", [None, 20])
def test_nearest_units_are_sorted_and_begin_with_the_unit(ball, n_nearest):
    found = nearest_by_distance(ball.distances(), n_nearest)
    assert found.units.shape == (642, n_nearest or 642)
    assert np.array_equal(found.units[:, 0], np.arange(642))
    assert (np.diff(found.distance, axis=1) >= 0).all()


def test_two_units_at_one_place_each_come_first_for_themselves():
    found = nearest_by_distance(np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]))
    assert found.units.tolist() == [[0, 1, 2], [1, 0, 2], [2, 0, 1]]


def test_nearest_by_coordinates_equals_by_distance():
    places = np.random.default_rng(0).standard_normal((80, 3))
    every = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(every, 0)
    ours, theirs = nearest_by_coordinates(places, 15), nearest_by_distance(every, 15)
    assert np.array_equal(ours.units, theirs.units)
    assert np.allclose(ours.distance, theirs.distance)


def test_a_variogram_is_half_the_mean_squared_difference_by_distance():
    # On a line of equal steps a slope of 1 differs by d at distance d: gamma = d^2 / 2.
    place = np.arange(40.0)
    nearest = nearest_by_distance(np.abs(place[:, None] - place[None]))
    found = variogram(np.stack([place, 3 * place]), nearest, max_distance=24.0)
    expected = found.distance**2 / 2
    assert found.distance[[0, -1]].tolist() == [1.0, 24.0]
    inner = slice(3, -3)  # at its ends a bin sees distances on one side only
    # A Gaussian window of sd s over whole steps raises the mean of d^2 by s^2; pairs at d number 40 - d.
    assert np.allclose(found.value[0, inner], expected[inner], rtol=0.15)
    assert np.allclose(found.value[1], 9 * found.value[0])


def test_a_variogram_of_white_noise_is_flat_at_its_variance(nearest):
    noise = 2 * np.random.default_rng(0).standard_normal((20, 642))
    assert variogram(noise, nearest).value.mean(axis=0) == pytest.approx(np.full(25, 4.0), rel=0.05)


def test_a_variogram_of_sampled_pairs_is_that_of_all(monkeypatch, nearest, kernel):
    one = kernel @ np.random.default_rng(0).standard_normal(642)
    whole = variogram(one, nearest, max_distance=80.0)
    monkeypatch.setattr("topobrain.stats.surface_nulls.MAX_PAIRS", 10_000)
    monkeypatch.setattr("topobrain.stats.surface_nulls.MAX_ROWS", 400)
    assert np.allclose(variogram(one, nearest, max_distance=80.0).value, whole.value, rtol=0.15)


@pytest.mark.parametrize("fwhm", [0.0, 20.0, 40.0, 80.0])
@pytest.mark.slow
def test_surrogates_have_the_variogram_of_their_target(ball, nearest, fwhm):
    one = ball.smoothing(fwhm) @ np.random.default_rng(3).standard_normal(642)
    found = variogram_surrogates(one, nearest, n_null=60, seed=1)
    target, made = variogram(one, nearest).value, variogram(found, nearest).value
    assert np.sqrt(((made - target) ** 2).mean(axis=1)).mean() < 0.1 * target.mean()
    assert np.abs(morans_i(found, ball).mean() - morans_i(one, ball)) < 0.1
    assert np.abs(map_correlation(one, found)).mean() < 0.3  # new maps, not copies
    shuffled = np.random.default_rng(1).permuted(np.tile(one, (60, 1)), axis=1)
    apart = np.sqrt(((variogram(shuffled, nearest).value - target) ** 2).mean(axis=1)).mean()
    assert apart > 0.3 * target.mean() or fwhm < 40


def test_surrogates_are_seeded_and_bounded_in_blocks(monkeypatch, nearest, kernel):
    one = kernel @ np.random.default_rng(0).standard_normal(642)
    found = variogram_surrogates(one, nearest, n_null=5, seed=2)
    assert np.array_equal(found, variogram_surrogates(one, nearest, n_null=5, seed=2))
    assert not np.allclose(found, variogram_surrogates(one, nearest, n_null=5, seed=3))
    assert len(np.unique(found[:, 0])) == 5
    monkeypatch.setattr("topobrain.stats.surface_nulls._BLOCK", 2)
    assert variogram_surrogates(one, nearest, n_null=5).shape == (5, 642)


def test_rank_matched_surrogates_have_the_values_of_the_target(nearest, kernel):
    one = np.exp(kernel @ np.random.default_rng(0).standard_normal(642))
    plain = variogram_surrogates(one, nearest, n_null=4, seed=2)
    matched = variogram_surrogates(one, nearest, n_null=4, seed=2, rank_match=True)
    assert np.array_equal(np.sort(matched, axis=1), np.tile(np.sort(one), (4, 1)))
    assert all(spearmanr(a, b).statistic == pytest.approx(1.0) for a, b in zip(plain, matched, strict=True))


@pytest.mark.parametrize("kind", ["gaussian", "uniform"])
def test_other_kernels_fit_too_and_differ(nearest, kernel, kind):
    one = kernel @ np.random.default_rng(0).standard_normal(642)
    found = variogram_surrogates(one, nearest, n_null=30, kernel=kind)
    target, made = variogram(one, nearest).value, variogram(found, nearest).value
    assert np.sqrt(((made - target) ** 2).mean(axis=1)).mean() < 0.12 * target.mean()
    assert not np.allclose(found, variogram_surrogates(one, nearest, n_null=30))


def test_missing_units_stay_missing_and_reach_no_other(nearest, kernel):
    one = kernel @ np.random.default_rng(0).standard_normal(642)
    holes = np.arange(642) % 5 == 0
    found = variogram_surrogates(np.where(holes, np.nan, one), nearest, n_null=3, seed=1)
    assert np.array_equal(np.isnan(found), np.tile(holes, (3, 1)))
    assert np.isfinite(variogram(found, nearest).value).all()
    shifted = variogram_surrogates(np.where(holes, np.nan, one + 1000), nearest, n_null=3, seed=1)
    # if zeros stood in for the missing, a shift of the map would pull its surrogates apart
    assert np.nanstd(shifted, axis=1) == pytest.approx(np.nanstd(found, axis=1), rel=1e-4)


def test_neighbours_far_fewer_than_units_are_enough(ball, kernel):
    one = kernel @ np.random.default_rng(0).standard_normal(642)
    near = ball.nearest(100)
    found = variogram_surrogates(one, near, n_null=30)
    target, made = variogram(one, near).value, variogram(found, near).value
    assert np.sqrt(((made - target) ** 2).mean(axis=1)).mean() < 0.1 * target.mean()


def test_bad_input_to_spins_is_told(ball):
    with pytest.raises(InputError, match="no sphere about the origin"):
        spin_permutations(ball.sphere + 30, 5)
    with pytest.raises(InputError, match="n_null"):
        spin_permutations(ball.sphere, 1)
    with pytest.raises(InputError, match="vertex, 3"):
        spin_permutations(ball.sphere[:, :2], 5)
    with pytest.raises(InputError, match="medial_wall"):
        spin_permutations(ball.sphere, 5, medial_wall=np.zeros(642))
    with pytest.raises(InputError, match="do not fit"):
        spun(np.zeros(641), spin_permutations(ball.sphere, 2))
    with pytest.raises(InputError, match="one value for each of 4 units"):
        map_correlation(np.zeros(4), np.zeros((2, 5)))


def test_bad_input_to_surrogates_is_told(nearest, kernel):
    one = kernel @ np.random.default_rng(0).standard_normal(642)
    with pytest.raises(InputError, match="are of 642 units"):
        variogram_surrogates(one[:600], nearest)
    with pytest.raises(InputError, match="all of them the same"):
        variogram_surrogates(np.ones(642), nearest)
    with pytest.raises(InputError, match="shares"):
        variogram_surrogates(one, nearest, shares=(0.5, 1.5))
    with pytest.raises(InputError, match="n_null"):
        variogram_surrogates(one, nearest, n_null=1)
    with pytest.raises(InputError, match="one map"):
        variogram_surrogates(np.stack([one, one]), nearest)
    with pytest.raises(InputError, match="too few"):
        variogram_surrogates(one, nearest, max_distance=1e-3)
    with pytest.raises(UnknownNameError, match="kernel"):
        variogram_surrogates(one, nearest, kernel="gauss")
    with pytest.raises(InputError, match="unit itself"):
        variogram(one, NearestUnits(nearest.units[:, ::-1], nearest.distance[:, ::-1]))
    with pytest.raises(InputError, match="one at a time"):
        variogram(np.stack([one, np.where(np.arange(642) == 3, np.nan, one)]), nearest)
    with pytest.raises(InputError, match="square matrix"):
        nearest_by_distance(np.ones((3, 3)))
    with pytest.raises(InputError, match="n_nearest"):
        nearest_by_coordinates(np.eye(3), 4)
