"""Streams of batches of a text that are pure functions of the step.

`Stream` and `EvaluationStream` cut a sequence of integers into time-major batches; neither holds
an iterator state, so a run resumes from its step number alone. This file knows numpy, not JAX.
"""

import bisect
import operator
from typing import NamedTuple

import numpy as np

from hmrnn_jax.batches.base import Epochs
from hmrnn_jax.errors import UserError

__all__ = [
    "Batch",
    "EvaluationStream",
    "Stream",
    "VariableStream",
]


class Batch(NamedTuple):
    """One window of a stream, time-major.

    Attributes:
      inputs: int32 [T, B], the symbol read at each step.
      targets: int32 [T, B], the symbol that follows it.
      mask: float32 [T, B], 1 where the prediction counts and 0 where it does not.
      resets: bool [T, B]; where True, the recurrent state of the row is put back to the
        initial state before the step.
      taught: uint8 [T, B] of a text whose segments are given, see `Stream`; else None.
    """

    inputs: np.ndarray
    targets: np.ndarray
    mask: np.ndarray
    resets: np.ndarray
    taught: np.ndarray | None = None


class Stream(Epochs):
    """Training batches for truncated back-propagation, as a pure function of the step.

    The text is cut in `batch` contiguous rows of S = (N-1) // batch symbols; window k of an
    epoch is columns [kT, (k+1)T) of all rows, so the state carried from one step to the next
    fits. The last window of an epoch is padded with mask 0, and the first one resets the
    state. The fewer than `batch` symbols left over at the end of the text are not read.

    Args:
      ids: int32 [N]; what stays in a file is read as it is asked for.
      batch: number of rows B of the whole run.
      window: steps T per batch.
      rows: the rows that this process owns; None for all of them.
      taught: uint8 [N], what the detectors are taught at each symbol, see
        `tasks.objectives.given`.

    Raises:
      UserError: the text is shorter than one window for each row.
    """

    def __init__(self, ids, batch: int, window: int, rows: slice | None = None, taught=None):
        ids = _check_stream(ids, batch, window)
        length = (len(ids) - 1) // batch
        if length < window:
            raise UserError(
                f"the training text has {len(ids):,} symbols, but {batch} rows of {window} steps"
                f" need at least {batch * window + 1:,}: use a longer text, or a smaller batch or"
                " window."
            )
        rows = rows or slice(None)
        self.batch, self.window = batch, window
        self.steps_per_epoch = -(-length // window)
        self._ids, self._taught = ids, taught
        self._rows, self._row = np.arange(batch)[rows, None] * length, length  # where each begins

    def __call__(self, step: int) -> Batch:
        """The batch of a step (from 0, without end): arrays [T, rows owned]."""
        window = operator.index(step) % self.steps_per_epoch
        start = window * self.window
        return self._cut(start, start + self.window, self.window)

    def _cut(self, start: int, end: int, length: int) -> Batch:
        """The batch of the columns from `start` to `end`, padded to `length`."""
        end = min(end, self._row)
        places = self._rows + np.arange(start, end + 1)
        symbols = self._ids[places].T
        shape, steps = (length, len(places)), end - start
        batch = Batch(
            np.zeros(shape, np.int32), np.zeros(shape, np.int32),
            np.zeros(shape, np.float32), np.zeros(shape, bool),
        )  # fmt: skip
        batch.inputs[:steps], batch.targets[:steps], batch.mask[:steps] = (
            symbols[:-1],
            symbols[1:],
            1,
        )
        batch.resets[0] = start == 0
        if self._taught is None:
            return batch
        taught = np.zeros(shape, np.uint8)
        taught[:steps] = self._taught[places[:, :-1]].T
        return batch._replace(taught=taught)


class VariableStream(Stream):
    """A `Stream` whose windows have random lengths (Merity, Keskar, Socher 2018, section 4.1).

    A window is `window` steps long with probability 0.95, else half of it, plus Gaussian
    noise of 5 steps, 5 at least. So epochs differ in where a row is cut. The learning rate
    goes with the length: `scale` is length / window.

    A step is compiled for each length of an array. A window's may be rounded to a multiple of
    `quantum`, or, keeping its own, be padded with mask 0 to one of `padding`; the state to carry
    on then is that of the last step with mask 1.

    Args: as `Stream`, then
      seed: of the lengths; an epoch's follow from it and the epoch's number.
      quantum: steps, 1 for lengths as they are drawn. padding: steps.
    """

    def __init__(self, ids, batch, window, rows=None, seed=0, quantum=5, padding=1, taught=None):
        super().__init__(ids, batch, window, rows, taught)
        if quantum < 1:
            raise UserError(f"window_quantum is {quantum}; it must be 1 or more.")
        self.seed, self.quantum = seed, quantum
        self._multiple = max(quantum, padding)
        self._first_steps = [0]  # of the epochs that were asked for so far, and the next one
        self._kept = (None, None)  # an epoch and where its windows start

    def epoch(self, step):
        self._reach(step)
        return bisect.bisect_right(self._first_steps, step) - 1

    def steps_in(self, epochs):
        while len(self._first_steps) <= epochs:
            self._grow()
        return self._first_steps[epochs]

    def scale(self, step):
        start, end = self._bounds(step)
        return (end - start) / self.window

    def __call__(self, step):
        start, end = self._bounds(operator.index(step))
        return self._cut(start, end, -(-(end - start) // self._multiple) * self._multiple)

    def _bounds(self, step):
        """Columns `(start, end)` of a step's window."""
        epoch = self.epoch(step)
        window = step - self._first_steps[epoch]
        kept, starts = self._kept
        if kept != epoch:
            starts = self._drawn(epoch)
            self._kept = (epoch, starts)  # at once, so that threads never mix two epochs
        return starts[window : window + 2]

    def _reach(self, step):
        while self._first_steps[-1] <= step:
            self._grow()

    def _grow(self):
        """Counts the windows of one more epoch."""
        windows = len(self._drawn(len(self._first_steps) - 1)) - 1
        self._first_steps.append(self._first_steps[-1] + windows)

    def _drawn(self, epoch):
        """Where the windows of an epoch start, and the last one ends."""
        random = np.random.default_rng((self.seed, epoch))
        most = 2 + self._row // min(5, self.window)
        base = np.where(random.random(most) < 0.95, self.window, self.window / 2)
        lengths = np.maximum(5, np.trunc(random.normal(base, 5)))
        least = -(-5 // self.quantum)
        lengths = np.maximum(least, np.round(lengths / self.quantum)).astype(int) * self.quantum
        starts = np.concatenate([[0], np.cumsum(lengths)])
        return np.append(starts[starts < self._row], self._row).tolist()


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
                inputs=np.where(real, self._ids[place], 0).astype(np.int32, copy=False),
                targets=np.where(real, self._ids[place + 1], 0).astype(np.int32, copy=False),
                mask=(real & (place >= self._start)).astype(np.float32),
                resets=(t == 0) | (t == -first),
            )


def _check_stream(ids, batch: int, window: int):
    if batch < 1 or window < 1:
        raise UserError(f"batch {batch} and window {window} must both be 1 or more.")
    return ids if hasattr(ids, "__array__") else np.asarray(ids, np.int32)
