"""Figures of what a network discovered and of how its training went, written as PNG files.

Figures are drawn on `matplotlib.figure.Figure` without pyplot: no window, no
global state, nothing to close.
"""

import functools
import re

import numpy as np

from hmrnn_jax import files
from hmrnn_jax.analysis.boundaries import update_counts
from hmrnn_jax.analysis.glyphs import glyph
from hmrnn_jax.errors import UserError

# Okabe and Ito's palette: told apart with every common colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Sizes of the letters of curves: legible in half of a figure's width.
LETTERS = {"font.size": 11, "legend.fontsize": 10}
_PANEL = (4.4, 3.6)  # inches
_GRID = {"color": "#dddddd", "linewidth": 0.6}
_FONTS = (
    "DejaVu Sans Mono",
    "Noto Sans Mono CJK SC",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "WenQuanYi Zen Hei",
    "Source Han Sans SC",
    "PingFang SC",
    "Hiragino Sans",
    "Microsoft YaHei",
    "SimHei",
)
_MOST_ROWS, _WIDTH = 40, 90  # rows of a figure of boundaries, and symbols in one
MOST_SYMBOLS = _MOST_ROWS * _WIDTH  # that `boundary_figure` draws


def _with_letters(draw):
    """`draw` with letters that stay legible at half size."""

    @functools.wraps(draw)
    def drawn(*arguments, **kept):
        from matplotlib import rc_context

        with rc_context(LETTERS):
            return draw(*arguments, **kept)

    return drawn


def new_figure(**settings):
    """An empty `matplotlib.figure.Figure`; Matplotlib is imported when the first is drawn."""
    from matplotlib.figure import Figure

    return Figure(**settings)


def _save(figure, path):
    """Writes a figure as SVG or PNG, by the path's ending, whole or not at all.

    An SVG has no date, so that the same figure is the same file.

    Raises:
      UserError: it cannot be written there.
    """
    files.check_writable(path)
    with files.writing(path) as file:
        if _is_svg(path):
            figure.savefig(file, format="svg", metadata={"Date": None})
        else:
            figure.savefig(file, format="png", dpi=150)


def _is_svg(path):
    """Whether a path is that of an SVG."""
    return str(path).lower().endswith(".svg")


def _in_percent(axis):
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1, decimals=0))


def _open_axes(axes):
    """The look of a curve panel: no box, a light grid behind the curves."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(**_GRID)
    axes.set_axisbelow(True)


def _fonts():
    """The installed ones of `_FONTS`, with the characters that at least one of them can draw."""
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    names = [name for name in _FONTS if name in installed]
    drawable = set()
    for name in names:
        font = font_manager.get_font(font_manager.findfont(name))
        drawable |= set(font.get_charmap())
    return names, drawable


def boundary_figure(path, text, z, h_norms, title="", width=_WIDTH):
    """The paper's figure of a stretch of text: boundaries of every layer and norms of h.

    Rows of `width` symbols, each with three strips: the detectors' bars (one
    line per layer, the highest on top, a bar where z = 1), the text, and a heat
    map of the norms of h, layer 1 at the bottom. Every layer's norms are scaled
    by that layer's largest over the stretch, so that the copies of a quiet
    upper layer are as visible as the updates of a loud lower one.

    Source: Chung, Ahn and Bengio (2017), the figure of boundaries and norms
    over 270 characters. The heading carries the update counts (`update_counts`).

    Args:
      path: of the PNG file to write.
      text: str or sequence of T symbols.
      z: boundaries of layers 1..L-1, a list of `[T]` 0/1 arrays.
      h_norms: `[L, T]` Euclidean norms of the layers' h, layer 1 first.
      title: put before the counts.
      width: symbols in a row.

    Raises:
      UserError: lengths disagree, the text is empty or needs more than 40
        rows, or the folder does not exist.
    """
    symbols = [glyph(symbol) for symbol in text]
    h_norms = np.asarray(h_norms, float)
    fired = np.array([np.asarray(layer) for layer in z])
    layers, steps = len(fired) + 1, len(symbols)
    if not steps or fired.shape != (layers - 1, steps) or h_norms.shape != (layers, steps):
        raise UserError(
            f"z has shape {fired.shape} and the norms {h_norms.shape} beside {steps} symbols: "
            "give z as [L-1, T] and norms as [L, T] for a text of T symbols, T > 0."
        )
    rows = -(-steps // width)
    if rows > _MOST_ROWS:
        raise UserError(
            f"{steps} symbols make {rows} rows: choose {_MOST_ROWS * width} symbols or fewer."
        )
    updates = " / ".join(map(str, update_counts(fired)))
    fonts, drawable = _fonts()
    shown = ["".join(c if ord(c) in drawable else "□" for c in symbol) for symbol in symbols]
    peaks = h_norms.max(axis=1, keepdims=True)
    scaled = h_norms / np.where(peaks > 0, peaks, 1)

    across = min(width, steps)
    line, gap = 0.19, 0.22  # inches: a layer's line in both strips, the text between them
    row_height = line * (2 * layers - 1) + gap + 0.3
    left, right, top, bottom = 0.65, 0.75, 0.75, 0.0
    size = (max(0.128 * across, 5.0) + left + right, rows * row_height + top + bottom)
    figure = new_figure(figsize=size, facecolor="white")

    def place(row, down, height):
        """Axes `down` inches below the top of a row, one unit per symbol along x."""
        y = size[1] - top - row * row_height - down - height
        box = (left / size[0], y / size[1], 1 - (left + right) / size[0], height / size[1])
        axes = figure.add_axes(box)
        axes.set_xlim(0, across)
        axes.tick_params(length=0, labelsize=8)
        axes.set_xticks([])
        return axes

    for row in range(rows):
        here = slice(row * width, min((row + 1) * width, steps))
        long = here.stop - here.start
        height = line * (layers - 1)
        bars = place(row, 0, height)
        _draw_bars(bars, fired[:, here], long)
        for position, symbol in enumerate(shown[here]):
            y = 1 - (height + gap / 2) / size[1] - (top + row * row_height) / size[1]
            x = (left + (position + 0.5) / across * (size[0] - left - right)) / size[0]
            figure.text(
                x, y, symbol, family=fonts, fontsize=9, ha="center", va="center", parse_math=False
            )
        norms = place(row, height + gap, line * layers)
        image = norms.imshow(
            scaled[:, here],
            aspect="auto",
            origin="lower",
            extent=(0, long, 0, layers),
            cmap="magma",
            vmin=0,
            vmax=1,
            interpolation="nearest",
        )
        norms.set_xlim(0, across)
        norms.set_yticks(np.arange(layers) + 0.5, [f"‖h‖ {n + 1}" for n in range(layers)])
        norms.spines[:].set_visible(False)

    scale_height = min(rows * row_height - 0.4, 1.6)
    box = (1 - 0.62 / size[0], 1 - (top + scale_height) / size[1], 0.13 / size[0])
    scale = figure.colorbar(image, cax=figure.add_axes((*box, scale_height / size[1])))
    scale.set_ticks([0, 1], labels=["0", "max"])
    scale.ax.tick_params(length=0, labelsize=8)
    scale.outline.set_visible(False)
    heading = f"updates per layer: {updates} over {steps} symbols; ‖h‖ scaled per layer"
    for down, words, look in (
        (0.25, title, {"fontsize": 11, "fontweight": "bold"}),
        (0.5, heading, {"fontsize": 9, "color": "#444444"}),
    ):
        x, y = left / size[0], 1 - down / size[1]
        figure.text(x, y, words, va="center", parse_math=False, **look)
    _save(figure, path)


def _draw_bars(axes, fired, long):
    """One line per detector, layer 1 at the bottom, with a bar over every symbol where z = 1."""
    count = len(fired)
    for index, layer in enumerate(fired):
        axes.broken_barh([(0, long)], (index + 0.08, 0.84), facecolor="#eeeeee")
        spans = [(position + 0.08, 0.84) for position in np.flatnonzero(layer)]
        axes.broken_barh(spans, (index + 0.08, 0.84), facecolor=COLOURS[index % len(COLOURS)])
    axes.set_ylim(0, count)
    axes.set_yticks(np.arange(count) + 0.5, [f"z {n + 1}" for n in range(count)])
    axes.spines[:].set_visible(False)


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


def _finish(axes, drawn, what):
    _open_axes(axes)
    axes.set_xlabel("updates")
    if drawn:
        axes.legend(frameon=False)
    else:
        axes.text(0.5, 0.5, f"no {what} in the metrics", ha="center", transform=axes.transAxes)


_WORDS = {
    "train": "training", "valid": "validation", "test": "test", "bpc": "bits per character",
    "nats": "nats a prediction", "log_likelihood": "log-likelihood of a sequence in nats",
    "error": "share of errors", "rate": "firing rate", "live": "live fraction",
    "update": "share of UPDATE", "copy": "share of COPY", "flush": "share of FLUSH",
    "slope": "slope of the detectors", "gradient_norm": "norm of the gradient",
}  # fmt: skip


def in_words(key):
    """A metric's name for people: `valid/bpc` is "bits per character, validation"."""
    *before, last = key.split("/")
    parts = [_WORDS.get(part, part.replace("_", " ")) for part in before]
    numbered = re.fullmatch(r"(layer|length)(\d+)", last)
    if numbered and parts:
        return ", ".join([parts[-1], " ".join(numbered.groups()), *parts[:-1]])
    return ", ".join([_WORDS.get(last, last.replace("_", " ")), *parts])


@_with_letters
def training_curves(path, metrics_rows, title=""):
    """One run: bits per character, and how alive the boundary detectors are.

    The right panel has a solid curve for every layer's firing rate and a dashed
    one for its live fraction (pre-activations within the straight-through
    gradient's band). Its scale is logarithmic above 1 % and linear below, so
    that a collapse to 0 and a healthy 3 % can both be seen.

    Args:
      path: of the PNG file to write.
      metrics_rows: dicts with `step` and any of `train/bpc`, `valid/bpc`,
        `rate/layerN`, `live/layerN`, as `metrics.read_metrics` returns them.
      title: of the figure, the run's.

    Raises:
      UserError: the folder does not exist.
    """
    figure = new_figure(figsize=(2 * _PANEL[0], _PANEL[1]), layout="constrained")
    figure.suptitle(title, parse_math=False)
    bpc, detectors = figure.subplots(1, 2)
    drawn = [
        _curve(bpc, metrics_rows, f"{split}/bpc", label=_WORDS[split], color=colour, linewidth=1.6)
        for split, colour in (("train", "#999999"), ("valid", COLOURS[0]))
    ]
    bpc.set_ylabel("bits per character")
    _finish(bpc, any(drawn), "bits per character")

    names = {key.split("/")[1] for row in metrics_rows for key in row if key.startswith("rate/")}
    names |= {key.split("/")[1] for row in metrics_rows for key in row if key.startswith("live/")}
    drawn = False
    for index, name in enumerate(sorted(names, key=lambda name: (len(name), name))):
        for kind, word, line in (("rate", "firing rate", "-"), ("live", "live fraction", "--")):
            drawn |= _curve(
                detectors,
                metrics_rows,
                f"{kind}/{name}",
                label=f"{name.replace('layer', 'layer ')}, {word}",
                color=COLOURS[index % len(COLOURS)],
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
    _save(figure, path)


@_with_letters
def compare_curves(path, runs, keys):
    """Several runs over one another, one panel per key.

    Args:
      path: of the PNG file to write.
      runs: dict from a run's title to its rows; the colour goes with the run.
      keys: such as `["valid/bpc", "rate/layer1"]`, see `in_words`.

    Raises:
      UserError: no keys are given, or the folder does not exist.
    """
    keys = list(keys)
    if not keys:
        raise UserError("There is nothing to compare: give one key or more, such as valid/bpc.")
    figure = new_figure(figsize=(_PANEL[0] * len(keys), _PANEL[1]), layout="constrained")
    for axes, key in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
        drawn = [
            _curve(axes, rows, key, label=name, color=COLOURS[index % len(COLOURS)], linewidth=1.6)
            for index, (name, rows) in enumerate(runs.items())
        ]
        axes.set_ylabel(in_words(key))
        _finish(axes, any(drawn), in_words(key))
    _save(figure, path)


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
    for colour, (name, result) in zip(COLOURS, results.items(), strict=False):
        lengths = sorted(int(key.removeprefix(prefix)) for key in result if key.startswith(prefix))
        values = [result[f"{prefix}{n}"] for n in lengths]
        axes.plot(lengths, values, label=name, color=colour, marker="o", markersize=4)
        axes.set_xticks(lengths)
    _open_axes(axes)
    axes.axvspan(trained + 0.5, axes.get_xlim()[1], color="#eeeeee", zorder=0)
    axes.set_xlabel("operators (shaded: more than in training)")
    axes.set_ylabel("accuracy")
    _in_percent(axes.yaxis)
    axes.legend(frameon=False)
    _save(figure, path)
