"""The meshes that cortical maps are given on, told apart by their number of vertices."""

from __future__ import annotations

from topobrain._checks import InputError

HEMISPHERES = ("left", "right")

SPACES = {
    "fsaverage3": 642,
    "fsaverage4": 2562,
    "fsaverage5": 10242,
    "fsLR-32k": 32492,
    "fsaverage6": 40962,
    "fsaverage": 163842,
}
"""Vertices a hemisphere of the meshes that group maps are given on."""


def space_of(n_vertices: int) -> str:
    """Return the usual space with that many vertices a hemisphere, in words.

    >>> space_of(32492), space_of(5)
    ('fsLR-32k', 'no space topobrain knows')
    """
    return next((name for name, n in SPACES.items() if n == n_vertices), "no space topobrain knows")


def other_space(what: str, n_given: int, where: str, n_expected: int) -> InputError:
    """Build the error for values that lie on another mesh, naming both spaces."""
    known = ", ".join(
        f"{n:,} = {name}" for name, n in SPACES.items() if name in ("fsaverage5", "fsLR-32k", "fsaverage")
    )
    return InputError(
        f"{what}: {n_given:,} values ({space_of(n_given)}), but {where} has {n_expected:,} vertices "
        f"({space_of(n_expected)}). Vertices a hemisphere: {known}. Resample the map, or load the mesh it lies on"
    )
