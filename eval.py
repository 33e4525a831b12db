"""Looks at a trained run: scores, boundaries, segments, samples.

python eval.py --workdir=runs/quickstart                      # bits per character of the test split
python eval.py --workdir=runs/quickstart --text=my.txt        # of any text
python eval.py --workdir=runs/quickstart --boundaries         # figure, text view, F1 against spaces
python eval.py --workdir=runs/chinese --boundaries --words=gold.txt          # against words
python eval.py --workdir=runs/quickstart --segment=my.txt     # segments of each layer, JSON lines
cat my.txt | python eval.py --stream                          # the same while the text comes in
python eval.py --workdir=runs/quickstart --curves             # curves; with --control=RUN of both
python eval.py --workdir=runs/quickstart --sample=500 --prompt="The " --temperature=0.7
python eval.py --workdir=runs/verse --poems=20                # verse, and what keeps its form
python eval.py --workdir=runs/hand --boundaries               # lines coloured by segment, F1
python eval.py --workdir=runs/hand --sample=16 --bias=1       # handwriting: PNG and SVG
python eval.py --workdir=runs/mine --segment=log.csv          # segments of your own signal
python eval.py --workdir=runs/on-ptb --trees=wsj.zip --control=runs/awd-ptb   # parsing F1
python eval.py --workdir=runs/on-ptb --parse=sentences.txt    # trees of plain sentences
python eval.py --workdir=runs/on-ptb --syneval                # grammatical or not, by construction
python eval.py --workdir=runs/logic-on --control=runs/logic-lstm     # accuracy by length, figure
python eval.py --workdir=runs/on-ptb --export=on.pt           # the ON-LSTM authors' format, and
python eval.py --config=configs/on_lstm_ptb_word.py --weights=on.pt           # from it
"""

import functools
import itertools
import os
import signal
import sys

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    # Until `cli.run` a Ctrl-C would show where the imports are.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from absl import flags
from etils import epath

from hmrnn_jax import cli, files, parallel
from hmrnn_jax.analysis.figures import curves
from hmrnn_jax.analysis.figures.handwriting import MOST_LINES
from hmrnn_jax.analysis.figures.text import MOST_SYMBOLS
from hmrnn_jax.datasets.syneval import find, read_items
from hmrnn_jax.errors import UserError
from hmrnn_jax.evaluation import classification, sequences, syntax, text
from hmrnn_jax.run import export, from_official, restore, titles
from hmrnn_jax.training import fields, metrics_log
from hmrnn_jax.training.fields import Choice, Names, Number, Switch, Text, Whole, Wholes
from hmrnn_jax.training.settings import ROWS, SEEDS
from hmrnn_jax.training.workdir import load_run

FLAGS = flags.FlagValues()
flag, Place = functools.partial(fields.flag, FLAGS), functools.partial(Text, empty=False)
flag("config", None, Place("With --weights: the model's configuration."))
flag("weights", None, Place("Official ON-LSTM weights, .pt or .npz, instead of a run."))
flag("export", None, Place("File, .pt or .npz, for a run's weights in official form."))
flag("workdir", "runs/quickstart", Place("Folder of the run."))
flag("split", "test", Choice("Split to score or to look at.", ("train", "valid", "test")))
flag("text", None, Place("A UTF-8 file to score or to look at instead of a split."))
flag("batch", None, Whole("Rows a text is divided in; 1 carries the state all through.", 1, ROWS))
flag("warmup", None, Whole("Symbols that each row reads, unscored, before its part."))
flag("boundaries", False, Switch("Writes the boundary figure and view, and scores spaces."))
flag("length", 270, Whole("Symbols in the figure and view of --boundaries.", 1, MOST_SYMBOLS))
flag("score_length", 20_000, Whole("Symbols that --boundaries scores against spaces.", 2))
flag("words", None, Place("With --boundaries: a UTF-8 text with its words separated."))
flag("lines", 5, Whole("Sequences in the figure of --boundaries.", 1, MOST_LINES))
flag("score_lines", 200, Whole("Sequences whose boundaries --boundaries scores.", 1))
flag("tolerance", sequences.TOLERANCE, Whole("Steps that these may lie off; 0: exact ones alone."))
flag("segment", None, Place("A file to cut in segments: UTF-8 text, or .csv or .npz."))
flag("stream", False, Switch("Prints the segments of standard input as they end."))
flag("trees", None, Place("Penn bracket files (file, folder or zip) to parse; nltk: the sample."))
flag("sections", None, Wholes("Sections of --trees, for example 23; all by default."))
flag("longest", None, Whole("Most words of a sentence of --trees: 10 for WSJ10.", 1))
flag("control", None, Place("Workdir of a second run, shown beside by --trees, --curves, logic."))
flag("parse", None, Place("A text file, a sentence a line, to parse."))
flag("layer", 2, Whole("Layer whose distances --parse reads, from 1.", 1))
flag("draw", 1, Whole("Which sentence of --parse is drawn, from 1.", 1))
flag("biased", True, Switch("Whether --parse uses the authors' tree rule."))
flag("syneval", False, Switch("Scores the sentence pairs of Marvin and Linzen."))
flag("items", None, Place("Another file of pairs for --syneval."))
flag("curves", False, Switch("Draws the training curves, --control's over them."))
flag(
    "keys", ("valid/bpc", "rate/layer1", "rate/layer2"),
    Names("With --curves and --control: what is drawn."),
)  # fmt: skip
flag("sample", None, Whole("Symbols to generate; sequences, if real-valued.", 1, text.MOST_DRAWN))
flag("poems", None, Whole("Poems to generate, with a report on their form.", 1, text.MOST_POEMS))
flag("steps", 700, Whole("Steps of each real-valued sequence of --sample.", 1, 10**6))
flag("prime", 1, Whole("Steps of held-out sequences that these are begun with.", 1, 10**6))
flag("bias", 0.0, Number("Of --sample towards likely strokes (Graves 2013).", least=0, most=1000))
flag("prompt", "\n", Place("Text that --sample continues."))
flag("temperature", 1.0, Number("Of --sample; 0 takes the likeliest symbol.", least=0))
flag("seed", 0, Whole("Seed of --sample and of sampling detectors.", 0, SEEDS))
flag("output", None, Place("File of the figure (PNG) or of the segments (JSON lines)."))

# What can be asked, of runs of which tasks, one at a time; the score is for all.
LOOKS = {
    "boundaries": ("language", "strokes"),
    "segment": ("language", "strokes"),
    "stream": ("language",),
    "sample": ("language", "strokes"),
    "poems": ("language",),
    "trees": ("language",),
    "parse": ("language",),
    "syneval": ("language",),
    "export": ("language",),
    "curves": (),
}
# And of which other input it is asked.
INPUTS = {"text": ("language",), "words": ("language",), "items": ("language",)}


def main(argv):
    look = _look()
    for path in filter(None, (FLAGS.output, FLAGS.export)):
        files.check_writable(path)
    if look == "curves":
        return _curves()
    # What is asked is read before the run, which takes longer.
    bank = FLAGS.trees and syntax.read_treebank(FLAGS.trees, FLAGS.sections, FLAGS.longest)
    words = FLAGS.parse and syntax.read_sentences(FLAGS.parse)
    items = look == "syneval" and read_items(FLAGS.items or find())
    mesh = parallel.make_mesh()
    if FLAGS.weights:
        run = from_official(FLAGS.config, FLAGS.weights, mesh)
    else:
        run = restore(FLAGS.workdir, mesh)
    # What is streamed is for another program to read.
    _say(*run.notes, file=sys.stderr if FLAGS.stream else sys.stdout)
    for name, allowed in (LOOKS | INPUTS).items():
        if _given(name) and run.config.task not in allowed:
            raise UserError(
                f"--{name} is for runs of the task {' or '.join(allowed)}; {FLAGS.workdir} is one"
                f" of {run.config.task}."
            )
    if run.config.task == "strokes":
        _say(_sequences(run))
    elif run.config.task != "language":
        drawn = run.config.task == "logic" and FLAGS.split == "test"
        figure = _output("lengths.png") if drawn else ""
        _say(classification.score(_with_control(run), FLAGS.split, figure))
    elif bank:
        _say(syntax.trees(run, bank, *_with_control(run)[1:]))
    elif words:
        picture = _output("tree.png")
        _say(syntax.parse(run, words, FLAGS.layer, FLAGS.biased, FLAGS.draw, picture))
    elif items:
        _say(syntax.pairs(run, items, FLAGS.seed))
    elif FLAGS.export:
        _say(export(run, FLAGS.export))
    elif FLAGS.stream:
        tell = functools.partial(_say, file=sys.stderr)
        for line in text.stream_segments(run, sys.stdin.buffer, FLAGS.seed, tell):
            _say(line)
    else:
        _say(_text(run))


def _given(name):
    return FLAGS[name].value not in (None, False)


def _look():
    """The one thing that is asked; None for the score."""
    looks = [name for name in LOOKS if _given(name) or (name == "syneval" and _given("items"))]
    inputs = [name for name in ("text", "words") if _given(name)]
    for one, other in itertools.combinations(looks + inputs, 2):
        if one != "boundaries" or other not in inputs:
            raise UserError(f"--{one} and --{other} are asked at once; give one of them.")
    if inputs == ["words"] and not looks:
        raise UserError("--words are for --boundaries to score; give that too.")
    if FLAGS.config and not FLAGS.weights:
        raise UserError("--config goes with --weights; a run has a configuration of its own.")
    return looks[0] if looks else None


def _text(run):
    """What is asked of a language model but for its syntax."""
    if FLAGS.poems is not None:
        return text.poems(run, FLAGS.poems, FLAGS.temperature, FLAGS.seed)
    if FLAGS.sample is not None:
        # UTF-8, whatever the terminal's encoding is.
        prompt = os.fsencode(FLAGS.prompt).decode("utf-8", "surrogateescape")
        return text.sample(run, prompt, FLAGS.sample, FLAGS.temperature, FLAGS.seed)
    ends, path = None, FLAGS.segment or FLAGS.words or FLAGS.text
    if FLAGS.words:
        *inputs, note, ends = text.read_words(path, run.encoding)
    elif path:
        *inputs, note = text.read(path, run.encoding)
    else:
        *inputs, note = text.split(run, FLAGS.split)
    _say(*filter(None, [note]))
    if FLAGS.segment:
        return text.segment(
            run, inputs, _output(f"{path}.segments.jsonl", ""), FLAGS.seed, FLAGS.batch,
            FLAGS.warmup, functools.partial(_say, file=sys.stderr),
        )  # fmt: skip
    name = path or FLAGS.split
    if FLAGS.boundaries:
        title, figure = epath.Path(name).name, _output("boundaries.png")
        return text.show_boundaries(
            run, title, inputs, ends, figure, FLAGS.length, FLAGS.score_length, FLAGS.seed
        )
    batch, symbols = FLAGS.batch, len(inputs[0])
    if path and batch is None and symbols <= run.config.evaluation.batch:
        batch = 1
    return text.score(run, name, inputs[0], batch, FLAGS.warmup, FLAGS.seed)


def _sequences(run):
    """What is asked of a model of real-valued sequences."""
    if FLAGS.sample is not None:
        return sequences.sample(
            run, FLAGS.split, FLAGS.sample, FLAGS.steps, FLAGS.prime, FLAGS.temperature,
            FLAGS.bias, FLAGS.seed, _output("sample.png"),
        )  # fmt: skip
    if FLAGS.segment:
        path = _output(f"{FLAGS.segment.rstrip('/')}.segments.jsonl", "")
        return sequences.segment(run, sequences.read(run, FLAGS.segment), path, FLAGS.seed)
    if FLAGS.boundaries:
        return sequences.show_boundaries(
            run, FLAGS.split, sequences.held_out(run, FLAGS.split), _output("boundaries.png"),
            FLAGS.lines, FLAGS.score_lines, FLAGS.seed, FLAGS.tolerance,
        )  # fmt: skip
    return sequences.score(run, FLAGS.split, FLAGS.seed)


def _with_control(run):
    """The run, and that of --control if there is one."""
    if not FLAGS.control:
        return [run]
    control = restore(FLAGS.control, run.mesh)
    _say(*control.notes)
    if control.config.task != run.config.task:
        raise UserError(
            f"{FLAGS.control} is a run of the task {control.config.task}, {FLAGS.workdir} of"
            f" {run.config.task}; they cannot be compared."
        )
    return [run, control]


def _curves():
    """The training curves of a run, and of --control over them."""
    folders = list(filter(None, (FLAGS.workdir, FLAGS.control)))
    names = titles({folder: load_run(folder)[0] for folder in folders})
    runs = {
        names[folder]: metrics_log.read_metrics(epath.Path(folder) / "metrics.jsonl")
        for folder in folders
    }
    path = _output("curves.png")
    if FLAGS.control:
        curves.compare_curves(path, runs, FLAGS.keys)
    else:
        curves.training_curves(path, *runs.values(), *runs)
    _say(f"figure: {path}")


def _output(name, folder=None):
    """--output, or a file in a folder: the run's, or here where there is no run.

    Raises:
      UserError: it could not be written; that is known before the work is done.
    """
    folder = ("" if FLAGS.weights else FLAGS.workdir) if folder is None else folder
    path = FLAGS.output or os.path.join(folder, name)
    files.check_writable(path)
    return path


def _say(*lines, file=None):
    for line in lines:
        print(line, flush=True, file=file)


if __name__ == "__main__":
    cli.run(main, FLAGS, words="--workdir={0} for a run, or --text={0} for a text")
