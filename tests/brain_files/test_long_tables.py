from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from topobrain._checks import InputError, UnknownNameError
from topobrain.brain_files import responses_from_long_table, side_by_side
from topobrain.responses import BrainResponses
from topobrain.stats.ceiling import noise_ceiling
from topobrain.stimuli import StimulusSet

PEOPLE, ROIS, N = ("p1", "p2", "p3"), ("IFG", "MFG"), 8


@pytest.fixture
def cube() -> np.ndarray:
    """Responses (stimulus, person, region) with a shared signal."""
    generator = np.random.default_rng(0)
    return generator.standard_normal((N, 1, 2)) + 0.7 * generator.standard_normal((N, 3, 2))


@pytest.fixture
def frame(cube) -> pd.DataFrame:
    rows = [
        {
            "item": f"B.{s}",
            "sentence": f"sentence {s}",
            "who": p,
            "region": r,
            "bold": cube[s, a, b],
            "length": s % 3,
            "nc": 0.4 + b / 10,
        }
        for b, r in enumerate(ROIS)
        for a, p in enumerate(PEOPLE)
        for s in range(N)
    ]
    return pd.DataFrame(rows).assign(nc=lambda f: np.where(f["region"] == "IFG", 0.4, 0.5))


COLUMNS = {"value": "bold", "stimulus": "item", "roi": "region", "subject": "who"}


@pytest.mark.parametrize("ending", ["parquet", "csv", "tsv", "frame"])
def test_a_long_table_becomes_responses(frame, cube, tmp_path: Path, ending: str) -> None:
    source: object = frame.sample(frac=1, random_state=0)
    if ending != "frame":
        source = tmp_path / f"long.{ending}"
        frame.to_parquet(source) if ending == "parquet" else frame.to_csv(source, sep="," if ending == "csv" else "\t")
    brain = responses_from_long_table(source, **COLUMNS)
    place = {label: n for n, label in enumerate(brain.labels("stimulus"))}
    for column, (who, region) in enumerate(zip(brain.labels("subject"), brain.labels("roi"), strict=True)):
        expected = cube[:, PEOPLE.index(who), ROIS.index(region)]
        np.testing.assert_allclose(brain.values[[place[f"B.{s}"] for s in range(N)], column], expected)
    assert set(brain.subjects) == set(PEOPLE)
    if ending != "frame":
        assert brain.labels("subject").tolist() == ["p1", "p1", "p2", "p2", "p3", "p3"]
        assert brain.stimuli.column("length").tolist() == [s % 3 for s in range(N)]
        assert brain.labels("text").tolist() == [f"sentence {s}" for s in range(N)]


def test_people_as_repeats_give_the_ceiling_of_one_and_of_the_mean(frame, cube) -> None:
    mean = responses_from_long_table(frame, **COLUMNS, ceiling="subjects", average_subjects=True)
    assert mean.subjects == ["mean of 3"]
    np.testing.assert_allclose(mean.values, cube.mean(axis=1))
    of_mean = noise_ceiling(cube.transpose(1, 0, 2))
    np.testing.assert_allclose(mean.data["ceiling"].values, of_mean)
    each = responses_from_long_table(frame, **COLUMNS, ceiling="subjects")
    # From the variances themselves: signal / (signal + noise) of a single person.
    noise = cube.var(axis=1, ddof=1).mean(axis=0)
    signal = cube.mean(axis=1).var(axis=0, ddof=1) - noise / 3
    np.testing.assert_allclose(each.data["ceiling"].values, np.tile(np.sqrt(signal / (signal + noise)), 3))
    assert (each.data["ceiling"].values[:2] < of_mean).all()


def test_repeats_are_averaged_with_a_ceiling_each(frame, cube) -> None:
    generator = np.random.default_rng(3)
    noise = generator.standard_normal((2, len(frame)))
    parts = [frame.assign(repeat=n, bold=frame["bold"] + noise[n]) for n in range(2)]
    brain = responses_from_long_table(pd.concat(parts), **COLUMNS, repeat="repeat", ceiling="repeats")
    shown = np.stack([part["bold"].to_numpy().reshape(2, 3, N) for part in parts])  # (repeat, region, person, stimulus)
    np.testing.assert_allclose(brain.values[:, 0], shown[:, 0, 0].mean(axis=0))
    expected = [float(noise_ceiling(shown[:, b, a][..., None])[0]) for a in range(3) for b in range(2)]
    np.testing.assert_allclose(brain.data["ceiling"].values, expected)
    with pytest.raises(InputError, match=r"more than one row for item 'B\.0', who 'p1', region 'IFG'.*repeat="):
        responses_from_long_table(pd.concat(parts), **COLUMNS)


def test_ceilings_may_be_given_or_lie_in_a_column(frame) -> None:
    assert responses_from_long_table(frame, **COLUMNS, ceiling="nc").data["ceiling"].values.tolist() == [0.4, 0.5] * 3
    assert responses_from_long_table(frame, **COLUMNS, ceiling={"MFG": 0.3}).data["ceiling"].values[1] == 0.3
    assert responses_from_long_table(frame, **COLUMNS, ceiling=0.6).data["ceiling"].values.tolist() == [0.6] * 6
    with pytest.raises(UnknownNameError, match=r"'subject'. Did you mean 'subjects'"):
        responses_from_long_table(frame, **COLUMNS, ceiling="subject")
    with pytest.raises(InputError, match="'length' of the table differs between stimuli"):
        responses_from_long_table(frame, **COLUMNS, ceiling="length")
    with pytest.raises(UnknownNameError, match=r"'MGF'. Did you mean 'MFG'"):
        responses_from_long_table(frame, **COLUMNS, ceiling={"MGF": 0.3})


def test_what_the_table_lacks_is_missing(frame) -> None:
    part = frame[~((frame["who"] == "p2") & (frame["region"] == "MFG"))]
    brain = responses_from_long_table(part, **COLUMNS)
    assert list(zip(brain.labels("subject"), brain.labels("roi"), strict=True)).count(("p2", "MFG")) == 0
    assert brain.values.shape == (N, 5)
    gap = frame[~((frame["who"] == "p2") & (frame["item"].isin(["B.2", "B.3"])))]
    brain = responses_from_long_table(gap, **COLUMNS, ceiling="subjects")
    assert np.isnan(brain.values).sum() == 4
    missing = brain.missing()
    assert missing[["first", "last", "n_stimuli", "n_voxels", "subjects"]].iloc[0].tolist() == [
        "B.2",
        "B.3",
        2,
        2,
        "p2",
    ]
    assert np.isfinite(brain.data["ceiling"].values).all()  # over the stimuli that everyone has


def test_rows_can_be_selected(frame) -> None:
    brain = responses_from_long_table(frame, **COLUMNS, select={"region": "MFG", "length": [0, 2]})
    assert brain.rois == ["MFG"]
    assert brain.values.shape[0] == 5
    with pytest.raises(UnknownNameError, match=r"'MFGs'. Did you mean 'MFG'"):
        responses_from_long_table(frame, **COLUMNS, select={"region": "MFGs"})


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda f: f, {"value": "bolt"}, "no column 'bolt'. Did you mean 'bold'"),
        (lambda f: f.assign(bold="x"), {}, "'bold' of the table is not numeric"),
        (lambda f: f.assign(sentence=f["who"]), {}, "has more than one 'sentence'"),
        (lambda f: f.assign(sentence=" "), {}, "has an empty 'sentence'"),
        (lambda f: f, {"group": "who"}, "'who' of the table differs within a stimulus"),
        (lambda f: f[f["who"] == "p1"], {"ceiling": "subjects"}, "needs two or more of them"),
        (lambda f: f, {"ceiling": "repeats"}, "needs repeat="),
        (lambda f: f[f["item"].isin(["B.0", "B.1"])], {"ceiling": "subjects"}, "only 2 stimuli are complete"),
        (lambda f: f.assign(bold=np.nan), {}, "holds no number"),
        (lambda f: f.assign(who=None), {}, "column 'who' is empty in row 0"),
    ],
)
def test_what_does_not_fit_is_explained(frame, change, options, message: str) -> None:
    with pytest.raises(InputError, match=message):
        responses_from_long_table(change(frame), **{**COLUMNS, **options})


# --- people side by side


def one(values: np.ndarray, ids: list[str], subject: str, **coords: np.ndarray) -> BrainResponses:
    stimuli = StimulusSet([f"text {label}" for label in ids], {"stimulus": ids})
    return BrainResponses.from_arrays(values, stimuli, subject=subject, voxel_coords=coords)


def test_people_are_joined_in_the_order_of_the_first() -> None:
    first = one(np.arange(6.0).reshape(3, 2), ["a", "b", "c"], "s1", vertex=np.array([4, 5]))
    second = one(np.arange(3.0).reshape(3, 1), ["c", "a", "b"], "s2", x_mm=np.array([1.5]))
    both = side_by_side([first, second])
    np.testing.assert_array_equal(both.values, [[0, 1, 1], [2, 3, 2], [4, 5, 0]])
    assert both.labels("subject").tolist() == ["s1", "s1", "s2"]
    assert both.data["vertex"].values.tolist() == [4, 5, -1]
    np.testing.assert_array_equal(both.data["x_mm"].values, [np.nan, np.nan, 1.5])
    assert both.data["voxel"].values.tolist() == [0, 1, 2]


def test_people_with_other_stimuli_are_not_joined() -> None:
    first = one(np.zeros((2, 1)), ["a", "b"], "s1")
    with pytest.raises(InputError, match="only the first have b, only the second c"):
        side_by_side([first, one(np.zeros((2, 1)), ["a", "c"], "s2")])
    other = BrainResponses(one(np.zeros((2, 1)), ["a", "b"], "s2").data.assign_coords(text=("stimulus", ["x", "y"])))
    with pytest.raises(InputError, match="stimulus 'a' is 'text a' for s1 and 'x' for s2"):
        side_by_side([first, other])
    with pytest.raises(InputError, match="no responses to put together"):
        side_by_side([])


def test_a_row_without_a_group_and_complex_numbers_are_named(frame) -> None:
    value = next(c for c in frame.columns if pd.api.types.is_float_dtype(frame[c]))
    kept = {"value": value, "roi": None, "subject": None}
    short = pd.DataFrame({"sentence": ["a", "b", "c"], value: [1.0, 2.0, 3.0], "run": ["r1", None, "r2"]})
    with pytest.raises(InputError, match=r"row 1 of the table has no label in column 'run' \(group\)"):
        responses_from_long_table(short, group="run", **kept)
    with pytest.raises(InputError, match="holds complex numbers"):
        responses_from_long_table(short.assign(**{value: [1j, 2j, 3j]}), **kept)
    with pytest.raises(InputError, match=r"ceiling is \[0\.5\]: expected a number"):
        responses_from_long_table(short, ceiling=[0.5], **kept)
    with pytest.raises(InputError, match="ceiling holds 'x': expected real numbers"):
        responses_from_long_table(short, ceiling={"all": "x"}, **kept)
