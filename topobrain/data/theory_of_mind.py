"""The theory-of-mind localizer: stories about false beliefs against stories about outdated photographs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from topobrain._checks import DataFileError, InputError, require_choice
from topobrain.stimuli import StimulusSet
from topobrain.store.files import fetch, find_manifest

N_STORIES = 10
"""Stories a condition."""

CONDITIONS = {"b": "belief", "p": "photo"}
ANSWERS = ("True", "False", "seeded")

_CHOICE = re.compile(r"\bTrue\b[\s/]*\bFalse\b\s*$")


def load_theory_of_mind(*, answer: str | None = None, question: bool = True, seed: int = 0) -> StimulusSet:
    """Load stories about what someone wrongly believes, and about pictures that no longer show what is so.

    Both ask for a representation that differs from reality; only the first asks for someone's mind. Two caveats: the photo
    stories are harder to answer, and the two sets differ in wording, which drives language areas too.

    Parameters
    ----------
    answer
        What follows the question: None (nothing), ``"True"``, ``"False"``, or ``"seeded"``: half of the stories of each
        condition, drawn with the seed, get ``True``, the others ``False``. The published localizer for language models
        drew it without a seed, so its masks cannot be made again.
    question
        Whether the statement to be judged follows the story.
    seed
        Of ``answer="seeded"``.

    Returns
    -------
    StimulusSet
        20 texts. Columns: ``condition`` (``belief``, ``photo``), ``item`` (1 to 10), ``answer`` (``"True"``, ``"False"``,
        ``"none"``), ``half`` (``odd``, ``even`` by the number of the item).

    Raises
    ------
    DataFileError
        The files are not in the store (the message says where they are had and where they go), or cannot be read.
    InputError
        A file is empty, or an answer is asked for without a question.
    UnknownNameError
        The answer is not one of those above.

    References
    ----------
    Dodell-Feder, Koster-Hale, Bedny & Saxe (2011) NeuroImage 55:705: the stories. Front. Psychol. (2011) 2:316 and Shain
    et al. (2022): the caveats.
    """
    import pandas as pd

    if answer is not None:
        require_choice("answer", answer, ANSWERS)
        if not question:
            raise InputError(f"answer={answer!r} needs the question it answers; leave question=True")
    files = fetch("theory-of-mind")
    drawn = _answers(answer, seed)
    texts, rows = [], []
    for code, condition in CONDITIONS.items():
        for item in range(1, N_STORIES + 1):
            text = _joined(files[f"text_files/{item}{code}_story.txt"])
            given = drawn[condition][item - 1]
            if question:
                asked = _CHOICE.sub("", _joined(files[f"text_files/{item}{code}_question.txt"])).strip()
                text = f"{text}\nTrue or false? {asked}"
            if given != "none":
                text = f"{text}\nAnswer: {given}"
            texts.append(text)
            rows.append(
                {
                    "stimulus": f"{condition}-{item:02d}",
                    "condition": condition,
                    "item": item,
                    "answer": given,
                    "half": "odd" if item % 2 else "even",
                }
            )
    manifest, paths = find_manifest("theory-of-mind")
    provenance: dict[str, Any] = {**manifest.provenance(*paths), "question": question, "answer": answer or "none"}
    if answer == "seeded":
        provenance["seed"] = seed
    return StimulusSet(texts, pd.DataFrame(rows), name="theory-of-mind", provenance=provenance)


def _answers(answer: str | None, seed: int) -> dict[str, list[str]]:
    """Return the answer of each story; drawn ones are balanced within each condition, so that none goes with it."""
    if answer != "seeded":
        return {condition: [answer or "none"] * N_STORIES for condition in CONDITIONS.values()}
    generator = np.random.default_rng(seed)
    half = np.array(["True", "False"]).repeat(N_STORIES // 2)
    return {condition: generator.permutation(half).tolist() for condition in CONDITIONS.values()}


def _joined(path: Path) -> str:
    """Return the text of a file on one line; the line breaks of these files are those of a screen."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataFileError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", errors="replace")  # written years ago on Windows: curly quotes
    text = " ".join(text.split())
    if not text:
        raise InputError(f"{path} holds no text: expected a story or a question")
    return text
