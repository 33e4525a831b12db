"""Batches of sentence pairs, as pure functions of the step.

The 2 B sentences of B pairs lie end to end in B rows, so that little of a batch is padding
although its sentences differ in length: the recurrence puts a row's state back to the initial
state before each of them, and the state after a sentence's last symbol is the sentence's. The
number of steps is a multiple of a quantum, so that few shapes are compiled. This file knows
numpy, not JAX.
"""

import heapq
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from hmrnn_jax.batches.base import FILLER, ShuffledEpochs, by_batch
from hmrnn_jax.datasets.logic import Pairs
from hmrnn_jax.errors import UserError

__all__ = [
    "EvaluationPairs",
    "PairBatch",
    "PairStream",
    "padding",
]

QUANTUM = 4
PADDING = -1  # in `numbers`: a step without a symbol


class PairBatch(NamedTuple):
    """B pairs of sentences in B rows, time-major. Each device holds whole pairs.

    Attributes:
      ids: int32 [T, B], the symbols, 0 in padding.
      numbers: int32 [T, B], the place of each symbol among all of the whole batch, first those
        of the left sentences, in the order of the pairs, then those of the right ones; -1 in
        padding. They are the same however rows are divided over devices.
      resets: bool [T, B], True at the first step of a sentence and in padding. Where True, the
        state of the row is put back to the initial state before the step.
      left, right: int32 [2, B], step and row of the last symbol of each pair's sentences, the
        row counted from the first of its device; zeros for a filler.
      labels: int32 [B].
      mask: float32 [B], 1 for a pair, 0 for a filler, which has no symbols and label 0.
    """

    ids: np.ndarray
    numbers: np.ndarray
    resets: np.ndarray
    left: np.ndarray
    right: np.ndarray
    labels: np.ndarray
    mask: np.ndarray


class PairStream(ShuffledEpochs):
    """Training batches of pairs, as a pure function of the step.

    Every pair comes once in an epoch. The order of epoch e is a permutation of all pairs, drawn
    from (seed, e); the fewer than `batch` pairs left over at its end make up a batch with fillers.

    Args:
      pairs: what is streamed.
      batch: number of pairs B in a step of the whole run.
      seed: 0 or more.
      rows: the rows that this process owns; None for all of them. T is that of the whole
        batch, the same in all processes.
      devices: how many devices the batch is divided over; the sentences of a device's pairs lie
        in its own rows.
      quantum: T is the most symbols that a row has, rounded up to a multiple.

    Raises:
      UserError: no pairs, or a number out of its range.
    """

    def __init__(
        self,
        pairs: Pairs,
        batch: int,
        seed: int,
        rows: slice | None = None,
        devices: int = 1,
        quantum: int = QUANTUM,
    ):
        if seed < 0:
            raise UserError(f"seed {seed} must be 0 or more.")
        self._cut = _Cut(pairs, batch, rows, devices, quantum)
        self.batch, self.steps_per_epoch = batch, -(-len(pairs) // batch)
        self.seed, self._pairs = seed, len(pairs)

    def __call__(self, step: int) -> PairBatch:
        """The batch of a step (from 0, without end): arrays [T, rows owned] or [rows owned]."""
        order, number = self.order_at(step)
        return self._cut(order[number])

    def draw(self, random: np.random.Generator) -> np.ndarray:
        """The pairs of an epoch by batch, int64 [steps_per_epoch, batch]."""
        return by_batch(random.permutation(self._pairs), self.batch)


class EvaluationPairs:
    """All pairs once, in their order: `len(stream)` batches, the last with fillers.

    Args:
      pairs, batch, rows, devices, quantum: as in `PairStream`. The quantum is larger, for each
        number of operators has lengths of its own, and is read but once an epoch.

    `order` is int64 [len(stream), batch], the pairs of each batch, -1 for fillers. Raises
    UserError as `PairStream` does.
    """

    def __init__(
        self,
        pairs: Pairs,
        batch: int,
        rows: slice | None = None,
        devices: int = 1,
        quantum: int = 2 * QUANTUM,
    ):
        self._cut = _Cut(pairs, batch, rows, devices, quantum)
        self.batch, self.order = batch, by_batch(np.arange(len(pairs)), batch)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self):
        return map(self._cut, self.order)


def padding(batches: Iterable[PairBatch]) -> float:
    """The share, 0 to 1, of the batches' steps that are padding."""
    padded = steps = 0
    for batch in batches:
        padded += int(np.count_nonzero(batch.numbers == PADDING))
        steps += batch.numbers.size
    return padded / steps


class _Cut:
    """Makes the rows owned of the batch of some pairs, int [B]."""

    def __init__(self, pairs, batch, rows, devices, quantum):
        if batch < 1 or quantum < 1 or devices < 1 or batch % devices:
            raise UserError(
                f"batch {batch} and quantum {quantum} must both be 1 or more, and the batch a"
                f" multiple of its {devices} devices."
            )
        if not len(pairs):
            raise UserError("there are no pairs to make batches of: give one or more.")
        self._pairs, self._rows, self._devices = pairs, rows or slice(None), devices
        self._quantum = quantum

    def __call__(self, chosen: np.ndarray) -> PairBatch:
        pairs, batch, real = self._pairs, len(chosen), chosen != FILLER
        chosen = np.where(real, chosen, 0)
        sides = (pairs.left, pairs.right)
        lengths = np.stack([np.where(real, side.lengths[chosen], 0) for side in sides])
        starts, rows = np.zeros((2, 2, batch), int)
        own = batch // self._devices
        for first in range(0, batch, own):
            device = slice(first, first + own)
            starts[:, device], rows[:, device] = packed(lengths[:, device])
        # From the whole batch, whatever the rows: every process must have the same T.
        steps = -(-int((starts + lengths).max()) // self._quantum) * self._quantum
        ids = np.zeros((steps, batch), np.int32)
        numbers = np.full((steps, batch), PADDING, np.int32)
        resets = np.ones((steps, batch), bool)
        # By symbol: its sentence, and its place in it.
        flat = lengths.ravel()
        sentence = np.repeat(np.arange(2 * batch), flat)
        number = np.arange(len(sentence))
        place = number - (np.cumsum(flat) - flat)[sentence]
        sources = np.concatenate([side.offsets[chosen] for side in sides])[sentence] + place
        first_rows = np.arange(batch) // own * own
        at = (starts.ravel()[sentence] + place, (rows + first_rows).ravel()[sentence])
        half = lengths[0].sum()
        ids[at] = np.concatenate(
            [side.ids[part] for side, part in zip(sides, np.split(sources, [half]), strict=True)]
        )
        numbers[at], resets[at] = number, place == 0
        ends = np.where(real, np.stack([starts + lengths - 1, rows], axis=1), 0)
        left, right = ends.astype(np.int32)
        labels = np.where(real, pairs.labels[chosen], 0).astype(np.int32)
        whole = PairBatch(ids, numbers, resets, left, right, labels, real.astype(np.float32))
        return PairBatch(*(array[..., self._rows] for array in whole))


def packed(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sentences of `lengths` [2, B] in B rows: `(first step, row)` of each, both [2, B].

    The longest first, each in the row that has the fewest symbols so far.
    """
    flat, rows = lengths.ravel(), [(0, row) for row in range(lengths.shape[1])]
    starts, places = np.zeros_like(flat), np.zeros_like(flat)
    for sentence in np.argsort(-flat, kind="stable"):
        filled, row = rows[0]
        starts[sentence], places[sentence] = filled, row
        heapq.heapreplace(rows, (filled + int(flat[sentence]), row))
    return starts.reshape(lengths.shape), places.reshape(lengths.shape)
