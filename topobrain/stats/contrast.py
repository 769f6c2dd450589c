"""Two-sample t-values of every unit at once, in every form the field has published, and false discovery rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from topobrain._checks import InputError, require_choice
from topobrain.stats.moments import Side, group_moments

Alternative = Literal["two-sided", "greater", "less"]
Test = Literal["welch", "student"]
ZeroVariance = Literal["nan", "zero"]

TESTS = ("welch", "student")
ALTERNATIVES = ("two-sided", "greater", "less")
ZERO_VARIANCE = ("nan", "zero")


class TMap(NamedTuple):
    """t-values and p-values, one a unit."""

    t: np.ndarray
    p: np.ndarray


def welch_t(
    on: Float[np.ndarray, "on_stimulus unit"],
    off: Float[np.ndarray, "off_stimulus unit"],
    *,
    alternative: Alternative = "two-sided",
    ddof: Literal[0, 1] = 1,
    zero_variance: ZeroVariance = "nan",
) -> TMap:
    r"""Does each unit respond differently to the two conditions, without assuming equal variances?

    :math:`t = (\bar x_1 - \bar x_2) / \sqrt{s_1^2/n_1 + s_2^2/n_2}` with unbiased variances and the
    Welch-Satterthwaite degrees of freedom. Sums are accumulated in float64.

    Parameters
    ----------
    on, off
        Activations (stimulus, unit) of the two conditions, at least two stimuli each.
    alternative
        ``"two-sided"``, or the one-sided ``"greater"`` (on > off) or ``"less"``.
    ddof
        1 for unbiased variances, 0 for population variances, which make t too large: by :math:`\sqrt{n / (n - 1)}` for
        groups of n each, 6.9 % at 8.
    zero_variance
        What a unit that is constant within both conditions gets: ``"nan"``, or ``"zero"`` for t = 0, p = 1.

    Returns
    -------
    TMap
        ``t`` and ``p``, one a unit, never infinite. A unit with a NaN or an infinity in either condition has t and p of
        NaN under either policy.

    Raises
    ------
    InputError
        Fewer than two stimuli in a condition, or conditions with different numbers of units.

    References
    ----------
    Welch (1947), Biometrika 34:28.

    Examples
    --------
    >>> on, off = np.array([[1.0], [2.0], [4.0]]), np.array([[0.0], [1.0], [1.0]])
    >>> [round(float(v[0]), 4) for v in welch_t(on, off)]
    [1.7678, 0.1908]
    """
    sides = _side("on", on), _side("off", off)
    return t_from_moments(*sides, test="welch", ddof=ddof, alternative=alternative, zero_variance=zero_variance)


def student_t(
    on: Float[np.ndarray, "on_stimulus unit"],
    off: Float[np.ndarray, "off_stimulus unit"],
    *,
    alternative: Alternative = "two-sided",
    ddof: Literal[0, 1] = 1,
    zero_variance: ZeroVariance = "nan",
) -> TMap:
    """Return Student's two-sample t with pooled variance; arguments, NaN policy and result as `welch_t`.

    With ``ddof=0`` the pooled variance is ``(n1 v1 + n2 v2) / (n1 + n2)`` of the population variances.
    """
    sides = _side("on", on), _side("off", off)
    return t_from_moments(*sides, test="student", ddof=ddof, alternative=alternative, zero_variance=zero_variance)


def t_from_moments(
    on: Side,
    off: Side,
    *,
    test: Test = "welch",
    ddof: Literal[0, 1] = 1,
    alternative: Alternative = "two-sided",
    zero_variance: ZeroVariance = "nan",
) -> TMap:
    r"""Return t and p of every unit from number, mean and spread of the two sides: the one place where t is computed.

    With :math:`v_i = m_{2,i} / (n_i - \mathrm{ddof})`:

    - ``"welch"``: :math:`t = (\bar x_1 - \bar x_2) / \sqrt{v_1/n_1 + v_2/n_2}`, degrees of freedom of
      Welch-Satterthwaite;
    - ``"student"``: :math:`t = (\bar x_1 - \bar x_2) / \sqrt{v (1/n_1 + 1/n_2)}`, :math:`v = (m_{2,1} + m_{2,2}) / (n_1 +
      n_2 - 2\,\mathrm{ddof})`, that is the usual pooled variance with ``ddof=1`` and :math:`(n_1 v_1 + n_2 v_2) / (n_1 +
      n_2)` with ``ddof=0``; :math:`n_1 + n_2 - 2` degrees of freedom.

    Degrees of freedom are those of the unbiased variances whatever ``ddof``, so p of ``ddof=0`` is too small, as
    published.

    Parameters
    ----------
    on, off
        From `Moments.side`.
    test, ddof, alternative, zero_variance
        As in `welch_t`.

    Returns
    -------
    TMap
        Swapping the sides negates t exactly; equal sides give 0 exactly.

    References
    ----------
    Welch (1947), Biometrika 34:28; Satterthwaite (1946), Biometrics Bull. 2:110.
    """
    _check_options(test, ddof, alternative, zero_variance)
    for name, side in (("on", on), ("off", off)):
        if side.n < 2:
            raise InputError(f"the {name} side has {side.n} stimuli: a t-value needs 2 or more on each side")
    if on.mean.shape != off.mean.shape:
        raise InputError(f"the two sides have {on.mean.size} and {off.mean.size} units")
    a, b = on.m2 / (on.n - 1) / on.n, off.m2 / (off.n - 1) / off.n
    df: np.ndarray | float
    with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
        if test == "welch":
            squared = a + b if ddof else on.m2 / on.n**2 + off.m2 / off.n**2
            # shares, not the squares of tiny variances, which would underflow
            df = 1 / ((a / (a + b)) ** 2 / (on.n - 1) + (b / (a + b)) ** 2 / (off.n - 1))
        else:
            n = on.n + off.n
            squared = (on.m2 + off.m2) / (n - 2 * ddof) * (1 / on.n + 1 / off.n)
            df = float(n - 2)
        t = (on.mean - off.mean) / np.sqrt(squared)
    t = np.where(np.isfinite(t), t, np.nan)
    p = _p_value(t, df, alternative)
    if zero_variance == "zero":
        constant = squared == 0
        t, p = np.where(constant, 0.0, t), np.where(constant, 1.0, p)
    return TMap(t, p)


def _check_options(test: str, ddof: int, alternative: str, zero_variance: str) -> None:
    require_choice("test", test, TESTS)
    require_choice("alternative", alternative, ALTERNATIVES)
    require_choice("zero-variance policy", zero_variance, ZERO_VARIANCE)
    if isinstance(ddof, bool) or ddof not in (0, 1):
        raise InputError(f"ddof must be 1 (unbiased variances) or 0 (population variances), got {ddof!r}")


@dataclass(frozen=True)
class TTest:
    """How a t-value is computed: every choice by which published "selectivities" differ.

    Attributes
    ----------
    test
        ``"welch"`` or ``"student"`` (pooled variance).
    ddof
        1 for unbiased, 0 for population variances.
    rectify
        Absolute activations instead of signed ones.
    alternative
        ``"two-sided"``, ``"greater"`` (on > off) or ``"less"``.
    zero_variance
        ``"nan"``, or ``"zero"`` (t = 0, p = 1) for units constant within both conditions.

    Raises
    ------
    UnknownNameError, InputError
        On construction, for an option that does not exist.

    Examples
    --------
    >>> on, off = np.array([[1.0], [2.0], [-4.0]]), np.array([[0.0], [1.0], [1.0]])
    >>> [round(float(test.of_values(on, off).t[0]), 4) for test in (TTest(), TTest(rectify=True))]
    [-0.5303, 1.7678]
    """

    test: Test = "welch"
    ddof: Literal[0, 1] = 1
    rectify: bool = False
    alternative: Alternative = "two-sided"
    zero_variance: ZeroVariance = "nan"

    def __post_init__(self) -> None:
        _check_options(self.test, self.ddof, self.alternative, self.zero_variance)
        if not isinstance(self.rectify, bool):
            raise InputError(f"rectify must be True or False, got {self.rectify!r}")

    def prepare(self, values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Return the values the test is made of: absolute ones with ``rectify``, else those given."""
        return np.abs(values) if self.rectify else values

    def of_moments(self, on: Side, off: Side) -> TMap:
        """Return t and p of two sides, whose moments must be those of values that went through `prepare`."""
        return t_from_moments(
            on,
            off,
            test=self.test,
            ddof=self.ddof,
            alternative=self.alternative,
            zero_variance=self.zero_variance,
        )

    def of_values(self, on: Float[np.ndarray, "on_stimulus unit"], off: Float[np.ndarray, "off_stimulus unit"]) -> TMap:
        """Return t and p of activations (stimulus, unit) in two conditions."""
        return self.of_moments(_side("on", self.prepare(on)), _side("off", self.prepare(off)))


PUBLISHED_TTESTS: Mapping[str, TTest] = MappingProxyType(
    {
        # BinHuraib, Tuckute & Blauch 2024: equal variances; drawn as `signed_log_p`, not corrected
        "topoformer": TTest(test="student"),
        # Margalit et al. 2024: population variances, 0 where nothing varies
        "tdann": TTest(ddof=0, zero_variance="zero"),
        # Rathi et al. 2025: of activations that were smoothed over the sheet before
        "topolm": TTest(),
        # the language localizer of Brain-Score: signed activations, p dropped
        "brain-score": TTest(),
        # AlKhamissi et al. 2025: absolute activations
        "llm-localization": TTest(rectify=True),
        # Topo-Omni: on > off only
        "topo-omni": TTest(alternative="greater"),
        # Deb, Deb & Murty 2025, the demonstration that comes with it: population variances, pooled (the paper's is not known)
        "toponets": TTest(test="student", ddof=0),
    }
)
"""The t-values of the field by name. Where a group smooths activations over the sheet first (TopoLM), that is an option of
`localize`, not of the test."""


def fdr_bh(
    p: Float[np.ndarray, "*shape"], groups: Int[np.ndarray, "*shape"] | None = None
) -> Float[np.ndarray, "*shape"]:
    """Return Benjamini-Hochberg q-values; NaN p-values stay NaN and do not count as tests.

    Parameters
    ----------
    p
        p-values of any shape, corrected jointly.
    groups
        Whole numbers, one a p-value: each group of equal numbers (a sheet, a layer) is corrected by itself. Correcting
        jointly is the stricter choice where few groups hold the effects, and the one to report for a whole model.

    Raises
    ------
    InputError
        p-values outside 0 to 1, or groups of another shape.

    References
    ----------
    Benjamini & Hochberg (1995), J. R. Stat. Soc. B 57:289.

    Examples
    --------
    >>> fdr_bh(np.array([0.01, 0.04, 0.03, np.nan])).round(3).tolist()
    [0.03, 0.04, 0.04, nan]
    >>> fdr_bh(np.array([0.01, 0.04, 0.03, np.nan]), groups=np.array([0, 1, 1, 1])).round(3).tolist()
    [0.01, 0.04, 0.04, nan]
    """
    flat = np.asarray(p, dtype=np.float64).ravel()
    if ((flat < 0) | (flat > 1)).any():
        raise InputError("p-values must lie between 0 and 1")
    q = np.full(flat.shape, np.nan)
    valid = np.flatnonzero(np.isfinite(flat))
    if groups is None:
        parts = [valid]
    else:
        labels = np.asarray(groups)
        if labels.shape != np.shape(p) or not np.issubdtype(labels.dtype, np.integer):
            raise InputError(
                f"groups have shape {labels.shape} and type {labels.dtype}, expected a whole number for each p-value "
                f"{np.shape(p)}"
            )
        of_valid = labels.ravel()[valid]
        order = np.argsort(of_valid, kind="stable")
        parts = np.split(valid[order], np.flatnonzero(np.diff(of_valid[order])) + 1)
    for part in parts:
        order = part[np.argsort(flat[part], kind="stable")]
        scaled = flat[order] * part.size / np.arange(1, part.size + 1)
        q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q.reshape(np.shape(p))


def signed_log_p(t: Float[np.ndarray, "*shape"], p: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Return sign(t) * -log10(p), the quantity of Topoformer's maps.

    A p of 0, which stands for one below the smallest positive float, counts as that (4.9e-324), so that the result is
    finite: at most 323.3 on either side. NaN stays NaN. For plotting only: keep t and p.

    References
    ----------
    BinHuraib, Tuckute & Blauch (2024), Topoformer, ICLR Re-Align workshop, arXiv 2510.18745.

    Examples
    --------
    >>> signed_log_p(np.array([3.0, -60.0]), np.array([0.001, 0.0])).round(1).tolist()
    [3.0, -323.3]
    """
    values, probabilities = np.asarray(t, dtype=np.float64), np.asarray(p, dtype=np.float64)
    if values.shape != probabilities.shape:
        raise InputError(f"t and p have shapes {values.shape} and {probabilities.shape}")
    if ((probabilities < 0) | (probabilities > 1)).any():
        raise InputError("p-values must lie between 0 and 1")
    smallest = np.nextafter(0.0, 1.0)
    return np.asarray(np.sign(values) * np.abs(np.log10(np.maximum(probabilities, smallest))))


def _side(name: str, values: np.ndarray) -> Side:
    table = np.asarray(values)
    if table.ndim != 2 or len(table) < 2:
        raise InputError(f"the {name} side has shape {table.shape}: expected (stimulus, unit) with 2 stimuli or more")
    return group_moments(table, np.zeros(len(table), dtype=np.int64), 1).side(0)


def _p_value(t: np.ndarray, df: np.ndarray | float, alternative: Alternative) -> np.ndarray:
    from scipy.special import stdtr

    below = {"two-sided": -np.abs(t), "greater": -t, "less": t}[alternative]
    p = stdtr(df, below) * (2 if alternative == "two-sided" else 1)
    return np.asarray(p, dtype=np.float64)
