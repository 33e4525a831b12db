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

import sys

from absl import flags
from etils import epath
from ml_collections import config_flags

from hmrnn_jax import cli, metrics, parallel
from hmrnn_jax.analysis import plots, syneval
from hmrnn_jax.errors import UserError
from hmrnn_jax.looks import examples, sequences, streaming, syntax, text
from hmrnn_jax.looks.run import export, from_official, restore

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file("config", None, "With --weights: the model's configuration.")
flags.DEFINE_string("weights", None, "Official ON-LSTM weights, .pt or .npz, instead of a run.")
flags.DEFINE_string("export", None, "File, .pt or .npz, for a run's weights in official form.")
flags.DEFINE_string("workdir", "runs/quickstart", "Folder of the run.")
flags.DEFINE_enum("split", "test", ["train", "valid", "test"], "Split to score or to look at.")
flags.DEFINE_string("text", None, "A UTF-8 file to score or to look at instead of a split.")
flags.DEFINE_integer("batch", None, "Rows a split is divided in; 1 carries the state all through.")
flags.DEFINE_integer("warmup", None, "Symbols that each row reads, unscored, before its part.")
flags.DEFINE_boolean("boundaries", False, "Writes the boundary figure and view, and scores spaces.")
flags.DEFINE_integer("length", 270, "Symbols in the figure and view of --boundaries.")
flags.DEFINE_integer("score_length", 20_000, "Symbols that --boundaries scores against spaces.")
flags.DEFINE_string("words", None, "With --boundaries: a UTF-8 text with its words separated.")
flags.DEFINE_integer("lines", 5, "Sequences in the figure of --boundaries.")
flags.DEFINE_integer("score_lines", 200, "Sequences whose boundaries --boundaries scores.")
flags.DEFINE_integer(
    "tolerance", sequences.TOLERANCE, "Steps that these may lie off; 0 scores exact ones alone.",
    lower_bound=0,
)  # fmt: skip
flags.DEFINE_string("segment", None, "A file to cut in segments: UTF-8 text, or .csv or .npz.")
flags.DEFINE_boolean("stream", False, "Prints the segments of standard input as they end.")
flags.DEFINE_string(
    "trees", None, "Penn bracket files (file, folder or zip) to parse; `nltk` for the sample."
)
flags.DEFINE_list("sections", None, "Sections of --trees, for example 23; all by default.")
flags.DEFINE_integer("longest", None, "Most words of a sentence of --trees: 10 for WSJ10.")
flags.DEFINE_string(
    "control", None, "Workdir of a second run, shown beside the first by --trees and for logic."
)
flags.DEFINE_string("parse", None, "A text file, a sentence a line, to parse.")
flags.DEFINE_integer("layer", 2, "Layer whose distances --parse reads, from 1.")
flags.DEFINE_integer("draw", 1, "Which sentence of --parse is drawn, from 1.")
flags.DEFINE_boolean("biased", True, "Whether --parse uses the authors' tree rule.")
flags.DEFINE_boolean("syneval", False, "Scores the sentence pairs of Marvin and Linzen.")
flags.DEFINE_string("items", None, "Another file of pairs for --syneval.")
flags.DEFINE_boolean("curves", False, "Draws the training curves, --control's over them.")
flags.DEFINE_list(
    "keys", "valid/bpc,rate/layer1,rate/layer2", "With --curves and --control: what is drawn."
)
flags.DEFINE_integer("sample", None, "Symbols to generate; sequences, if they are real-valued.")
flags.DEFINE_integer("poems", None, "Poems to generate, with a report on their form.")
flags.DEFINE_integer("steps", 700, "Steps of each real-valued sequence of --sample.")
flags.DEFINE_integer("prime", 1, "Steps of held-out sequences that these are begun with.")
flags.DEFINE_float("bias", 0.0, "Bias of --sample towards likely strokes (Graves 2013).")
flags.DEFINE_string("prompt", "\n", "Text that --sample continues.")
flags.DEFINE_float("temperature", 1.0, "Temperature of --sample; 0 takes the likeliest symbol.")
flags.DEFINE_integer("seed", 0, "Seed of --sample and of sampling detectors.")
flags.DEFINE_string(
    "output", None, "File that --boundaries, --parse (PNG) or --segment (JSON lines) writes."
)

# What can be asked of which task; the score is for all.
LOOKS = {
    "boundaries": ("language", "strokes"),
    "segment": ("language", "strokes"),
    "stream": ("language",),
    "sample": ("language", "strokes"),
    "poems": ("language",),
    "text": ("language",),
    "words": ("language",),
    "trees": ("language",),
    "parse": ("language",),
    "syneval": ("language",),
    "items": ("language",),
    "export": ("language",),
}


def main(argv):
    if len(argv) > 1:
        raise UserError(f"{argv[1]!r} is not a flag; did you mean --{argv[1]}?")
    if FLAGS.curves:
        return _curves()
    # What is asked is read before the run, which takes longer.
    bank = FLAGS.trees and syntax.read_treebank(FLAGS.trees, FLAGS.sections, FLAGS.longest)
    words = FLAGS.parse and syntax.read_sentences(FLAGS.parse)
    wants_pairs = FLAGS.syneval or FLAGS.items
    items = wants_pairs and syneval.read_items(FLAGS.items or syneval.find())
    mesh = parallel.make_mesh()
    if FLAGS.weights:
        run = from_official(FLAGS.config, FLAGS.weights, mesh)
    else:
        run = restore(FLAGS.workdir, mesh)
    # What is streamed is for another program to read.
    _say(*run.notes, file=sys.stderr if FLAGS.stream else sys.stdout)
    for flag, allowed in LOOKS.items():
        if FLAGS[flag].value not in (None, False) and run.config.task not in allowed:
            raise UserError(
                f"--{flag} is for runs of the task {' or '.join(allowed)}; {FLAGS.workdir} is one"
                f" of {run.config.task}."
            )
    if run.config.task == "strokes":
        _say(_sequences(run))
    elif run.config.task != "language":
        _say(examples.score(_with_control(run), FLAGS.split, _output("lengths.png")))
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
        for line in streaming.segments(run, sys.stdin.buffer, FLAGS.seed):
            _say(line)
    else:
        _say(_text(run))


def _text(run):
    """What is asked of a language model but for its syntax."""
    if FLAGS.poems is not None:
        return text.poems(run, FLAGS.poems, FLAGS.temperature, FLAGS.seed)
    if FLAGS.sample is not None:
        return text.sample(run, FLAGS.prompt, FLAGS.sample, FLAGS.temperature, FLAGS.seed)
    ends, path = None, FLAGS.segment or FLAGS.words or FLAGS.text
    if FLAGS.words:
        *inputs, note, ends = text.read_words(path, run.encoding)
    elif path:
        *inputs, note = text.read(path, run.encoding)
    else:
        *inputs, note = text.split(run, FLAGS.split)
    _say(*filter(None, [note]))
    if FLAGS.segment:
        return text.segment(run, inputs, FLAGS.output or f"{path}.segments.jsonl", FLAGS.seed)
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
        path = FLAGS.output or f"{FLAGS.segment.rstrip('/')}.segments.jsonl"
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
    path = _output("curves.png")
    runs = {
        epath.Path(workdir).name: metrics.read_metrics(epath.Path(workdir) / "metrics.jsonl")
        for workdir in filter(None, (FLAGS.workdir, FLAGS.control))
    }
    if FLAGS.control:
        plots.compare_curves(path, runs, FLAGS.keys)
    else:
        plots.training_curves(path, *runs.values())
    _say(f"figure: {path}")


def _output(name):
    """--output, or a file in the run's folder, or here where there is no run."""
    return FLAGS.output or (name if FLAGS.weights else str(epath.Path(FLAGS.workdir) / name))


def _say(*lines, file=None):
    for line in lines:
        print(line, flush=True, file=file)


if __name__ == "__main__":
    cli.run(main)
