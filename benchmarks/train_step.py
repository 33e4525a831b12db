"""Whole train steps side by side: loss, gradient, clipping, Adam.

    python benchmarks/train_step.py --size=tiny,ptb,text8,on_lstm,nested_lstm,strokes --json=FILE
    python benchmarks/train_step.py --size=ptb_taught,mid_taught --rates=.18,.04   # COPY saves

Prints the hardware and, for each size, a Markdown table. Ratios are medians of ratios
taken within a round against the first version (see `timing`), larger is faster; `naive`
is the same mathematics as `ours` (see `peers`). In sizes `..._taught` detectors fire at given rates
(at random, nested), so that no training is needed, and the first is our dense step. `with a
teacher` has the losses of taught detectors, too. One device is used, whatever it is. Below the
table of `strokes` stands how many of its steps are padding in training.
"""

import argparse
import functools
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

# Before JAX starts: leave GPU memory to the peers that share the device.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks import peer_stacks, peers, timing  # noqa: E402
from benchmarks.problems import SIZES, at_rates, network, one_batch, padding, stream  # noqa: E402
from hmrnn_jax import cli, files, parallel  # noqa: E402
from hmrnn_jax.recurrence import execution  # noqa: E402
from hmrnn_jax.tasks import objectives  # noqa: E402
from hmrnn_jax.tasks.metrics import BITS  # noqa: E402
from hmrnn_jax.training import optim  # noqa: E402
from hmrnn_jax.training import state as train_state  # noqa: E402

BASE = "naive"


class Candidate(NamedTuple):
    """Something to time.

    Attributes:
      step: runs one train step and returns when it is done.
      temporaries: bytes of the compiled step's intermediate values, None if unknown.
      parameters: how many.
      compiled: our program, None for peers.
    """

    step: Callable[[], None]
    temporaries: int | None
    parameters: int
    compiled: Any = None


def temporaries(compiled):
    """Bytes of temporaries, None where the backend does not tell."""
    analysis = compiled.memory_analysis()
    return getattr(analysis, "temp_size_in_bytes", None)


# As the quickstart's detectors are taught.
TAUGHT_BY = objectives.Boundaries(lengths=(5.5, 4.0), teacher="entropy", rate="ratio")


def ours(
    size, cell=None, layer_norm="none", skipping=False, boundaries=objectives.NOTHING, **policy
):
    """The library's own step, as training runs it, dense or leaving COPYs out.

    `boundaries` are taught in a language model.
    """
    model, init, loss = network(size, cell or size.cell, layer_norm, policy)
    if boundaries.active:
        loss = functools.partial(loss, boundaries=boundaries)
    optimizer = optim.optimizer()
    mesh = parallel.make_mesh(jax.devices()[:1])
    if size.rates and (cell or size.cell) == "hm_lstm":
        init = functools.partial(_at_rates, init, size.rates)
    state = jax.jit(functools.partial(train_state.create, init, optimizer, 0))()
    state = parallel.replicate(state, mesh)
    carry = jax.tree.map(np.asarray, model.initial_carry(size.batch))
    carry = parallel.shard_rows(carry, mesh)
    batch = parallel.shard_batch(one_batch(size), mesh)
    scalars = {
        "learning_rate": np.float32(0 if size.rates else peers.LEARNING_RATE),
        "slope": np.float32(1),
        "averaged": np.float32(0),
    } | {name: np.float32(value) for name, value in boundaries.scalars(0).items()}
    update = functools.partial(train_state.train_step, loss, optimizer)
    if skipping:
        update = execution.leaving_out_copies(update)
    compiled = parallel.pmapped(update, mesh).lower(state, carry, batch, scalars).compile()
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    held = [state, carry]

    def step():
        held[0], held[1], metrics = compiled(held[0], held[1], batch, scalars)
        jax.block_until_ready((held, metrics))

    return Candidate(step, temporaries(compiled), count, compiled)


def _at_rates(init, rates, key):
    return at_rates(init(key), rates)


def flax_peer(size, module):
    """A Flax peer's step, see `peers.linen_step`."""
    model, batch, loss = module(size), one_batch(size), peers.cross_entropy
    if size.components:
        loss = functools.partial(peers.mixture_loss, size.components)
    step, compiled, count = peers.linen_step(model, batch.inputs, batch.targets, loss)
    return Candidate(step, temporaries(compiled), count)


def torch_peer(size, bfloat16):
    """PyTorch's step, see `peers.torch_lstm_step`."""
    batch = one_batch(size)
    step, count = peers.torch_lstm_step(
        size.vocabulary, size.embedding, size.sizes, size.output, batch.inputs, batch.targets,
        bfloat16,
    )  # fmt: skip
    return Candidate(step, None, count)


def naive_hm_lstm(size):
    return peers.NaiveHMLSTM(size.outputs, size.embedding, size.sizes, size.output)


def flax_lstm(size):
    return peers.FlaxLSTM(size.vocabulary, size.embedding, size.sizes, size.output)


def naive_stack(size):
    return peer_stacks.NaiveStack(size.cell, size.vocabulary, size.embedding, size.sizes)


OURS = {
    "ours f32": ours,
    "ours autodiff f32": functools.partial(ours, gradient="autodiff"),
    "ours bf16": functools.partial(ours, precision="bfloat16"),
}
STACK = {BASE: functools.partial(flax_peer, module=naive_stack)} | OURS
HM_LSTM = {
    BASE: functools.partial(flax_peer, module=naive_hm_lstm),
    **OURS,
    "ours layer norm f32": functools.partial(ours, layer_norm="sum"),
    "ours layer norm bf16": functools.partial(ours, layer_norm="sum", precision="bfloat16"),
}
LSTM = {
    "ours lstm": functools.partial(ours, cell="lstm"),
    "ours lstm bf16": functools.partial(ours, cell="lstm", precision="bfloat16"),
    "torch lstm f32": functools.partial(torch_peer, bfloat16=False),
    "torch lstm bf16": functools.partial(torch_peer, bfloat16=True),
}
WITH_TEACHER = {"ours with a teacher f32": functools.partial(ours, boundaries=TAUGHT_BY)}
# Against our own dense step: what COPY saves.
TAUGHT = {
    "ours f32": ours,
    **WITH_TEACHER,
    "ours skipping f32": functools.partial(ours, skipping=True),
    "ours layer norm f32": functools.partial(ours, layer_norm="sum"),
    "ours skipping layer norm f32": functools.partial(ours, layer_norm="sum", skipping=True),
    "ours bf16": functools.partial(ours, precision="bfloat16"),
    "ours skipping bf16": functools.partial(ours, precision="bfloat16", skipping=True),
    **LSTM,
}
# For each kind of `SIZES`, what is measured.
CANDIDATES = {
    "hm_lstm": HM_LSTM
    | WITH_TEACHER
    | {"flax lstm": functools.partial(flax_peer, module=flax_lstm)}
    | LSTM,
    "taught": TAUGHT,
    "on_lstm": STACK,
    "nested_lstm": STACK,
    "strokes": HM_LSTM,
}
NAMES = tuple(dict.fromkeys(name for kind in CANDIDATES.values() for name in kind))


def base_of(size):
    """What the candidates of a size stand against."""
    return next(iter(CANDIDATES[size.kind]))


def overhead(size, repeats=50):
    """Median seconds of what training does around a step: `{data, logging}`.

    `data`: cutting the batch and placing it on the device. `logging`: fetching the step's
    metrics, which are ready, and making a line of them, as if every step were reported.
    """
    mesh = parallel.make_mesh(jax.devices()[:1])
    batches = stream(size, 8)
    depth = len(size.sizes)
    widths = {"fired": depth - 1, "alive": depth - 1, "update": depth, "copy": depth}
    metrics = {name: np.ones(width, np.float32) for name, width in widths.items()}
    metrics |= {name: np.float32(1) for name in ("nats", "count", "gradient_norm")}
    # New arrays each time: a fetched array remembers its value.
    fresh = jax.jit(lambda step: jax.tree.map(lambda m: m * step, metrics))
    seconds = {"data": [], "logging": []}
    for step in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(parallel.shard_batch(batches(step), mesh))
        seconds["data"].append(time.perf_counter() - start)
        ready = jax.block_until_ready(fresh(step + 1.0))
        start = time.perf_counter()
        log_line(step, jax.device_get(ready))
        seconds["logging"].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def log_line(step, metrics):
    """A line as a training loop writes it, from the sums of `training.state.train_step`."""
    count = metrics["count"]
    row = {"step": step, "bpc": float(BITS * metrics["nats"] / count)}
    row["gradient_norm"] = float(metrics["gradient_norm"])
    for name in ("fired", "alive", "update", "copy"):
        row[name] = (metrics[name] / count).tolist()
    return json.dumps(row)


def measure(size, names, rounds, report):
    """Builds, times and releases the candidates `names`.

    Returns `{name: figures}`, or `{name: {"skipped": reason}}` where a peer cannot run.
    """
    built, figures = {}, {}
    for name in names:
        start = time.perf_counter()
        try:
            built[name] = CANDIDATES[size.kind][name](size)
        except peers.Unavailable as error:
            figures[name] = {"skipped": str(error)}
            continue
        report(f"built {name} in {time.perf_counter() - start:.1f} s")
    steps = {name: candidate.step for name, candidate in built.items()}
    seconds = timing.interleaved(steps, min(rounds, size.most_rounds), report=report)
    for name, candidate in built.items():
        median = statistics.median(seconds[name])
        figures[name] = {
            "seconds": seconds[name],
            "median_seconds": median,
            f"{size.unit}_per_second": size.units / median,
            "ratio": timing.paired_ratio(seconds[name], seconds[base_of(size)])._asdict(),
            "temporaries": candidate.temporaries,
            "parameters": candidate.parameters,
        }
    return {name: figures[name] for name in names}


def table(figures, unit, base=BASE):
    """The Markdown table of `measure`'s figures; `unit` is that of a `problems.Size`."""
    lines = [
        f"| candidate | ms/update | {unit}/s | speed against {base} (min-max) | temporaries, MB"
        " | parameters |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in figures.items():
        if "skipped" in row:
            lines.append(f"| {name} | {row['skipped']} | | | | |")
            continue
        ratio, memory = timing.Ratio(**row["ratio"]), row["temporaries"]
        lines.append(
            f"| {name} | {1000 * row['median_seconds']:.1f}"
            f" | {row[f'{unit}_per_second']:,.0f}"
            f" | x{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"
            f" | {'-' if memory is None else f'{memory / 1e6:,.1f}'} | {row['parameters']:,} |"
        )
    return "\n".join(lines)


def overhead_line(around, figures):
    """The cost around a step, as a share of the library's fastest step that was measured."""
    ms = {name: 1000 * seconds for name, seconds in around.items()}
    line = f"Around a step: data {ms['data']:.3f} ms, log line {ms['logging']:.3f} ms"
    own = {n: row for n, row in figures.items() if n.startswith("ours") and "seconds" in row}
    if not own:
        return line + "."
    name = min(own, key=lambda n: own[n]["median_seconds"])
    share = sum(around.values()) / own[name]["median_seconds"]
    return f"{line}; together {share:.2%} of a step of `{name}`."


def names_of(text, known):
    """The names in a comma-separated flag; argparse reports an unknown one."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"{text!r}: choose from {', '.join(known)}")
    return names


TWO_RATES = "must be two rates, from above 0 to 1, the second no more than the first"


def are_rates(rates):
    """Whether these are the rates of two layers' nested detectors, lowest first."""
    return len(rates) == 2 and 1 >= rates[0] >= rates[1] > 0


def rates_of(text):
    """Comma-separated rates of two layers; argparse reports what are none."""
    rates = tuple(map(float, text.split(",")))
    if not are_rates(rates):
        raise argparse.ArgumentTypeError(f"{text}: {TWO_RATES}")
    return rates


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--size", type=functools.partial(names_of, known=SIZES), default=list(SIZES),
        help=f"comma-separated, of {', '.join(SIZES)} (all)",
    )  # fmt: skip
    parser.add_argument(
        "--only", type=functools.partial(names_of, known=NAMES), default=list(NAMES),
        help=f"comma-separated candidates besides the first, of {', '.join(NAMES)} (all)",
    )  # fmt: skip
    parser.add_argument(
        "--rates",
        type=rates_of,
        help="at which detectors fire in sizes ..._taught, lowest first (.18,.04)",
    )
    parser.add_argument("--rounds", type=int, default=7, help="rounds, 1 or more (7)")
    parser.add_argument("--json", type=Path, help="file for all figures")
    flags = parser.parse_args(arguments)
    if flags.rounds < 1:
        parser.error("--rounds must be 1 or more")
    if flags.json:
        files.check_writable(flags.json)

    def report(line):
        print(line, file=sys.stderr, flush=True)

    facts = timing.hardware()
    print(timing.hardware_line(facts), flush=True)
    results = {"hardware": facts, "sizes": {}}
    for label in flags.size:
        size = SIZES[label]
        if size.rates and flags.rates:
            size = size._replace(rates=flags.rates)
        names = [n for n in CANDIDATES[size.kind] if n == base_of(size) or n in flags.only]
        figures, around = measure(size, names, flags.rounds, report), overhead(size)
        results["sizes"][label] = {"candidates": figures, "overhead": around}
        print(f"\n{label}: {size.describe()}\n")
        print(
            table(figures, size.unit, base_of(size)) + "\n\n" + overhead_line(around, figures),
            flush=True,
        )
        if size.components:
            share, lines = padding(size)
            results["sizes"][label] |= {"padding": share, "lines": lines}
            print(f"In the default buckets {share:.1%} of an epoch's steps are padding ({lines}).")
        if flags.json:
            files.write_text(flags.json, json.dumps(results, indent=1) + "\n")
        gc.collect()
        jax.clear_caches()


if __name__ == "__main__":
    cli.start(main)
