"""The multiple-demand localizer: hard and easy sums, seeded."""

from __future__ import annotations

from typing import Any

import numpy as np

from topobrain._checks import InputError
from topobrain.data.nonwords import stream
from topobrain.stimuli import StimulusSet

OPERANDS = {"hard": (100, 199), "easy": (1, 19)}
"""Smallest and largest operand of each condition, both included."""
SIGNS = {"addition": "+", "subtraction": "-"}
MAX_N = 2 * (19 * 18 // 2)
"""Half of the items are subtractions, and operands of 1 to 19 give 171 of them."""


def load_multiple_demand(*, seed: int = 42, n: int = 100, answer: bool = True) -> StimulusSet:
    """Return hard and easy sums, to ask which units answer to the demands of a task rather than to language.

    One line a stimulus: ``Question: Solve 123 + 145? Answer: 268``. Half of each condition are additions, half
    subtractions (one more addition where ``n`` is odd). The operands are 100 to 199 (hard) and 1 to 19 (easy). In
    subtractions the first is larger than the second, so results are positive. No sum occurs twice; *2 + 5* and *5 + 2*
    are different sums.

    Parameters
    ----------
    seed
        Seed of the draw; equal seeds give equal sets, whatever the state of any other generator.
    n
        Sums a condition, 2 to 342.
    answer
        Whether the right answer follows the question. Without it a text ends in ``Answer:``.

    Returns
    -------
    StimulusSet
        ``2 n`` texts, hard and easy in turn. Columns: ``condition`` (``hard``, ``easy``), ``item`` (shared by a hard
        and an easy sum of the same operation), ``operation`` (``addition``, ``subtraction``), ``first``, ``second``
        (operands), ``answer`` (right answer, also where the text leaves it out).

    Raises
    ------
    InputError
        ``n`` or ``seed`` is no whole number in its range.

    Notes
    -----
    The operands, the wording and the counts are those of the published localizer for language models; the sums are our
    own draw. Hard texts have longer numbers, hence more tokens: that difference belongs to the published design.

    References
    ----------
    AlKhamissi et al. (2025) NAACL, The LLM language network, multiple-demand localizer.

    Examples
    --------
    >>> sums = load_multiple_demand(n=2)
    >>> len(sums), sums.texts[0].startswith("Question: Solve 1")
    (4, True)
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or not 2 <= n <= MAX_N:
        raise InputError(f"n of the multiple-demand localizer must be a whole number from 2 to {MAX_N}, got {n!r}")
    if not isinstance(answer, bool | np.bool_):
        raise InputError(f"answer must be True or False, got {answer!r}")
    rng = stream(seed, "multiple-demand")
    operations = ["addition"] * (n - n // 2) + ["subtraction"] * (n // 2)
    operations = [operations[i] for i in rng.permutation(n)]
    sums = {(c, o): _draw(rng, c, o, operations.count(o)) for c in OPERANDS for o in SIGNS}
    items: list[str] = []
    rows: list[dict[str, Any]] = []
    for number, operation in enumerate(operations, start=1):
        for condition in OPERANDS:
            first, second = sums[condition, operation].pop()
            result = first + second if operation == "addition" else first - second
            question = f"Question: Solve {first} {SIGNS[operation]} {second}? Answer:"
            items.append(f"{question} {result}" if answer else question)
            row = {"stimulus": f"sum-{number:03d}-{condition}", "condition": condition, "item": f"sum-{number:03d}"}
            rows.append({**row, "operation": operation, "first": first, "second": second, "answer": result})
    provenance = {
        "generated": True,
        "name": "multiple-demand",
        "seed": int(seed),
        "version": 1,
        "n": int(n),
        "answer": bool(answer),
        "source": "sums drawn by topobrain after the design of the published localizer",
        "licence": "BSD-3-Clause",
        "citation": "design: AlKhamissi et al. (2025) NAACL; sums: topobrain (generated stimuli)",
    }
    table = {name: [row[name] for row in rows] for name in rows[0]}
    return StimulusSet(items, table, name="multiple-demand", provenance=provenance)


def _draw(rng: np.random.Generator, condition: str, operation: str, count: int) -> list[tuple[int, int]]:
    """Return different pairs of operands; for a subtraction the first is the larger."""
    low, high = OPERANDS[condition]
    numbers = np.arange(low, high + 1)
    first, second = (grid.ravel() for grid in np.meshgrid(numbers, numbers, indexing="ij"))
    if operation == "subtraction":
        first, second = first[first > second], second[first > second]
    chosen = rng.choice(len(first), size=count, replace=False)
    return [(int(first[i]), int(second[i])) for i in chosen]
