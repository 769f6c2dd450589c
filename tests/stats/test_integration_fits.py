import numpy as np
import pytest
from scipy.optimize import curve_fit

from topobrain._checks import InputError, UnknownNameError
from topobrain.stats import integration_windows as windows
from topobrain.stats.integration_windows import FORMS, fit_windows, window_curve

LAGS = np.arange(21)
# layers 1, 3, 6, 9 and 12 of GPT-2 small, as published: (a, b, c)
LAYERS = np.array([[0.50, 4.2, 0.10], [0.70, 2.0, 0.26], [0.60, 0.80, 0.31], [0.55, 0.70, 0.44], [0.36, 0.75, 0.42]])


def planted(rows, lags=LAGS):
    return window_curve(*np.asarray(rows, dtype=float).T, lags)


def noisy(row, n, sd, seed=0):
    return planted([row]) + np.random.default_rng(seed).normal(0, sd, (n, LAGS.size)).T


def thousand():
    parts = [
        noisy(row, n, sd, seed) for seed, (sd, n) in enumerate([(0.002, 67), (0.01, 67), (0.03, 66)]) for row in LAYERS
    ]
    return np.hstack(parts)


def by_curve_fit(theta, start=(1, 1, 0.5)):
    def mixture(lag, a, b, c):
        return c * (lag + 1.0) ** -a + (1 - c) * np.exp(-b * lag)

    found = [curve_fit(mixture, LAGS, curve, start, bounds=([0, 0, 0], [10, 10, 1]))[0] for curve in theta.T]
    loss = [((mixture(LAGS, *p) - curve) ** 2).sum() for p, curve in zip(found, theta.T, strict=True)]
    return np.array(found).T, np.array(loss)


def spread(values):
    return np.subtract(*np.percentile(values, [75, 25]))


# ---- curves


def test_curves_follow_the_law():
    theta = planted(LAYERS)
    assert theta.shape == (21, 5)
    assert np.allclose(theta[0], 1)
    a, b, c = LAYERS[2]
    assert theta[7, 2] == pytest.approx(c * 8**-a + (1 - c) * np.exp(-7 * b), rel=1e-14)
    pure = window_curve([np.nan, 0.6], [1.0, np.nan], [0, 1], LAGS)
    assert np.allclose(pure[:, 0], np.exp(-LAGS))
    assert np.allclose(pure[:, 1], (LAGS + 1) ** -0.6)
    assert np.isnan(window_curve(np.nan, 1.0, 0.5, LAGS)).all()
    with pytest.raises(InputError, match="one a unit"):
        window_curve(np.ones((2, 2)), 1.0, 0.5, LAGS)


# ---- the fit


@pytest.mark.slow
def test_a_thousand_units_are_fitted_as_well_as_by_curve_fit():
    theta = thousand()
    assert theta.shape == (21, 1000)
    (a, b, c), loss = by_curve_fit(theta)
    fit = fit_windows(theta)
    assert (fit.loss <= loss + 1e-4).all()
    # where curve_fit ends in the same minimum, parameters agree as far as its own stopping rule goes
    same = np.abs(fit.loss - loss) < 1e-10
    assert same.sum() > 950
    assert np.abs(fit.a - a)[same].max() < 1e-3
    assert np.abs(fit.b - b)[same].max() < 1e-2
    assert np.abs(fit.c - c)[same].max() < 1e-3


def test_loss_r2_and_fitted_curves_are_those_of_the_parameters():
    theta = noisy(LAYERS[3], 50, 0.01)
    for form in FORMS:
        fit = fit_windows(theta, form=form)
        assert np.allclose(fit.fitted, window_curve(fit.a, fit.b, fit.c, LAGS), atol=1e-12)
        assert np.allclose(fit.loss, ((theta - fit.fitted) ** 2).sum(axis=0), rtol=1e-9)
        assert np.allclose(fit.r2, 1 - fit.loss / (21 * theta.var(axis=0)), rtol=1e-9)
        n_parameters = 3 if form == "mixture" else 1
        assert np.allclose(fit.bic, 21 * np.log(fit.loss / 21) + n_parameters * np.log(21))


@pytest.mark.parametrize("sd", [0.002, 0.01, 0.03])
def test_spread_of_parameters_is_that_of_the_identifiability_fixture(sd):
    published = {
        0.002: [(0.03, 0.31, 0.006), (0.02, 0.04, 0.012), (0.02, 0.008, 0.016), (0.015, 0.008, 0.016), (0.01, 0.01, 0.011)],
        0.01: [(0.15, 2.2, 0.03), (0.11, 0.21, 0.06), (0.10, 0.04, 0.08), (0.07, 0.04, 0.08), (0.05, 0.05, 0.05)],
        0.03: [(0.42, 6.8, 0.07), (0.31, 0.73, 0.17), (0.31, 0.12, 0.25), (0.22, 0.13, 0.24), (0.15, 0.15, 0.16)],
    }  # fmt: skip
    for row, expected in zip(LAYERS, published[sd], strict=True):
        fit = fit_windows(noisy(row, 200, sd))
        for values, truth, iqr in zip((fit.a, fit.b, fit.c), row, expected, strict=True):
            assert spread(values) == pytest.approx(iqr, rel=0.35)  # 200 draws, numbers printed to one or two digits
            if sd <= 0.01:
                assert np.median(values) == pytest.approx(truth, rel=0.03)


def test_planted_windows_come_back():
    rng = np.random.default_rng(3)
    rows = np.vstack([LAYERS, np.c_[rng.uniform(0.2, 1.5, 300), rng.uniform(0.5, 4, 300), rng.uniform(0.1, 0.9, 300)]])
    fit = fit_windows(planted(rows))
    assert np.abs(np.c_[fit.a, fit.b, fit.c] - rows).max() < 1e-6
    assert (fit.r2 > 1 - 1e-12).all()
    assert not fit.ambiguous.any()


def test_a_planted_fast_power_law_with_a_slow_exponential_comes_back_too():
    rows = [[5.0, 0.06, 0.9], [2.3, 0.05, 0.6], [1.5, 0.1, 0.3]]
    fit = fit_windows(planted(rows))
    assert np.abs(np.c_[fit.a, fit.b, fit.c] - rows).max() < 1e-6


def test_noise_does_not_throw_fits_into_the_mirrored_minimum():
    theta = noisy(LAYERS[0], 200, 0.01)
    fit = fit_windows(theta)
    assert (fit.c > 0.5).mean() < 0.03
    assert fit.ambiguous.mean() > 0.9  # this noise cannot tell the two
    assert not fit_windows(noisy(LAYERS[2], 200, 0.002)).ambiguous.any()
    # a third of these units have their least loss there
    _, mirrored = by_curve_fit(theta[:, :60], (5.0, 0.06, 0.9))
    assert (mirrored < fit.loss[:60] - 1e-9).mean() > 0.15
    assert (fit.loss[:60] <= mirrored * (1 + 3.84 / 18) + 1e-12).all()


def test_pure_windows_come_back_with_either_form():
    rates = np.array([0.0, 0.02, 0.3, 1.0, 4.0, 9.0])
    exponential = window_curve(np.nan, rates, 0, LAGS)[:, 1:]
    power = window_curve(rates, np.nan, 1, LAGS)[:, 1:]
    one, two = fit_windows(exponential, form="exponential"), fit_windows(power, form="power")
    assert np.abs(one.b - rates[1:]).max() < 1e-6
    assert np.abs(two.a - rates[1:]).max() < 1e-6
    assert np.isnan(one.a).all()
    assert (one.c == 0).all()
    assert np.isnan(two.b).all()
    assert (two.c == 1).all()
    # of the mixture the other part's parameter is arbitrary, the curve is not
    for curves in (exponential, power):
        assert np.allclose(fit_windows(curves).fitted, curves, atol=1e-6)


def test_pure_forms_are_the_least_of_all_rates():
    theta = np.hstack([thousand()[:, ::20], np.random.default_rng(0).random((21, 50))])
    rates = np.linspace(0, 10, 20_001)
    for form, curves in (
        ("exponential", window_curve(0, rates, 0, LAGS)),
        ("power", window_curve(rates, 0, 1, LAGS)),
    ):
        loss = np.array([((curves - unit[:, None]) ** 2).sum(axis=0).min() for unit in theta.T])
        fit = fit_windows(theta, form=form)
        assert (fit.loss <= loss + 1e-12).all()


def test_the_mixture_never_fits_worse_than_a_pure_form():
    theta = thousand()
    mixture = fit_windows(theta).loss
    for form in ("exponential", "power"):
        assert (mixture <= fit_windows(theta, form=form).loss + 1e-9).all()


def test_values_at_the_bounds_stay_inside():
    rows = np.array([[0, 1, 0.5], [10, 1, 0.5], [0.5, 10, 0.5], [0.5, 0, 0.5], [0.6, 1, 0.0], [0.6, 1, 1.0]])
    rng = np.random.default_rng(1)
    theta = np.hstack([planted(rows), planted(rows) + rng.normal(0, 0.01, (21, 6))])
    fit = fit_windows(theta)
    for values, most in ((fit.a, 10), (fit.b, 10), (fit.c, 1)):
        assert (values >= 0).all()
        assert (values <= most).all()
    assert (fit.loss[:6] < 1e-12).all()
    assert fit.c[4] == pytest.approx(0, abs=1e-4)
    assert fit.c[5] == pytest.approx(1, abs=1e-4)


def test_true_ends_leave_the_other_parameter_arbitrary():
    end = fit_windows(noisy((0.6, 1, 0), 200, 0.002))
    assert spread(end.a) > 2
    assert spread(end.b) < 0.02
    known = windows.identifiable(end.c, np.full((21, 200), 0.002))
    assert known.a.mean() < 0.1
    assert known.b.mean() > 0.9
    other = windows.identifiable(fit_windows(noisy((0.6, 1, 1), 200, 0.002)).c, np.full((21, 200), 0.002))
    assert other.a.all()
    assert other.b.mean() < 0.35


def test_units_without_a_curve_are_nan_and_leave_the_others_alone():
    good = noisy(LAYERS[2], 3, 0.01)
    bad = np.stack([np.full(21, np.nan), np.zeros(21), np.full(21, 0.7), np.r_[1, np.full(20, np.inf)]], axis=1)
    bad = np.hstack([bad, np.full((21, 1), 1e300), good[:, :1]])
    bad[5, -1] = np.nan
    for form in FORMS:
        fit = fit_windows(np.hstack([good, bad]), form=form)
        alone = fit_windows(good, form=form)
        for values, expected in zip(fit, alone, strict=True):
            assert np.array_equal(values[..., :3], expected, equal_nan=True)
        for values in (fit.a, fit.b, fit.c, fit.r2, fit.loss, fit.bic, fit.fitted):
            assert np.isnan(values[..., 3:]).all()
        assert not fit.ambiguous[3:].any()
    assert all(np.isnan(values).all() for values in fit_windows(np.zeros((21, 4)))[:7])


def test_curves_that_are_no_windows_are_fitted_within_bounds():
    rng = np.random.default_rng(0)
    rising = np.linspace(0, 1, 21)[:, None] + rng.normal(0, 0.1, (21, 30))
    theta = np.hstack([rising, -rng.random((21, 30)), 1e3 * rng.random((21, 30)), 1.0 * (rng.random((21, 30)) < 0.3)])
    fit = fit_windows(theta)
    for values, most in ((fit.a, 10), (fit.b, 10), (fit.c, 1)):
        assert (values >= 0).all()
        assert (values <= most).all()
    assert np.isfinite(fit.bic).all()
    assert (fit.r2[:30] < 0).all()
    delta = fit_windows(np.eye(21)[:, :1])
    assert delta.fitted[1:].max() < 1e-3


def test_warm_starts_end_where_cold_ones_do():
    rng = np.random.default_rng(4)
    theta = np.hstack([noisy(row, 100, 0.003) for row in LAYERS])
    first = fit_windows(theta)
    again = theta + rng.normal(0, 0.003, theta.shape)
    cold = fit_windows(again)
    a, b = first.a.copy(), first.b.copy()
    a[::7] = np.nan
    a[1::7], b[1::7] = 10.0, 0.0  # a start as bad as there is
    warm = fit_windows(again, starts=(a, b))
    assert np.allclose(warm.loss, cold.loss, rtol=1e-7)
    assert np.allclose(warm.c, cold.c, atol=1e-4)
    assert np.allclose(fit_windows(again, starts=(1.0, 1.0)).c, cold.c, atol=1e-4)
    for form in ("exponential", "power"):
        fit = fit_windows(again, form=form)
        same = fit_windows(again, form=form, starts=(fit.a, fit.b))
        assert np.allclose(same.loss, fit.loss, rtol=1e-9)


def test_units_do_not_see_each_other(monkeypatch):
    theta = thousand()[:, ::9]
    fit = fit_windows(theta)
    order = np.random.default_rng(0).permutation(theta.shape[1])
    monkeypatch.setattr("topobrain.stats.integration_windows.fitting.UNIT_BLOCK", 17)
    moved = fit_windows(theta[:, order])
    alone = fit_windows(theta[:, 5:6])
    assert np.allclose(moved.loss, fit.loss[order], rtol=1e-9)
    assert np.allclose(moved.c, fit.c[order], atol=1e-6)
    assert alone.c.shape == (1,)
    assert alone.fitted.shape == (21, 1)
    assert alone.c[0] == pytest.approx(fit.c[5], abs=1e-6)
    assert fit_windows(theta[:, :0]).fitted.shape == (21, 0)


def test_single_precision_curves_are_fitted_in_double():
    theta = planted(LAYERS).astype(np.float32)
    fit = fit_windows(theta)
    assert fit.a.dtype == np.float64
    assert np.allclose(fit.c, LAYERS[:, 2], atol=1e-4)
    assert np.array_equal(fit.loss, fit_windows(theta.astype(np.float64)).loss)
    before = theta.copy()
    fit_windows(theta, starts=(fit.a, fit.b))
    assert np.array_equal(theta, before)


def test_other_lags():
    lags = [0, 0.5, 1, 2, 4, 8, 16, 40]
    fit = fit_windows(planted(LAYERS, lags), lags=lags)
    assert np.abs(np.c_[fit.a, fit.b, fit.c] - LAYERS).max() < 1e-5
    later = fit_windows(planted(LAYERS)[1:], lags=LAGS[1:])
    assert np.abs(later.c - LAYERS[:, 2]).max() < 1e-5


def test_bad_input_of_fits():
    theta = planted(LAYERS)
    with pytest.raises(InputError, match="a is of 2 units, b of 3, c of 1: expected one number for all, or one a unit"):
        window_curve([1, 2], [1, 2, 3], 0.5, [0, 1])
    with pytest.raises(InputError, match="2 lags cannot tell the 3 parameters"):
        fit_windows(theta[:2])
    assert fit_windows(theta[:2], form="power").a.shape == (5,)
    with pytest.raises(UnknownNameError, match="Did you mean 'power'"):
        fit_windows(theta, form="powr")
    with pytest.raises(InputError, match="one lag a row"):
        fit_windows(theta, lags=LAGS[:-1])
    with pytest.raises(InputError, match="on both sides"):
        fit_windows(theta, lags=LAGS - 10)
    with pytest.raises(InputError, match="rising"):
        fit_windows(theta, lags=LAGS[::-1])
    with pytest.raises(InputError, match="shape"):
        fit_windows(theta[:, 0])
    with pytest.raises(InputError, match="one number a unit"):
        fit_windows(theta, starts=(np.ones(4), np.ones(5)))


# ---- which form


def test_bic_names_the_planted_form():
    for sd in (0.0, 0.005):
        rng = np.random.default_rng(0)
        truth = np.repeat([0, 1, 2], 40)
        rows = np.c_[np.full(120, 0.6), np.full(120, 1.0), np.array([0, 1, 0.4])[truth]]
        theta = planted(rows) + rng.normal(0, sd, (21, 120))
        best = np.argmin([fit_windows(theta, form=form).bic for form in FORMS], axis=0)
        assert (best == truth).mean() > 0.9
        assert sd or (best == truth).all()


def test_held_out_choice_names_the_planted_form():
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], 60)
    curves = planted(np.c_[np.full(180, 0.6), np.full(180, 1.0), np.array([0, 1, 0.4])[truth]])
    train, test = (curves + rng.normal(0, sd, (5, 21, 180)) for sd in (0.005, 0.01))
    choice = windows.choose_form(train, test)
    assert choice.loss.shape == (3, 180)
    # a mixture at its bound is the pure form, so it may win by chance; the wrong pure form never does
    assert (choice.best == truth).mean() > 0.75
    assert ((choice.best == 0) & (truth == 1)).sum() == ((choice.best == 1) & (truth == 0)).sum() == 0
    assert (choice.best[truth == 2] == 2).all()
    # the held-out loss of the right form is the noise of the test curves and little more
    assert choice.loss[0, truth == 0].mean() == pytest.approx(21 * 0.01**2, rel=0.2)
    by_hand = [((test[fold] - fit_windows(train[fold], form="mixture").fitted) ** 2).sum(axis=0) for fold in range(5)]
    assert np.allclose(choice.loss[2], np.mean(by_hand, axis=0), rtol=1e-6)


def test_choice_without_noise_takes_the_simpler_form_and_knows_what_it_does_not_know():
    curves = planted([[0.6, 1, 0], [0.6, 1, 1], [0.6, 1, 0.4], [0.6, 1, 0.4], [0, 0, 1]])
    train = np.stack([curves, curves])
    train[1, 3, 3] = np.nan
    choice = windows.choose_form(train, np.stack([curves, curves]))
    assert choice.best.tolist() == [0, 1, 2, -1, -1]
    assert np.isnan(choice.loss[:, 3:]).all()
    with pytest.raises(InputError, match="fold, lag, unit"):
        windows.choose_form(curves, curves)


# ---- width


def test_widths_are_those_of_the_fixture():
    width = windows.window_width(planted(LAYERS), LAGS)
    assert np.allclose(width.half, [0.546, 0.676, 1.068, 1.393, 1.536], atol=6e-4)
    assert np.allclose(width.centre, [8.43, 7.18, 6.61, 7.29, 8.27], atol=6e-3)
    assert not width.beyond.any()


def test_widths_where_there_is_none():
    theta = np.array([[1, 1, 0, 0.4, np.nan, 1, 1], [0.9, 0.5, 0, 0.3, 1, -0.1, 0.4], [0.8, 0.2, 0, 0, 0, 0.1, 0.9]])
    width = windows.window_width(theta)
    assert np.allclose(
        width.half, [np.nan, 1, np.nan, np.nan, np.nan, 0.5 / 1.1, 0.5 / 0.6], atol=1e-12, equal_nan=True
    )
    assert width.beyond.tolist() == [True] + [False] * 6
    assert np.isnan(width.centre[[2, 4]]).all()
    assert width.centre[5] == 2  # a negative value is no weight
    two_sided = np.vstack([theta[:0:-1], theta])
    both = windows.window_width(two_sided, [-2, -1, 0, 1, 2])
    assert np.array_equal(both.half[[0, 1, 6]], width.half[[0, 1, 6]], equal_nan=True)
    with pytest.raises(InputError, match="lag 0"):
        windows.window_width(theta, [1, 2, 3])
    with pytest.raises(InputError, match="lag 0"):
        windows.window_width(theta, [-2, -1, 0])
    with pytest.raises(InputError, match="one lag a row"):
        windows.window_width(theta, [0, 1])


# ---- what can be believed


def test_masks_follow_weights_and_standard_errors():
    c = np.array([0.04, 0.05, 0.5, 0.95, 0.96, np.nan])
    free = windows.identifiable(c)
    assert free.a.tolist() == [False, True, True, True, True, False]
    assert free.b.tolist() == [True, True, True, True, False, False]
    assert free.c.tolist() == [True] * 5 + [False]
    errors = np.zeros((3, 6))
    errors[0] = 9.0  # lag 0 is 1 by definition and does not count
    errors[1:, 1] = 0.0051
    errors[1, 2], errors[2, 2] = 0.007, 0.0  # root mean square 0.00495
    errors[2, 3] = np.nan
    known = windows.identifiable(c, errors)
    assert known.c.tolist() == [True, False, True, False, True, False]
    assert known.a.tolist() == [False, False, True, False, True, False]
    assert windows.identifiable(c, errors, max_se=0.006).c.tolist() == [True, True, True, False, True, False]
    assert windows.identifiable(c, errors, low=0.0).a[0]
    with pytest.raises(InputError, match="one a column"):
        windows.identifiable(c, errors[:, :4])
    with pytest.raises(InputError, match="max_se"):
        windows.identifiable(c, errors, max_se=-1.0)


def test_reliability_is_that_of_the_mean_of_both_halves():
    rng = np.random.default_rng(0)
    # curves that are normal deviates: signal and noise of known variance, so r = s / (s + n) between halves
    signal = rng.normal(0, 1, (4001, 3))
    first, second = (signal + rng.normal(0, [0.0, 1.0, 2.0], signal.shape) for _ in range(2))
    expected = [1.0, 1 / 1.5, 1 / 3.0]
    assert np.allclose(windows.split_half(first, second), expected, atol=0.03)
    whole = windows.split_half_matrix(first, second)
    assert whole == pytest.approx(1 / (1 + 5 / 3 / 2), abs=0.03)


def test_reliability_leaves_out_lag_zero_and_units_without_a_curve():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 11, 4))
    lags = np.arange(-5, 6)
    moved = second.copy()
    moved[5] = 100.0
    assert np.allclose(windows.split_half(first, second, lags), windows.split_half(first, moved, lags))
    assert windows.split_half_matrix(first, second, lags) == windows.split_half_matrix(first, moved, lags)
    second[3, 0], second[:, 1] = np.nan, 0.3
    r = windows.split_half(first, second, lags)
    assert np.isnan(r).tolist() == [True, True, False, False]
    assert windows.split_half_matrix(first, second, lags) == pytest.approx(
        windows.split_half_matrix(first[:, 1:], second[:, 1:], lags)
    )
    assert np.isnan(windows.split_half_matrix(first[:, :1], second[:, :1], lags))
    assert windows.split_half(first, -first, lags).tolist() == [-1.0] * 4
    with pytest.raises(InputError, match="same"):
        windows.split_half(first, second[:, :2])
    with pytest.raises(InputError, match="3 or more"):
        windows.split_half(first[:3], second[:3])


def test_a_power_law_that_is_a_delta_has_no_weight():
    c, a = np.array([0.97, 0.97, 0.03, 0.5]), np.array([10.0, 1.0, 10.0, np.nan])
    known = windows.identifiable(c, a=a)
    assert known.c.tolist() == [False, True, True, True]
    assert known.a.tolist() == [False, True, False, True]
    assert known.b.tolist() == [False, False, True, True]
    with pytest.raises(InputError, match="a has shape"):
        windows.identifiable(c, a=a[:2])
