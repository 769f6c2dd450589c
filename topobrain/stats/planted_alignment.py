"""Simulated pairs of a model's sheet and a cortex whose alignment, and whose topography, are known.

Everything here is **simulated**: it says whether a method finds what is there and keeps silent about what is not, and
nothing about models or people.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float

from topobrain._checks import InputError, require_choice
from topobrain.stats.layout import Layout

Planted = Literal[
    "topographic", "shuffled units", "shuffled voxels", "unrelated", "blurred", "blurred signal", "unmatched maps"
]
"""What lies between sheet and cortex, see `planted_alignment`."""

PATCH_MM = 60.0
"""Side of the simulated patch of cortex."""


class PlantedAlignment(NamedTuple):
    """Simulated activations and responses.

    Attributes
    ----------
    X
        Activations (stimulus, unit).
    Y
        Responses (stimulus, voxel).
    places
        Coordinates of the voxels (voxel, 3), in mm.
    unit_fields, voxel_fields
        How much of each latent a unit, and a voxel, carries (latent, unit) and (latent, voxel).
    x_scores, y_scores
        The latents behind X and behind Y (stimulus, latent): the same but for ``"unrelated"``.
    kind
        What was planted.
    """

    X: np.ndarray
    Y: np.ndarray
    places: np.ndarray
    unit_fields: np.ndarray
    voxel_fields: np.ndarray
    x_scores: np.ndarray
    y_scores: np.ndarray
    kind: str


def planted_alignment(
    sheet: Layout,
    kind: Planted = "topographic",
    *,
    n_stimuli: int = 200,
    n_voxels: int = 150,
    n_latents: int = 6,
    smoothness: float = 0.25,
    unit_noise: float = 2.0,
    voxel_noise: float = 2.0,
    seed: int = 0,
) -> PlantedAlignment:
    r"""Simulate a sheet and a cortex that are aligned, topographically or not.

    :math:`X = Z U + \sigma_u E`, :math:`Y = Z V + \sigma_v F` with latents Z, rough noise E and F, and fields U that are
    smooth over the sheet. The cortex is a bent square patch, 60 mm wide, that a smooth map (turned, stretched, bent) takes
    to the sheet: a voxel's V is the mean of U around the place it is taken to. So nearby voxels, nearby units and
    corresponding places of both are tuned alike.

    Parameters
    ----------
    sheet
        Places of the units; wrapped or open.
    kind
        ``"topographic"``: as above.
        ``"shuffled units"``: the same units in random places. Every score that knows no places stays exactly the same.
        ``"shuffled voxels"``: the same voxels in random places.
        ``"unrelated"``: Y has latents of its own: smooth on both sides, and nothing in common.
        ``"blurred"``: units in random places, and then activations smoothed over the sheet with the width of the fields:
        maps are smooth on both sides and scores shared, but only blur made the sheet smooth.
        ``"blurred signal"``: the same, but the noise is added after the blur: a sheet that cannot be told from a smooth one,
        whose maps do not match those of the cortex.
        ``"unmatched maps"``: both sides smooth over the same latents, the fields of each drawn for itself: near units are
        tuned alike, near voxels too, and corresponding places are not.
    n_stimuli, n_voxels, n_latents
        How many of each.
    smoothness
        Full width at half maximum of what makes the fields smooth, as a share of the sheet's side.
    unit_noise, voxel_noise
        Standard deviation of the noise of a unit and of a voxel; that of the signal is 1 on average.
    seed
        Seed of everything random. Kinds of one seed share their latents, fields and noise.

    Returns
    -------
    PlantedAlignment

    Raises
    ------
    InputError
        A sheet without layout, or numbers that cannot be.

    Examples
    --------
    >>> from topobrain.sheet import Sheet
    >>> sheet = Sheet.grid(12, 12, wrapped=True)
    >>> found = planted_alignment(sheet)
    >>> found.X.shape, found.Y.shape, found.places.shape
    ((200, 144), (200, 150), (150, 3))
    >>> shuffled = planted_alignment(sheet, "shuffled units")
    >>> bool((np.sort(found.X, axis=1) == np.sort(shuffled.X, axis=1)).all())
    True
    """
    require_choice("kind of planted alignment", kind, get_args(Planted))
    if sheet.height < 1:
        raise InputError("planted alignment needs a sheet with a layout, for instance Sheet.grid(16, 16, wrapped=True)")
    if min(n_stimuli, n_voxels, n_latents) < 1 or min(unit_noise, voxel_noise) < 0 or not 0 < smoothness <= 1:
        raise InputError(
            "counts must be 1 or more, noise 0 or more and smoothness above 0 and at most 1; got "
            f"{n_stimuli} stimuli, {n_voxels} voxels, {n_latents} latents, noise {unit_noise} and {voxel_noise}, "
            f"smoothness {smoothness}"
        )
    latent, field, place, noise, order = (np.random.default_rng([seed, stream]) for stream in range(5))
    x_scores, other = latent.standard_normal((2, n_stimuli, n_latents))
    y_scores = other if kind == "unrelated" else x_scores
    units = _unit_places(sheet)
    sigma = smoothness / math.sqrt(8 * math.log(2))
    rough = field.standard_normal((n_latents, sheet.n_units))
    flat, places = _patch(n_voxels, place)
    target = _to_sheet(flat, place)
    kernel = _kernel(units, units, sigma, sheet.wrapped)
    fields = rough @ kernel.T
    scale = np.sqrt((fields**2).mean())
    unit_fields = fields / scale
    local = _kernel(target, units, sigma / 2, sheet.wrapped)
    source = unit_fields
    if kind == "unmatched maps":
        source = np.random.default_rng([seed, 5]).standard_normal(rough.shape) @ kernel.T
    voxel_fields = source @ (local / local.sum(axis=1, keepdims=True)).T
    voxel_fields = voxel_fields / np.sqrt((voxel_fields**2).mean())
    power = math.sqrt(n_latents)
    blur = kernel / np.sqrt((kernel**2).sum(axis=1, keepdims=True))
    if kind == "blurred signal":
        unit_fields = unit_fields[:, order.permutation(sheet.n_units)] @ blur.T
        unit_fields = unit_fields / np.sqrt((unit_fields**2).mean())
    X = x_scores @ unit_fields / power + unit_noise * noise.standard_normal((n_stimuli, sheet.n_units))
    Y = y_scores @ voxel_fields / power + voxel_noise * noise.standard_normal((n_stimuli, n_voxels))
    if kind in ("shuffled units", "blurred"):
        moved = order.permutation(sheet.n_units)
        X, unit_fields = X[:, moved], unit_fields[:, moved]
    if kind == "blurred":
        X, unit_fields = X @ blur.T, unit_fields @ blur.T
    if kind == "shuffled voxels":
        moved = order.permutation(n_voxels)
        Y, voxel_fields = Y[:, moved], voxel_fields[:, moved]
    return PlantedAlignment(X, Y, places, unit_fields, voxel_fields, x_scores, y_scores, kind)


def _unit_places(sheet: Layout) -> Float[np.ndarray, "unit 2"]:
    """Return row and column of each unit as shares of the sheet's longer side."""
    image = sheet.to_image(np.arange(sheet.n_units, dtype=float))
    found = np.empty((sheet.n_units, 2))
    there = np.isfinite(image)
    found[image[there].astype(np.int64)] = np.argwhere(there)
    return (found + 0.5) / max(sheet.height, sheet.width)


def _patch(n_voxels: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return places of voxels on a flat square of side 1 (voxel, 2), evenly spread, and on the bent patch (voxel, 3) in mm."""
    side = math.ceil(math.sqrt(n_voxels))
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), axis=-1).reshape(-1, 2)
    chosen = np.sort(rng.permutation(len(grid))[:n_voxels])
    flat = (grid[chosen] + 0.5 + rng.uniform(-0.3, 0.3, (n_voxels, 2))) / side
    radius = PATCH_MM  # a patch on a ball about as large as a hemisphere of the brain
    angle = (flat - 0.5) * PATCH_MM / radius
    bent = np.stack(
        [np.sin(angle[:, 0]) * np.cos(angle[:, 1]), np.sin(angle[:, 1]), np.cos(angle[:, 0]) * np.cos(angle[:, 1])],
        axis=1,
    )
    return flat, radius * bent


def _to_sheet(flat: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return where a smooth map takes the places of the flat patch (voxel, 2): turned, stretched, bent, shifted."""
    turn, shift, bend = rng.uniform(0, 2 * math.pi), rng.uniform(0, 1, 2), rng.uniform(-0.1, 0.1, (2, 2))
    centred = flat - 0.5
    turned = centred @ np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    bent = turned + np.sin(2 * math.pi * turned) @ bend
    return np.asarray(0.5 + 0.7 * bent + 0.1 * (shift - 0.5))


def _kernel(a: np.ndarray, b: np.ndarray, sigma: float, wrapped: bool) -> np.ndarray:
    """Return the Gaussian of the distances between places (a, b); the shares of a wrapped sheet's sides are 1 if square."""
    gap = np.abs(a[:, None] - b[None, :])
    if wrapped:
        extent = b.max(axis=0) + b.min(axis=0)
        gap = np.minimum(gap % extent, extent - gap % extent)
    return np.asarray(np.exp(-(gap**2).sum(axis=2) / (2 * sigma**2)))
