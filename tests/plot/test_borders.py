from __future__ import annotations

import numpy as np
import pytest

from topobrain.plot.borders import border_lines


def length(lines):
    return float(np.abs(lines[:, 1] - lines[:, 0]).sum())


def naive_length(mask, wrapped):
    """Count the edges between a cell of the set and one outside, looking at the four neighbours of each cell."""
    height, width = mask.shape
    count = 0
    for row, column in np.argwhere(mask):
        for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            r, c = row + down, column + right
            if wrapped:
                count += not mask[r % height, c % width]
            else:
                count += not (0 <= r < height and 0 <= c < width and mask[r, c])
    return count


def test_one_cell_has_the_four_edges_of_its_square():
    lines = border_lines(np.array([[0, 0, 0], [0, 0, 1]]))
    found = {tuple(map(tuple, np.sort(line, axis=0))) for line in lines}
    assert found == {
        ((1.5, 0.5), (2.5, 0.5)),
        ((1.5, 1.5), (2.5, 1.5)),
        ((1.5, 0.5), (1.5, 1.5)),
        ((2.5, 0.5), (2.5, 1.5)),
    }


def test_edges_in_a_row_are_one_line():
    block = np.zeros((6, 8), dtype=bool)
    block[1:4, 2:7] = True
    assert border_lines(block).shape == (4, 2, 2)
    ell = block.copy()
    ell[1, 2:5] = False
    assert len(border_lines(ell)) == 6
    assert len(border_lines(np.zeros((3, 3), dtype=bool))) == 0


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_border_has_every_edge_once(wrapped):
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random((5, 7)) < rng.random()
        assert length(border_lines(mask, wrapped=wrapped)) == naive_length(mask, wrapped)


def test_a_set_that_reaches_round_a_torus_is_not_cut_in_two():
    mask = np.zeros((4, 6), dtype=bool)
    mask[1:3, [0, 5]] = True  # two by two cells, joined round the corner
    lines = border_lines(mask, wrapped=True)
    sides = np.isin(lines[:, :, 0], (-0.5, 5.5)).all(axis=1)
    assert not sides.any()
    assert length(lines) == 8
    assert length(border_lines(mask)) == 12


def test_where_the_neighbour_round_the_corner_is_outside_the_border_lies_at_the_cell():
    mask = np.zeros((3, 4), dtype=bool)
    mask[0] = True
    lines = border_lines(mask, wrapped=True)
    assert sorted(lines[:, :, 1].mean(axis=1)) == [-0.5, 0.5]
    below = np.zeros((3, 4), dtype=bool)
    below[-1] = True
    assert sorted(border_lines(below, wrapped=True)[:, :, 1].mean(axis=1)) == [1.5, 2.5]
