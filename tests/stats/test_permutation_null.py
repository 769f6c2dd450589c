import numpy as np
import pytest

from topobrain import stats
from topobrain._checks import InputError
from topobrain.stats.permuted_orders import permuted_rows


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
    monkeypatch.setattr("topobrain.stats.permuted_correlations.PRODUCT_VALUES", 120)
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


def test_impossible_requests_are_refused(fitted):
    with pytest.raises(InputError, match="n_permutations must be 1 or more, got 0"):
        stats.permutation_null(*fitted, n_permutations=0)
    with pytest.raises(LookupError, match="Did you mean 'circular'"):
        stats.permutation_null(*fitted, scheme="circle")
