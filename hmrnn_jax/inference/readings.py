"""Boundaries of any trained language model: its detectors', or read from its own uncertainty.

A network that predicts what comes next knows where segments end, whether or not it has detectors
(Harris 1955; Elman 1990): see `reading.curves` for what can be read, `analysis.segmenters` for
the rules that put boundaries along it.

Where a text has lines, their ends are given: they end segments, and no boundary is looked for at
a line's last symbol.
"""

import dataclasses
import itertools
import numbers
from typing import NamedTuple

import numpy as np

from hmrnn_jax import cells
from hmrnn_jax.analysis.ngram import InterpolatedNgram
from hmrnn_jax.analysis.segmenters import Segmenter, candidates, rule_for, within_lines
from hmrnn_jax.errors import UserError, require
from hmrnn_jax.inference import reading

NAMES = (
    "detectors", "entropy", "entropy_within", "surprise", "pmi", "line_end", "line_break",
    "distance",
)  # fmt: skip
LINES = ("entropy_within", "line_end", "line_break")  # readings that speak of lines
CALIBRATED_ON = 20_000  # symbols of the validation text, at most
CALIBRATED_SEQUENCES = 50  # or of real-valued validation sequences


class Cut(NamedTuple):
    """By what a user asks for segments.

    Attributes:
      reading: one of `NAMES`.
      length: wanted mean length of segments, in symbols or steps; None takes the first of the run's
        own `boundaries.lengths`, and 0 asks for none. Of a curve that has fewer peaks all are
        taken, see `Reading.shortest`.
      rule: how a curve is cut, see `Reading.of`. threshold: the least value of a boundary, instead
        of a length.
    """

    reading: str = "detectors"
    length: float | None = None
    rule: str | None = None
    threshold: float | None = None

    def check(self):
        """Raises `UserError` where segments are asked of detectors that are not theirs."""
        if self.reading == "detectors" and (self.length or self.rule):
            raise UserError(
                "Detectors fire or do not: a length or a rule needs another reading, such as"
                " entropy."
            )


DETECTED = Cut()


@dataclasses.dataclass(frozen=True)
class Reading:
    """How boundaries are read.

    Attributes:
      name: see `reading.curves`.
      length: symbols of a segment, on average, that are asked for; 0 asks for none.
      segmenters: a `Segmenter` for each of its curves, or one for all; () for detectors, which
        have boundaries of their own.
      delay: steps after a segment's last one at which detectors fire, where they were taught so.
      shortest: mean length of the segments that all that the rule would take give, where `length`
        is shorter, of the layer that has most: peaks lie two steps apart or more, those of an
        entropy some 3.4. Else 0.
    """

    name: str
    length: float = 0
    segmenters: tuple = ()
    delay: int = 0
    # It follows from the others and the text: states of streams, which keep the rest, go without.
    shortest: float = dataclasses.field(default=0.0, repr=False, compare=False)

    @classmethod
    def of(cls, name, length=0, rule=None, delay=0, threshold=None):
        """A reading, by a rule of `segmenters.RULES`; with a length, yet to be `calibrated`.

        Args:
          rule: None takes `level` where there is a threshold, else the one for the length, see
            `segmenters.rule_for`. threshold: the least value of a boundary, instead of a length.

        Raises:
          UserError: no such reading or rule; a length below 1 that is not 0; both a length and a
            threshold; a threshold for detectors, which fire or do not; or one for line_end, a
            log-probability, that no value can reach.
        """
        require("The reading", name, NAMES)
        if length and not (isinstance(length, numbers.Real) and length >= 1):
            raise UserError(f"The wanted segment length is {length!r}; it must be 1 or more.")
        if name == "detectors":
            if threshold is not None:
                raise UserError(
                    "Detectors fire or do not: a threshold needs another reading, such as entropy."
                )
            return cls(name, delay=delay)
        if threshold is None:
            return cls(name, length, (Segmenter(rule or rule_for(length)),))
        if length:
            raise UserError(
                f"Both a length of {length:g} and a threshold of {threshold:g}: give one of them."
            )
        if name == "line_end" and threshold > 0:
            raise UserError(
                f"The threshold is {threshold:g}, but line_end is a log-probability, never above 0:"
                " give the natural logarithm of a probability, such as -1.6 for .2."
            )
        return cls(name, 0, (Segmenter(rule or "level", threshold),))

    def calibrated(self, curves, newline, inner=None):
        """The same with segments of about `length` symbols, those that lines end among them.

        Args:
          curves: `[K, N]`, of `reading.curves`, of a text that is not the one to be cut: the
            validation text. newline: bool `[N]`, the symbols that end its lines, or the last steps
            of sequences one after the other. inner: bool `[N]`, where a boundary is looked for; by
            default `within_lines`.
        """
        if not self.length or not self.segmenters:
            return self
        inner = within_lines(newline) if inner is None else inner
        wanted = curves.shape[1] / self.length - newline.sum()
        spacing = max(1, inner.sum() / wanted) if wanted > 0 else np.inf
        by = self.segmenters[0]
        found = [by.calibrated(curve, spacing, inner) for curve in curves]
        most = max(np.sum(candidates(curve, by.rule) & inner) for curve in curves)
        shortest = curves.shape[1] / max(most + newline.sum(), 1) if round(wanted) > most else 0.0
        return dataclasses.replace(self, segmenters=tuple(found), shortest=float(shortest))

    def boundaries(self, curves, newline):
        """int8 `[K, N]`, of curves and line ends as of `calibrated`."""
        if not self.segmenters:
            z = np.zeros_like(curves, np.int8)
            steps = max(0, z.shape[1] - self.delay)
            z[:, :steps] = curves[:, z.shape[1] - steps :]
            return z
        own = itertools.cycle(self.segmenters)
        z = np.stack([segmenter(curve) for curve, segmenter in zip(curves, own, strict=False)])
        z[:, ~within_lines(newline)] = 0
        z[:, newline] = 1
        return z

    @property
    def description(self):
        """A clause for people."""
        if not self.segmenters:
            return "the detectors" + (
                f", {self.delay} earlier than they fire" if self.delay else ""
            )
        rule, level = f"{self.name.replace('_', ' ')}, {self.segmenters[0].rule}", self.level
        if self.shortest:
            shortest = f"segments of about {self.shortest:.3g}, the shortest that it has"
            return f"{rule}, {shortest}, not {self.length:g}"
        if self.length:
            return f"{rule}, segments of about {self.length:g}"
        return rule if level == -np.inf else f"{rule}, at least {level:g}"

    @property
    def level(self):
        """The least value of a boundary along the first curve."""
        return self.segmenters[0].level if self.segmenters else -np.inf


DETECTORS = Reading("detectors")


class Decider:
    """Puts a `Reading`'s boundaries along a text that comes a piece at a time.

    They are those of the whole text, each reported as soon as what comes cannot change it: a step
    later, and one more for surprise and pmi, which are known when the next symbol is.

    Attributes:
      decided: number of symbols whose boundaries were reported.
      state: what `Decider(reading, state)` goes on from, of plain numbers.
    """

    def __init__(self, reading, state=None):
        self.reading = reading
        # Of the symbols from the last two decided ones on: curves, and which end lines.
        kept = state or {"decided": 0, "curves": [], "newline": [], "context": 0}
        self.decided, self._context = kept["decided"], kept["context"]
        self._curves, self._newline = kept["curves"], kept["newline"]

    @property
    def state(self):
        return {
            "decided": self.decided, "context": self._context,
            "curves": self._curves, "newline": self._newline,
        }  # fmt: skip

    def __call__(self, curves, newline, final=False):
        """The boundaries that are decided now, int8 `[K, m]`, of the symbols from `decided` on.

        Args:
          curves: `[K, n]`, of the n symbols that came; surprise and pmi, of those before them.
          newline: bool `[n]`, which of the symbols that came end lines. final: whether the text
            ends here.
        """
        self._curves += np.asarray(curves).T.tolist()
        self._newline += np.asarray(newline, bool).tolist()
        known = len(self._curves)
        upto = max(self._context, known if final else known - 1)
        z = np.zeros((len(curves), 0), np.int8)
        if known:
            newlines = np.array(self._newline[:known])
            z = self.reading.boundaries(np.array(self._curves, np.float32).T, newlines)
            z = z[:, self._context : upto]
        self.decided += z.shape[1]
        drop = max(0, upto - 2)
        del self._curves[:drop], self._newline[:drop]
        self._context = upto - drop
        return z


def available(model, newline):
    """The names of what can be read of a language model.

    Args:
      newline: id of the symbol that ends a line; None if its vocabulary has none.
    """
    config = model.cells[0]
    has_gates = not config.uses_slope and hasattr(cells.of(config), "Aux")
    return (
        *["detectors"] * reading.has_detectors(model),
        "entropy",
        "surprise",
        "pmi",
        *LINES * (newline is not None),
        *["distance"] * has_gates,
    )


def check(model, name, newline):
    """Raises `UserError` unless `name` can be read of a model, see `available`."""
    require("The reading", name, NAMES)
    if name in available(model, newline):
        return
    if name == "detectors":
        reading.check(model)
    needs = "an ON-LSTM or an LSTM" if name == "distance" else "a model of text with lines"
    raise UserError(f"The reading {name} needs {needs}: take another one, such as the entropy.")


def read(
    model, params, ids, asked, newline=None, slope=1.0, seed=0, rows=None,
    warmup=reading.WARMUP, progress=lambda done: None,
):  # fmt: skip
    """`{name: boundaries, int8 [K, N]}` of one text.

    Args:
      asked: `Reading`s. The rest as in `reading.curves`.
    """
    ids, names = np.asarray(ids), tuple(one.name for one in asked)
    for name in names:
        check(model, name, newline)
    curves = reading.curves(model, params, ids, names, newline, slope, seed, rows, warmup, progress)
    ends = line_ends(ids, newline)
    return {one.name: one.boundaries(curves[one.name], ends) for one in asked}


def calibrated(model, params, valid, asked, newline=None, slope=1.0, seed=0):
    """The `Reading`s `asked`, calibrated on the beginning of a text `valid`, int `[N]`."""
    names = tuple(one.name for one in asked if one.length)
    if not names:
        return list(asked)
    valid = np.asarray(valid[:CALIBRATED_ON])  # it may be larger than the memory
    curves = reading.curves(model, params, valid, names, newline, slope, seed)
    ends = line_ends(valid, newline)
    return [one.calibrated(curves[one.name], ends) if one.length else one for one in asked]


def of_ngram(corpus, asked, ids, valid=None):
    """`{name: boundaries, int8 [1, N]}` that an n-gram model of a corpus's training text reads.

    Args:
      corpus: `datasets.text.Corpus`. asked: `Reading`s, of which detectors and distance are left
        out. ids: int `[N]`, the text that is read. valid: int `[M]`, that on which lengths are set;
        the validation text if None.
    """
    newline = corpus.vocabulary.line_end
    asked = [one for one in asked if one.name not in ("detectors", "distance")]
    model = InterpolatedNgram(corpus.vocabulary.size).fit(corpus.counted()[0])
    names = [one.name for one in asked]

    def read(ids):
        return model.curves(ids, names, newline, reading.AHEAD), line_ends(ids, newline)

    if any(one.length for one in asked):
        valid = corpus.splits["valid"] if valid is None else valid
        curves, ends = read(valid[:CALIBRATED_ON])
        asked = [one.calibrated(curves[one.name], ends) for one in asked]
    curves, ends = read(ids)
    return {one.name: one.boundaries(curves[one.name], ends) for one in asked}


def line_ends(ids, newline):
    """bool `[N]`: the symbols that are `newline`, None where there is none."""
    return np.zeros(len(ids), bool) if newline is None else np.asarray(ids) == newline
