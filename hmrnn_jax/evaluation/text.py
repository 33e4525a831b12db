"""Language models: scores, boundaries, segments, samples."""

import collections.abc
import json
import math
import string

import jax
import numpy as np

from hmrnn_jax import parallel
from hmrnn_jax import run as runs
from hmrnn_jax.analysis import boundaries, quatrains, scores
from hmrnn_jax.analysis.figures.text import boundary_figure
from hmrnn_jax.datasets import chinese
from hmrnn_jax.datasets import text as texts
from hmrnn_jax.errors import UserError
from hmrnn_jax.inference import activations, generate_text, sparse_model
from hmrnn_jax.inference import reading as reading_inference
from hmrnn_jax.inference.stream import Stream
from hmrnn_jax.tasks import language, metrics

MOST_DRAWN = 10**7  # symbols that one call generates, for the memory that they take
_POEM = 40  # symbols drawn for each poem: one in form has 25 with its newline; some are longer
MOST_POEMS = MOST_DRAWN // _POEM


class Spelled(collections.abc.Sequence):
    """The symbols of ids as strings, see `Vocabulary.spelled`, made when they are asked for."""

    def __init__(self, ids, vocabulary):
        self.ids, self.vocabulary = ids, vocabulary

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, place):
        if isinstance(place, slice):
            return self.vocabulary.spelled(self.ids[place])
        return self.vocabulary.spelled(self.ids[[place]])[0]


def read(path, vocabulary):
    """`(ids, symbols, note)` of a text file: symbols as strings, see `Vocabulary.spelled`.

    Unknown characters and bytes are as they are in the text.
    """
    return _encoded(path, texts.read(path, vocabulary.unit), vocabulary)


def read_words(path, vocabulary):
    """As `read`, of a file whose words are separated; and the true ends of words, bool `[N]`.

    The model is given the text without the spaces.
    """
    if vocabulary.unit != "characters":
        raise UserError("--words is for models of characters; this one reads other symbols.")
    text, ends = chinese.unspaced(chinese.read_words(path))
    return *_encoded(path, text, vocabulary), ends


def _encoded(path, text, vocabulary):
    if vocabulary.unit == "words" and not text.strip():
        raise UserError(f"{path} holds no word: give another text.")
    ids, unknown = vocabulary.encode(text)
    if len(ids) < 2:
        raise UserError(f"{path} has {len(ids)} symbols; at least 2 are needed.")
    note = vocabulary.unknown_note(path, unknown, len(ids))
    if vocabulary.unit == "words":
        return ids, Spelled(ids, vocabulary), note
    return ids, vocabulary.as_written(text, ids), note


def split(run, name):
    """`(ids, symbols, note)` of a split of the run's own corpus."""
    corpus = language.corpus(run.config)
    if corpus.vocabulary != run.encoding:
        raise UserError(
            f"The corpus {corpus.name} found here has another vocabulary than the run's; point"
            " HMRNN_DATA to the data it was trained on, or give --text."
        )
    ids = corpus.splits[name]
    return ids, Spelled(ids, run.encoding), ""


def score(run, name, ids, batch=None, warmup=None, seed=0):
    """Nats, bits per symbol, perplexity and the detectors' rates; at last a line of JSON.

    Args:
      name: of the text. batch, warmup: see `tasks.language.Evaluator`; the configuration's if None.
    """
    evaluation = run.config.evaluation
    batch = batch or evaluation.batch
    warmup = evaluation.warmup if warmup is None else warmup
    mesh, params = run.mesh, run.params
    if batch == 1:
        mesh, params = parallel.make_mesh(jax.local_devices()[:1]), run.plain
    parallel.check_batch(batch, mesh)
    evaluator = language.Evaluator(run.model, mesh, batch, evaluation.window, warmup)
    result = evaluator(params, ids, run.slope, seed)
    rows = f"{batch} rows, each after {warmup} symbols of its own past"
    return "\n".join(
        [
            f"state carried through {'the whole text' if batch == 1 else rows}",
            score_table(result),
            *(f"warning: {warning}" for warning in metrics.collapsed(result)),
            json.dumps({"split": name} | result),
        ]
    )


def _read(run, ids, rows, warmup, seed, progress=lambda done: None):
    """`(z, how)`: the boundaries of a text, see `inference.reading.boundaries`, and how they were
    read."""
    rows = reading_inference.rows_for(len(ids)) if rows is None else rows
    warmup = (
        max(reading_inference.WARMUP, run.config.evaluation.warmup) if warmup is None else warmup
    )
    z = reading_inference.boundaries(
        run.model, run.plain, ids, run.slope, seed, rows, warmup, progress
    )
    if rows == 1:
        return z, "read in one pass, exactly"
    past = f"{warmup:,} symbols of its own past"
    return z, f"read in {rows} rows, each after {past}, nearly as in one pass (--batch=1)"


def show_boundaries(run, title, inputs, ends, path, length=270, scored=20_000, seed=0):
    """Figure and text view of the first `length` symbols, and the boundaries' F1.

    The scores stand beside those of detectors that read nothing and of untrained models, see
    `scores.score_against`.

    Args:
      inputs: `(ids, symbols)`. ends: the true ends of words, bool `[N]`; None where a space
        ends a word. path: of the figure. scored: symbols that are scored.
    """
    ids, symbols = inputs
    ids, symbols = ids[:scored], symbols[:scored]
    z, how = _read(run, ids, None, None, seed)
    untrained = [_read(fresh, ids, None, None, seed)[0] for fresh in runs.untrained(run)]
    shown = min(len(ids), length)
    first = z[:, :shown]
    weights = sparse_model.inference(run.model, run.plain)
    _, norms = activations.look(*weights, ids[:shown], run.slope, seed)
    boundary_figure(path, symbols[:shown], first, norms, f"{run.title}: {title}")
    if ends is None:
        # Some bytes of characters have the numbers of spaces beyond ASCII.
        spaces = string.whitespace if run.encoding.unit == "bytes" else None
        gold = "a space"
        rows = boundaries.score_against_spaces(z, symbols, spaces=spaces, untrained=untrained)
    else:
        mask = np.array([symbol != "\n" for symbol in symbols])
        gold = "the last character of a word"
        rows = scores.score_against(z, ends[:scored], mask=mask, untrained=untrained)
    against = "spaces" if ends is None else "words"
    return "\n".join(
        [
            boundaries.text_view(symbols[:shown], first),
            f"\nboundaries against {against}, {len(ids):,} symbols, {how}",
            scores.format_scores(rows, gold),
            f"figure: {path}",
        ]
    )


def segment(run, inputs, path, seed=0, batch=None, warmup=None, say=lambda line: None):
    """Writes the segments of each layer as JSON lines; says how many.

    A layer's segments cover the text, and those of two layers need not be nested, see
    `boundaries.segments`.

    Args:
      inputs: `(ids, symbols)`.
      batch, warmup: rows side by side and symbols that each reads before its part, see
        `inference.reading.boundaries`, which says what is exact; by default a single pass up to
        `inference.reading.SINGLE_PASS` symbols, and the longer of `inference.reading.WARMUP` and
        the configuration's warm-up.
      say: is told how far it is, a line every few seconds.
    """
    ids, symbols = inputs
    z, how = _read(run, ids, batch, warmup, seed, reading_inference.Pace(len(ids), say))
    count = boundaries.write_segments(path, boundaries.segment_lines(symbols, z))
    return "\n".join(
        [
            f"{count:,} segments of {len(z)} layers: {path}",
            f"{how}; {reading_inference.nesting(run.model)}",
        ]
    )


def _draw(run, prompt, length, temperature, seed):
    if length < 1 or not temperature >= 0:
        raise UserError("--sample needs a positive number, --temperature one that is not negative.")
    # Bytes that are no UTF-8 come from the command line as surrogates.
    unit = run.encoding.unit
    given = prompt.encode("utf-8", "surrogateescape") if unit == "bytes" else prompt
    encode = run.encoding.encode_sentence if unit == "words" else run.encoding.encode
    ids, unknown = encode(given)
    if not len(ids):
        raise UserError("--prompt is empty; give at least one symbol.")
    model, params = sparse_model.inference(run.model, run.plain)
    drawn, log_probabilities = generate_text.generate(
        model, params, ids, length, temperature, seed, run.slope
    )
    note = run.encoding.unknown_note("--prompt", unknown, len(ids))
    return run.encoding.decode(drawn), -log_probabilities.mean() * metrics.BITS, note


def sample(run, prompt, length, temperature=1.0, seed=0):
    """Continues `prompt` by `length` symbols."""
    text, bits, note = _draw(run, prompt, length, temperature, seed)
    words = run.encoding.unit == "words"
    space = " " * (words and not prompt[-1].isspace() and not text.startswith("\n"))
    lines = [
        f"{prompt}{space}{text}",
        "",
        f"{length} symbols at {bits:.3f} bits each under the model itself",
        note,
    ]
    return "\n".join(lines).rstrip()


def poems(run, count, temperature=1.0, seed=0):
    """Draws `count` poems and says which keep the form of a quatrain.

    Lines are drawn one after the other, state and all, as the training text has them.
    """
    if run.config.data.name != "quatrains":
        raise UserError("--poems is for a model of verse; train one, configs/quatrains.py.")
    if count < 1:
        raise UserError(f"--poems is {count}; it must be 1 or more.")
    text, *_ = _draw(run, "\n", _POEM * count, temperature, seed)
    known = set(run.encoding.decode(language.corpus(run.config).splits["train"]).split("\n"))
    drawn = quatrains.poems(text)[:count]
    share, lines = quatrains.form_report(drawn, known)
    repeated = quatrains.repeats(drawn, known)
    figures = {"poems": len(drawn), "keep_the_form": share, "repeat_training": repeated}
    return f"{lines}\n{json.dumps(figures)}"


def stream_segments(run, source, seed=0, tell=None):
    """Yields a line of JSON for each segment of what `source` brings, as soon as it ends.

    Args:
      source: a binary file, UTF-8 unless the model reads bytes; what it has is taken at once.
      tell: called with a sentence on the symbols that the model does not know, if there were
        any, when the text ends or is read no further.

    Raises:
      UserError: the text is not UTF-8, or has a symbol that the model cannot read.
    """
    stream, unknown, total = Stream.of(run, seed), 0, 0
    try:
        raw = True
        while raw:
            raw = source.read1(1 << 16)
            reading = stream.push(raw) if raw else stream.finish()
            unknown, total = unknown + reading.unknown, total + len(reading.symbols)
            for row in reading.segments:
                yield json.dumps(row, ensure_ascii=False)
    except UserError as error:
        raise UserError(f"Standard input: {error}") from error
    finally:
        if tell and unknown:
            tell(run.encoding.unknown_note("standard input", unknown, total))


def score_table(result):
    """`Evaluator`'s result as a table: the score, then the rates of each layer."""
    lines = [
        f"symbols {result['symbols']:,}   nats {result['nats']:.4f}   bpc {result['bpc']:.4f}"
        f"   perplexity {math.exp(result['nats']):.3f}"
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
