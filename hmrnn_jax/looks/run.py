"""A trained run, taken out of its folder."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from hmrnn_jax import models, official, parallel, tasks
from hmrnn_jax.checkpoint import Checkpoints
from hmrnn_jax.errors import UserError
from hmrnn_jax.tasks import language
from hmrnn_jax.workdir import load_run


@dataclasses.dataclass(frozen=True)
class Run:
    """A configuration with its trained parameters.

    Attributes:
      name: what headings and messages call it.
      config: the run's configuration. encoding: its `Vocabulary` or `Scale`, or None.
      model, params, slope: the network, its parameters on the mesh, its detectors' slope.
      mesh: the devices. notes: lines for the log.
    """

    name: str
    config: Any
    encoding: Any
    model: Any
    params: Any
    slope: float
    mesh: Any
    notes: tuple = ()

    @functools.cached_property
    def plain(self):
        """The parameters on no device in particular."""
        return jax.device_get(self.params)


def restore(workdir, mesh) -> Run:
    """The run of a folder, with the parameters that validated best.

    Raises:
      UserError: the folder is no run, or has no checkpoint that can be read.
    """
    config, encoding = load_run(workdir)
    task = tasks.module(config)
    model = task.model_of(config.model, encoding).on(mesh)
    shapes = jax.eval_shape(functools.partial(task.init_params, model), jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    target = {"params": zeros, "slope": np.float32(0)}
    with Checkpoints(workdir, read_only=True) as checkpoints:
        best = checkpoints.restore_best(parallel.replicate(target, mesh))
    notes = [*checkpoints.notes, f"{workdir}: {best.origin}"]
    name = str(workdir).rstrip("/").rpartition("/")[2]
    slope, params = float(best.tree["slope"]), best.tree["params"]
    return Run(name, config, encoding, model, params, slope, mesh, tuple(notes))


def untrained(run, seeds=range(5)):
    """Yields the run as it was before its first update, had its seed been each of `seeds`.

    The control of whatever is said of trained boundaries: detectors with random weights
    follow their input too.
    """
    task = tasks.module(run.config)
    init = jax.jit(functools.partial(task.init_params, run.model))
    for seed in seeds:
        key, _ = jax.random.split(jax.random.key(seed))  # as `train_state.create` does
        yield dataclasses.replace(run, params=init(key), slope=run.config.slope.start)


def from_official(config, weights, mesh) -> Run:
    """A model of the ON-LSTM authors' weights, a `.pt` or `.npz` file, under our `config`."""
    if config is None:
        raise UserError("--weights needs --config, for example configs/on_lstm_ptb_word.py.")
    corpus = language.corpus(config)
    model = models.language_model(config.model, corpus.vocabulary.size).on(mesh)
    params = official.to_ours(official.read(weights), model, official.word_order(corpus))
    params = parallel.replicate(params, mesh)
    return Run(str(weights), config, corpus.vocabulary, model, params, 1.0, mesh)


def export(run, path):
    """Writes a run's weights in the ON-LSTM authors' form; returns a line for people."""
    words = official.word_order(language.corpus(run.config))
    official.write(path, official.to_official(run.plain, run.model, words))
    return f"official weights: {path}"
