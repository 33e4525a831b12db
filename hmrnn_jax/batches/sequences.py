"""Batches of real-valued sequences of different lengths, as pure functions of the step.

A batch holds sequences of about the same length, padded at the end, and is read in windows
with the state carried. This file knows numpy, not JAX.
"""

from typing import NamedTuple

import numpy as np

from hmrnn_jax.batches.base import FILLER, ShuffledEpochs, by_batch
from hmrnn_jax.errors import UserError


class SequenceBatch(NamedTuple):
    """B sequences, time-major; C columns: the values and, where there is one, the event.

    Attributes:
      inputs: float32 [T, B, C], the step that is read.
      targets: float32 [T, B, C], the step that follows it.
      mask: float32 [T, B], 1 where the prediction counts, 0 in the padding.
      resets: bool [T, B], True where a sequence begins.
    """

    inputs: np.ndarray
    targets: np.ndarray
    mask: np.ndarray
    resets: np.ndarray


class BucketStream(ShuffledEpochs):
    """Training windows, as a pure function of the step.

    A batch of sequences is read window after window, with the state carried, before the next
    batch. Every prediction comes once in an epoch. The order of epoch e is drawn from
    (seed, e): a permutation of the sequences, which fills each bucket's batches; the fewer
    than `batch` left over in a bucket move up to the next longer one, so that only the last
    batch of the longest has rows without a sequence; then the batches in a random order.

    Args:
      sequences: `datasets.sequences.Sequences`, S of them.
      batch: number of rows B of the whole run.
      seed: 0 or more.
      rows: the rows that this process owns; None for all of them.
      window: steps T of truncated back-propagation, which the buckets' lengths are multiples
        of; 0 reads whole sequences, so that every bucket is a shape of its own.
      buckets: most lengths where `window` is 0; they are those with the least padding. With
        windows every multiple is a length of its own: it costs no further shape, and so no
        window is padding in all of its rows.
      longest: sequences of more predictions are cut in pieces of so many, each of which is
        read from the initial state; 0 cuts none.
      quantum: what lengths are multiples of where `window` is 0.

    Attributes: `ends`, the buckets' lengths; `padding`, the share of an epoch's steps, 0 to 1,
    that is padding.
    """

    def __init__(
        self, sequences, batch, seed, rows=None, window=100, buckets=16, longest=0, quantum=10
    ):
        if batch < 1 or buckets < 1 or quantum < 1 or min(window, longest, seed) < 0:
            raise UserError(
                f"batch {batch}, buckets {buckets} and quantum {quantum} must be 1 or more,"
                f" window {window}, longest {longest} and seed {seed} 0 or more."
            )
        self.batch, self._rows, self.seed = batch, rows or slice(None), seed
        self._columns, self._window = columns(sequences), window
        self._start, self._steps = _pieces(sequences, longest)
        padded = -(-self._steps // (window or quantum)) * (window or quantum)
        self.ends = np.unique(padded) if window else best_ends(padded, buckets)
        self._bucket = np.searchsorted(self.ends, padded)
        self._counts = self._batches(np.bincount(self._bucket, minlength=len(self.ends)))
        self._windows = self.ends // window if window else np.ones_like(self.ends)
        self.steps_per_epoch = int(np.dot(self._counts, self._windows))
        spent = batch * int(np.dot(self._counts, self.ends))
        self.padding = 1 - float(self._steps.sum()) / spent

    def __call__(self, step: int) -> SequenceBatch:
        """The batch of a step (from 0, without end): arrays [T, rows owned, ...]."""
        (pieces, bucket, first), number = self.order_at(step)
        batch = int(np.searchsorted(first, number, side="right")) - 1
        chosen = pieces[batch][self._rows]
        real = chosen != FILLER
        done = (number - int(first[batch])) * self._window
        start = np.where(real, self._start[chosen], 0)
        left = np.where(real, self._steps[chosen], 0)
        return _cut(self._columns, start, left, done, self._window or int(self.ends[bucket[batch]]))

    def _batches(self, sizes):
        """Batches of each bucket, when what is left over moves up."""
        counts, left = [], 0
        for size in sizes:
            count, left = divmod(left + int(size), self.batch)
            counts.append(count)
        counts[-1] += left > 0
        return counts

    def draw(self, random):
        """The pieces of an epoch by batch, int64 [batches, B], each batch's bucket, and the
        step at which it begins."""
        order = random.permutation(len(self._steps))
        # Stable, so that those of one bucket stay in random order; and as the leftovers of a
        # bucket end up before the next bucket's, cutting the row in batches moves them up.
        order = order[np.argsort(self._bucket[order], kind="stable")]
        order = by_batch(order, self.batch)
        shuffled = random.permutation(len(order))
        bucket = np.repeat(np.arange(len(self.ends)), self._counts)[shuffled]
        windows = self._windows[bucket]
        return order[shuffled], bucket, np.cumsum(windows) - windows


class EvaluationSequences:
    """Every prediction of every sequence once, in windows of one shape.

    Sequences are sorted by length and run `batch` at a time, window after window; a row's
    state is carried from window to window and put back where the next sequence begins, so
    neither the window nor the padding changes a figure.

    Args: as `BucketStream`; `window` is 1 or more.

    Iterating gives `len(stream)` batches [window, B], to be run in order.
    """

    def __init__(self, sequences, batch: int, window: int):
        if batch < 1 or window < 1:
            raise UserError(f"batch {batch} and window {window} must both be 1 or more.")
        self._columns, self._batch, self._window = columns(sequences), batch, window
        start, steps = _pieces(sequences, 0)
        order = np.argsort(steps, kind="stable")
        self._start = by_batch(start[order], batch, filler=0)
        self._steps = by_batch(steps[order], batch, filler=0)

    def __len__(self) -> int:
        return int(sum(-(-self._steps.max(axis=1) // self._window)))

    def __iter__(self):
        for start, steps in zip(self._start, self._steps, strict=True):
            for done in range(0, int(steps.max()), self._window):
                yield _cut(self._columns, start, steps, done, self._window)


def columns(sequences) -> np.ndarray:
    """What a network reads at each step, float32 [N, C]: the values, then the event."""
    parts = [np.asarray(sequences.values, np.float32)]
    if sequences.events is not None:
        parts.append(np.asarray(sequences.events, np.float32)[:, None])
    return np.concatenate(parts, axis=1)


def best_ends(steps, buckets: int) -> np.ndarray:
    """At most `buckets` lengths, to which padding lengths `steps` [S] costs the least in all.

    Exact, by dynamic programming over the different lengths. The last is the largest.
    """
    lengths, counts = np.unique(np.asarray(steps, np.int64), return_counts=True)
    number = len(lengths)
    below = np.concatenate([[0], np.cumsum(counts)])
    cost = np.full(number + 1, np.inf)  # of the shortest j lengths, in the buckets so far
    cost[0], chosen = 0, []
    for _ in range(min(buckets, number)):
        new, origin = np.full(number + 1, np.inf), np.zeros(number + 1, np.int64)
        for j in range(1, number + 1):
            options = cost[:j] + lengths[j - 1] * (below[j] - below[:j])
            origin[j] = np.argmin(options)
            new[j] = options[origin[j]]
        cost = new
        chosen.append(origin)
    ends, j = [], number
    for origin in reversed(chosen):
        ends.append(lengths[j - 1])
        j = origin[j]
    return np.array(ends[::-1])


def _pieces(sequences, longest):
    """First step and number of predictions of each piece, int64 [P] each."""
    first, predictions = sequences.offsets[:-1], sequences.lengths - 1
    if not longest:
        return first, predictions
    number = -(-predictions // longest)
    sequence = np.repeat(np.arange(len(number)), number)
    within = np.arange(len(sequence)) - np.repeat(np.cumsum(number) - number, number)
    done = within * longest
    return first[sequence] + done, np.minimum(predictions[sequence] - done, longest)


def _cut(table, start, predictions, done, steps):
    """A window of rows that begin at `start` [B] and have `predictions` [B] to make in all.

    `done` steps were read before, the same number in every row.
    """
    t = done + np.arange(steps)[:, None]
    mask = t < predictions
    place = np.where(mask, start + t, 0)
    real = mask[:, :, None]
    return SequenceBatch(
        inputs=np.where(real, table[place], 0).astype(np.float32),
        targets=np.where(real, table[np.where(mask, place + 1, 0)], 0).astype(np.float32),
        mask=mask.astype(np.float32),
        resets=np.broadcast_to(t == 0, mask.shape).copy(),
    )
