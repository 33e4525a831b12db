"""What skipping COPYs saves: the HM-LSTM read sparsely against the dense cell.

    python benchmarks/sparsity.py --output=FOLDER
    python benchmarks/sparsity.py --output=FOLDER --workdir=runs/ptb
    python benchmarks/sparsity.py --output=FOLDER --rates=0,0 .2,0 .2,.05

Writes `sparsity.md`, `sparsity.json` and `sparsity.png` into FOLDER. Three programs are timed
at each batch: `forward`, the recurrence over a window of a text; `generation`, the whole model a
symbol at a time, what it says next fed back; `gradient`, that of the recurrence
(`model.skip_copies`).
The boundaries are forced, so that both sides do the arithmetic of the same z: independent draws at
given rates of (z1, z2), and with --workdir those that a trained model fires on its own test text.
Ratios are medians of ratios taken within a round (see `timing`). `theory` is dense multiplications
over those that remain (Chung, Ahn, Bengio 2017, section 2.2.1), in each operand of each layer. It
is no bound: a single row's products take the time of reading their kernels, and what is left of
them is smaller and stays in the cache, so that it runs at more multiplications a second than the
dense cell's joined kernels.
"""

import argparse
import dataclasses
import functools
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import matplotlib  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from benchmarks import timing  # noqa: E402
from benchmarks.compare import whole  # noqa: E402
from hmrnn_jax import cli, defaults, files, opening, parallel, recurrence  # noqa: E402
from hmrnn_jax.analysis.figures import style  # noqa: E402
from hmrnn_jax.analysis.figures.curves import LETTERS  # noqa: E402
from hmrnn_jax.errors import UserError  # noqa: E402
from hmrnn_jax.evaluation import text  # noqa: E402
from hmrnn_jax.inference import sparse_model  # noqa: E402
from hmrnn_jax.models.language import language_model  # noqa: E402
from hmrnn_jax.recurrence import sparse  # noqa: E402
from hmrnn_jax.tasks import language  # noqa: E402

RATES = ((1, 1), (0.5, 0.2), (0.2, 0.05), (0.1, 0.02))
BATCHES = (1, 16, 64)
PROGRAMS = ("forward", "generation", "gradient")
TRAINED = "of the run"


def untrained(sizes, precision):
    """A model of Penn Treebank's size (or other layers) and its initial parameters."""
    config = defaults.text().unlock()
    config.model.update(cell="hm_lstm", sizes=sizes, embedding=128, output=512)
    config.model.update(head="gated", precision=precision)
    model = language_model(config.model, 50)
    init = functools.partial(language.init_params, model)
    return model, jax.jit(init)(jax.random.key(0))


def forced(model):
    """The same model, whose z are 1 exactly where its noise is -1, and 0 where it is 2.

    Not nested: else an upper layer would fire only where the lower one does.
    """
    (config,) = model.cells
    return model.clone(cells=(dataclasses.replace(config, boundary="sample", nested=False),))


def drawn(rates, depth, steps, batch):
    """Independent boundaries `[T, B, L - 1]`; layers beyond the given rates have the last's."""
    rates = [rates[min(k, len(rates) - 1)] for k in range(depth - 1)]
    uniform = np.random.default_rng(0).uniform(size=(steps, batch, depth - 1))
    return uniform < np.array(rates)


def fired(model, params, slope, ids, steps, batch):
    """The boundaries `[T, B, L - 1]` that a trained model fires in rows of a text."""
    rows = ids[: len(ids) // batch * batch].reshape(batch, -1)[:, :steps].T
    noise = jax.random.uniform(jax.random.key(0), (steps, batch, model.noise_width))
    out = jax.jit(model.inference.apply)(
        {"params": params}, rows, model.initial_carry(batch), slope=slope, noise=noise
    )
    return np.stack([np.asarray(z) == 1 for z in out.states[0].z], axis=-1)


def theory(model, z, program):
    """Dense multiplications over those that boundaries `z [T, B, L - 1]` leave."""
    (config,) = model.cells
    never, always = np.zeros(z.shape[:2], bool), np.ones(z.shape[:2], bool)
    dense = left = 0.0
    for layer, size in enumerate(config.sizes):
        p, q = never.copy(), z[..., layer - 1] if layer else always
        if layer < config.depth - 1:
            p[0], p[1:] = config.z_init, z[:-1, :, layer]
        active = q | p if config.flush else q
        shares = {"U_rec": active, "U_td": p & active, "W_bu": q}
        for term, width in config.terms(layer).items():
            if layer or term != "W_bu":
                dense += 4 * size * width
                left += 4 * size * width * _share(program, layer, term, active, shares)
        if program == "generation" and model.head == "gated":
            dense += size * model.output
            left += size * model.output * active.mean()
    if program == "generation":
        decoder = model.width * model.vocabulary
        dense += 4 * config.sizes[0] * config.input_size + decoder
        left += decoder
    return dense / left


def _share(program, layer, term, active, shares):
    """Of the multiplications of a term, those that are left; `shares` has the columns `[T, B]`.

    In training columns are left out whole, whatever gates their operands; but for the first
    layer's top-down term, in two of its three products, forwards and for the weights.
    """
    if program != "gradient":
        return shares[term].mean()
    if layer:
        return active.mean()
    return (2 * shares[term].mean() + 1) / 3


def forward(unroll, model, params, batch):
    """`step(noise)`: the recurrence over the window of `noise [T, B, L - 1]`, one call.

    Its inputs are symbols, whose products are made once a symbol.
    """
    (config,) = model.cells
    state = recurrence.initial_state(config, batch)
    policy = model.inference.policy

    @jax.jit
    def run(params, ids, noise):
        return unroll(
            config, params["cell1"], state, params["embedding"], per_step={"noise": noise},
            policy=policy, table_ids=ids,
        ).final  # fmt: skip

    def step(noise):
        ids = np.zeros((len(noise), batch), np.int32)
        jax.block_until_ready(run(params, ids, noise))

    return step


def gradient(model, params, batch, skip_copies):
    """`step(noise)`: the gradient of the recurrence's parameters over a window, one call."""
    (config,) = model.cells
    state = recurrence.initial_state(config, batch)
    policy = model.inference.policy._replace(skip_copies=skip_copies)

    @jax.jit
    @jax.grad
    def run(params, x, noise):
        out = recurrence.unroll(config, params, state, x, per_step={"noise": noise}, policy=policy)
        return sum(jnp.sum(h) for h in out.states.h)

    def step(noise):
        x = np.zeros((len(noise), batch, config.input_size), np.float32)
        jax.block_until_ready(run(params["cell1"], x, noise))

    return step


def generation(model, params, batch):
    """`step(noise)`: as many symbols as noise has steps, each the likeliest after the last."""
    carry = model.initial_carry(batch)

    @jax.jit
    def run(params, noise):
        def body(carry, noise):
            states, ids = carry
            out = model.apply({"params": params}, ids[None], states, noise=noise[None])
            return (out.carry, jnp.argmax(out.logits[0], -1).astype(ids.dtype)), None

        return jax.lax.scan(body, (carry, jnp.zeros(batch, jnp.int32)), noise)[0]

    return lambda noise: jax.block_until_ready(run(params, noise))


def programs(model, params, batch):
    """`{program: (dense, sparse)}`, each a function of the noise."""
    model = forced(model)
    return {
        "forward": (
            forward(recurrence.unroll, model, params, batch),
            forward(sparse.unroll, model, params, batch),
        ),
        "generation": (
            generation(model.inference, params, batch),
            generation(*sparse_model.inference(model, params), batch),
        ),
        "gradient": (
            gradient(model, params, batch, False),
            gradient(model, params, batch, True),
        ),
    }


def measure(model, params, batch, boundaries, rounds, report):
    """Rows of figures for each program and each of `boundaries`, `{label: z [T, B, L - 1]}`."""
    rows = []
    for program, (dense, skipping) in programs(model, params, batch).items():
        noises = {label: np.where(z, -1, 2).astype(np.float32) for label, z in boundaries.items()}
        steps = {label: functools.partial(skipping, noise) for label, noise in noises.items()}
        # Dense takes the same time whatever z is.
        steps["dense"] = functools.partial(dense, next(iter(noises.values())))
        seconds = timing.interleaved(steps, rounds)
        report(f"batch {batch}, {program}: done")
        for label, z in boundaries.items():
            count = len(z)
            rows.append(
                {
                    "program": program,
                    "batch": batch,
                    "boundaries": label,
                    "rates": z.mean((0, 1)).tolist(),
                    "dense_ms": 1000 * statistics.median(seconds["dense"]) / count,
                    "sparse_ms": 1000 * statistics.median(seconds[label]) / count,
                    "theory": theory(model, z, program),
                    "ratio": timing.paired_ratio(seconds[label], seconds["dense"])._asdict(),
                }
            )
    return rows


def table(rows):
    """The Markdown table of `measure`'s rows."""
    lines = [
        "| program | batch | boundaries | rates | dense, ms/step | sparse, ms/step | theory"
        " | measured (min-max) |",
        "| --- | ---: | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        ratio = timing.Ratio(**row["ratio"])
        rates = ", ".join(f"{rate:.2f}" for rate in row["rates"])
        lines.append(
            f"| {row['program']} | {row['batch']} | {row['boundaries']} | {rates}"
            f" | {row['dense_ms']:.3f} | {row['sparse_ms']:.3f} | x{row['theory']:.2f}"
            f" | x{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f}) |"
        )
    return "\n".join(lines)


@matplotlib.rc_context(LETTERS)
def figure(path, rows, title):
    """Measured speed-up against the count of multiplications, a curve for each batch."""
    drawing = Figure(figsize=(13, 4.2), layout="constrained", facecolor="white")
    panels = drawing.subplots(1, len(PROGRAMS), sharey=True)
    for panel, program in zip(panels, PROGRAMS, strict=True):
        here = [row for row in rows if row["program"] == program]
        most = max(row["theory"] for row in here)
        panel.plot(
            [1, most], [1, most], color="#555555", linewidth=1.2, linestyle=":",
            label="time as the multiplications",
        )  # fmt: skip
        panel.axhline(1, color="#999999", linewidth=0.8)
        for colour, batch in zip(
            style.COLOURS, dict.fromkeys(row["batch"] for row in here), strict=False
        ):
            of_batch = sorted(
                (row for row in here if row["batch"] == batch), key=lambda row: row["theory"]
            )
            panel.plot(
                [row["theory"] for row in of_batch],
                [row["ratio"]["median"] for row in of_batch],
                color=colour, linewidth=1.5, marker=".", markersize=7, label=f"batch {batch}",
            )  # fmt: skip
            for row in of_batch:
                if row["boundaries"] == TRAINED:
                    panel.plot(row["theory"], row["ratio"]["median"], "*", color=colour, ms=13)
        panel.set_title(program)
        panel.set_xlabel("times fewer multiplications than dense")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="#dddddd", linewidth=0.6)
        panel.set_axisbelow(True)
    panels[0].set_ylabel("times as fast as dense")
    panels[0].legend(frameon=False)
    drawing.suptitle(title, parse_math=False)
    with files.writing(path) as file:
        drawing.savefig(file, format="png", dpi=150)


def wholes(value):
    """Whole numbers from 1 on with commas between, for argparse."""
    return tuple(map(whole, value.split(",")))


def rates_of(value):
    """Rates of z1, z2, ... with commas between, for argparse; 0 is never, 1 always."""
    rates = tuple(map(float, value.split(",")))
    if not all(0 <= rate <= 1 for rate in rates):
        raise argparse.ArgumentTypeError(f"{value}: must be rates from 0 to 1")
    return rates


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for the three files")
    parser.add_argument("--workdir", help="a trained run, whose own rates are measured too")
    parser.add_argument(
        "--sizes", type=wholes, default=(512,) * 3, help="layers without --workdir (512,512,512)"
    )
    parser.add_argument("--batch", type=wholes, default=BATCHES, help="batches (1,16,64)")
    parser.add_argument(
        "--rates", type=rates_of, nargs="+", default=RATES,
        help="of z1, z2, one pair after the other (1,1 .5,.2 .2,.05 .1,.02)",
    )  # fmt: skip
    parser.add_argument("--steps", type=whole, default=100, help="steps of each call (100)")
    parser.add_argument("--rounds", type=whole, default=7, help="rounds (7)")
    parser.add_argument("--precision", default="float32", help="float32 or bfloat16 (float32)")
    flags = parser.parse_args(arguments)
    flags.output.mkdir(parents=True, exist_ok=True)

    def report(line):
        print(line, file=sys.stderr, flush=True)

    if flags.workdir:
        run = opening.restore(flags.workdir, parallel.make_mesh(jax.devices()[:1]))
        if run.config.task != "language" or run.config.model.cell != "hm_lstm":
            raise UserError(f"{flags.workdir} is no HM-LSTM of text: give one by --workdir.")
        params, (ids, *_) = run.plain, text.split(run, "test")
        policy = run.model.policy._replace(precision=flags.precision)
        model, title = run.model.clone(policy=policy), run.title
    else:
        model, params = untrained(flags.sizes, flags.precision)
        title = f"HM-LSTM {' + '.join(map(str, model.cells[0].sizes))}"
    facts, rows = timing.hardware(), []
    title += f", {flags.precision}"
    for batch in flags.batch:
        boundaries = {
            str(rates): drawn(rates, model.cells[0].depth, flags.steps, batch)
            for rates in flags.rates
        }
        if flags.workdir:
            z = fired(model, params, run.slope, ids, flags.steps, batch)
            boundaries[TRAINED] = z
        rows += measure(model, params, batch, boundaries, flags.rounds, report)
    report_text = f"{title}; {timing.hardware_line(facts)}\n\n{table(rows)}\n"
    files.write_text(flags.output / "sparsity.md", report_text)
    everything = {"hardware": facts, "title": title, "rows": rows}
    files.write_text(flags.output / "sparsity.json", json.dumps(everything, indent=1) + "\n")
    figure(flags.output / "sparsity.png", rows, title)
    print(report_text, end="")


if __name__ == "__main__":
    cli.start(main)
