"""Post-hoc layouts: a sheet for the units of a model that was trained without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from topobrain._checks import InputError
from topobrain.nn.correlation_loss import correlation_loss
from topobrain.sheet import Sheet
from topobrain.stats.correlation import unit_norm

EXACT_EACH_EPOCH = 1024
"""Up to so many units the one-to-one assignment of every epoch is the best one (a fraction of a second each)."""
EXACT_AT_THE_END = 4096
"""Up to so many units the final assignment is the best one (tens of seconds); beyond, it is greedy."""
START_JITTER = 0.1
"""Random part of the starting positions, in standard deviations: what the seed changes in the first start."""
ORTHOGONAL = 1e-5
"""Largest deviation of Q'Q from the identity that a given matrix may have."""

Values = TypeVar("Values", np.ndarray, Tensor)


def self_organising_map(
    responses: Float[np.ndarray, "stimulus unit"],
    sheet: Sheet,
    *,
    n_epochs: int = 60,
    fwhm_start: float | None = None,
    fwhm_end: float | None = None,
    n_starts: int = 3,
    seed: int = 0,
) -> Sheet:
    r"""Where on a sheet would the units of a trained model lie, if those that respond alike were neighbours?

    A batch self-organising map over the units' response profiles (centred, length one). Every cell has a prototype, the
    direction of the mean profile of the units around it, weighted by a Gaussian
    :math:`\exp(-d^2 / 2\sigma^2)` whose width shrinks geometrically from epoch to epoch; every unit moves to the cell
    with the highest cosine. In the second half of the epochs, and at the end, every unit gets a cell of its own: the
    one-to-one assignment with the highest total cosine. A map can end up twisted, so it is made from several starts (the
    plane of the first two principal components, then random places), and the one whose units have the highest total
    cosine with the prototypes of their cells is kept. The values of the model do not change, only the places of its units.

    Parameters
    ----------
    responses
        Responses (stimulus, unit).
    sheet
        The sheet to fill. Its cells are shuffled among the units; holes stay holes.
    n_epochs
        Epochs, at least 2.
    fwhm_start, fwhm_end
        Width of the Gaussian (full width at half maximum) in the first and last epoch, in the unit of the sheet's
        spacing; default: the sheet's longer side, and 1.5 grid steps.
    n_starts
        Starts, 1 or more.
    seed
        Seed of the starts (of the first one, a small jitter). Same responses, options and seed: same layout.

    Returns
    -------
    Sheet
        The sheet with the units' new places (``sheet.with_places``).

    Raises
    ------
    InputError
        A sheet without layout or of another size, fewer than three stimuli or units, values that are not finite, no
        unit that varies, impossible widths.

    Notes
    -----
    A layout is fitted: on the responses it was fitted to, even noise looks topographic, because the map sorts the
    accidents of those stimuli. Measure on *held-out* stimuli, beside the layout null; there, noise is back at the floor.
    Units that never vary fill the cells the others leave. Above 4,096 units the assignment is greedy (units with the
    highest cosine choose first), from 1,025 units on so in all but the last epoch. Time and memory grow with the square
    of the number of units.

    References
    ----------
    Kohonen (1982), Biological Cybernetics 43:59. Doshi & Konkle (2023), Science Advances 9:eade8187, for the units of a
    deep network.

    Examples
    --------
    >>> tuning = np.random.default_rng(0).permutation(np.linspace(0, 1, 9))
    >>> responses = np.exp(-(np.linspace(0, 1, 30)[:, None] - tuning) ** 2 / 0.05)
    >>> line = self_organising_map(responses, Sheet.grid(1, 9))
    >>> found = tuning[np.argsort(line.cells)]
    >>> bool((np.diff(found) > 0).all() or (np.diff(found) < 0).all())
    True
    """
    values = _checked(responses, sheet, "a self-organising map")
    start = max(sheet.height, sheet.width) * sheet.spacing if fwhm_start is None else fwhm_start
    end = 1.5 * sheet.spacing if fwhm_end is None else fwhm_end
    if not 0 < end <= start < np.inf:
        raise InputError(f"the Gaussian must shrink: 0 < fwhm_end <= fwhm_start, got {end} and {start}")
    if n_epochs < 2 or n_starts < 1:
        raise InputError(f"n_epochs must be 2 or more and n_starts 1 or more, got {n_epochs} and {n_starts}")
    profiles = unit_norm(values).T
    if not profiles.any():
        raise InputError("no unit varies over these stimuli: there is nothing to sort by")
    if profiles.shape[1] > len(profiles):  # same inner products in fewer numbers
        profiles = np.asarray(np.linalg.qr(profiles.T, mode="r")).T
    decay = -(sheet.distances() ** 2) * (4 * np.log(2))
    widths, rng = np.geomspace(start, end, n_epochs), np.random.default_rng(seed)
    best, best_seat = -np.inf, np.arange(len(profiles))
    for number in range(n_starts):
        seat = rng.permutation(len(profiles)) if number else _principal_plane(profiles, sheet, rng)
        seat = _unfold(profiles, seat, decay, widths)
        total = float((profiles * _prototypes(profiles, seat, np.exp(decay / end**2))[seat]).sum())
        if total > best:
            best, best_seat = total, seat
    return sheet.with_places(sheet.cells[best_seat])


def one_to_one(similarity: Float[np.ndarray, "unit place"], *, exact: bool = True) -> Int[np.ndarray, " unit"]:
    """Return a place of its own for every unit: the assignment with the highest total similarity, or a greedy one.

    The greedy one lets units choose in the order of their highest similarity; ties go to the lower number.

    >>> one_to_one(np.array([[9.0, 8.0], [9.0, 1.0]])).tolist()
    [1, 0]
    >>> one_to_one(np.array([[9.0, 8.0], [9.0, 1.0]]), exact=False).tolist()
    [0, 1]
    """
    if exact:
        from scipy.optimize import linear_sum_assignment

        place: np.ndarray = linear_sum_assignment(similarity, maximize=True)[1]
        return place
    place = np.empty(len(similarity), dtype=np.int64)
    taken = np.zeros(similarity.shape[1], dtype=bool)
    for unit in np.argsort(-similarity.max(axis=1), kind="stable"):
        place[unit] = np.where(taken, -np.inf, similarity[unit]).argmax()
        taken[place[unit]] = True
    return place


@dataclass(frozen=True, eq=False)
class Remixing:
    """An orthogonal change of basis of a layer, and the sheet its new units lie on.

    A re-mixed unit is a weighted sum of the model's units, no longer one of them. Nothing is lost: lengths, distances
    and whatever a linear read-out can tell stay the same, and `invert` gives the original values back.

    Attributes
    ----------
    matrix
        Orthogonal float64 (unit, re-mixed unit): re-mixed values are ``values @ matrix``.
    sheet
        Places of the re-mixed units.
    losses
        Correlation loss of every step of the fit, before the step; empty for a matrix from elsewhere.
    """

    matrix: Float[np.ndarray, "unit mixed"]
    sheet: Sheet
    losses: Sequence[float] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        n = self.sheet.n_units
        if matrix.shape != (n, n):
            raise InputError(f"matrix has shape {matrix.shape}, expected ({n}, {n}) for the sheet's {n} units")
        deviation = float(np.abs(matrix.T @ matrix - np.eye(n)).max())
        if not deviation <= ORTHOGONAL:
            raise InputError(f"matrix is not orthogonal: Q'Q deviates from the identity by {deviation:.2g}")
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "losses", tuple(self.losses))

    def apply(self, values: Values) -> Values:
        """Return values (..., unit) in the new basis (..., re-mixed unit), of the same kind, type and device."""
        return self._times(values, self.matrix)

    def invert(self, values: Values) -> Values:
        """Return re-mixed values (..., re-mixed unit) in the model's own basis (..., unit)."""
        return self._times(values, self.matrix.T)

    def _times(self, values: Values, matrix: np.ndarray) -> Values:
        if not values.ndim or values.shape[-1] != self.sheet.n_units:
            raise InputError(
                f"values have shape {tuple(values.shape)}, expected (..., unit) with {self.sheet.n_units} units last"
            )
        if isinstance(values, np.ndarray):
            dtype = values.dtype if values.dtype.kind == "f" else np.dtype(np.float64)
            wide = np.result_type(dtype, np.float32)
            return np.asarray((values.astype(wide, copy=False) @ matrix.astype(wide)).astype(dtype, copy=False))
        precise = values.double() if values.dtype == torch.float64 else values.float()
        with torch.autocast(values.device.type, enabled=False):  # bfloat16 products could not be inverted
            mixed = precise @ torch.from_numpy(matrix.copy()).to(precise.dtype).to(precise.device)
        return mixed.to(values.dtype) if values.dtype.is_floating_point else mixed


def orthogonal_remixing(
    responses: Float[np.ndarray, "stimulus unit"] | Float[Tensor, "stimulus unit"],
    sheet: Sheet,
    *,
    steps: int = 200,
    radius: int | None = None,
    n_neighbourhoods: int = 5,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> Remixing:
    r"""Which rotation of a layer's units makes it topographic, without changing what it knows?

    Minimises the correlation loss of ``responses @ Q`` over orthogonal matrices
    :math:`Q = (1 + S)^{-1} (1 - S)`, S skew-symmetric (Cayley), from Q = 1, with Adam.

    Parameters
    ----------
    responses
        Responses (stimulus, unit): an array, or a tensor whose device does the computing.
    sheet
        Places of the re-mixed units.
    steps
        Steps of the fit.
    radius, n_neighbourhoods
        Neighbourhoods of the correlation loss: None fits the whole sheet, a radius the order of nearby units only.
    learning_rate
        Step size of Adam on the entries of S.
    seed
        Seed of the neighbourhoods.

    Returns
    -------
    Remixing
        ``matrix`` with :math:`Q^T Q = 1`, ``sheet``, ``losses``.

    Raises
    ------
    InputError
        A sheet without layout or of another size, fewer than three stimuli, values that are not finite, a radius beyond
        the sheet.

    Notes
    -----
    A fit: on its own responses it makes noise topographic too. Measure on held-out stimuli, beside the layout null.
    Every step solves a system as large as the layer: about 0.3 s for 784 units on one CPU core.

    References
    ----------
    TopoTransform (epflneuroailab/topo-transform): one orthogonal matrix a location, correlation loss with 16 neighbourhoods.

    Examples
    --------
    >>> responses = np.random.default_rng(0).standard_normal((40, 3)) @ np.random.default_rng(1).standard_normal((3, 16))
    >>> mixed = orthogonal_remixing(responses, Sheet.grid(4, 4), steps=30, learning_rate=0.01)
    >>> mixed.losses[-1] < mixed.losses[0]
    True
    >>> bool(np.allclose(mixed.invert(mixed.apply(responses)), responses))
    True
    """
    tensor = responses.detach() if isinstance(responses, Tensor) else torch.from_numpy(np.array(responses))
    if steps < 1 or not learning_rate > 0:
        raise InputError(f"steps must be 1 or more and learning_rate above 0, got {steps} and {learning_rate}")
    if tensor.ndim != 2:
        raise InputError(f"responses have shape {tuple(tensor.shape)}, expected (stimulus, unit)")
    values = (tensor.double() - tensor.double().mean(dim=0)).float()  # a large common offset would eat the digits
    n = values.shape[1]
    generator = torch.Generator().manual_seed(seed)
    identity = torch.eye(n, device=values.device)
    losses = []
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(values.device.type, enabled=False):
        values = values.clone()
        free = torch.zeros(n, n, device=values.device, requires_grad=True)
        optimiser = torch.optim.Adam([free], lr=learning_rate)
        for _ in range(steps):
            skew = free.triu(1) - free.triu(1).T
            mixed = values @ torch.linalg.solve(identity + skew, identity - skew)
            loss = correlation_loss(mixed, sheet, radius=radius, n_neighbourhoods=n_neighbourhoods, generator=generator)
            (free.grad,) = torch.autograd.grad(loss, [free])
            optimiser.step()
            losses.append(float(loss.detach()))
    upper = np.triu(free.detach().cpu().double().numpy(), 1)
    exact = np.linalg.solve(np.eye(n) + upper - upper.T, np.eye(n) - upper + upper.T)  # float32 drifts by 1e-6
    return Remixing(exact, sheet, losses)


def _checked(responses: np.ndarray, sheet: Sheet, purpose: str) -> np.ndarray:
    sheet.require_layout(purpose)
    values = np.asarray(responses, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != sheet.n_units:
        raise InputError(f"responses have shape {values.shape}, expected (stimulus, {sheet.n_units} units)")
    if len(values) < 3 or sheet.n_units < 3:
        raise InputError(f"{purpose} needs at least 3 stimuli and 3 units, got {len(values)} and {sheet.n_units}")
    if not np.isfinite(values).all():
        raise InputError(f"responses of unit {int(np.argwhere(~np.isfinite(values))[0, 1])} are not finite")
    return values


def _principal_plane(profiles: np.ndarray, sheet: Sheet, rng: np.random.Generator) -> np.ndarray:
    """Return a start (unit,): the place of the sheet nearest to each unit's rank on the first two components."""
    from scipy.sparse.linalg import svds

    centred = profiles - profiles.mean(axis=0)
    left, strength, _ = svds(centred, k=2, v0=rng.standard_normal(min(centred.shape)))
    scores = (left * strength)[:, ::-1] if strength[0] < strength[1] else left * strength
    scores = scores * np.where(scores[np.abs(scores).argmax(axis=0), [0, 1]] < 0, -1, 1)  # a component has no sign
    spread = np.maximum(scores.std(axis=0), np.finfo(float).tiny)
    scores = scores / spread + START_JITTER * rng.standard_normal(scores.shape)
    rank = scores.argsort(axis=0).argsort(axis=0) / (len(scores) - 1)
    along_x, along_y = (0, 1) if sheet.width >= sheet.height else (1, 0)
    to_x = rank[:, along_x] * np.ptp(sheet.x) + sheet.x.min()
    to_y = rank[:, along_y] * np.ptp(sheet.y) + sheet.y.min()
    nearest: np.ndarray = np.hypot(to_x[:, None] - sheet.x, to_y[:, None] - sheet.y).argmin(axis=1)
    return nearest


def _unfold(profiles: np.ndarray, seat: np.ndarray, decay: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Return the places (unit,) after one run of the map from a start."""
    n = len(profiles)
    for epoch, fwhm in enumerate(widths):
        cosine = profiles @ _prototypes(profiles, seat, np.exp(decay / fwhm**2)).T
        if epoch == len(widths) - 1:
            seat = one_to_one(cosine, exact=n <= EXACT_AT_THE_END)
        elif epoch >= len(widths) // 2:
            seat = one_to_one(cosine, exact=n <= EXACT_EACH_EPOCH)
        else:
            seat = cosine.argmax(axis=1)
    return seat


def _prototypes(profiles: np.ndarray, seat: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return the direction (place, feature) of the weighted mean profile around each place."""
    total = np.zeros_like(profiles)
    np.add.at(total, seat, profiles)
    mean = kernel @ total
    return np.asarray(mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), np.finfo(float).tiny))
