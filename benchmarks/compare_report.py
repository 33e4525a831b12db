"""What `compare` reports: figures at equal time, the table, the curves."""

import statistics

import numpy as np
from matplotlib.figure import Figure

from benchmarks import matched, timing
from hmrnn_jax import files
from hmrnn_jax.analysis.figures import style
from hmrnn_jax.tasks import metrics


def last_bpc(result):
    """Validation after the last update, None if the training diverged."""
    return result["curve"][-1]["bpc"] if result["test"] else None


def at_seconds(curve, seconds):
    """Validation bpc after so many seconds of training, by straight lines between validations."""
    return float(
        np.interp(seconds, [point["seconds"] for point in curve], [point["bpc"] for point in curve])
    )


def spread(values):
    """Mean and sample standard deviation; the latter is None for a single value."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"values": values, "mean": statistics.mean(values), "deviation": deviation}


def summary(runs):
    """`{equal_seconds, models: {name: figures}}` of `{name: results, one for each seed}`."""
    least = min(r["curve"][-1]["seconds"] for results in runs.values() for r in results)
    figures = {}
    for name, results in runs.items():
        seconds = [r["curve"][-1]["seconds"] for r in results]
        figures[name] = {
            "test_bpc": spread([r["test"]["bpc"] for r in results]),
            "valid_bpc": spread([last_bpc(r) for r in results]),
            "equal_time_bpc": spread([at_seconds(r["curve"], least) for r in results]),
            "seconds": seconds,
            "characters_per_second": sum(r["characters"] for r in results) / sum(seconds),
            "runs": results,
        }
    return {"equal_seconds": least, "models": figures}


def table(everything):
    """compare.md of compare.json."""
    flags, rows = everything["flags"], everything["models"]
    read = f"the first {flags['validation']:,} symbols" if flags["validation"] else "all of it"
    lines = [
        f"{everything['corpus']}, {flags['budget']:,} parameters, {flags['steps']:,} updates of"
        f" {flags['batch']} x {flags['window']} characters. Bits per character: {_over(flags)}."
        f" At equal time: validation ({read}) after {everything['equal_seconds']:.1f} s.",
        "",
        "| model | layers | parameters | in the cells | learning rate | test bpc"
        " | valid bpc at equal time | chars/s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in rows.items():
        chunk = f", chunk {row['choices']['chunk']}" if "chunk" in row["choices"] else ""
        lines.append(
            f"| {matched.KINDS[name].label} | {' + '.join(map(str, row['sizes']))}{chunk}"
            f" | {row['parameters']:,} | {row['cell_parameters']:,} | {row['learning_rate']:g}"
            f" | {_interval(row['test_bpc'])} | {_interval(row['equal_time_bpc'])}"
            f" | {row['characters_per_second']:,.0f} |"
        )
    lines.append("")
    if len(flags["rates"]) > 1:
        lines += ["Last validation of the first seed at each learning rate:", ""]
        for name, row in rows.items():
            tried = (
                f"{rate}: {'diverged' if bpc is None else f'{bpc:.4f}'}"
                for rate, bpc in row["tried"].items()
            )
            lines.append(f"* {matched.KINDS[name].label}: {', '.join(tried)}")
        lines.append("")
    warnings = [
        f"* {matched.KINDS[name].label}, seed {seed}: {warning}"
        for name, row in rows.items()
        for seed, result in enumerate(row["runs"])
        for warning in metrics.collapsed(result["test"])
    ]
    if warnings:
        lines += ["Detectors on the test text:", "", *warnings, ""]
    return "\n".join([*lines, timing.hardware_line(everything["hardware"])]) + "\n"


def _over(flags):
    seeds = flags["seeds"]
    return f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "one seed"


def _interval(values):
    deviation = values["deviation"]
    return f"{values['mean']:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")


def figure(path, everything):
    """compare.png: validation against updates and training time, mean and deviation of seeds."""
    drawing = Figure(figsize=(11, 4.4), layout="constrained", facecolor="white")
    panels = drawing.subplots(1, 2, sharey=True)
    for colour, (name, row) in zip(style.COLOURS, everything["models"].items(), strict=False):
        # The untrained model's validation would flatten all that follows.
        curves = [run["curve"][1:] for run in row["runs"]]
        bpc, seconds = (
            np.array([[point[key] for point in curve] for curve in curves])
            for key in ("bpc", "seconds")
        )
        mean = bpc.mean(0)
        half = bpc.std(0, ddof=1) if len(bpc) > 1 else 0 * mean
        updates = [point["update"] for point in curves[0]]
        for panel, x in zip(panels, (updates, seconds.mean(0)), strict=True):
            panel.plot(
                x, mean, color=colour, linewidth=1.5, marker=".", markersize=5,
                label=matched.KINDS[name].label,
            )  # fmt: skip
            panel.fill_between(x, mean - half, mean + half, color=colour, alpha=0.15, linewidth=0)
    panels[0].set_ylabel("validation, bits per character")
    panels[0].set_xlabel("updates")
    panels[1].set_xlabel("seconds of training")
    panels[1].axvline(
        everything["equal_seconds"], color="#555555", linewidth=1.2, linestyle=":",
        label="equal time of the table",
    )  # fmt: skip
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="#dddddd", linewidth=0.6)
        panel.set_axisbelow(True)
    panels[0].legend(frameon=False, fontsize=9)
    panels[1].legend(handles=panels[1].lines[-1:], frameon=False, fontsize=9)
    flags = everything["flags"]
    title = f"{everything['corpus']}, {flags['budget']:,} parameters, {_over(flags)}"
    drawing.suptitle(title, fontsize=11, parse_math=False)
    with files.writing(path) as file:
        drawing.savefig(file, format="png", dpi=150)
