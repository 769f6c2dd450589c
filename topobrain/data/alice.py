"""Brennan et al. (2016): 27 people listening to the first chapter of Alice in Wonderland."""

from __future__ import annotations

from typing import Literal

import numpy as np

from topobrain._checks import InputError, require_choice
from topobrain.data.tables import read_archive, read_columns
from topobrain.responses import BrainResponses
from topobrain.stats.time_series import SAME_TIME, remove_drift
from topobrain.stimuli import StimulusSet
from topobrain.store.files import fetch, find_manifest

BOLD_FILE = "alice_roi.npz"
WORDS_FILE = "words.csv"
TR_S = 2.0
"""Seconds from one volume to the next."""

START_S = 20.0
"""Audio time of the first volume kept, in seconds: the ten volumes of silence before the story were discarded."""

DRIFT_ORDER = 5
SILENCE = "(silence)"


def load_responses(resolution: Literal["6mm", "10mm"] = "6mm") -> BrainResponses:
    """Load BOLD time courses of story listening: one row a volume of 2 s.

    A fifth-order polynomial of time is removed from each time course. Volume k is the brain at audio time 20 + 2 k
    seconds and its text is what was spoken from then until the next volume; the haemodynamic delay is not removed:
    encode with delays.

    Parameters
    ----------
    resolution
        Radius of the regions, ``"6mm"`` or ``"10mm"``.

    Returns
    -------
    BrainResponses
        ``value (stimulus, voxel)`` with 362 volumes and 27 listeners x 6 regions, in the scanner's units around 0,
        ``design="timeseries"``. A text is the words whose onset lies in the volume, or ``"(silence)"``. Stimulus
        columns ``time_s`` (audio time), ``n_words``, ``word_rate`` (the authors' regressor, convolved with the
        haemodynamic response). Noise ceiling unknown. Listeners without data (s33) are left out.

    Raises
    ------
    DataFileError
        A file is missing or altered.
    InputError
        An array or a column is missing, or their lengths differ.

    References
    ----------
    Brennan et al. (2016) Brain Lang 157-158:81.
    """
    import pandas as pd

    require_choice("resolution", resolution, ("6mm", "10mm"))
    paths = fetch("alice", [BOLD_FILE, WORDS_FILE])
    arrays = read_archive(paths[BOLD_FILE], ["subjects", "rois", f"bold_{resolution}", "word_rate"])
    words = read_columns(paths[WORDS_FILE], ["onset_s", "word"])
    subjects, rois = arrays["subjects"].astype(str), arrays["rois"].astype(str)
    bold, word_rate = arrays[f"bold_{resolution}"].astype(np.float64), arrays["word_rate"]
    if bold.ndim != 3 or bold.shape[::2] != (len(subjects), len(rois)) or word_rate.shape != bold.shape[:2]:
        raise InputError(
            f"{paths[BOLD_FILE]}: bold {bold.shape} and word_rate {word_rate.shape} do not fit {len(subjects)} "
            f"subjects and {len(rois)} rois: expected (subject, volume, roi) and (subject, volume)"
        )
    usable = np.isfinite(bold).all(axis=(1, 2))
    bold, subjects, n_volumes = bold[usable], subjects[usable], bold.shape[1]
    series = bold.transpose(1, 0, 2).reshape(
        n_volumes, -1
    )  # (volume, listener x region), a listener's regions together

    times = START_S + TR_S * np.arange(n_volumes)
    spoken: list[list[str]] = [[] for _ in range(n_volumes)]
    for onset, word in zip(words["onset_s"].to_numpy(dtype=float), words["word"].astype(str), strict=True):
        volume = int(np.floor((onset - START_S) / TR_S + SAME_TIME))
        if 0 <= volume < n_volumes:
            spoken[volume].append(word)
    table = pd.DataFrame(
        {
            "stimulus": [f"volume{volume:03d}" for volume in range(n_volumes)],
            "time_s": times,
            "n_words": [len(said) for said in spoken],
            "word_rate": word_rate[usable][0].astype(np.float64),  # the same curve for every listener
        }
    )
    manifest, _ = find_manifest("alice")
    provenance = manifest.provenance(BOLD_FILE, WORDS_FILE)
    return BrainResponses.from_arrays(
        remove_drift(series, order=DRIFT_ORDER),
        StimulusSet([" ".join(said) or SILENCE for said in spoken], table, name="alice", provenance=provenance),
        roi=np.tile(rois, len(subjects)).tolist(),
        subject=np.repeat(subjects, len(rois)).tolist(),
        design="timeseries",
        provenance={
            **provenance,
            "resolution": resolution,
            "tr_s": TR_S,
            "preprocessing": f"polynomial drift of order {DRIFT_ORDER} removed",
        },
    )


def load_words(clitics: Literal["apart", "joined"] = "apart") -> StimulusSet:
    """Load the words of the story with their times: one stimulus a word.

    Parameters
    ----------
    clitics
        ``"apart"``: the 2,127 units of the authors' alignment, in which ``don't`` is two, ``do`` and ``n't``; ``"joined"``:
        clitics are written with the word before them, as in print and in the texts that language models and word counts
        know, and begin when that word begins.

    Returns
    -------
    StimulusSet
        Words in the order of the story, without punctuation. Columns ``onset_s`` and ``offset_s``: seconds on the clock of
        the responses' ``time_s`` (forced alignment, corrected by hand).

    Raises
    ------
    DataFileError
        The file is missing or altered.
    InputError
        A column is missing, or a word begins before the one in front of it.

    References
    ----------
    Brennan et al. (2016) Brain Lang 157-158:81.
    """
    import pandas as pd

    require_choice("way to write clitics", clitics, ("apart", "joined"))
    path = fetch("alice", [WORDS_FILE])[WORDS_FILE]
    table = read_columns(path, ["onset_s", "offset_s", "word"])
    onset, offset = (table[name].to_numpy(dtype=float) for name in ("onset_s", "offset_s"))
    if not (np.diff(onset) >= 0).all():
        row = int(np.flatnonzero(~(np.diff(onset) >= 0))[0]) + 1
        raise InputError(f"{path}: the word of row {row + 1} begins before the one in front of it (or has no onset)")
    words = [word.strip() for word in table["word"].astype(str)]  # some have a blank at their end
    if clitics == "joined":
        first = [i for i, word in enumerate(words) if i == 0 or not _is_clitic(word)]
        after = [*first[1:], len(words)]
        words = ["".join(words[start:stop]) for start, stop in zip(first, after, strict=True)]
        onset, offset = onset[first], offset[np.array(after) - 1]
    manifest, _ = find_manifest("alice")
    columns = {
        "stimulus": [f"word{number:04d}" for number in range(len(words))],
        "onset_s": onset,
        "offset_s": offset,
    }
    return StimulusSet(
        words,
        pd.DataFrame(columns),
        name="alice-words",
        provenance={**manifest.provenance(WORDS_FILE), "clitics": clitics},
    )


def _is_clitic(word: str) -> bool:
    return word.startswith("'") or word == "n't"
