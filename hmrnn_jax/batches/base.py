"""What the streams of batches share: epochs, their order, rows that hold nothing.

This file knows numpy, not JAX.
"""

import operator

import numpy as np

FILLER = -1  # in an order of examples: a row without one


class Epochs:
    """Where the epochs of a stream end, if all have `steps_per_epoch` steps."""

    steps_per_epoch: int

    def epoch(self, step: int) -> int:
        """The epoch, from 0, that a step belongs to."""
        return step // self.steps_per_epoch

    def steps_in(self, epochs: int) -> int:
        """Steps of the first `epochs` epochs."""
        return epochs * self.steps_per_epoch

    def scale(self, step: int) -> float:
        """Factor of the learning rate at a step: 1, as all batches are alike."""
        return 1.0


class ShuffledEpochs(Epochs):
    """Epochs whose order is drawn anew, a function of (seed, epoch); the latest is kept."""

    seed: int
    _kept = (None, None)  # an epoch and its order

    def draw(self, random: np.random.Generator):
        """The order of an epoch, from its own generator."""
        raise NotImplementedError

    def order_at(self, step: int) -> tuple:
        """`(order, number)`: that of the epoch of a step, and the step's number in it."""
        epoch, number = divmod(operator.index(step), self.steps_per_epoch)
        kept, order = self._kept
        if epoch != kept:
            order = self.draw(np.random.default_rng([self.seed, epoch]))
            # One assignment, so that calls of several threads never mix two epochs.
            self._kept = (epoch, order)
        return order, number


def by_batch(order: np.ndarray, batch: int, filler: int = FILLER) -> np.ndarray:
    """`[N]` cut into `[batches, batch]`, filled up at the end."""
    fillers = np.full(-len(order) % batch, filler, order.dtype)
    return np.concatenate([order, fillers]).reshape(-1, batch)
