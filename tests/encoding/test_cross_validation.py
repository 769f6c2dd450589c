"""Folds of labelled responses: runs, passages, repeated stimuli, time."""

import numpy as np
import pytest

from topobrain._checks import InputError
from topobrain.activations import Activations
from topobrain.encoding import encode
from topobrain.encoding.cross_validation import TIME_BLOCK, TIME_GAP, make_design
from topobrain.responses import BrainResponses
from topobrain.stimuli import StimulusSet


def responses(n, *, design="events", texts=None, **columns):
    stimuli = StimulusSet(texts or [f"text number {i}" for i in range(n)], columns or None)
    return BrainResponses.from_arrays(np.random.default_rng(0).standard_normal((n, 2)), stimuli, design=design)


def own(n):
    return np.arange(n)


def test_each_group_is_left_out_once():
    groups = np.repeat(["run 1", "run 2", "run 3"], [5, 7, 4])
    design = make_design(responses(16, group=groups), own(16), "leave-one-out")
    assert [groups[test].tolist() for _, test in design.outer] == [["run 1"] * 5, ["run 2"] * 7, ["run 3"] * 4]
    for train, test in design.outer:
        assert sorted([*train, *test]) == list(range(16))
    assert design.outer.scheme == "leave-one-out"


def test_folds_of_one_group_are_drawn_as_a_whole():
    rng = np.random.default_rng(1)
    stimuli = StimulusSet([f"text number {i}" for i in range(96)], {"group": np.repeat(range(12), 8)})
    X = rng.standard_normal((96, 4))
    acts = Activations.from_arrays({"a": X}, stimuli)
    brain = BrainResponses.from_arrays(X[:, :3] + rng.standard_normal((96, 3)), stimuli)
    found = encode(acts, brain, folds="leave-one-out", alphas=[1.0, 10.0], n_bootstrap=2000)
    row, by_fold = found.summary().iloc[0], found.data["r"].values[0].mean(axis=1)
    assert found.provenance["encoding"]["interval"] == "95 % t interval over held-out groups"
    away = 2.2009852 * by_fold.std(ddof=1) / np.sqrt(12)  # Student's t with 11 degrees of freedom
    assert (row["low"], row["high"]) == pytest.approx((row["r"] - away, row["r"] + away))
    draws = found.data["region_draws"].values[0, 0]
    assert np.quantile(draws, [0.025, 0.975]) == pytest.approx([row["low"], row["high"]], abs=0.15 * away)
    quartiles = row["r"] + np.array([-1, 1]) * 0.3166 * away
    assert np.quantile(draws, [0.25, 0.75]) == pytest.approx(quartiles, abs=0.06 * away)
    best = found.best().iloc[0]
    assert (best["low"], best["high"]) == pytest.approx((row["low"], row["high"]))


def test_single_stimuli_cannot_be_left_out_one_by_one():
    with pytest.raises(InputError, match="needs groups of at least 3"):
        make_design(responses(10), own(10), "leave-one-out")


def test_gaps_do_not_reach_into_another_run():
    runs = np.repeat([1, 2], 60)
    design = make_design(responses(120, design="timeseries", run=runs), own(120), "contiguous", n_folds=4)
    bare = make_design(responses(120, design="timeseries"), own(120), "contiguous", n_folds=4)
    for number, (train, test) in enumerate(design.outer):
        assert set(np.flatnonzero(runs != runs[test[0]])) <= set(train)  # the whole other run trains
        same = train[runs[train] == runs[test[0]]]
        assert np.abs(same[:, None] - test[None]).min() > TIME_GAP
        assert len(train) >= len(bare.outer.splits[number][0])
    assert len(design.outer.splits[1][0]) > len(bare.outer.splits[1][0])  # the border of the runs lies at its end
    for (train, _), inner in zip(design.outer, design.inner_splits, strict=True):
        for inside, validation in inner:
            rows, held = train[inside], train[validation]
            together = runs[rows][:, None] == runs[held][None]
            assert np.abs(rows[:, None] - held[None])[together].min(initial=99) > TIME_GAP


def test_a_category_that_comes_again_in_each_run_needs_a_word():
    texts = ["face", "house", "cat", "shoe"] * 4
    shown = responses(16, texts=texts, group=np.repeat(range(4), 4))
    with pytest.raises(InputError, match="one group"):
        make_design(shown, own(16), "leave-one-out")
    design = make_design(shown, own(16), "leave-one-out", allow_duplicates=True)
    assert len(design.outer) == 4
    assert all(len(test) == 4 for _, test in design.outer)


def test_the_bootstrap_draws_stretches_of_time_and_whole_passages():
    series = make_design(responses(60, design="timeseries"), own(60), n_folds=2)
    assert np.bincount(series.blocks).tolist() == [TIME_BLOCK] * 6
    assert series.exchange == "circular"
    passages = make_design(responses(24, group=np.repeat(range(8), 3)), own(24), n_folds=2)
    assert np.array_equal(passages.blocks, passages.groups)
    assert passages.exchange == "circular"
    assert make_design(responses(24), own(24)).exchange == "stimuli"


def test_rows_equal_to_the_model_stay_together():
    repeats = np.repeat(np.arange(10), 2)
    design = make_design(responses(20), repeats, "shuffled")
    for train, test in design.outer:
        assert not set(repeats[train]) & set(repeats[test])


@pytest.mark.parametrize("folds", [True, None, 2.5, {"a": 1}])
def test_folds_of_no_known_kind_are_refused(folds):
    with pytest.raises(InputError):
        make_design(responses(20), own(20), folds)


def test_inner_folds_need_two():
    with pytest.raises(InputError, match="inner_folds must be 2 or more, got 1"):
        make_design(responses(20), own(20), inner_folds=1)


def test_reach_and_stretches_follow_the_time_between_volumes():
    stimuli = StimulusSet([f"text number {i}" for i in range(300)])
    values = np.random.default_rng(0).standard_normal((300, 2))
    brain = BrainResponses.from_arrays(values, stimuli, design="timeseries", provenance={"tr_s": 0.8})
    design = make_design(brain, own(300), n_folds=3)
    assert (design.gap, design.block) == (15, 25)
    assert np.bincount(design.blocks).tolist() == [25] * 12
    unknown = make_design(responses(300, design="timeseries"), own(300), n_folds=3)
    assert (unknown.gap, unknown.block) == (TIME_GAP, TIME_BLOCK)


def test_stretches_do_not_reach_into_another_run():
    runs = np.repeat([1, 2], [55, 65])
    design = make_design(responses(120, design="timeseries", run=runs), own(120), n_folds=4)
    assert all(len(set(runs[design.blocks == block])) == 1 for block in np.unique(design.blocks))


def test_explicit_folds_of_a_time_series_must_keep_the_gap():
    brain = responses(100, design="timeseries")
    every_fifth = [(np.flatnonzero(own(100) % 5 != k), np.flatnonzero(own(100) % 5 == k)) for k in range(5)]
    with pytest.raises(InputError, match="gap"):
        make_design(brain, own(100), every_fifth)
    assert make_design(brain, own(100), every_fifth, gap=0).gap == 0
    apart = [(np.arange(40, 100), np.arange(30)), (np.arange(60), np.arange(70, 100))]
    assert make_design(brain, own(100), apart).gap == TIME_GAP


def test_a_fold_number_a_row_is_enough():
    numbers = np.repeat([0, 1, 2], 10)
    design = make_design(responses(30), own(30), numbers)
    assert [test.tolist() for _, test in design.outer] == [list(range(k * 10, k * 10 + 10)) for k in range(3)]


def test_a_session_of_two_runs_has_two_folds():
    brain = responses(40, group=np.repeat(["run 1", "run 2"], 20))
    design = make_design(brain, own(40))
    assert len(design.outer) == 2
    with pytest.raises(InputError, match=r'all of one group.*selection="gcv"'):
        _ = design.inner_splits


def test_inner_folds_keep_other_runs_and_count_time_in_true_rows():
    runs = np.repeat([1, 2], 60)
    design = make_design(responses(120, design="timeseries", run=runs), own(120), "contiguous", n_folds=4)
    for (train, _), inner in zip(design.outer, design.inner_splits, strict=True):
        for inside, validation in inner:
            rows, held = train[inside], train[validation]
            near = np.abs(train[:, None] - held[None]) <= TIME_GAP
            same = runs[train][:, None] == runs[held][None]
            lost = (near & same).any(axis=1)
            assert set(rows) == set(train[~lost]) - set(held)


def test_a_story_heard_twice_is_refused():
    words = [f"word{i} word{i + 1}" if i % 4 else "(silence)" for i in range(60)]
    brain = responses(120, design="timeseries", texts=[*words, *words], run=np.repeat([1, 2], 60))
    twice = np.tile(own(60), 2)
    with pytest.raises(InputError, match=r"fold 0: \d+% of its volumes .*a story heard twice"):
        make_design(brain, twice, n_folds=2)
    assert make_design(brain, own(120), n_folds=2).time_series  # other features: another voice, another film
    assert make_design(brain, twice, n_folds=2, allow_duplicates=True).time_series
    once = responses(60, design="timeseries", texts=words)
    assert make_design(once, own(60), n_folds=2).time_series
