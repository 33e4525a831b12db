"""Where a trained run is opened: its folder, a file of `Run.export`, or authors' weights."""

import functools
from typing import Any

import jax
import numpy as np

from hmrnn_jax import files, parallel, pretrained, tasks
from hmrnn_jax.errors import UserError
from hmrnn_jax.models import ordered_neurons
from hmrnn_jax.models.language import language_model
from hmrnn_jax.run import Run
from hmrnn_jax.tasks import language
from hmrnn_jax.training import exported
from hmrnn_jax.training.checkpoint import Checkpoints
from hmrnn_jax.training.titles import title
from hmrnn_jax.training.workdir import load_data, load_run


def load(where: Any) -> Run:
    """A trained run on this machine's devices.

        load("runs/mine")
        load("mine.safetensors")
        load("quickstart")

    Args:
      where: folder of a run, or file of `Run.export`, local or in a bucket; or `quickstart`, the
        small model that comes with the program, unless a run of one's own is there.

    Raises:
      UserError: as `restore`.
    """
    if str(where) == pretrained.QUICKSTART and not (files.place(where) / "config.json").exists():
        where = pretrained.path(pretrained.QUICKSTART)
    return restore(where, parallel.make_mesh())


def describe(where):
    """`(config, encoding)` of a run's folder or exported file. Raises as `restore`."""
    return exported.read(where)[:2] if exported.is_file(where) else load_run(where)


def restore(where, mesh) -> Run:
    """The run of a folder or file on the devices of `mesh`, with the parameters that validated
    best.

    Raises:
      UserError: the folder is no run, or has no checkpoint that can be read; the file is none of
        `Run.export`, or is damaged.
    """
    name = str(where).rstrip("/").rpartition("/")[2]
    if exported.is_file(where):
        found = exported.read(where)
        model, shapes = _model(*found[:2])
        params = parallel.replicate(exported.tree(where, found, shapes), mesh)
        updates = found.card.get("updates", 0)
        origin = f"parameters of update {updates:,}" if isinstance(updates, int) else ""
        note = f"{where}: {origin}, stored in {found.dtype}"
        return Run(
            name.removesuffix(exported.SUFFIX), found.config, found.encoding, model, params,
            found.slope, mesh, (note,), origin, str(where), found.card, found.data,
        )  # fmt: skip
    config, encoding = load_run(where)
    model, shapes = _model(config, encoding)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    target = {"params": zeros, "slope": np.float32(0)}
    with Checkpoints(where, read_only=True) as checkpoints:
        best = checkpoints.restore_best(parallel.replicate(target, mesh))
    notes = [*checkpoints.notes, f"{where}: {best.origin}"]
    slope, params = float(best.tree["slope"]), best.tree["params"]
    card = {"title": title(config), "data": config.data.get("name", ""), "updates": best.step}
    return Run(
        name, config, encoding, model, params, slope, mesh, tuple(notes), best.origin,
        str(where), card, load_data(where),
    )  # fmt: skip


def _model(config, encoding):
    """A run's model, and the shapes of its parameters."""
    task = tasks.module(config)
    model = task.model_of(config.model, encoding)
    return model, jax.eval_shape(functools.partial(task.init_params, model), jax.random.key(0))


def from_official(config, weights, mesh) -> Run:
    """A model of the ON-LSTM authors' weights, a `.pt` or `.npz` file, under our `config`."""
    if config is None:
        raise UserError("--weights needs --config, for example configs/on_lstm_ptb_word.py.")
    if config.task != "language":
        raise UserError(
            f"--weights are a language model's, and --config is of the task {config.task}: give a"
            " config of words, for example configs/on_lstm_ptb_word.py."
        )
    corpus = language.corpus(config)
    model = language_model(config.model, corpus.vocabulary.size)
    params = ordered_neurons.to_ours(
        ordered_neurons.read(weights), model, ordered_neurons.word_order(corpus)
    )
    params = parallel.replicate(params, mesh)
    return Run(str(weights), config, corpus.vocabulary, model, params, 1.0, mesh)


def to_official(run, path):
    """Writes a run's weights in the ON-LSTM authors' form; returns a line for the log."""
    words = ordered_neurons.word_order(language.corpus_of(run))
    ordered_neurons.write(path, ordered_neurons.to_official(run.plain, run.model, words))
    return f"official weights: {path}"
