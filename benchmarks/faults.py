"""A fault campaign: runs are killed, stopped, damaged, and must lose nothing and say it.

    python benchmarks/faults.py --kills=100 --signals=20 --flips=500 --structures=20 --jobs=2
    python benchmarks/faults.py --small                # a handful of each, as CI does

`train.py` and `eval.py` are started as a user starts them, on a tiny HM-LSTM that saves at every
update, over a text made here. What is done to them, so many times as the flags say:

* kills: SIGKILL at random moments, half of them while a save is written; the same command
  again until the run ends, bit for bit as the uninterrupted run did;
* signals: SIGTERM (exit status 75) and SIGINT (130), and again the same command;
* flips: a single bit of a file of a checkpoint, in turn in each file of the newest and of the
  best. It is harmless, or told and the save before it taken. Restored in this process as the
  programs do it; `met_flips` are met by the programs themselves;
* structures: files and folders of a run that are missing, foreign or cut;
* disks: no room left, for a new run or for one that goes on (where a small disk can be mounted);
* pairs: two processes on one folder; and again: a finished run, started again.

Random choices come from `--seed`; moments, of course, from the machine too. The counts that must
be zero are those of `fault_checks.MUST_BE_ZERO`: if one is not, the exit status is 1, and the
folder of the case, its commands and what the programs said are kept in `OUTPUT/failing`. The
last line is one JSON object of all counts.
"""

import argparse
import functools
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":  # before JAX starts: as the programs are started
    os.environ |= {"JAX_PLATFORMS": "cpu"}
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

from absl import logging  # noqa: E402

from benchmarks import fault_checks, fault_damage, fault_runs  # noqa: E402
from configs import quickstart  # noqa: E402

WORDS = "the cat sat on a mat and then it went to see who was there by sun light again".split()
SETTINGS = {
    "data.name": "text",
    "model.sizes": (8, 8),
    "model.embedding": 8,
    "model.output": 8,
    "batch": 2,
    "window": 10,
    "steps": fault_runs.STEPS,
    "report": 1,
    "save": 1,
    "evaluation.every": 6,
    "evaluation.batch": 2,
    "evaluation.window": 10,
    "evaluation.warmup": 10,
    "finish": "metrics",
}
HALF = 15  # updates after which a run is stopped that is then damaged


class Part(NamedTuple):
    """A part of a campaign.

    Attributes:
      act: function of a `Case` and an argument. full, small: faults by default, and of --small.
      most: faults of one case, whose argument is their number; None for one fault each, and the
        argument is its place.
    """

    act: Callable
    full: int
    small: int
    most: int | None = None


PARTS = {
    "kills": Part(fault_runs.kills, 100, 2, 5),
    "signals": Part(fault_runs.signals, 20, 2, 4),
    "flips": Part(fault_damage.flips, 500, 40, 500),
    "met_flips": Part(fault_damage.met_flip, 6, 1),
    "structures": Part(fault_damage.structure, 20, 1),
    "disks": Part(fault_runs.full_disk, 4, 1),
    "pairs": Part(fault_runs.second_process, 4, 1),
    "again": Part(fault_runs.again, 1, 1),
}


class Stage:
    """What all cases share: the text, the command, and the run that nothing interrupts.

    Args:
      output: folder; its `work` and `failing` are emptied. seed: of all random choices.
      say: prints a line.
    """

    def __init__(self, output, seed, say=print):
        self.output, self.seed, self.say = Path(output).absolute(), seed, say
        for name in ("work", "failing"):
            shutil.rmtree(self.output / name, ignore_errors=True)
        self.base = self.output / "work/base"
        self.base.mkdir(parents=True)
        text = self.base / "text.txt"
        text.write_text(" ".join(random.Random(seed).choices(WORDS, k=2000)) + "\n")
        self.settings = SETTINGS | {"data.path": str(text)}
        self.environment = fault_runs.prepared_environment(self.output / "compiled")
        self.whole, self.half = self.base / "whole", self.base / "half"
        config = quickstart.get_config()
        config.update_from_flattened_dict(self.settings)
        self.reader = fault_checks.Reader(config)
        self.startup = 0.0

    def command(self, program, workdir):
        """The command that starts a program on a run's folder."""
        flags = [f"--workdir={workdir}"]
        if program == "train.py":
            for name, value in self.settings.items():
                given = ",".join(map(str, value)) if isinstance(value, tuple) else value
                flags.append(f"--config.{name}={given}")
        else:
            flags.append("--json")
        return fault_runs.python(program, *flags)

    @functools.cached_property
    def reference(self):
        """The `State` of the run that nothing interrupts."""
        self._program("train.py", self.whole, 0)
        return self.reader.state(self.whole)

    @functools.cached_property
    def half_score(self):
        """What `eval.py` says of the run that was stopped half-way."""
        return self._program("eval.py", self.half, 0).said.score

    def prepare(self, parts):
        """Makes the runs that these parts of a campaign need."""
        self.say(f"a run that nothing interrupts: update {self.reference.latest.step}")
        if {"flips", "met_flips", "structures", "disks"} & parts:
            self._program("train.py", self.half, None, stop=True)
        if {"met_flips", "structures"} & parts:
            self.say(f"one stopped half-way: {self.half_score}")

    def _program(self, name, workdir, wanted, stop=False):
        start, log = time.monotonic(), self.base / f"{name}-{workdir.name}.log"
        program = fault_runs.Program(self.command(name, workdir), self.environment, log)
        if program.wait_for_updates(1):
            self.startup = time.monotonic() - start
        if stop and program.wait_for_updates(HALF):
            program.send(signal.SIGTERM)
        status = program.end()
        if wanted is not None and status != wanted:
            raise RuntimeError(f"An undisturbed run ends with {status}:\n{program.text}")
        return program


def campaign(stage, numbers, jobs=1):
    """Does `numbers[part]` faults of each part; returns all counts."""
    start, counts = time.monotonic(), Counter(dict.fromkeys(fault_checks.MUST_BE_ZERO, 0))
    stage.prepare({part for part, number in numbers.items() if number})
    with ThreadPoolExecutor(jobs) as pool:
        try:
            waiting = [pool.submit(_case, stage, *case) for case in cases(numbers, stage.seed)]
            for number, future in enumerate(waiting, 1):
                name, found = future.result()
                counts.update(found)
                bad = sum(counts[name] for name in fault_checks.MUST_BE_ZERO)
                stage.say(
                    f"{number}/{len(waiting)} {name}: {_words(found)}; {bad} faults so far,"
                    f" {time.monotonic() - start:.0f} s"
                )
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            fault_runs.Program.kill_all()
    return dict(counts) | {"seed": stage.seed, "seconds": round(time.monotonic() - start, 1)}


def cases(numbers, seed):
    """`(name, function of a Case)` of each case of a campaign."""
    found = []

    def add(name, act, argument):
        found.append((name, lambda case: act(case, argument)))

    for part, (act, _, _, most) in PARTS.items():
        for case, first in enumerate(range(0, numbers[part], most or 1)):
            argument, name = min(most, numbers[part] - first) if most else case, f"{part}-{case:03}"
            if part == "structures":
                argument = _kind(case, seed)
                name += f"-{argument}"
            add(name, act, argument)
    return found


def _kind(number, seed):
    """The kind of the structure of that number: all come up before one comes twice."""
    kinds = list(fault_damage.STRUCTURES)
    turn, place = divmod(number, len(kinds))
    return random.Random(f"{seed} {turn}").sample(kinds, len(kinds))[place]


def _case(stage, name, function):
    case = fault_runs.Case(stage, name)
    try:
        function(case)
    finally:
        counts = case.close()
    return name, counts


def _words(counts):
    return ", ".join(f"{name} {value}" for name, value in counts.items() if value) or "nothing"


def table(counts):
    """All counts, for people."""
    done = {name: n for name, n in counts.items() if name not in fault_checks.MUST_BE_ZERO}
    lines = [f"{name:28}{value:>8}" for name, value in sorted(done.items())]
    lines += ["must be zero:"]
    lines += [f"{name:28}{counts[name]:>8}  {t}" for name, t in fault_checks.MUST_BE_ZERO.items()]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, part in PARTS.items():
        default = f"{part.full} if not given; --small: {part.small}"
        parser.add_argument(f"--{name}", type=int, metavar="N", help=default)
    parser.add_argument("--small", action="store_true", help="a handful of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="programs at a time")
    parser.add_argument("--output", default="runs/faults")
    flags = vars(parser.parse_args())
    defaults = {name: part.small if flags["small"] else part.full for name, part in PARTS.items()}
    numbers = {name: n if flags[name] is None else flags[name] for name, n in defaults.items()}
    logging.set_verbosity(logging.ERROR)
    # A shell that starts this in the background would have the programs ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    stage = Stage(flags["output"], flags["seed"], functools.partial(print, flush=True))
    counts = campaign(stage, numbers, flags["jobs"])
    print(table(counts))
    bad = any(counts[name] for name in fault_checks.MUST_BE_ZERO)
    print(f"failing cases: {stage.output / 'failing'}" if bad else "no fault found")
    print(json.dumps(counts), flush=True)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
