import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from topobrain import stats
from topobrain._checks import InputError
from topobrain.stats import permuted_correlations, permuted_refits, permuted_scores
from topobrain.stats.permuted_orders import permuted_rows
from topobrain.stats.regions import region_means


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
@pytest.mark.parametrize("tolerance", [0.0, permuted_refits.TOLERANCE])
def test_permuted_scores_equal_a_loop_of_refits(study, scheme, tolerance):
    X, Y, folds, alpha, roi = study
    orders = permuted_rows(100, 12, scheme, seed=5)
    expected = slow_scores(X, Y, folds, alpha, orders, standardize=True)
    observed = expected.mean(axis=0)[3] + np.where(np.arange(9) % 2, 0.0, 0.2)
    found = permuted_scores(
        X, Y, folds, alpha, roi, n_regions=4, observed=observed, standardize=True, n_permutations=12, scheme=scheme,
        seed=5, tolerance=tolerance,
    )  # fmt: skip
    close = 1e-5 if tolerance == 0 else 15 * tolerance  # of 25 stimuli a fold, not of the mean over folds
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
    small = 1e-4
    hat = permuted_correlations.hat_matrices(X[folds.splits[0][0]], X[folds.splits[0][1]], [1e3])[1e3]
    whole = permuted_correlations.make_operator(hat, 0.0)
    cut = permuted_correlations.make_operator(hat, small * 300**0.5)
    assert len(whole.given) == 60
    assert len(cut.given) < 30
    assert whole.wanted is None
    alone = np.arange(40)
    scores = [
        permuted_scores(
            X, Y, folds, np.full((5, 40), 1e3), alone, n_regions=40, n_permutations=200, tolerance=tolerance
        ).sums.mean(axis=0)
        for tolerance in (0.0, small)
    ]
    moved = scores[1] - scores[0]
    assert 0 < moved.std() < 3 * small  # more than once the tolerance where one dimension dominates
    assert np.mean(np.abs(moved) > 1e-3) < 2e-3
    assert np.abs(moved).max() < 0.01
    assert scores[0].std() > 100 * moved.std()


def test_the_tolerance_moves_no_p_value_by_more_than_a_fraction_of_its_own_error():
    rng = np.random.default_rng(0)
    X, folds = steep(400, 200, seed=3), stats.make_folds(range(400), 4)
    signal = X @ noise(200, 90, seed=5)
    Y = rng.uniform(0, 0.3, 90) * signal / signal.std(axis=0) + noise(400, 90, seed=6)
    alpha, roi = rng.choice([30.0, 300.0, 3000.0], size=(4, 90)), np.arange(90) % 3
    observed = slow_scores(X, Y, folds, alpha, [np.arange(400)])[:, 0]
    options = {"n_regions": 3, "observed": observed, "n_permutations": 500}
    exact, cut = (
        permuted_scores(X, Y, folds, alpha, roi, tolerance=tolerance, **options)
        for tolerance in (1e-12, permuted_refits.TOLERANCE)
    )
    p, moved = ((1 + found.at_least) / 501 for found in (exact, cut))
    error = np.sqrt(p * (1 - p) / 500)
    assert 0.2 < (p < 0.05).mean() < 0.8
    assert 0 < np.abs(moved - p).mean() < 0.15 * error.mean()
    assert np.abs(moved - p).max() < 0.02
    null, other = (region_means(found.sums, found.n_usable).mean(axis=0) for found in (exact, cut))
    assert 0 < (other - null).std() < 0.05 * null.std()
    assert other.std() == pytest.approx(null.std(), rel=0.005)
    assert (cut.largest - exact.largest).std() < 0.05 * exact.largest.std()
    assert np.quantile(cut.largest, 0.95) == pytest.approx(np.quantile(exact.largest, 0.95), rel=0.01)


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
    monkeypatch.setattr(permuted_correlations, "PRODUCT_VALUES", 300)
    monkeypatch.setattr(permuted_correlations, "VOXEL_TILE", 2)
    taken = []
    chunk = permuted_correlations.PermutedFits.plan
    monkeypatch.setattr(
        permuted_correlations.PermutedFits, "plan", lambda *given: taken.append(chunk(*given)) or taken[-1]
    )
    options = {"n_regions": 3, "n_permutations": 20, "observed": np.zeros(9)}
    free = permuted_scores(X, Y, folds, alpha, roi, **options)
    bound = permuted_scores(X, Y, folds, alpha, roi, max_memory=400_000, **options)
    assert taken[0] == 9
    assert taken[1] < 9
    assert np.allclose(bound.sums, free.sums, atol=1e-5)
    assert np.array_equal(bound.at_least, free.at_least)
    assert np.allclose(bound.largest, free.largest, atol=1e-6)
    with pytest.raises(
        InputError, match=r"max_memory is 1\.00 KiB: 20 permutations of 100 stimuli need .* KiB or more"
    ):
        permuted_scores(X, Y, folds, alpha, roi, max_memory="1 KiB", **options)


@pytest.fixture
def threads():
    """Sets the number of threads; puts it back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def many():
    """Features, responses of 75 voxels in five regions, folds and penalties, of enough stimuli to permute blocks."""
    rng = np.random.default_rng(1)
    X, folds = steep(403, 150), stats.make_folds(range(403), 3)
    Y = X @ noise(150, 75, seed=7) / 100 + noise(403, 75, seed=8)
    return X, Y, folds, rng.choice([1.0, 100.0, 1e4], size=(3, 75)), rng.integers(0, 5, 75)


def same(first, second):
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("scheme", ["stimuli", "circular"])
def test_any_number_of_threads_gives_the_same_numbers_to_the_last_bit(many, threads, monkeypatch, scheme):
    X, Y, folds, alpha, roi = many
    monkeypatch.setattr(permuted_correlations, "VOXEL_TILE", 8)
    options = {"n_regions": 5, "observed": noise(75) / 20, "n_permutations": 60, "scheme": scheme}
    used, each = set(), permuted_correlations.Workers.each
    monkeypatch.setattr(
        permuted_correlations.Workers, "each", lambda self, *given: used.add(self.threads) or each(self, *given)
    )
    found = []
    for number in (1, 2, 3):
        threads(number)
        found.append(permuted_scores(X, Y, folds, alpha, roi, **options))
        assert torch.get_num_threads() == number
    assert used == {1, 2, 3}
    assert same(found[0], found[1])
    assert same(found[0], found[2])
    assert np.abs(found[0].sums).max() > 0.1


def test_chunks_of_voxels_give_the_same_numbers_to_the_last_bit(many):
    X, Y, folds, alpha, roi = many
    observed = noise(75) / 20
    options = {"n_regions": 5, "n_permutations": 60}
    whole = permuted_scores(X, Y, folds, alpha, roi, observed=observed, **options)
    a, b = (
        permuted_scores(X, Y[:, part], folds, alpha[:, part], roi[part], observed=observed[part], **options)
        for part in (slice(0, 41), slice(41, 75))
    )
    assert np.array_equal(a.sums + b.sums, whole.sums)
    assert np.array_equal(a.n_usable + b.n_usable, whole.n_usable)
    assert np.array_equal(np.concatenate([a.at_least, b.at_least]), whole.at_least)
    assert np.array_equal(np.maximum(a.largest, b.largest), whole.largest)


def test_every_thread_counts_for_the_bound_on_memory(many, threads, monkeypatch):
    X, Y, folds, alpha, roi = many
    taken, plan = [], permuted_correlations.PermutedFits.plan
    monkeypatch.setattr(
        permuted_correlations.PermutedFits, "plan", lambda *given: taken.append(plan(*given)) or taken[-1]
    )
    needed = []
    for number in (1, 2, 4):
        threads(number)
        with pytest.raises(InputError, match=f"need .* MiB or more with {number} threads") as refused:
            permuted_scores(X, Y, folds, alpha, roi, n_regions=5, n_permutations=60, max_memory="1 MiB")
        needed.append(float(str(refused.value).split("need ")[1].split(" MiB")[0]))
    assert needed[1] - needed[0] > 1
    assert needed[2] - needed[1] == pytest.approx(2 * (needed[1] - needed[0]), abs=0.05)
    threads(2)
    bound = f"{needed[1] + 0.2} MiB"
    chunks = permuted_scores(X, Y, folds, alpha, roi, n_regions=5, n_permutations=60, max_memory=bound)
    assert taken[0] < 75
    assert same(chunks, permuted_scores(X, Y, folds, alpha, roi, n_regions=5, n_permutations=60))


def test_tables_in_half_precision_move_scores_far_less_than_the_tolerance(many, monkeypatch):
    X, Y, folds, alpha, _ = many
    options = {"n_regions": 75, "n_permutations": 100}
    found = {}
    for dtype in (torch.float16, torch.float32):
        monkeypatch.setattr(permuted_correlations, "table_dtype", lambda *_, dtype=dtype: dtype)
        found[dtype] = permuted_scores(X, Y, folds, alpha, np.arange(75), **options).sums.mean(axis=0)
    moved = found[torch.float16] - found[torch.float32]
    assert 1e-7 < moved.std() < 0.15 * permuted_refits.TOLERANCE
    assert np.abs(moved).max() < permuted_refits.TOLERANCE


def test_tables_are_in_half_precision_only_where_as_much_may_be_left_out(monkeypatch):
    processor, share = torch.device("cpu"), permuted_correlations.HALF_SHARE
    for capability, fast in (("AVX2", True), ("AVX512", True), ("DEFAULT", False)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        assert (permuted_correlations.table_dtype(processor, share) == torch.float16) == fast
        assert permuted_correlations.table_dtype(processor, share / 2) == torch.float32


PEAK = """
import sys
import numpy as np, torch
from topobrain.stats import make_folds, permuted_scores
def resident(which):
    return int(next(line for line in open("/proc/self/status") if line.startswith(which)).split()[1]) * 1024
torch.set_num_threads(2)
rng = np.random.default_rng(0)
X, Y, folds = rng.standard_normal((400, 3)), rng.standard_normal((400, 4000)), make_folds(range(400), 2)
def run(n, **options):
    alpha = np.logspace(0, 3, 3)[np.arange(2 * n) % 3].reshape(2, n)
    permuted_scores(X, Y[:, :n], folds, alpha, np.zeros(n, int), n_regions=1, observed=np.zeros(n), **options)
run(80, n_permutations=3)
before = resident("VmRSS")
run(4000, n_permutations=500, max_memory=int(sys.argv[1]))
print(resident("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the largest size of a process is read from /proc")
def test_two_threads_keep_to_the_bound_on_memory():
    bound = 50_000_000
    done = subprocess.run([sys.executable, "-c", PEAK, str(bound)], capture_output=True, text=True, check=True)
    assert 5_000_000 < int(done.stdout) < bound  # all voxels at once would take 48 MB more than one


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
    orders = permuted_rows(40, 50, "stimuli", seed=0)
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
    orders = permuted_rows(100, 400, "circular", seed=0)
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
