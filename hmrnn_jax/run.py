"""A trained run, taken out of its folder."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from etils import epath

from hmrnn_jax import parallel, tasks
from hmrnn_jax.errors import UserError
from hmrnn_jax.inference.stream import Stream
from hmrnn_jax.models import ordered_neurons
from hmrnn_jax.models.language import language_model
from hmrnn_jax.tasks import language
from hmrnn_jax.training import settings
from hmrnn_jax.training.checkpoint import Checkpoints
from hmrnn_jax.training.workdir import load_run

CELLS = {"hm_lstm": "HM-LSTM", "lstm": "LSTM", "nested_lstm": "Nested LSTM", "on_lstm": "ON-LSTM"}
_MOST_TOLD = 3  # settings that tell two runs of one title apart


@dataclasses.dataclass(frozen=True)
class Run:
    """A configuration with its trained parameters.

    Attributes:
      name: what messages call it: its folder's.
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

    @property
    def title(self):
        """What headings call it, see `title`."""
        return title(self.config)


def title(config):
    """A run's model and data in words: "HM-LSTM 3 x 512 on ptb_char"."""
    sizes, data = tuple(config.model.sizes), config.data
    alike = len(sizes) > 1 and len(set(sizes)) == 1
    shape = f"{len(sizes)} x {sizes[0]}" if alike else " + ".join(map(str, sizes))
    name = data.get("name", "") or config.task
    if name in ("text", "signals"):  # somebody's own
        name = epath.Path(data.path).name
    return f"{CELLS[config.model.cell]} {shape} on {name}"


def titles(configs):
    """`{folder: title}` of several runs, `{folder: config}`, no two alike.

    Where model and data are the same, the settings that differ follow; the folder's name, if
    these are none or many.
    """
    found = {folder: title(config) for folder, config in configs.items()}
    fields = {folder: settings.flat(config.to_dict()) for folder, config in configs.items()}
    for one in set(found.values()):
        same = [folder for folder in found if found[folder] == one]
        names = {name for folder in same for name in fields[folder]}
        differ = [n for n in sorted(names) if len({str(fields[f].get(n)) for f in same}) > 1]
        for folder in same if len(same) > 1 else ():
            told = ", ".join(f"{n.rpartition('.')[2]} {fields[folder].get(n)}" for n in differ)
            few = 0 < len(differ) <= _MOST_TOLD
            found[folder] = f"{one}, {told if few else epath.Path(folder).name}"
    return found


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
        key, _ = jax.random.split(jax.random.key(seed))  # as `training.state.create` does
        yield dataclasses.replace(run, params=init(key), slope=run.config.slope.start)


def from_official(config, weights, mesh) -> Run:
    """A model of the ON-LSTM authors' weights, a `.pt` or `.npz` file, under our `config`."""
    if config is None:
        raise UserError("--weights needs --config, for example configs/on_lstm_ptb_word.py.")
    corpus = language.corpus(config)
    model = language_model(config.model, corpus.vocabulary.size).on(mesh)
    params = ordered_neurons.to_ours(
        ordered_neurons.read(weights), model, ordered_neurons.word_order(corpus)
    )
    params = parallel.replicate(params, mesh)
    return Run(str(weights), config, corpus.vocabulary, model, params, 1.0, mesh)


def export(run, path):
    """Writes a run's weights in the ON-LSTM authors' form; returns a line for people."""
    words = ordered_neurons.word_order(language.corpus(run.config))
    ordered_neurons.write(path, ordered_neurons.to_official(run.plain, run.model, words))
    return f"official weights: {path}"


def open_stream(workdir, seed=0):
    """A stream of the best parameters of a trained run, see `restore`."""
    return Stream.of(restore(workdir, parallel.make_mesh(jax.local_devices()[:1])), seed)


def restore_stream(path, workdir):
    """The stream of a run as it stood when `save` wrote `path`; raises as `load`."""
    stream = open_stream(workdir)
    stream.load(path)
    return stream
