"""Timing that survives a machine whose speed wanders: interleaved rounds, paired ratios.

Everything compared runs in one process. A round times each candidate once; a ratio is
taken within a round, so that a slow minute slows both of its sides, and what is reported
is the median over the rounds. Before each timed step comes an untimed one of the same
candidate, for the others ran in between and have emptied the caches.
"""

import os
import platform
import statistics
import time
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import jax


class Ratio(NamedTuple):
    """Median, least and largest of paired ratios; above 1 is faster than the base."""

    median: float
    low: float
    high: float


def interleaved(steps, rounds, least=0.1, report=None):
    """Times candidates against each other.

    Args:
      steps: `{name: callable}`; a callable runs one step and returns when it is done.
      rounds: how often each candidate is timed.
      least: seconds; short steps are repeated in a row until this time is filled.
      report: optional function of a line of progress.

    Returns `{name: [seconds per step, one for each round]}`. Each round starts with
    another candidate, so that none always follows the same neighbour.
    """
    names = list(steps)
    for name in names:
        steps[name]()
    seconds = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(seconds_per_step(steps[name], least))
        if report:
            report(f"round {number + 1} of {rounds} done")
    return seconds


def seconds_per_step(step, least):
    """The mean of as many steps in a row as fill `least` seconds, after an untimed one."""
    step()
    count, elapsed, start = 0, 0.0, time.perf_counter()
    while not count or elapsed < least:
        step()
        count, elapsed = count + 1, time.perf_counter() - start
    return elapsed / count


def paired_ratio(seconds, base):
    """How many times as fast as `base`: both lists hold one time for each round."""
    ratios = [b / s for s, b in zip(seconds, base, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def cores():
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def hardware():
    """What ran, as ordered `{label: text}`."""
    devices = jax.devices()
    facts = {
        "CPU": _cpu_model(),
        "cores": str(cores()),
        "memory": _memory(),
        "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }
    if devices[0].platform != "cpu":
        facts["device"] = f"{devices[0].device_kind} (1 of {len(devices)} used)"
    for package in ("jax", "jaxlib", "flax", "torch"):
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            facts[package] = "not installed"
    if hasattr(os, "getloadavg"):
        facts["load before"] = f"{os.getloadavg()[0]:.1f}"
    return facts


def hardware_line(facts):
    """The facts of `hardware` as one line."""
    return "; ".join(f"{label} {text}" for label, text in facts.items())


def _cpu_model():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _memory():
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (AttributeError, OSError, ValueError):
        return "unknown"
