"""Looks at a trained run: scores, boundaries, segments, samples.

python eval.py --workdir=runs/quickstart                      # bits per character of the test split
python eval.py --workdir=runs/quickstart --text=my.txt        # of any text
python eval.py --workdir=runs/quickstart --boundaries         # figure, text view, F1 against spaces
python eval.py --workdir=runs/quickstart --segment=my.txt     # segments of each layer, JSON lines
python eval.py --workdir=runs/quickstart --sample=500 --prompt="The " --temperature=0.7
"""

import itertools
import json

import jax
import numpy as np
from absl import flags
from etils import epath

from hmrnn_jax import cli, datasets, evaluate, language, losses, models, parallel, report
from hmrnn_jax.analysis import boundaries, plots
from hmrnn_jax.checkpoint import Checkpoints
from hmrnn_jax.errors import UserError
from hmrnn_jax.workdir import load_run

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", "runs/quickstart", "Folder of the run.")
flags.DEFINE_enum("split", "test", ["train", "valid", "test"], "Split to score or to look at.")
flags.DEFINE_string("text", None, "A UTF-8 file to score or to look at instead of a split.")
flags.DEFINE_integer("batch", None, "Rows a split is divided in; 1 carries the state all through.")
flags.DEFINE_integer("warmup", None, "Symbols that each row reads, unscored, before its part.")
flags.DEFINE_boolean("boundaries", False, "Writes the boundary figure and view, and scores spaces.")
flags.DEFINE_integer("length", 270, "Symbols in the figure and view of --boundaries.")
flags.DEFINE_integer("score_length", 20_000, "Symbols that --boundaries scores against spaces.")
flags.DEFINE_string("segment", None, "A UTF-8 file to cut in segments.")
flags.DEFINE_integer("sample", None, "Symbols to generate.")
flags.DEFINE_string("prompt", "\n", "Text that --sample continues.")
flags.DEFINE_float("temperature", 1.0, "Temperature of --sample; 0 takes the likeliest symbol.")
flags.DEFINE_integer("seed", 0, "Seed of --sample and of sampling detectors.")
flags.DEFINE_string(
    "output", None, "File that --boundaries (PNG) or --segment (JSON lines) writes."
)


def main(argv):
    if len(argv) > 1:
        raise UserError(f"{argv[1]!r} is not a flag; did you mean --{argv[1]}?")
    config, vocabulary = load_run(FLAGS.workdir)
    inputs = _read(FLAGS.segment or FLAGS.text, vocabulary)
    mesh = parallel.make_mesh()
    model = models.language_model(config.model, vocabulary.size)
    params, slope = _restore(model, mesh)
    if FLAGS.segment:
        _segment(model, jax.device_get(params), slope, inputs)
    elif FLAGS.boundaries:
        inputs = inputs or _split(config, vocabulary)
        _boundaries(model, jax.device_get(params), slope, inputs)
    elif FLAGS.sample is not None:
        _sample(model, jax.device_get(params), slope, vocabulary)
    else:
        name = FLAGS.text or FLAGS.split
        _score(config, model, params, slope, mesh, name, inputs or _split(config, vocabulary))


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


def _split(config, vocabulary):
    data = config.data
    corpus = datasets.load(data.name, path=data.path or None, unit=data.unit)
    if corpus.vocabulary != vocabulary:
        raise UserError(
            f"The corpus {corpus.name} found here has another vocabulary than the run's; point"
            " HMRNN_DATA to the data it was trained on, or give --text."
        )
    ids = corpus.splits[FLAGS.split]
    return ids, _symbols(ids, vocabulary)


def _restore(model, mesh):
    params = language.init_params(model, jax.random.key(0))
    target = parallel.replicate({"params": params, "slope": np.float32(0)}, mesh)
    with Checkpoints(FLAGS.workdir, read_only=True) as checkpoints:
        step, tree = checkpoints.restore_best(target)
        for note in checkpoints.notes:
            print(f"warning: {note}")
    print(f"{FLAGS.workdir}: parameters of update {step:,}")
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
    path = FLAGS.output or str(epath.Path(FLAGS.workdir) / "boundaries.png")
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


if __name__ == "__main__":
    cli.run(main)
