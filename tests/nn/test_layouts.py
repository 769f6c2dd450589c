import numpy as np
import pytest
import torch

from topobrain._checks import InputError
from topobrain.nn import Remixing, correlation_loss, orthogonal_remixing, self_organising_map
from topobrain.nn import layouts as module
from topobrain.nn.layouts import one_to_one
from topobrain.sheet import Sheet
from topobrain.stats import compare_with_null, generic_topography, layout_permutations, morans_i


def planted(height, width, n_stimuli=400, *, seed=0, torus=False):
    """Gaussian tuning over a feature square: responses of shuffled units, and each unit's preferred features."""
    rng = np.random.default_rng(seed)
    rows, columns = (np.indices((height, width)).reshape(2, -1).T + 0.5).T / [[height], [width]]
    preferred = np.stack([rows, columns], axis=1)[np.random.default_rng(99).permutation(height * width)]
    gap = np.abs(rng.uniform(size=(n_stimuli, 1, 2)) - preferred)
    gap = np.minimum(gap, 1 - gap) if torus else gap
    clean = np.exp(-(gap**2).sum(axis=2) / (2 * 0.15**2))
    return clean + 0.1 * rng.standard_normal(clean.shape), preferred


def true_layout(preferred, sheet):
    row, column = (preferred * [sheet.height, sheet.width]).astype(int).T
    return sheet.with_places(row * sheet.width + column)


def above_layout_null(values, sheet, n_null=19):
    orders = layout_permutations(sheet.n_units, n_null)
    null = np.array([generic_topography(values[:, order], sheet) for order in orders])
    return compare_with_null(generic_topography(values, sheet), null)


# self-organising map


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width", "torus"), [(12, 12, False), (8, 16, False), (12, 12, True)])
def test_map_recovers_a_planted_arrangement_on_held_out_stimuli(height, width, torus):
    fitted, preferred = planted(height, width, torus=torus)
    other, _ = planted(height, width, seed=1, torus=torus)
    sheet = Sheet.grid(height, width, wrapped=torus)
    layout = self_organising_map(fitted, sheet)
    assert sorted(layout.cells) == sorted(sheet.cells)
    best = generic_topography(other, true_layout(preferred, sheet))
    start, found = above_layout_null(other, sheet), above_layout_null(other, layout)
    assert abs(start.z) < 4
    assert found.value > 0.9 * best > 0.6
    assert found.z > 20
    features = np.concatenate([np.sin(2 * np.pi * preferred.T), np.cos(2 * np.pi * preferred.T)])
    assert np.mean(morans_i(features, layout)) > 0.85 * np.mean(morans_i(features, true_layout(preferred, sheet)))


def test_map_sorts_a_line_exactly():
    preferred = np.random.default_rng(0).permutation(np.linspace(0, 1, 15))
    responses = np.exp(-((np.linspace(-0.2, 1.2, 60)[:, None] - preferred) ** 2) / 0.02)
    for sheet in (Sheet.grid(1, 15), Sheet.grid(15, 1)):
        found = preferred[np.argsort(self_organising_map(responses, sheet).cells)]
        assert (np.diff(found) > 0).all() or (np.diff(found) < 0).all()


def test_noise_looks_topographic_where_the_map_was_fitted_and_nowhere_else():
    noise, sheet = np.random.default_rng(0).standard_normal((200, 144)), Sheet.grid(12, 12)
    layout = self_organising_map(noise[:100], sheet)
    assert generic_topography(noise[:100], layout) > 0.05
    held_out = above_layout_null(noise[100:], layout, n_null=39)
    assert abs(held_out.z) < 3
    assert held_out.value == pytest.approx(0, abs=0.02)


def test_holes_stay_holes_and_every_unit_gets_a_cell_of_its_own():
    fitted, _ = planted(5, 10)
    sheet = Sheet(50, 8, 8).with_places(np.random.default_rng(3).permutation(64)[:50])
    layout = self_organising_map(fitted, sheet)
    assert sorted(layout.cells) == sorted(sheet.cells)
    assert above_layout_null(planted(5, 10, seed=1)[0], layout).z > 10


def test_map_is_the_same_for_the_same_seed_and_for_scaled_and_shifted_units():
    fitted, _ = planted(6, 7)
    sheet, state = Sheet.grid(6, 7), np.random.get_state()[1].copy()  # noqa: NPY002
    layout = self_organising_map(fitted, sheet, seed=3)
    assert layout == self_organising_map(fitted, sheet, seed=3)
    assert layout != self_organising_map(fitted, sheet, seed=4)
    rng = np.random.default_rng(0)
    rescaled = fitted * rng.uniform(0.1, 10, 42) + rng.standard_normal(42)
    assert layout == self_organising_map(rescaled, sheet, seed=3)
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_widths_are_lengths_and_more_stimuli_than_units_change_nothing():
    fitted, _ = planted(6, 6, 300)
    plain = self_organising_map(fitted, Sheet.grid(6, 6), fwhm_start=6.0, fwhm_end=1.5)
    fine = self_organising_map(fitted, Sheet.grid(6, 6, spacing=0.2), fwhm_start=1.2, fwhm_end=0.3)
    assert plain == self_organising_map(fitted, Sheet.grid(6, 6))
    assert np.array_equal(plain.cells, fine.cells)
    twice = self_organising_map(np.concatenate([fitted, fitted]), Sheet.grid(6, 6))
    assert generic_topography(fitted, twice) == pytest.approx(generic_topography(fitted, plain), abs=0.2)


def test_dead_units_fill_the_cells_the_others_leave():
    fitted, _ = planted(6, 6)
    fitted[:, [4, 20]] = 1.0
    layout = self_organising_map(fitted, Sheet.grid(6, 6))
    assert sorted(layout.cells) == list(range(36))
    with pytest.raises(InputError, match="no unit varies"):
        self_organising_map(np.ones((10, 36)), Sheet.grid(6, 6))


def test_exact_assignment_is_the_best_and_the_greedy_one_is_legal(monkeypatch):
    from itertools import permutations

    similarity = np.random.default_rng(0).standard_normal((6, 6))
    best = max(permutations(range(6)), key=lambda order: similarity[np.arange(6), list(order)].sum())
    assert one_to_one(similarity).tolist() == list(best)
    greedy = one_to_one(similarity, exact=False)
    assert sorted(greedy) == list(range(6))
    first = np.unravel_index(similarity.argmax(), (6, 6))
    assert greedy[first[0]] == first[1]
    for name in ("EXACT_EACH_EPOCH", "EXACT_AT_THE_END"):
        monkeypatch.setattr(module, name, 10)
    fitted, _ = planted(8, 8)
    layout = self_organising_map(fitted, Sheet.grid(8, 8))
    assert sorted(layout.cells) == list(range(64))
    assert above_layout_null(planted(8, 8, seed=1)[0], layout).z > 10


def test_bad_input_of_the_map_is_named():
    sheet, responses = Sheet.grid(3, 3), np.random.default_rng(0).standard_normal((10, 9))
    with pytest.raises(InputError, match=r"\(10, 8\), expected \(stimulus, 9 units\)"):
        self_organising_map(responses[:, :8], sheet)
    with pytest.raises(InputError, match="needs a layout"):
        self_organising_map(responses, Sheet.none(9))
    with pytest.raises(InputError, match="3 stimuli"):
        self_organising_map(responses[:2], sheet)
    with pytest.raises(InputError, match="n_epochs"):
        self_organising_map(responses, sheet, n_epochs=1)
    with pytest.raises(InputError, match="must shrink"):
        self_organising_map(responses, sheet, fwhm_start=1.0, fwhm_end=2.0)
    responses[3, 5] = np.nan
    with pytest.raises(InputError, match="unit 5 are not finite"):
        self_organising_map(responses, sheet)


# orthogonal re-mixing


@pytest.fixture(scope="module")
def remixed():
    """A re-mixing of shuffled tuned units, and responses to other stimuli."""
    fitted, _ = planted(10, 10)
    return orthogonal_remixing(fitted, Sheet.grid(10, 10), steps=100), fitted, planted(10, 10, seed=1)[0]


def test_remixing_is_orthogonal_and_lowers_the_loss(remixed):
    mixing, fitted, _ = remixed
    assert np.abs(mixing.matrix.T @ mixing.matrix - np.eye(100)).max() < 1e-12
    assert len(mixing.losses) == 100
    start, end = (correlation_loss(torch.from_numpy(v), mixing.sheet) for v in (fitted, mixing.apply(fitted)))
    assert start.item() == pytest.approx(mixing.losses[0], abs=1e-5)
    assert start.item() > 0.45
    assert end.item() < 0.1
    assert end.item() == pytest.approx(mixing.losses[-1], abs=0.01)


def test_remixed_units_are_topographic_on_held_out_stimuli(remixed):
    mixing, _, other = remixed
    assert abs(above_layout_null(other, mixing.sheet).z) < 4
    found = above_layout_null(mixing.apply(other), mixing.sheet)
    assert found.value > 0.6
    assert found.z > 20


def test_remixing_loses_nothing(remixed):
    mixing, fitted, other = remixed
    assert np.abs(mixing.invert(mixing.apply(other)) - other).max() < 1e-12
    coarse = other.astype(np.float32)
    assert np.abs(mixing.invert(mixing.apply(coarse)) - coarse).max() < 1e-5
    target = fitted @ np.random.default_rng(0).standard_normal(100)

    def predicted(train, test):  # a ridge read-out, whose penalty knows lengths only
        return test @ np.linalg.solve(train.T @ train + np.eye(100), train.T @ target)

    expected = predicted(fitted, other)
    assert np.allclose(predicted(mixing.apply(fitted), mixing.apply(other)), expected, rtol=0, atol=1e-8)
    assert not np.allclose(mixing.apply(fitted), fitted, atol=0.1)


def test_remixed_noise_is_topographic_only_where_it_was_fitted():
    noise, sheet = np.random.default_rng(0).standard_normal((160, 64)), Sheet.grid(8, 8)
    mixing = orthogonal_remixing(noise[:80], sheet, steps=60, learning_rate=0.01)
    assert generic_topography(mixing.apply(noise[:80]), sheet) > 0.3
    held_out = above_layout_null(mixing.apply(noise[80:]), sheet, n_null=39)
    assert abs(held_out.z) < 3
    assert held_out.value == pytest.approx(0, abs=0.05)


@pytest.mark.slow
def test_remixing_with_neighbourhoods_orders_nearby_units_and_follows_its_seed():
    fitted, _ = planted(8, 8)
    sheet, state = Sheet.grid(8, 8), torch.get_rng_state()
    options = {"steps": 60, "radius": 3, "learning_rate": 0.01}
    mixing = orthogonal_remixing(fitted, sheet, seed=1, **options)
    assert np.mean(mixing.losses[-10:]) < 0.15
    assert mixing.losses[0] > 0.3
    again = orthogonal_remixing(torch.from_numpy(fitted), sheet, seed=1, **options)
    assert np.array_equal(mixing.matrix, again.matrix)
    assert not np.array_equal(mixing.matrix, orthogonal_remixing(fitted, sheet, seed=2, **options).matrix)
    assert torch.equal(torch.get_rng_state(), state)


def test_fits_where_gradients_are_switched_off():
    fitted, _ = planted(4, 4, 50)
    expected = orthogonal_remixing(fitted, Sheet.grid(4, 4), steps=3).matrix
    with torch.inference_mode():
        inside = orthogonal_remixing(torch.from_numpy(fitted), Sheet.grid(4, 4), steps=3)
    assert np.array_equal(inside.matrix, expected)


def test_values_keep_their_kind_type_and_shape():
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0]
    mixing = Remixing(q, Sheet.grid(2, 3))
    values = np.random.default_rng(1).standard_normal((2, 5, 6))
    assert np.allclose(mixing.apply(values), values @ q)
    assert np.allclose(mixing.invert(values), values @ q.T)
    assert mixing.apply(values.astype(np.float32)).dtype == np.float32
    assert mixing.apply(np.arange(6)).dtype == np.float64
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        tensor = torch.from_numpy(values).to(dtype)
        found = mixing.apply(tensor)
        assert found.dtype == dtype
        assert found.shape == (2, 5, 6)
        assert np.allclose(found.double(), tensor.double().numpy() @ q, atol=0.05 if dtype == torch.bfloat16 else 1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        exact = torch.from_numpy(values).float()
        assert (mixing.invert(mixing.apply(exact)) - exact).abs().max() < 1e-5


def test_bad_input_of_remixing_is_named():
    sheet, responses = Sheet.grid(3, 3), np.random.default_rng(0).standard_normal((10, 9))
    with pytest.raises(InputError, match="not orthogonal"):
        Remixing(2 * np.eye(9), sheet)
    with pytest.raises(InputError, match="not orthogonal"):
        Remixing(np.full((9, 9), np.nan), sheet)
    with pytest.raises(InputError, match=r"\(8, 8\), expected \(9, 9\)"):
        Remixing(np.eye(8), sheet)
    with pytest.raises(InputError, match="9 units last"):
        Remixing(np.eye(9), sheet).apply(responses.T)
    with pytest.raises(InputError, match="9 units last"):
        orthogonal_remixing(responses[:, :8], sheet)
    with pytest.raises(InputError, match="needs a layout"):
        orthogonal_remixing(responses, Sheet.none(9))
    with pytest.raises(InputError, match="at least 3 samples"):
        orthogonal_remixing(responses[:2], sheet)
    with pytest.raises(InputError, match="steps"):
        orthogonal_remixing(responses, sheet, steps=0)
    with pytest.raises(InputError, match="from 2 to 2"):
        orthogonal_remixing(responses, sheet, radius=3)
    with pytest.raises(InputError, match=r"expected \(stimulus, unit\)"):
        orthogonal_remixing(responses[None], sheet)
