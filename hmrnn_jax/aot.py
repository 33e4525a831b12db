"""The train step compiled for chips that are not here, and what the compiler says of it."""

import functools
import os
import re
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hmrnn_jax import optim, parallel, report, settings, tasks, train_state
from hmrnn_jax.errors import UserError
from hmrnn_jax.kernels.resident import noted

# What costs nothing: names and views of other values.
_FREE = ("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all")


def devices(target):
    """The devices of `cpu`, that is this machine, or of a TPU topology such as `v5e:2x4`.

    Raises:
      UserError: no libtpu, or a topology that it does not know.
    """
    if target == "cpu":
        return jax.devices()
    # libtpu asks the cloud's metadata server for what is told here, and locks out a second user.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    # Arrays that are really made, such as the batch's, stay here.
    jax.config.update("jax_platforms", "cpu")
    try:
        from jax.experimental import topologies

        found = topologies.get_topology_desc(target, platform="tpu").devices
        # A v4 chip's two cores are one device to a program; the topology lists both.
        return [device for device in found if device.core_on_chip == 0]
    except (RuntimeError, ValueError, NotImplementedError) as error:
        if "not installed" in str(error):
            raise UserError(
                f'To compile for {target}, libtpu is needed: pip install -e ".[tpu]".'
            ) from error
        reason = str(error).splitlines()[0]
        raise UserError(
            f"There is no TPU topology {target!r} ({reason}); give one such as v5e:2x4, v4:2x2x1,"
            " v5p:2x2x1 or v6e:2x4, or cpu."
        ) from error


def describe(config, target):
    """Lines on the train step of a configuration, compiled for `target`; nothing is run.

    Raises:
      UserError: as `compiled_step`.
    """
    compiled, notes, params = compiled_step(config, target)
    lines = [report.parameter_table(params), *(f"recurrence: {note}" for note in notes)]
    return lines + findings(compiled)


def compiled_step(config, target):
    """`(compiled, notes, parameters)`: the train step of a run for all devices of `target`.

    Nothing is allocated or written. `notes` say which backend each recurrence took;
    `parameters` are the shapes.

    Raises:
      UserError: as `devices`; a step that does not fit in the devices' memory.
    """
    settings.check(config)
    mesh = parallel.make_mesh(devices(target))
    task, optimizer = tasks.make(config, mesh), optim.optimizer_from(config)
    averages = config.schedule == "nonmonotone"
    create = functools.partial(
        train_state.create, task.init_params, optimizer, config.seed, averages
    )
    update = functools.partial(train_state.train_step, task.loss, optimizer)
    carry = functools.partial(task.initial_carry, config.batch)

    def of_all_rows(x):
        shape = (config.batch,) if x.ndim == 1 else (x.shape[0], config.batch, *x.shape[2:])
        return jax.ShapeDtypeStruct(shape, x.dtype)

    batch = jax.tree.map(of_all_rows, task.stream(0))
    try:
        compiled, notes = compiled_update(update, mesh, create, carry, batch, task.knobs(0))
        return compiled, notes, jax.eval_shape(create).params
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        if not re.search("RESOURCE_EXHAUSTED|[Oo]ut of memory|exceeds available", text):
            raise
        if "in memory space vmem" in text:
            raise UserError(
                f"A kernel does not fit in the VMEM of a chip of {target}; set model.backend=scan."
            ) from error
        told = re.search(r"\(?[\d.]+[KMG]\)? exceeds available \w+ \(?[\d.]+[KMG]\)?", text)
        raise UserError(
            f"The train step does not fit in a device of {target}"
            f"{': ' + told.group() if told else ''}; take more devices, a smaller batch, or"
            " model.remat."
        ) from error


def compiled_update(update, mesh, create, carry, batch, knobs=()):
    """`(compiled, notes)` of an update that `parallel.pmapped` takes, of shapes alone.

    Args:
      update: `update(state, carry, batch, knobs) -> (state, carry, metrics)`.
      create, carry: make the state and the carry, when called.
      batch: a tree of arrays or shapes, of the rows of all devices.
      knobs: names of the loss's further scalars, see `tasks`.
    """
    everywhere = NamedSharding(mesh, P())
    by_rows = NamedSharding(mesh, P(parallel.AXIS))

    def placed(tree, sharding):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
        )

    batch = jax.tree.map(lambda x: placed(x, NamedSharding(mesh, parallel.batch_spec(x))), batch)
    scalar = jax.ShapeDtypeStruct((), np.float32, sharding=everywhere)
    knobs = dict.fromkeys(("learning_rate", "slope", "averaged", *knobs), scalar)
    state = placed(jax.eval_shape(create), everywhere)
    carry = placed(jax.eval_shape(carry), by_rows)
    step = parallel.pmapped(update, mesh)
    with noted() as notes:  # of the step alone, not of what `create` tries out
        lowered = step.lower(state, carry, batch, knobs)
    return lowered.compile(), notes


class Summary(NamedTuple):
    """What a compiled step takes on a device.

    Attributes:
      memory: MiB by kind: `argument`, `output`, `alias`, `temp`, `generated_code`, and the `peak`.
      kernels: of ours, in a step.
      reductions: over devices; `reductions_in_loops`: those of them in loops over time.
      loops: name of each loop's body, and its operations an iteration.
    """

    memory: dict[str, float]
    kernels: int
    reductions: int
    reductions_in_loops: int
    loops: tuple[tuple[str, int], ...]


def summary(compiled):
    """The `Summary` of a compiled step."""
    analysis, program = compiled.memory_analysis(), computations(compiled.as_text())
    memory = {
        name: getattr(analysis, f"{name}_size_in_bytes") / 2**20
        for name in ("argument", "output", "alias", "temp", "generated_code")
    }
    memory["peak"] = sum(memory.values()) - 2 * memory["alias"]
    bodies = loop_bodies(program)
    inside = [line for body in bodies for line in reached(program, body)]
    everything = [line for lines in program.values() for line in lines]
    return Summary(
        memory,
        sum("tpu_custom_call" in line for line in everything),
        sum(map(_is_reduction, everything)),
        sum(map(_is_reduction, inside)),
        tuple((body, sum(not _is_free(line) for line in program[body])) for body in bodies),
    )


def findings(compiled):
    """The `summary` of a compiled step as lines."""
    found = summary(compiled)
    memory = found.memory
    lines = [
        f"memory of a device: {memory['peak']:,.0f} MiB at the most, of which arguments"
        f" {memory['argument']:,.0f}, temporaries {memory['temp']:,.0f}, program"
        f" {memory['generated_code']:,.0f}",
        f"kernels of ours: {found.kernels} in a step",
        f"reductions over devices: {found.reductions}, in loops over time"
        f" {found.reductions_in_loops}",
    ]
    for body, count in found.loops:
        lines.append(f"loop {body}: {count} operations an iteration")
    if not found.loops:
        lines.append("no loop over time outside the kernels")
    return lines


def computations(text):
    """`{name: instructions}` of an optimised HLO module's text."""
    program, name = {}, None
    for line in text.splitlines():
        start = re.match(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if start:
            name = start.group(1)
            program[name] = []
        elif line.startswith("}"):
            name = None
        elif name and " = " in line:
            program[name].append(line.strip())
    return program


def loop_bodies(program):
    """Names of the computations that loops repeat, each once."""
    bodies = []
    for lines in program.values():
        for line in lines:
            found = re.search(r" while\(.*body=%?([\w.\-]+)", line)
            if found and found.group(1) not in bodies:
                bodies.append(found.group(1))
    return bodies


def reached(program, name):
    """All instructions of a computation and of those that it calls."""
    seen, waiting = [], [name]
    while waiting:
        current = waiting.pop()
        if current in seen or current not in program:
            continue
        seen.append(current)
        for line in program[current]:
            waiting += re.findall(r"(?:calls|body|condition|to_apply)=%?([\w.\-]+)", line)
    return [line for current in seen for line in program[current]]


def _operation(line):
    found = re.search(r" = (?:\(.*?\)|\S+) ([\w\-]+)\(", line)
    return found.group(1) if found else ""


def _is_free(line):
    return _operation(line) in _FREE


def _is_reduction(line):
    return _operation(line) in ("all-reduce", "all-reduce-start", "reduce-scatter")
