"""integrate against the plain way: every swapped text read alone, the whole array of changes, and numpy on it."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

import topobrain as tb
from topobrain import stats
from topobrain.integration.measuring import N_HALVES, Study, measure_windows
from topobrain.integration.reading import Direction
from topobrain.integration.result import MAPS
from topobrain.models.llama2c import load_stories260k
from topobrain.stats.integration_windows import FORMS, InfluenceSums, LagWindow, window_width
from topobrain.stats.integration_windows.forms import N_PARAMETERS

LAYERS = ["layers.1", "layers.4"]
N, N_WORDS, SENTENCE, MAX_LAG, SEED, FOLDS = 9, 24, 8, 7, 5, 4
LAGS = np.arange(MAX_LAG + 1)
MEASURED = np.arange(MAX_LAG + 2, N_WORDS)
DRAWS = {"measured": 100, "swapped": 50}


def word_states(model, text):
    """Return the mean state of the tokens of each word (word, unit) of a text that is read alone."""
    read = model.record([text], LAYERS)
    word = np.asarray(read.word[0])
    parts = [np.asarray(read.values[layer][0], dtype=np.float64) for layer in LAYERS]
    return np.concatenate([[part[word == n].mean(axis=0) for n in range(N_WORDS)] for part in parts], axis=1)


@pytest.fixture(scope="module")
def study():
    """Return a model, swaps, and what each swap changes at each word (sequence, swapped, measured, unit)."""
    model = load_stories260k(device="cpu")
    sequences = tb.load_stimuli("simulated-sentence-sequences", n=N, n_sentences=3, sentence_words=SENTENCE)
    swaps = tb.make_swaps(model, sequences, "random", seed=3)
    changes = []
    for number, text in enumerate(sequences.texts):
        own = word_states(model, text)
        changes.append([np.abs(own - word_states(model, other)) for other in swaps.texts(number)])
    return SimpleNamespace(model=model, sequences=sequences, swaps=swaps, changes=np.array(changes))


@pytest.fixture(scope="module", params=list(DRAWS))
def found(request, study):
    """Return the result of `integrate`, and how it divides."""
    result = tb.integrate(
        study.model, study.sequences, swap=study.swaps, max_lag=MAX_LAG, layers=LAYERS, normalise=request.param,
        n_bootstrap=DRAWS[request.param], n_null=5, held_out_folds=FOLDS, max_se=0.018, seed=SEED,
    )  # fmt: skip
    return SimpleNamespace(result=result, normalise=request.param, **{k: v.values for k, v in result.data.items()})


def theta(changes, normalise, weight=None):
    """Return influence curves (lag, unit) from all changes."""
    D = np.tensordot(np.ones(N) if weight is None else weight, changes, axes=1)
    curves = []
    for lag in LAGS:
        above = D[MEASURED - lag, MEASURED]
        below = D[MEASURED, MEASURED] if normalise == "measured" else D[MEASURED - lag, MEASURED - lag]
        curves.append(np.median(above / below, axis=0))
    return np.array(curves)


def yoking(changes, normalise, weight=None):
    """Return yoking steps (word, unit) and the yoking index (unit,) from all changes."""
    D = np.tensordot(np.ones(N) if weight is None else weight, changes, axes=1)
    own = D[np.arange(N_WORDS), np.arange(N_WORDS)]
    steps = np.full(own.shape, np.nan)
    for k in range(1, N_WORDS - SENTENCE + 1):
        here, there = (np.array([D[j, j + i] for i in range(SENTENCE - 1)]) for j in (k, k + 1))
        if normalise == "measured":
            steps[k + 1] = (there - here).mean(axis=0) / np.median(own[1:], axis=0)
        else:
            steps[k + 1] = (there / own[k + 1] - here / own[k]).mean(axis=0)
    return steps, steps[[SENTENCE, 2 * SENTENCE]].mean(axis=0)


def layer_units(model):
    edges = np.cumsum([0, *(model.sheets[layer].n_units for layer in LAYERS)])
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def test_curves_yoking_and_influence_are_those_of_all_changes(study, found):
    assert np.abs(found.theta - theta(study.changes, found.normalise)).max() < 1e-5
    steps, index = yoking(study.changes, found.normalise)
    assert np.abs(found.yoking - index).max() < 1e-5
    for number, units in enumerate(layer_units(study.model)):
        typical = np.array([np.median(step) for step in steps[:, units]])
        assert np.array_equal(np.isnan(found.yoking_step[:, number]), np.isnan(typical))
        assert np.nanmax(np.abs(found.yoking_step[:, number] - typical)) < 1e-5
    assert np.isnan(found.yoking_step[1]).all()
    own = study.changes[:, np.arange(N_WORDS), np.arange(N_WORDS)].mean(axis=0)
    assert np.abs(found.influence / np.median(own[2:], axis=0) - 1).max() < 1e-5


def test_standard_errors_are_those_of_an_own_bootstrap(study, found):
    rng = np.random.default_rng(99)
    draws = [np.bincount(rng.integers(0, N, N), minlength=N) for _ in range(300)]
    curves = np.array([theta(study.changes, found.normalise, draw) for draw in draws])
    expected = {
        "theta": curves.std(axis=0, ddof=1)[1:],
        "yoking": np.std([yoking(study.changes, found.normalise, draw)[1] for draw in draws], axis=0, ddof=1),
        "width": np.array([window_width(curve, LAGS).half for curve in curves]).std(axis=0, ddof=1),
    }
    for name, spread in expected.items():
        got = getattr(found, f"{name}_se")
        ratio = (got[1:] if name == "theta" else got) / (spread * np.sqrt(N / (N - 1)))
        assert np.isfinite(ratio).mean() > 0.3
        assert np.nanmedian(ratio) == pytest.approx(1, abs=0.15), name


def test_forms_are_judged_by_their_own_loss(study, found):
    n = LAGS.size
    for number, form in enumerate(FORMS):
        loss = ((found.theta - stats.fit_windows(found.theta, form=form).fitted) ** 2).sum(axis=0)
        expected = n * np.log(loss / n) + N_PARAMETERS[form] * np.log(n)
        assert np.abs(found.bic[number] - expected).max() < 1e-6


def sums_of(changes):
    """Return the sums of all changes, read alone: here rounding cannot part a fit from the one it is compared with."""
    sums = InfluenceSums(LagWindow(N_WORDS, MAX_LAG), N, changes.shape[-1], "float64")
    for sequence, swapped in itertools.product(range(N), range(1, N_WORDS)):
        sums.add(sequence, swapped, changes[sequence, swapped, sums.window.around(swapped)])
    sums.n_sequences[:] = 1
    sums.floor = np.zeros(sums.n_units)
    return sums


def measured(study, sums, normalise="measured", folds=0):
    sheets = {layer: study.model.sheets[layer] for layer in LAYERS}
    whole = Study(sums, sheets, normalise, Direction(True, np.zeros(len(LAYERS))), 0, SEED)
    return measure_windows(whole, n_bootstrap=0, n_null=0, folds=folds, max_se=1.0)


def test_held_out_losses_are_those_of_sequences_left_out(study, found):
    fold = np.random.default_rng((SEED, 3)).permutation(np.arange(N) % FOLDS)
    loss = np.zeros((len(FORMS), found.theta.shape[1]))
    for number in range(FOLDS):
        train, test = (theta(study.changes, found.normalise, one) for one in (fold != number, fold == number))
        for row, form in enumerate(FORMS):
            loss[row] += ((test - stats.fit_windows(train, form=form).fitted) ** 2).sum(axis=0) / FOLDS
    exact = measured(study, sums_of(study.changes), found.normalise, FOLDS)
    assert np.abs(exact["held_out_loss"][1] - loss).max() < 1e-9
    assert np.array_equal(exact["best_form"][1], loss.argmin(axis=0))
    assert np.median(np.abs(found.held_out_loss - loss)) < 1e-6
    assert (found.best_form == loss.argmin(axis=0)).mean() > 0.98


def test_reliability_is_that_of_halves_without_a_sequence_in_common(study, found):
    rng = np.random.default_rng((SEED, 2))
    units, layers = [], []
    for _ in range(N_HALVES):
        first = np.isin(np.arange(N), rng.permutation(N)[: N // 2])
        one, two = (theta(study.changes, found.normalise, half)[1:] for half in (first, ~first))
        r = np.array([np.corrcoef(one[:, n], two[:, n])[0, 1] for n in range(one.shape[1])])
        units.append(np.maximum(2 * r / (1 + r), -1))
        r = np.array([np.corrcoef(one[:, own].ravel(), two[:, own].ravel())[0, 1] for own in layer_units(study.model)])
        layers.append(2 * r / (1 + r))
    assert np.abs(found.reliability - np.mean(units, axis=0)).max() < 1e-4
    assert np.abs(found.layer_reliability - np.mean(layers, axis=0)).max() < 1e-5
    assert abs(np.diff(found.layer_reliability)) > 1e-3  # each layer has its own


def test_morans_i_is_that_of_the_units_that_are_known(study, found):
    compared = 0
    for layer, name in itertools.product(LAYERS, MAPS):
        moran = found.result.spatial(layer, name)["morans_i"]
        shown = found.result.values(layer, name)
        if np.isfinite(moran):
            assert moran == pytest.approx(stats.morans_i(shown, study.model.sheets[layer]), abs=1e-12)
            compared += not np.isfinite(shown).all()
    assert compared


def test_the_floor_of_a_layer_is_that_of_its_noisiest_unit(study):
    sums = sums_of(study.changes)
    sums.floor = np.random.default_rng(0).uniform(0, 1e-6, sums.n_units)
    own = np.median(study.changes[:, np.arange(N_WORDS), np.arange(N_WORDS)].mean(axis=0)[2:], axis=0)
    expected = [sums.floor[units].max() / np.median(own[units]) for units in layer_units(study.model)]
    assert measured(study, sums)["floor"][1] == pytest.approx(expected, rel=1e-9)
