"""What a fault left of a run: read back bit for bit, and judged.

Everything here can say that something is wrong; `tests/test_faults.py` shows that it does.
"""

import hashlib
import json
import re
import threading
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from hmrnn_jax import parallel, tasks
from hmrnn_jax.errors import UserError
from hmrnn_jax.training import optim
from hmrnn_jax.training import state as train_state
from hmrnn_jax.training.checkpoint import Checkpoints

# Counts of a campaign that must be zero, each a way in which a fault does harm.
MUST_BE_ZERO = {
    "steps_lost": "updates made again though a whole save held them",
    "restarts_from_zero": "runs that began afresh though they had saved",
    "silent_changes": "values that differ, without a word",
    "good_checkpoints_given_up": "undamaged checkpoints that could not be used",
    "tracebacks": "tracebacks instead of a sentence",
    "wrong_statuses": "exit statuses other than those promised, or 2 without one sentence",
    "different_results": "finished runs that differ from the uninterrupted one",
    "changed_by_reading": "files that reading or refusing changed, renamed or deleted",
    "half_written": "half-written files under their final names",
    "hangs": "programs that did not end",
}


class Read(NamedTuple):
    """What one restoring gave.

    Attributes:
      kind: `values`, `none` (nothing to restore), `refused` (a sentence) or `traceback`.
      step: the update that the values are of. digest: of all values, bit for bit.
      told: the notes or the sentence.
    """

    kind: str
    step: int | None = None
    digest: str | None = None
    told: str = ""


class State(NamedTuple):
    """All that a run keeps: both checkpoints, and its metrics without those of time."""

    latest: Read
    best: Read
    metrics: tuple


class Reader:
    """Restores as `train.py` and `eval.py` do, in this process, one at a time.

    Args:
      config: of the runs that are read.
    """

    def __init__(self, config):
        mesh = parallel.make_mesh(jax.devices()[:1])
        task = tasks.make(config, mesh)
        plan = optim.Plan(config, task.stream)
        state, carry = train_state.start(task, plan, config, mesh)
        self.whole = train_state.checkpoint(state, carry, plan, 0.0, mesh)
        self._best = {"params": self.whole["state"].params, "slope": self.whole["slope"]}
        self._lock = threading.Lock()

    def latest(self, workdir, read_only=False):
        """The state that `train.py` goes on with."""

        def restore(checkpoints):
            tree = checkpoints.restore(self.whole)
            return (None, None) if tree is None else (int(tree["state"].step), tree)

        return self._read(workdir, read_only, restore)

    def best(self, workdir, read_only=True):
        """The parameters that `eval.py` looks at, or that the final score is of."""
        return self._read(workdir, read_only, lambda c: c.restore_best(self._best)[:2])

    def newest_as_best(self, workdir):
        """What `best` may give, with a word, where the best is lost: the newest parameters."""

        def restore(checkpoints):
            tree = checkpoints.restore(self.whole)
            params, slope = tree["state"].params, tree["slope"]
            return int(tree["state"].step), {"params": params, "slope": slope}

        return self._read(workdir, True, restore)

    def state(self, workdir):
        """All that a run keeps."""
        lines = whole_lines(Path(workdir) / "metrics.jsonl")
        return State(self.latest(workdir, True), self.best(workdir), tuple(map(timeless, lines)))

    def _read(self, workdir, read_only, restore):
        try:
            with self._lock, Checkpoints(workdir, read_only=read_only) as checkpoints:
                step, tree = restore(checkpoints)
                told = "; ".join(checkpoints.notes)
        except UserError as error:
            return Read("refused", told=str(error))
        except Exception as error:  # what the programs would end with a traceback for
            return Read("traceback", told=f"{type(error).__name__}: {error}")
        if step is None:
            return Read("none", told=told)
        return Read("values", step, digest(tree), told)


def digest(tree):
    """A hash of every value of a tree, with its place, type and shape."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        leaf = np.asarray(leaf)
        sha.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        sha.update(leaf.tobytes())
    return sha.hexdigest()


def whole_lines(path):
    """The records of a file of JSON lines; a cut last line is left out.

    Raises:
      ValueError: another line cannot be read.
    """
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def timeless(metrics):
    """A line of metrics without what depends on the machine's speed."""
    kept = {name: value for name, value in metrics.items() if not name.endswith("_per_second")}
    return json.dumps(kept, sort_keys=True)


def differences(state, reference, since=0):
    """Sentences: in what a finished run differs from the uninterrupted one.

    Args:
      since: metrics up to this update are not compared, where a fault took them away.
    """
    found = []
    for name in ("latest", "best"):
        ours, theirs = getattr(state, name), getattr(reference, name)
        if ours.kind != "values":
            found.append(f"{name}: {ours.kind}, {ours.told}")
        elif ours.step != theirs.step:
            found.append(f"{name}: update {ours.step} instead of {theirs.step}")
        elif ours.digest != theirs.digest:
            found.append(f"{name}: the values of update {ours.step} differ")
    lines, wanted = (
        [line for line in s.metrics if json.loads(line)["step"] > since] for s in (state, reference)
    )
    if lines != wanted:
        extra, missing = set(lines) - set(wanted), set(wanted) - set(lines)
        found.append(
            f"metrics: {len(lines)} lines for {len(wanted)}, {len(missing)} missing,"
            f" {len(extra)} others"
        )
    return found


def judge(read, newest, fallback=None, refusable=False):
    """What became of a damaged checkpoint: an outcome, or a count of `MUST_BE_ZERO`.

    Args:
      read: what was restored. newest: the `Read` before the damage.
      fallback: the `Read` of what may be taken in its place; None if there is nothing.
      refusable: whether a sentence is as good as the fallback.

    Returns `harmless`, `told` (the fallback was taken with a word, or it was refused), or the
    name of a count.
    """
    if read.kind == "traceback":
        return "tracebacks"
    if read.kind == "values":
        if _same(read, newest):
            return "harmless"
        return "told" if fallback and _same(read, fallback) and read.told else "silent_changes"
    if fallback and not refusable:
        return "good_checkpoints_given_up"
    return "told" if read.kind == "refused" else "restarts_from_zero"


def _same(a, b):
    return (a.step, a.digest) == (b.step, b.digest)


def listing(folder):
    """`{path: hash of its content, or "folder"}` of everything below a folder."""
    folder = Path(folder)
    return {
        str(path.relative_to(folder)): "folder"
        if path.is_dir()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
    }


def lost(before, after):
    """Paths of a `listing` that another lacks or has with another content.

    Temporary folders of saves that were cut may go: they are never read.
    """
    return [path for path in before if before[path] != after.get(path) and "tmp" not in path]


def half_written(workdir):
    """Sentences: files of a run that are under their final names, but not whole."""
    found = []
    for path in sorted(Path(workdir).glob("*.json")):
        try:
            json.loads(path.read_text())
        except ValueError:
            found.append(f"{path.name} is not whole JSON ({path.stat().st_size} bytes)")
    try:
        whole_lines(Path(workdir) / "metrics.jsonl")
    except ValueError:
        found.append("metrics.jsonl has a line, not the last, that is cut")
    return found


def steps_on_disk(workdir, name="latest"):
    """The updates whose saves have their final names, in order."""
    folder = Path(workdir) / "checkpoints" / name
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(int(path.name) for path in found if path.is_dir() and path.name.isdigit())


class Said(NamedTuple):
    """What a program said, as far as a check needs it.

    Attributes:
      resumed: the update it resumed after, None if it did not. updates: those it reported, in
      order. stopped: the update after which it stopped with all saved. errors: its sentences.
      traceback: whether there is one. warned: whether it warned of something.
      score: the last line of `eval.py --json`.
    """

    resumed: int | None
    updates: list
    stopped: int | None
    errors: list
    traceback: bool
    warned: bool
    score: str | None

    @classmethod
    def of(cls, text):
        def number(pattern):
            found = re.search(pattern, text, re.MULTILINE)
            return int(found[1].replace(",", "")) if found else None

        lines = text.rstrip().split("\n")
        return cls(
            number(r"^resumed after update ([\d,]+)"),
            [int(n.replace(",", "")) for n in re.findall(r"^update ([\d,]+)/", text, re.M)],
            number(r"^stopped after update ([\d,]+)"),
            [line for line in lines if line.startswith("error: ")],
            "Traceback (most recent call last)" in text,
            "warning: " in text,
            lines[-1] if lines[-1].startswith("{") else None,
        )
