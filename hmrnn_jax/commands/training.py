"""The training of a model."""

import functools
import shlex
import sys

import jax

from hmrnn_jax import parallel
from hmrnn_jax.cli import JSON, Command
from hmrnn_jax.commands.base import LANGUAGE, SEQUENCES, file
from hmrnn_jax.training import compile_only, loop, progress
from hmrnn_jax.training.fields import Switch, Text, Whole
from hmrnn_jax.training.signals import Stopping


def train(given):
    """Train a model; the same command again resumes.

        hmrnn train
        hmrnn train --config=hm_lstm_ptb_char --workdir=runs/ptb
        hmrnn train --config.data.name=text --config.data.path=my.txt --workdir=runs/mine

    Ends with the test score of the parameters that validated best. Exit statuses: 0 at the end, 75
    after SIGTERM and 130 after Ctrl-C with everything saved, 2 for what the user can mend, in one
    sentence.
    """
    say = functools.partial(print, flush=True)
    if given.compile_only:
        lines = compile_only.describe(given.config, given.compile_only)
        say("\n".join(lines))
        return {"compiled_for": given.compile_only, "findings": lines}
    parallel.initialize(given.coordinator, given.processes, given.process)
    stopping = Stopping()
    others = jax.process_index() > 0  # the first process speaks for all
    terminal = sys.stdout if sys.stdout and sys.stdout.isatty() and not others else None
    if terminal:
        say = progress.above
    result = loop.train(
        given.config, given.workdir, (lambda line: None) if others else say, given.profile,
        given.fresh, stopping, given.watch, table=given.table, terminal=terminal,
    )  # fmt: skip
    if result is None or others:
        return stopping.status if result is None else 0
    say(_next(given.config, given.workdir))
    return {"workdir": given.workdir, "split": "test"} | result


def _next(config, workdir):
    """Where the run is, what its layers' boundaries mean, and what to try next."""
    lines = ["", f"The run is in {workdir}: configuration, checkpoints, metrics."]
    detectors = len(config.model.sizes) - 1 if config.model.cell == "hm_lstm" else 0
    if config.task in (LANGUAGE, SEQUENCES) and detectors:
        what = "a longer one, of several of these" if detectors > 1 else ""
        lines.append(
            "z1 is where layer 1 ends a segment, and the layer above takes it in"
            + (f"; z2 where layer 2 ends {what}." if what else ".")
        )
        if config.task == LANGUAGE:
            lines.append("Nobody told it where words end: compare z1 with the spaces.")
    where = "" if workdir == _WORKDIR else f" --workdir={shlex.quote(str(workdir))}"
    if config.task == LANGUAGE:
        cut = "" if detectors else " --reading=entropy"
        lines += [
            "Try next:",
            f"  hmrnn explore{where}           # its test text in colours, a page for your browser",
            f"  hmrnn segment my.txt{where}{cut}    # a text of yours, cut into segments",
        ]
    elif config.task == SEQUENCES:
        lines += [
            "Try next:",
            f"  hmrnn explore{where}           # its test data in colours, a page for your browser",
            f"  hmrnn boundaries{where}        # a figure, and scores",
        ]
    else:
        lines.append(f"Try next: hmrnn score{where}")
    return "\n".join(lines)


_WORKDIR = "runs/quickstart"
_FLAGS = {
    "config": ("quickstart", Text("Configuration: a name of `hmrnn configs`, or FILE.py.")),
    "workdir": (_WORKDIR, file("Folder of the run.")),
    "fresh": (False, Switch("Sets the run that is in --workdir aside and begins anew.")),
    "watch": (
        False,
        Switch("Writes watch.html in --workdir at each validation: boundaries as they form."),
    ),
    "table": (False, Switch("Lists all parameters with their shapes.")),
    "profile": (None, file("FIRST:LAST, updates to trace (number 1 compiles).")),
    "compile_only": (
        None,
        file("Compiles the train step for cpu or a TPU such as v5e:2x4, and reports."),
    ),
    "coordinator": (None, file("host:port of process 0, for several processes by hand.")),
    "processes": (None, Whole("With --coordinator: the number of processes.", 1)),
    "process": (None, Whole("With --coordinator: the number of this process, from 0.")),
} | JSON

COMMANDS = {"train": Command(train, _FLAGS, meant="--config.data.name=text --config.data.path={0}")}
