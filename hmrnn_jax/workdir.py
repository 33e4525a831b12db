"""What a run keeps beside its checkpoints: its configuration, vocabulary and metrics."""

import json
import os

import jax
from etils import epath
from ml_collections import ConfigDict
from tensorboardX import SummaryWriter

from hmrnn_jax.data import Vocabulary
from hmrnn_jax.datasets.sequences import Scale
from hmrnn_jax.errors import UserError

# A run cannot go on when one of these changes: they decide the parameters' shapes, the
# carried states' shapes, the optimiser's parts, or what a step number means in the data.
FIXED = (
    "task", "seed", "model.cell", "model.sizes", "model.embedding", "model.output", "model.head",
    "model.hidden", "model.hm_lstm.layer_norm", "model.hm_lstm.top_down", "model.lstm.layer_norm",
    "model.lstm.recurrent_bias", "model.nested_lstm.depth", "model.on_lstm.chunk", "data.name",
    "data.path", "data.unit", "data.longest", "data.split", "data.seed", "data.clip",
    "data.columns", "data.event", "model.components", "model.patch", "buckets", "longest", "batch",
    "window", "window_random", "window_quantum", "optimizer", "weight_decay", "detector_rate",
    "schedule", "nonmono", "data.header",
)  # fmt: skip


def write_text(path, text):
    """Writes a file whole or not at all."""
    path = epath.Path(path)
    temporary = path.parent / f"{path.name}.writing"
    temporary.write_text(text)
    temporary.replace(path)


# What the numbers of a run's data mean: one of these, or nothing.
ENCODINGS = {"vocabulary.json": Vocabulary, "scale.json": Scale}
NO_ENCODING = ("images",)  # tasks whose data always mean the same


def open_run(workdir, config, encoding):
    """Starts a run's folder, or checks that `config` can go on with the one that is there.

    Returns the differences from the saved configuration, as lines for the log.

    Raises:
      UserError: the folder holds a run of another shape or encoding; what differs is named.
    """
    folder = epath.Path(workdir)
    ours = _flatten(config.to_dict())
    if not (folder / "config.json").exists():
        if jax.process_index() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            for name, kind in ENCODINGS.items():
                if isinstance(encoding, kind):
                    write_text(folder / name, encoding.to_json())
            write_text(folder / "config.json", _json(config.to_dict()))
        return []
    saved_config, saved_encoding = load_run(workdir)
    saved = _flatten(saved_config.to_dict())
    changed = [key for key in sorted(ours.keys() | saved.keys()) if ours.get(key) != saved.get(key)]
    lines = [f"{key}: {saved.get(key)!r} in the run, {ours.get(key)!r} now" for key in changed]
    # What an older run does not say cannot be another choice than today's.
    told = [key in FIXED and key in saved for key in changed]
    fixed = [line for line, counts in zip(lines, told, strict=True) if counts]
    if saved_encoding != encoding:
        old, new = (e.describe() if e else "none" for e in (saved_encoding, encoding))
        fixed.append(f"encoding: {old} in the run, {new} now")
    if fixed:
        raise UserError(
            f"{workdir} holds a run that this configuration cannot go on with"
            f" ({'; '.join(fixed)}). Choose another --workdir."
        )
    return lines


def load_run(workdir):
    """`(config, encoding)` of a run; the encoding is None where the task has none.

    Raises:
      UserError: the folder is not a run's.
    """
    folder = epath.Path(workdir)
    try:
        config = ConfigDict(json.loads((folder / "config.json").read_text()))
        for name, kind in ENCODINGS.items():
            if (folder / name).exists():
                return config, kind.from_json((folder / name).read_text())
        if config.get("task") in NO_ENCODING:
            return config, None
        raise UserError(f"{workdir} has lost its {' or '.join(ENCODINGS)}; train it anew.")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{workdir} is not a run: it has no config.json; give the --workdir of a train.py run."
        ) from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f"{workdir} holds a configuration or an encoding that cannot be read: {error}."
        ) from None


def _json(tree):
    return json.dumps(tree, indent=2, sort_keys=True) + "\n"


def _flatten(tree, prefix=""):
    """`{'a.b': value}`; lists and tuples compare alike, as JSON knows only lists."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


class Logger:
    """Metrics of a run: a line in `metrics.jsonl` and TensorBoard files, by process 0 only.

    Args:
      workdir: the run's folder.
      step: the step training goes on from; later lines, of a run that was cut off after
        its last checkpoint, are dropped, so that no step is told twice.
    """

    def __init__(self, workdir, step=0):
        self.active = jax.process_index() == 0
        if not self.active:
            return
        self._path = epath.Path(workdir) / "metrics.jsonl"
        self._lines = []
        if self._path.exists():
            self._lines = [
                line for line in self._path.read_text().splitlines() if _up_to(line, step)
            ]
        self._rewrite()
        self._local = not str(workdir).startswith("gs://")
        self._board = SummaryWriter(str(workdir), purge_step=step + 1) if self._local else None

    def _rewrite(self):
        write_text(self._path, "".join(line + "\n" for line in self._lines))

    def log(self, step, metrics):
        """Writes `{name: number}` of a step."""
        if not self.active:
            return
        line = json.dumps({"step": step} | metrics)
        self._lines.append(line)
        if self._local:
            with open(os.fspath(self._path), "a") as file:
                file.write(line + "\n")
        else:  # buckets cannot append
            self._rewrite()
        if self._board:
            for name, value in metrics.items():
                self._board.add_scalar(name, value, step)

    def close(self):
        """Flushes what is still in memory."""
        if self.active and self._board:
            self._board.close()


def _up_to(line, step):
    try:
        return json.loads(line)["step"] <= step
    except (json.JSONDecodeError, KeyError, TypeError):
        return False
