"""Figures of real-valued sequences with the segments that a network found in them, PNG or SVG.

As in `text`, figures are drawn on `matplotlib.figure.Figure` without pyplot. Boundaries are 0/1
arrays `[T]`, one per layer 1..L-1; z = 1 at step t ends the segment that holds t.
"""

import numpy as np

from hmrnn_jax.analysis.figures import style
from hmrnn_jax.analysis.figures.text import new_figure
from hmrnn_jax.errors import UserError

_MOST_STEPS = 2000
_MOST_COLUMNS = 6


def signal_figure(path, values, columns, z=(), events=None, changes=None, h_norms=None, title=""):
    """A signal, and under it on the same scale of time what the layers made of it.

    From the top: a panel for each column, at most six of them; the events, a tick each; a strip
    per layer, layer 1 at the bottom, whose tone changes after every boundary, with its number of
    segments at the right; the norms of h, each layer's scaled by its largest. True change points
    are dashed lines across panels and strips. Step t takes the space from t to t+1, and a
    boundary or change at t stands at t+1. Of more than 2,000 steps the first 2,000 are drawn, and
    the title says so.

    Args:
      path: of the file to write, an SVG if it ends in `.svg`, else a PNG.
      values: `[T, D]`, in any unit.
      columns: D names.
      z: boundaries of layers 1..L-1, a list of `[T]` 0/1 arrays; none for a signal by itself.
      events: None, or `[T]` 0/1.
      changes: None, or `[T]` 0/1, 1 at the last step of each true segment.
      h_norms: None, or `[L, T]` Euclidean norms of the layers' h, layer 1 first.
      title: put on top.

    Raises:
      UserError: there is nothing to draw, lengths disagree, a number is not finite, z, events or
        changes are not 0 or 1, or the folder does not exist.
    """
    values, columns = np.asarray(values, float), [str(name) for name in columns]
    if values.ndim != 2 or not values.size or values.shape[1] != len(columns):
        raise UserError(
            f"The signal has shape {values.shape} and {len(columns)} names of columns: "
            "give values as [T, D] with D names, T > 0 and D > 0."
        )
    if not np.isfinite(values).all():
        step, column = np.argwhere(~np.isfinite(values))[0]
        raise UserError(f"Column {columns[column]} is {values[step, column]} at step {step}.")
    steps = len(values)
    fired = (
        style.checked_boundaries(z, steps, "the signal") if len(z) else np.zeros((0, steps), bool)
    )
    events, changes = (
        None if given is None else style.checked_boundaries([given], steps, "the signal", what)[0]
        for what, given in (("the events", events), ("the change points", changes))
    )
    if h_norms is not None:
        h_norms = np.asarray(h_norms, float)
        layers = len(fired) + 1 if len(fired) else len(h_norms)
        if h_norms.shape != (layers, steps) or not np.isfinite(h_norms).all():
            raise UserError(
                f"The norms have shape {h_norms.shape} beside {len(fired)} layers of boundaries "
                f"and {steps} steps: give finite numbers [L, T] with z of L-1 layers."
            )
    shown = min(steps, _MOST_STEPS)
    if shown < steps:
        title = " ".join([title, f"(first {shown:,} of {steps:,} steps)"]).strip()
    note = ["the tone changes after every boundary"] if len(fired) else []
    if changes is not None:
        note.append("dashed: true change points")
    if h_norms is not None:
        note.append("‖h‖ scaled per layer")
    if len(columns) > _MOST_COLUMNS:
        note.append(f"{len(columns) - _MOST_COLUMNS} more columns not shown")

    # Inches, from the top: heading, columns, events, strips, norms, numbers of the steps.
    panels = min(len(columns), _MOST_COLUMNS)
    tall = {1: 1.8, 2: 1.2}.get(panels, 0.85)
    rows = [(tall, 0.28)] * (panels - 1) + [(tall, 0.12)]
    if events is not None:
        rows.append((0.13, 0.1))
    if len(fired):
        rows.append((0.24 * len(fired), 0.1))
    if h_norms is not None:
        rows.append((0.2 * layers, 0.1))
    left, across, right, top = 0.8, 10.2, 1.1, 1.0
    size = (left + across + right, top + sum(map(sum, rows)) + 0.45)
    figure = new_figure(figsize=size, facecolor="white")
    style.write(figure, left, 0.22, title, "title")
    style.write(figure, left, 0.22 + style.LETTERING["title"][3], "; ".join(note), "note")
    down, places = top, []
    for height, gap in rows:
        box = (left / size[0], 1 - (down + height) / size[1], across / size[0], height / size[1])
        places.append(figure.add_axes(box))
        down += height + gap
    for axes in places:
        axes.set_xlim(0, shown)
        axes.tick_params(length=0, labelsize=8)
        axes.spines[:].set_visible(False)
        axes.tick_params(labelbottom=axes is places[-1])
    places[-1].set_xlabel("step", fontsize=8)

    places = iter(places)
    for column in range(panels):
        axes = next(places)
        axes.plot(
            np.arange(shown) + 0.5, values[:shown, column], color="#333333", linewidth=0.9, zorder=3
        )
        axes.grid(**style.GRID)
        axes.set_axisbelow(True)
        axes.set_title(
            style.shown(columns[column]), loc="left", fontsize=8, pad=3, parse_math=False
        )
        _dash(axes, changes, shown)
    if events is not None:
        axes = next(places)
        axes.vlines(np.flatnonzero(events[:shown]) + 0.5, 0, 1, color="black", linewidth=0.8)
        axes.set_ylim(0, 1)
        axes.set_yticks([0.5], ["events"])
    if len(fired):
        _strips(next(places), fired[:, :shown], changes)
    if h_norms is not None:
        _norms(next(places), h_norms[:, :shown])
    style.save(figure, path)


def _dash(axes, changes, shown):
    """Dashed lines at the change points, but for the end of the signal."""
    if changes is not None:
        for step in np.flatnonzero(changes[:shown]):
            if step + 1 < len(changes):
                axes.axvline(step + 1, color="black", linewidth=0.8, dashes=(3, 3))


def _strips(axes, fired, changes):
    """A strip per layer, layer 1 at the bottom, in two tones of the layer's colour."""
    from matplotlib.colors import to_rgb

    layers, shown = fired.shape
    for index, layer in enumerate(fired):
        edges = np.unique([0, *(np.flatnonzero(layer) + 1), shown])
        strong = np.array(to_rgb(style.COLOURS[index % len(style.COLOURS)]))
        tones = [strong, 1 - 0.35 * (1 - strong)]
        spans = list(zip(edges[:-1], np.diff(edges), strict=True))
        axes.broken_barh(
            spans,
            (index + 0.1, 0.8),
            facecolors=[tones[n % 2] for n in range(len(spans))],
            linewidth=0,
            antialiased=False,  # else a pale seam lies between neighbours
        )
        words = f"{len(spans):,} segment{'s' * (len(spans) > 1)}"
        look = {"fontsize": 8, "color": "#666666", "va": "center"}
        axes.text(shown * 1.008, index + 0.5, words, **look)
    axes.set_ylim(0, layers)
    axes.set_yticks(np.arange(layers) + 0.5, [f"layer {n + 1}" for n in range(layers)])
    _dash(axes, changes, shown)


def _norms(axes, h_norms):
    """The heat map of the norms, layer 1 at the bottom, with its scale at the right."""
    layers, shown = h_norms.shape
    peaks = h_norms.max(axis=1, keepdims=True)
    image = axes.imshow(
        h_norms / np.where(peaks > 0, peaks, 1),
        aspect="auto",
        origin="lower",
        extent=(0, shown, 0, layers),
        cmap="magma",
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    axes.set_yticks(np.arange(layers) + 0.5, [f"‖h‖ {n + 1}" for n in range(layers)])
    scale = axes.figure.colorbar(image, cax=axes.inset_axes((1.008, 0, 0.01, 1)))
    scale.set_ticks([0, 1], labels=["0", "max"])
    scale.ax.tick_params(length=0, labelsize=8)
    scale.outline.set_visible(False)
