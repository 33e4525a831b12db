"""Boundaries of several readings of a model beside all controls: rows, and a table for people."""

from typing import NamedTuple

import numpy as np

from hmrnn_jax.analysis import scores

CONTROLS = ("random", "regular", "untrained", "ngram")  # and `scores.EVERY`, of no reading
# Steps that a boundary of a sequence may lie off: the usual margin of change point detection (van
# den Burg, Williams 2020), and a quarter of the shortest regime of the synthetic oscillators.
TOLERANCE = 5
_BOUNDARY, _WORD = ("f1", "f1_std"), ("word_f1", None)


class Found(NamedTuple):
    """Boundaries to be scored.

    Attributes:
      reading: how they were read, see `inference.readings`. layer: which of its curves, from 1.
      z: 0/1 array `[T]` or `[T, B]`.
      untrained: z of each of some freshly initialised models, read in the same way.
      ngram: z of an n-gram model, read in the same way; None if there is none.
    """

    reading: str
    layer: int
    z: np.ndarray
    untrained: tuple = ()
    ngram: np.ndarray | None = None


def compare(found, gold, mask, newline=None, around=False, tolerance=0, seeds=range(10)):
    """Scores boundaries against true ones, beside those of models that learnt less, or nothing.

    Args:
      found: list of `Found`, of one shape and with the same number of untrained models.
      gold: 0/1 array of that shape, 1 at the last step of each true segment.
      mask: bool, the steps that count.
      newline: bool `[T]`, where words are scored too, see `scores.score_against`.
      around: whether F1 of boundaries one step before the true ones, and after, is told too.
      tolerance: in steps, see `scores.precision_recall_f1`; 0 asks for the exact step alone.
      seeds: of the random boundaries.

    Returns a list of dicts, shares in [0, 1]: `reading`, `layer`; `control`, None for the model's
    own boundaries, else `random` (as many at random places, the mean over `seeds`), `regular`
    (evenly spread), `untrained` (the mean over the fresh models, with F1's standard deviation,
    `f1_std`, and their number, `seeds`), `ngram`, or `every`, a boundary at each step, whose
    reading and layer are None; `rate`, `precision`, `recall`, `f1`; and where it was asked,
    `word_f1`, `f1_earlier` and `f1_later`, and `f1_within` with `tolerance`.

    Raises:
      UserError: as `scores.score_against`.
    """
    untrained = list(zip(*(one.untrained for one in found), strict=True))
    shifts, keywords = (0, -1, 1) if around else (0,), {"mask": mask, "newline": newline}
    keywords |= {"shifts": shifts, "tolerance": tolerance, "seeds": seeds}
    own = _by_layer(
        scores.score_against([one.z for one in found], gold, untrained=untrained, **keywords)
    )
    ngrams = [one.ngram for one in found if one.ngram is not None]
    of_ngrams = iter(())
    if ngrams:
        of_ngrams = iter(
            _by_layer(scores.score_against(ngrams, gold, every_step=False, **keywords))
        )
    rows = []
    for one, wide in zip(found, own, strict=False):
        name = {"reading": one.reading, "layer": one.layer}
        for control in (None, "random", "regular"):
            rows.append(name | {"control": control, **_row(wide, f"{control}_" if control else "")})
        if one.untrained:
            first = wide[0, 0]
            more = {"f1_std": first["untrained_f1_std"], "seeds": first["untrained"]}
            rows.append(name | {"control": "untrained", **_row(wide, "untrained_"), **more})
        if one.ngram is not None:
            rows.append(name | {"control": "ngram", **_row(next(of_ngrams), "")})
    every = {"reading": None, "layer": None, "control": scores.EVERY}
    return [*rows, every | _row(own[-1], "")]


def _by_layer(wide):
    """For each layer `{(shift, tolerance): row}` of the rows of `scores.score_against`."""
    found = {}
    for row in wide:
        found.setdefault(row["layer"], {})[row["shift"], row["tolerance"]] = row
    return list(found.values())


def _row(wide, prefix):
    """The scores of one kind of boundaries out of a layer's rows, see `compare`."""
    exact = wide[0, 0]
    rate = exact["untrained_rate"] if prefix == "untrained_" else exact["rate"]
    row = {"rate": rate} | {k: exact[prefix + k] for k in ("precision", "recall", "f1")}
    if f"{prefix}word_f1" in exact:
        row["word_f1"] = exact[f"{prefix}word_f1"]
    for (shift, reach), other in wide.items():
        if shift:
            row["f1_later" if shift > 0 else "f1_earlier"] = other[f"{prefix}f1"]
        if reach:
            row |= {"f1_within": other[f"{prefix}f1"], "tolerance": reach}
    return row


def table(rows, gold):
    """The rows of `compare` for people, a line for each reading and layer, in percent.

    Args:
      gold: what a true boundary is, for the legend: "the last character of a word".
    """
    groups = {}
    for row in rows:
        groups.setdefault((row["reading"], row["layer"]), {})[row["control"]] = row
    first = rows[0]
    extra = {"f1_earlier": "-1", "f1_later": "+1", "f1_within": f"±{first.get('tolerance')}"}
    extra = {key: name for key, name in extra.items() if key in first}
    present = [c for c in CONTROLS if any(row["control"] == c for row in rows)]
    words = "word_f1" in first
    heads = "".join(f"{control:>10}" for control in present)
    top = f"{'':30}|{'boundaries':^{18 + 6 * len(extra)}} |{'F1 beside':^{len(heads)}} |"
    line = f"{'reading':16}{'layer':>5}{'rate':>8} |{'P':>6}{'R':>6}{'F1':>6}"
    line += "".join(f"{name:>6}" for name in extra.values()) + f" |{heads} |"
    if words:
        top += f"{'words':^6} |{'F1 beside':^{len(heads)}}"
        line += f"{'F1':>6} |{heads}"
    lines = [top.rstrip(), line]
    for (reading, layer), group in groups.items():
        own = group[None] if reading else group[scores.EVERY]
        line = f"{reading or 'every symbol':16}{layer or '':>5}{own['rate']:>8.3f} |"
        keys = ("precision", "recall", "f1", *extra)
        line += "".join(f"{100 * own[key]:6.1f}" for key in keys) + " |"
        line += "".join(_cell(group.get(control), *_BOUNDARY) for control in present) + " |"
        if words:
            line += f"{100 * own['word_f1']:6.1f} |"
            line += "".join(_cell(group.get(control), *_WORD) for control in present)
        lines.append(line.rstrip(" |") if not reading else line.rstrip())
    lines.append(f"a boundary is true at {gold}; its segment ends there")
    if "f1_later" in first:
        lines.append("-1, +1: F1 of boundaries one step earlier, and later")
    if reach := first.get("tolerance"):
        lines.append(f"±{reach}: F1 within {reach} steps, each hit by one boundary at most")
    lines.append("random, regular: as many boundaries that read nothing")
    if "ngram" in present:
        lines[-1] += "; ngram: an n-gram model, read alike"
    if "untrained" in present:
        seeds = max(row.get("seeds", 0) for row in rows)
        lines.append(f"untrained: {seeds} freshly initialised models, ± standard deviation")
    return "\n".join(lines)


def _cell(row, key, deviation):
    """A control's score in ten columns."""
    if row is None or key not in row:
        return f"{'-':>10}"
    text = f"{100 * row[key]:.1f}"
    if deviation in row:
        text += f"±{100 * row[deviation]:.1f}"
    return f"{text:>10}"
