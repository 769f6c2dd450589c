"""Every "selectivity" of the field comes out of one function, by its options: each row has a formula of its own."""

import numpy as np
import pytest
from scipy import ndimage
from scipy import stats as scipy_stats

from topobrain.stats import PUBLISHED_TTESTS, TTest, welch_t

HEIGHT, WIDTH = 6, 7


@pytest.fixture(params=[(8, 8), (24, 24), (12, 31)], ids=str)
def sides(request):
    rng = np.random.default_rng(0)
    n_on, n_off = request.param
    units = HEIGHT * WIDTH
    on = rng.standard_normal((n_on, units)) * rng.uniform(0.5, 3, units) + rng.standard_normal(units)
    off = rng.standard_normal((n_off, units)) * rng.uniform(0.5, 3, units)
    on[:, 3], off[:, 3] = 0.25, 0.25  # a dead unit
    return on, off


def student(on, off):
    return scipy_stats.ttest_ind(on, off, equal_var=True)


def population_welch_zero(on, off):
    with np.errstate(invalid="ignore"):
        t = (on.mean(0) - off.mean(0)) / np.sqrt(on.std(0) ** 2 / len(on) + off.std(0) ** 2 / len(off))
    return np.nan_to_num(t, nan=0.0), None


def welch(on, off):
    return scipy_stats.ttest_ind(on, off, equal_var=False)


def welch_of_absolute(on, off):
    return scipy_stats.ttest_ind(np.abs(on), np.abs(off), equal_var=False)


def welch_greater(on, off):
    return scipy_stats.ttest_ind(on, off, equal_var=False, alternative="greater")


def population_pooled(on, off):
    n, m = len(on), len(off)
    pooled = (((on - on.mean(0)) ** 2).sum(0) + ((off - off.mean(0)) ** 2).sum(0)) / (n + m)
    with np.errstate(invalid="ignore"):
        return (on.mean(0) - off.mean(0)) / np.sqrt(pooled) / np.sqrt(1 / n + 1 / m), None


def smoothed(values):
    """Smooth each stimulus over the sheet at FWHM 2, the kernel summed and not corrected at the border."""
    sigma = 2 / np.sqrt(8 * np.log(2))
    images = values.reshape(-1, HEIGHT, WIDTH)
    return ndimage.gaussian_filter(images, (0, sigma, sigma), mode="constant", truncate=8).reshape(values.shape)


def as_they_are(values):
    return values


@pytest.mark.filterwarnings("ignore:Precision loss")
@pytest.mark.parametrize(
    ("name", "options", "before", "formula"),
    [
        ("topoformer", {"test": "student"}, as_they_are, student),
        ("tdann", {"ddof": 0, "zero_variance": "zero"}, as_they_are, population_welch_zero),
        ("topolm", {}, smoothed, welch),
        ("brain-score", {}, as_they_are, welch),
        ("llm-localization", {"rectify": True}, as_they_are, welch_of_absolute),
        ("topo-omni", {"alternative": "greater"}, as_they_are, welch_greater),
        ("toponets", {"test": "student", "ddof": 0}, as_they_are, population_pooled),
    ],
)
def test_each_published_t_equals_its_own_formula(sides, name, options, before, formula):
    on, off = (before(side) for side in sides)
    test = PUBLISHED_TTESTS[name]
    assert test == TTest(**options)
    t, p = test.of_values(on, off)
    expected_t, expected_p = formula(on, off)
    live = np.arange(on.shape[1]) != 3
    assert np.allclose(t[live], expected_t[live], rtol=1e-11, atol=1e-13)
    if expected_p is not None:
        assert np.allclose(p[live], expected_p[live], rtol=1e-9)
    if before is as_they_are:
        assert np.array_equal([t[3]], [0.0 if name == "tdann" else np.nan], equal_nan=True)


def test_every_published_t_is_in_the_table():
    assert set(PUBLISHED_TTESTS) == {
        "topoformer", "tdann", "topolm", "brain-score", "llm-localization", "topo-omni", "toponets",
    }  # fmt: skip


def test_the_published_maps_differ(sides):
    maps = {name: test.of_values(*sides).t for name, test in PUBLISHED_TTESTS.items() if name != "topolm"}
    same = {frozenset((a, b)) for a in maps for b in maps if a != b and np.allclose(maps[a], maps[b], equal_nan=True)}
    balanced = len(sides[0]) == len(sides[1])
    # one-sided p leave t alone; with groups of one size pooled and separate variances give one t
    expected = {frozenset(("brain-score", "topo-omni"))}
    if balanced:
        expected |= {frozenset(("topoformer", "brain-score")), frozenset(("topoformer", "topo-omni"))}
    assert same == expected


@pytest.mark.parametrize(("n", "percent"), [(8, 6.9), (24, 2.2), (48, 1.1), (80, 0.6)])
def test_population_variances_exceed_welch_by_the_percentages_on_record(n, percent):
    rng = np.random.default_rng(n)
    on, off = rng.standard_normal((n, 20)) + 1, rng.standard_normal((n, 20))
    excess = 100 * (PUBLISHED_TTESTS["tdann"].of_values(on, off).t / welch_t(on, off).t - 1)
    assert np.allclose(excess, percent, atol=0.05)
