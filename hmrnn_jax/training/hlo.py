"""What the compiler made of a step: its memory, kernels, reductions and loops."""

import re
from typing import NamedTuple

# What costs nothing: names and views of other values.
_FREE = ("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all")


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
