"""What train steps are measured on: sizes, synthetic batches, the library's models, padding."""

import functools
from typing import NamedTuple

import numpy as np

from hmrnn_jax import defaults
from hmrnn_jax.batches.sequences import BucketStream
from hmrnn_jax.batches.text import Stream
from hmrnn_jax.datasets import iam_ondb
from hmrnn_jax.datasets.sequences import Scale, Sequences
from hmrnn_jax.errors import UserError
from hmrnn_jax.models import mixture
from hmrnn_jax.models.language import language_model
from hmrnn_jax.tasks import language, sequences

# Offsets of a pen and whether it is lifted, as if standardised.
PEN = Scale(("dx", "dy"), "pen_up", (0.0, 0.0), (1.0, 1.0))
# Of IAM-OnDB's training lines: number, and mean and deviation of their points.
LINES, POINTS = 5364, (615, 184)


class Size(NamedTuple):
    """A problem. `most_rounds` keeps the large ones bearable.

    With `components` it is one of pen strokes, whose density is a mixture of so many Gaussians;
    they have neither embedding nor vocabulary. With `rates` each layer's detectors fire at random,
    at these rates, nested, and nothing is learned.
    """

    sizes: tuple[int, ...]
    embedding: int
    output: int
    vocabulary: int
    batch: int
    window: int
    most_rounds: int = 100
    cell: str = "hm_lstm"
    components: int = 0
    rates: tuple[float, ...] = ()

    @property
    def kind(self):
        """What candidates there are for."""
        return "taught" if self.rates else "strokes" if self.components else self.cell

    @property
    def unit(self):
        """What a window has `window` of in each row."""
        if self.components:
            return "steps"
        return "words" if self.cell == "on_lstm" else "characters"

    @property
    def units(self):
        """Characters, or steps, of one train step."""
        return self.batch * self.window

    @property
    def outputs(self):
        """Width of the last affine layer."""
        if self.components:
            return mixture.width(self.components, len(PEN.columns), event=True)
        return self.vocabulary

    def describe(self):
        """All of it, in a line."""
        layers = " + ".join(map(str, self.sizes))
        read = f"embedding {self.embedding}, output {self.output}, vocabulary {self.vocabulary}"
        if self.components:
            read = f"3 inputs, output {self.output}, {self.components} Gaussians"
        rates = "".join(f", z{n} fires at {rate:g}" for n, rate in enumerate(self.rates, 1))
        return f"layers {layers}, {read}, batch {self.batch}, window {self.window}{rates}"


SIZES = {
    "tiny": Size((128,) * 3, 128, 128, 50, batch=16, window=50),
    "ptb": Size((512,) * 3, 128, 512, 50, batch=64, window=100),
    # As where detectors have been taught to end words, and phrases of some four.
    "ptb_taught": Size((512,) * 3, 128, 512, 50, batch=64, window=100, rates=(0.18, 0.04)),
    "mid_taught": Size((256,) * 3, 128, 256, 50, batch=32, window=100, rates=(0.18, 0.04)),
    "tiny_taught": Size((128,) * 3, 128, 128, 50, batch=16, window=50, rates=(0.18, 0.04)),
    "text8": Size((1024,) * 3, 128, 2048, 27, batch=128, window=100, most_rounds=3),
    # The ON-LSTM's model of Penn Treebank words, dropout off, its decoder tied.
    "on_lstm": Size(
        (1150, 1150, 400), 400, 0, 10_000, batch=20, window=70, most_rounds=7, cell="on_lstm"
    ),
    "nested_lstm": Size((600,), 600, 0, 50, batch=64, window=100, cell="nested_lstm"),
    # Handwriting with the default settings.
    "strokes": Size((400,) * 3, 0, 400, 0, batch=32, window=100, components=20),
}


def stream(size, windows):
    """Random text or strokes, `windows` windows for each row, the same at every run."""
    random = np.random.default_rng(0)
    if not size.components:
        ids = random.integers(size.vocabulary, size=windows * size.units + 1, dtype=np.int32)
        return Stream(ids, size.batch, size.window)
    lengths = np.full(size.batch, windows * size.window + 1)
    return BucketStream(_strokes(random, lengths), size.batch, 0, window=size.window)


def _strokes(random, lengths):
    """Lines of so many points, of noise; a stroke has 20 on the average."""
    points = int(lengths.sum())
    values = random.normal(size=(points, len(PEN.columns))).astype(np.float32)
    pen_up = (random.random(points) < 1 / 20).astype(np.uint8)
    return Sequences(values, pen_up, lengths, ("",) * len(lengths))


def one_batch(size):
    """The window that every candidate reads again and again, in the middle of a stream."""
    return stream(size, 2)(1)


def network(size, cell, layer_norm, policy):
    """`(model, init_params, loss)` of the library, made as training makes them.

    Args:
      cell: instead of the size's own. layer_norm: for the cells that have it.
      policy: fields of `config.model` on how the recurrence runs.
    """
    config = (defaults.strokes() if size.components else defaults.text()).unlock().model
    config.update(cell=cell, sizes=size.sizes, output=size.output)
    config.update(policy)
    config.on_lstm.chunk = 10
    if "layer_norm" in config[cell]:
        config[cell].layer_norm = layer_norm
    if size.rates and cell == "hm_lstm":
        config[cell].update(boundary="sample", nested=True)
    if size.components:
        config.components = size.components
        model = sequences.model_of(config, PEN)
        loss = functools.partial(sequences.loss, model)
        return model, functools.partial(sequences.init_params, model), loss
    config.embedding = size.embedding
    config.head = "gated" if size.cell == "hm_lstm" else "tied"
    model = language_model(config, size.vocabulary)
    loss = functools.partial(language.loss, model, language.Penalties())
    return model, functools.partial(language.init_params, model), loss


def at_rates(params, rates):
    """Parameters of an HM-LSTM in which detectors that sample fire at these `rates`, nested.

    Args:
      params: of a model of one such cell, under slope 1. rates: lowest layer first.
    """
    (cell,) = (n for n, v in params.items() if isinstance(v, dict) and "layer1" in v)
    layers, below = dict(params[cell]), 1.0
    for number, rate in enumerate(rates, 1):
        detector = {name: 0 * row for name, row in layers[f"layer{number}"]["detector"].items()}
        detector["b"] += 2 * rate / below - 1  # the hard sigmoid of which is the probability
        layers[f"layer{number}"] = layers[f"layer{number}"] | {"detector": detector}
        below = rate
    return params | {cell: layers}


def padding(size):
    """The share of an epoch's steps, 0 to 1, that is padding, and of which lines.

    In the default buckets, as training tells it. Of IAM-OnDB's training lines where they are
    found, else of synthetic ones.
    """
    try:
        corpus = iam_ondb.load()
        lines, name = corpus.splits["train"], corpus.name
    except UserError:
        random = np.random.default_rng(0)
        lengths = random.normal(*POINTS, LINES).clip(50, 2000).astype(np.int64)
        lines, name = (
            _strokes(random, lengths),
            "synthetic: normal lengths, {} +- {}".format(*POINTS),
        )
    config = defaults.strokes()
    share = BucketStream(
        lines, size.batch, 0, None, size.window, config.buckets, config.longest
    ).padding
    return share, f"{len(lines):,} lines, {name}"
