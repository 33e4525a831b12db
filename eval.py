"""Looks at a trained run: scores, boundaries, segments, samples.

python eval.py --workdir=runs/quickstart                      # bits per character of the test split
python eval.py --workdir=runs/quickstart --text=my.txt        # of any text
python eval.py --workdir=runs/quickstart --boundaries         # figure, text view, F1 against spaces
python eval.py --workdir=runs/quickstart --segment=my.txt     # segments of each layer, JSON lines
python eval.py --workdir=runs/quickstart --curves             # curves; with --control=RUN of both
python eval.py --workdir=runs/quickstart --sample=500 --prompt="The " --temperature=0.7
python eval.py --workdir=runs/on-ptb --trees=wsj.zip --control=runs/awd-ptb   # parsing F1
python eval.py --workdir=runs/on-ptb --parse=sentences.txt    # trees of plain sentences
python eval.py --workdir=runs/on-ptb --syneval                # grammatical or not, by construction
python eval.py --workdir=runs/logic-on --control=runs/logic-lstm     # accuracy by length, figure
python eval.py --workdir=runs/on-ptb --export=on.pt           # the ON-LSTM authors' format, and
python eval.py --config=configs/on_lstm_ptb_word.py --weights=on.pt           # from it
"""

import functools
import itertools
import json

import jax
import numpy as np
from absl import flags
from etils import epath
from ml_collections import config_flags

from hmrnn_jax import (
    cli,
    datasets,
    evaluate,
    language,
    losses,
    models,
    official,
    parallel,
    report,
    syntax,
    tasks,
)
from hmrnn_jax.analysis import boundaries, parsing, plots, syneval
from hmrnn_jax.checkpoint import Checkpoints
from hmrnn_jax.errors import UserError
from hmrnn_jax.tasks import logic
from hmrnn_jax.workdir import load_run

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
flags.DEFINE_string("segment", None, "A UTF-8 file to cut in segments.")
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
flags.DEFINE_integer("sample", None, "Symbols to generate.")
flags.DEFINE_string("prompt", "\n", "Text that --sample continues.")
flags.DEFINE_float("temperature", 1.0, "Temperature of --sample; 0 takes the likeliest symbol.")
flags.DEFINE_integer("seed", 0, "Seed of --sample and of sampling detectors.")
flags.DEFINE_string(
    "output", None, "File that --boundaries, --parse (PNG) or --segment (JSON lines) writes."
)


def main(argv):
    if len(argv) > 1:
        raise UserError(f"{argv[1]!r} is not a flag; did you mean --{argv[1]}?")
    if FLAGS.curves:
        return _curves()
    bank = FLAGS.trees and syntax.read_treebank(FLAGS.trees, FLAGS.sections, FLAGS.longest)
    words = FLAGS.parse and syntax.read_sentences(FLAGS.parse)
    wants_pairs = FLAGS.syneval or FLAGS.items
    items = wants_pairs and syneval.read_items(FLAGS.items or syneval.find())
    mesh = parallel.make_mesh()
    if FLAGS.weights:
        config, vocabulary, model, params, slope = _official()
    else:
        config, vocabulary = load_run(FLAGS.workdir)
        if config.task != "language":
            return _evaluate_task(mesh)
        model = models.language_model(config.model, vocabulary.size)
        init = functools.partial(language.init_params, model)
        params, slope = _restore(FLAGS.workdir, init, mesh)
    inputs = _read(FLAGS.segment or FLAGS.text, vocabulary)
    plain = jax.device_get(params)
    trained = syntax.Trained(model, plain, vocabulary, slope)
    if FLAGS.segment:
        _segment(model, plain, slope, inputs)
    elif FLAGS.boundaries:
        _boundaries(model, plain, slope, inputs or _split(config, vocabulary))
    elif FLAGS.sample is not None:
        _sample(model, plain, slope, vocabulary)
    elif bank:
        _trees(trained, bank)
    elif words:
        _parse(trained, words)
    elif items:
        _syneval(trained, items)
    elif FLAGS.export:
        corpus = _corpus(config)
        official.write(
            FLAGS.export, official.to_official(plain, model, official.word_order(corpus))
        )
        print(f"official weights: {FLAGS.export}")
    else:
        name = FLAGS.text or FLAGS.split
        inputs = inputs or _split(config, vocabulary)
        _score(config, model, params, slope, mesh, name, inputs)


def _official():
    """What `main` needs, from --config and --weights instead of a run."""
    if FLAGS.config is None:
        raise UserError("--weights needs --config, for example configs/on_lstm_ptb_word.py.")
    corpus = _corpus(FLAGS.config)
    model = models.language_model(FLAGS.config.model, corpus.vocabulary.size)
    tensors = official.read(FLAGS.weights)
    params = official.to_ours(tensors, model, official.word_order(corpus))
    return FLAGS.config, corpus.vocabulary, model, params, 1.0


def _evaluate_task(mesh):
    """The score of a run that is no language model, and of --control beside it."""
    results = {}
    for workdir in filter(None, (FLAGS.workdir, FLAGS.control)):
        config, _ = load_run(workdir)
        task = tasks.make(config, mesh)
        params, slope = _restore(workdir, task.init_params, mesh)
        result = task.evaluate(params, FLAGS.split, slope)
        results[epath.Path(workdir).name] = result
        print(f"{FLAGS.split}: {task.headline(result)}")
    if FLAGS.split == "test":
        path = FLAGS.output or _beside("lengths.png")
        plots.length_curves(path, results, config.data.longest)
        print(f"{logic.table(results)}\nfigure: {path}")
    print(json.dumps({"split": FLAGS.split} | results))


def _read(path, vocabulary):
    """`(ids, symbols)` of a text file, or None; symbols as strings, the unknown ones included."""
    if path is None:
        return None
    try:
        raw = epath.Path(path).read_bytes()
        text = raw if vocabulary.unit == "bytes" else raw.decode("utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path} is not a file; give a UTF-8 text.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: byte {error.start} cannot be read.") from None
    ids, unknown = vocabulary.encode(text)
    if len(ids) < 2:
        raise UserError(f"{path} has {len(ids)} symbols; at least 2 are needed.")
    if unknown:
        print(
            f"{path}: {unknown} of {len(ids)} symbols were never seen in training, read as unknown"
        )
    return ids, text if vocabulary.unit == "characters" else _symbols(ids, vocabulary)


def _symbols(ids, vocabulary):
    """One string for each symbol; a byte as the code point of its number, a word with its space."""
    if vocabulary.unit == "bytes":
        return [chr(vocabulary.symbols[i]) for i in ids]
    if vocabulary.unit == "characters":
        return vocabulary.decode(ids)
    return [vocabulary.symbols[i] + " " for i in ids]


def _corpus(config):
    data = config.data
    return datasets.load(data.name, path=data.path or None, unit=data.unit)


def _split(config, vocabulary):
    corpus = _corpus(config)
    if corpus.vocabulary != vocabulary:
        raise UserError(
            f"The corpus {corpus.name} found here has another vocabulary than the run's; point"
            " HMRNN_DATA to the data it was trained on, or give --text."
        )
    ids = corpus.splits[FLAGS.split]
    return ids, _symbols(ids, vocabulary)


def _restore(workdir, init, mesh):
    target = {"params": init(jax.random.key(0)), "slope": np.float32(0)}
    with Checkpoints(workdir, read_only=True) as checkpoints:
        step, tree = checkpoints.restore_best(parallel.replicate(target, mesh))
        for note in checkpoints.notes:
            print(f"warning: {note}")
    print(f"{workdir}: parameters of update {step:,}")
    return tree["params"], float(tree["slope"])


def _score(config, model, params, slope, mesh, name, inputs):
    ids, _ = inputs
    evaluation = config.evaluation
    batch = FLAGS.batch or evaluation.batch
    warmup = evaluation.warmup if FLAGS.warmup is None else FLAGS.warmup
    if FLAGS.text and FLAGS.batch is None and len(ids) <= batch:
        batch = 1
    if batch == 1:
        mesh = parallel.make_mesh(jax.devices()[:1])
        params = jax.device_get(params)
    parallel.check_batch(batch, mesh)
    evaluator = evaluate.Evaluator(model, mesh, batch, evaluation.window, warmup)
    result = evaluator(params, ids, slope, FLAGS.seed)
    rows = f"{batch} rows, each after {warmup} symbols of its own past"
    print(f"state carried through {'the whole text' if batch == 1 else rows}")
    print(report.score_table(result))
    for warning in evaluate.collapsed(result):
        print(f"warning: {warning}")
    print(json.dumps({"split": name} | result))


def _look(model, params, slope, ids):
    z, norms = evaluate.look(model, params, ids, slope, FLAGS.seed)
    if not z:
        raise UserError("This run's cell has no boundary detectors; train with model.cell=hm_lstm.")
    return [(layer > 0.5).astype(np.int8) for layer in z], norms


def _boundaries(model, params, slope, inputs):
    ids, symbols = inputs
    scored = min(len(ids), FLAGS.score_length)
    z, norms = _look(model, params, slope, ids[:scored])
    shown = min(scored, FLAGS.length)
    title = f"{epath.Path(FLAGS.workdir).name}: {epath.Path(FLAGS.text or FLAGS.split).name}"
    path = FLAGS.output or _beside("boundaries.png")
    first = [layer[:shown] for layer in z]
    plots.boundary_figure(path, symbols[:shown], first, norms[:, :shown], title)
    print(boundaries.text_view(symbols[:shown], first))
    print(f"\nboundaries against spaces, {scored:,} symbols")
    print(boundaries.format_scores(boundaries.score_against_spaces(z, symbols[:scored])))
    print(f"figure: {path}")


def _segment(model, params, slope, inputs):
    ids, symbols = inputs
    z, _ = _look(model, params, slope, ids)
    path = FLAGS.output or f"{FLAGS.segment}.segments.jsonl"
    rows = itertools.chain.from_iterable(
        boundaries.segments(symbols, layer, number) for number, layer in enumerate(z, start=1)
    )
    count = boundaries.write_segments(path, rows)
    print(f"{count:,} segments of {len(z)} layers: {path}")


def _sample(model, params, slope, vocabulary):
    if FLAGS.sample < 1 or FLAGS.temperature < 0:
        raise UserError("--sample needs a positive number, --temperature one that is not negative.")
    prompt = FLAGS.prompt.encode() if vocabulary.unit == "bytes" else FLAGS.prompt
    ids, _ = vocabulary.encode(prompt)
    if not len(ids):
        raise UserError("--prompt is empty; give at least one symbol.")
    symbols, log_probabilities = evaluate.generate(
        model, params, ids, FLAGS.sample, FLAGS.temperature, FLAGS.seed, slope
    )
    print(FLAGS.prompt + vocabulary.decode(symbols))
    bits = -log_probabilities.mean() * losses.BITS
    print(f"\n{FLAGS.sample} symbols at {bits:.3f} bits each under the model itself")


def _trees(trained, bank):
    runs = {"": trained}
    if FLAGS.control:
        config, vocabulary = load_run(FLAGS.control)
        model = models.language_model(config.model, vocabulary.size)
        init = functools.partial(language.init_params, model)
        params, _ = _restore(FLAGS.control, init, parallel.make_mesh())
        control = syntax.Trained(model, jax.device_get(params), vocabulary)
        runs[f"control {config.model.cell}, "] = control
    print(bank.describe())
    rows = syntax.compare(bank, runs)
    print(parsing.format_table(rows))
    print(json.dumps({row["name"]: row for row in rows}))


def _parse(trained, words):
    path = FLAGS.output or _beside("tree.png")
    print(syntax.parse(trained, words, FLAGS.layer, FLAGS.biased, FLAGS.draw, path))
    print(f"figure: {path}")


def _syneval(trained, items):
    rows = syntax.pairs(trained, items, FLAGS.seed)
    print(syneval.format_table(syneval.pooled(rows)))
    print(json.dumps(rows))


def _curves():
    """The training curves of a run, and of --control over them."""
    path = FLAGS.output or _beside("curves.png")
    runs = {
        epath.Path(workdir).name: plots.read_metrics(epath.Path(workdir) / "metrics.jsonl")
        for workdir in filter(None, (FLAGS.workdir, FLAGS.control))
    }
    if FLAGS.control:
        plots.compare_curves(path, runs, FLAGS.keys)
    else:
        plots.training_curves(path, *runs.values())
    print(f"figure: {path}")


def _beside(name):
    """A file in the run's folder, or here where there is no run."""
    return name if FLAGS.weights else str(epath.Path(FLAGS.workdir) / name)


if __name__ == "__main__":
    cli.run(main)
