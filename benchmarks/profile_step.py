"""Where the time of one CPU train step goes, part by part.

    python benchmarks/profile_step.py --config=configs/hm_lstm_ptb_char.py --updates=3
    taskset -c 0 python benchmarks/profile_step.py --rates=.18,.04   # what COPY saves, and where

Prints the hardware and a Markdown table. With `--rates` no configuration is traced, but the size
`ptb_taught` of `train_step.py` with detectors that fire at these rates: the dense step, and the
one that leaves COPYs out. A few updates are traced by `jax.profiler`; at
every moment the operations that run share the time equally, and an operation belongs to a
part by the name under which JAX traced it and by the loop that it lies in. Tracing itself
takes time, more for short operations than for long ones: the step's time without it is
printed too. On one core operations do not wait for one another: there a part's time is its own.
One device, the CPU; for others `hmrnn train --profile`.
"""

import functools
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks import timing, train_step  # noqa: E402
from benchmarks.problems import SIZES  # noqa: E402
from hmrnn_jax import cli, parallel, tasks  # noqa: E402
from hmrnn_jax.errors import UserError  # noqa: E402
from hmrnn_jax.training import hlo, optim, profiling  # noqa: E402
from hmrnn_jax.training import state as train_state  # noqa: E402
from hmrnn_jax.training.fields import Numbers, Text, Whole  # noqa: E402

FORWARD, REVERSE = "recurrence, forward", "recurrence, reverse"
WEIGHTS = "weight-gradient products"
OUTPUT, OPTIMIZER = "embedding, output module, loss", "clipping, optimiser, noise"
OTHER, IDLE = "other", "between operations"
PARTS = (FORWARD, REVERSE, WEIGHTS, OUTPUT, OPTIMIZER, OTHER, IDLE)
# They hold other operations, and have time of their own only while none of those runs.
_CONTAINER = r" (while|call|conditional)\("


class Operation(NamedTuple):
    """A run of an instruction: its name, and start and end in nanoseconds."""

    name: str
    start: float
    end: float


def parts_of(text):
    """`({instruction: part}, containers)` of an optimised HLO module's text.

    `containers` are the names of instructions that hold others.
    """
    program = hlo.computations(text)
    parts, containers = {}, set()
    for lines in program.values():
        for line in lines:
            name = _name(line)
            parts[name] = _part(line)
            if re.search(_CONTAINER, line):
                containers.add(name)
    # Copies and zeros that XLA adds have no name: they are for whatever reads them first.
    for lines in program.values():
        reader = {}
        for line in reversed(lines):  # readers come later
            if parts[_name(line)] == OTHER:
                parts[_name(line)] = reader.get(_name(line), OTHER)
            for read in re.findall(r"%([\w.\-]+)", line.partition(" = ")[2]):
                reader[read] = parts[_name(line)]
    # What lies in a loop is the loop's, whatever its own name.
    for lines in program.values():
        for line in lines:
            body = re.search(r" while\(.*body=%?([\w.\-]+)", line)
            for inner in hlo.reached(program, body.group(1)) if body else ():
                parts[_name(inner)] = parts[_name(line)]
    return parts, containers


def _name(line):
    return re.match(r"(?:ROOT )?%?([\w.\-]+) =", line).group(1)


def _part(line):
    found = re.search(r'op_name="([^"]*)"', line)
    if not found:
        return OTHER
    path = found.group(1)
    if "jvp(" not in path:
        return OPTIMIZER  # all else is differentiated
    if "/weight_gradients/" in path:
        return WEIGHTS
    if "/recurrence/" in path:
        return REVERSE if "/transpose(jvp(" in path else FORWARD
    return OUTPUT


def operations(folder, module):
    """The `Operation`s of a compiled module in the trace under `folder`, by run."""
    (path,) = Path(folder).rglob("*.xplane.pb")
    events = [
        event
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes
        for line in plane.lines
        for event in line.events
    ]
    begun, ended = [], {}
    for event in events:
        stats = dict(event.stats)
        if stats.get("hlo_module") == module:
            begun.append((event, stats))
        elif event.name.startswith("end: "):
            ended[stats.get("_c")] = event.end_ns  # an operation may end on another thread
    runs = {}
    for event, stats in begun:
        end = max(event.end_ns, ended.get(stats.get("_p"), 0))
        runs.setdefault(stats["run_id"], []).append(Operation(stats["hlo_op"], event.start_ns, end))
    return list(runs.values())


def shares(run, parts, containers):
    """`{part: nanoseconds}` of one run, which add up to the time from its start to its end."""
    moments = sorted(
        (moment, begins, operation.name)
        for operation in run
        for moment, begins in ((operation.start, True), (operation.end, False))
    )
    total = dict.fromkeys(PARTS, 0.0)
    running, before = [], moments[0][0]
    for moment, begins, name in moments:
        # Of containers in containers the innermost, which began last.
        active = [n for n in running if n not in containers] or running[-1:]
        for part in [parts[n] for n in active] or [IDLE]:
            total[part] += (moment - before) / max(1, len(active))
        before = moment
        if begins:
            running.append(name)
        else:
            running.remove(name)
    return total


def table(steps):
    """The Markdown table of `{step: {part: seconds}}`."""
    whole = {name: sum(seconds.values()) for name, seconds in steps.items()}
    names = [f" {name}, ms | share |" for name in steps]
    lines = ["| part |" + "".join(names), "| --- |" + " ---: | ---: |" * len(steps)]
    for part in next(iter(steps.values())):
        cells = [
            f" {1000 * seconds[part]:.2f} | {seconds[part] / whole[name]:.1%} |"
            for name, seconds in steps.items()
        ]
        lines.append(f"| {part} |" + "".join(cells))
    cells = [f" {1000 * seconds:.2f} | 100.0% |" for seconds in whole.values()]
    return "\n".join([*lines, "| step, traced |" + "".join(cells)])


def step_of(config):
    """`(step, compiled)` of a configuration's first updates, see `measure`."""
    mesh = parallel.make_mesh(jax.devices()[:1])
    task = tasks.make(config, mesh)
    plan = optim.Plan(config, task.stream)
    state, carry = train_state.start(task, plan, config, mesh)
    batch = parallel.shard_batch(task.stream(0), mesh)
    scalars = {"learning_rate": config.learning_rate, "slope": 1.0, "averaged": 0.0}
    scalars |= task.scalars(0)
    scalars = {name: np.float32(value) for name, value in scalars.items()}
    update = functools.partial(train_state.train_step, task.loss, plan.optimizer)
    compiled = parallel.pmapped(update, mesh).lower(state, carry, batch, scalars).compile()
    held = [state, carry]

    def step():
        held[0], held[1], _ = jax.block_until_ready(compiled(*held, batch, scalars))

    return step, compiled


def steps_at(rates):
    """`{name: (step, compiled)}` of the dense step and of the one without COPYs, at `rates`."""
    size = SIZES["ptb_taught"]._replace(rates=tuple(rates))
    both = {name: train_step.ours(size, skipping=name != "dense") for name in ("dense", "skipping")}
    return {name: (candidate.step, candidate.compiled) for name, candidate in both.items()}


def measure(step, compiled, updates):
    """`({part: seconds}, seconds without tracing)` of a step, the middle one of `updates`.

    Args:
      step: runs the program once, and returns when it is done. compiled: the program.
    """
    seconds = []
    for _ in range(updates + 1):  # the first one warms up
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    with tempfile.TemporaryDirectory() as folder:
        with profiling.Trace(f"1:{updates}", updates, folder, say=lambda line: None) as trace:
            for number in range(1, updates + 1):
                trace(number, step)
        text = compiled.as_text()
        runs = operations(folder, re.match(r"HloModule ([\w.\-]+)", text).group(1))
    parts, containers = parts_of(text)
    traced = [shares(run, parts, containers) for run in runs]
    middle = sorted(traced, key=lambda run: sum(run.values()))[len(traced) // 2]
    return {part: value / 1e9 for part, value in middle.items()}, statistics.median(seconds[1:])


def main(given):
    """Trace a few updates of a configuration; print where the time of one goes."""
    if jax.default_backend() != "cpu":
        raise UserError(
            "This reads traces of CPUs: set JAX_PLATFORMS=cpu, or use hmrnn train --profile."
        )
    if given.rates and not train_step.are_rates(given.rates):
        raise UserError(f"--rates={','.join(map(str, given.rates))}: {train_step.TWO_RATES}.")
    print(timing.hardware_line(timing.hardware()), flush=True)
    steps = steps_at(given.rates) if given.rates else {"step": step_of(given.config)}
    parts, untraced = {}, []
    for name, step in steps.items():
        parts[name], seconds = measure(*step, given.updates)
        untraced.append(f"{name} {1000 * seconds:.2f} ms")
    print(f"\n{table(parts)}\n\nWithout the trace: {', '.join(untraced)}.")


if __name__ == "__main__":
    flags = {
        "config": ("quickstart", Text("Configuration: a name of `hmrnn configs`, or FILE.py.")),
        "updates": (3, Whole("Updates to trace.", 1)),
        "rates": ((), Numbers("Rates of two layers' detectors, instead of a configuration.")),
    }
    cli.run(cli.Command(main, flags))
