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


def test_a_sheet_whose_units_were_moved_keeps_values_with_their_units():
    cells = np.random.default_rng(0).permutation(12)
    moved = Sheet.grid(3, 4).with_places(cells)
    image = moved.to_image(np.arange(12.0))
    assert [image[c // 4, c % 4] for c in cells] == list(range(12))
    plain = Sheet.grid(3, 4)
    np.testing.assert_array_equal(moved.distances(), plain.distances()[np.ix_(cells, cells)])
    for kind in ("queen", "rook"):
        dense = plain.neighbours(kind).toarray()[np.ix_(cells, cells)]
        np.testing.assert_array_equal(moved.neighbours(kind).toarray(), dense)
    assert Sheet.from_dict(moved.to_dict()) == moved != plain
    assert hash(Sheet.from_dict(moved.to_dict())) == hash(moved)


def test_places_in_row_major_order_are_the_plain_sheet():
    assert Sheet.grid(3, 4).with_places(range(12)) == Sheet.grid(3, 4)
    assert "places" not in Sheet.grid(3, 4).with_places(range(12)).to_dict()


def test_units_may_leave_cells_free_in_the_middle():
    sheet = Sheet(3, 2, 3, places=(0, 2, 5))
    np.testing.assert_array_equal(sheet.to_image(np.ones(3)), [[1, np.nan, 1], [np.nan, np.nan, 1]])
    assert sheet.neighbours("rook").toarray().tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0]]


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([0, 1, 1], "cell 1 is given 2 times"),
        ([0, 1, 6], "places run from 0 to 5"),
        ([0, 1, -1], "got -1 to 1"),
        ([0, 1], "one whole number a unit"),
        ([0.0, 1.0, 2.0], "one whole number a unit"),
    ],
)
def test_wrong_places_are_told(places, message):
    with pytest.raises(InputError, match=message):
        Sheet(3, 2, 3).with_places(places)


def test_units_without_a_layout_cannot_be_moved():
    with pytest.raises(InputError, match="needs a layout"):
        Sheet.none(3).with_places([0, 1, 2])


@pytest.mark.parametrize(
    "sheet",
    [
        Sheet.grid(6, 9),
        Sheet.grid(5, 8, wrapped=True),
        Sheet.for_width(11),
        Sheet.grid(4, 7, spacing=2.0),
        Sheet.grid(8, 8, wrapped=True, spacing=2.0),
        Sheet(13, 4, 5).with_places([19, 0, 3, 4, 7, 8, 12, 13, 14, 15, 16, 1, 2]),
    ],
)
def test_smooth_equals_the_dense_smoothing_matrix(sheet):
    values = np.random.default_rng(0).standard_normal((2, 3, sheet.n_units))
    np.testing.assert_allclose(sheet.smooth(values, 2.0), values @ sheet.smoothing(2.0).T, atol=1e-12)


def test_smooth_by_sum_is_the_gaussian_density_and_fades_at_the_border():
    sheet = Sheet.grid(15, 17)
    sigma = 2.0 / np.sqrt(8 * np.log(2))
    kernel = np.exp(-(sheet.distances() ** 2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)
    values = np.random.default_rng(1).standard_normal(sheet.n_units)
    np.testing.assert_allclose(sheet.smooth(values, 2.0, edges="sum"), kernel @ values, atol=1e-12)
    flat = sheet.to_image(sheet.smooth(np.ones(sheet.n_units), 2.0, edges="sum"))
    assert flat[7, 8] == pytest.approx(1.0, abs=0.01)
    assert flat[0, 0] < 0.6
    np.testing.assert_allclose(sheet.smooth(np.ones(sheet.n_units), 2.0), 1.0, atol=1e-12)


def test_smooth_keeps_float32_and_leaves_values_alone_at_width_zero():
    values = np.random.default_rng(2).standard_normal((4, 30)).astype(np.float32)
    sheet = Sheet.grid(5, 6)
    assert sheet.smooth(values, 1.5).dtype == np.float32
    np.testing.assert_array_equal(sheet.smooth(values, 0.0), values)
    with pytest.raises(InputError, match="30 units"):
        sheet.smooth(values[:, :29], 1.0)
    with pytest.raises(InputError, match="fwhm"):
        sheet.smooth(values, -1.0)
    with pytest.raises(InputError, match="layout"):
        Sheet.none(30).smooth(values, 1.0)


def test_neighbours_are_computed_once_and_a_narrow_torus_joins_no_unit_to_itself():
    sheet = Sheet.grid(6, 7, wrapped=True)
    assert sheet.neighbours() is sheet.neighbours()
    assert set(np.asarray(sheet.neighbours().sum(axis=1)).ravel()) == {8.0}
    narrow = Sheet.grid(2, 5, wrapped=True).neighbours("rook").toarray()
    assert narrow.diagonal().sum() == 0
    assert narrow.max() == 1
    np.testing.assert_array_equal(narrow, narrow.T)
