import numpy as np
import pytest

from topobrain import stats
from topobrain._checks import InputError


@pytest.mark.parametrize(("n_repeats", "ceiling"), [(2, 0.3), (2, 0.7), (5, 0.5), (10, 0.9)])
def test_simulated_ceiling_is_recovered(n_repeats, ceiling):
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((2000, 60))
    noise = rng.standard_normal((n_repeats, 2000, 60)) * np.sqrt(n_repeats * (1 / ceiling**2 - 1))
    repeats = signal + noise
    found = stats.noise_ceiling(repeats)
    reached = stats.column_correlation(signal, repeats.mean(axis=0))
    assert np.sqrt((found**2).mean()) == pytest.approx(ceiling, abs=0.02)
    assert np.sqrt((found**2).mean()) == pytest.approx(reached.mean(), abs=0.02)


def test_the_ceiling_does_not_depend_on_offset_and_unit():
    repeats = np.random.default_rng(0).standard_normal((3, 50, 4)) + np.arange(50)[:, None] / 20
    assert np.allclose(stats.noise_ceiling(7 * repeats + 1000), stats.noise_ceiling(repeats))


def test_pure_noise_has_a_low_ceiling_and_no_noise_one():
    rng = np.random.default_rng(0)
    assert np.median(stats.noise_ceiling(rng.standard_normal((4, 2000, 50)))) < 0.15
    assert np.allclose(stats.noise_ceiling(np.tile(rng.standard_normal((30, 2)), (3, 1, 1))), 1)


def test_a_constant_voxel_has_no_ceiling():
    assert np.isnan(stats.noise_ceiling(np.zeros((2, 5, 1)))).all()


@pytest.mark.parametrize("shape", [(1, 10, 3), (2, 2, 3), (10, 3)])
def test_too_few_repeats_or_stimuli_are_refused(shape):
    with pytest.raises(InputError, match="2 repeats and 3 stimuli"):
        stats.noise_ceiling(np.zeros(shape))


def test_spearman_brown_predicts_the_reliability_of_longer_data():
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((20000, 1))

    def reliability(k):
        halves = [signal + rng.standard_normal((20000, k)).mean(axis=1, keepdims=True) for _ in range(2)]
        return stats.column_correlation(*halves)[0]

    assert float(stats.spearman_brown(reliability(1), 4)) == pytest.approx(reliability(4), abs=0.02)
    assert stats.spearman_brown(np.array([0.0, 1.0])).tolist() == [0, 1]
