"""Boundaries read from a curve of uncertainty, whoever made it: detectors need not have fired.

A curve u `[T]` has one value a step: the entropy of the model's prediction after symbol t, its
probability that the line ends here, the surprise of symbol t + 1, an ON-LSTM's forget distance. A
boundary at t ends the segment that holds t. Where segments end the next symbol is hard to tell,
so u rises there (Harris 1955; Cohen, Adams, Heeringa 2007; Elsner, Shain 2017).
"""

import dataclasses

import numpy as np

from hmrnn_jax.errors import UserError, require

RULES = ("peaks", "rises", "level")
CLOSE = 2  # steps from a peak to the next one, at least


@dataclasses.dataclass(frozen=True)
class Segmenter:
    """A rule that puts boundaries along a curve.

    Attributes:
      rule: `peaks`, where u is higher than the step before and no lower than the one after;
        `rises`, where it is higher than the two before, which needs no step ahead; `level`,
        everywhere.
      level: least u of a boundary.
    """

    rule: str = "peaks"
    level: float = -np.inf

    def __post_init__(self):
        require("The rule", self.rule, RULES)
        if np.isnan(self.level):
            raise UserError("The level of a segmenter is nan; give a number.")

    def __call__(self, curve):
        """Boundaries, int8 `[T]`, along a curve `[T]`."""
        curve = np.asarray(curve)
        return (candidates(curve, self.rule) & (curve >= self.level)).astype(np.int8)

    def calibrated(self, curve, length, mask=None):
        """The same rule at the level that gives one boundary in about `length` steps of a curve.

        Where the rule would take fewer steps of it, all of these are boundaries.

        Args:
          curve: of a text that is not the one to be scored: the validation text. mask: bool
            `[T]`, its steps that count; all if None.

        Raises:
          UserError: `length` is below 1.
        """
        if not length >= 1:
            raise UserError(f"The wanted segment length is {length}; it must be 1 or more.")
        curve = np.asarray(curve)
        counted = np.ones(len(curve), bool) if mask is None else np.asarray(mask, bool)
        heights = heights_of(curve, self.rule, counted)
        wanted = round(int(counted.sum()) / length)
        if not len(heights) or not wanted:
            return dataclasses.replace(self, level=np.inf)
        return dataclasses.replace(self, level=float(heights[min(wanted, len(heights)) - 1]))


def rule_for(length):
    """The rule for segments of about `length` steps; 0 asks for no length.

    Peaks, or, for segments shorter than the least that peaks can have, as the words of Chinese
    are, whatever is at the level.
    """
    return "level" if 0 < length < CLOSE else "peaks"


def heights_of(curve, rule, mask):
    """Values of the candidates of a curve `[T]` that count, bool `[T]`, the highest first."""
    return np.sort(curve[candidates(curve, rule) & mask])[::-1]


def candidates(curve, rule):
    """The steps that a rule would take at the lowest level, bool `[T]`.

    Before the first step and after the last u counts as the lowest.
    """
    low = np.full(2, -np.inf)
    around = np.concatenate([low, curve, low])
    now, before = around[2:-2], around[1:-3]
    if rule == "peaks":
        return (now > before) & (now >= around[3:-1])
    if rule == "rises":
        return (now > before) & (now > around[:-4])
    return np.ones(len(curve), bool)


def within_lines(newline, blank=None):
    """The symbols after which a boundary is looked for, bool `[T]`: all but line ends and the
    last symbol of each line, which ends there anyway.

    Args:
      newline: bool `[T]`, the symbols that end lines. blank: bool `[T]`, those that do not count,
        see `blanks`.
    """
    kept = np.ones(len(newline), bool) if blank is None else ~blank
    inner, ends = np.zeros(len(newline), bool), newline[kept]
    inner[kept] = ~ends & ~np.append(ends[1:], True)
    return inner


def blanks(space, newline):
    """The spaces that end no word, bool `[T]`: right after another one, or where a line begins.

    Those of an indentation are no words, and to find or to miss them is neither right nor wrong:
    scores leave them out, of all that is scored alike.

    Args:
      space: bool `[T]`, the symbols that are spaces. newline: bool `[T]`, those that end lines.
    """
    return space & ~newline & np.append(True, (space | newline)[:-1])


def last_steps(lengths):
    """bool `[N]`: the last step of each of some sequences, one after the other."""
    ends = np.zeros(int(np.sum(lengths)), bool)
    ends[np.cumsum(lengths) - 1] = True
    return ends


def word_scores(found, true, newline=None):
    """Precision, recall and F1 of words, and of the boundaries within lines.

    A word is right if both its ends are and nothing cuts it. Ends of lines are given, to a
    segmenter as to the truth: they end words, and are no boundaries that could be found.

    Args:
      found, true: 0/1 `[T]`, 1 at the last symbol of each word.
      newline: bool `[T]`, the symbols that end lines, which belong to no word; None if there
        are none.

    Returns `(words, boundaries)`, each `(precision, recall, f1)`; 0/0 counts as 0.

    Raises:
      UserError: the shapes differ.
    """
    found, true = np.asarray(found, bool), np.asarray(true, bool)
    newline = np.zeros(found.shape, bool) if newline is None else np.asarray(newline, bool)
    if not found.shape == true.shape == newline.shape:
        raise UserError(
            f"Found ends have shape {found.shape}, true ones {true.shape}, line ends"
            f" {newline.shape}: give one value a symbol."
        )
    inner = within_lines(newline)[~newline]
    found, true, last = found[~newline], true[~newline], ~inner
    boundaries = _f1(np.sum(found & true & inner), np.sum(found & inner), np.sum(true & inner))
    found, true = found | last, true | last
    before = np.concatenate([[0], np.cumsum(found)])  # found ends before each symbol
    ends = np.flatnonzero(true)
    starts = np.append(0, ends + 1)[:-1]
    starts_right = (starts == 0) | found[starts - 1]
    right = found[ends] & starts_right & (before[ends] == before[starts])
    return _f1(right.sum(), found.sum(), true.sum()), boundaries


def _f1(hits, found, true):
    precision, recall = hits / max(found, 1), hits / max(true, 1)
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return float(precision), float(recall), float(f1)
