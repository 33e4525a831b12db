"""The figure of a text's boundaries, written as a PNG file.

Figures are drawn on `matplotlib.figure.Figure` without pyplot: no window, no
global state, nothing to close.
"""

import numpy as np

from hmrnn_jax.analysis.boundaries import numbers
from hmrnn_jax.analysis.figures import style
from hmrnn_jax.analysis.glyphs import columns, glyph, wrap
from hmrnn_jax.errors import UserError

_MOST_ROWS, _WIDTH = 40, 90  # rows of a figure of boundaries, and columns in one
MOST_SYMBOLS = _MOST_ROWS * _WIDTH  # that `boundary_figure` draws, if each takes a column
_LONGEST = 14  # columns of a word; of longer ones the beginning is drawn


def new_figure(**settings):
    """An empty `matplotlib.figure.Figure`; Matplotlib is imported when the first is drawn."""
    from matplotlib.figure import Figure

    return Figure(**settings)


def boundary_figure(path, *arguments, **how):
    """Writes the figure that `draw_boundaries` draws as a PNG file. Raises as that one does.

    Args:
      path: of the file, in a folder that exists. The rest as there.
    """
    style.save(draw_boundaries(*arguments, **how), path)


def _laid_out(text, width):
    """Symbols as they are drawn, the columns that each takes, and the rows `(start, end)`."""
    symbols = [glyph(s.rstrip(" ") if len(s) > 1 else s) for s in text]  # words have theirs behind
    symbols = [s if columns(s) <= _LONGEST else f"{s[: _LONGEST // 2]}…" for s in symbols]
    taken = [max(1, columns(s) + (len(s) > 1 and columns(s) > 1)) for s in symbols]
    return symbols, np.array(taken, int), list(wrap(taken, width))


def fitting(text, width=_WIDTH):
    """For how many of the first symbols of a text `draw_boundaries` has room."""
    rows = _laid_out(text, width)[2]
    return rows[_MOST_ROWS][0] if len(rows) > _MOST_ROWS else len(text)


def draw_boundaries(text, z, h_norms, title="", width=_WIDTH, updates=True, **cell):
    """The paper's figure of a stretch of text: boundaries of every layer and norms of h.

    Rows of `width` columns, each with three strips: the detectors' bars (one
    line per layer, the highest on top, a bar where z = 1), the text, and a heat
    map of the norms of h, layer 1 at the bottom. A letter takes a column, a wide one two, a word
    as many as its letters and one between it and the next. Every layer's norms are scaled
    by that layer's largest over the stretch, so that the copies of a quiet
    upper layer are as visible as the updates of a loud lower one.

    Source: Chung, Ahn and Bengio (2017), the figure of boundaries and norms
    over 270 characters. The heading carries the update counts (`update_counts`).

    Args:
      text: str or sequence of T symbols.
      z: boundaries of layers 1..L-1, a list of `[T]` 0/1 arrays.
      h_norms: `[L, T]` Euclidean norms of the layers' h, layer 1 first.
      title: put before the counts.
      width: columns in a row.
      updates: whether z is that of the detectors; else it is any number of rows of boundaries.
      cell: as `boundaries.text_view`.

    Raises:
      UserError: lengths disagree, or the text is empty or needs more than 40 rows, see `fitting`.
    """
    symbols, taken, rows = _laid_out(text, width)
    h_norms = np.asarray(h_norms, float)
    fired = np.array([np.asarray(layer) for layer in z])
    layers, steps = len(h_norms), len(symbols)
    strips = layers - 1 if updates else len(fired)
    if not steps or fired.shape != (strips, steps) or h_norms.shape != (layers, steps):
        raise UserError(
            f"z has shape {fired.shape} and the norms {h_norms.shape} beside {steps} symbols: "
            "give z as [L-1, T] and norms as [L, T] for a text of T symbols, T > 0."
        )
    fonts, drawable = style.fonts()
    shown = ["".join(c if ord(c) in drawable else "□" for c in symbol) for symbol in symbols]
    if len(rows) > _MOST_ROWS:
        raise UserError(
            f"{steps} symbols make {len(rows)} rows: choose {rows[_MOST_ROWS][0]} symbols or fewer."
        )
    peaks = h_norms.max(axis=1, keepdims=True)
    scaled = h_norms / np.where(peaks > 0, peaks, 1)

    across = max(taken[slice(*row)].sum() for row in rows)
    name, counts = numbers(fired, updates, **cell)
    heading = f"{name}: {counts} over {steps} symbols; ‖h‖ scaled per layer"
    line, gap = 0.19, 0.22  # inches: a layer's line in both strips, the text between them
    row_height = line * (strips + layers) + gap + 0.3
    left, right, top, bottom = 0.65, 0.75, 0.75, 0.0
    inches = max(0.128 * across, 5.0, 0.12 * columns(title), 0.09 * columns(heading))
    size = (inches + left + right, len(rows) * row_height + top + bottom)
    figure = new_figure(figsize=size, facecolor="white")

    def place(row, down, height):
        """Axes `down` inches below the top of a row, one unit per column along x."""
        y = size[1] - top - row * row_height - down - height
        box = (left / size[0], y / size[1], 1 - (left + right) / size[0], height / size[1])
        axes = figure.add_axes(box)
        axes.set_xlim(0, across)
        axes.tick_params(length=0, labelsize=10)
        axes.set_xticks([])
        return axes

    for row, here in enumerate(slice(*row) for row in rows):
        widths = taken[here]
        edges, long = np.cumsum(widths) - widths, widths.sum()
        height = line * strips
        bars = place(row, 0, height)
        _draw_bars(bars, fired[:, here], edges, widths)
        for start, wide, symbol in zip(edges, widths, shown[here], strict=True):
            y = 1 - (height + gap / 2) / size[1] - (top + row * row_height) / size[1]
            x = (left + (start + wide / 2) / across * (size[0] - left - right)) / size[0]
            figure.text(
                x, y, symbol, family=fonts, fontsize=11, ha="center", va="center", parse_math=False
            )
        norms = place(row, height + gap, line * layers)
        image = norms.imshow(
            np.repeat(scaled[:, here], widths, axis=1),
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

    scale_height = min(len(rows) * row_height - 0.4, 1.6)
    box = (1 - 0.62 / size[0], 1 - (top + scale_height) / size[1], 0.13 / size[0])
    scale = figure.colorbar(image, cax=figure.add_axes((*box, scale_height / size[1])))
    scale.set_ticks([0, 1], labels=["0", "max"])
    scale.ax.tick_params(length=0, labelsize=10)
    scale.outline.set_visible(False)
    for down, words, look in (
        (0.22, title, {"fontsize": 12, "fontweight": "bold"}),
        (0.5, heading, {"fontsize": 10, "color": "#444444"}),
    ):
        x, y = left / size[0], 1 - down / size[1]
        look |= {"family": style.families(), "va": "center"}
        figure.text(x, y, style.shown(words), parse_math=False, **look)
    return figure


def _draw_bars(axes, fired, edges, widths):
    """One line per detector, layer 1 at the bottom, with a bar over every symbol where z = 1."""
    count = len(fired)
    for index, layer in enumerate(fired):
        axes.broken_barh([(0, widths.sum())], (index + 0.08, 0.84), facecolor="#eeeeee")
        spans = [(edges[n] + 0.08, widths[n] - 0.16) for n in np.flatnonzero(layer)]
        axes.broken_barh(
            spans, (index + 0.08, 0.84), facecolor=style.COLOURS[index % len(style.COLOURS)]
        )
    axes.set_ylim(0, count)
    axes.set_yticks(np.arange(count) + 0.5, [f"z {n + 1}" for n in range(count)])
    axes.spines[:].set_visible(False)
