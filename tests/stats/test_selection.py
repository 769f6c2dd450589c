import itertools

import numpy as np
import pytest

from topobrain import stats
from topobrain._checks import InputError


def test_select_top_is_exact_with_ties():
    score = np.array([1.0, 3, 2, 3, 3, 2, 0])
    for k in range(1, 8):
        mask = stats.select_top(score, k)
        assert mask.sum() == k
        assert score[mask].min() >= score[~mask].max(initial=-np.inf)
    assert np.flatnonzero(stats.select_top(score, 2)).tolist() == [1, 3]
    assert np.flatnonzero(stats.select_top(np.zeros(10), 4)).tolist() == [0, 1, 2, 3]


def test_select_top_by_share_counts_all_units_and_takes_at_least_one():
    score = np.arange(300.0)
    assert np.flatnonzero(stats.select_top(score, 0.01)).tolist() == [297, 298, 299]
    assert stats.select_top(score, 1e-6).sum() == 1


def test_select_top_never_takes_a_unit_without_a_score():
    score = np.array([np.nan, 1.0, np.nan, -5.0])
    assert np.flatnonzero(stats.select_top(score, 2)).tolist() == [1, 3]
    with pytest.raises(InputError, match="2 of 4 units have a score"):
        stats.select_top(score, 3)


@pytest.mark.parametrize("top", [0, -1, 0.0, 1.0, 1.5, True, float("nan")])
def test_select_top_refuses_other_shares(top):
    with pytest.raises(InputError):
        stats.select_top(np.arange(5.0), top)


def test_scores_that_are_not_one_a_unit_are_refused():
    with pytest.raises(InputError, match="one value a unit"):
        stats.select_top(np.zeros((2, 5)), 1)


def scores(ties):
    rng = np.random.default_rng(0)
    return rng.integers(0, 9, 203).astype(float) if ties else rng.standard_normal(203)


@pytest.mark.parametrize("ties", [False, True])
def test_the_highest_band_is_the_top_and_the_lowest_its_opposite(ties):
    score = scores(ties)
    for n in (1, 7, 203):
        assert np.array_equal(stats.select_band(score, 100, 100, n=n), stats.select_top(score, n))
        lowest = stats.select_band(score, 0, 0, n=n)
        assert lowest.sum() == n
        assert score[lowest].max() <= score[~lowest].min(initial=np.inf)
    if not ties:
        assert np.array_equal(stats.select_band(score, 0, 0, n=9), stats.select_top(-score, 9))


@pytest.mark.parametrize("ties", [False, True])
def test_bands_that_touch_share_no_unit_and_miss_none(ties):
    score = scores(ties)
    edges = [0, 12.5, 20, 50, 80, 90, 99, 100]
    bands = [stats.select_band(score, low, high) for low, high in itertools.pairwise(edges)]
    assert (np.sum(bands, axis=0) == 1).all()
    for lower, upper in itertools.pairwise(bands):
        assert score[lower].max() <= score[upper].min()
    for band, width in zip(bands, np.diff(edges), strict=True):
        assert abs(band.sum() - width / 100 * 203) <= 1


def test_a_draw_from_a_band_is_exact_seeded_and_inside():
    score = scores(False)
    band = stats.select_band(score, 80, 90)
    draws = [stats.select_band(score, 80, 90, n=5, seed=seed) for seed in range(20)]
    assert all(draw.sum() == 5 and not (draw & ~band).any() for draw in draws)
    assert np.array_equal(draws[3], stats.select_band(score, 80, 90, n=5, seed=3))
    assert len({draw.tobytes() for draw in draws}) > 15
    assert np.array_equal(np.any(draws, axis=0), band), "every unit of the band can be drawn"
    assert np.array_equal(stats.select_band(score, 80, 90, n=int(band.sum())), band)


def test_the_middle_is_in_the_middle():
    score = np.random.default_rng(0).permutation(101).astype(float)
    assert sorted(score[stats.select_band(score, 50, 50, n=5)]) == [48, 49, 50, 51, 52]


def test_a_band_leaves_out_units_without_a_score():
    score = np.array([np.nan, 4.0, 3.0, np.nan, 2.0, 1.0])
    assert np.flatnonzero(stats.select_band(score, 0, 50)).tolist() == [4, 5]
    assert np.flatnonzero(stats.select_band(score, 0, 0, n=4)).tolist() == [1, 2, 4, 5]
    with pytest.raises(InputError, match="between 1 and 4"):
        stats.select_band(score, 0, 0, n=5)


@pytest.mark.parametrize(
    ("band", "n", "message"),
    [
        ((90, 80), 1, "low <= high"),
        ((-1, 5), 1, "low <= high"),
        ((50, 101), 1, "low <= high"),
        ((float("nan"), 5), 1, "low <= high"),
        ((100, 100), None, "how many units"),
        ((80, 90), 0, "whole number"),
        ((80, 90), 2.0, "whole number"),
        ((80, 90), True, "whole number"),
        ((80, 90), 22, "holds 21 of 203 units with a score: 22 asked for"),
        ((80, 80.01), None, "holds 0 of 203"),
    ],
)
def test_bands_that_cannot_be_are_refused(band, n, message):
    with pytest.raises(InputError, match=message):
        stats.select_band(scores(False), *band, n=n)


@pytest.mark.parametrize("names", [False, True])
def test_a_control_has_as_many_units_in_every_layer_and_none_of_the_mask(names):
    rng = np.random.default_rng(0)
    layers = np.repeat(np.arange(5), [30, 40, 50, 60, 70])
    mask = rng.random(250) < 0.2
    mask[layers == 3] = False
    groups = np.array([f"block.{layer}" for layer in layers]) if names else layers
    controls = [stats.random_like(mask, groups, seed) for seed in range(40)]
    for control in controls:
        assert not (control & mask).any()
        assert np.array_equal(np.bincount(layers[control], minlength=5), np.bincount(layers[mask], minlength=5))
    assert np.array_equal(controls[7], stats.random_like(mask, groups, 7))
    assert np.array_equal(np.any(controls, axis=0), ~mask & (layers != 3)), "every unit outside can be drawn"


def test_a_control_that_cannot_be_is_refused():
    with pytest.raises(InputError, match="'1' has 2 units in the mask and 1 outside"):
        stats.random_like(np.array([True, False, True, False, True]), np.array([0, 0, 1, 1, 1]))
    with pytest.raises(InputError, match="mask of True and False"):
        stats.random_like(np.array([1, 0, 1]), np.zeros(3, dtype=int))
    with pytest.raises(InputError, match="as many groups"):
        stats.random_like(np.array([True, False]), np.zeros(3, dtype=int))
