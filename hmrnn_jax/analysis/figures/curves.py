"""Curves of a run's metrics, and of several runs' over one another."""

import functools
import re

import numpy as np

from hmrnn_jax.analysis.figures import style
from hmrnn_jax.analysis.figures.text import new_figure
from hmrnn_jax.analysis.glyphs import columns
from hmrnn_jax.errors import UserError

# Sizes of the letters of curves: legible in half of a figure's width.
LETTERS = {"font.size": 11, "legend.fontsize": 10}
_PANEL = (4.4, 3.6)  # inches


def _with_letters(draw):
    """`draw` with letters that stay legible at half size."""

    @functools.wraps(draw)
    def drawn(*arguments, **kept):
        from matplotlib import rc_context

        with rc_context(LETTERS):
            return draw(*arguments, **kept)

    return drawn


def _in_percent(axis):
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1, decimals=0))


def _series(rows, key):
    """The steps and values of one key, over the rows that have both."""
    pairs = [(row["step"], row[key]) for row in rows if "step" in row and row.get(key) is not None]
    steps, values = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(steps, float), np.array(values, float)


def _curve(axes, rows, key, **look):
    """Draws one key, with dots where there are few values; True if there was anything to draw."""
    steps, values = _series(rows, key)
    if steps.size:
        axes.plot(steps, values, marker="." if steps.size < 30 else "", markersize=5, **look)
    return bool(steps.size)


def _finish(axes, drawn, what, legend=True):
    style.open_axes(axes)
    axes.set_xlabel("updates")
    if drawn and legend:
        axes.legend(frameon=False)
    elif not drawn:
        axes.text(0.5, 0.5, f"no {what} in the metrics", ha="center", transform=axes.transAxes)


_WORDS = {
    "train": "training", "valid": "validation", "test": "test",
    "nats": "nats a prediction", "log_likelihood": "log-likelihood of a sequence in nats",
    "error": "share of errors", "rate": "firing rate", "live": "active fraction",
    "update": "share of UPDATE", "copy": "share of COPY", "flush": "share of FLUSH",
    "slope": "slope of the detectors", "gradient_norm": "norm of the gradient",
}  # fmt: skip


def _known(key, *runs):
    """A key, of nats instead of bits where runs have nats alone, as of sequences and classes."""
    has = {name.rpartition("/")[2] for rows in runs for row in rows for name in row}
    return re.sub("bpc$", "nats", key) if "nats" in has and "bpc" not in has else key


def in_words(key, symbol="character"):
    """A metric's name in words: `valid/bpc` is "bits per character, validation".

    Args:
      symbol: what bits are of.
    """
    *before, last = key.split("/")
    words = _WORDS | {"bpc": f"bits per {symbol}"}
    parts = [words.get(part, part.replace("_", " ")) for part in before]
    numbered = re.fullmatch(r"(layer|length)(\d+)", last)
    if numbered and parts:
        return ", ".join([parts[-1], " ".join(numbered.groups()), *parts[:-1]])
    return ", ".join([words.get(last, last.replace("_", " ")), *parts])


@_with_letters
def training_curves(path, metrics_rows, title="", symbol="character"):
    """One run: bits per symbol, or nats where it has none, and how active its detectors are.

    The right panel has a solid curve for every layer's firing rate and a dashed
    one for its active fraction (pre-activations within the straight-through
    gradient's band). Its scale is logarithmic above 1 % and linear below, so
    that a collapse to 0 and a healthy 3 % can both be seen.

    Args:
      path: of the PNG file to write.
      metrics_rows: dicts with `step` and any of `train/bpc`, `valid/bpc`, `train/nats`,
        `valid/nats`, `rate/layerN`, `live/layerN`, as `training.metrics_log.read_metrics` returns
        them.
      title: of the figure, the run's. symbol: what bits are of.

    Raises:
      UserError: the folder does not exist.
    """
    figure = new_figure(figsize=(2 * _PANEL[0], _PANEL[1]), layout="constrained")
    figure.suptitle(style.shown(title), parse_math=False, family=style.families())
    losses, detectors = figure.subplots(1, 2)
    loss = _known("bpc", metrics_rows)
    drawn = [
        _curve(losses, metrics_rows, f"{split}/{loss}", label=_WORDS[split], color=colour,
               linewidth=1.6)
        for split, colour in (("train", "#999999"), ("valid", style.COLOURS[0]))
    ]  # fmt: skip
    what = in_words(loss, symbol)
    losses.set_ylabel(what)
    _finish(losses, any(drawn), what)

    names = {key.split("/")[1] for row in metrics_rows for key in row if key.startswith("rate/")}
    names |= {key.split("/")[1] for row in metrics_rows for key in row if key.startswith("live/")}
    drawn = False
    for index, name in enumerate(sorted(names, key=lambda name: (len(name), name))):
        for kind, word, line in (("rate", "firing rate", "-"), ("live", "active fraction", "--")):
            drawn |= _curve(
                detectors,
                metrics_rows,
                f"{kind}/{name}",
                label=f"{name.replace('layer', 'layer ')}, {word}",
                color=style.COLOURS[index % len(style.COLOURS)],
                linestyle=line,
                linewidth=1.6,
            )
    detectors.set_yscale("symlog", linthresh=0.01, linscale=0.5)
    detectors.set_ylim(-0.001, 1.3)
    detectors.set_yticks([0, 0.01, 0.03, 0.1, 0.3, 1])
    _in_percent(detectors.yaxis)
    detectors.minorticks_off()
    detectors.set_ylabel("share of steps")
    _finish(detectors, drawn, "firing rates")
    style.save(figure, path)


@_with_letters
def compare_curves(path, runs, keys, symbol="character"):
    """Several runs over one another, one panel per key.

    Args:
      path: of the PNG file to write.
      runs: dict from a run's title to its rows; the colour goes with the run.
      keys: such as `["valid/bpc", "rate/layer1"]`, see `in_words`. symbol: what bits are of.

    Raises:
      UserError: no keys are given, or the folder does not exist.
    """
    keys = [_known(key, *runs.values()) for key in keys]
    if not keys:
        raise UserError("There is nothing to compare: give one key or more, such as valid/bpc.")
    # One legend above all: titles may be longer than a panel is wide.
    wide = max(_PANEL[0] * len(keys), 0.09 * max(map(columns, runs), default=0) + 1)
    high = _PANEL[1] + 0.22 * len(runs)
    figure = new_figure(figsize=(wide, high), layout="constrained")
    handles = {}
    for axes, key in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
        drawn = [
            _curve(
                axes,
                rows,
                key,
                label=name,
                color=style.COLOURS[index % len(style.COLOURS)],
                linewidth=1.6,
            )
            for index, (name, rows) in enumerate(runs.items())
        ]
        what = in_words(key, symbol)
        axes.set_ylabel(what)
        _finish(axes, any(drawn), what, legend=False)
        handles |= {line.get_label(): line for line in axes.lines}
    labels = [style.shown(name) for name in handles]
    legend = figure.legend(
        handles.values(), labels, loc="outside upper left", frameon=False,
        prop={"family": style.families(), "size": LETTERS["legend.fontsize"]},
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
    style.save(figure, path)


@_with_letters
def length_curves(path, results, trained):
    """Accuracy of several runs by number of operators (Shen et al. 2019, Figure 3).

    Args:
      path: of the PNG file to write.
      results: dict from a run's title to its test metrics, of which `accuracy/lengthN` are drawn.
      trained: the largest number of operators in training; longer formulas are shaded.

    Raises:
      UserError: the folder does not exist.
    """
    figure = new_figure(figsize=(1.25 * _PANEL[0], _PANEL[1]), layout="constrained")
    axes = figure.subplots()
    prefix = "accuracy/length"
    for colour, (name, result) in zip(style.COLOURS, results.items(), strict=False):
        lengths = sorted(int(key.removeprefix(prefix)) for key in result if key.startswith(prefix))
        values = [result[f"{prefix}{n}"] for n in lengths]
        axes.plot(lengths, values, label=name, color=colour, marker="o", markersize=4)
        axes.set_xticks(lengths)
    style.open_axes(axes)
    axes.axvspan(trained + 0.5, axes.get_xlim()[1], color="#eeeeee", zorder=0)
    axes.set_xlabel("operators (shaded: more than in training)")
    axes.set_ylabel("accuracy")
    _in_percent(axes.yaxis)
    axes.legend(frameon=False)
    style.save(figure, path)
