"""Synthetic sequences whose true segments are known: oscillators, and scribbles for handwriting.

Both need no file, take under two seconds, and are the same for the same seed. A split does not
change when another one is made longer.
"""

import numpy as np

from hmrnn_jax.datasets.sequences import SequenceCorpus, Sequences, make_corpus
from hmrnn_jax.datasets.splits import SPLITS
from hmrnn_jax.errors import UserError

REGIME_STEPS = (20, 60)  # shortest and longest regime of `oscillators`


def _sine(phase):
    return np.sin(2 * np.pi * phase)


def _triangle(phase):
    return 4 * np.abs((phase + 0.25) % 1 - 0.5) - 1


def _sawtooth(phase):
    return 2 * (phase % 1) - 1


# Period in steps and shape. Whole periods make a regime without noise repeat itself exactly, and
# the shortest regime holds more than one cycle of the slowest.
REGIMES = ((16, _sine), (9, _triangle), (5, _sawtooth))

# Letters as control points (x, y) of one curve, in units of the height of a small letter; y grows
# upwards here. The next letter begins where the last point lies.
LETTERS = {
    # loops
    "e": [(0.4, 0.4), (0.64, 0.76), (0.46, 1.0), (0.22, 0.62), (0.32, 0.1), (0.6, 0.02)]
    + [(0.84, 0.18)],
    "l": [(0.4, 0.8), (0.62, 1.75), (0.46, 2.2), (0.24, 1.7), (0.22, 0.5), (0.42, 0.0)]
    + [(0.66, 0.18)],
    # arches
    "n": [(0.22, 0.85), (0.3, 0.95), (0.32, 0.5), (0.32, 0.02), (0.36, 0.5), (0.6, 1.0)]
    + [(0.8, 0.75), (0.82, 0.25), (1.0, 0.0), (1.22, 0.18)],
    "u": [(0.26, 0.98), (0.26, 0.4), (0.42, 0.02), (0.66, 0.25), (0.8, 0.98), (0.8, 0.35)]
    + [(0.98, 0.0), (1.2, 0.18)],
    # zigzag
    "w": [(0.24, 1.0), (0.44, 0.0), (0.68, 0.8), (0.88, 0.0), (1.14, 1.0), (1.24, 0.82)]
    + [(1.46, 0.8)],
    # circle
    "a": [(0.5, 0.86), (0.62, 0.98), (0.3, 0.9), (0.14, 0.45), (0.34, 0.02), (0.66, 0.35)]
    + [(0.78, 0.96), (0.78, 0.35), (0.96, 0.0), (1.18, 0.18)],
    # a loop below the line
    "y": [(0.26, 0.98), (0.28, 0.4), (0.46, 0.1), (0.68, 0.4), (0.8, 0.98), (0.74, 0.0)]
    + [(0.6, -0.9), (0.38, -1.15), (0.34, -0.8), (0.7, -0.2), (1.06, 0.18)],
    # followed by a bar or a dot
    "t": [(0.3, 0.8), (0.42, 1.8), (0.36, 0.9), (0.36, 0.3), (0.54, 0.0), (0.78, 0.18)],
    "i": [(0.26, 0.98), (0.26, 0.35), (0.44, 0.0), (0.68, 0.18)],
}
# Written when the rest of the word is done, with the pen lifted first.
MARKS = {"t": [(0.08, 1.3), (0.4, 1.36), (0.74, 1.34)], "i": [(0.3, 1.44), (0.38, 1.36)]}

WORD_LETTERS = (2, 5)
LINE_POINTS = (100, 300)
SMALL = 150.0  # height of a small letter in tablet units, about that of IAM-OnDB


def oscillators(seed=0, sequences=(400, 40, 40), steps=400, noise=0.1) -> SequenceCorpus:
    """A signal of three regimes that take turns; the model does not know when.

    Each regime is an oscillator of its own period and shape (`REGIMES`) and amplitude 1. It lasts
    20 to 60 steps, all lengths equally likely; the next one is either of the other two. The
    second column is a quarter of a cycle ahead of the first. The phase does not jump.

    Args:
      seed: an int from 0.
      sequences: number of sequences in train, valid and test.
      steps: length of each sequence.
      noise: standard deviation of the Gaussian noise, in units of the amplitude.

    Returns:
      A corpus of the columns `first` and `second`. `changes` is True at the last step of a
      regime, if another one follows in the same sequence.

    Raises:
      UserError: a negative seed or noise, no sequence for a split, fewer than two steps.
    """
    if noise < 0:
        raise UserError(f"the noise of the oscillators is {noise}: give 0 or more.")
    splits = {}
    for rng, split, count in _splits(seed, sequences):
        regime = np.array([_regimes(rng, steps) for _ in range(count)])
        periods = np.array([period for period, _ in REGIMES])
        phase = rng.random((count, 1)) + np.cumsum(1 / periods[regime], axis=1)
        phase = np.stack([phase, phase + 0.25], axis=-1)
        shapes = [shape(phase) for _, shape in REGIMES]
        values = np.choose(regime[..., None], shapes)
        values = values + noise * rng.standard_normal(values.shape)
        changes = np.zeros((count, steps), bool)
        changes[:, :-1] = regime[:, 1:] != regime[:, :-1]
        splits[split] = Sequences(
            values=values.reshape(-1, 2),
            events=None,
            lengths=np.full(count, steps, np.int64),
            names=tuple(f"{split}-{i}" for i in range(count)),
            changes=changes.ravel(),
        )
    return make_corpus("oscillators", f"synthetic, seed {seed}", splits, ("first", "second"))


def _regimes(rng, steps):
    """The number of the regime at each of `steps` steps."""
    shortest, longest = REGIME_STEPS
    regime, result = int(rng.integers(len(REGIMES))), []
    while len(result) < steps:
        result += [regime] * int(rng.integers(shortest, longest + 1))
        regime = (regime + int(rng.integers(1, len(REGIMES)))) % len(REGIMES)
    return result[:steps]


def scribbles(seed=0, lines=(600, 40, 40)) -> SequenceCorpus:
    """Synthetic cursive handwriting, to try what is meant for IAM-OnDB without its licence.

    A line is some words of 2 to 5 random letters; a letter is one of nine shapes (`LETTERS`).
    A word is written in one stroke, then the bars and dots of its letters follow, each a stroke
    of its own. Size, slant, width, speed and the slope of the line differ from line to line,
    letters and the distances of points vary a little within it.

    Args:
      seed: an int from 0.
      lines: number of lines in train, valid and test.

    Returns:
      A corpus in the form of IAM-OnDB: offsets `dx`, `dy` in tablet units, whole numbers before
      they are standardised, y grows downwards, the first point of a line is (0, 0); the event
      `pen_up` is 1 at the last point of a stroke; 100 to 300 points a line. `texts` are the
      letters with spaces between words; `changes` is True at the last point of each word.

    Raises:
      UserError: a negative seed, no line for a split.
    """
    splits = {}
    for rng, split, count in _splits(seed, lines):
        written = [_line(rng) for _ in range(count)]
        values, pen_up, changes, texts = zip(*written, strict=True)
        splits[split] = Sequences(
            values=np.concatenate(values),
            events=np.concatenate(pen_up),
            lengths=np.array([len(one) for one in values], np.int64),
            names=tuple(f"{split}-{i}" for i in range(count)),
            texts=texts,
            changes=np.concatenate(changes),
        )
    source = f"synthetic, seed {seed}"
    return make_corpus("scribbles", source, splits, ("dx", "dy"), event="pen_up")


def _line(rng):
    """Offsets [T, 2], pen-ups [T], word ends [T] and the text of one line."""
    style = {
        "size": SMALL * rng.uniform(0.85, 1.15),
        "width": rng.uniform(0.9, 1.15),
        "slant": rng.uniform(0.0, 0.45),
        "spacing": SMALL * rng.uniform(0.2, 0.26),
    }
    slope, drift = rng.normal(0, 0.015), 0.0
    shortest, longest = LINE_POINTS
    wanted = rng.integers(shortest + 10, longest - 40)
    words, strokes, ends, x, total = [], [], [], 0.0, 0
    while total < wanted:
        letters = rng.integers(WORD_LETTERS[0], WORD_LETTERS[1] + 1)
        word = "".join(rng.choice(list(LETTERS), letters))
        of_word, width = _word(rng, word, style)
        points = sum(len(stroke) for stroke in of_word)
        if total + points > longest:
            break
        drift += rng.normal(0, 0.03) * style["size"]
        strokes += [stroke + (x, drift) for stroke in of_word]
        x += width + rng.uniform(0.7, 1.1) * style["size"]
        total += points
        words.append(word)
        ends.append(total - 1)
    points = np.concatenate(strokes)
    points[:, 1] += slope * points[:, 0]
    points = np.round(points * (1, -1))
    pen_up, changes = np.zeros(total, np.uint8), np.zeros(total, bool)
    pen_up[np.cumsum([len(stroke) for stroke in strokes]) - 1] = 1
    changes[ends] = True
    return np.diff(points, axis=0, prepend=points[:1]), pen_up, changes, " ".join(words)


def _word(rng, word, style):
    """The strokes of a word, a list of points [n, 2] in tablet units, y upwards; its width."""
    body, marks, x = [(0.0, 0.18)], [], 0.0
    for letter in word:
        scale = rng.normal((style["width"], 1.0), 0.05)
        points = LETTERS[letter] + rng.normal(0, 0.02, (len(LETTERS[letter]), 2))
        body += list(points * scale + (x, 0))
        if letter in MARKS:
            marks.append(MARKS[letter] * scale + (x, 0) + rng.normal(0, 0.06, 2))
        x = body[-1][0]
    shear = np.array([[1.0, 0.0], [style["slant"], 1.0]])
    curves = [np.array(stroke) @ shear * style["size"] for stroke in (body, *marks)]
    return [_trace(rng, curve, style["spacing"]) for curve in curves], x * style["size"]


def _trace(rng, control, spacing):
    """Points [n, 2], about `spacing` apart, on a smooth curve through control points [k, 2]."""
    # A Catmull-Rom spline: its tangent at a point is half the way between the two beside it.
    padded = np.concatenate([control[:1], control, control[-1:]])
    before, start, stop, after = (padded[i : len(padded) - 3 + i, None] for i in range(4))
    t = np.linspace(0, 1, 12, endpoint=False)[:, None]
    tangent, final = (stop - before) / 2, (after - start) / 2
    curve = (
        (2 * t**3 - 3 * t**2 + 1) * start
        + (t**3 - 2 * t**2 + t) * tangent
        + (3 * t**2 - 2 * t**3) * stop
        + (t**3 - t**2) * final
    )
    curve = np.concatenate([curve.reshape(-1, 2), control[-1:]])
    way = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(curve, axis=0).T))])
    count = max(1, int(round(way[-1] / spacing)))
    gaps = rng.normal(1.0, 0.12, count).clip(0.5, 1.5)
    at = np.concatenate([[0.0], np.cumsum(gaps)]) * way[-1] / gaps.sum()
    return np.stack([np.interp(at, way, curve[:, k]) for k in range(2)], axis=1)


def _splits(seed, counts):
    """A generator, the name and the size of each split."""
    if seed < 0:
        raise UserError(f"the seed is {seed}: give a whole number from 0.")
    if len(counts) != len(SPLITS) or min(counts) < 1:
        raise UserError(
            f"the sizes of {', '.join(SPLITS)} are {tuple(counts)}: give three numbers from 1."
        )
    for number, (split, count) in enumerate(zip(SPLITS, counts, strict=True)):
        yield np.random.default_rng((seed, number)), split, count
