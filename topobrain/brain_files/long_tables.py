"""Long tables: one row a subject, stimulus and region, as statistics programs write them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from topobrain._checks import InputError, listed, near, unknown
from topobrain.responses import BrainResponses, named_columns, read_table, real_numbers, whole_labels
from topobrain.stimuli import StimulusSet

if TYPE_CHECKING:
    import pandas as pd

METHODS = ("subjects", "repeats")
"""Ways to compute a noise ceiling from the table itself."""


def responses_from_long_table(
    table: str | Path | pd.DataFrame,
    *,
    value: str,
    text: str = "sentence",
    stimulus: str | None = None,
    roi: str | None = "roi",
    subject: str | None = "subject",
    repeat: str | None = None,
    group: str | None = None,
    select: Mapping[str, Any] | None = None,
    ceiling: float | str | Mapping[str, float] | None = None,
    average_subjects: bool = False,
    design: Literal["events", "timeseries"] = "events",
    provenance: Mapping[str, Any] | None = None,
) -> BrainResponses:
    """Which responses does a long table hold: one row a stimulus, one column a subject and region?

    Parameters
    ----------
    table
        A CSV, TSV or Parquet file, or a DataFrame.
    value
        Column of the responses.
    text
        Column of the stimulus texts.
    stimulus
        Column of the stimulus identifiers (default: the texts).
    roi, subject
        Columns of regions and people; None where there is only one.
    repeat
        Column that numbers repeats of a stimulus: they are averaged.
    group
        Column of labels that folds must not split (passage, run).
    select
        Column -> the value, or several, of the rows to keep.
    ceiling
        Noise ceiling in Pearson r: a number, region -> number, the name of a column that holds it, or how to compute it from
        the table: ``"subjects"`` sees people as repeats (the ceiling of one of them; with ``average_subjects`` that of their
        mean), ``"repeats"`` takes the column ``repeat``. Both are `topobrain.stats.noise_ceiling`, over the stimuli that
        everyone (every repeat) has.
    average_subjects
        Give the mean over people instead of each of them; a stimulus that one of them lacks is missing.
    design
        ``"events"`` or ``"timeseries"``: see `BrainResponses.from_arrays`.
    provenance
        Citation, licence, ...

    Returns
    -------
    BrainResponses
        Stimuli, people and regions in the order of the table; what the table lacks is NaN. Stimulus columns: those of the
        table that are constant for every stimulus.

    Raises
    ------
    DataFileError
        The file is missing or no table.
    InputError
        A column is missing (near names are offered) or not numeric, a row occurs twice, a stimulus has two texts, or a
        ceiling cannot be computed.

    Examples
    --------
    >>> import pandas as pd
    >>> rows = [(s, t, 0.1 * n) for n, t in enumerate(["a dog", "a cat"]) for s in ("p1", "p2")]
    >>> brain = responses_from_long_table(pd.DataFrame(rows, columns=["subject", "sentence", "bold"]), value="bold", roi=None)
    >>> brain.subjects, brain.values.shape
    (['p1', 'p2'], (2, 2))
    """
    import pandas as pd

    frame = table if isinstance(table, pd.DataFrame) else read_table(table)
    where = "the table" if isinstance(table, pd.DataFrame) else str(table)
    frame = named_columns(frame, where)
    key = stimulus or text
    for name in (value, text, key, roi, subject, repeat, group, *(select or {})):
        if name is not None and name not in frame.columns:
            close = near(name, frame.columns)
            guess = f" Did you mean {close[0]!r}?" if close else ""
            raise InputError(f"{where} has no column {name!r}.{guess} Columns: {listed(frame.columns)}")
    for name, wanted in (select or {}).items():
        several = [str(w) for w in (wanted if isinstance(wanted, list | tuple | set) else [wanted])]
        labels = frame[name].astype(str)
        for word in several:
            if word not in set(labels):
                raise unknown(f"{name} of {where}", word, sorted(set(labels)))
        frame = frame[labels.isin(several)]
    if frame.empty:
        raise InputError(f"{where}: no row is left with {dict(select or {})}")
    if not pd.api.types.is_numeric_dtype(frame[value]):
        raise InputError(f"column {value!r} of {where} is not numeric")
    if frame[value].dtype.kind == "c":
        raise InputError(f"column {value!r} of {where} holds complex numbers: expected real ones")
    if group is not None:
        whole_labels(frame[group], "group", where)
    codes = {name: _codes(frame, column) for name, column in (("s", key), ("p", subject), ("r", roi), ("k", repeat))}
    cube = np.full([len(words) for _, words in codes.values()], np.nan)
    at = tuple(code for code, _ in codes.values())
    flat = np.ravel_multi_index(at, cube.shape)
    if len(np.unique(flat)) < len(flat):
        twice = int(np.flatnonzero(pd.Series(flat).duplicated())[0])
        said = ", ".join(f"{c} {frame[c].iloc[twice]!r}" for c in (key, subject, roi, repeat) if c)
        raise InputError(
            f"{where} has more than one row for {said}. Name the column that tells them apart with repeat="
        )
    cube[at] = frame[value].to_numpy(dtype=np.float64)
    ids, people, regions = (codes[name][1] for name in ("s", "p", "r"))
    found, method = _ceilings(ceiling, cube, frame, codes, average_subjects, where)
    values = cube.mean(axis=3)
    if average_subjects:
        values = values.mean(axis=1, keepdims=True)
    shown = [f"mean of {len(people)}"] if average_subjects else people
    # A person without a region has no column there: all of it would be missing.
    kept = ~np.isnan(values).all(axis=0).ravel()
    if not kept.any():
        raise InputError(f"{where}: column {value!r} holds no number that every repeat has")
    name = "table" if isinstance(table, pd.DataFrame) else Path(table).stem
    return BrainResponses.from_arrays(
        values.reshape(len(ids), -1)[:, kept],
        _stimuli(frame, key, text, group, {value, subject, roi, repeat}, name, where),
        roi=np.tile(np.array(regions, dtype=object), len(shown))[kept].tolist(),
        subject=np.repeat(np.array(shown, dtype=object), len(regions))[kept].tolist(),
        ceiling=np.broadcast_to(found, (len(shown), len(regions))).ravel()[kept],
        design=design,
        provenance={
            **({} if isinstance(table, pd.DataFrame) else {"name": name, "file": Path(table).name}),
            **({"ceiling": method} if method else {}),
            **(provenance or {}),
        },
    )


def _codes(frame: pd.DataFrame, column: str | None) -> tuple[np.ndarray, list[str]]:
    """Return the number of each row's label, and the labels in order of first appearance."""
    if column is None:
        return np.zeros(len(frame), dtype=int), ["all"]
    import pandas as pd

    if frame[column].isna().any():
        raise InputError(f"column {column!r} is empty in row {int(np.flatnonzero(frame[column].isna())[0])}")
    numbers, words = pd.factorize(frame[column].astype(str))
    return np.asarray(numbers), [str(word) for word in words]


def _ceilings(
    given: Any,
    cube: np.ndarray,
    frame: pd.DataFrame,
    codes: Mapping[str, tuple[np.ndarray, list[str]]],
    average: bool,
    where: str,
) -> tuple[np.ndarray, str | None]:
    """Return noise ceilings that broadcast to (subject, region), and how they came about."""
    people, regions = codes["p"][1], codes["r"][1]
    if given is None or isinstance(given, int | float):
        return np.array(np.nan if given is None else float(given)), None
    if isinstance(given, Mapping):
        for name in given:
            if name not in regions:
                raise unknown("region of ceilings", name, regions)
        return real_numbers("ceiling", [[given.get(name, np.nan) for name in regions]]), None
    if given == "subjects":
        if len(people) < 2:
            raise InputError(f"a ceiling from subjects needs two or more of them, {where} has {listed(people)}")
        columns = [
            _ceiling_of(cube.mean(axis=3)[:, :, r].T, average, f"{regions[r]!r} of {where}")
            for r in range(len(regions))
        ]
        return np.array([columns]), f"from {len(people)} subjects"
    if given == "repeats":
        if cube.shape[3] < 2:
            raise InputError("a ceiling from repeats needs repeat=, the column that numbers them (two or more)")
        grid = [
            [
                _ceiling_of(cube[:, p, r].T, True, f"{regions[r]!r} of {people[p]!r} in {where}")
                for r in range(len(regions))
            ]
            for p in range(len(people))
        ]
        if average:
            raise InputError("a ceiling from repeats is each subject's own: use 'subjects' with average_subjects")
        return np.array(grid), f"from {cube.shape[3]} repeats"
    if not isinstance(given, str):
        raise InputError(
            f"ceiling is {given!r}: expected a number, region -> number, a column, or one of {listed(METHODS)}"
        )
    if given not in frame.columns:
        raise unknown("ceiling (a column, or a way to compute it)", given, [*METHODS, *frame.columns])
    if average:
        raise InputError(f"the ceilings of column {given!r} are each subject's own: they are not those of their mean")
    read = np.full((len(people), len(regions)), np.nan)
    column = real_numbers(f"ceiling column {given!r} of {where}", frame[given].to_numpy())
    read[codes["p"][0], codes["r"][0]] = column
    if not np.array_equal(read[codes["p"][0], codes["r"][0]], column, equal_nan=True):
        raise InputError(
            f"column {given!r} of {where} differs between stimuli: expected one ceiling a subject and region"
        )
    return read, f"column {given}"


def _ceiling_of(repeats: np.ndarray, of_mean: bool, what: str) -> float:
    """Return the ceiling of the mean of repeats (repeat, stimulus), or of one of them."""
    from topobrain.stats.ceiling import noise_ceiling, spearman_brown

    there = ~np.isnan(repeats).all(axis=1)
    complete = repeats[there][:, ~np.isnan(repeats[there]).any(axis=0)]
    if len(complete) < 2:
        return float("nan")  # only one person has the region
    if complete.shape[1] < 3:
        raise InputError(
            f"no noise ceiling for {what}: only {complete.shape[1]} stimuli are complete, expected 3 or more"
        )
    of_all = float(noise_ceiling(complete[:, :, np.newaxis])[0])
    return of_all if of_mean else float(np.sqrt(spearman_brown(of_all**2, 1.0 / len(complete))))


def _stimuli(
    frame: pd.DataFrame, key: str, text: str, group: str | None, used: set[str | None], name: str, where: str
) -> StimulusSet:
    """Return the stimuli with the columns that are constant for every one of them."""
    first = frame.drop_duplicates(key)
    per_stimulus = frame.groupby(frame[key].astype(str), sort=False)
    if (per_stimulus[text].nunique(dropna=False) > 1).any():
        label = str(per_stimulus[text].nunique(dropna=False).idxmax())
        raise InputError(f"stimulus {label!r} of {where} has more than one {text!r}")
    for label, words in zip(first[key], first[text], strict=True):
        if not isinstance(words, str) or not words.strip():
            raise InputError(f"stimulus {label!r} of {where} has an empty {text!r}: every stimulus needs text")
    others = [str(c) for c in frame.columns if c not in used | {key, text, group} and not str(c).startswith("Unnamed")]
    constant = [
        c
        for c in others
        if not any(x.isspace() or x == "/" for x in c) and (per_stimulus[c].nunique(dropna=False) == 1).all()
    ]
    table = first[constant].reset_index(drop=True)
    table["stimulus"] = first[key].astype(str).tolist()
    if group is not None:
        if (per_stimulus[group].nunique(dropna=False) > 1).any():
            raise InputError(f"column {group!r} of {where} differs within a stimulus: it cannot group them")
        table["group"] = first[group].astype(str).tolist()
    return StimulusSet(first[text].astype(str).tolist(), table, name=name)
