"""Real-valued sequences of different lengths: pen strokes, sensor logs, speech features."""

import dataclasses
import functools
import json
from typing import NamedTuple

import numpy as np

from hmrnn_jax.datasets.splits import SPLITS, checksum
from hmrnn_jax.errors import UserError

# Beyond so many standard deviations a value is taken for a fault of the file, not for a rare value.
# The largest offset of IAM-OnDB is at 61.
MAX_STD = 1000.0


class Scale(NamedTuple):
    """What a network's numbers mean; kept beside a run.

    `standardised = (raw - mean) / deviation`, column by column.

    Attributes:
      columns: names of the D columns.
      event: name of the 0/1 column that goes along (`pen_up`); '' if there is none.
      mean, deviation: D floats each, means and standard deviations of the training split.
    """

    columns: tuple
    event: str
    mean: tuple
    deviation: tuple

    def standardise(self, raw):
        """`[..., D]` float64 from raw values."""
        return (np.asarray(raw, np.float64) - self.mean) / self.deviation

    def restore(self, standardised):
        """Raw values `[..., D]`, float64, of standardised ones."""
        return np.asarray(standardised, np.float64) * self.deviation + self.mean

    def describe(self) -> str:
        """Names, means and deviations of the columns, in a line."""
        event = f", event {self.event}" if self.event else ""
        moments = zip(self.columns, self.mean, self.deviation, strict=True)
        return ", ".join(f"{name} {m:.4g} +- {d:.4g}" for name, m, d in moments) + event

    def to_json(self) -> str:
        return json.dumps(self._asdict(), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Scale":
        """The scale that `to_json` wrote. Raises ValueError, KeyError or TypeError for others."""
        fields = json.loads(text)
        columns, mean, deviation = (tuple(fields[k]) for k in ("columns", "mean", "deviation"))
        if not len(columns) == len(mean) == len(deviation):
            raise ValueError("a mean and a deviation belong to each column")
        if not all(isinstance(value, int | float) for value in mean + deviation):
            raise TypeError("means and deviations are numbers")
        return cls(columns, str(fields["event"]), mean, deviation)


@dataclasses.dataclass(frozen=True, eq=False)
class Sequences:
    """S sequences laid end to end, N steps in all.

    Attributes:
      values: [N, D], one column for each dimension.
      events: uint8 [N], 0 or 1; None if the sequences have no events.
      lengths: int64 [S], steps of each.
      names: S strings, what messages and files call them.
      texts: S transcripts; None if there are none.
      changes: bool [N], True at the last step of each true segment, where these are known;
        None otherwise. Never shown to a model, only used to score its boundaries.
    """

    values: np.ndarray
    events: np.ndarray | None
    lengths: np.ndarray
    names: tuple
    texts: tuple | None = None
    changes: np.ndarray | None = None

    @functools.cached_property
    def offsets(self) -> np.ndarray:
        """int64 [S+1]; sequence i is `values[offsets[i] : offsets[i + 1]]`."""
        return np.concatenate([[0], np.cumsum(self.lengths)])

    def __len__(self) -> int:
        return len(self.lengths)

    def place(self, i: int) -> slice:
        """The rows of sequence i in `values`, `events` and `changes`."""
        return slice(self.offsets[i], self.offsets[i + 1])

    def chosen(self, numbers) -> "Sequences":
        """The sequences of these numbers, in this order."""
        rows = [np.arange(self.offsets[i], self.offsets[i + 1]) for i in numbers]
        rows = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        return Sequences(
            values=self.values[rows],
            events=None if self.events is None else self.events[rows],
            lengths=self.lengths[numbers],
            names=tuple(self.names[i] for i in numbers),
            texts=None if self.texts is None else tuple(self.texts[i] for i in numbers),
            changes=None if self.changes is None else self.changes[rows],
        )


@dataclasses.dataclass(frozen=True, eq=False)
class SequenceCorpus:
    """Three splits of sequences, standardised.

    Attributes:
      name, source: for the log; the name is a published one only for the published data.
      splits: 'train', 'valid', 'test' -> `Sequences`, values float32 and standardised.
      scale: what the values mean.
      notes: sentences for the log, on what was dropped, skipped or clipped.
    """

    name: str
    source: str
    splits: dict
    scale: Scale
    notes: tuple = ()

    def fingerprint(self) -> dict:
        """`{split: [steps, checksum]}`."""
        return {
            split: [int(s.lengths.sum()), checksum(s.lengths, s.values, s.events)]
            for split, s in self.splits.items()
        }

    def describe(self) -> str:
        """A few lines for the log: name, source, columns, sizes, notes."""
        sizes = ", ".join(
            f"{split} {len(s):,} of {int(s.lengths.sum()):,} steps"
            for split, s in self.splits.items()
        )
        return "\n".join(
            [
                f"sequences {self.name}: {self.source}",
                f"sequences: {sizes}",
                f"columns (mean +- deviation of train): {self.scale.describe()}",
                *self.notes,
            ]
        )


def make_corpus(name, source, splits, columns, event="", clip=0.0, notes=()) -> SequenceCorpus:
    """Checks and standardises raw splits by the mean and deviation of training.

    Args:
      name, source, notes: see `SequenceCorpus`.
      splits: split -> `Sequences` of raw values.
      columns, event: see `Scale`.
      clip: values further than so many standard deviations from the mean are moved there, and
        counted in the notes; 0 moves nothing.

    Raises:
      UserError: an empty split, a sequence of fewer than two steps, a value that float32 does
        not hold or, without `clip`, further than 1,000 deviations from the mean, an event other
        than 0 and 1, a column that never changes.
    """
    if clip < 0:
        raise UserError(f"data.clip is {clip}; it must be 0 (never) or a number of deviations.")
    for split in SPLITS:
        _check(f"{name} ({split})", splits[split], columns)
    train = splits["train"].values.astype(np.float64)
    deviation = train.std(axis=0)
    # Of a constant the deviation need not be 0: its mean is rounded.
    for column, spread in zip(columns, train.max(axis=0) - train.min(axis=0), strict=True):
        if not spread > 0:
            raise UserError(
                f"column {column} of {name} has one value in all training sequences: leave it out."
            )
    scale = Scale(
        tuple(columns), event, tuple(train.mean(axis=0).tolist()), tuple(deviation.tolist())
    )
    standard, notes = {}, list(notes)
    for split in SPLITS:
        standard[split], clipped = standardise(splits[split], scale, f"{name} ({split})", clip)
        if clipped:
            notes.append(f"{split}: {clipped:,} values clipped at {clip:g} deviations")
    return SequenceCorpus(name, source, standard, scale, tuple(notes))


def standardise(part: Sequences, scale: Scale, name: str, clip=0.0) -> tuple:
    """Sequences of raw values on a scale, float32, and the number of values clipped.

    Args:
      name: what messages call them. clip: see `make_corpus`.

    Raises:
      UserError: as `make_corpus`.
    """
    _check(name, part, scale.columns)
    values = scale.standardise(part.values)
    far = np.abs(values) > (clip or MAX_STD)
    if far.any() and not clip:
        step, column = np.argwhere(far)[0]
        raise UserError(
            f"{_where(part, step)} of {name} has {scale.columns[column]} ="
            f" {part.values[step, column]:g}, {abs(values[step, column]):,.0f} deviations from"
            " the mean: mend the file, or bound such values with data.clip."
        )
    if clip:
        values = np.clip(values, -clip, clip)
    return dataclasses.replace(part, values=values.astype(np.float32)), int(far.sum())


def _check(name, part, columns):
    if not len(part):
        raise UserError(f"{name} has no sequence: give more of them.")
    if part.values.ndim != 2 or part.values.shape[1] != len(columns):
        raise UserError(
            f"{name} has values of shape {part.values.shape}, but {len(columns)} columns are"
            " expected: give every sequence the same columns."
        )
    if part.lengths.min() < 2:
        short = part.names[int(np.argmin(part.lengths))]
        raise UserError(f"{short} of {name} is shorter than two steps: leave it out.")
    bad = ~(np.abs(part.values) <= np.finfo(np.float32).max)  # squares of more may overflow
    if bad.any():
        step, column = np.argwhere(bad)[0]
        raise UserError(
            f"{_where(part, step)} of {name} has {columns[column]} ="
            f" {part.values[step, column]}, no number that float32 holds: mend or remove the"
            " sequence."
        )
    if part.events is not None and not np.isin(part.events, (0, 1)).all():
        step = int(np.argmax(~np.isin(part.events, (0, 1))))
        raise UserError(
            f"{_where(part, step)} of {name} has the event {part.events[step]}: events are 0 or 1."
        )


def _where(part, step):
    number = int(np.searchsorted(part.offsets, step, side="right")) - 1
    return f"step {step - part.offsets[number]} of {part.names[number]}"
