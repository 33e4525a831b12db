"""The metrics of a run, in `metrics.jsonl` and, where it is local, for TensorBoard."""

import contextlib
import json
import os
import re

import jax
from etils import epath

from hmrnn_jax import files
from hmrnn_jax.errors import UserError
from hmrnn_jax.training.board import Board

NAME = "metrics.jsonl"


def read_metrics(path):
    """The rows of a run's `metrics.jsonl` and of its parts, one dict per line.

    A last line that is cut short, as a killed run leaves it, is dropped.

    Raises:
      UserError: there is no such file, or another line is not a JSON object.
    """
    rows = []
    for part in parts(epath.Path(path)) or [path]:
        lines = files.read_bytes(part).split(b"\n")
        for number, line in enumerate(lines, 1):
            row = _row(line)
            if row is not None:
                rows.append((line, row))
            elif line.strip() and number < len(lines):
                raise UserError(f"Line {number} of {part} is not a JSON object: mend or delete it.")
    return list(dict(rows).values())


class Logger:
    """Writes the metrics of a run, by process 0 only.

    Args:
      workdir: the run's folder.
      step: the step training goes on from; later lines, of a run that was cut off after its last
        checkpoint, are dropped, and a line that is there already is not written again, so that
        no step is logged twice.
      say: function that logs a line, if TensorBoard's files cannot be written.

    Its `board` is a `Board` for what is no number, or None.
    """

    def __init__(self, workdir, step=0, say=lambda line: None):
        self.active, self.board = jax.process_index() == 0, None
        if not self.active:
            return
        self._path = epath.Path(workdir) / NAME
        self._local = "://" not in str(workdir)
        self._pending, self._number = [], 0
        self._join(step)
        if self._local:
            self.board = Board(workdir, step, say)

    def _join(self, step):
        """Makes one file of all rows up to `step`, if it is not so already."""
        found = parts(self._path)
        contents = [files.read_bytes(file) for file in found]
        # A start that was cut short here has left lines in both places.
        lines = list(dict.fromkeys(line for part in contents for line in part.split(b"\n") if line))
        if lines and _row(lines[-1]) is None:
            del lines[-1]  # cut short
        lines = [line for line in lines if _step(line) <= step]
        kept = b"".join(line + b"\n" for line in lines)
        # What a finished run that is started once more would log again.
        self._logged = {line.decode() for line in lines if _step(line) == step}
        if found != [self._path] or contents != [kept]:
            files.write_bytes(self._path, kept)
        for file in found:
            if file != self._path:
                file.unlink()

    def log(self, step, metrics):
        """Writes `{name: number}` of a step; in a bucket `flush` does."""
        if not self.active:
            return
        line = json.dumps({"step": step} | metrics)
        if line in self._logged:
            return
        self._pending.append(line + "\n")
        if self._local:
            self._write()
        if self.board:
            self.board.scalars(step, metrics)

    def flush(self):
        """Writes what has been logged since the last time; due before each checkpoint."""
        if not self.active:
            return
        self._write()
        if self.board:
            self.board.flush()

    def _write(self):
        if not self._pending:
            return
        text = "".join(self._pending)
        if self._local:
            _append(self._path, text)
        else:
            self._number += 1
            part = self._path.parent / f"{self._path.stem}-{self._number:06}.jsonl"
            files.write_text(part, text)
        self._pending.clear()

    def close(self):
        """Writes what is still in memory; the last call."""
        self.flush()
        if self.board:
            self.board.close()


def _append(path, text):
    """Adds lines to a local file, all of them or, where the disk is full, none."""
    size = os.path.getsize(path) if path.exists() else 0
    try:
        with path.open("a") as file:
            file.write(text)
    except OSError:
        with contextlib.suppress(OSError):
            os.truncate(path, size)
        raise


def last_step(workdir):
    """The last step of which a folder has metrics; 0 if there are none.

    Raises:
      UserError: they cannot be read.
    """
    found = parts(epath.Path(workdir) / NAME)
    lines = [line for file in found for line in files.read_bytes(file).split(b"\n")]
    return max(map(_step, lines), default=0)


def last_report(workdir, step):
    """The metrics of the last report of training updates up to `step`, `{}` if there is none."""
    path = epath.Path(workdir) / NAME
    rows = read_metrics(path) if parts(path) else []
    told = [row for row in rows if "gradient_norm" in row and _step_of(row, step + 1) <= step]
    return told[-1] if told else {}


def parts(path):
    """The file of metrics and the parts of it that a `Logger` wrote beside it, in order: those that
    there are."""
    beside = sorted(path.parent.glob(f"{path.stem}-*.jsonl"))
    own = re.compile(r"-([0-9]{6}|[1-9][0-9]{6,})\.jsonl")  # as of `_write`: a user's stay alone
    beside = [part for part in beside if own.fullmatch(part.name.removeprefix(path.stem))]
    return ([path] if path.exists() else []) + beside


def _row(line):
    """The dict of a line; None if it is not one."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _step(line):
    """The step of a line; 0 if it tells none, so that nobody drops it."""
    return _step_of(_row(line) or {}, 0)


def _step_of(row, otherwise):
    step = row.get("step")
    return step if isinstance(step, int) else otherwise
