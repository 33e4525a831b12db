"""What a run keeps beside its checkpoints and metrics: its configuration and encoding."""

import json
import operator

from etils import epath
from ml_collections import ConfigDict

from hmrnn_jax import defaults, files, parallel
from hmrnn_jax.datasets.sequences import Scale
from hmrnn_jax.datasets.splits import SPLITS
from hmrnn_jax.datasets.vocabulary import Vocabulary
from hmrnn_jax.errors import UserError
from hmrnn_jax.recurrence import execution
from hmrnn_jax.training import metrics_log, settings

CONFIG = "config.json"
DATA = "data.json"  # the fingerprint of a run's data, see `tasks`
SEGMENTS = "segments"  # in it, of the file that teaches, if one does: it may change
# What the numbers of a run's data mean: one of these, or nothing.
ENCODINGS = {"vocabulary.json": Vocabulary, "scale.json": Scale}
NO_ENCODING = ("images",)  # tasks whose data always mean the same

# The configuration of a task, for fields that a run is too old to have.
DEFAULTS = {
    "language": defaults.text,
    "logic": defaults.logic,
    "strokes": defaults.strokes,
    "images": defaults.images,
}
# What was before a field was there, where its default says otherwise.
EARLIER = {"logic": {"model": {"input_dropout": 0.0}}}


def open_run(workdir, config, encoding, data=None):
    """Starts a run's folder, or checks that `config` can go on with the one that is there.

    Called when all that can fail is built, so that a start that failed blocks nobody: what never
    came beyond its first state gives way to another configuration.

    Args:
      encoding: one of `ENCODINGS`, or None. data: the fingerprint of the run's data.

    Returns the differences from the saved configuration, as lines for the log.

    Raises:
      UserError: the folder holds a run of another shape, encoding or data, and what differs is
        named; or it has lost its configuration.
    """
    folder = files.place(workdir)
    done = _done(folder)
    if not done:
        _begin(folder, config, encoding, data)
        return []
    if not (folder / CONFIG).exists():
        raise UserError(
            f"{workdir} holds {done} of a run that has lost its config.json: bring that back,"
            " choose another --workdir, or give --fresh, which sets the old run aside."
        )
    saved_config, saved_encoding = load_run(workdir)
    ours, saved = _comparable(config), _comparable(saved_config)
    changed = [key for key in sorted(ours.keys() | saved.keys()) if ours.get(key) != saved.get(key)]
    lines = [f"{key}: {saved.get(key)!r} in the run, {ours.get(key)!r} now" for key in changed]
    kept = {name for name, field in settings.fields(config).items() if field.fixed}
    # Of another task's run the task says enough.
    fixed = [line for key, line in zip(changed, lines, strict=True) if key in kept and key in saved]
    if saved_encoding != encoding:
        old, new = (e.describe() if e else "none" for e in (saved_encoding, encoding))
        fixed.append(f"encoding: {old} in the run, {new} now")
    saved_data = load_data(workdir)
    if data and saved_data:
        fixed += _other_data(saved_data, data, config.task)
    if fixed:
        raise UserError(
            f"{workdir} holds a run that this configuration cannot go on with"
            f" ({'; '.join(fixed)}). Choose another --workdir, or give --fresh, which sets the old"
            " run aside."
        )
    if data and not saved_data:  # an older run
        files.write_text(folder / DATA, _json(data))
    elif data and SEGMENTS in data:
        taught = json.loads(files.read_text(folder / DATA)).get(SEGMENTS, data[SEGMENTS])
        if taught != data[SEGMENTS]:
            lines.append("what the file boundaries.segments holds")
    return lines


def _other_data(saved, data, task):
    """What differs between two fingerprints, a line a split."""
    kinds = {"language": ("text", "symbols"), "strokes": ("data", "steps")}
    what, unit = kinds.get(task, ("data", "examples"))
    lines = []
    for split in SPLITS:
        if saved[split] != data[split]:
            old, new = saved[split][0], data[split][0]
            others = " others" if old == new else ""
            lines.append(f"{split} {what}: {old:,} {unit} in the run, {new:,}{others} now")
    return lines


def shared(config):
    """The settings that all processes of a run have, as text; each may have files elsewhere."""
    places = ("data.path", "boundaries.segments")
    return _json({key: v for key, v in _comparable(config).items() if key not in places})


def rewrite(workdir, config):
    """Makes `config` that of a run which goes on with it: what later commands read."""
    files.write_text(files.place(workdir) / CONFIG, _json(config.to_dict()))


def settle_precision(config, workdir, device):
    """`(config, line for the log)`: a configuration whose `model.precision` is not `auto`.

    Where a run is in the folder (None: in no folder), `auto` is what that run has, so that it goes
    on as it began, on whatever machine; else what suits the device, which is then written in the
    run's configuration. So what is restored of a run always has the precision that it was trained
    in. The first process decides for all. Without `auto`, `config` itself and an empty line.
    """
    if config.model.precision != "auto":
        return config, ""
    config = config.copy_and_resolve_references()
    config.model.precision, why = parallel.from_first(_precision, workdir, device)
    return config, f"precision: {config.model.precision}, {why}"


def _precision(workdir, device):
    folder = workdir and epath.Path(workdir)
    if folder and (folder / CONFIG).exists() and _done(folder):
        return _load_config(folder / CONFIG).model.precision, "as the run in this folder has it"
    return execution.native_precision(device), f"which suits {device.device_kind}"


def begun(workdir):
    """Whether a folder holds a run that came beyond its beginning."""
    return bool(_done(files.place(workdir)))


def check_new(workdir):
    """Raises `UserError` if a run without checkpoints has come beyond its beginning."""
    if done := _done(epath.Path(workdir)):
        raise UserError(
            f"{workdir} holds {done}, but no state of training to go on from. Bring its checkpoints"
            " back, choose another --workdir, or give --fresh, which sets the old run aside."
        )


def written(workdir):
    """The files and folders that a run has written in its folder, those that there are."""
    folder = epath.Path(workdir)
    patterns = ("checkpoints", "events.out.tfevents.*", *ENCODINGS, CONFIG, DATA, "watch.html")
    found = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    return found + metrics_log.parts(folder / metrics_log.NAME)


def set_aside(workdir):
    """Moves what a run has written into a folder of its own beside; returns a line on it."""
    folder, found = epath.Path(workdir), written(workdir)
    if not found:
        return f"--fresh: {workdir} holds no run, nothing is set aside"
    number = 1
    while (aside := folder / f"set-aside-{number}").exists():
        number += 1
    try:
        for path in found:
            _move(path, aside / path.name)
    except OSError as error:
        raise UserError(
            f"{path} cannot be moved to {aside} ({error.strerror or error})."
        ) from error
    return f"--fresh: the old run is set aside in {aside}"


def _move(source, target):
    if "://" not in str(source):
        target.parent.mkdir(exist_ok=True)
        source.rename(target)
    elif source.is_dir():  # buckets have no folders that could be renamed
        for path in source.iterdir():
            _move(path, target / path.name)
        if source.exists():
            source.rmtree()
    else:
        source.copy(target)
        source.unlink()


def _done(folder):
    """What a folder holds of a run that came beyond its beginning, in words; '' if nothing."""
    # An earlier version moved aside what it could not read, which may be whole.
    found = sorted((folder / "checkpoints").glob("unreadable-*"))
    for name in ("latest", "best"):
        paths = sorted((folder / "checkpoints" / name).glob("*"))
        found += [path for path in paths if path.name.isdecimal() and int(path.name)]
    if found:
        return f"the checkpoint {found[-1].parent.name}/{found[-1].name}"
    last = metrics_log.last_step(folder)
    return f"metrics up to update {last:,}" if last else ""


def _begin(folder, config, encoding, data):
    """Writes what a run begins with; a first state that was saved already is another run's.

    Raises:
      UserError: a file that it would replace is no run's.
    """
    _check_own(folder)
    first = folder / "checkpoints/latest/0"
    if first.exists():
        first.rmtree()
    folder.mkdir(parents=True, exist_ok=True)
    written = {name: None for name in ENCODINGS} | {DATA: data and _json(data)}
    for name, kind in ENCODINGS.items():
        if isinstance(encoding, kind):
            written[name] = encoding.to_json()
    # The configuration last, which makes it a run's.
    for name, text in (written | {CONFIG: _json(config.to_dict())}).items():
        if text:
            files.write_text(folder / name, text)
        else:
            (folder / name).unlink(missing_ok=True)


def _check_own(folder):
    """Raises `UserError` unless what `_begin` replaces is of a run, or of a start cut short there,
    which has written files that can be read but no configuration yet."""
    readers = {CONFIG: config_of}
    if not (folder / CONFIG).exists():
        readers = {DATA: data_of} | {name: kind.from_json for name, kind in ENCODINGS.items()}
    for name, read in readers.items():
        try:
            if (folder / name).exists():
                read(files.read_text(folder / name))
        except (UserError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UserError(
                f"{folder / name} is no file of a run, and a run would replace it: choose another"
                " --workdir, or move it elsewhere."
            ) from None


def load_run(workdir):
    """`(config, encoding)` of a run; the encoding is None where the task has none.

    Fields that the run is too old to have get their defaults.

    Raises:
      UserError: the folder is not a run's, or its files are damaged.
    """
    folder = files.place(workdir)
    if not (folder / CONFIG).exists():
        raise UserError(
            f"{workdir} is not a run: it has no config.json; give the folder of a training."
        )
    config = _load_config(folder / CONFIG)
    for name, kind in ENCODINGS.items():
        if (folder / name).exists():
            text = files.read_text(folder / name)
            try:
                return config, kind.from_json(text)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise _damaged(folder / name, error) from None
    if config.task in NO_ENCODING:
        return config, None
    raise UserError(f"{workdir} has lost its {' or '.join(ENCODINGS)}: {_BRING_BACK}")


def data_of(text):
    """The fingerprint that a JSON text holds. Raises `ValueError` and the like if it is none."""
    found, data = json.loads(text), {}
    for split in SPLITS:
        size, checksum = found[split]
        data[split] = [int(size), int(checksum)]
    return data


def load_data(workdir):
    """The fingerprint of a run's data; None of an older run.

    Raises:
      UserError: it is damaged.
    """
    path = files.place(workdir) / DATA
    if not path.exists():
        return None
    try:
        return data_of(files.read_text(path))
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(path, error) from None


_BRING_BACK = "bring it back from a backup, or train anew in another folder."


def _damaged(path, error):
    return UserError(f"{path} is damaged ({error}): {_BRING_BACK}")


def _load_config(path):
    text = files.read_text(path)
    try:
        return config_of(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(path, error) from None


def config_of(text):
    """The configuration of a run's JSON; fields that it is too old to have are filled in.

    Raises:
      ValueError, TypeError, RecursionError: it is none.
    """
    saved = json.loads(text)
    if not isinstance(saved, dict) or saved.get("task") not in DEFAULTS:
        raise TypeError("it is not the configuration of a task")
    saved = _filled(saved, EARLIER.get(saved["task"], {}))
    config = ConfigDict(_filled(saved, DEFAULTS[saved["task"]]().to_dict()))
    given = settings.flat(config.to_dict())
    for name, field in settings.fields(config).items():
        if name in given and not field.holds(given[name]):
            raise ValueError(f"{name} is {given[name]!r}; it must be {field.allowed}")
    return config


def _filled(saved, default, prefix=""):
    """`saved` with what it lacks; raises TypeError for a value of another kind than the default."""
    for key, value in default.items():
        if key not in saved:
            saved[key] = value
        elif isinstance(value, dict) and isinstance(saved[key], dict):
            _filled(saved[key], value, f"{prefix}{key}.")
        elif not _alike(saved[key], value):
            raise TypeError(f"{prefix}{key} is {saved[key]!r}")
    return saved


def _alike(value, default):
    """Whether JSON gave a value of the default's kind."""
    kinds = {float: (int, float), tuple: list}.get(type(default), type(default))
    return isinstance(value, kinds) and isinstance(value, bool) == isinstance(default, bool)


def _json(tree):
    # NumPy's numbers as Python's.
    item = operator.methodcaller("item")
    return json.dumps(tree, indent=2, sort_keys=True, default=item) + "\n"


def _comparable(config):
    """`{'a.b': value}`; lists and tuples compare alike, as JSON knows only lists."""
    flat = settings.flat(config.to_dict())
    return {key: list(v) if isinstance(v, tuple) else v for key, v in flat.items()}
