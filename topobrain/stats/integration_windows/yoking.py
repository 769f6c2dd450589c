"""Structure yoking: do integration windows stop where a sentence starts?"""

from __future__ import annotations

from typing import get_args

import numpy as np
from jaxtyping import Float

from topobrain._checks import InputError, require_choice
from topobrain.stats.integration_windows.influence import InfluenceSums, Normalise


def yoking_steps(
    sums: InfluenceSums,
    weight: Float[np.ndarray, "draw group"] | None = None,
    *,
    normalise: Normalise = "measured",
) -> Float[np.ndarray, "draw position unit"]:
    r"""Return how much more a swap reaches ahead than one at the word before it.

    .. math:: f[k+1] = \frac{1}{n-1} \sum_{i=0}^{n-2} \frac{D[k+1, k+1+i] - D[k, k+i]}{\operatorname{median}_k D[k, k]}

    for sentences of n words. A window that stops at the end of its sentence makes f jump up at the first word of the next
    and fall slightly inside; a window that knows positions only gives 0 everywhere, if swaps are of equal size at all words.
    They are not where first words are of other kinds than the rest: then even an embedding has a yoking. Swaps matched by
    embedding distance avoid that, or ``normalise="swapped"``, which divides each :math:`D[k, k + i]` by its own
    :math:`D[k, k]` and so is exact for swaps of any size.

    Parameters
    ----------
    sums
        Influence with ``step_lags = n - 1``.
    weight
        As in `InfluenceSums.curves`.
    normalise
        ``"measured"`` for the published formula above, ``"swapped"`` for each swap's own size.

    Returns
    -------
    array (draw, position, unit)
        NaN at the first two words (the first has no blank before it, and its swap may have more tokens), at words too close to
        the end, and for units that no swap changes.

    References
    ----------
    Skrill & Norman-Haignere (2023), NeurIPS 36:638.
    """
    if sums.ahead is None:
        raise InputError("these sums were made without sentence structure, so they have no yoking")
    require_choice("normalise", normalise, get_args(Normalise))
    lags = sums.window.step_lags
    counts = np.ones((1, len(sums.ahead))) if weight is None else np.asarray(weight, dtype=np.float64)
    found = np.full((len(counts), sums.window.n_words, sums.n_units), np.nan)
    last = sums.window.n_words - lags
    for draw, count in enumerate(counts):
        ahead = np.tensordot(count, sums.ahead, axes=1)
        own = np.tensordot(count, sums.at_swap, axes=1)
        size = own if normalise == "swapped" else np.median(own[1:], axis=0)[None]
        reach = ahead / np.where(size > 0, size, np.nan)
        found[draw, 2 : last + 1] = (reach[2 : last + 1] - reach[1:last]) / lags
    return found


def yoking_index(
    steps: Float[np.ndarray, "*draw position unit"], sentence_words: int
) -> Float[np.ndarray, "*draw unit"]:
    """Return the mean of `yoking_steps` at the first words of sentences 2, 3, ... that are not too close to the end.

    Raises
    ------
    InputError
        There is no second sentence whose first word can be measured.
    """
    n_words = steps.shape[-2]
    starts = np.arange(sentence_words, n_words - sentence_words + 2, max(sentence_words, 1))
    if sentence_words < 2 or not starts.size:
        raise InputError(
            f"sequences of {n_words} words in sentences of {sentence_words} have no second sentence to measure yoking at"
        )
    return np.asarray(steps[..., starts, :].mean(axis=-2))
