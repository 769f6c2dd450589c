"""Eight linguistic suites of matched sentences, each a contrast of two conditions; generated, seeded, without download.

Question answered: which units tell intact sentences from scrambled ones, people from things, sense from nonsense,
grammatical from ungrammatical sentences, once everything else is equal? Every suite comes in pairs of sentences that
differ in what the contrast is about and are matched in the rest; `suite_table` gives the numbers.

The sentences are made by topobrain from its own templates and word lists. They are **not** the suites of the Topoformer
study, which are not public: results on them are results on these sentences. They are stimuli, not simulated data.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from topobrain._checks import unknown
from topobrain.data.suites import (
    acceptability,
    agreement,
    animacy,
    concreteness,
    gardenpath,
    intactness,
    licensing,
    visuomotor,
)
from topobrain.data.suites.acceptability import load_acceptability
from topobrain.data.suites.agreement import load_agreement
from topobrain.data.suites.animacy import load_animacy
from topobrain.data.suites.concreteness import load_concreteness
from topobrain.data.suites.gardenpath import load_gardenpath
from topobrain.data.suites.intactness import load_intactness
from topobrain.data.suites.licensing import load_licensing
from topobrain.data.suites.pairs import Suite, words_of
from topobrain.data.suites.visuomotor import load_visuomotor
from topobrain.stimuli import Contrast, StimulusSet

if TYPE_CHECKING:
    import pandas as pd

SUITES: dict[str, tuple[Suite, Callable[..., StimulusSet]]] = {
    "intactness": (intactness.SUITE, load_intactness),
    "animacy": (animacy.SUITE, load_animacy),
    "concreteness": (concreteness.SUITE, load_concreteness),
    "visuomotor": (visuomotor.SUITE, load_visuomotor),
    "acceptability": (acceptability.SUITE, load_acceptability),
    "agreement": (agreement.SUITE, load_agreement),
    "licensing": (licensing.SUITE, load_licensing),
    "gardenpath": (gardenpath.SUITE, load_gardenpath),
}
"""Every suite: what it contrasts, and what loads it. Its name among data sets has ``suite-`` in front."""


def load_suite(name: str, **options: Any) -> StimulusSet:
    """Return a suite by name.

    Parameters
    ----------
    name
        One of `SUITES`, with or without ``suite-`` in front.
    **options
        ``seed=0``, ``n=80`` (pairs); for ``gardenpath`` also ``variant="all"``.

    Returns
    -------
    StimulusSet
        ``2 n`` sentences with columns ``condition``, ``item``, ``template`` and those of the suite.

    Raises
    ------
    UnknownNameError
        No such suite or option; near names are offered.
    InputError
        An option has a value that cannot be used.

    Examples
    --------
    >>> load_suite("animacy", n=40)
    StimulusSet('suite-animacy', 80 stimuli, columns: condition, item, template, noun, n_words, mean_word_length)
    """
    suite, loader = _suite(name)
    accepted = list(inspect.signature(loader).parameters)
    for option in options:
        if option not in accepted:
            raise unknown(f"option of the {suite.name} suite", option, accepted)
    return loader(**options)


def suite_contrast(name: str) -> Contrast:
    """Return the contrast of a suite, to hand to `localize`.

    >>> suite_contrast("animacy")
    Contrast(name='animacy', on=('animate',), off=('inanimate',), by='condition')
    """
    return _suite(name)[0].contrast


def _suite(name: str) -> tuple[Suite, Callable[..., StimulusSet]]:
    short = str(name).removeprefix("suite-")
    if short not in SUITES:
        raise unknown("suite", name, SUITES)
    return SUITES[short]


def suite_table(*, seed: int = 0) -> pd.DataFrame:
    """Return how well each suite is matched, as it loads without further options.

    Parameters
    ----------
    seed
        Seed of the suites.

    Returns
    -------
    DataFrame
        One row a suite: ``suite``, ``title``, ``contrast`` ("animate > inanimate"), ``n`` (sentences), ``words_on`` and
        ``words_off`` (mean words a sentence), ``letters_on`` and ``letters_off`` (mean letters a word), ``shared_types``
        (share of the different words that occur in both conditions, 0 to 1) and ``shared_words`` (share of all
        occurrences of words that have a counterpart in the other condition; 1 where every word is equally frequent in
        both).

    Examples
    --------
    >>> table = suite_table().set_index("suite")
    >>> float(table.loc["agreement", "shared_words"])
    1.0
    """
    import pandas as pd

    rows = []
    for suite, loader in SUITES.values():
        stimuli = loader(seed=seed)
        sides = [stimuli.where(condition=condition) for condition in (suite.on, suite.off)]
        on, off = (Counter(word for text in side.texts for word in words_of(text)) for side in sides)
        words = [side.table["n_words"] for side in sides]
        letters = [
            float((side.table["mean_word_length"] * n).sum() / n.sum()) for side, n in zip(sides, words, strict=True)
        ]
        rows.append(
            {
                "suite": suite.name,
                "title": suite.title,
                "contrast": f"{suite.on} > {suite.off}",
                "n": len(stimuli),
                "words_on": float(words[0].mean()),
                "words_off": float(words[1].mean()),
                "letters_on": letters[0],
                "letters_off": letters[1],
                "shared_types": len(on.keys() & off.keys()) / len(on.keys() | off.keys()),
                "shared_words": 2 * (on & off).total() / (on.total() + off.total()),
            }
        )
    return pd.DataFrame(rows)


__all__ = [
    "SUITES",
    "Suite",
    "load_acceptability",
    "load_agreement",
    "load_animacy",
    "load_concreteness",
    "load_gardenpath",
    "load_intactness",
    "load_licensing",
    "load_suite",
    "load_visuomotor",
    "suite_contrast",
    "suite_table",
]
