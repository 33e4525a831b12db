"""What a GPU or TPU makes of this library, in one call of some minutes.

    python benchmarks/accelerator.py --minutes=8 --output=runs/accelerator

In this order, each as far as the minutes go: the kernels' loss and gradients beside the scan's,
on the device; the train step of each back end at the sizes of Penn Treebank and text8, beside
`torch.nn.LSTM` (cuDNN) where PyTorch is there; then Penn Treebank characters, 3 x 512, detectors
taught and as in the paper, half of the time that is left each: after two thirds of it the
learning rate drops, and the updates end with it. A stage that fails is told, and the next goes
on. The folder gets accelerator.json, and of each training its metrics and a state of at most 16
MiB, from before its rate drops, from which the same command goes on, see `small_state`. The last
line printed is all of it as JSON. On a CPU it refuses, but for `--anywhere`.
"""

import argparse
import functools
import gc
import json
import math
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

# Before JAX starts: leave GPU memory to PyTorch, which shares the device.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks import (  # noqa: E402
    convergence,
    convergence_jobs,
    convergence_report,
    small_state,
    timing,
)
from benchmarks.problems import SIZES, Size, network, one_batch  # noqa: E402
from benchmarks.train_step import names_of, ours, torch_peer  # noqa: E402
from hmrnn_jax import cli, files  # noqa: E402
from hmrnn_jax.errors import UserError  # noqa: E402
from hmrnn_jax.training import loop, metrics_log  # noqa: E402
from hmrnn_jax.training.signals import Stopping  # noqa: E402

KERNELS = {"kernels": Size((128,) * 3, 64, 128, 50, batch=16, window=20)}
STEPS = {
    "scan f32": functools.partial(ours, backend="scan"),
    "kernels f32": functools.partial(ours, backend="pallas"),
    "scan bf16": functools.partial(ours, backend="scan", precision="bfloat16"),
    "kernels bf16": functools.partial(ours, backend="pallas", precision="bfloat16"),
    "ours lstm f32": functools.partial(ours, cell="lstm"),
    "ours lstm bf16": functools.partial(ours, cell="lstm", precision="bfloat16"),
    "torch lstm f32": functools.partial(torch_peer, bfloat16=False),
    "torch lstm bf16": functools.partial(torch_peer, bfloat16=True),
}
# Steps that `--steps` may ask for besides.
MORE = {
    "scan layer norm f32": functools.partial(ours, backend="scan", layer_norm="sum"),
    "kernels layer norm f32": functools.partial(ours, backend="pallas", layer_norm="sum"),
    "scan layer norm bf16": functools.partial(
        ours, backend="scan", layer_norm="sum", precision="bfloat16"
    ),
    "kernels layer norm bf16": functools.partial(
        ours, backend="pallas", layer_norm="sum", precision="bfloat16"
    ),
    "scan high": functools.partial(ours, backend="scan", precision="high"),
    "kernels high": functools.partial(ours, backend="pallas", precision="high"),
}
TRAINED = ("ptb_512/hm_taught", "ptb_512/hm_paper")
CLOSE = 1e-3  # relative difference of gradients in float32 that counts as equal
RESERVE = 30  # seconds kept for validating, testing and saving at a training's end
AGAIN = 30  # seconds to take a training up again and to validate it
SURE = 0.8  # of the updates that would fit, those that are asked for


class Deadline(Stopping):
    """True from a moment of `time.monotonic` on, as if SIGTERM had come then."""

    def __init__(self, moment):
        super().__init__()
        self.moment = moment

    def __bool__(self):
        return self.came or time.monotonic() >= self.moment

    @property
    def came(self):
        """Whether a signal came."""
        return super().__bool__()


def measured(flags, say):
    """All stages; returns what the JSON holds.

    Raises:
      UserError: there is no accelerator, or a training cannot be one of this program's.
    """
    platform = jax.devices()[0].platform
    if platform == "cpu" and not flags.anywhere:
        raise UserError("There is no GPU or TPU here: run it on one, or give --anywhere.")
    models = trainings(flags)
    end = time.monotonic() + 60 * flags.minutes
    flags.output.mkdir(parents=True, exist_ok=True)
    everything = {"hardware": timing.hardware(), "minutes": flags.minutes, "stages": {}}
    stages = (
        {} if flags.no_kernels else {"kernels": functools.partial(compared, KERNELS["kernels"])}
    )
    steps = STEPS
    if flags.steps:
        steps = {
            n: (STEPS | MORE)[n] for n in convergence.studies.chosen([*STEPS, *MORE], flags.steps)
        }
    for name in flags.size:
        stages[f"train step, {name}"] = functools.partial(timed, SIZES[name], steps)
    for number, model in enumerate(models):
        own = functools.partial(train, flags, model, len(models) - number)
        stages[f"training, {model}"] = own
    for name, stage in stages.items():
        say(f"{name}: {max(0, end - time.monotonic()):.0f} s left")
        start = time.monotonic()
        try:
            found = stage(end, say) if start < end else {"skipped": "no time is left"}
        except Exception as error:  # whatever it is, the next stage may do
            found = {"failed": f"{type(error).__name__}: {reason(error)}"}
        everything["stages"][name] = found | {"seconds": round(time.monotonic() - start, 1)}
        files.write_text(flags.output / "accelerator.json", json.dumps(everything, indent=1) + "\n")
        gc.collect()
        jax.clear_caches()
        if "stopped" in found:  # by a signal, which the stages to come are to heed as well
            break
    return everything


def trainings(flags):
    """The names, group/model, of what `flags` ask to train.

    Raises:
      UserError: a pattern names nothing, or what it names is not one training.
    """
    if not flags.train:
        return []
    models = convergence.studies.chosen(convergence_jobs.names(), flags.train)
    if len(asked(flags, models).seeds) > 1:
        raise UserError("--training has several --seeds: give one, for each training is one stage.")
    if words := [model for model in models if model.startswith("on_lstm_words/")]:
        raise UserError(
            f"--train={words[0]} is scored epoch by epoch, which this program does not do: train it"
            " with benchmarks/convergence.py."
        )
    return models


def reason(error):
    """The first line of an error's message, which may be empty: then the error's name."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def compared(size, end, say):
    """Loss and gradients of the kernels, and of bfloat16, beside the float32 scan's."""
    batch, found = one_batch(size), {}

    def gradient(policy):
        model, init, loss = network(size, "hm_lstm", "none", policy)
        params = jax.jit(init)(jax.random.key(0))
        carry = jax.tree.map(jnp.asarray, model.initial_carry(size.batch))
        scalars = {"slope": jnp.float32(1)}
        whole = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (value, _), gradients = whole(params, carry, batch, scalars, jax.random.key(1))
        return jax.device_get((value, gradients))

    base, base_gradients = gradient({"backend": "scan"})
    for name, policy in {
        "kernels f32": {"backend": "pallas"},
        "scan bf16": {"backend": "scan", "precision": "bfloat16"},
        "kernels bf16": {"backend": "pallas", "precision": "bfloat16"},
    }.items():
        try:
            value, gradients = gradient(policy)
        except Exception as error:  # each back end's compiler has errors of its own
            found[name] = {"failed": reason(error)}
            continue
        found[name] = differences(value, gradients, base, base_gradients)
        if name.endswith("f32"):
            each = found[name].values()
            found[name]["equal"] = None not in each and max(each) <= CLOSE
        say(f"{name}: {found[name]}")
        if time.monotonic() > end:
            break
    return found


def differences(value, gradients, base, base_gradients):
    """Of losses, in nats, and the greatest relative one of gradients; None: it is not finite."""
    pairs = zip(*map(jax.tree.leaves, (gradients, base_gradients)), strict=True)
    each = [np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-12) for a, b in pairs]
    found = {"loss": abs(float(value - base)), "gradient": float(np.max(each))}
    return {name: each if math.isfinite(each) else None for name, each in found.items()}


def timed(size, candidates, end, say):
    """Characters a second of each step, in turns; what cannot be built is told."""
    found, steps = {}, {}
    for name, build in candidates.items():
        if time.monotonic() > end:
            found[name] = {"skipped": "no time is left"}
            continue
        start = time.monotonic()
        try:
            candidate = build(size)
            candidate.step()
        except Exception as error:  # each back end's compiler has errors of its own
            found[name] = {"failed": reason(error)}
            continue
        say(f"{name}: built in {time.monotonic() - start:.0f} s")
        steps[name] = candidate
    rounds = {name: [] for name in steps}
    for _ in range(5):
        for name, candidate in steps.items():
            if time.monotonic() < end or not rounds[name]:
                rounds[name].append(timing.seconds_per_step(candidate.step, 0.3))
    for name, seconds in rounds.items():
        median = statistics.median(seconds)
        found[name] = {"ms": 1000 * median, "characters_per_second": size.units / median}
        found[name] |= {"least_ms": 1000 * min(seconds), "most_ms": 1000 * max(seconds)}
        say(f"{name}: {size.units / median:,.0f} characters/s")
    return found


def train(flags, model, shares, end, say):
    """Penn Treebank characters in one of so many `shares` of the time that is left.

    How many updates fit is known after two thirds of it: the rest are made at the lower rate.
    """
    (job,) = convergence_jobs.plan(asked(flags, [model]))
    job.config.report = 20  # updates that the device may be ahead when the time is up
    start = time.monotonic()
    moment = start + (end - start) / shares - flags.reserve
    own, first, found = job.name.replace("/", "-"), 0, {"ended": False}
    stopping = Deadline(start + 2 / 3 * (moment - start))
    with tempfile.TemporaryDirectory() as folder:
        small = flags.output / f"{own}.state"
        earlier = flags.output / f"{job.model}.state"  # as an earlier version named it
        if not small.exists() and earlier.exists():
            say(f"{earlier} is not gone on from: if it is of {job.name}, call it {small.name}.")
        if small.exists():
            first = small_state.unpack(small, job.config, folder)

        def until(config):
            return loop.train(
                config, folder, lambda line: "\n" in line or say(line), stopping=stopping
            )

        try:
            result = until(job.config)
            # Before the rate drops: a further call goes on from here.
            found["state_bytes"] = small_state.pack(folder, small)
            stopping.moment = moment
            rows = convergence_report.metrics_of(Path(folder))
            left = that_fit(rows, moment - time.monotonic())
            if result is None and left and not stopping.came:
                result = until(ending(job.config, rows[-1]["step"], left))
            found["ended"] = result is not None
        except Exception as error:  # what was trained is told all the same
            found["failed"] = reason(error)
        rows = convergence_report.metrics_of(Path(folder))
        outcome = convergence_report.outcome(rows, convergence_jobs.GROUPS[job.group])
        found |= {k: v for k, v in outcome.items() if k != "tests"}
        keep(rows, flags.output / f"{own}.metrics.jsonl", first)
    speeds = [row["chars_per_second"] for row in rows if "chars_per_second" in row]
    found["characters_per_second"] = statistics.median(speeds) if speeds else None
    return found | ({"stopped": stopping.status} if stopping.came else {})


def keep(rows, path, first):
    """Adds metrics to a file, in place of those that it has of updates after the `first`."""
    before = metrics_log.read_metrics(path) if path.exists() else []
    kept = [row for row in before if row["step"] <= first]
    files.write_text(path, "".join(json.dumps(row) + "\n" for row in [*kept, *rows]))


def asked(flags, models):
    """The flags of `convergence` for these trainings; wrong ones end the program."""
    only = ",".join(models)
    return convergence.parsed([f"--output={flags.output}", f"--only={only}", *flags.training])


def that_fit(rows, seconds):
    """Updates that fit into `seconds`, at the pace of those made; 0 if it is not known."""
    made = convergence_report.clock(rows)
    last = max(made, default=0)
    return max(0, int(SURE * (seconds - AGAIN) * last / made[last])) if last and made[last] else 0


def ending(config, done, left):
    """A training's last `left` updates, validated some three times, at a lower rate from the first
    of these on."""
    config = config.copy_and_resolve_references()
    config.update(steps=done + left, drops=1, drop_by=done / (done + left))
    config.evaluation.every = -(-(done + left) // max(1, 3 * (done + left) // left))
    return config


def parsed(arguments=None):
    """The flags of a command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add, names = parser.add_argument, convergence.studies.patterns
    add("--minutes", type=float, default=8.0, help="of all stages (8)")
    add("--output", type=Path, default=Path("runs/accelerator"), help="folder (runs/accelerator)")
    add(
        "--size", type=functools.partial(names_of, known=SIZES), default=["ptb", "text8"],
        help="of benchmarks.problems (ptb,text8)",
    )  # fmt: skip
    add(
        "--steps", type=names, default=[],
        help=f"patterns of steps to time, of {', '.join([*STEPS, *MORE])} (the first {len(STEPS)})",
    )  # fmt: skip
    add(
        "--train", type=names, default=list(TRAINED),
        help=f"of benchmarks/convergence.py ({','.join(TRAINED)})",
    )  # fmt: skip
    add(
        "--training", type=str.split, default=["--precision=bfloat16"],
        help="flags of benchmarks/convergence.py for the trainings (--precision=bfloat16)",
    )  # fmt: skip
    add("--reserve", type=float, default=RESERVE, help=f"seconds for a training's end ({RESERVE})")
    add("--no-kernels", action="store_true", help="leave out the comparison of kernels and scan")
    add("--anywhere", action="store_true", help="on a CPU too")
    return parser.parse_args(arguments)


def main(flags, say):
    """Runs all stages and says the line of JSON; returns the exit status."""
    everything = measured(flags, say)
    say(json.dumps(everything))
    return next((s["stopped"] for s in everything["stages"].values() if "stopped" in s), 0)


if __name__ == "__main__":
    cli.start(lambda: main(parsed(), lambda text: print(text, flush=True)))
