"""What a language model makes of a text, for the page: readings, norms, predictions, trees."""

import numpy as np

from hmrnn_jax.analysis.glyphs import glyph
from hmrnn_jax.analysis.segmenters import blanks, heights_of, rule_for, within_lines
from hmrnn_jax.errors import UserError
from hmrnn_jax.explorer.page import bits, packed, quantised
from hmrnn_jax.inference import activations, reading, readings, sparse_model
from hmrnn_jax.tasks import calibration, objectives

SHOWN = 20_000  # symbols of a text, or steps of sequences, unless told
MOST_SHOWN = 200_000  # what a browser still lays out in a second or two
PREDICTED = 5
LENGTH = 5.0  # symbols of a segment, where the run has no wish of its own
RULE = "peaks"
OF_PARAMETERS = ("readings", "calibrated", "norms", "known", "likeliest", "chances")
_TREES = 100  # words of the longest sentence whose tree is drawn


def look(
    run, ids, symbols, name, ends=None, shown=SHOWN, seed=0, say=lambda line: None,
    trained_on=False,
):  # fmt: skip
    """The data of the page of one text, for `page.write`.

    Args:
      run: a `run.Run` of the task language.
      ids: int `[N]`, the symbols. symbols: the same as N strings, see `Vocabulary.symbol_strings`.
      name: of the text. ends: the true ends of words, bool `[N]`; None where spaces end them.
      shown: how many symbols, from the beginning, at most. seed: of detectors that sample.
      say: is told how far it is, a line every few seconds.
      trained_on: whether the model was trained on this text: lengths are set on itself.

    Raises:
      UserError: the text is empty, or too much or too little is to be shown, or there is no end
        for each symbol.
    """
    if not 2 <= shown <= MOST_SHOWN:
        raise UserError(f"A page shows 2 to {MOST_SHOWN:,} symbols; {shown:,} are asked for.")
    if len(ids) < 2:
        raise UserError(f"This text has {len(ids):,} symbols: give 2 or more.")
    ids, symbols = np.asarray(ids[:shown]), symbols[:shown]  # it may be larger than the memory
    names = readings.available(run.model, run.encoding.line_end)
    found = fixed(run, ids, symbols, name, ends)  # bad ends are told before long work
    valid = (ids, "this text") if trained_on else calibration.validation_text(run, ids)
    found |= read(run, ids, names, *valid, seed, say)
    if "distance" in names and run.encoding.unit == "words":
        found["distances"] = _distances(run, ids)
    return found


def fixed(run, ids, symbols, name, ends=None):
    """The part of `look`'s data that is the same whatever the model's parameters are."""
    ends = None if ends is None else np.asarray(ends, bool)
    if ends is not None and (ends.ndim != 1 or len(ends) < len(ids)):
        raise UserError(
            f"The ends of words have shape {ends.shape}, the symbols are {len(ids):,}: give one for"
            " each."
        )
    lines, unit = readings.line_ends(ids, run.encoding.line_end), run.encoding.unit
    gold, against, blank = None if ends is None else ends[: len(ids)], "words", None
    if gold is None and unit != "words":
        spaces, against = run.encoding.spaces(symbols), "spaces"
        blank = blanks(spaces, lines)
        gold = spaces & within_lines(lines, blank)
    return {
        "kind": "text",
        "title": run.title,
        "name": name,
        "unit": unit,
        "symbols": _visible(symbols, lines),
        "lines": bits(lines),
        "length": objectives.first_length(run.config) or LENGTH,
        "gold": None if gold is None or not gold.any() else bits(gold),
        "blank": bits(blank),
        "against": against,
    }


def read(run, ids, names, valid, calibrated_on, seed=0, say=lambda line: None):
    """The part of `look`'s data that hangs on the model's parameters, but for trees: the entries
    `OF_PARAMETERS`.

    Args:
      names: of readings. valid: int `[M]`, the text on which the length of segments is set.
      calibrated_on: a clause on it. The rest as in `look`.
    """
    newline = run.encoding.line_end
    lines, valid_lines = (readings.line_ends(one, newline) for one in (ids, valid))
    curves = _curves(run, ids, names, seed, say)
    of_valid = curves
    if valid is not ids:
        of_valid = _curves(run, valid, [one for one in names if one != "detectors"], seed, say)
    inner, delay = within_lines(valid_lines), objectives.Boundaries.of(run.config).delay
    # By what the page cuts; short segments only where the run was asked for such.
    own = rule_for(objectives.first_length(run.config))
    rules = {"heights": RULE} | ({"all": own} if own != RULE else {})
    found = []
    for one in names:
        if one == "detectors":
            z = readings.Reading.of(one, delay=delay).boundaries(curves[one], lines)
            found.append({"name": one, "z": bits(z)})
            continue
        found.append({"name": one, "curves": packed(curves[one])})
        for key, rule in rules.items():
            heights = [packed(heights_of(curve, rule, inner)) for curve in of_valid[one]]
            found[-1][key] = heights
    weights = sparse_model.inference(run.model, run.plain)
    count = min(PREDICTED, run.encoding.size)
    norms, chances, likeliest = activations.predictions(*weights, ids, count, run.slope, seed)
    known, likeliest = np.unique(likeliest, return_inverse=True)
    kind = np.uint8 if len(known) <= 256 else np.uint16 if len(known) <= 65536 else np.uint32
    return {
        "readings": found,
        "calibrated": {
            "on": calibrated_on,
            "symbols": len(valid),
            "inner": int(inner.sum()),
            "lines": int(valid_lines.sum()),
        },
        "norms": quantised(norms),
        "known": _visible(run.encoding.symbol_strings(known), readings.line_ends(known, newline)),
        "likeliest": packed(likeliest.reshape(len(ids), count).astype(kind)),
        "chances": packed(np.rint(65535 * chances).astype(np.uint16)),
    }


def _curves(run, ids, names, seed, say):
    """`reading.curves` of all `names`, as the other commands read them."""
    # To look ahead takes another form of the model, which rounds otherwise.
    ahead = [name for name in names if name == "line_break"]
    found = {}
    for together in ([name for name in names if name not in ahead], ahead):
        if together:
            found |= reading.curves(
                run.model,
                run.plain,
                ids,
                together,
                run.encoding.line_end,
                run.slope,
                seed,
                progress=reading.Pace(len(ids), say),
            )
    return found


def _visible(symbols, lines):
    """Each symbol as it is shown, different ones differently: as it is, or a sign or number for
    what cannot be seen."""
    shown = []
    for symbol, ends in zip(symbols, lines, strict=True):
        if ends:
            shown.append("⏎")
        else:
            shown.append("".join(c if c.isprintable() else _sign(c) for c in symbol))
    return shown


def _sign(character):
    sign, number = glyph(character), ord(character)
    if sign != "�":
        return sign
    return f"\\x{number:02x}" if number < 256 else f"U+{number:04X}"


def _distances(run, ids):
    """Of a model of words: float32 `[L, N]`, those that its sentences' trees are read from.

    0 at the ends of lines, and in sentences that are too long to be drawn.
    """
    lines = readings.line_ends(ids, run.encoding.line_end)
    edges = np.concatenate([[-1], np.flatnonzero(lines), [len(ids)]])
    spans = [(a + 1, b) for a, b in zip(edges[:-1], edges[1:], strict=True) if 0 < b - a - 1]
    spans = [span for span in spans if span[1] - span[0] <= _TREES]
    words = [[run.encoding.symbols[i] for i in ids[a:b]] for a, b in spans]
    found = np.zeros((len(run.model.cells), len(ids)), np.float32)
    of_words = activations.distances(run.model, run.plain, run.encoding, words) if words else []
    for (start, end), distances in zip(spans, of_words, strict=True):
        found[:, start:end] = distances.T
    return packed(found)
