"""BLiMP: minimal pairs of acceptable and unacceptable sentences."""

from __future__ import annotations

from collections.abc import Sequence

from topobrain._checks import unknown
from topobrain.data.tables import read_columns
from topobrain.stimuli import StimulusSet
from topobrain.store.files import fetch, find_manifest


def load_blimp(uid: str | Sequence[str] | None = None) -> StimulusSet:
    """Load minimal pairs, to ask whether a model prefers the acceptable sentence.

    Parameters
    ----------
    uid
        One paradigm or several of the 67, e.g. ``"adjunct_island"`` (default: all).

    Returns
    -------
    StimulusSet
        Two rows a pair, the acceptable sentence first; 1,000 pairs a paradigm. Columns: ``condition`` (``good``,
        ``bad``), ``uid``, ``field`` (``morphology``, ``semantics``, ``syntax``, ``syntax_semantics`` as in the source),
        ``linguistics_term``, ``pair`` (identifier that the two rows share). In seven pairs of the source the two
        sentences are the same text (five of ``principle_A_case_2``, two of ``passive_1``); they are kept here as they
        are, and left out of the localizer ``blimp``.

    Raises
    ------
    UnknownNameError
        No such paradigm; near names are offered.
    DataFileError
        The file is missing or altered.
    InputError
        The file lacks a column.

    References
    ----------
    Warstadt et al. (2020) TACL 8:377.
    """
    import pandas as pd

    (path,) = fetch("blimp").values()
    needed = ["UID", "field", "linguistics_term", "pairID", "sentence_good", "sentence_bad"]
    frame = read_columns(path, needed)[needed]
    if uid is not None:
        wanted = [uid] if isinstance(uid, str) else list(uid)
        known = frame["UID"].unique().tolist()
        for name in wanted:
            if name not in known:
                raise unknown("BLiMP paradigm", name, known)
        frame = frame[frame["UID"].isin(wanted)]
    pairs = frame["UID"] + "-" + frame["pairID"].astype(str)
    sides = []
    for condition in ("good", "bad"):
        side = pd.DataFrame(
            {
                "stimulus": pairs + "-" + condition,
                "condition": condition,
                "uid": frame["UID"],
                "field": frame["field"],
                "linguistics_term": frame["linguistics_term"],
                "pair": pairs,
                "text": frame[f"sentence_{condition}"],
            }
        )
        sides.append(side)
    # A stable sort of the row numbers puts each bad sentence right behind its good one.
    table = pd.concat(sides).sort_index(kind="stable").reset_index(drop=True)
    manifest, paths = find_manifest("blimp")
    return StimulusSet(
        table["text"].tolist(), table.drop(columns="text"), name="blimp", provenance=manifest.provenance(*paths)
    )
