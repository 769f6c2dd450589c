import numpy as np
import pytest
from scipy.stats import kstest, pearsonr

from topobrain import stats
from topobrain._checks import InputError, UnknownNameError


def planted(n, rho, n_voxels, rng):
    target = rng.standard_normal((n, n_voxels))
    return rho * target + np.sqrt(1 - rho**2) * rng.standard_normal((n, n_voxels)), target


def mean_r(prediction, target, folds, orders=None):
    """Mean over folds and voxels of Pearson r, with the target rows of each fold taken in a given order."""
    scores = []
    for number, (_, test) in enumerate(folds):
        rows = np.arange(len(test)) if orders is None else orders[number]
        scores += [np.corrcoef(p, y)[0, 1] for p, y in zip(prediction[test].T, target[test][rows].T, strict=True)]
    return np.mean(scores)


@pytest.fixture
def small():
    rng = np.random.default_rng(0)
    return *planted(21, 0.4, 4, rng), stats.make_folds(range(21), 3), np.array([0, 1, 0, 1])


def test_bootstrap_equals_a_slow_loop(small):
    prediction, target, folds, roi = small
    draws = stats.bootstrap_correlation(prediction, target + 1e4, folds, roi, n_bootstrap=6, seed=5)
    rng = np.random.default_rng(5)
    counts = [rng.multinomial(7, np.full(7, 1 / 7), size=6) for _ in folds]
    for draw in range(6):
        r = np.zeros(4)
        for (_, test), count in zip(folds, counts, strict=True):
            rows = np.repeat(test, count[draw])
            r += [pearsonr(prediction[rows, v], target[rows, v])[0] / 3 for v in range(4)]
        assert draws[draw] == pytest.approx([r[[0, 2]].mean(), r[[1, 3]].mean()], rel=1e-6)


def test_bootstrap_interval_covers_the_truth_at_about_the_nominal_rate():
    rng = np.random.default_rng(0)
    folds, roi = stats.make_folds(range(80), 2), np.zeros(3, dtype=int)
    covered = 0
    for seed in range(300):
        draws = stats.bootstrap_correlation(*planted(80, 0.5, 3, rng), folds, roi, n_bootstrap=300, seed=seed)
        low, high = np.quantile(draws, [0.025, 0.975])
        covered += low <= 0.5 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_bootstrap_draws_blocks_together():
    rng = np.random.default_rng(0)
    prediction, target = (np.repeat(a, 9, axis=0) for a in planted(60, 0.5, 1, rng))
    folds = stats.make_folds(np.repeat(np.arange(60), 9), 2)
    roi = np.zeros(1, dtype=int)
    alone = stats.bootstrap_correlation(prediction, target, folds, roi).std()
    blocks = stats.bootstrap_correlation(prediction, target, folds, roi, blocks=np.repeat(np.arange(60), 9)).std()
    assert blocks / alone == pytest.approx(3, rel=0.15)


def test_a_constant_prediction_scores_zero_in_every_draw():
    rng = np.random.default_rng(0)
    target = rng.standard_normal((30, 5))
    folds, roi = stats.make_folds(range(30), 3), np.zeros(5, dtype=int)
    prediction = np.full((30, 5), 0.1) + 1 / 3
    assert (stats.bootstrap_correlation(prediction, target, folds, roi, n_bootstrap=20) == 0).all()
    assert (stats.permutation_null(prediction, target, folds, roi, n_permutations=20) == 0).all()


def test_draws_of_one_stimulus_only_score_zero():
    folds, roi = stats.make_folds(range(6), 2), np.zeros(1, dtype=int)
    for seed in range(40):
        prediction, target = planted(6, 0.5, 1, np.random.default_rng(seed))
        draws = stats.bootstrap_correlation(7 * prediction, target, folds, roi, n_bootstrap=400, seed=seed)
        rng = np.random.default_rng(seed)
        counts = [rng.multinomial(3, np.full(3, 1 / 3), size=400) for _ in folds]
        single = (counts[0].max(axis=1) == 3) & (counts[1].max(axis=1) == 3)
        assert (draws[single] == 0).all()


@pytest.mark.parametrize("scheme", ["stimuli", "circular"])
def test_permutation_null_equals_a_slow_loop(small, scheme):
    prediction, target, folds, roi = small
    null = stats.permutation_null(prediction, target, folds, roi, n_permutations=6, scheme=scheme, seed=5)
    rng = np.random.default_rng(5)
    orders = [
        rng.permuted(np.tile(np.arange(7), (6, 1)), axis=1)
        if scheme == "stimuli"
        else (np.arange(7) + rng.integers(1, 7, size=(6, 1))) % 7
        for _ in folds
    ]
    for draw in range(6):
        order = [one[draw] for one in orders]
        for region in (0, 1):
            inside = roi == region
            expected = mean_r(prediction[:, inside], target[:, inside], folds, order)
            assert null[draw, region] == pytest.approx(expected, abs=1e-12)


def test_permutation_null_of_a_signal_is_centred_at_zero():
    prediction, target = planted(100, 0.9, 20, np.random.default_rng(0))
    null = stats.permutation_null(prediction, target, stats.make_folds(range(100), 5), np.zeros(20, dtype=int))
    assert abs(null.mean()) < 0.01
    assert null.max() < 0.5


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_p_is_uniform_without_a_signal_also_when_voxels_share_their_noise(shared):
    rng = np.random.default_rng(0)
    folds, roi, p = stats.make_folds(range(40), 4), np.zeros(5, dtype=int), []
    for seed in range(300):
        prediction, target = planted(40, 0.0, 5, rng)
        target = (1 - shared) * target + shared * target[:, :1]
        prediction = (1 - shared) * prediction + shared * prediction[:, :1]
        null = stats.permutation_null(prediction, target, folds, roi, n_permutations=199, seed=seed)[:, 0]
        p.append((1 + (null >= mean_r(prediction, target, folds)).sum()) / 200)
    assert kstest(p, "uniform").pvalue > 0.01


def test_circular_shifts_keep_the_order():
    rng = np.random.default_rng(0)
    prediction, target = planted(12, 0.5, 2, rng)
    folds = stats.Folds(((np.arange(0), np.arange(12)),), "given")
    null = stats.permutation_null(
        prediction, target, folds, np.zeros(2, dtype=int), n_permutations=500, scheme="circular"
    )
    shifts = [mean_r(prediction, target, folds, [np.roll(np.arange(12), s)]) for s in range(1, 12)]
    assert np.abs(null[:, 0, None] - shifts).min(axis=1).max() < 1e-12
    assert len(np.unique(null.round(9))) == 11


def test_circular_shifts_are_fair_to_slow_series_where_shuffling_is_not():
    rng = np.random.default_rng(0)
    folds, roi = stats.make_folds(range(300), 3), np.zeros(1, dtype=int)
    p = {"stimuli": [], "circular": []}
    for seed in range(120):
        slow = np.apply_along_axis(np.convolve, 0, rng.standard_normal((330, 2)), np.ones(30), "same")[15:315]
        prediction, target = slow[:, :1], slow[:, 1:]
        for scheme, found in p.items():
            null = stats.permutation_null(prediction, target, folds, roi, n_permutations=99, scheme=scheme, seed=seed)
            found.append((1 + (null[:, 0] >= mean_r(prediction, target, folds)).sum()) / 100)
    rate = {scheme: np.mean(np.array(found) < 0.05) for scheme, found in p.items()}
    assert rate["stimuli"] > 0.2
    assert rate["circular"] < 0.12


@pytest.mark.parametrize("resample", [stats.bootstrap_correlation, stats.permutation_null])
def test_unusable_voxels_do_not_count_and_empty_regions_are_nan(small, resample):
    prediction, target, folds, _ = small
    spoiled = target.copy()
    spoiled[3, 1] = np.nan
    roi = np.array([0, 0, 0, 2])
    found = resample(prediction, spoiled, folds, roi, seed=1)
    clean = resample(prediction[:, [0, 2, 3]], target[:, [0, 2, 3]], folds, np.array([0, 0, 1]), seed=1)
    assert np.allclose(found[:, [0, 2]], clean)
    assert np.isnan(found[:, 1]).all()
    all_gone = resample(prediction, np.full_like(target, np.nan), folds, roi)
    assert np.isnan(all_gone).all()


@pytest.mark.parametrize("resample", [stats.bootstrap_correlation, stats.permutation_null])
def test_rows_that_are_never_tested_may_lack_a_prediction(small, resample):
    prediction, target, folds, roi = small
    some = stats.Folds(folds.splits[:2], "given")
    gone = prediction.copy()
    gone[folds.splits[2][1]] = np.nan
    assert np.array_equal(resample(gone, target, some, roi), resample(prediction, target, some, roi))
    assert np.isfinite(resample(gone, target, some, roi)).all()


@pytest.mark.parametrize("resample", [stats.bootstrap_correlation, stats.permutation_null])
def test_a_voxel_constant_in_one_fold_has_no_score_and_does_not_count(small, resample):
    prediction, target, folds, _ = small
    spoiled = target.copy()
    spoiled[folds.splits[1][1], 3] = 0.1
    roi = np.zeros(4, dtype=int)
    found = resample(prediction, spoiled, folds, roi)
    assert np.allclose(found, resample(prediction[:, :3], target[:, :3], folds, roi[:3]))


def test_impossible_requests_are_refused(small):
    with pytest.raises(InputError, match="n_permutations"):
        stats.permutation_null(*small, n_permutations=0)
    with pytest.raises(UnknownNameError, match="circular"):
        stats.permutation_null(*small, scheme="circle")
