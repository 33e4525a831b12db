"""Where the time of one CPU train step goes, part by part.

    python benchmarks/profile_step.py --config=configs/hm_lstm_ptb_char.py --updates=3

Prints the hardware and a Markdown table. A few updates are traced by `jax.profiler`; at
every moment the operations that run share the time equally, and an operation belongs to a
part by the name under which JAX traced it and by the loop that it lies in. Tracing itself
takes time, more for short operations than for long ones: the step's time without it is
printed too. One device, the CPU; for others `hmrnn train --profile`.
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

from benchmarks import timing  # noqa: E402
from hmrnn_jax import cli, parallel, tasks  # noqa: E402
from hmrnn_jax.errors import UserError  # noqa: E402
from hmrnn_jax.training import hlo, optim, profiling  # noqa: E402
from hmrnn_jax.training import state as train_state  # noqa: E402
from hmrnn_jax.training.fields import Text, Whole  # noqa: E402

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


def table(seconds):
    """The Markdown table of `{part: seconds of a step}`."""
    whole = sum(seconds.values())
    lines = ["| part | ms/step | share |", "| --- | ---: | ---: |"]
    for part, value in seconds.items():
        lines.append(f"| {part} | {1000 * value:.2f} | {value / whole:.1%} |")
    return "\n".join([*lines, f"| step, traced | {1000 * whole:.2f} | 100.0% |"])


def measure(config, updates):
    """`({part: seconds}, seconds without tracing)` of a step, the middle one of `updates`."""
    mesh = parallel.make_mesh(jax.devices()[:1])
    task = tasks.make(config, mesh)
    plan = optim.Plan(config, task.stream)
    state, carry = train_state.start(task, plan, config, mesh)
    batch = parallel.shard_batch(task.stream(0), mesh)
    scalars = {"learning_rate": config.learning_rate, "slope": 1.0, "averaged": 0.0}
    scalars |= task.scalars(0)
    scalars = {name: np.float32(value) for name, value in scalars.items()}
    step = functools.partial(train_state.train_step, task.loss, plan.optimizer)
    compiled = parallel.pmapped(step, mesh).lower(state, carry, batch, scalars).compile()
    seconds = []
    for _ in range(updates + 1):  # the first one warms up
        start = time.perf_counter()
        state, carry, _ = jax.block_until_ready(compiled(state, carry, batch, scalars))
        seconds.append(time.perf_counter() - start)
    with tempfile.TemporaryDirectory() as folder:
        with profiling.Trace(f"1:{updates}", updates, folder, say=lambda line: None) as trace:
            for number in range(1, updates + 1):
                result = trace(number, compiled, state, carry, batch, scalars)
                state, carry, _ = jax.block_until_ready(result)
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
    print(timing.hardware_line(timing.hardware()), flush=True)
    seconds, untraced = measure(given.config, given.updates)
    print(f"\n{table(seconds)}\n\nWithout the trace a step takes {1000 * untraced:.2f} ms.")


if __name__ == "__main__":
    flags = {
        "config": ("quickstart", Text("Configuration: a name of `hmrnn configs`, or FILE.py.")),
        "updates": (3, Whole("Updates to trace.", 1)),
    }
    cli.run(cli.Command(main, flags))
