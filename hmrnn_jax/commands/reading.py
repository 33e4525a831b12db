"""What a run makes of a text or of sequences that it reads: scores, boundaries, segments."""

import functools
import sys

from etils import epath

from hmrnn_jax.analysis.comparison import TOLERANCE
from hmrnn_jax.analysis.figures.handwriting import MOST_LINES
from hmrnn_jax.analysis.figures.text import MOST_SYMBOLS
from hmrnn_jax.cli import JSON, Command, json_line
from hmrnn_jax.commands.base import (
    LANGUAGE,
    OFFICIAL,
    PRETRAINED,
    RUN,
    SEED,
    SEQUENCES,
    SPLIT,
    TEXT,
    at_most_one,
    file,
    open_run,
    output,
    place,
    say,
    shown,
    with_control,
)
from hmrnn_jax.errors import UserError
from hmrnn_jax.evaluation import classification, sequences, text
from hmrnn_jax.inference.readings import NAMES, Cut
from hmrnn_jax.tasks.sequences import HANDWRITING
from hmrnn_jax.training.fields import Choice, Number, Whole
from hmrnn_jax.training.settings import ROWS

_ROWS = {
    "batch": (None, Whole("Rows a text is divided in; 1 carries the state all through.", 1, ROWS)),
    "warmup": (None, Whole("Symbols that each row reads, unscored, before its part.")),
}
_READING = {
    "reading": ("detectors", Choice("What boundaries are read from.", NAMES)),
    "length": (
        None,
        Number("Wanted mean length of segments, in symbols; the run's own; 0: none.", least=0),
    ),
    "threshold": (
        None,
        Number("Instead of a length: a boundary is wherever the reading is at least this."),
    ),
}
_DETECTING = (LANGUAGE, SEQUENCES)
progress = functools.partial(say, to=sys.stderr)


def score(given):
    """Score a run on a split of its data, or on a text.

        hmrnn score --workdir=runs/quickstart
        hmrnn score my.txt --pretrained
        hmrnn score --workdir=runs/logic-on --control=runs/logic-lstm
        hmrnn score --config=on_lstm_ptb_word --weights=on.pt

    Bits per character or perplexity, log-likelihood or accuracy, as the run's task has it, and how
    often each layer's detector fires. Of logical inference also a table and a figure of the
    accuracy by length.
    """
    at_most_one(given, "text", "split")
    if given.output:
        place(given, "")
    run = open_run(
        given, "score",
        only={"text": [LANGUAGE], "batch": [LANGUAGE], "warmup": [LANGUAGE],
              "control": ["logic", "images"], "output": ["logic"]},
    )  # fmt: skip
    if run.config.task == LANGUAGE:
        name, inputs, _ = read_text(run, given)
        return shown(text.score(run, name, inputs[0], given.batch, given.warmup, given.seed))
    if run.config.task == SEQUENCES:
        return shown(sequences.score(run, given.split, given.seed))
    drawn = run.config.task == "logic" and given.split == "test"
    if given.output and not drawn:
        raise UserError(
            "--output is for the figure of the test split, of accuracy by length; of"
            f" {given.split} there is none: leave it out."
        )
    figure = place(given, "lengths.png") if drawn else ""
    return shown(classification.score(with_control(run, given), given.split, figure))


def boundaries(given):
    """Draw the boundaries that a run finds, and score them.

        hmrnn boundaries --workdir=runs/quickstart
        hmrnn boundaries --workdir=runs/mine --text=other.txt --output=other.png
        hmrnn boundaries --workdir=runs/chinese --words=gold.txt
        hmrnn boundaries --workdir=runs/mine --reading=entropy --length=6
        hmrnn boundaries --workdir=runs/mine --reading=line_end --threshold=-1.6
        hmrnn boundaries --workdir=runs/pen --shown=3 --tolerance=5

    Of a text: a figure, the text with its boundaries, and their F1 against spaces or the words of
    a file. Of real-valued sequences: a figure, and F1 against events and known changes.
    """
    at_most_one(given, "text", "words", "split")
    figure = place(given, "boundaries.png")
    run = open_run(
        given, "boundaries", _DETECTING,
        {"text": [LANGUAGE], "words": [LANGUAGE], "tolerance": [SEQUENCES]},
    )  # fmt: skip
    if run.config.task == LANGUAGE:
        name, inputs, ends = read_text(run, given)
        title, first = epath.Path(name).name, given.shown or 270
        scored = given.scored or 20_000
        return shown(
            text.show_boundaries(
                run, title, inputs, ends, figure, _cut(given), first, scored, given.seed,
                trained_on=given.split == "train",
            )
        )  # fmt: skip
    if given.shown and run.config.data.name not in HANDWRITING:
        raise UserError(
            f"--shown is for texts and handwriting; of {run.config.data.name} the first sequence"
            " is drawn: leave it out."
        )
    lines = given.shown or 5
    if lines > MOST_LINES:
        raise UserError(f"--shown is {lines}; at most {MOST_LINES} sequences are drawn.")
    return shown(
        sequences.show_boundaries(
            run, given.split, sequences.held_out(run, given.split), figure, _cut(given), lines,
            given.scored or 200, given.seed, given.tolerance,
        )
    )  # fmt: skip


def segment(given):
    """Cut a file in the segments that a run finds, as JSON lines.

        hmrnn segment my.txt --pretrained
        hmrnn segment --workdir=runs/quickstart --text=my.txt
        hmrnn segment --workdir=runs/logs --text=my/other.csv
        hmrnn segment --workdir=runs/mine --split=train --reading=line_break

    Writes my.txt.segments.jsonl, or train.segments.jsonl in --workdir: layer, start, end and text
    of each segment of each layer. A long text is read in rows side by side; --batch=1 reads any
    text in one pass.
    """
    at_most_one(given, "text", "split")
    if not given.text and not given.split:
        raise UserError("Give the file to cut, --text=FILE, or a split of the run's data, --split.")
    if given.text:
        path = place(given, f"{given.text.rstrip('/')}.segments.jsonl", "")
    else:
        path = place(given, f"{given.split}.segments.jsonl")
    of_text = {"batch": [LANGUAGE], "warmup": [LANGUAGE], "split": [LANGUAGE]}
    run = open_run(given, "segment", _DETECTING, of_text)
    if run.config.task == SEQUENCES:
        read = sequences.read(run, given.text)
        return shown(sequences.segment(run, read, path, _cut(given), given.seed, progress))
    _, inputs, _ = read_text(run, given)
    return shown(
        text.segment(
            run, inputs, path, _cut(given), given.seed, given.batch, given.warmup, progress,
            given.split == "train",
        )
    )  # fmt: skip


def stream(given):
    """Print the segments of standard input as they end, as JSON lines.

        tail -f log.txt | hmrnn stream --workdir=runs/mine
        hmrnn stream --pretrained < my.txt

    Each has layer, start, end and text. What else there is to say goes to stderr.
    """
    run = open_run(given, "stream", [LANGUAGE], notes=sys.stderr)
    if sys.stdin is None:
        raise UserError("Standard input is closed: give the text there.")
    by = {"reading": given.reading, "length": given.length, "threshold": given.threshold}
    reader, count = run.stream(**by, seed=given.seed), 0
    for row in text.stream_segments(reader, sys.stdin.buffer, progress):
        say(json_line(row))
        count += 1
    return {"segments": count}


def _cut(given):
    return Cut(given.reading, given.length, threshold=given.threshold)


def read_text(run, given):
    """`(name, (ids, symbols), ends)` of --words, --text or --split.

    Ends of words, bool `[N]`, are those of --words, or of a split of a corpus that hides them.
    """
    ends = None
    if getattr(given, "words", None):
        *inputs, note, ends = text.read_words(given.words, run.encoding)
    elif given.text:
        *inputs, note = text.read(given.text, run.encoding)
    else:
        *inputs, note = text.split(run, given.split)
        ends = text.word_ends(run, given.split)
    say(*filter(None, [note]))
    return getattr(given, "words", None) or given.text or given.split, inputs, ends


_CONTROL = {"control": (None, file("Folder of a second run, scored beside it (logic, images)."))}
_BOUNDARIES = {
    "words": (None, file("A UTF-8 text with its words separated, which are scored against.")),
    "shown": (
        None,
        Whole("Symbols in figure and view, 270 by default; handwritten lines, 5.", 1, MOST_SYMBOLS),
    ),
    "scored": (None, Whole("Symbols that are scored, 20000 by default; sequences, 200.", 1)),
    "tolerance": (
        TOLERANCE,
        Whole("Steps that boundaries of sequences may lie off; 0: exact ones alone."),
    ),
}

COMMANDS = {
    "score": Command(
        score,
        RUN | PRETRAINED | SPLIT | TEXT | _ROWS | SEED | _CONTROL
        | output("File of the figure of logical inference, PNG.") | OFFICIAL | JSON,
        meant="--workdir={0} for a run, or --text={0} for a text", word="text",
    ),
    "boundaries": Command(
        boundaries,
        RUN | PRETRAINED | SPLIT | TEXT | _READING | _BOUNDARIES | SEED
        | output("File of the figure, PNG; boundaries.png in --workdir by default.") | JSON,
        meant="--workdir={0} for a run, or --text={0} for a text", word="text",
    ),
    "segment": Command(
        segment,
        RUN | PRETRAINED
        | {"text": (None, file("The file to cut: UTF-8 text, or .csv or .npz for sequences."))}
        | {"split": (None, SPLIT["split"][1])} | _READING | _ROWS | SEED
        | output("File of the segments, JSON lines; beside --text by default.") | JSON,
        meant="--text={0}", word="text",
    ),
    "stream": Command(stream, RUN | PRETRAINED | _READING | SEED | JSON),
}  # fmt: skip
