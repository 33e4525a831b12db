"""Streams of batches that are pure functions of the step.

A `Corpus` is three integer sequences and the `Vocabulary` that made them. `Stream` and
`EvaluationStream` cut such a sequence into time-major batches; neither holds an iterator
state, so a run resumes from its step number alone. This file knows numpy, not JAX.
"""

import operator
from typing import NamedTuple

import numpy as np

from hmrnn_jax.datasets.text import Corpus, user_text
from hmrnn_jax.datasets.vocabulary import Vocabulary
from hmrnn_jax.errors import UserError

__all__ = ["Batch", "Corpus", "EvaluationStream", "Stream", "Vocabulary", "user_text"]


class Batch(NamedTuple):
    """One window of a stream, time-major.

    Attributes:
      inputs: int32 [T, B], the symbol read at each step.
      targets: int32 [T, B], the symbol that follows it.
      mask: float32 [T, B], 1 where the prediction counts and 0 where it does not.
      resets: bool [T, B]; where True, the recurrent state of the row is put back to the
        initial state before the step.
    """

    inputs: np.ndarray
    targets: np.ndarray
    mask: np.ndarray
    resets: np.ndarray


class Stream:
    """Training batches for truncated back-propagation, as a pure function of the step.

    The text is cut in `batch` contiguous rows of S = (N-1) // batch symbols; window k of an
    epoch is columns [kT, (k+1)T) of all rows, so the state carried from one step to the next
    fits. The last window of an epoch is padded with mask 0, and the first one resets the
    state. The fewer than `batch` symbols left over at the end of the text are not read.

    Args:
      ids: int32 [N].
      batch: number of rows B of the whole run.
      window: steps T per batch.
      rows: the rows that this process owns; None for all of them.

    Raises:
      UserError: the text is shorter than one window for each row.
    """

    def __init__(self, ids, batch: int, window: int, rows: slice | None = None):
        ids = _check_stream(ids, batch, window)
        length = (len(ids) - 1) // batch
        if length < window:
            raise UserError(
                f"the text has {len(ids):,} symbols, but {batch} rows of {window} steps need at "
                f"least {batch * window + 1:,}: use a longer text, or a smaller batch or window."
            )
        used, rows = batch * length, rows or slice(None)
        self.batch, self.window = batch, window
        self.steps_per_epoch = -(-length // window)
        self._inputs = ids[:used].reshape(batch, length)[rows]
        self._targets = ids[1 : used + 1].reshape(batch, length)[rows]

    def epoch(self, step: int) -> int:
        """The epoch, from 0, that a step belongs to."""
        return step // self.steps_per_epoch

    def __call__(self, step: int) -> Batch:
        """The batch of a step (from 0, without end): arrays [T, rows owned]."""
        window = operator.index(step) % self.steps_per_epoch
        columns = slice(window * self.window, (window + 1) * self.window)
        inputs, targets = self._inputs[:, columns].T, self._targets[:, columns].T
        shape, steps = (self.window, inputs.shape[1]), inputs.shape[0]
        batch = Batch(
            np.zeros(shape, np.int32), np.zeros(shape, np.int32),
            np.zeros(shape, np.float32), np.zeros(shape, bool),
        )  # fmt: skip
        batch.inputs[:steps], batch.targets[:steps], batch.mask[:steps] = inputs, targets, 1
        batch.resets[0] = window == 0
        return batch


class EvaluationStream:
    """Every symbol but the first is predicted exactly once, in `batch` rows at the same time.

    The N-1 predictions are cut in `batch` contiguous parts, as equal as possible. A row first
    reads, with mask 0, the `warmup` symbols before its part (as many as there are), so that
    its state is warm when its first prediction counts. Rows begin with a reset, and so does
    the text itself. With batch 1 the figure is exact: one pass from the initial state.

    Iterating gives `len(stream)` batches [T, B], to be run in order with the state carried.
    `predictions` is N-1. Raises UserError if the text has fewer than two symbols.
    """

    def __init__(self, ids, batch: int, window: int, warmup: int = 0):
        self._ids = _check_stream(ids, batch, window)
        if len(self._ids) < 2 or warmup < 0:
            raise UserError(
                f"evaluation needs a text of two symbols or more (this one has {len(self._ids)}) "
                f"and a warm-up of 0 or more (this one is {warmup})."
            )
        self.batch, self.window, self.predictions = batch, window, len(self._ids) - 1
        bounds = np.arange(batch + 1) * self.predictions // batch
        self._start, self._end = bounds[:-1], bounds[1:]
        # No row reads further back than the start of the text, so neither does the padding.
        self._warmup = min(warmup, int(self._start[-1]))
        self._steps = self._warmup + int(np.max(self._end - self._start))

    def __len__(self) -> int:
        return -(-self._steps // self.window)

    def __iter__(self):
        first = self._start - self._warmup  # negative: padding before the text begins
        for window in range(len(self)):
            t = np.arange(window * self.window, (window + 1) * self.window)[:, None]
            place = first + t
            real = (place >= 0) & (place < self._end)
            place = np.where(real, place, 0)
            yield Batch(
                inputs=np.where(real, self._ids[place], 0),
                targets=np.where(real, self._ids[place + 1], 0),
                mask=(real & (place >= self._start)).astype(np.float32),
                resets=(t == 0) | (t == -first),
            )


def _check_stream(ids, batch: int, window: int) -> np.ndarray:
    if batch < 1 or window < 1:
        raise UserError(f"batch {batch} and window {window} must both be 1 or more.")
    return np.asarray(ids, np.int32)
