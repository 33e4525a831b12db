"""What the TPU compiler makes of the HM-LSTM's train step, ours and the plain one; needs no TPU.

    python benchmarks/tpu.py --target=v4:2x2x1,v5e:2x4,v5p:2x2x1,v6e:2x4 --size=ptb,text8

Needs libtpu (pip install -e ".[tpu]"). Prints a Markdown table for each size: `naive` is the
same mathematics as `ours` (see `peers`), the batch is divided over the target's chips, and nothing
is run. Operations an iteration are those of the forward and of the reverse loop over time, of
which there is none where the window is a kernel. `without COPY` is the kernel that makes no
products for a layer whose rows on the chip all COPY; what it would leave of them at `--rates` is
told below the table.
"""

import argparse
import functools
import sys
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax  # noqa: E402
import jaxlib  # noqa: E402

from benchmarks import peers  # noqa: E402
from benchmarks.problems import SIZES, network, one_batch  # noqa: E402
from benchmarks.train_step import naive_hm_lstm, names_of, rates_of  # noqa: E402
from hmrnn_jax import cli, parallel  # noqa: E402
from hmrnn_jax.cells import hm_lstm  # noqa: E402
from hmrnn_jax.errors import UserError  # noqa: E402
from hmrnn_jax.recurrence import execution, rare_products  # noqa: E402
from hmrnn_jax.training import compile_only, hlo, optim  # noqa: E402
from hmrnn_jax.training import state as train_state  # noqa: E402


class Found(NamedTuple):
    """Of a compiled step: what `training.hlo.summary` says, and the seconds that compiling took."""

    summary: hlo.Summary
    seconds: float


def naive(size):
    """`(update, create, carry)` of the plain step, see `peers.NaiveHMLSTM`."""
    model, batch = naive_hm_lstm(size), one_batch(size)
    create, update = peers.linen_training(model, batch.inputs, axis=parallel.AXIS)

    def on_devices(training, carry, batch, scalars):
        return update(training, carry, batch.inputs, batch.targets)

    return on_devices, create, functools.partial(model.initial_carry, size.batch)


def ours(size, leaving_out=False, **policy):
    """`(update, create, carry)` of the library's step, as training runs it."""
    model, init, loss = network(size, size.cell, "none", policy)
    optimizer = optim.optimizer()
    update = functools.partial(train_state.train_step, loss, optimizer)
    return (
        execution.leaving_out_copies(update) if leaving_out else update,
        functools.partial(train_state.create, init, optimizer, 0),
        functools.partial(model.initial_carry, size.batch),
    )


CANDIDATES = {
    "naive f32": naive,
    "ours f32 scan": functools.partial(ours, backend="scan"),
    "ours f32": functools.partial(ours, backend="auto"),
    "ours f32 without COPY": functools.partial(ours, backend="auto", leaving_out=True),
    "ours bf16 scan": functools.partial(ours, precision="bfloat16", backend="scan"),
    "ours bf16": functools.partial(ours, precision="bfloat16", backend="auto"),
    "ours bf16 without COPY": functools.partial(
        ours, precision="bfloat16", backend="auto", leaving_out=True
    ),
}


def compiled(size, mesh, candidate):
    """`Found` for a candidate on all devices of a mesh, whose number divides the batch."""
    parallel.check_batch(size.batch, mesh)
    update, create, carry = candidate(size)
    start = time.perf_counter()
    with peers.exactly():
        step, _ = compile_only.compiled_update(update, mesh, create, carry, one_batch(size))
    return Found(hlo.summary(step), time.perf_counter() - start)


def row(target, name, found, base):
    """A row of the table; `base` is the naive step's `Found`, None if it was not compiled."""
    mib = found.summary.memory["temp"]
    share = f"{mib / base.summary.memory['temp']:.2f}" if base else "-"
    operations = " + ".join(str(count) for _, count in found.summary.loops) or "-"
    return (
        f"| {target} | {name} | {mib:,.0f} | {share}"
        f" | {found.summary.kernels} | {operations} | {found.summary.reductions},"
        f" {found.summary.reductions_in_loops} | {found.seconds:.0f} |"
    )


def left(size, rates, rows):
    """A line on the kernels' products that are left where detectors fire at `rates`, nested."""
    config = hm_lstm.Config(size.embedding, size.sizes, nested=True)
    # A layer moves where the one below has a boundary, and where it had one itself.
    moves = [1 - (1 - below) * (1 - own) for below, own in zip(rates, (*rates[1:], 0), strict=True)]
    share = rare_products.expected(config, (1.0, *moves), rows)
    return (
        f"with {rows} rows a chip that fire by themselves, {share:.2f} of the kernels' products"
        f" are left at rates of {', '.join(f'{rate:g}' for rate in rates)}, nested"
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--target", default="v5e:2x4", help="comma-separated topologies (v5e:2x4)")
    sizes = [name for name, size in SIZES.items() if size.kind == "hm_lstm"]
    parser.add_argument(
        "--size", type=functools.partial(names_of, known=sizes), default=["ptb", "text8"],
        help=f"comma-separated, of {', '.join(sizes)} (ptb,text8)",
    )  # fmt: skip
    parser.add_argument(
        "--only", type=functools.partial(names_of, known=CANDIDATES), default=list(CANDIDATES),
        help=f"comma-separated steps besides naive, of {', '.join(CANDIDATES)} (all)",
    )  # fmt: skip
    parser.add_argument(
        "--rates", type=rates_of, default=(0.18, 0.04),
        help="rates at which the detectors are taken to fire, lowest layer first (.18,.04)",
    )  # fmt: skip
    flags = parser.parse_args(arguments)
    print(f"jax {jax.__version__}, jaxlib {jaxlib.__version__}; batch divided over the chips")
    for label in flags.size:
        size = SIZES[label]
        print(f"\n{label}: {size.describe()}\n")
        print(
            "| target | step | temporaries of a device, MiB | of naive's | kernels"
            " | operations an iteration | reductions, in loops | compiled in, s |\n"
            "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
            flush=True,
        )
        told = []
        for target in flags.target.split(","):
            try:
                mesh = parallel.make_mesh(compile_only.devices(target))
            except UserError as error:
                parser.error(str(error))
            base = None
            for name, candidate in CANDIDATES.items():
                if name != "naive f32" and name not in flags.only:
                    continue
                try:
                    found = compiled(size, mesh, candidate)
                except UserError as error:
                    parser.error(str(error))
                except jax.errors.JaxRuntimeError as error:
                    print(f"| {target} | {name} | {str(error).splitlines()[0]} | | | | | |")
                    continue
                base = found if name == "naive f32" else base
                print(row(target, name, found, base), flush=True)
            told.append(f"{target}: {left(size, flags.rates, size.batch // mesh.size)}")
        print("", *told, sep="\n", flush=True)


if __name__ == "__main__":
    cli.start(main)
