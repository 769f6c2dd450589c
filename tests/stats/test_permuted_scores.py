import numpy as np
import pytest
from scipy.stats import kstest

from topobrain import stats
from topobrain._checks import InputError
from topobrain.stats import resampling
from topobrain.stats.resampling import bootstrap_scores, permuted_scores, region_means


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def steep(n, p, seed=0):
    """Features with few large and many small dimensions, as the layers of a network have."""
    turned = np.linalg.qr(noise(p, p, seed=seed))[0]
    return noise(n, p, seed=seed + 1) * 30 / np.arange(1, p + 1) ** 2 @ turned


def slow_scores(X, Y, folds, alpha, orders, standardize=False):
    """Refit every permutation, fold and voxel in float64: (fold, permutation, voxel)."""
    r = np.zeros((len(folds), len(orders), Y.shape[1]))
    for k, (train, test) in enumerate(folds):
        mean = X[train].mean(axis=0)
        scale = X[train].std(axis=0) if standardize else 1.0
        A, B = (X[train] - mean) / scale, (X[test] - mean) / scale
        for voxel in range(Y.shape[1]):
            gram = A.T @ A + alpha[k, voxel] * np.eye(X.shape[1])
            for i, order in enumerate(orders):
                y = Y[order, voxel]
                predicted = B @ np.linalg.solve(gram, A.T @ (y[train] - y[train].mean()))
                r[k, i, voxel] = np.corrcoef(predicted, y[test])[0, 1]
    return r


@pytest.fixture
def study():
    """Features, responses of nine voxels in three regions (one empty), folds and penalties."""
    rng = np.random.default_rng(3)
    X, folds = steep(100, 60), stats.make_folds(range(100), 4)
    Y = 50 + X @ noise(60, 9, seed=7) / 30 + noise(100, 9, seed=8)
    alpha = rng.choice([1.0, 100.0, 1e4], size=(4, 9))
    return X, Y, folds, alpha, np.array([0, 2, 0, 2, 2, 0, 0, 2, 2])


@pytest.mark.parametrize("scheme", ["stimuli", "circular"])
@pytest.mark.parametrize("tolerance", [0.0, resampling.TOLERANCE])
def test_permuted_scores_equal_a_loop_of_refits(study, scheme, tolerance):
    X, Y, folds, alpha, roi = study
    orders = resampling.permuted_rows(100, 12, scheme, seed=5)
    expected = slow_scores(X, Y, folds, alpha, orders, standardize=True)
    observed = expected.mean(axis=0)[3] + np.where(np.arange(9) % 2, 0.0, 0.2)
    found = permuted_scores(
        X, Y, folds, alpha, roi, n_regions=4, observed=observed, standardize=True, n_permutations=12, scheme=scheme,
        seed=5, tolerance=tolerance,
    )  # fmt: skip
    close = 1e-5 if tolerance == 0 else 1e-3
    assert found.n_usable.tolist() == [4, 0, 5, 0]
    for region in (0, 2):
        wanted = expected[:, :, roi == region].mean(axis=2)
        assert np.abs(found.sums[:, region] / found.n_usable[region] - wanted).max() < close
    assert (found.sums[:, [1, 3]] == 0).all()
    assert np.abs(found.largest - expected.mean(axis=0).max(axis=1)).max() < close
    count = (expected.mean(axis=0) >= observed - 1e-9).sum(axis=0)
    if tolerance == 0:
        assert found.at_least.tolist() == count.tolist()


def test_every_voxel_keeps_to_the_tolerance_and_small_dimensions_are_left_out():
    X, Y, folds = steep(300, 90), noise(300, 40, seed=4), stats.make_folds(range(300), 5)
    hat = resampling.hat_matrices(X[folds.splits[0][0]], X[folds.splits[0][1]], [1e3])[1e3]
    whole = resampling._operator(hat, 0.0)
    cut = resampling._operator(hat, resampling.TOLERANCE * 300**0.5)
    assert len(whole.given) == 60
    assert len(cut.given) < 30
    assert whole.wanted is None
    alone = np.arange(40)
    scores = [
        permuted_scores(
            X, Y, folds, np.full((5, 40), 1e3), alone, n_regions=40, n_permutations=200, tolerance=tolerance
        ).sums.mean(axis=0)
        for tolerance in (0.0, resampling.TOLERANCE)
    ]
    moved = scores[1] - scores[0]
    assert 0 < moved.std() < 3 * resampling.TOLERANCE  # more than once the tolerance where one dimension dominates
    assert np.mean(np.abs(moved) > 1e-3) < 2e-3
    assert np.abs(moved).max() < 0.01
    assert scores[0].std() > 100 * moved.std()


def test_chunks_of_voxels_add_up(study):
    X, Y, folds, alpha, roi = study
    observed = noise(9, seed=1) / 10
    options = {"n_regions": 3, "n_permutations": 30, "seed": 2}
    whole = permuted_scores(X, Y, folds, alpha, roi, observed=observed, **options)
    parts = [
        permuted_scores(X, Y[:, part], folds, alpha[:, part], roi[part], observed=observed[part], **options)
        for part in (slice(0, 4), slice(4, 9))
    ]
    assert np.allclose(parts[0].sums + parts[1].sums, whole.sums, atol=1e-5)
    assert np.array_equal(parts[0].n_usable + parts[1].n_usable, whole.n_usable)
    assert np.allclose(np.maximum(parts[0].largest, parts[1].largest), whole.largest, atol=1e-6)
    assert np.concatenate([part.at_least for part in parts]).tolist() == whole.at_least.tolist()


def test_a_bound_on_memory_changes_nothing_but_the_chunks(study, monkeypatch):
    X, Y, folds, alpha, roi = study
    monkeypatch.setattr(resampling, "PRODUCT_VALUES", 300)
    monkeypatch.setattr(resampling, "VOXEL_TILE", 2)
    taken = []
    chunk = resampling._Work.chunk
    monkeypatch.setattr(resampling._Work, "chunk", lambda *given: taken.append(chunk(*given)) or taken[-1])
    options = {"n_regions": 3, "n_permutations": 20, "observed": np.zeros(9)}
    free = permuted_scores(X, Y, folds, alpha, roi, **options)
    bound = permuted_scores(X, Y, folds, alpha, roi, max_memory=60_000, **options)
    assert taken[0] == 9
    assert taken[1] < 9
    assert np.allclose(bound.sums, free.sums, atol=1e-5)
    assert np.array_equal(bound.at_least, free.at_least)
    assert np.allclose(bound.largest, free.largest, atol=1e-6)
    with pytest.raises(
        InputError, match=r"max_memory is 1\.00 KiB: 20 permutations of 100 stimuli need .* KiB or more"
    ):
        permuted_scores(X, Y, folds, alpha, roi, max_memory="1 KiB", **options)


def test_voxels_that_cannot_be_scored_are_nan_and_do_not_count(study):
    X, Y, folds, alpha, roi = study
    spoiled, unknown = Y.copy(), alpha.copy()
    spoiled[4, 1], unknown[2, 5] = np.nan, np.nan
    good = np.array([0, 2, 3, 4, 6, 7, 8])
    found = permuted_scores(X, spoiled, folds, unknown, roi, n_regions=3, observed=np.zeros(9), n_permutations=20)
    alone = permuted_scores(
        X, Y[:, good], folds, alpha[:, good], roi[good], n_regions=3, observed=np.zeros(7), n_permutations=20
    )
    assert np.flatnonzero(np.isnan(found.at_least)).tolist() == [1, 5]
    assert np.array_equal(found.at_least[good], alone.at_least)
    assert np.allclose(found.sums, alone.sums, atol=1e-5)
    assert found.n_usable.tolist() == [3, 0, 4]
    nothing = permuted_scores(X, np.full_like(Y, np.nan), folds, alpha, roi, n_regions=3, n_permutations=5)
    assert (nothing.largest == -np.inf).all()
    assert np.isnan(region_means(nothing.sums, nothing.n_usable)).all()


def test_without_observed_scores_nothing_is_counted(study):
    X, Y, folds, alpha, roi = study
    assert np.isnan(permuted_scores(X, Y, folds, alpha, roi, n_regions=3, n_permutations=5).at_least).all()


def test_responses_that_a_permutation_leaves_constant_in_a_fold_score_zero():
    X, Y, folds = noise(40, 3), np.zeros((40, 2)), stats.make_folds(range(40), 4)
    Y[[7, 17, 27], 0], Y[:, 1] = 1.0, noise(40, seed=1)
    orders = resampling.permuted_rows(40, 50, "stimuli", seed=0)
    found = permuted_scores(X, Y, folds, np.ones((4, 2)), np.arange(2), n_regions=2, n_permutations=50, seed=0)
    for k, (_, test) in enumerate(folds):
        ones = np.isin(orders[:, test], [7, 17, 27]).sum(axis=1)
        assert min((ones == 0).sum(), (ones == 1).sum()) > 10
        assert (found.sums[k, 0, ones == 0] == 0).all()
        assert (np.abs(found.sums[k, 0, ones == 1]) > 1e-4).all()
    flat = permuted_scores(np.ones((40, 3)), Y, folds, np.ones((4, 2)), np.arange(2), n_regions=2, n_permutations=5)
    assert (flat.sums == 0).all()


@pytest.mark.slow
def test_p_of_pure_noise_is_uniform_and_the_family_wise_rate_holds():
    p, smallest = [], []
    for seed in range(120):
        X, Y = noise(60, 8, seed=seed), noise(60, 4, seed=seed + 1000)
        folds, alpha = stats.make_folds(range(60), 4), np.full((4, 4), 10.0)
        observed = slow_scores(X, Y, folds, alpha, [np.arange(60)]).mean(axis=0)[0]
        found = permuted_scores(
            X, Y, folds, alpha, np.zeros(4, int), n_regions=1, observed=observed, n_permutations=99, seed=seed
        )
        p.append((1 + found.at_least) / 100)
        smallest.append((1 + (found.largest >= observed.max()).sum()) / 100)
    p = np.array(p)
    assert kstest(p[:, 0] - np.random.default_rng(0).uniform(0, 0.01, 120), "uniform").pvalue > 0.01
    assert (p <= 0.05).mean() == pytest.approx(0.05, abs=0.025)
    assert (np.array(smallest) <= 0.05).mean() < 0.11
    assert (np.array(smallest) <= 0.2).mean() > 0.1


def test_p_of_few_shifts_is_no_smaller_than_their_number_allows():
    p = []
    for seed in range(60):
        X, Y = noise(24, 3, seed=seed), noise(24, 4, seed=seed + 1000)
        folds, alpha = stats.make_folds(range(24), 3), np.full((3, 4), 5.0)
        observed = slow_scores(X, Y, folds, alpha, [np.arange(24)])[:, 0]
        found = permuted_scores(
            X, Y, folds, alpha, np.arange(4), n_regions=4, observed=observed, n_permutations=999, scheme="circular",
            seed=seed,
        )  # fmt: skip
        p.append((1 + found.at_least) / 1000)
        null = region_means(found.sums, found.n_usable).mean(axis=0)
        assert np.array_equal((null >= observed.mean(axis=0)[:, None] - 1e-12).sum(axis=1), found.at_least)
        assert (found.largest >= observed.mean(axis=0).max()).sum() > 15
    p = np.array(p)
    assert p.min() > 0.02  # of 24 shifts, one is the true order
    assert 0.01 < (p <= 0.055).mean() < 0.1
    assert kstest(p[:, 0], "uniform").pvalue > 0.01


@pytest.mark.parametrize("per_fold", [True, False])
def test_the_true_order_scores_what_was_observed_to_the_last_digit(study, per_fold):
    X, Y, folds, alpha, roi = study
    true = slow_scores(X, Y, folds, alpha, [np.arange(100)])[:, 0]
    orders = resampling.permuted_rows(100, 400, "circular", seed=0)
    unmoved = (orders[:, 0] == 0).nonzero()[0]
    assert unmoved.size
    observed = true if per_fold else true.mean(axis=0)
    options = {"n_regions": 3, "n_permutations": 400, "scheme": "circular", "tolerance": 0.01}
    found = permuted_scores(X, Y, folds, alpha, roi, observed=observed, **options)
    for region in (0, 2):
        inside = roi == region
        of_folds = true[:, inside].sum(axis=1)
        assert found.sums[:, region, unmoved].mean(axis=0) == pytest.approx(of_folds.mean(), rel=1e-12)
        if per_fold:
            assert found.sums[:, region, unmoved[0]] == pytest.approx(of_folds, rel=1e-12)
    assert (found.largest[unmoved] == true.mean(axis=0).max()).all()
    assert (found.at_least >= unmoved.size).all()
    plain = permuted_scores(X, Y, folds, alpha, roi, **options)
    assert np.abs(plain.sums[..., unmoved] - found.sums[..., unmoved]).max() > 1e-9
    moved = np.setdiff1d(np.arange(400), unmoved)
    assert np.array_equal(plain.sums[..., moved], found.sums[..., moved])


@pytest.mark.parametrize("penalty", [-1.0, np.inf, -np.inf])
def test_penalties_that_are_none_are_refused(study, penalty):
    X, Y, folds, alpha, roi = study
    wrong = alpha.copy()
    wrong[1, 3] = penalty
    with pytest.raises(
        InputError, match=r"penalties must be finite and 0 or more.* 1 of 36 are not, e\.g\. -?(1\.0|inf)"
    ):
        permuted_scores(X, Y, folds, wrong, roi, n_regions=3)


def test_data_that_predict_themselves_stand_above_every_permutation():
    Y, folds = noise(80, 6), stats.make_folds(range(80), 4)
    alpha = np.full((4, 6), 1e-3)
    observed = slow_scores(Y, Y, folds, alpha, [np.arange(80)]).mean(axis=0)[0]
    assert observed == pytest.approx(np.ones(6), abs=1e-6)
    found = permuted_scores(Y, Y, folds, alpha, np.zeros(6, int), n_regions=1, observed=observed, n_permutations=200)
    assert found.at_least.tolist() == [0] * 6
    assert found.largest.max() < 0.6


def test_arrays_that_do_not_fit_are_refused(study):
    X, Y, folds, alpha, roi = study
    with pytest.raises(InputError, match="alpha has shape"):
        permuted_scores(X, Y, folds, alpha[:, :4], roi, n_regions=3)
    with pytest.raises(InputError, match="observed has shape"):
        permuted_scores(X, Y, folds, alpha, roi, n_regions=3, observed=np.zeros(4))
    for wrong in (roi[:4], roi + 1):
        with pytest.raises(InputError, match="a region number from 0 to 2"):
            permuted_scores(X, Y, folds, alpha, wrong, n_regions=3)
        with pytest.raises(InputError, match="a region number from 0 to 2"):
            bootstrap_scores(Y, Y, folds, wrong, n_regions=3)


# bootstrap sums


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
    monkeypatch.setattr(resampling, "FLOAT32_BLOCKS", 10_000)
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
    counts = resampling.bootstrap_counts(folds, 150, n_bootstrap=1000, seed=9)
    assert len(counts) == 5
    assert all((count.sum(axis=1) == 30).all() for count in counts)
