"""Stimuli shown more than once: mean responses, and what the repeats say about the noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from topobrain._checks import InputError, listed, near


def average_repeats(
    values: np.ndarray, order: Sequence[str], ids: Sequence[str]
) -> tuple[np.ndarray, np.ndarray | None, list[int]]:
    """Return the mean response to each stimulus, the noise ceiling, and how often each was shown.

    Parameters
    ----------
    values
        Responses (presentation, voxel).
    order
        Identifier of the stimulus of each presentation.
    ids
        Identifiers of the stimuli, in the order wanted.

    Returns
    -------
    mean : array
        (stimulus, voxel); NaN where any presentation is NaN, so that means never rest on different numbers of repeats.
    ceiling : array or None
        Noise ceiling of those means in Pearson r (voxel,), `topobrain.stats.noise_ceiling`; None unless there are at
        least three stimuli and all were shown equally often, at least twice.
    counts : list of int
        Presentations of each stimulus.

    Raises
    ------
    InputError
        ``order`` has another length than there are presentations, or names a stimulus that there is not.
    """
    if len(order) != len(values):
        raise InputError(f"order names {len(order)} stimuli for {len(values)} volumes: expected one each")
    rows: dict[str, list[int]] = {label: [] for label in ids}
    for row, label in enumerate(order):
        if label not in rows:
            close = near(label, ids)
            guess = f" Did you mean {close[0]!r}?" if close else ""
            raise InputError(f"order names {label!r} (volume {row}), which is no stimulus.{guess}")
        rows[label].append(row)
    absent = [label for label, at in rows.items() if not at]
    if absent:
        raise InputError(f"order never names {len(absent)} of the stimuli: {listed(absent, 5)}")
    counts = [len(at) for at in rows.values()]
    mean = np.stack([values[at].mean(axis=0) for at in rows.values()])
    if len(set(counts)) > 1 or counts[0] < 2 or len(ids) < 3:
        return mean, None, counts
    from topobrain.stats.ceiling import noise_ceiling

    ceiling = noise_ceiling(values[np.array(list(rows.values())).T])
    return mean, np.asarray(ceiling), counts
