"""What all figures share: colours, fonts, headings, how they are written to a file."""

import numpy as np

from hmrnn_jax import files
from hmrnn_jax.analysis.glyphs import glyph
from hmrnn_jax.errors import UserError

# Okabe and Ito's palette: told apart with every common colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GRID = {"color": "#dddddd", "linewidth": 0.6}
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


def save(figure, path):
    """Writes a figure as SVG or PNG, by the path's ending, whole or not at all.

    An SVG has no date, so that the same figure is the same file.

    Raises:
      UserError: it cannot be written there.
    """
    files.check_writable(path)
    with files.writing(path) as file:
        if is_svg(path):
            figure.savefig(file, format="svg", metadata={"Date": None})
        else:
            figure.savefig(file, format="png", dpi=150)


def is_svg(path):
    """Whether a path is that of an SVG."""
    return str(path).lower().endswith(".svg")


def open_axes(axes):
    """The look of a curve panel: no box, a light grid behind the curves."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(**GRID)
    axes.set_axisbelow(True)


def fonts():
    """The installed ones of `_FONTS`, with the characters that at least one of them can draw."""
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    names = [name for name in _FONTS if name in installed]
    drawable = set()
    for name in names:
        font = font_manager.get_font(font_manager.findfont(name))
        drawable |= set(font.get_charmap())
    return names, drawable


def families():
    """The fonts of words, with what there is for the characters that the first has not."""
    return ["DejaVu Sans", *fonts()[0]]


# Size in points, weight, colour, inches taken from the page.
LETTERING = {"title": (11, "bold", "#000000", 0.3), "note": (8, "normal", "#666666", 0.24)}


def checked_boundaries(z, steps, where, what="z"):
    """The layers' boundaries as a boolean array `[L-1, T]`, checked against T steps."""
    layers = [np.asarray(layer) for layer in z]
    if not layers:
        raise UserError(f"There are no boundaries of {where} to draw: give z of a layer or more.")
    for layer in layers:
        if layer.shape != (steps,):
            raise UserError(
                f"The lengths disagree: {what} of {where} has shape {layer.shape} beside {steps} "
                f"steps."
            )
        if not np.isin(layer, (0, 1)).all():
            raise UserError(
                f"There are values other than 0 and 1 in {what} of {where}: threshold them first."
            )
    return np.array(layers).astype(bool)


def shown(words):
    """Words in one line, with a box for what no installed font can draw."""
    drawable = fonts()[1]
    return "".join(c if ord(c) in drawable else "□" for c in glyph(words))


def write(figure, x, y, words, look):
    """Words that begin x inches from the left and y below the top of a figure."""
    size, weight, colour, _ = LETTERING[look]
    width, height = figure.get_size_inches()
    figure.text(
        x / width,
        1 - y / height,
        shown(words),
        family=families(),
        fontsize=size,
        fontweight=weight,
        color=colour,
        va="top",
        parse_math=False,
    )
