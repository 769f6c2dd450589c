"""Which examples a step sees: a function of the seed and the step alone, so that a resumed run sees the same."""

from __future__ import annotations

import numpy as np

from topobrain._checks import InputError
from topobrain.training.config import TrainingConfig


class Sampler:
    """Deal out examples epoch by epoch, every example once an epoch, in an order drawn anew for each.

    Parameters
    ----------
    n_examples
        Examples of the training set.
    config
        Gives the batch of each step, and the seed.

    Examples
    --------
    >>> sampler = Sampler(6, TrainingConfig(batch_size=4, seed=0))
    >>> sorted(int(row) for step in range(3) for row in sampler.rows(step))
    [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    """

    def __init__(self, n_examples: int, config: TrainingConfig) -> None:
        if n_examples < 1:
            raise InputError("there is no example to train on")
        self.n_examples = n_examples
        self.config = config
        self._orders: dict[int, np.ndarray] = {}
        ramp = [config.batch_at(step) for step in range(config.ramp_steps)]
        self._ramp_starts = np.concatenate([[0], np.cumsum(ramp)]).astype(int)

    def seen_before(self, step: int) -> int:
        """Return the number of examples of all steps before this one."""
        ramped = min(step, self.config.ramp_steps)
        return int(self._ramp_starts[ramped]) + (step - ramped) * self.config.batch_size

    def rows(self, step: int) -> np.ndarray:
        """Return the numbers of the examples of a step (counted from 0), over all processes."""
        places = self.seen_before(step) + np.arange(self.config.batch_at(step))
        epochs, within = places // self.n_examples, places % self.n_examples
        return np.concatenate([self._order(int(e))[within[epochs == e]] for e in np.unique(epochs)])

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = np.random.default_rng([self.config.seed, epoch]).permutation(self.n_examples)
        return self._orders[epoch]


def seed_of(*numbers: int) -> int:
    """Return one well-mixed seed for torch of several whole numbers (seed, step, process, ...).

    >>> seed_of(0, 1) == seed_of(0, 1), seed_of(0, 1) == seed_of(1, 0)
    (True, False)
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
