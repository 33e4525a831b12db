"""How long a start takes: to the first line, to the first update, and with what the last one left.

    python benchmarks/starts.py --rounds=3
    python benchmarks/starts.py --rounds=3 --beside=OTHER    # another checkout, in turns
    python benchmarks/starts.py --rounds=3 --config=configs/brent.py:text

Of `python train.py --config.report=1`, ended after its first update: from nothing, with an empty
cache of compiled programs, and a second time, with what the first start left there. Beside them
how long Python takes to import the package, which imports what it names when it is asked for; all
that it names but `nnx`; and all; and what these stand on alone: jax and flax, and flax.nnx, which
`import flax` leaves out. Modules are compiled to bytecode before. Seconds, medians of the rounds,
least and most in brackets. Nothing else should run.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import timing  # noqa: E402
from benchmarks.compare import whole  # noqa: E402
from hmrnn_jax import cli  # noqa: E402
from hmrnn_jax.errors import UserError  # noqa: E402

FIRST_UPDATE = r"update 1/"
# Every public name, each of which is imported when it is first asked for.
_NAMES = "import hmrnn_jax; [getattr(hmrnn_jax, name) for name in dir(hmrnn_jax)"
IMPORTS = {
    "package": "import hmrnn_jax",
    "but nnx": f"{_NAMES} if name != 'nnx']",
    "alone": "import jax, flax",
    "all": f"{_NAMES}]",
    "alone with nnx": "import jax, flax, flax.nnx",
}
ROWS = {
    "line": "first line",
    "update": "first update, from nothing",
    "second": "first update, the second time",
    "package": "import of the package",
    "but nnx": "import of all that it names but nnx",
    "alone": "import of jax and flax",
    "all": "import of all that it names",
    "alone with nnx": "import of jax, flax and flax.nnx",
}


# As Python is installed it keeps the bytecode of what it has imported once.
_UNSET = ("JAX_COMPILATION_CACHE_DIR", "PYTHONDONTWRITEBYTECODE")


def environment(**more):
    """What programs are started with."""
    return {name: value for name, value in os.environ.items() if name not in _UNSET} | more


def start(checkout, config, cache):
    """Seconds of a start to its first line and to its first update."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", "--config.report=1", f"--workdir={folder}/run"]
        command += [f"--config={config}"] if config else []
        begun, first = time.perf_counter(), None
        program = subprocess.Popen(
            command, cwd=checkout, env=environment(HMRNN_CACHE=str(cache)), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        with program:
            said = []
            for line in program.stdout:
                passed = time.perf_counter() - begun
                first = first or passed
                said.append(line)
                if re.match(FIRST_UPDATE, line):
                    program.kill()
                    return first, passed
    raise UserError(f"{' '.join(command)} ended before its first update:\n{''.join(said[-20:])}")


def imported(checkout, program):
    """Seconds of a Python that runs `program` and ends."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], cwd=checkout, check=True, env=environment())
    return time.perf_counter() - begun


def once(checkout, config):
    """The seconds of each of `ROWS`."""
    with tempfile.TemporaryDirectory() as cache:
        line, update = start(checkout, config, cache)
        _, second = start(checkout, config, cache)
    starts = {"line": line, "update": update, "second": second}
    return starts | {name: imported(checkout, program) for name, program in IMPORTS.items()}


def main(arguments=None):
    """Time starts of this checkout, and of another one in turns; print a table."""
    flags = parsed(arguments)
    checkouts = [ROOT, *([flags.beside] if flags.beside else [])]
    for checkout in checkouts:
        if not (checkout / "train.py").exists():
            raise UserError(f"--beside={checkout} has no train.py: name another checkout.")
    print(timing.hardware_line(timing.hardware()), flush=True)
    for checkout in checkouts:
        imported(checkout, IMPORTS["all"])
    found = {checkout: [] for checkout in checkouts}
    for number in range(flags.rounds):
        for checkout in checkouts if number % 2 == 0 else checkouts[::-1]:
            found[checkout].append(once(checkout, flags.config))
        print(f"round {number + 1} of {flags.rounds} done", file=sys.stderr, flush=True)
    print(table(found))


def table(found):
    """The Markdown table of `{checkout: [{row: seconds}]}`."""
    lines = ["| seconds |" + "".join(f" {checkout.resolve().name} |" for checkout in found)]
    lines.append("| --- |" + " ---: |" * len(found))
    for row, name in ROWS.items():
        cells = []
        for rounds in found.values():
            seconds = [values[row] for values in rounds]
            middle, least, most = statistics.median(seconds), min(seconds), max(seconds)
            cells.append(f" {middle:.2f} ({least:.2f}-{most:.2f}) |")
        lines.append(f"| {name} |" + "".join(cells))
    return "\n".join(lines)


def parsed(arguments):
    """The flags of a command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=whole, default=3, help="(3)")
    parser.add_argument("--beside", type=Path, help="another checkout of this project")
    parser.add_argument("--config", help="what is trained (the quickstart)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    cli.start(main)
