"""The training of a model."""

import functools

import jax

from hmrnn_jax import parallel
from hmrnn_jax.cli import JSON, Command
from hmrnn_jax.commands.base import file
from hmrnn_jax.training import compile_only, loop
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
    result = loop.train(
        given.config, given.workdir, (lambda line: None) if others else say, given.profile,
        given.fresh, stopping, given.watch,
    )  # fmt: skip
    if result is None or others:
        return stopping.status if result is None else 0
    return {"workdir": given.workdir, "split": "test"} | result


_FLAGS = {
    "config": ("quickstart", Text("Configuration: a name of `hmrnn configs`, or FILE.py.")),
    "workdir": ("runs/quickstart", file("Folder of the run.")),
    "fresh": (False, Switch("Sets the run that is in --workdir aside and begins anew.")),
    "watch": (
        False,
        Switch("Writes watch.html in --workdir at each validation: boundaries as they form."),
    ),
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
