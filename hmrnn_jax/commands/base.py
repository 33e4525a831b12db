"""What the sub-commands share: flags, how a run is opened, where a figure goes."""

import os

from hmrnn_jax import files, parallel, pretrained
from hmrnn_jax.datasets.splits import SPLITS
from hmrnn_jax.errors import UserError
from hmrnn_jax.opening import describe, from_official, restore
from hmrnn_jax.training import exported, workdir
from hmrnn_jax.training.fields import Choice, Switch, Text, Whole
from hmrnn_jax.training.settings import SEEDS

LANGUAGE, SEQUENCES = "language", "strokes"  # tasks


def file(meaning):
    """A flag for the name of a file or folder."""
    return Text(meaning, empty=False)


RUN = {"workdir": ("runs/quickstart", file("Folder of the run, or the file of hmrnn export."))}
PRETRAINED = {
    "pretrained": (False, Switch("Takes the small model that comes with the program, no run."))
}
SPLIT = {"split": ("test", Choice("Split of the run's own data.", SPLITS))}
TEXT = {"text": (None, file("A UTF-8 file that is read instead of a split."))}
SEED = {"seed": (0, Whole("Of whatever is drawn at random.", 0, SEEDS))}
OFFICIAL = {
    "config": (None, file("With --weights: the model's configuration, a name or FILE.py.")),
    "weights": (None, file("The ON-LSTM authors' weights, .pt or .npz, instead of a run.")),
}


def output(meaning):
    """The flag for the file that is written."""
    return {"output": (None, file(meaning))}


def say(*lines, to=None):
    """Prints lines at once, on stdout if not `to` another file."""
    for line in lines:
        print(line, flush=True, file=to)


def source(given):
    """What holds the weights: the run's folder or file, the authors' file, or our own model.

    Raises:
      UserError: more than one is asked for.
    """
    at_most_one(given, "pretrained", "workdir", "weights")
    if getattr(given, "pretrained", False):
        return pretrained.path(pretrained.QUICKSTART)
    return getattr(given, "weights", None) or given.workdir


def open_run(given, name, tasks=(), only=(), notes=None):
    """The run of --workdir or --pretrained, or the model of --weights, once its task fits.

    Args:
      name: of the sub-command. tasks: those that it is for; all if there are none.
      only: `{flag: tasks}` of flags that are not for all of them.
      notes: the file that the run's notes go to, stdout by default.

    Raises:
      UserError: it is a run of another task, or cannot be opened.
    """
    weights = getattr(given, "weights", None)
    if getattr(given, "config", None) and not weights:
        raise UserError("--config goes with --weights; a run has a configuration of its own.")
    where = source(given)
    config = given.config if weights else describe(where)[0]
    asked = {f"hmrnn {name}": tasks} | {
        f"--{flag}": for_it for flag, for_it in dict(only).items() if flag in given.named
    }
    for what, allowed in asked.items():
        if config and allowed and config.task not in allowed:
            raise UserError(
                f"{what} is for runs of the task {' or '.join(allowed)}; {where} is one of"
                f" {config.task}."
            )
    data, output = config and config.data.get("path"), getattr(given, "output", None)
    if data and output and _is_read(data, output):
        raise UserError(f"{output} is of the data of {where}: give another --output.")
    mesh = parallel.make_mesh()
    run = from_official(config, weights, mesh) if weights else restore(where, mesh)
    say(*run.notes, to=notes)
    return run


def at_most_one(given, *names):
    """Raises `UserError` if the command line has more than one of these flags."""
    asked = [name for name in names if name in given.named]
    if len(asked) > 1:
        raise UserError(f"--{asked[0]} and --{asked[1]} are asked at once; give one of them.")


def with_control(run, given):
    """The run, and that of --control if there is one, which is of the same task."""
    if not given.control:
        return [run]
    control = restore(given.control, run.mesh)
    say(*control.notes)
    if control.config.task != run.config.task:
        raise UserError(
            f"{given.control} is a run of the task {control.config.task}, {source(given)} of"
            f" {run.config.task}; they cannot be compared."
        )
    return [run, control]


WRITTEN = (".png", ".svg", ".html", ".jsonl", ".safetensors")  # ends of what commands write


def place(given, name, folder=None):
    """--output, or the file `name` in a folder: the run's, or here where the run has none.

    Raises:
      UserError: it could not be written, or the folder is no run's; that is known before the work
        is done.
    """
    if folder is None and not given.output:
        folder = source(given)
        if getattr(given, "weights", None) or exported.is_file(folder):
            folder = ""
        else:
            describe(folder)
    path = given.output or os.path.join(folder, name)
    for flag in ("text", "words", "items", "treebank", "weights"):
        if (read := getattr(given, flag, None)) and _is_read(read, path):
            raise UserError(f"{path} is what --{flag} reads: give another --output.")
    for run in filter(None, (source(given), getattr(given, "control", None))):
        own = workdir.written(run) if os.path.isdir(run) else [run]
        if any(files.holds(one, path) for one in own):
            raise UserError(f"{path} is of the run {run}: give another --output.")
    files.check_writable(path)
    return path


def _is_read(source, path):
    """Whether a path is that of a file that is read, or of one in a folder, in which figures and
    pages may lie."""
    if os.path.realpath(path) != os.path.realpath(source):
        if not os.path.exists(path) or os.path.splitext(path)[1] in WRITTEN:
            return False
    return files.holds(source, path)


def shown(report):
    """Prints an evaluation's report; returns its data."""
    say(report)
    return report.data
