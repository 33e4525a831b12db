"""A figure of one sentence: the tree above its words, the distances beneath them."""

import numpy as np

from hmrnn_jax.analysis.figures import style
from hmrnn_jax.analysis.figures.text import new_figure
from hmrnn_jax.analysis.glyphs import columns, glyph
from hmrnn_jax.analysis.trees import leaves
from hmrnn_jax.errors import UserError

MOST_WORDS = 300
_WIDEST = 15.0  # inches that words may take side by side before they are turned upright
_SIZE = 9  # points
_LETTER = 0.602 * _SIZE / 72  # inches: a column of DejaVu Sans Mono


def tree_figure(path, words, distances, tree, title=""):
    """One sentence with its tree drawn above the words and one bar per word beneath.

    A node stands above the middle of its first and last child, one level higher than the
    highest of them. The bars are the distances, from 0; the parser splits a span at its highest
    bar. Words lie side by side, or stand upright where the sentence would be too wide.

    Args:
      path: of the PNG file to write.
      words: n words, n > 0.
      distances: `[n]`, one per word.
      tree: over the words, as `analysis.trees.tree_from_distances` makes it.
      title: put above the tree.

    Raises:
      UserError: the numbers of words and distances differ, a distance is not finite, the tree
        is over other words, there are more than 300 words, or the folder does not exist.
    """
    words, distances = list(words), np.asarray(distances, float)
    if not words or distances.shape != (len(words),) or not np.all(np.isfinite(distances)):
        raise UserError(
            f"The distances have shape {distances.shape} beside {len(words)} words: "
            "give one finite number per word."
        )
    if leaves(tree) != words:
        raise UserError("The tree is over other words than those given: draw each with its own.")
    if len(words) > MOST_WORDS:
        raise UserError(f"{len(words)} words are too many to draw: give at most {MOST_WORDS}.")

    fonts, drawable = style.fonts()
    shown = ["".join(c if ord(c) in drawable else "□" for c in glyph(word)) for word in words]
    lengths = np.array([columns(word) for word in shown]) * _LETTER
    widths = np.maximum(lengths + 0.2, 0.42)
    upright = widths.sum() > _WIDEST
    if upright:
        widths = np.full(len(words), 0.27)
    line = lengths.max() + 0.2 if upright else 0.32  # inches that the row of words is high
    across = max(widths.sum(), 3.0, 0.105 * columns(title))  # the title needs room as well
    centres = np.cumsum(widths) - widths / 2 + (across - widths.sum()) / 2
    strokes, levels = _strokes(tree, centres)

    # Inches, from the top: heading, tree, words, bars.
    tree_height = max(min(0.3 * levels, 4.5), 0.3)
    bars_height = 1.1
    left, right, top, bottom = 0.7, 0.25, 0.55, 0.2
    size = (left + across + right, top + tree_height + line + bars_height + bottom)
    figure = new_figure(figsize=size, facecolor="white")

    def place(down, height):
        """Axes `down` inches below the top, with inches of the row of words along x."""
        y = (size[1] - down - height) / size[1]
        axes = figure.add_axes((left / size[0], y, across / size[0], height / size[1]))
        axes.set_xlim(0, across)
        axes.tick_params(length=0, labelsize=8)
        axes.set_xticks([])
        return axes

    drawing = place(top, tree_height)
    for xs, ys in strokes:
        drawing.plot(xs, ys, color=style.COLOURS[0], linewidth=1.3, solid_joinstyle="round")
    drawing.set_ylim(0, max(levels, 1) + 0.15)
    drawing.set_axis_off()

    for centre, word in zip(centres, shown, strict=True):
        figure.text(
            (left + centre) / size[0],
            1 - (top + tree_height + 0.08) / size[1],
            word,
            family=fonts,
            fontsize=_SIZE,
            rotation=90 if upright else 0,
            ha="center",
            va="top",
            parse_math=False,
        )

    bars = place(top + tree_height + line, bars_height)
    bars.bar(centres, distances, width=np.minimum(widths * 0.7, 0.34), color=style.COLOURS[4])
    bars.set_axisbelow(True)
    bars.grid(axis="y", **style.GRID)
    bars.spines[["top", "right", "left"]].set_visible(False)
    bars.set_ylabel("distance", fontsize=8)
    figure.text(
        left / size[0],
        1 - 0.25 / size[1],
        title,
        va="center",
        fontsize=11,
        fontweight="bold",
        parse_math=False,
    )
    style.save(figure, path)


def _strokes(tree, centres):
    """The lines of a tree: `[(xs, ys), ...]`, and how many levels it has.

    Each node is a bar over its children, from which a line goes down to every one of them.
    """
    strokes, done, position = [], [], 0
    ahead = [tree]
    while ahead:
        item = ahead.pop()
        if isinstance(item, str):
            done.append((centres[position], 0))
            position += 1
        elif isinstance(item, int):  # the last so many of `done` are the children of a node
            children, done = done[-item:], done[:-item]
            level = 1 + max(height for _, height in children)
            first, last = children[0], children[-1]
            strokes.append(
                ((first[0], first[0], last[0], last[0]), (first[1], level, level, last[1]))
            )
            strokes += [((x, x), (level, height)) for x, height in children[1:-1]]
            done.append(((first[0] + last[0]) / 2, level))
        else:
            ahead.append(len(item))
            ahead.extend(reversed(item))
    return strokes, done[0][1]
