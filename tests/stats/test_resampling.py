import numpy as np
import pytest
from scipy.stats import pearsonr

from topobrain import stats
from topobrain._checks import InputError
from topobrain.stats.resampling import permuted_rows


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


@pytest.fixture
def fitted():
    """Features, responses of three voxels in two regions, folds and penalties."""
    rng = np.random.default_rng(3)
    X, Y = rng.standard_normal((20, 4)), rng.standard_normal((20, 3))
    folds = stats.make_folds(range(20), 4)
    return X, Y, folds, np.array([[0.5, 5.0, 5.0]] * 4), np.array([0, 0, 1])


@pytest.mark.parametrize("scheme", ["stimuli", "circular"])
@pytest.mark.parametrize("standardize", [False, True])
def test_permutation_null_equals_refitting_with_scikit_learn(fitted, scheme, standardize):
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    X, Y, folds, alpha, roi = fitted
    null = stats.permutation_null(
        X, Y, folds, alpha, roi, standardize=standardize, n_permutations=5, scheme=scheme, seed=5
    )
    rng = np.random.default_rng(5)
    if scheme == "stimuli":
        orders = rng.permuted(np.tile(np.arange(20), (5, 1)), axis=1)
    else:
        orders = (np.arange(20) + rng.integers(0, 20, size=(5, 1))) % 20
    for order, found in zip(orders, null, strict=True):
        r = np.zeros((4, 3))
        for k, (train, test) in enumerate(folds):
            scaler = StandardScaler(with_std=standardize).fit(X[train])
            for v in range(3):
                y = Y[order, v]
                fit = Ridge(alpha=alpha[k, v]).fit(scaler.transform(X[train]), y[train])
                r[k, v] = np.corrcoef(fit.predict(scaler.transform(X[test])), y[test])[0, 1]
        assert np.allclose(found, [r.mean(axis=0)[:2].mean(), r.mean(axis=0)[2]], atol=1e-5)


def test_more_permutations_than_fit_in_memory_at_once_change_nothing(fitted, monkeypatch):
    whole = stats.permutation_null(*fitted, n_permutations=9)
    monkeypatch.setattr("topobrain.stats.resampling.PRODUCT_VALUES", 120)
    assert np.allclose(stats.permutation_null(*fitted, n_permutations=9), whole, atol=1e-6)


def test_permutation_null_of_a_signal_is_centred_near_zero():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((100, 5))
    Y = X @ rng.standard_normal((5, 20))
    null = stats.permutation_null(X, Y, stats.make_folds(range(100), 5), np.ones((5, 20)), np.zeros(20, dtype=int))
    assert abs(null.mean()) < 0.05
    assert null.max() < 0.5


def test_circular_shifts_keep_the_order():
    X = np.sin(np.arange(40) / 3)[:, None]
    folds, alpha, roi = stats.make_folds(range(40), 2), np.full((2, 1), 1e-6), np.zeros(1, dtype=int)
    slow = np.repeat(np.arange(4.0), 10)[:, None]
    shifted = stats.permutation_null(X, slow, folds, alpha, roi, n_permutations=300, scheme="circular")
    assert len(np.unique(shifted.round(5))) <= 40  # as many as there are shifts
    shuffled = stats.permutation_null(X, slow, folds, alpha, roi, n_permutations=300, scheme="stimuli")
    assert len(np.unique(shuffled.round(5))) > 100


def test_the_true_order_is_one_of_the_shifts():
    orders = permuted_rows(7, 400, "circular", seed=0)
    assert sorted(set(orders[:, 0].tolist())) == list(range(7))
    assert (np.diff(orders, axis=1) % 7 == 1).all()


@pytest.mark.parametrize("unknown", [np.nan, "alpha"])
def test_voxels_without_a_fit_do_not_count_and_empty_regions_are_nan(fitted, unknown):
    X, Y, folds, alpha, roi = fitted
    alone = stats.permutation_null(X, Y[:, :1], folds, alpha[:, :1], roi[:1], n_permutations=7)
    Y, alpha = Y.copy(), alpha.copy()
    if unknown == "alpha":
        alpha[:, 1:] = np.nan
    else:
        Y[3, 1:] = np.nan
    null = stats.permutation_null(X, Y, folds, alpha, roi, n_permutations=7)
    assert np.allclose(null[:, 0], alone[:, 0], atol=1e-6)
    assert np.isnan(null[:, 1]).all()


@pytest.mark.parametrize("resample", [stats.bootstrap_correlation])
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


@pytest.mark.parametrize("resample", [stats.bootstrap_correlation])
def test_rows_that_are_never_tested_may_lack_a_prediction(small, resample):
    prediction, target, folds, roi = small
    some = stats.Folds(folds.splits[:2], "given")
    gone = prediction.copy()
    gone[folds.splits[2][1]] = np.nan
    assert np.array_equal(resample(gone, target, some, roi), resample(prediction, target, some, roi))
    assert np.isfinite(resample(gone, target, some, roi)).all()


@pytest.mark.parametrize("resample", [stats.bootstrap_correlation])
def test_a_voxel_constant_in_one_fold_has_no_score_and_does_not_count(small, resample):
    prediction, target, folds, _ = small
    spoiled = target.copy()
    spoiled[folds.splits[1][1], 3] = 0.1
    roi = np.zeros(4, dtype=int)
    found = resample(prediction, spoiled, folds, roi)
    assert np.allclose(found, resample(prediction[:, :3], target[:, :3], folds, roi[:3]))


def test_impossible_requests_are_refused(fitted):
    with pytest.raises(InputError, match="n_permutations must be 1 or more, got 0"):
        stats.permutation_null(*fitted, n_permutations=0)
    with pytest.raises(LookupError, match="Did you mean 'circular'"):
        stats.permutation_null(*fitted, scheme="circle")
