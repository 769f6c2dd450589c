"""Borders of sets of cells on a grid, as lines along the cells' edges."""

from __future__ import annotations

import numpy as np


def border_lines(mask: np.ndarray, *, wrapped: bool = False) -> np.ndarray:
    """Return the border of a set of cells as straight lines (line, end, xy), in the coordinates of ``imshow``.

    Edges in a row are one line. On a torus the cells of the first and last row, and column, are neighbours: no line parts
    two that both belong to the set.

    >>> border_lines(np.array([[False, True, True]])).shape, border_lines(np.ones((2, 2), dtype=bool), wrapped=True).shape
    ((4, 2, 2), (0, 2, 2))
    """
    inside = np.asarray(mask, dtype=bool)
    across = _runs(_edges(inside, wrapped=wrapped))
    down = _runs(_edges(inside.T, wrapped=wrapped))[:, :, ::-1]
    return np.concatenate([across, down])


def _edges(inside: np.ndarray, *, wrapped: bool) -> np.ndarray:
    """Return whether a border runs above each cell of each row, and below the last row (row + 1, column)."""
    first, last = inside[:1], inside[-1:]
    beyond_top, beyond_bottom = (last, first) if wrapped else (np.zeros_like(first), np.zeros_like(first))
    edges: np.ndarray = np.concatenate([beyond_top, inside]) != np.concatenate([inside, beyond_bottom])
    if wrapped:  # one border between the last row and the first, drawn where the set is
        edges[0] &= inside[0]
        edges[-1] &= inside[-1]
    return edges


def _runs(edges: np.ndarray) -> np.ndarray:
    """Return runs of edges along rows as lines (line, end, xy)."""
    padded = np.pad(edges.astype(np.int8), ((0, 0), (1, 1)))
    change = np.diff(padded, axis=1)
    row, start = np.nonzero(change == 1)
    _, end = np.nonzero(change == -1)
    y = row - 0.5
    return np.stack([np.stack([start - 0.5, y], axis=-1), np.stack([end - 0.5, y], axis=-1)], axis=1)
