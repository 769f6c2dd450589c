"""RSA and linear CKA against explicit computations, their nulls and their bootstrap."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from scipy.stats import kstest, pearsonr, spearmanr

from topobrain._checks import InputError, UnknownNameError
from topobrain.stats.nulls import product_permutations
from topobrain.stats.permuted_orders import permuted_rows
from topobrain.stats.representational_similarity import linear_cka, rdm, rsa, similarity_draws, similarity_null


def white(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def related(n=40, p=15, v=10, noise=1.0, seed=0):
    latent = white(n, 6, seed=seed)
    X, Y = latent @ white(6, p, seed=seed + 1), latent @ white(6, v, seed=seed + 2)
    return X + noise * white(n, p, seed=seed + 3) + 2, Y + noise * white(n, v, seed=seed + 4) - 1


def rotation(p, seed=0):
    return np.linalg.qr(white(p, p, seed=seed))[0]


def explicit_cka(X, Y):
    X, Y = X - X.mean(axis=0), Y - Y.mean(axis=0)
    return np.linalg.norm(Y.T @ X) ** 2 / (np.linalg.norm(X.T @ X) * np.linalg.norm(Y.T @ Y))


def hsic(K, L):
    """Equation 5 of Song et al. (2012), written out."""
    n = len(K)
    K, L = K - np.diag(np.diag(K)), L - np.diag(np.diag(L))
    one = np.ones(n)
    whole = (
        np.trace(K @ L) + (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ K @ L @ one)
    )
    return whole / (n * (n - 3))


@pytest.mark.parametrize("metric", ["correlation", "cosine", "euclidean"])
@pytest.mark.parametrize("shape", [(20, 7), (7, 20)])
def test_distances_equal_those_of_scipy(metric, shape):
    X = 3 + white(*shape)
    assert rdm(X, metric=metric) == pytest.approx(squareform(pdist(X, metric)), abs=1e-12)
    assert rdm(X.astype(np.float32), metric=metric) == pytest.approx(squareform(pdist(X, metric)), abs=1e-6)


@pytest.mark.parametrize("metric", ["correlation", "cosine", "euclidean"])
def test_copies_of_a_stimulus_have_distance_zero(metric):
    X = np.repeat(1e3 + white(6, 9), 2, axis=0)
    distance = rdm(X, metric=metric)
    assert (distance[::2, 1::2].diagonal() == 0).all()
    assert (distance == distance.T).all()


@pytest.mark.parametrize("metric", ["correlation", "euclidean"])
@pytest.mark.parametrize(("compare", "oracle"), [("spearman", spearmanr), ("pearson", pearsonr)])
def test_rsa_equals_scipy(metric, compare, oracle):
    X, Y = related()
    expected = oracle(pdist(X, metric), pdist(Y, metric))[0]
    assert 0.2 < expected < 0.99
    assert rsa(X, Y, metric=metric, compare=compare) == pytest.approx(expected, abs=1e-12)
    assert rsa(X, X, metric=metric, compare=compare) == pytest.approx(1)


def test_rsa_shares_ranks_among_tied_distances():
    rng = np.random.default_rng(0)
    X, Y = rng.integers(0, 2, (12, 4)).astype(float), rng.integers(0, 2, (12, 3)).astype(float)
    expected = spearmanr(pdist(X), pdist(Y))[0]
    assert len(np.unique(pdist(X))) < 6
    assert rsa(X, Y, metric="euclidean") == pytest.approx(expected, abs=1e-12)


def test_linear_cka_equals_its_formula_on_both_routes():
    for shape in ((40, 15, 10), (12, 30, 20), (20, 30, 5)):
        X, Y = related(*shape)
        assert linear_cka(X, Y) == pytest.approx(explicit_cka(X, Y), abs=1e-12)
        K, L = X @ X.T, Y @ Y.T
        expected = hsic(K, L) / np.sqrt(hsic(K, K) * hsic(L, L))
        assert linear_cka(X, Y, unbiased=True) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("shape", [(30, 12), (12, 30)])
def test_cka_ignores_rotation_scale_and_offset(unbiased, shape):
    X = white(*shape)
    turned = 3.7 * X @ rotation(shape[1], 1) + 5
    assert linear_cka(X, turned, unbiased=unbiased) == pytest.approx(1, abs=1e-12)
    Y = white(shape[0], 8, seed=2) + X[:, :8]
    assert linear_cka(turned, Y, unbiased=unbiased) == pytest.approx(linear_cka(X, Y, unbiased=unbiased), abs=1e-12)
    assert linear_cka(1e-120 * X, 1e120 * Y, unbiased=unbiased) == pytest.approx(
        linear_cka(X, Y, unbiased=unbiased), abs=1e-12
    )


def test_scores_ignore_the_order_of_units_and_of_stimuli():
    X, Y = related()
    rows, columns = np.random.default_rng(5).permutation(len(X)), np.random.default_rng(6).permutation(X.shape[1])
    for score in (rsa, linear_cka):
        assert score(X[:, columns], Y) == pytest.approx(score(X, Y), abs=1e-12)
        assert score(X[rows], Y[rows]) == pytest.approx(score(X, Y), abs=1e-12)
        assert score(Y, X) == pytest.approx(score(X, Y), abs=1e-12)


def test_few_stimuli_of_many_units_fool_biased_cka_only():
    pairs = [white(2, 20, 300, seed=s) for s in range(20)]
    biased = [linear_cka(X, Y) for X, Y in pairs]
    unbiased = [linear_cka(X, Y, unbiased=True) for X, Y in pairs]
    assert min(biased) > 0.8
    assert abs(np.mean(unbiased)) < 0.02
    assert np.abs(unbiased).max() < 0.35
    assert abs(np.mean([rsa(X, Y) for X, Y in pairs])) < 0.05


MEASURES = [
    ("rsa", {}),
    ("rsa", {"metric": "euclidean", "compare": "pearson"}),
    ("cka", {}),
    ("cka", {"unbiased": True}),
]


def score_of(measure, options):
    return lambda X, Y: (rsa if measure == "rsa" else linear_cka)(X, Y, **options)


@pytest.mark.parametrize(("measure", "options"), MEASURES)
@pytest.mark.parametrize("scheme", ["stimuli", "circular"])
def test_null_equals_a_loop_over_permuted_responses(measure, options, scheme):
    X, Y = related(15, 9, 7)
    null = similarity_null(X, Y, measure=measure, n_permutations=30, scheme=scheme, seed=4, **options)
    orders = product_permutations(15, 30, seed=4).orders() if scheme == "stimuli" else permuted_rows(15, 30, scheme, 4)
    slow = [score_of(measure, options)(X, Y[order]) for order in orders]
    assert null == pytest.approx(np.array(slow), abs=1e-12)
    assert np.std(null) > 0.01


def test_blocks_of_rows_change_nothing(monkeypatch):
    X, Y = related(23, 9, 7)
    whole = similarity_null(X, Y, n_permutations=50)
    monkeypatch.setattr("topobrain.stats.representational_similarity.BLOCK_VALUES", 2000)
    assert similarity_null(X, Y, n_permutations=50) == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize(("measure", "options"), [MEASURES[0], MEASURES[3]])
@pytest.mark.slow
def test_p_is_uniform_for_independent_responses(measure, options):
    p = []
    for s in range(150):
        X, Y = white(14, 6, seed=2 * s), white(14, 9, seed=2 * s + 1)
        null = similarity_null(X, Y, measure=measure, n_permutations=199, seed=s, **options)
        p.append((1 + (null >= score_of(measure, options)(X, Y) - 1e-12).sum()) / 200)
    assert kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) <= 0.05) < 0.12


def test_permutations_depend_on_the_stimuli_and_the_seed_only():
    X, Y = related()
    other = X @ rotation(15, 3)  # CKA does not see the difference, so neither may its null
    first, second = (similarity_null(values, Y, measure="cka", n_permutations=40, seed=1) for values in (X, other))
    assert second == pytest.approx(first, abs=1e-12)
    assert np.abs(similarity_null(X, Y, measure="cka", n_permutations=40, seed=2) - first).max() > 1e-3


def literal_draw(X, Y, count, compare):
    """The bootstrap written out: copies of stimuli, pairs of copies left out."""
    rows = np.repeat(np.arange(len(X)), count)
    upper = np.triu_indices(len(rows), 1)
    apart = rows[upper[0]] != rows[upper[1]]
    distances = [rdm(values[rows])[upper][apart] for values in (X, Y)]
    return (spearmanr if compare == "spearman" else pearsonr)(*distances)[0]


def counts_of(n, n_bootstrap, seed):
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_bootstrap)


@pytest.mark.parametrize("compare", ["spearman", "pearson"])
def test_draws_of_rsa_equal_a_literal_bootstrap(compare):
    X, Y = related(16, 9, 7)
    draws = similarity_draws(X, Y, n_bootstrap=25, seed=3, compare=compare)
    slow = [literal_draw(X, Y, count, compare) for count in counts_of(16, 25, 3)]
    assert draws == pytest.approx(np.array(slow), abs=1e-10)


def test_coarse_ranks_move_draws_by_next_to_nothing(monkeypatch):
    X, Y = related(30, 9, 7)
    fine = similarity_draws(X, Y, n_bootstrap=20)
    monkeypatch.setattr("topobrain.stats.representational_similarity.RANK_LEVELS", 100)
    coarse = similarity_draws(X, Y, n_bootstrap=20)
    assert np.abs(coarse - fine).max() < 0.01
    assert (coarse != fine).any()


def additive_left_out(kernel, rows):
    """Return what is left of a kernel over pairs of different stimuli without its additive part, by least squares."""
    first, second = np.nonzero(rows[:, None] != rows[None, :])
    design = np.zeros((first.size, rows.max() + 1))
    for side in (first, second):
        np.add.at(design, (np.arange(first.size), rows[side]), 1.0)
    values = kernel[rows[first], rows[second]]
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


def test_draws_of_unbiased_cka_equal_centring_anew_without_copies():
    X, Y = related(12, 5, 14)
    kernels = X @ X.T, Y @ Y.T
    draws = similarity_draws(X, Y, measure="cka", n_bootstrap=10, seed=1, unbiased=True)
    counts = [*counts_of(12, 10, 1), np.ones(12, dtype=int)]
    for draw, count in zip([*draws, linear_cka(X, Y, unbiased=True)], counts, strict=True):
        rows = np.repeat(np.arange(12), count)
        one, two = (additive_left_out(kernel, rows) for kernel in kernels)
        assert draw == pytest.approx(one @ two / np.sqrt((one @ one) * (two @ two)), abs=1e-9)


def slow_biased(K, L, rows):
    centre = np.eye(len(rows)) - 1 / len(rows)
    K, L = (centre @ values[np.ix_(rows, rows)] @ centre for values in (K, L))
    counted = (rows[:, None] != rows[None, :]) | np.eye(len(rows), dtype=bool)
    return (K * L)[counted].sum()


def test_draws_of_biased_cka_equal_a_literal_bootstrap():
    X, Y = related(14, 9, 30)
    K, L = X @ X.T, Y @ Y.T
    draws = similarity_draws(X, Y, measure="cka", n_bootstrap=10, seed=2)
    for draw, count in zip(draws, counts_of(14, 10, 2), strict=True):
        rows = np.repeat(np.arange(14), count)
        expected = slow_biased(K, L, rows) / np.sqrt(slow_biased(K, K, rows) * slow_biased(L, L, rows))
        assert draw == pytest.approx(expected, abs=1e-10)


def test_copies_do_not_raise_the_draws():
    # with pairs of copies every draw would find the two sets far more alike than they are
    for seed in range(3):
        X, Y = white(40, 60, seed=2 * seed), white(40, 60, seed=2 * seed + 1)
        assert abs(np.mean(similarity_draws(X, Y, n_bootstrap=100)) - rsa(X, Y)) < 0.02
        unbiased = similarity_draws(X, Y, measure="cka", n_bootstrap=100, unbiased=True)
        assert abs(np.mean(unbiased) - linear_cka(X, Y, unbiased=True)) < 0.02
        assert abs(np.mean(similarity_draws(X, Y, measure="cka", n_bootstrap=100)) - linear_cka(X, Y)) < 0.05


@pytest.mark.parametrize(("measure", "options"), [MEASURES[0], MEASURES[3]])
@pytest.mark.slow
def test_intervals_cover_the_score_of_many_stimuli(measure, options):
    mixing = white(6, 25, seed=9)

    def data(n, seed):
        latent = white(n, 6, seed=seed)
        X = latent @ mixing[:, :15] + white(n, 15, seed=seed + 1)
        return X, latent @ mixing[:, 15:] + white(n, 10, seed=seed + 2)

    truth, inside = score_of(measure, options)(*data(1500, 10**6)), 0
    for s in range(60):
        low, high = np.quantile(
            similarity_draws(*data(50, 10 * s), measure=measure, n_bootstrap=200, seed=s, **options), [0.025, 0.975]
        )
        inside += low <= truth <= high
    assert inside >= 49  # 95 % of 60 is 57; nearly always at least 49 where the true coverage is .9


def test_blocks_are_drawn_together_and_draws_are_paired():
    X, Y = related(20, 9, 7)
    blocks = np.repeat(np.arange(5), 4)
    draws = similarity_draws(X, Y, n_bootstrap=300, blocks=blocks, compare="pearson")
    seen = np.random.default_rng(0).multinomial(5, np.full(5, 0.2), size=300)[:, blocks]
    assert draws[0] == pytest.approx(literal_draw(X, Y, seen[0], "pearson"), abs=1e-10)
    again = similarity_draws(2 * X, Y - 3, n_bootstrap=300, blocks=blocks, compare="pearson")
    assert again == pytest.approx(draws, abs=1e-10)


def test_a_draw_of_too_few_different_stimuli_is_missing():
    X, Y = related(4, 9, 7)
    for measure, options, least in (("rsa", {}, 3), ("cka", {"unbiased": True}, 4)):
        draws = similarity_draws(X, Y, measure=measure, n_bootstrap=100, **options)
        different = (counts_of(4, 100, 0) > 0).sum(axis=1)
        assert np.isnan(draws[different < least - (measure == "rsa")]).all()
        assert np.isnan(draws).any()


def test_bad_input():
    X, Y = related(12, 5, 4)
    with pytest.raises(InputError, match="12 stimuli and Y has 11"):
        rsa(X, Y[:11])
    with pytest.raises(InputError, match="3 stimuli or more"):
        rsa(X[:2], Y[:2])
    with pytest.raises(InputError, match="4 stimuli or more"):
        linear_cka(X[:3], Y[:3], unbiased=True)
    broken = X.copy()
    broken[0, [1, 2]] = np.nan
    for score in (rsa, linear_cka, similarity_null, similarity_draws):
        with pytest.raises(InputError, match="2 of 5 units of X"):
            score(broken, Y)
    with pytest.raises(InputError, match="3 units or more"):
        rsa(X[:, :2], Y)
    assert -1 < rsa(X[:, :1], Y[:, :1], metric="euclidean") < 1  # one voxel
    flat = X.copy()
    flat[3] = 2.0
    with pytest.raises(InputError, match="row 3"):
        rdm(flat)
    with pytest.raises(InputError, match="equally far apart in X"):
        rsa(np.eye(12), Y)
    with pytest.raises(InputError, match="no unit of Y varies"):
        linear_cka(X, np.ones((12, 2)))
    with pytest.raises(UnknownNameError, match="euclidean"):
        rdm(X, metric="euclid")
    with pytest.raises(UnknownNameError, match="spearman"):
        rsa(X, Y, compare="kendall")
    with pytest.raises(UnknownNameError, match="measure"):
        similarity_null(X, Y, measure="ckaa")
    with pytest.raises(UnknownNameError, match="scheme"):
        similarity_null(X, Y, scheme="rows")
    with pytest.raises(InputError, match="no option of 'rsa'"):
        similarity_null(X, Y, unbiased=True)
    with pytest.raises(InputError, match="2 or more"):
        similarity_null(X, Y, n_permutations=1)
    with pytest.raises(InputError, match="1 or more"):
        similarity_draws(X, Y, n_bootstrap=0)
    with pytest.raises(InputError, match="each of 12 stimuli"):
        similarity_draws(X, Y, blocks=np.arange(3))


def test_too_many_stimuli_for_memory(monkeypatch):
    monkeypatch.setattr("topobrain.stats.representational_similarity.MAX_STIMULI", 50)
    X, Y = related(60, 9, 7)
    with pytest.raises(InputError, match="50 stimuli at most"):
        rsa(X, Y)
    assert linear_cka(X, Y) == pytest.approx(explicit_cka(X, Y))  # covariances of few units are small
