"""The map from sheet to cortex and paired smoothness: equal to a slow oracle, blind to nothing but places, fooled by no kind."""

import numpy as np
import pytest
import scipy.stats

from topobrain._checks import InputError
from topobrain.sheet import Sheet
from topobrain.stats import sheet_to_cortex as room
from topobrain.stats.folds import make_folds
from topobrain.stats.morans import layout_null, morans_i
from topobrain.stats.nulls import layout_permutations
from topobrain.stats.paired_smoothness import paired_smoothness
from topobrain.stats.planted_alignment import planted_alignment
from topobrain.stats.shared_components import held_out_components
from topobrain.stats.sheet_to_cortex import induced_orders, sheet_to_cortex_score, shuffled_within
from topobrain.stats.spatial_modes import PlaceGraph, cortex_modes, sheet_modes

SHEET = Sheet.grid(10, 10, wrapped=True)
N, V = 80, 50
FOLDS = make_folds(range(N), 4)


def planted(kind="topographic", sheet=SHEET, **options):
    return planted_alignment(sheet, kind, **{"n_stimuli": N, "n_voxels": V, **options})


def score(found, sheet=SHEET, **options):
    given = {"stimulus_folds": FOLDS, "n_null": 39, **options}
    return sheet_to_cortex_score(found.X, sheet, found.Y, found.places, **given)


class Slow:
    """The same score by explicit least squares over all pairs of stimuli and voxels, one fit at a time."""

    def __init__(self, X, B, Y, D, seed, alphas, n_voxel_folds):
        self.X, self.B, self.Y, self.D, self.alphas = X, B, Y, D, alphas
        rng = np.random.default_rng(seed)
        self.fold, self.inner = (rng.permutation(np.arange(Y.shape[1]) % n) for n in (n_voxel_folds, 3))

    def fit(self, x, y, rows, voxels, alpha):
        z = x[rows] - x[rows].mean(axis=0)
        whitening = np.linalg.inv(np.linalg.cholesky(z.T @ z)).T
        design = np.kron(self.D[voxels], z @ whitening)
        penalty = alpha * np.linalg.eigvalsh(self.D[voxels].T @ self.D[voxels]).mean()
        target = (y[rows] - y[rows].mean(axis=0))[:, voxels].ravel(order="F")
        g = np.linalg.solve(design.T @ design + penalty * np.eye(design.shape[1]), design.T @ target)
        g = whitening @ g.reshape(x.shape[1], -1, order="F")
        mean = x[rows].mean(axis=0)
        return lambda other, at: (x[other] - mean) @ g @ self.D[at].T

    def scores(self):
        r, penalties = np.zeros((len(FOLDS), self.Y.shape[1])), []
        for f, (train, test) in enumerate(FOLDS):
            x = (self.X - self.X[train].mean(axis=0)) / self.X[train].std(axis=0) @ self.B
            y = (self.Y - self.Y[train].mean(axis=0)) / self.Y[train].std(axis=0)
            for g in range(self.fold.max() + 1):
                loss = np.zeros(len(self.alphas))
                for k, (some, others) in enumerate(make_folds(range(len(train)), 3)):
                    known = np.flatnonzero((self.fold != g) & (self.inner != k))
                    held = np.flatnonzero((self.fold != g) & (self.inner == k))
                    wanted = y[np.ix_(train[others], held)] - y[np.ix_(train[some], held)].mean(axis=0)
                    for a, alpha in enumerate(self.alphas):
                        predict = self.fit(x, y, train[some], known, alpha)
                        loss[a] += ((wanted - predict(train[others], held)) ** 2).sum()
                penalties.append(self.alphas[loss.argmin()])
                predict = self.fit(x, y, train, np.flatnonzero(self.fold != g), penalties[-1])
                for j in np.flatnonzero(self.fold == g):
                    r[f, j] = np.corrcoef(predict(test, [j])[:, 0], y[test, j])[0, 1]
        return r, np.reshape(penalties, (len(FOLDS), -1))


def test_equals_explicit_least_squares_and_so_do_its_nulls():
    found = planted(unit_noise=1.0, voxel_noise=1.0)
    alphas, places = (0.01, 1.0, 100.0), found.places
    made = score(found, alphas=alphas, n_voxel_folds=3, n_cortex_modes=5, n_null=4, seed=7)
    B, D = sheet_modes(SHEET, 9), cortex_modes(places, 5)
    slow = Slow(found.X, B, found.Y, D, 7, alphas, 3)
    r, penalties = slow.scores()
    np.testing.assert_allclose(made.voxel_r, r.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(made.fold_r, r.mean(axis=1), atol=1e-9)
    np.testing.assert_array_equal(made.penalty, penalties)
    assert made.r == pytest.approx(r.mean(), abs=1e-9)
    units, voxels = (layout_permutations(n, 4, seed=7) for n in (SHEET.n_units, V))
    slow.B = B[units[3]]
    assert made.null_units[3] == pytest.approx(slow.scores()[0].mean(), abs=1e-9)
    slow.B, slow.Y = B, found.Y[:, voxels[3]]
    assert made.null_voxels[3] == pytest.approx(slow.scores()[0].mean(), abs=1e-9)


def test_predictions_give_the_score():
    found = planted()
    made = score(found)
    assert np.isfinite(made.prediction).all()
    for (_, test), r in zip(FOLDS, made.fold_r, strict=True):
        each = [np.corrcoef(made.prediction[test, j], found.Y[test, j])[0, 1] for j in range(V)]
        assert np.mean(each) == pytest.approx(r, abs=1e-9)


@pytest.mark.parametrize("wrapped", [True, False])
def test_mirrored_turned_and_shifted_sheets_score_the_same(wrapped):
    sheet = Sheet.grid(10, 10, wrapped=wrapped)
    found, image = planted(sheet=sheet), np.arange(100).reshape(10, 10)
    plain = score(found, sheet, n_null=2).r
    moves = [image[::-1], image[:, ::-1], image.T]
    if wrapped:
        moves.append(np.roll(image, (3, 4), axis=(0, 1)))
    for move in moves:
        assert score(found._replace(X=found.X[:, move.ravel()]), sheet, n_null=2).r == pytest.approx(plain, abs=1e-9)
    other = np.random.default_rng(0).permutation(100)
    assert abs(score(found._replace(X=found.X[:, other]), sheet, n_null=2).r - plain) > 0.02


def test_places_given_to_the_sheet_count_and_not_the_order_of_units():
    found, order = planted(), np.random.default_rng(1).permutation(100)
    moved = score(found._replace(X=found.X[:, order]), SHEET.with_places(order), n_null=2)
    assert moved.r == pytest.approx(score(found, n_null=2).r, abs=1e-9)


def test_topographic_alignment_is_found():
    made = score(planted())
    assert made.p == made.p_units == made.p_voxels == 1 / 40
    assert made.excess == pytest.approx(made.r - max(made.null_units.mean(), made.null_voxels.mean()))
    assert made.excess > 0.05


def test_shuffling_units_keeps_the_pls_score_and_destroys_both_spatial_scores():
    plain, shuffled = planted(), planted("shuffled units")
    held = [held_out_components(one.X, one.Y, FOLDS, 3) for one in (plain, shuffled)]
    np.testing.assert_allclose(held[1].r, held[0].r, atol=1e-6)
    assert held[0].r.mean(axis=0)[0] > 0.5
    smooth = [
        paired_smoothness(h.x_weights, SHEET, h.y_weights, one.places, n_null=99)
        for h, one in zip(held, (plain, shuffled), strict=True)
    ]
    assert smooth[0].p[0] == 0.01
    assert smooth[0].corrected[0] > 0.5
    assert smooth[1].p[0] > 0.05
    assert smooth[1].corrected[0] < 0.3
    made = score(shuffled)
    assert made.p_voxels == 1 / 40
    assert made.p == made.p_units > 0.05
    assert abs(made.r - made.null_units.mean()) < 2.5 * made.null_units.std()
    assert score(plain).p_units == 1 / 40


def test_shuffling_voxels_destroys_both_spatial_scores():
    made = score(planted("shuffled voxels"))
    assert made.p_voxels > 0.05
    assert made.p > 0.05
    found = planted("shuffled voxels")
    held = held_out_components(found.X, found.Y, FOLDS, 3)
    smooth = paired_smoothness(held.x_weights, SHEET, held.y_weights, found.places, n_null=99)
    assert smooth.unit_p[0] == 0.01
    assert smooth.p[0] == smooth.voxel_p[0] > 0.05


def test_smooth_sides_that_share_nothing_pass_for_smooth_only():
    found = planted("unrelated", unit_noise=1.0, voxel_noise=1.0)
    held = held_out_components(found.X, found.Y, FOLDS, 3)
    assert abs(held.r.mean(axis=0)[0]) < 0.25
    smooth = paired_smoothness(held.x_weights, SHEET, held.y_weights, found.places, n_null=99)
    assert smooth.p[0] == 0.01  # what smoothness cannot show
    made = score(found)
    assert abs(made.r) < 0.06
    assert made.p > 0.05


def test_blur_of_the_sheet_makes_maps_smooth_and_gives_the_mapping_nothing():
    found = planted("blurred")
    held = held_out_components(found.X, found.Y, FOLDS, 3)
    assert held.r.mean(axis=0)[0] > 0.5
    smooth = paired_smoothness(held.x_weights, SHEET, held.y_weights, found.places, n_null=99)
    assert smooth.p[0] == 0.01
    made = score(found)
    assert made.p_units > 0.05
    assert abs(made.r - made.null_units.mean()) < 0.03


@pytest.mark.parametrize("kind", ["blurred signal", "unmatched maps"])
def test_smooth_codes_of_a_shared_signal_are_found_though_maps_do_not_match(kind):
    made = score(planted(kind))
    assert made.p == 1 / 40
    assert made.excess > 0.05


def test_a_model_without_noise_of_its_own_is_read_from_any_places():
    made = score(planted(unit_noise=0.0))
    assert made.r == pytest.approx(made.null_units.mean(), abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shuffled units", "shuffled voxels"])
def test_p_is_uniform_where_places_do_not_matter(kind):
    folds, p = make_folds(range(45), 3), []
    sheet = Sheet.grid(6, 6)
    for seed in range(60):
        found = planted_alignment(sheet, kind, n_stimuli=45, n_voxels=30, smoothness=0.4, seed=seed)
        made = sheet_to_cortex_score(
            found.X, sheet, found.Y, found.places,
            stimulus_folds=folds, n_voxel_folds=3, alphas=(0.1, 10.0), n_null=19, seed=seed,
        )  # fmt: skip
        p.append(made.p_units if kind == "shuffled units" else made.p_voxels)
    jitter = np.random.default_rng(0).uniform(0, 0.05, len(p))  # p has steps of .05
    assert scipy.stats.kstest(np.array(p) - jitter, "uniform").pvalue > 0.01


def test_nothing_is_learned_from_what_is_held_out():
    found, rng = planted(), np.random.default_rng(0)
    plain = score(found, n_null=2)
    train, test = FOLDS.splits[1]
    wild = found.Y.copy()
    wild[test] = 100 * rng.standard_normal((len(test), V)) + 7
    np.testing.assert_allclose(
        score(found._replace(Y=wild), n_null=2).prediction[test], plain.prediction[test], atol=1e-9
    )
    other = found.Y.copy()
    other[:, 11] = rng.standard_normal(N)  # a voxel's own responses give its predictions their mean and scale only
    moved = score(found._replace(Y=other), n_null=2).prediction
    for train, test in FOLDS:
        made = [
            (one[test, 11] - y[train, 11].mean()) / y[train, 11].std()
            for one, y in ((plain.prediction, found.Y), (moved, other))
        ]
        np.testing.assert_allclose(made[0], made[1], atol=1e-9)


def test_draws_worked_on_together_do_not_change_numbers(monkeypatch):
    found = planted()
    plain = score(found, n_null=11)
    monkeypatch.setattr(room, "_DRAW_BYTES", 1)
    single = score(found, n_null=11)
    np.testing.assert_allclose(single.null_units, plain.null_units, atol=1e-12)
    np.testing.assert_allclose(single.null_voxels, plain.null_voxels, atol=1e-12)


def test_units_and_offsets_of_measurement_do_not_matter():
    found, rng = planted(), np.random.default_rng(0)
    units, voxels = rng.uniform(0.1, 20, SHEET.n_units), rng.uniform(0.1, 20, V)
    other = found._replace(X=found.X * units - 30, Y=found.Y * voxels + 1000)
    a, b = score(found, n_null=3), score(other, n_null=3)
    assert b.r == pytest.approx(a.r, abs=1e-8)
    np.testing.assert_allclose(b.null_units, a.null_units, atol=1e-8)


def test_constant_units_and_incomplete_voxels_are_left_out():
    found = planted()
    X, Y = found.X.copy(), found.Y.copy()
    X[:, [3, 40]] = 5.0
    Y[2, 7], Y[:, 9] = np.nan, 1.0
    Y[FOLDS.splits[0][1], 12] = 0.5  # constant in one fold
    made = score(found._replace(X=X, Y=Y))
    assert (made.n_units, made.n_voxels) == (98, 47)
    left_out = np.isnan(made.voxel_r)
    assert np.flatnonzero(left_out).tolist() == [7, 9, 12]
    assert np.isnan(made.prediction[:, left_out]).all()
    assert made.p == 1 / 40
    keep = ~left_out
    same = score(found._replace(X=X, Y=Y[:, keep], places=found.places[keep]))
    assert same.r == pytest.approx(made.r, abs=1e-12)


def test_shuffling_within_regions():
    labels = np.array([0, 1, 0, 1, 1, 0])
    orders = shuffled_within(labels, 20)
    assert (labels[orders] == labels).all()
    assert (np.sort(orders, axis=1) == np.arange(6)).all()
    assert len(np.unique(orders, axis=0)) > 5
    two = shuffled_within(np.repeat([0, 1], 8), 5)
    assert not np.array_equal(two[:, :8], two[:, 8:] - 8)  # regions of equal size are not shuffled alike
    found = planted()
    made = score(found, regions=np.arange(V), n_null=3)
    np.testing.assert_allclose(made.null_voxels, made.r, atol=1e-12)  # each voxel a region of its own: nothing moves
    halves = score(found, regions=(found.places[:, 0] > 0).astype(int))
    assert halves.null_voxels.mean() > score(found).null_voxels.mean()


def test_orders_that_are_induced():
    orders = layout_permutations(12, 200)
    some = np.array([1, 2, 5, 7, 11])
    induced = induced_orders(orders, some)
    assert (np.sort(induced, axis=1) == np.arange(5)).all()
    np.testing.assert_array_equal(induced_orders(orders, np.arange(12)), orders)
    stays = np.isin(orders[:, some], some)  # where a permutation lands on a member, so does the induced one
    np.testing.assert_array_equal(some[induced][stays], orders[:, some][stays])
    assert np.abs([(induced == k).mean(axis=0) - 0.2 for k in range(5)]).max() < 0.12


def test_orders_of_voxels_that_are_given():
    found, orders = planted(), layout_permutations(V, 39, seed=0)
    np.testing.assert_array_equal(score(found, voxel_orders=orders).null_voxels, score(found).null_voxels)


def test_inner_folds_that_are_given():
    found = planted()
    inner = [make_folds(range(len(train)), 3).splits for train, _ in FOLDS]
    assert score(found, inner_folds=inner).r == score(found).r
    assert np.isfinite(score(found, inner_folds=[make_folds(range(60), n).splits for n in (2, 3, 4, 2)]).r)


def test_global_random_state_is_left_alone_and_the_seed_decides():
    before = np.random.get_state()[1].tobytes()  # noqa: NPY002
    found = planted()
    a, b, c = (score(found, seed=seed, n_null=5) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a.null_units, b.null_units)
    assert not np.array_equal(a.null_units, c.null_units)
    assert np.random.get_state()[1].tobytes() == before  # noqa: NPY002


BROKEN = np.array([1.0] * (N - 1) + [np.nan])[:, None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sheet": Sheet.none(100)}, "Sheet.for_width"),
        ({"Y": np.ones((N, V))}, "0 of 50 voxels"),
        (
            {"Y": np.random.default_rng(0).standard_normal((N, 6)), "places": np.zeros((6, 3))},
            "Region averages are no map",
        ),
        ({"Y": np.ones((N - 1, V))}, "expected .stimulus, unit."),
        ({"X": np.ones((N, 100)) * BROKEN}, "missing or infinite"),
        ({"X": np.ones((N, 100))}, "0 of 100 units vary"),
        ({"places": np.zeros((V, 3))}, "more than one place"),
        ({"places": np.zeros((V - 1, 3))}, "each of 50 voxels"),
        (
            {"places": np.where(np.arange(V)[:, None] == 4, np.nan, np.arange(3.0 * V).reshape(V, 3))},
            "first is voxel 4",
        ),
        ({"n_sheet_modes": 51}, "between 2 and 50"),
        ({"n_cortex_modes": 26}, "between 2 and 25"),
        ({"n_cortex_modes": 1}, "between 2 and 25"),
        ({"n_voxel_folds": 1}, "between 2 and 25"),
        ({"n_voxel_folds": 2.5}, "whole number"),
        ({"n_sheet_modes": 3.5}, "whole number"),
        ({"n_cortex_modes": "3"}, "whole number"),
        ({"alphas": 0.1}, "above 0"),
        ({"regions": np.array([None, "a"] * (V // 2), dtype=object)}, "labels of one kind"),
        ({"voxel_orders": np.zeros((3, V), dtype=int)}, "3 permutations of 50 voxels"),
        ({"alphas": (1.0, -1.0)}, "above 0"),
        ({"alphas": ()}, "above 0"),
        ({"regions": np.zeros(3)}, "each of 50 voxels"),
        ({"n_null": 1}, "2 or more"),
        ({"stimulus_folds": make_folds(range(N), 40)}, "at least 3"),
    ],
)
def test_what_makes_no_map(change, message):
    found = planted()
    given = {"X": found.X, "sheet": SHEET, "Y": found.Y, "places": found.places}
    given |= {"stimulus_folds": FOLDS, "n_null": 3} | change
    with pytest.raises(InputError, match=message):
        sheet_to_cortex_score(**given)


def test_paired_smoothness_is_morans_i_of_both_sides():
    found = planted()
    graph = PlaceGraph(found.places)
    made = paired_smoothness(found.unit_fields, SHEET, found.voxel_fields, found.places, n_null=99, seed=2)
    np.testing.assert_allclose(made.unit_i, morans_i(found.unit_fields, SHEET))
    np.testing.assert_allclose(made.voxel_i, morans_i(found.voxel_fields, graph))
    np.testing.assert_allclose(made.voxel_null, layout_null(found.voxel_fields, graph, n_null=99, seed=2))
    mean = made.unit_null.mean(axis=1)
    np.testing.assert_allclose(made.unit_corrected, (made.unit_i - mean) / (1 - mean))
    np.testing.assert_allclose(made.corrected, np.sqrt(made.unit_corrected * made.voxel_corrected))
    assert (made.p == np.maximum(made.unit_p, made.voxel_p)).all()


def test_one_rough_side_is_no_pair():
    found, rng = planted(), np.random.default_rng(0)
    stripes = np.indices((10, 10))[0].ravel() % 2.0  # of the eight places around a unit, six have the other value
    made = paired_smoothness(stripes[None], SHEET, found.voxel_fields[:1], found.places, n_null=99)
    assert made.corrected[0] == 0
    assert made.p[0] > 0.4
    noise = paired_smoothness(found.unit_fields[:1], SHEET, rng.standard_normal((1, V)), found.places, n_null=99)
    assert noise.p[0] > 0.02
    assert noise.corrected[0] < 0.4


def test_maps_without_a_value_everywhere():
    found = planted()
    units, voxels = found.unit_fields.copy(), found.voxel_fields.copy()
    units[:, :9], voxels[:, 4] = np.nan, np.nan
    made = paired_smoothness(units, SHEET, voxels, found.places, n_null=99)
    assert np.isfinite(made.corrected).all()
    with pytest.raises(InputError, match="a pair for each"):
        paired_smoothness(units[:2], SHEET, voxels[:3], found.places)
    with pytest.raises(InputError, match="layout"):
        paired_smoothness(units, Sheet.none(100), voxels, found.places)
