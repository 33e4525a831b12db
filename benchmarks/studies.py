"""What studies of many trainings share: jobs in folders that resume, and their tables.

A job is one training, with `name`, its folder within the study's, and `config`.
"""

import fnmatch
import json
import statistics

from benchmarks.compare import whole
from hmrnn_jax import files
from hmrnn_jax.errors import UserError
from hmrnn_jax.training import settings, workdir

TRAINED = "trained.json"


def seeds(text):
    """A flag: comma-separated seeds."""
    return list(dict.fromkeys(whole(part, least=0) for part in text.split(",")))


def patterns(text):
    """A flag: comma-separated patterns of names."""
    return [part.strip() for part in text.split(",") if part.strip()]


def chosen(known, only):
    """The names of `known` that a pattern of `only` fits; all if there are none.

    Raises:
      UserError: a pattern names nothing.
    """
    for pattern in only:
        if not fnmatch.filter(known, pattern):
            raise UserError(f"--only={pattern} names no job; choose from {', '.join(known)}.")
    return [name for name in known if not only or any(fnmatch.fnmatch(name, one) for one in only)]


def check(folder, config, given, free=()):
    """Raises `UserError` if a folder holds a training under another configuration.

    Args:
      given: the flags that decide it, in words. free: fields that may differ.
    """
    if not (folder / "config.json").exists():
        return
    ours, theirs = (
        settings.flat(json.loads(json.dumps(one.to_dict())))
        for one in (config, workdir.load_run(folder)[0])
    )
    for name in ours:
        if name not in free and ours[name] != theirs.get(name):
            raise UserError(
                f"{folder} was trained with {name}={theirs.get(name)}, not {ours[name]}: choose"
                f" another --output, or give the {given} that it was made with."
            )


def trained(folder):
    """What was written of a training that has ended, None if it has not."""
    path = folder / TRAINED
    return json.loads(files.read_text(path)) if path.exists() else None


def write_trained(folder, facts):
    """Notes that a training has ended."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / TRAINED, json.dumps(facts, indent=1) + "\n")


def by(items, key):
    """`{key: its items}`, in order."""
    found = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def spread(values, digits):
    """Mean, and standard deviation if there are several values, as text."""
    mean = f"{statistics.mean(values):,.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):,.{digits}f}" if len(values) > 1 else mean


def markdown(heads, rows):
    """The lines of a table."""
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]
