"""Small models of real-valued sequences, their parameters, data and configurations."""

import functools

import jax
import numpy as np

from hmrnn_jax import defaults, parallel
from hmrnn_jax.cells import hm_lstm, lstm
from hmrnn_jax.datasets import synthetic
from hmrnn_jax.datasets.sequences import Sequences
from hmrnn_jax.models.density import StrokeModel
from hmrnn_jax.tasks import sequences

COMPONENTS = 3
CELLS = {
    "hm_lstm": (hm_lstm.Config(3, (6, 5, 4)),),
    "lstm": (lstm.Config(3, 6), lstm.Config(6, 5)),
}


@functools.cache
def make(cell, head="gated"):
    """A small model of two values and an event, and parameters for it."""
    model = StrokeModel(2, True, CELLS[cell], 7, head, COMPONENTS)
    return model, draw(model)


def draw(model, seed=0, scale=0.5):
    """Normal parameters of a model's shapes; gains about 1."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(functools.partial(sequences.init_params, model), jax.random.key(0))

    def leaf(path, v):
        return (scale * rng.normal(size=v.shape) + (path[-1].key == "gain")).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def data(lengths=(5, 9, 14, 2, 30), seed=0):
    rng = np.random.default_rng(seed)
    steps = sum(lengths)
    return Sequences(
        values=rng.normal(size=(steps, 2)).astype(np.float32),
        events=rng.integers(0, 2, steps).astype(np.uint8),
        lengths=np.array(lengths, np.int64),
        names=tuple(f"sequence {i}" for i in range(len(lengths))),
    )


def mesh_of(devices=1):
    return parallel.make_mesh(jax.devices()[:devices])


@functools.partial(jax.jit, static_argnums=0)
def apply(model, params, steps):
    """The model's output after each of `steps [T, B, C]`."""
    return model.apply({"params": params}, steps, model.initial_carry(steps.shape[1]))


def shrink_oscillators(monkeypatch):
    """The made-up data that configurations name, in a small size."""
    small = functools.partial(synthetic.oscillators, sequences=(16, 3, 3), steps=61)
    monkeypatch.setattr(synthetic, "oscillators", small)


def config_of(**changes):
    config = defaults.strokes()
    config.data.name = "oscillators"
    config.model.sizes, config.model.head, config.model.components = (12, 12), "plain", 4
    config.model.hm_lstm.layer_norm = config.model.lstm.layer_norm = "none"
    config.batch, config.window, config.learning_rate = 16, 20, 0.02
    config.evaluation.batch, config.evaluation.window = 4, 60
    config.update_from_flattened_dict(changes)
    return config
