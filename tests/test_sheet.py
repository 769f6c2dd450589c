import math

import numpy as np
import pytest

from topobrain._checks import InputError, UnknownNameError
from topobrain.sheet import Sheet


def test_positions_run_along_rows():
    sheet = Sheet.grid(2, 3, spacing=0.5)
    assert sheet.x.tolist() == [0, 0.5, 1, 0, 0.5, 1]
    assert sheet.y.tolist() == [0, 0, 0, 0.5, 0.5, 0.5]


@pytest.mark.parametrize(("n", "shape"), [(784, (28, 28)), (768, (24, 32)), (3072, (48, 64)), (1, (1, 1)), (2, (1, 2))])
def test_exact_grids_are_as_square_as_possible(n, shape):
    sheet = Sheet.for_width(n)
    assert (sheet.height, sheet.width) == shape


def test_any_number_of_units_fits_a_nearly_square_grid():
    for n in range(3, 1200):
        sheet = Sheet.for_width(n)
        assert sheet.n_units == n
        assert min(sheet.height, sheet.width) > 1, n
        assert max(sheet.height, sheet.width) <= 2 * min(sheet.height, sheet.width), n
        assert 0 <= sheet.height * sheet.width - n < sheet.width, n


def test_distances_equal_a_slow_loop_on_plane_and_torus():
    for wrapped in (False, True):
        sheet = Sheet.grid(4, 5, wrapped=wrapped, spacing=2.0)
        distances = sheet.distances()
        for i in range(20):
            for j in range(20):
                down, right = abs(i // 5 - j // 5), abs(i % 5 - j % 5)
                if wrapped:
                    down, right = min(down, 4 - down), min(right, 5 - right)
                assert distances[i, j] == pytest.approx(2 * math.hypot(down, right))


def test_torus_distances_do_not_change_when_the_sheet_is_shifted():
    sheet = Sheet.grid(5, 7, wrapped=True)
    order = np.roll(np.arange(35).reshape(5, 7), (2, 3), axis=(0, 1)).ravel()
    assert np.allclose(sheet.distances()[np.ix_(order, order)], sheet.distances())


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(("kind", "reach"), [("queen", math.sqrt(2)), ("rook", 1.0)])
def test_neighbours_are_the_units_one_step_away(wrapped, kind, reach):
    for sheet in (Sheet.grid(5, 4, wrapped=wrapped), Sheet.grid(2, 2, wrapped=wrapped), Sheet.for_width(23)):
        distances = sheet.distances()
        expected = (distances > 0) & (distances < reach + 0.01)
        assert np.array_equal(sheet.neighbours(kind).toarray(), expected.astype(float))


def test_torus_two_places_wide_joins_each_pair_once():
    adjacency = Sheet.grid(2, 2, wrapped=True).neighbours("queen").toarray()
    assert np.array_equal(adjacency, 1 - np.eye(4))


def test_a_single_unit_has_no_neighbours():
    assert Sheet.grid(1, 1).neighbours().nnz == 0


def test_smoothing_rows_sum_to_one_and_fwhm_is_the_width_at_half_height():
    kernel = Sheet.grid(21, 21).smoothing(6.0)
    assert np.allclose(kernel.sum(axis=1), 1)
    centre = 10 * 21 + 10
    assert kernel[centre, centre + 3] / kernel[centre, centre] == pytest.approx(0.5)


def test_smoothing_is_measured_in_the_spacing_unit_and_zero_is_identity():
    assert np.allclose(Sheet.grid(6, 6).smoothing(2.0), Sheet.grid(6, 6, spacing=3.0).smoothing(6.0))
    assert np.array_equal(Sheet.grid(3, 3).smoothing(0), np.eye(9))
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="fwhm"):
            Sheet.grid(3, 3).smoothing(bad)


def test_image_puts_units_at_their_places_and_checks_the_count():
    sheet = Sheet.for_width(11)
    image = sheet.to_image(np.arange(11))
    assert image.shape == (3, 4)
    assert image[1, 2] == 6
    assert np.isnan(image[2, 3])
    with pytest.raises(InputError, match=r"\(11,\)"):
        sheet.to_image(np.arange(12))


def test_units_without_layout_are_refused_by_everything_spatial():
    sheet = Sheet.none(7)
    assert not sheet.has_layout
    assert np.isnan(sheet.x).all()
    for call in (sheet.distances, sheet.neighbours, lambda: sheet.smoothing(1.0), lambda: sheet.to_image(np.zeros(7))):
        with pytest.raises(InputError, match=r"Sheet\.for_width"):
            call()


@pytest.mark.parametrize(
    "build",
    [
        lambda: Sheet(0, 1, 1),
        lambda: Sheet.grid(0, 3),
        lambda: Sheet.for_width(0),
        lambda: Sheet(10, 3, 3),
        lambda: Sheet(8, 3, 3, wrapped=True),
        lambda: Sheet.grid(3, 3, spacing=0),
        lambda: Sheet.grid(3, 3, spacing=math.nan),
    ],
)
def test_impossible_sheets_are_refused(build):
    with pytest.raises(InputError):
        build()


def test_unknown_neighbourhood_is_answered_with_near_names():
    with pytest.raises(UnknownNameError, match="queen"):
        Sheet.grid(3, 3).neighbours("quen")


def test_sheet_survives_json_and_is_compared_by_value():
    sheet = Sheet.grid(3, 4, wrapped=True, spacing=0.5)
    again = Sheet.from_dict(sheet.to_dict())
    assert again == sheet
    assert hash(again) == hash(sheet)
    assert sheet != Sheet.grid(3, 4, spacing=0.5)
    with pytest.raises(InputError, match="wrapped"):
        Sheet.from_dict({"n_units": 4, "height": 2, "width": 2, "spacing": 1.0})
