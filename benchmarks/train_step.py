"""Whole train steps side by side: loss, gradient, clipping, Adam.

    python benchmarks/train_step.py --size=tiny,ptb,text8,on_lstm,nested_lstm --json=FILE

Prints the hardware and, for each size, a Markdown table. Ratios are medians of ratios
taken within a round against the naive version (see `timing`), larger is faster; `naive`
is the same mathematics as `ours` (see `peers`). One device is used, whatever it is.
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
from typing import NamedTuple

# Before JAX starts: leave GPU memory to the peers that share the device.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks import peer_stacks, peers, timing  # noqa: E402
from hmrnn_jax import data, defaults, language, losses, models, optim, parallel, train_state  # noqa: E402  # noqa: E402

BASE = "naive"


class Size(NamedTuple):
    """A problem. `most_rounds` keeps the large ones bearable."""

    sizes: tuple[int, ...]
    embedding: int
    output: int
    vocabulary: int
    batch: int
    window: int
    most_rounds: int = 100
    cell: str = "hm_lstm"

    @property
    def characters(self):
        """Characters of one train step."""
        return self.batch * self.window


SIZES = {
    "tiny": Size((128,) * 3, 128, 128, 50, batch=16, window=50),
    "ptb": Size((512,) * 3, 128, 512, 50, batch=64, window=100),
    "text8": Size((1024,) * 3, 128, 2048, 27, batch=128, window=100, most_rounds=3),
    # The ON-LSTM's model of Penn Treebank words, dropout off, its decoder tied.
    "on_lstm": Size(
        (1150, 1150, 400), 400, 0, 10_000, batch=20, window=70, most_rounds=7, cell="on_lstm"
    ),
    "nested_lstm": Size((600,), 600, 0, 50, batch=64, window=100, cell="nested_lstm"),
}


class Candidate(NamedTuple):
    """Something to time.

    Attributes:
      step: runs one train step and returns when it is done.
      temporaries: bytes of the compiled step's intermediate values, None if unknown.
      parameters: how many.
    """

    step: Callable[[], None]
    temporaries: int | None
    parameters: int


def random_ids(size, windows):
    """Random text of `windows` windows for each row, the same at every run."""
    return np.random.default_rng(0).integers(
        size.vocabulary, size=windows * size.characters + 1, dtype=np.int32
    )


def one_batch(size):
    """The window that every candidate reads again and again, in the middle of a stream."""
    return data.Stream(random_ids(size, 2), size.batch, size.window)(1)


def temporaries(compiled):
    """Bytes of temporaries, None where the backend does not tell."""
    analysis = compiled.memory_analysis()
    return getattr(analysis, "temp_size_in_bytes", None)


def ours(size, cell=None, layer_norm="none", **policy):
    """The library's own step, exactly as training runs it."""
    cell = cell or size.cell
    config = defaults.text().unlock()
    config.model.update(cell=cell, sizes=size.sizes, embedding=size.embedding, output=size.output)
    config.model.head = "gated" if size.cell == "hm_lstm" else "tied"
    config.model.update(policy)
    config.model.on_lstm.chunk = 10
    if "layer_norm" in config.model[cell]:
        config.model[cell].layer_norm = layer_norm
    model = models.language_model(config.model, size.vocabulary)
    optimizer = optim.optimizer()
    init = functools.partial(language.init_params, model)
    loss = functools.partial(language.loss, model, language.Penalties())
    mesh = parallel.make_mesh(jax.devices()[:1])
    state = jax.jit(functools.partial(train_state.create, init, optimizer, 0))()
    state = parallel.replicate(state, mesh)
    carry = jax.tree.map(np.asarray, model.initial_carry(size.batch))
    carry = parallel.shard_rows(carry, mesh)
    batch = parallel.shard_batch(one_batch(size), mesh)
    knobs = {
        "learning_rate": np.float32(peers.LEARNING_RATE),
        "slope": np.float32(1),
        "averaged": np.float32(0),
    }
    update = functools.partial(train_state.train_step, loss, optimizer)
    compiled = parallel.pmapped(update, mesh).lower(state, carry, batch, knobs).compile()
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    held = [state, carry]

    def step():
        held[0], held[1], metrics = compiled(held[0], held[1], batch, knobs)
        jax.block_until_ready((held, metrics))

    return Candidate(step, temporaries(compiled), count)


def flax_peer(size, module):
    """A Flax peer's step, see `peers.linen_step`."""
    model = module(size)
    batch = one_batch(size)
    step, compiled, count = peers.linen_step(model, batch.inputs, batch.targets)
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
    return peers.NaiveHMLSTM(size.vocabulary, size.embedding, size.sizes, size.output)


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
# For each cell of `SIZES`, what is measured beside it.
CANDIDATES = {
    "hm_lstm": {BASE: functools.partial(flax_peer, module=naive_hm_lstm)}
    | OURS
    | {
        "ours layer norm f32": functools.partial(ours, layer_norm="sum"),
        "ours layer norm bf16": functools.partial(ours, layer_norm="sum", precision="bfloat16"),
        "flax lstm": functools.partial(flax_peer, module=flax_lstm),
        "ours lstm": functools.partial(ours, cell="lstm"),
        "ours lstm bf16": functools.partial(ours, cell="lstm", precision="bfloat16"),
        "torch lstm f32": functools.partial(torch_peer, bfloat16=False),
        "torch lstm bf16": functools.partial(torch_peer, bfloat16=True),
    },
    "on_lstm": STACK,
    "nested_lstm": STACK,
}
NAMES = tuple(CANDIDATES["hm_lstm"])


def overhead(size, repeats=50):
    """Median seconds of what training does around a step: `{data, logging}`.

    `data`: cutting the batch and placing it on the device. `logging`: fetching the step's
    metrics, which are ready, and making a line of them, as if every step were reported.
    """
    mesh = parallel.make_mesh(jax.devices()[:1])
    stream = data.Stream(random_ids(size, 8), size.batch, size.window)
    depth = len(size.sizes)
    widths = {"fired": depth - 1, "alive": depth - 1, "update": depth, "copy": depth}
    metrics = {name: np.ones(width, np.float32) for name, width in widths.items()}
    metrics |= {name: np.float32(1) for name in ("nats", "count", "gradient_norm")}
    # New arrays each time: a fetched array remembers its value.
    fresh = jax.jit(lambda step: jax.tree.map(lambda m: m * step, metrics))
    seconds = {"data": [], "logging": []}
    for step in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(parallel.shard_batch(stream(step), mesh))
        seconds["data"].append(time.perf_counter() - start)
        ready = jax.block_until_ready(fresh(step + 1.0))
        start = time.perf_counter()
        log_line(step, jax.device_get(ready))
        seconds["logging"].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def log_line(step, metrics):
    """A line as a training loop writes it, from the sums of `train_state.train_step`."""
    count = metrics["count"]
    row = {"step": step, "bpc": float(losses.BITS * metrics["nats"] / count)}
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
            built[name] = CANDIDATES[size.cell][name](size)
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
            "characters_per_second": size.characters / median,
            "ratio": timing.paired_ratio(seconds[name], seconds[BASE])._asdict(),
            "temporaries": candidate.temporaries,
            "parameters": candidate.parameters,
        }
    return {name: figures[name] for name in names}


def table(figures):
    """The Markdown table of `measure`'s figures."""
    lines = [
        "| candidate | ms/step | chars/s | speed against naive (min-max) | temporaries, MB"
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
            f" | {row['characters_per_second']:,.0f}"
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


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--size", type=functools.partial(names_of, known=SIZES), default=list(SIZES),
        help=f"comma-separated, of {', '.join(SIZES)} (all)",
    )  # fmt: skip
    parser.add_argument(
        "--only", type=functools.partial(names_of, known=NAMES), default=list(NAMES),
        help=f"comma-separated candidates besides {BASE}, of {', '.join(NAMES)} (all)",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=7, help="rounds, 1 or more (7)")
    parser.add_argument("--json", type=Path, help="file for all figures")
    flags = parser.parse_args(arguments)
    if flags.rounds < 1:
        parser.error("--rounds must be 1 or more")

    def report(line):
        print(line, file=sys.stderr, flush=True)

    facts = timing.hardware()
    print(timing.hardware_line(facts), flush=True)
    results = {"hardware": facts, "sizes": {}}
    for label in flags.size:
        size = SIZES[label]
        names = [n for n in CANDIDATES[size.cell] if n == BASE or n in flags.only]
        figures, around = measure(size, names, flags.rounds, report), overhead(size)
        results["sizes"][label] = {"candidates": figures, "overhead": around}
        layers = " + ".join(map(str, size.sizes))
        print(
            f"\n{label}: layers {layers}, embedding {size.embedding}, output {size.output},"
            f" vocabulary {size.vocabulary}, batch {size.batch}, window {size.window}\n"
        )
        print(table(figures) + "\n\n" + overhead_line(around, figures), flush=True)
        if flags.json:
            flags.json.write_text(json.dumps(results, indent=1) + "\n")
        gc.collect()
        jax.clear_caches()


if __name__ == "__main__":
    main()
