import numpy as np
import pytest
from scipy.stats import kstest, norm

from topobrain import stats
from topobrain._checks import InputError
from topobrain.sheet import Sheet
from topobrain.surface import Surface

SHEET = Sheet.grid(24, 30)


def one_sided(t):
    return norm.sf(t)


def planted(seed=0):
    """Return noise with two smooth islands (6 x 6 and 4 x 5 units) and a speck of 4 units."""
    rng = np.random.default_rng(seed)
    t = np.clip(rng.standard_normal((24, 30)), -2, 2)
    down, right = np.indices((24, 30))
    for rows, columns, height in [((3, 9), (4, 10), 10), ((14, 18), (18, 23), 8)]:
        inside = (slice(*rows), slice(*columns))
        centre = np.mean(rows), np.mean(columns)
        t[inside] = height - 0.5 * np.hypot(down - centre[0], right - centre[1])[inside]
    t[21:23, 2:4] = 9
    return t.ravel()


def test_two_planted_islands_are_found_and_a_speck_is_skipped():
    t = planted()
    found = stats.island_morans_i(t, one_sided(t), SHEET, top=None)
    image = found.labels.reshape(24, 30)
    assert found.n_islands == 2
    assert found.sizes.tolist() == [36, 20]
    assert (image[3:9, 4:10] == 0).all()
    assert (image[14:18, 18:23] == 1).all()
    assert found.n_selected == 60
    assert found.reason == ""
    assert (found.index > 0.2).all()
    assert found.n_significant == 2
    assert found.mean == pytest.approx(found.index.mean())
    assert found.weighted_mean == pytest.approx((36 * found.index[0] + 20 * found.index[1]) / 56)
    assert found.significant_mean == pytest.approx(found.mean)


def test_the_index_of_an_island_is_that_of_a_map_without_other_units():
    t = planted()
    found = stats.island_morans_i(t, one_sided(t), SHEET, top=None, n_null=99)
    for number in range(2):
        alone = np.where(found.labels == number, t, np.nan)
        assert found.index[number] == pytest.approx(stats.morans_i(alone, SHEET), abs=1e-12)
    again = stats.island_morans_i(t, one_sided(t), SHEET, top=None, n_null=99)
    assert np.array_equal(found.p, again.p)
    assert (found.p >= 0.01).all()


def test_the_top_share_is_of_all_units_and_cuts_islands_down():
    t = planted()
    found = stats.island_morans_i(t, one_sided(t), SHEET, top=24 / 720)
    assert found.n_selected == 24
    assert found.n_islands == 1
    assert (t[found.labels == 0] >= np.sort(t)[-24]).all()
    assert stats.island_morans_i(t, one_sided(t), SHEET, top=24).sizes.tolist() == found.sizes.tolist()


def test_negative_t_is_not_selected_however_small_its_p():
    t = -planted()
    found = stats.island_morans_i(t, 2 * norm.sf(np.abs(t)), SHEET, top=None)
    assert found.n_islands == found.n_selected == 0


@pytest.mark.parametrize(
    ("scale", "options", "reason"),
    [
        (0.1, {"top": None}, "no unit has t > 0 at q <= 0.05"),
        (1.0, {}, "the top 0.01 (top=None keeps all)"),
        (1.0, {"top": None, "min_size": 40}, "the largest island has 36, fewer than 40"),
    ],
)
def test_no_island_is_a_named_empty_result(scale, options, reason):
    t = scale * planted()
    found = stats.island_morans_i(t, one_sided(t), SHEET, **options)
    assert found.n_islands == found.n_significant == 0
    assert found.sizes.size == found.index.size == found.p.size == 0
    assert np.isnan([found.mean, found.weighted_mean, found.significant_mean]).all()
    assert (found.labels == -1).all()
    assert reason in found.reason


def test_an_island_of_one_value_has_no_index_and_leaves_the_means():
    t = planted()
    t[:8] = 7.0
    found = stats.island_morans_i(t, one_sided(t), SHEET, top=None)
    flat = found.labels[0]
    assert np.isnan(found.index[flat])
    assert np.isnan(found.p[flat])
    assert found.mean == pytest.approx(np.nanmean(found.index))
    assert found.n_significant == 2


def test_a_medial_wall_is_in_no_island_and_counts_as_no_test():
    mesh = Surface.icosphere(3)
    height = mesh.coordinates / np.linalg.norm(mesh.coordinates, axis=1, keepdims=True)
    t = np.where(height[:, 0] > 0.8, 4 + 5 * height[:, 1] ** 2, np.random.default_rng(0).uniform(-1, 1, mesh.n_units))
    wall = height[:, 0] > 0.95
    t[wall] = np.nan
    found = stats.island_morans_i(t, one_sided(t), mesh, top=None)
    assert (found.labels[wall] == -1).all()
    assert found.n_islands == 1
    assert np.array_equal(found.labels >= 0, (height[:, 0] > 0.8) & ~wall)
    assert found.index[0] > 0.5
    null = stats.island_layout_null(t, one_sided(t), mesh, top=None, n_null=20)
    assert np.isfinite(null).all()
    p = one_sided(t)
    p[~wall & (found.labels == 0)] = np.nan  # a unit without a p-value is no test either
    assert stats.island_morans_i(t, p, mesh, top=None).n_selected == 0


def test_the_null_repeats_the_whole_selection():
    t = planted()
    t[np.random.default_rng(1).random(720) < 0.35] += 6  # many significant units, so that permuted maps have islands
    null = stats.island_layout_null(t, one_sided(t), SHEET, top=None, n_null=12, seed=5)
    expected = []
    for order in stats.product_permutations(720, 12, seed=5).orders():
        expected.append(stats.island_morans_i(t[order], one_sided(t[order]), SHEET, top=None, n_null=2).mean)
    assert np.isfinite(expected).all()
    assert np.allclose(null, expected, rtol=0, atol=1e-12)


def test_planted_islands_stand_above_a_null_without_islands():
    t = planted()
    p = one_sided(t)
    null = stats.island_layout_null(t, p, SHEET, top=None, n_null=99)
    assert (null == 0).mean() > 0.9  # 60 units in random places hardly ever lie together
    assert stats.compare_with_null(stats.island_morans_i(t, p, SHEET, top=None).mean, null).p == 0.01


@pytest.mark.slow
def test_selective_units_without_layout_are_not_found_smooth():
    sheet, p_null, p_inside = Sheet.grid(10, 12), [], []
    rng = np.random.default_rng(0)
    for seed in range(80):
        # 45 % of the units are selective, strongly and to different degrees, in random places: they do form islands
        t = np.where(rng.random(120) < 0.45, rng.gamma(4, 2, 120) + 3, -1.0) + 0.1 * rng.standard_normal(120)
        found = stats.island_morans_i(t, one_sided(t), sheet, top=None, n_null=2)
        assert found.n_islands > 0
        null = stats.island_layout_null(t, one_sided(t), sheet, top=None, n_null=19, seed=seed)
        p_null.append(stats.compare_with_null(found.mean, null).p)
        p_inside.append(stats.island_morans_i(t, one_sided(t), sheet, top=None, n_null=19, seed=seed).p[0])
    for p in (p_null, p_inside):  # in steps of 1/20: spread evenly over each step
        assert kstest(np.array(p) - rng.uniform(0, 1 / 20, len(p)), "uniform").pvalue > 0.01


def test_arguments_that_do_not_fit_are_refused():
    t = planted()
    with pytest.raises(InputError, match="each of 720 units"):
        stats.island_morans_i(t, t[1:], SHEET)
    with pytest.raises(InputError, match="three units"):
        stats.island_morans_i(t, one_sided(t), SHEET, min_size=2)
    with pytest.raises(InputError, match="q must"):
        stats.island_morans_i(t, one_sided(t), SHEET, q=0)
    with pytest.raises(InputError, match="no unit has both"):
        stats.island_morans_i(np.full(720, np.nan), one_sided(t), SHEET)
