"""Whole programs under faults: killed, stopped, without room, and two at once.

The programs are started as a user starts them. A `Case` is one series of starts under one kind
of fault; what goes wrong in it is counted, and its folder then kept.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from benchmarks import fault_checks as checks
from hmrnn_jax.errors import BAD_INPUT, INTERRUPTED, STOPPED

ROOT = Path(__file__).resolve().parents[1]
STEPS = 24  # updates of each run, each of them reported and saved
LIMIT = 1800  # seconds after which a program hangs, if nothing is known of the machine
SIGNALS = {signal.SIGTERM: STOPPED, signal.SIGINT: INTERRUPTED}


class Program:
    """A running program; what it says goes to the file `log`. After `limit` seconds it hangs."""

    _running = set()

    def __init__(self, command, environment, log, limit=LIMIT):
        self.command, self.log, self.limit = command, log, limit
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._running.add(self)

    @classmethod
    def kill_all(cls):
        """Ends what still runs, when the campaign itself is ended."""
        for program in list(cls._running):
            program.send(signal.SIGKILL)

    @property
    def text(self):
        """What it has said so far."""
        return self.log.read_text(errors="replace")

    @property
    def said(self):
        """The same, read."""
        return checks.Said.of(self.text)

    def wait_for(self, condition, pause=0.002):
        """Waits until `condition()` holds; False if the program has ended, or hangs."""
        last = time.monotonic() + self.limit
        while self._process.poll() is None and time.monotonic() < last:
            if condition():
                return True
            time.sleep(pause)
        return False

    def wait_for_updates(self, number):
        """Waits for that many lines of updates, or for the line of the last update."""
        last = f"update {STEPS}/{STEPS}"
        return self.wait_for(lambda: self.text.count("\nupdate ") >= number or last in self.text)

    def send(self, number):
        """Sends a signal; False if the program had ended before."""
        if self._process.poll() is not None:
            return False
        self._process.send_signal(number)
        return True

    def end(self):
        """Waits for the end; the exit status, negative for a signal's, None if it hangs."""
        try:
            return self._process.wait(self.limit)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return None
        finally:
            self._running.discard(self)


class Case:
    """A series of starts under one kind of fault.

    Args:
      stage: of `faults`. name: of the case, and of its folder.
    """

    def __init__(self, stage, name):
        self.stage, self.name = stage, name
        self.random = random.Random(f"{stage.seed} {name}")
        self.folder = stage.output / "work" / name
        self.folder.mkdir(parents=True)
        self.counts, self._story = Counter(), []

    def start(self, workdir, program="train.py"):
        """Starts a program on a workdir."""
        command, number = self.stage.command(program, workdir), len(list(self.folder.glob("*.log")))
        self._story.append(f"start {number}: {' '.join(command)}")
        log, limit = self.folder / f"start{number:02}.log", max(300, 60 * self.stage.startup)
        return Program(command, self.stage.environment, log, limit)

    def tell(self, line):
        """Notes what was done, for whoever looks at a kept case."""
        self._story.append(line)

    def fault(self, count, sentence, amount=1):
        """Counts a fault."""
        self.counts[count] += amount
        self.tell(f"FAULT, {count}: {sentence}")
        self.stage.say(f"  {self.name}: {count}: {sentence}")

    def look(self, program, status):
        """What a program said; counts what no program may do."""
        said = program.said
        if status is None:
            self.fault("hangs", f"no end after {program.limit:.0f} s")
        if said.traceback:
            self.fault("tracebacks", program.log.name)
        elif status == BAD_INPUT and len(said.errors) != 1:
            self.fault("wrong_statuses", f"{len(said.errors)} sentences, {program.log.name}")
        return said

    def check_resumption(self, said, floor):
        """Counts what a start lost of the updates up to `floor`, which were saved."""
        if said.resumed is None:
            if floor and said.updates:
                self.fault("restarts_from_zero", f"update {floor} was saved")
        elif said.resumed < floor:
            self.fault("steps_lost", f"{said.resumed} instead of {floor}", floor - said.resumed)

    def check_end(self, workdir, since=0):
        """Counts how a finished run differs from the uninterrupted one."""
        state = self.stage.reader.state(workdir)
        if state.latest.kind == "traceback" or state.best.kind == "traceback":
            self.fault("tracebacks", f"{state.latest.told} {state.best.told}")
        for line in checks.differences(state, self.stage.reference, since):
            self.fault("different_results", line)
        for line in checks.half_written(workdir):
            self.fault("half_written", line)

    def close(self):
        """Removes the folder, or keeps it where a fault was found; returns the counts."""
        if any(self.counts[name] for name in checks.MUST_BE_ZERO):
            (self.folder / "case.txt").write_text("\n".join(self._story) + "\n")
            (self.stage.output / "failing").mkdir(exist_ok=True)
            shutil.move(self.folder, self.stage.output / "failing" / self.name)
        else:
            shutil.rmtree(self.folder)
        return self.counts


def kills(case, number):
    """Kills runs `number` times, half of them while a save is written, and starts them again."""
    while case.counts["kills"] < number:
        workdir, floor, status = case.folder / f"run{case.counts['kills']}", 0, None
        while status != 0:
            program = case.start(workdir)
            if case.counts["kills"] < number:
                kill = _while_saving if case.counts["kills"] % 2 else _anywhere
                case.counts["kills"] += kill(case, program, workdir)
            status = program.end()
            said = case.look(program, status)
            case.check_resumption(said, floor)
            if status not in (0, -signal.SIGKILL):
                return case.fault("wrong_statuses", f"{status}: {' '.join(said.errors)}")
            # A save is whole when it has its name; and before a save the one before it is whole.
            floor = max([floor, *checks.steps_on_disk(workdir), *(u - 2 for u in said.updates)])
        case.check_end(workdir)


def _anywhere(case, program, workdir):
    """Kills at any moment; whether it was in time."""
    if case.random.random() < 0.15:
        time.sleep(case.random.uniform(0, case.stage.startup))
    else:
        _wait_for_any_moment(case, program)
    return program.send(signal.SIGKILL)


def _wait_for_any_moment(case, program):
    """Waits for a moment from the first word on: of the start, between updates, or of the end."""
    part, startup = case.random.random(), case.stage.startup
    if part < 0.3:
        program.wait_for(lambda: program.text)
        time.sleep(startup * case.random.random() ** 3)  # most of them soon
    elif part < 0.8:
        if program.wait_for_updates(case.random.randint(1, 8)):
            time.sleep(case.random.uniform(0, 0.2))
    elif program.wait_for_updates(STEPS):
        time.sleep(case.random.uniform(0, startup / 4))


def _while_saving(case, program, workdir):
    """Kills at a moment at which a save has begun to be written."""
    wanted, present = case.random.randint(1, 8), _temporary(workdir)

    def enough():
        nonlocal wanted, present
        now = _temporary(workdir)
        wanted, present = wanted - len(now - present), now
        return wanted <= 0

    if program.wait_for(enough, pause=0.001):
        time.sleep(case.random.choice([0, case.random.uniform(0, 0.05)]))
    done = program.send(signal.SIGKILL)
    program.end()
    case.counts["kills_while_saving"] += done and bool(_temporary(workdir))
    return done


def _temporary(workdir):
    return {
        path
        for name in ("latest", "best")
        if (folder := workdir / "checkpoints" / name).is_dir()
        for path in os.listdir(folder)
        if "tmp" in path
    }


def signals(case, number):
    """Sends SIGTERM and SIGINT in turn, `number` in all, and starts the same command again."""
    while case.counts["signals"] < number:
        workdir, floor, status = case.folder / f"run{case.counts['signals']}", 0, None
        while status != 0:
            program, sent = case.start(workdir), None
            if case.counts["signals"] < number:
                sent = list(SIGNALS)[(case.counts["signals"] + case.stage.seed) % 2]
                _wait_for_any_moment(case, program)
                case.counts["signals"] += program.send(sent)
            status = program.end()
            said = case.look(program, status)
            case.check_resumption(said, floor)
            if status not in (0, sent and SIGNALS[sent]):
                return case.fault("wrong_statuses", f"{status} after signal {sent}")
            if status == 0 and "\ntest " not in program.text:
                case.fault("wrong_statuses", f"0 after signal {sent}, and training has not ended")
                status = None
            if status == SIGNALS.get(sent) and said.updates and said.stopped != said.updates[-1]:
                case.fault("steps_lost", f"stopped after {said.stopped}, {said.updates[-1]} done")
            floor = max([floor, said.stopped or 0, *checks.steps_on_disk(workdir)])
        case.check_end(workdir)


def full_disk(case, number):
    """A disk without room: for a new run (even numbers), or for one that goes on."""
    disk = case.folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        case.stage.say("full disks: skipped, for no small disk can be mounted here (root may)")
        case.counts["full_disks_skipped"] += 1
        return
    try:
        _full_disk(case, disk, number % 2)
    finally:
        if any(case.counts[name] for name in checks.MUST_BE_ZERO):
            shutil.copytree(disk / "run", case.folder / "run", dirs_exist_ok=True)
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
        disk.rmdir()
    case.counts["full_disks"] += 1


def _full_disk(case, disk, goes_on):
    workdir, ballast, before = disk / "run", disk / "ballast", 0
    if goes_on:
        shutil.copytree(case.stage.half, workdir)
        before = checks.steps_on_disk(workdir)[-1]
    room = case.random.randint(0, 90_000)  # less than a save
    with ballast.open("wb") as file:
        file.write(bytes(shutil.disk_usage(disk).free - room))
    case.tell(f"{room:,} bytes are left on {disk}")
    program = case.start(workdir)
    status = program.end()
    said = case.look(program, status)
    if status != BAD_INPUT:
        case.fault("wrong_statuses", f"{status} with the disk full")
    for line in checks.half_written(workdir):
        case.fault("half_written", line)
    # Whatever has its final name, is whole.
    steps = checks.steps_on_disk(workdir)
    if steps:
        read = case.stage.reader.latest(workdir, read_only=True)
        if (read.kind, read.step) != ("values", steps[-1]):
            case.fault("half_written", f"step {steps[-1]}: {read}")
    ballast.unlink()
    program = case.start(workdir)
    status = program.end()
    said = case.look(program, status)
    case.check_resumption(said, max([before, *steps]))
    if status != 0:
        return case.fault("wrong_statuses", f"{status} after room was made")
    case.check_end(workdir)


def second_process(case, number):
    """A second process on the same folder: while the first trains, or at once (odd numbers)."""
    workdir = case.folder / "run"
    first = case.start(workdir)
    if number % 2 == 0:
        first.wait_for_updates(2)
    second = case.start(workdir)
    programs = {"second": second, "first": first}
    statuses = {name: program.end() for name, program in programs.items()}
    for name, program in programs.items():
        case.look(program, statuses[name])
    wanted = [(0, BAD_INPUT)] if number % 2 == 0 else [(0, BAD_INPUT), (BAD_INPUT, 0)]
    if (statuses["first"], statuses["second"]) not in wanted:
        case.fault("wrong_statuses", f"{statuses}, of two processes on one workdir")
    case.check_end(workdir)
    case.counts["second_processes"] += 1


def again(case, number):
    """A run that has ended is started again: nothing of it changes."""
    workdir = case.folder / "run"
    shutil.copytree(case.stage.whole, workdir)
    program = case.start(workdir)
    status = program.end()
    case.look(program, status)
    if status != 0:
        case.fault("wrong_statuses", f"{status} of a finished run started again")
    case.check_end(workdir)
    case.counts["finished_again"] += 1


def prepared_environment(cache):
    """The environment of the programs: one CPU device, quick compilation, a cache of it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    return kept | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": os.environ.get("XLA_FLAGS") or "--xla_backend_optimization_level=0",
    }


def python(program, *arguments):
    """The command that starts a program."""
    return [sys.executable, str(ROOT / program), *arguments]
