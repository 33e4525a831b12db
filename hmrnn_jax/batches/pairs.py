"""Batches of sentence pairs, as pure functions of the step.

Sentences are padded at the front, so that each ends at the last row of its batch and the
recurrence's final state is the sentence's. Batches are cut from pairs of about the same
length, to save padding, and their lengths are multiples of a quantum, so that few shapes are
compiled. This file knows numpy, not JAX.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from hmrnn_jax.batches.base import FILLER, ShuffledEpochs, by_batch
from hmrnn_jax.datasets.logic import Pairs, Sentences
from hmrnn_jax.errors import UserError

__all__ = [
    "EvaluationPairs",
    "PairBatch",
    "PairStream",
    "padding",
]

# Of propositional logic's training steps in batches of 128, 43 % are padding: 38 % because the
# sentences of a pair differ in length, 5 % because of these two (62 % with a pool of 1).
POOL, QUANTUM = 50, 4


class PairBatch(NamedTuple):
    """B pairs of sentences, time-major.

    Attributes:
      left, right: int32 [T, B], the sentences, with id 0 in front.
      left_resets, right_resets: bool [T, B], True at each padded step and at the first step
        of the sentence. Where True, the state of the row is put back to the initial state
        before the step, so the padding leaves no trace.
      labels: int32 [B].
      mask: float32 [B], 1 for a pair, 0 for a padding row, which is padding and label 0.
    """

    left: np.ndarray
    right: np.ndarray
    left_resets: np.ndarray
    right_resets: np.ndarray
    labels: np.ndarray
    mask: np.ndarray


class PairStream(ShuffledEpochs):
    """Training batches of pairs, as a pure function of the step.

    Every pair comes once in an epoch. The order of epoch e is drawn from (seed, e): a
    permutation of all pairs; pools of `pool` batches, each sorted by length and cut into
    batches; these in a random order again. The fewer than `batch` pairs left over, which are
    a random draw too, make up a batch with padding rows.

    Args:
      pairs: what is streamed.
      batch: number of rows B of the whole run.
      seed: 0 or more.
      rows: the rows that this process owns; None for all of them. T is that of the whole
        batch, the same in all processes.
      pool: batches sorted together. 1 sorts nothing across batches; more saves padding and
        makes the pairs of a batch more alike in length.
      quantum: T is the length of the longest sentence in the batch, rounded up to a multiple.

    Raises:
      UserError: no pairs, or a number out of its range.
    """

    def __init__(
        self,
        pairs: Pairs,
        batch: int,
        seed: int,
        rows: slice | None = None,
        pool: int = POOL,
        quantum: int = QUANTUM,
    ):
        _check(pairs, batch, quantum)
        if pool < 1 or seed < 0:
            raise UserError(f"pool {pool} must be 1 or more, and seed {seed} 0 or more.")
        self.batch, self.steps_per_epoch = batch, -(-len(pairs) // batch)
        self._pairs, self._rows, self._quantum = pairs, rows or slice(None), quantum
        self.seed, self._pool = seed, pool

    def __call__(self, step: int) -> PairBatch:
        """The batch of a step (from 0, without end): arrays [T, rows owned] or [rows owned]."""
        order, number = self.order_at(step)
        return _cut(self._pairs, order[number], self._rows, self._quantum)

    def draw(self, random: np.random.Generator) -> np.ndarray:
        """The pairs of an epoch by batch, int64 [steps_per_epoch, batch]."""
        order = random.permutation(len(self._pairs))
        full = len(order) // self.batch * self.batch
        # Of the pools and then of the lengths; pairs of one length stay in random order.
        pools = np.arange(full) // (self._pool * self.batch)
        order[:full] = order[np.lexsort((self._pairs.lengths[order[:full]], pools))]
        return random.permutation(by_batch(order, self.batch))


class EvaluationPairs:
    """All pairs once, sorted by length: `len(stream)` batches, the last with padding rows.

    Args:
      pairs, batch, quantum, rows: as in `PairStream`.

    `order` is int64 [len(stream), batch], the pair that each row of each batch holds, -1 in
    padding rows. Raises UserError as `PairStream` does.
    """

    def __init__(self, pairs: Pairs, batch: int, quantum: int = QUANTUM, rows: slice | None = None):
        _check(pairs, batch, quantum)
        self.batch, self.order = batch, by_batch(np.argsort(pairs.lengths, kind="stable"), batch)
        self._pairs, self._rows, self._quantum = pairs, rows or slice(None), quantum

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self):
        for chosen in self.order:
            yield _cut(self._pairs, chosen, self._rows, self._quantum)


def padding(batches: Iterable[PairBatch]) -> float:
    """The share, 0 to 1, of the batches' steps that are padding, those of padding rows included."""
    padded = steps = 0
    for batch in batches:
        for resets in (batch.left_resets, batch.right_resets):
            # One reset of each pair is the first step of its sentence, which is no padding.
            padded += int(resets.sum()) - int(batch.mask.sum())
            steps += resets.size
    return padded / steps


def _check(pairs: Pairs, batch: int, quantum: int) -> None:
    if batch < 1 or quantum < 1:
        raise UserError(f"batch {batch} and quantum {quantum} must both be 1 or more.")
    if not len(pairs):
        raise UserError("there are no pairs to make batches of: give one or more.")


def _cut(pairs: Pairs, chosen: np.ndarray, rows: slice, quantum: int) -> PairBatch:
    """The rows owned of the batch that holds the pairs `chosen`, int [B]."""
    # From the whole batch, whatever the rows: every process must have the same T.
    longest = int(pairs.lengths[chosen[chosen != FILLER]].max())
    steps, chosen = -(-longest // quantum) * quantum, chosen[rows]
    left, left_resets = _padded(pairs.left, chosen, steps)
    right, right_resets = _padded(pairs.right, chosen, steps)
    real = chosen != FILLER
    labels = np.where(real, pairs.labels[chosen], 0).astype(np.int32)
    return PairBatch(left, right, left_resets, right_resets, labels, real.astype(np.float32))


def _padded(sentences: Sentences, chosen: np.ndarray, steps: int) -> tuple:
    """Sentences that end at the last step, int32 [steps, B], and their resets."""
    end = np.where(chosen == FILLER, 0, sentences.offsets[chosen + 1])
    start = np.where(chosen == FILLER, 0, sentences.offsets[chosen])
    place = end + np.arange(-steps, 0)[:, None]  # of each step, in the sentences end to end
    ids = np.where(place >= start, sentences.ids[np.maximum(place, 0)], 0)
    return ids, place <= start
