import numpy as np
import pytest
from scipy.stats import pearsonr

from topobrain import stats
from topobrain._checks import InputError
from topobrain.stats import bootstrap, bootstrap_scores
from topobrain.stats.regions import region_means


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


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


@pytest.mark.slow
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


def test_draws_of_one_stimulus_only_score_zero():
    folds, roi = stats.make_folds(range(6), 2), np.zeros(1, dtype=int)
    for seed in range(40):
        prediction, target = planted(6, 0.5, 1, np.random.default_rng(seed))
        draws = stats.bootstrap_correlation(7 * prediction, target, folds, roi, n_bootstrap=400, seed=seed)
        rng = np.random.default_rng(seed)
        counts = [rng.multinomial(3, np.full(3, 1 / 3), size=400) for _ in folds]
        single = (counts[0].max(axis=1) == 3) & (counts[1].max(axis=1) == 3)
        assert (draws[single] == 0).all()


def test_unusable_voxels_do_not_count_and_empty_regions_are_nan(small):
    prediction, target, folds, _ = small
    spoiled = target.copy()
    spoiled[3, 1] = np.nan
    roi = np.array([0, 0, 0, 2])
    found = stats.bootstrap_correlation(prediction, spoiled, folds, roi, seed=1)
    clean = stats.bootstrap_correlation(
        prediction[:, [0, 2, 3]], target[:, [0, 2, 3]], folds, np.array([0, 0, 1]), seed=1
    )
    assert np.allclose(found[:, [0, 2]], clean)
    assert np.isnan(found[:, 1]).all()
    all_gone = stats.bootstrap_correlation(prediction, np.full_like(target, np.nan), folds, roi)
    assert np.isnan(all_gone).all()


def test_rows_that_are_never_tested_may_lack_a_prediction(small):
    prediction, target, folds, roi = small
    some = stats.Folds(folds.splits[:2], "given")
    gone = prediction.copy()
    gone[folds.splits[2][1]] = np.nan
    assert np.array_equal(
        stats.bootstrap_correlation(gone, target, some, roi), stats.bootstrap_correlation(prediction, target, some, roi)
    )
    assert np.isfinite(stats.bootstrap_correlation(gone, target, some, roi)).all()


def test_a_voxel_constant_in_one_fold_has_no_score_and_does_not_count(small):
    prediction, target, folds, _ = small
    spoiled = target.copy()
    spoiled[folds.splits[1][1], 3] = 0.1
    roi = np.zeros(4, dtype=int)
    found = stats.bootstrap_correlation(prediction, spoiled, folds, roi)
    assert np.allclose(found, stats.bootstrap_correlation(prediction[:, :3], target[:, :3], folds, roi[:3]))


def test_bootstrap_sums_of_chunks_add_up_and_average_to_the_correlations():
    prediction, target, folds = noise(120, 7), noise(120, 7, seed=1), stats.make_folds(range(120), 3)
    target[5, 2] = np.nan
    roi = np.array([0, 0, 2, 2, 2, 0, 2])
    whole = bootstrap_scores(prediction, target, folds, roi, n_regions=3, n_bootstrap=40, seed=6)
    parts = [
        bootstrap_scores(prediction[:, part], target[:, part], folds, roi[part], n_regions=3, n_bootstrap=40, seed=6)
        for part in (slice(0, 3), slice(3, 7))
    ]
    assert whole.sums.shape == (3, 3, 40)
    assert whole.n_usable.tolist() == [3, 0, 3]
    assert np.allclose(parts[0].sums + parts[1].sums, whole.sums, atol=1e-5)
    draws = stats.bootstrap_correlation(prediction, target, folds, roi, n_bootstrap=40, seed=6)
    assert np.allclose(region_means(whole.sums, whole.n_usable).mean(axis=0).T, draws, equal_nan=True)


def test_many_stimuli_are_drawn_in_float32_with_the_numbers_of_float64(monkeypatch):
    prediction, target, folds = noise(200, 5) + 1e3, noise(200, 5, seed=1), stats.make_folds(range(200), 4)
    target += 0.3 * prediction
    options = {"n_regions": 5, "n_bootstrap": 200}
    single = bootstrap_scores(prediction, target, folds, np.arange(5), **options).sums
    monkeypatch.setattr(bootstrap, "FLOAT32_BLOCKS", 10_000)
    double = bootstrap_scores(prediction, target, folds, np.arange(5), **options).sums
    assert 0 < np.abs(single - double).max() < 2e-6


def test_draws_of_two_models_are_paired():
    target, folds = noise(150, 4), stats.make_folds(range(150), 5)
    draws = [
        bootstrap_scores(target + 2 * noise(150, 4, seed=s), target, folds, np.zeros(4, int), n_regions=1, seed=9).sums
        for s in (1, 2)
    ]
    same = bootstrap_scores(target + 2 * noise(150, 4, seed=1), target, folds, np.zeros(4, int), n_regions=1, seed=9)
    assert np.array_equal(draws[0], same.sums)
    counts = bootstrap.bootstrap_counts(folds, 150, n_bootstrap=1000, seed=9)
    assert len(counts) == 5
    assert all((count.sum(axis=1) == 30).all() for count in counts)


def test_regions_that_do_not_fit_are_refused():
    Y, folds = noise(20, 4), stats.make_folds(range(20), 4)
    for wrong in (np.zeros(3, int), np.arange(4)):
        with pytest.raises(InputError, match="a region number from 0 to 2"):
            bootstrap_scores(Y, Y, folds, wrong, n_regions=3)
