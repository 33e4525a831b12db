"""Traces of a few updates of a run, by `jax.profiler`."""

import re
import tempfile
from pathlib import Path

import jax
from etils import epath

from hmrnn_jax import files
from hmrnn_jax.errors import UserError


class Trace:
    """Traces some updates of a run into `<workdir>/profile`; use as a context manager.

    A run that ends before the last of them leaves what it has traced. Only process 0 traces.

    Args:
      updates: `first:last`, numbers of updates from 1, both included; None traces nothing.
      total: updates of the whole run.
      workdir: folder of the run, local or `gs://`.
      say: function of a line for the terminal.

    Raises:
      UserError: `updates` is not a range of the run's updates.
    """

    def __init__(self, updates, total, workdir, say):
        self.first, self.last = parse(updates, total) if updates else (0, 0)
        self._folder, self._say = epath.Path(workdir) / "profile", say
        self._written = None  # where the profiler writes, while it runs
        self._traced = []

    def __enter__(self):
        return self

    def __exit__(self, kind, *error):
        if self._written:
            self._stop()
        elif self.first and not (kind or self._traced or jax.process_index()):
            self._say(f"no trace: updates {self.first:,} to {self.last:,} were not made this time")

    def __call__(self, number, step, *arguments):
        """`step(*arguments)`, which is update `number`, traced if it is one of those."""
        if not self.first <= number <= self.last or jax.process_index():
            return step(*arguments)
        if not self._written:
            jax.block_until_ready(arguments)  # of the update before, which is not traced
            # Buckets are no place that the profiler can write to.
            self._written = tempfile.TemporaryDirectory()
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # calls of Python functions drown all else
            jax.profiler.start_trace(self._written.name, profiler_options=options)
        with jax.profiler.StepTraceAnnotation("update", step_num=number):
            result = step(*arguments)
            if number == self.last:
                jax.block_until_ready(result)
        self._traced.append(number)
        if number == self.last:
            self._stop()
        return result

    def _stop(self):
        jax.profiler.stop_trace()
        written = Path(self._written.name)
        for path in filter(Path.is_file, written.rglob("*")):
            target = self._folder / path.relative_to(written).as_posix()
            target.parent.mkdir(parents=True, exist_ok=True)
            files.write_bytes(target, path.read_bytes())
        self._written.cleanup()
        self._written = None
        self._say(
            f"trace of updates {self._traced[0]:,} to {self._traced[-1]:,} in {self._folder}: open"
            " its .trace.json.gz at https://ui.perfetto.dev, or pip install xprof and run"
            f" xprof --logdir={self._folder}"
        )


def parse(updates, total):
    """`(first, last)` of `first:last`.

    Raises:
      UserError: it is none, or not within updates 1 to `total`.
    """
    found = re.fullmatch(r"(\d+):(\d+)", updates)
    if not found:
        raise UserError(f"--profile is {updates!r}; give the updates to trace as FIRST:LAST.")
    first, last = map(int, found.groups())
    if not 1 <= first <= last <= total:
        raise UserError(
            f"--profile is {updates}; it must be FIRST:LAST with 1 <= FIRST <= LAST <= {total},"
            " the updates of this run."
        )
    return first, last
