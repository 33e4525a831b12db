"""Language models: scores, boundaries, segments, samples."""

import collections.abc
import functools

import numpy as np

from hmrnn_jax import run as runs
from hmrnn_jax.analysis import boundaries, comparison, quatrains
from hmrnn_jax.analysis.figures.text import boundary_figure, fitting
from hmrnn_jax.analysis.segmenters import blanks, within_lines
from hmrnn_jax.datasets import segmented
from hmrnn_jax.datasets import text as texts
from hmrnn_jax.errors import UserError
from hmrnn_jax.evaluation.report import Report
from hmrnn_jax.inference import activations, readings, sparse_model
from hmrnn_jax.inference import reading as reading_inference
from hmrnn_jax.tasks import calibration, language, metrics

MOST_DRAWN = 10**7  # symbols that one call generates, for the memory that they take
_POEM = 40  # symbols drawn for each poem: one in form has 25 with its newline; some are longer
MOST_POEMS = MOST_DRAWN // _POEM
_TRUE = {"spaces": "a space", "words": "the last character of a word"}
_NOTHING = {
    "spaces": "no space to score against",
    "words": "no word ends within a line: there is nothing to score against",
}


class SymbolStrings(collections.abc.Sequence):
    """The symbols of ids as strings, see `Vocabulary.symbol_strings`, made when asked for."""

    def __init__(self, ids, vocabulary):
        self.ids, self.vocabulary = ids, vocabulary

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, place):
        if isinstance(place, slice):
            return self.vocabulary.symbol_strings(self.ids[place])
        return self.vocabulary.symbol_strings(self.ids[[place]])[0]


def read(path, vocabulary):
    """`(ids, symbols, note)` of a text file: symbols as strings, see `Vocabulary.symbol_strings`.

    Unknown characters and bytes are as they are in the text.
    """
    return _encoded(path, texts.read(path, vocabulary.unit), vocabulary)


def read_words(path, vocabulary):
    """As `read`, of a file whose words are separated; and the true ends of words, bool `[N]`.

    The model is given the text without the spaces.
    """
    if vocabulary.unit != "characters":
        raise UserError("--words is for models of characters; this one reads other symbols.")
    text, ends = segmented.unspaced(segmented.read_words(path))
    if vocabulary.line_end is None:  # the model was trained on a text without lines
        ends = ends[np.array([symbol != "\n" for symbol in text])]
        text = text.replace("\n", "")
    return *_encoded(path, text, vocabulary), ends


def _encoded(path, text, vocabulary):
    if vocabulary.unit == "words" and not text.strip():
        raise UserError(f"{path} holds no word: give another text.")
    ids, unknown = vocabulary.encode(text)
    if len(ids) < 2:
        raise UserError(f"{path} has {len(ids)} symbols; at least 2 are needed.")
    note = vocabulary.unknown_note(path, unknown, len(ids))
    if vocabulary.unit == "words":
        return ids, SymbolStrings(ids, vocabulary), note
    return ids, vocabulary.as_written(text, ids), note


def split(run, name):
    """`(ids, symbols, note)` of a split of the run's own corpus."""
    ids = language.corpus_of(run).splits[name]
    return ids, SymbolStrings(ids, run.encoding), ""


def word_ends(run, name):
    """The true ends of words, bool `[N]`, of a split that does not show them; None if it does."""
    return language.corpus_of(run).ends.get(name)


def score(run, name, ids, batch=None, warmup=None, seed=0):
    """Nats, bits per symbol, perplexity and the detectors' rates.

    Args:
      name: of the text. ids: its symbols. batch, warmup, seed: see `Run.score`.
    """
    result = run.score(ids, batch=batch, warmup=warmup, seed=seed)
    batch, warmup = result["rows"], result["warmup"]
    rows = f"{batch} rows, each after {warmup} symbols of its own past"
    lines = [
        f"state carried through {'the whole text' if batch == 1 else rows}",
        score_table(result, run.encoding.unit),
        *(f"warning: {warning}" for warning in metrics.collapsed(result)),
    ]
    return Report("\n".join(lines), {"split": name, "checkpoint": run.checkpoint} | result)


def _read(run, ids, asked, rows=None, warmup=None, seed=0, progress=lambda done: None):
    """`(z, how)`: the boundaries of a text, see `readings.read`, and how they were read."""
    rows = reading_inference.rows_for(len(ids)) if rows is None else rows
    warmup = (
        max(reading_inference.WARMUP, run.config.evaluation.warmup) if warmup is None else warmup
    )
    z = readings.read(
        run.model, run.plain, ids, asked, run.encoding.line_end, run.slope, seed, rows, warmup,
        progress,
    )  # fmt: skip
    if rows == 1:
        return z, "read in one pass, exactly"
    past = f"{warmup:,} symbols of its own past"
    return z, f"read in {rows} rows, each after {past}, nearly as in one pass (--batch=1)"


def show_boundaries(
    run, title, inputs, ends, path, cut=readings.DETECTED, shown=270, scored=20_000, seed=0,
    every_reading=False, trained_on=False,
):  # fmt: skip
    """Figure and text view of the first `shown` symbols, and the boundaries' scores.

    All that can be read of the model is scored, `cut` first, beside random and regular
    boundaries, untrained models and an n-gram model, see `analysis.comparison.compare`. Ends of
    lines are known, and not counted, nor are `segmenters.blanks`. A text of words has no words to
    be found, and no scores; nor has one without a true boundary within its lines.

    Args:
      inputs: `(ids, symbols)`. ends: the true ends of words, bool `[N]`; None where a space
        ends a word. path: of the figure.
      cut: what is drawn, an `inference.readings.Cut`. scored: symbols that are scored.
      every_reading: whether line breaks are scored though another reading is asked; each is tried
        at a cost of several symbols.
      trained_on: whether the model was trained on this text, which is then less uncertain than the
        validation text: lengths are set on itself.

    Returns a `Report`, with the `rows` of `comparison.compare`.
    """
    if scored < 2:
        raise UserError(f"--scored is {scored}; a text needs 2 symbols or more.")
    ids, symbols = inputs
    if scored < min(shown, len(ids)):
        shown, notes = scored, [f"the figure has the {scored:,} symbols that are scored"]
    else:
        shown, notes = min(shown, len(ids)), []
    ids, symbols = ids[:scored], symbols[:scored]
    newline = run.encoding.line_end
    readings.check(run.model, cut.reading, newline)
    newlines = readings.line_ends(ids, newline)
    gold, blank, against = _truth(run.encoding, symbols, newlines, ends)
    others, is_scored = (), bool(np.any(gold & within_lines(newlines, blank)))
    if is_scored:
        left_out = {cut.reading} | (set() if every_reading else {"line_break"})
        others = [n for n in readings.available(run.model, newline) if n not in left_out]
    elif against:
        give = "; give --words" * (against == "spaces" and run.encoding.unit == "characters")
        notes.append(_NOTHING[against] + give)
    try:
        corpus = language.corpus_of(run)
    except UserError as error:
        corpus = None
        notes += [f"no n-gram model beside: {error}"] * is_scored
    valid = ids if trained_on or not corpus else corpus.splits["valid"]
    calibrated = functools.partial(
        calibration.of_text, cut=cut, others=others, seed=seed, valid=valid
    )
    asked = calibrated(run)
    if any(one.length for one in asked) and np.array_equal(valid[: len(ids)], ids):
        notes.append("lengths are set on this text itself")
    z, how = _read(run, ids, asked, seed=seed)
    if (most := fitting(symbols[:shown])) < shown:
        shown = most
        notes.append(f"the figure has room for the first {most} symbols")
    first, detectors = list(z[cut.reading][:, :shown]), cut.reading == "detectors"
    weights = sparse_model.inference(run.model, run.plain)
    _, norms = activations.of(*weights, ids[:shown], run.slope, seed)
    heading = f"{run.title}: {title}" + ("" if detectors else f", {asked[0].description}")
    how_counted = {"updates": detectors} | (activations.counted(run.model) if detectors else {})
    boundary_figure(path, symbols[:shown], first, norms, heading, **how_counted)
    lines, rows = [boundaries.text_view(symbols[:shown], first, **how_counted), ""], []
    if is_scored:
        fresh = [_read(one, ids, calibrated(one), seed=seed)[0] for one in runs.untrained(run)]
        ngrams = readings.of_ngram(corpus, asked, ids, valid) if corpus else {}
        kept = ~blank
        found = [
            comparison.Found(
                one.name, layer + 1, own[kept],
                tuple(other[one.name][layer][kept] for other in fresh),
                ngrams[one.name][layer][kept] if one.name in ngrams else None,
            )
            for one in asked for layer, own in enumerate(z[one.name])
        ]  # fmt: skip
        further = f", {blank.sum():,} of them further spaces, left out" if blank.any() else ""
        lines.append(f"boundaries against {against}, {len(ids):,} symbols{further}, {how}")
        lines += [f"{one.name}: {one.description}" for one in asked if one.segmenters]
        newlines, around = newlines[kept], against == "spaces"
        rows = comparison.compare(found, gold[kept], within_lines(newlines), newlines, around)
        lines.append(comparison.table(rows, _TRUE[against]))
    found = {"against": against, "symbols": len(ids), "rows": rows, "figure": str(path)}
    return Report("\n".join([*lines, *notes, f"figure: {path}"]), found)


def _truth(encoding, symbols, newlines, ends):
    """`(gold, blank, against)` of a text: bool `[N]`, the true ends of words and what does not
    count, see `segmenters.blanks`; and what the truth is, None where there is none."""
    nothing = np.zeros(len(symbols), bool)
    if encoding.unit == "words":
        return nothing, nothing, None
    if ends is not None:
        return np.asarray(ends[: len(symbols)], bool), nothing, "words"
    spaces = encoding.spaces(symbols)
    return spaces, blanks(spaces, newlines), "spaces"


def segment(
    run, inputs, path, cut=readings.DETECTED, seed=0, batch=None, warmup=None,
    say=lambda line: None, trained_on=False,
):  # fmt: skip
    """Writes the segments of each layer as JSON lines; says how many.

    A layer's segments cover the text, and those of two layers need not be nested, see
    `boundaries.segments`.

    Args:
      inputs: `(ids, symbols)`.
      cut: an `inference.readings.Cut`; each of the reading's curves is a layer.
      batch, warmup: rows side by side and symbols that each reads before its part, see
        `inference.reading.curves`, which says what is exact; by default a single pass up to
        `inference.reading.SINGLE_PASS` symbols, and the longer of `inference.reading.WARMUP` and
        the configuration's warm-up.
      say: is told how far it is, a line every few seconds.
      trained_on: see `show_boundaries`.
    """
    ids, symbols = inputs
    cut.check()
    valid, on = ids, "this text"
    if not trained_on and calibration.sets_length(run, cut):  # else the corpus may be far away
        valid, on = calibration.validation_text(run, ids)
    asked = calibration.of_text(run, cut, seed=seed, valid=valid)
    pace = reading_inference.Pace(len(ids), say)
    found, how = _read(run, ids, asked, batch, warmup, seed, pace)
    z, detectors = found[cut.reading], cut.reading == "detectors"
    count = boundaries.write_segments(path, boundaries.segment_lines(symbols, z))
    kind = reading_inference.nesting(run.model) if detectors else asked[0].description
    kind += f", by {on}" if asked[0].length else ""
    layers = f"{len(z)} layer{'s' if len(z) > 1 else ''}"
    first = boundaries.first_segments(symbols, z)
    lines = f"{count:,} segments of {layers}: {path}\n{first}\n{how}; {kind}"
    found = {"segments": count, "layers": len(z), "symbols": len(ids), "file": str(path)}
    return Report(lines, found)


def sample(run, prompt, length, temperature=1.0, seed=0):
    """Continues `prompt` by `length` symbols."""
    # Bytes that are no UTF-8 come from the command line as surrogates.
    given = prompt.encode("utf-8", "surrogateescape") if run.encoding.unit == "bytes" else prompt
    drawn = run.sample(given, length, temperature=temperature, seed=seed)
    text, bits = drawn["text"], -drawn["log_probabilities"].mean() * metrics.BITS
    note = run.encoding.unknown_note("--prompt", drawn["unknown"], drawn["read"])
    words = run.encoding.unit == "words"
    space = " " * (words and not prompt[-1].isspace() and not text.startswith("\n"))
    lines = [
        f"{prompt}{space}{text}",
        "",
        f"{length} symbols at {bits:.3f} bits each under the model itself",
        note,
    ]
    found = {"prompt": prompt, "text": f"{space}{text}", "length": length, "bits": bits}
    return Report("\n".join(lines).rstrip(), found)


def poems(run, count, temperature=1.0, seed=0):
    """Draws `count` poems and says which keep the form of a quatrain.

    Lines are drawn one after the other, state and all, as the training text has them.
    """
    if run.config.data.name != "quatrains":
        raise UserError("Poems are drawn from a model of verse: train one, --config=quatrains.")
    if count < 1:
        raise UserError(f"--count is {count}; it must be 1 or more.")
    known, note = None, ""
    try:
        training = run.encoding.decode(language.corpus_of(run).splits["train"])
        known = set(quatrains.poems(training))
    except UserError as error:  # an exported run needs no data
        note = f"\nwhether they stand in the training text is not known: {error}"
    text = run.sample("\n", _POEM * count, temperature=temperature, seed=seed)["text"]
    drawn = quatrains.poems(text)[:count]
    share, lines = quatrains.form_report(drawn, known)
    repeated = None if known is None else quatrains.repeats(drawn, known)
    figures = {"poems": len(drawn), "keep_the_form": share, "repeat_training": repeated}
    return Report(lines + note, figures)


def stream_segments(stream, source, tell=None):
    """Yields each segment of what `source` brings, as a `Stream` has it, as soon as it ends.

    Args:
      source: a binary file, UTF-8 unless the model reads bytes; what it has is taken at once.
      tell: called with a sentence on the symbols that the model does not know, if there were
        any, when the text ends or is read no further.

    Raises:
      UserError: the text is not UTF-8, or has a symbol that the model cannot read.
    """
    unknown = total = 0
    try:
        raw = True
        while raw:
            raw = source.read1(1 << 16)
            part = stream.push(raw) if raw else stream.finish()
            unknown, total = unknown + part.unknown, total + len(part.symbols)
            yield from part.segments
    except UserError as error:
        raise UserError(f"Standard input: {error}") from error
    finally:
        if tell and unknown:
            tell(stream.vocabulary.unknown_note("standard input", unknown, total))


def score_table(result, unit="characters"):
    """`Evaluator`'s result as a table: the score, then the rates of each layer.

    Args:
      unit: of the symbols, of `vocabulary.UNITS`.
    """
    bits = f"bpc {result['bpc']:.4f}"
    if unit == "words":
        bits = f"bits per word {result['bpc']:.4f}"
    lines = [
        f"symbols {result['symbols']:,}   nats {result['nats']:.4f}   {bits}"
        f"   perplexity {metrics.perplexity(result['nats']):.3f}"
    ]
    kinds = [k for k in ("rate", "live", "update", "copy", "flush") if f"{k}/layer1" in result]
    if kinds:
        depth = sum(name.startswith("update/") for name in result)
        lines.append(f"{'':8}" + "".join(f"{kind:>9}" for kind in kinds))
        for layer in range(1, depth + 1):
            cells = (result.get(f"{kind}/layer{layer}") for kind in kinds)
            row = "".join(f"{'-':>9}" if v is None else f"{v:9.4f}" for v in cells)
            lines.append(f"layer {layer} {row}")
    return "\n".join(lines)
