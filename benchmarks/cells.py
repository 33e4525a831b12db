"""Cells of equal size on one task: trains each with several seeds and tabulates the test scores.

    python benchmarks/cells.py --config=configs/mnist_glimpses.py --seeds=3 --epochs=5 \\
        --cells=lstm,lstm_stack,nested_lstm,hm_lstm --output=runs/glimpses
    python benchmarks/cells.py --config=configs/quatrains.py --seeds=1 --epochs=8 \\
        --cells=lstm,lstm_stack,nested_lstm,hm_lstm,on_lstm --output=runs/verse

The configuration takes the cell as its argument and gives it a size, see there. Each training
is a run of its own in the output folder, as `hmrnn train` leaves it, and is resumed by the same
command. The folder gets cells.json (every score) and cells.md (the table: mean and sample
standard deviation over the seeds). A seed draws the initial parameters, and the order of the
examples where they have one.
"""

import argparse
import json
import math
import runpy
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax  # noqa: E402

from benchmarks import studies  # noqa: E402
from hmrnn_jax import cli, parallel, tasks  # noqa: E402
from hmrnn_jax.errors import UserError  # noqa: E402
from hmrnn_jax.files import write_text  # noqa: E402
from hmrnn_jax.training import loop  # noqa: E402
from hmrnn_jax.training.signals import Stopping  # noqa: E402


def score(config, workdir, stopping):
    """The test metrics of a run, trained if need be, and its number of parameters.

    None if the run was stopped.
    """
    file = Path(workdir) / "test.json"
    if not file.exists():
        result = loop.train(config, str(workdir), stopping=stopping)
        if result is None:
            return None
        result["parameters"] = size(config)
        write_text(file, json.dumps(result))
    return json.loads(file.read_text())


def size(config):
    """Number of parameters."""
    task = tasks.make(config, parallel.make_mesh())
    shapes = jax.eval_shape(task.init_params, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def table(results):
    """Markdown of `{cell: results, one for each seed}`."""
    named = {
        "error": ("test error, %", 2, lambda r: r["error"]),
        "bpc": ("test perplexity", 2, lambda r: math.exp(r["nats"])),
        "log_likelihood": ("test log-likelihood", 1, lambda r: r["log_likelihood"]),
    }
    first = next(iter(results.values()))[0]
    shown = [columns for name, columns in named.items() if name in first]
    shown.append(("test nats", 4, lambda r: r["nats"]))
    lines = [
        f"| cell | parameters | {' | '.join(name for name, *_ in shown)} |",
        "| --- | ---: |" + " ---: |" * len(shown),
    ]
    for cell, of_seeds in results.items():
        figures = [_spread([of(r) for r in of_seeds], digits) for _, digits, of in shown]
        lines.append(f"| {cell} | {of_seeds[0]['parameters']:,} | {' | '.join(figures)} |")
    return "\n".join(lines)


def _spread(values, digits):
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} +- {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="a file of configs/ that takes a cell")
    parser.add_argument("--cells", required=True, help="its arguments, by comma")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=0, help="0: those of the configuration")
    parser.add_argument("--steps", type=int, default=0, help="updates at most; 0: all")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--output", required=True, help="folder of the runs and the table")
    flags = parser.parse_args(arguments)
    cells = flags.cells.split(",")
    if flags.seeds < 1 or min(flags.epochs, flags.steps) < 0:
        raise UserError("--seeds must be 1 or more, --epochs and --steps 0 or more.")
    if not Path(flags.config).is_file():
        raise UserError(f"There is no configuration {flags.config}; see configs/.")
    output = Path(flags.output)
    output.mkdir(parents=True, exist_ok=True)
    runs = {}
    for cell in cells:  # every argument is tried before the first training
        for seed in range(flags.seeds):
            config = runpy.run_path(flags.config)["get_config"](cell)
            config.seed, config.model.precision = seed, flags.precision
            config.epochs, config.steps = flags.epochs or config.epochs, flags.steps
            runs[cell, seed] = config
    folders = {(cell, seed): output / f"{cell}-{seed}" for cell, seed in runs}
    for key, config in runs.items():  # as is what an earlier call has left
        studies.check(folders[key], config, "--config, --epochs, --steps and --precision")
    results, stopping = {cell: [] for cell in cells}, Stopping()
    for (cell, seed), config in runs.items():
        print(f"{cell}, seed {seed}", flush=True)
        result = score(config, folders[cell, seed], stopping)
        if result is None:
            return stopping.status
        results[cell].append(result)
    length = f"{flags.steps:,} updates" if flags.steps else f"{config.epochs} epochs"
    text = f"{flags.config}, {length}, {flags.precision}, {flags.seeds} seeds\n\n"
    text += table(results)
    write_text(output / "cells.json", json.dumps(results, indent=1))
    write_text(output / "cells.md", text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    cli.start(main)
