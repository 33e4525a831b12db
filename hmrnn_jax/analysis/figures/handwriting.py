"""Figures of handwriting: plain ink, ink coloured by segment, and sheets of generated lines.

A line of handwriting is a pair `(offsets, pen_up)`: offsets `[T, 2]` of raw dx, dy from point to
point, y growing downwards, and pen_up `[T]`, 1 at the last point of a stroke. The ink of step t
is what leads from point t-1 to point t; after a pen_up the pen moves without ink.

A figure is laid out once, as a page in inches, and then drawn by matplotlib (PNG) or written as
an SVG text of its own, small enough for a web page.
"""

from typing import NamedTuple
from xml.sax.saxutils import escape

import numpy as np

from hmrnn_jax import files
from hmrnn_jax.analysis import glyphs
from hmrnn_jax.analysis.figures import style
from hmrnn_jax.analysis.figures.text import new_figure
from hmrnn_jax.errors import UserError

# Three colours, so that two segments differ even across one too short to be seen.
SEGMENT_COLOURS = style.COLOURS[:3]
_INK, _MARK = "#000000", "#444444"
_NOTE = "the colour changes after every boundary; open circles: pen lifted"
MOST_LINES = 64
_WIDEST, _TALLEST = 12.5, 90.0  # inches of ink on a page
_BODY = 0.5  # inches of a line from the lower to the upper edge of its letters
_MARGIN, _GUTTER = 0.3, 1.05  # inches around the page; left of the ink for the layers' names
_CIRCLE, _DOT = 1.6, 0.003  # a mark's radius in points; inches that stand for a dot
_PIXELS = 96  # of an SVG in an inch


class _Panel(NamedTuple):
    """One drawing of one line, in inches, y downwards."""

    pieces: list  # of ink, [n, 2] each
    colours: list  # one for each piece
    marks: np.ndarray  # [m, 2], points to put a circle around


class _Page(NamedTuple):
    width: float  # inches, as all but the pen
    height: float
    panels: list
    words: list  # (x, y, text, look), x and y of the upper left corner
    pen: float  # points


def handwriting_figure(path, lines, z=None, names=(), texts=(), title=""):
    """Lines of handwriting one below the other: plain ink, or coloured by the layers' segments.

    With `z` every line has one panel per layer, named at the left with its number of segments;
    the colour changes after every step with z = 1, and an open circle marks every pen-up.

    Source: Chung, Ahn and Bengio (2017), the figure of segments by z^2 beside pen-ups.

    Args:
      path: of the file to write, an SVG if it ends in `.svg`, else a PNG.
      lines: at most 64 pairs `(offsets [T, 2], pen_up [T])`, see above; drawn to one scale.
      z: None, or for every line the boundaries of layers 1..L-1, a list of `[T]` 0/1 arrays.
      names, texts: none, or one for each line: put in small type above it.
      title: put on top.

    Raises:
      UserError: there is nothing to draw or too much, lengths disagree, a point is not finite,
        pen_up or z is not 0 or 1, or the folder does not exist.
    """
    inks = _inks(lines)
    captions = _captions(len(inks), names, texts)
    z = None if z is None else _boundaries(z, inks)
    _save_page(_stack(inks, captions, title, z), path)


def handwriting_sheet(path, lines, columns="auto", title=""):
    """A batch of generated lines in one picture, in rows from left to right.

    Every line is turned by the slope of its points until it is level (a line no longer than a
    word or two, or steeper than 1 in 4, has no slope to speak of), and stands on its row by the
    median of its points. One wild line must not shrink the others: what lies further right than
    2 times the median width, or further up or down than 2 times the median height, is left
    out, and the sheet says in how many lines.

    Args:
      path, lines, title: as in `handwriting_figure`.
      columns: 1 to 4, or "auto": 1 for up to 10 lines, else 2.

    Raises:
      UserError: as `handwriting_figure` does; or columns is something else.
    """
    inks = _inks(lines)
    if columns == "auto":
        columns = 1 if len(inks) <= 10 else 2
    if columns not in range(1, 5):
        raise UserError(f"columns is {columns!r}: give 1, 2, 3, 4 or auto.")
    _save_page(_sheet(inks, columns, title), path)


def svg(lines) -> str:
    """Lines of handwriting one below the other as the text of an SVG image.

    One `path` element for each line and one `M` in it for each stroke; a viewBox around the ink
    and no size, so that the image fills the element of the web page it is put in.

    `lines` and what is raised: as in `handwriting_figure`.
    """
    inks = _inks(lines)
    return _svg(_stack(inks, [""] * len(inks), ""))


def _inks(lines):
    """The lines as pairs of points `[T, 2]` and a boolean pen_up `[T]`, checked."""
    lines = list(lines)
    if not 0 < len(lines) <= MOST_LINES:
        raise UserError(f"{len(lines)} lines were given to draw: give 1 to {MOST_LINES}.")
    inks = []
    for number, (offsets, pen_up) in enumerate(lines, 1):
        offsets = np.asarray(offsets, float)
        if offsets.ndim != 2 or offsets.shape[1] != 2 or not len(offsets):
            shape = offsets.shape
            raise UserError(f"Line {number} has offsets of shape {shape}: give [T, 2], T > 0.")
        finite = np.isfinite(offsets).all(axis=1)
        if not finite.all():
            raise UserError(f"Line {number} is not finite at point {np.argmin(finite)}: drop it.")
        (pen_up,) = style.checked_boundaries([pen_up], len(offsets), f"line {number}", "pen_up")
        inks.append((np.cumsum(offsets, axis=0), pen_up))
    return inks


def _boundaries(z, inks):
    """For each line the boundaries as a boolean array `[L-1, T]`, checked."""
    counts = [len(of_line) for of_line in z]
    if len(counts) != len(inks) or len(set(counts)) > 1:
        raise UserError(
            f"z has {counts} layers for {len(inks)} lines: give every line as many layers."
        )
    steps = [len(pen_up) for _, pen_up in inks]
    return [style.checked_boundaries(z[n], steps[n], f"line {n + 1}") for n in range(len(inks))]


def _captions(count, names, texts):
    """What stands above each line: its name, its transcript or both; '' for nothing."""
    columns = []
    for what, given in (("names", names), ("texts", texts)):
        given = [] if given is None else list(map(str, given))
        if len(given) not in (0, count):
            raise UserError(f"{len(given)} {what} for {count} lines: give one for each, or none.")
        columns.append(given or [""] * count)
    return ["   ".join(filter(None, pair)) for pair in zip(*columns, strict=True)]


def _strokes(points, pen_up):
    """The strokes `[n, 2]` of a line, n > 0; the last may lack its pen_up."""
    return [part for part in np.split(points, np.flatnonzero(pen_up) + 1) if len(part)]


def _level(points):
    """The points turned so that the line they are written on is level."""
    x, y = (points - points.mean(axis=0)).T
    slope = x @ y / (x @ x) if x.any() else 0.0
    body = np.ptp(np.percentile(y - slope * x, (5, 95)))
    if abs(slope) > 0.25 or np.ptp(x) < 6 * body:
        return points
    cos, sin = np.array([1, slope]) / np.hypot(1, slope)
    return points @ np.array([[cos, -sin], [sin, cos]])


def _middle(values):
    """The median, of an even number of values the lower: with two lines, one may be wild."""
    return float(np.percentile(values, 50, method="lower"))


def _scale(inks, *limits):
    """Inches per unit, so that letters have a common size, and the pen's width in points.

    The letters are smaller where one of the `limits`, (inches, extent), binds.
    """
    body = _middle([np.ptp(np.percentile(_level(p)[:, 1], (5, 95))) for p, _ in inks])
    limits = [(_BODY, body), *limits]
    scale = min((inches / extent for inches, extent in limits if extent > 0), default=1.0)
    return scale, float(np.clip(2.8 * body * scale, 0.5, 1.4))


def _heading(*heads):
    """The words on top of a page, of pairs (text, look), and where the page goes on below."""
    down, words = _MARGIN, []
    for text, look in heads:
        if text:
            words.append((_MARGIN, down, text, look))
            down += style.LETTERING[look][3]
    return words, down + 0.1 * bool(words)


def _page(right, down, panels, words, pen):
    """The page that ends right of the ink and of the words, whose length is about right."""
    lengths = (
        x + 0.64 * style.LETTERING[look][0] / 72 * glyphs.columns(text)
        for x, _, text, look in words
    )
    return _Page(max(right, *lengths, 0) + _MARGIN, down + _MARGIN, panels, words, pen)


def _stack(inks, captions, title, z=None):
    """The page of lines one below the other, each once or once for every layer of z."""
    layers, left, gap = 1, _MARGIN, 0.5 * _BODY
    if z is not None:
        layers, left, gap = len(z[0]), _MARGIN + _GUTTER, 0.3 * _BODY
    sizes = np.array([np.ptp(points, axis=0) for points, _ in inks])
    wide, tall = sizes[:, 0].max(), layers * sizes[:, 1].sum()
    scale, pen = _scale(inks, (_WIDEST, wide), (_TALLEST, tall))
    words, down = _heading((title, "title"), (_NOTE if z else "", "note"))
    panels = []
    for number, ((points, pen_up), caption) in enumerate(zip(inks, captions, strict=True)):
        if caption:
            words.append((left, down, caption, "note"))
            down += style.LETTERING["note"][3]
        points = (points - points.min(axis=0)) * scale + (left, 0)
        height = points[:, 1].max()
        for layer in range(layers):
            here = points + (0, down)
            if z is None:
                panels.append(_plain(_strokes(here, pen_up)))
            else:
                panel, count = _coloured(here, pen_up, z[number][layer])
                panels.append(panel)
                labels = f"layer {layer + 1}", f"{count:,} segment{'s' * (count > 1)}"
                for above, label in zip((0.14, -0.02), labels, strict=True):
                    words.append((_MARGIN, down + height / 2 - above, label, "note"))
            down += height + gap
        down += gap * (z is not None)
    return _page(left + wide * scale, down - gap, panels, words, pen)


def _plain(strokes):
    return _Panel(strokes, [_INK] * len(strokes), np.zeros((0, 2)))


def _coloured(points, pen_up, fired):
    """A line cut at its pen-ups and at one layer's boundaries; how many segments it has."""
    number = np.cumsum(fired) - fired
    begins = np.append(True, pen_up[:-1])
    starts = np.flatnonzero(begins | np.append(False, fired[:-1]))
    ends = np.append(starts[1:], len(points))
    # The ink of a step begins at the point before it, but for the first of a stroke.
    spans = zip(starts - ~begins[starts], ends, strict=True)
    pieces = [points[start:end] for start, end in spans]
    colours = [SEGMENT_COLOURS[number[start] % len(SEGMENT_COLOURS)] for start in starts]
    return _Panel(pieces, colours, points[pen_up]), int(number[-1]) + 1


def _sheet(inks, columns, title):
    """The page of `handwriting_sheet`."""
    level = [_level(points) for points, _ in inks]
    sizes = np.array([np.ptp(points, axis=0) for points in level])
    # What every line that is not wild needs; a median of 0 tells nothing.
    widest, highest = (s[s <= (2 * _middle(s) or np.inf)].max() for s in sizes.T)
    gap = 0.6
    cell = (_WIDEST - gap * (columns - 1)) / columns
    scale, pen = _scale(inks, (cell, widest), (_TALLEST, highest * len(inks) / columns))
    cell, reach = widest * scale, highest * scale

    kept, cut = [], 0
    for points, (_, pen_up) in zip(level, inks, strict=True):
        # A line that fits begins at its leftmost point, another where it was begun.
        fits = np.ptp(points[:, 0]) <= widest
        left = points[:, 0].min() if fits else points[0, 0]
        points = (points - (left, np.median(points[:, 1]))) * scale
        inside = (points[:, 0] >= -1e-9) & (points[:, 0] <= cell + 1e-9)
        inside &= np.abs(points[:, 1]) <= reach + 1e-9
        cut += not inside.all()
        # As if the pen were lifted at the edge.
        lifted = pen_up | np.append(~inside[1:], False)
        kept.append(_strokes(points[inside], lifted[inside]))

    note = f"ink beyond the edge left out in {cut} of {len(inks)} lines" if cut else ""
    words, down = _heading((title, "title"), (note, "note"))
    panels = []
    for start in range(0, len(kept), columns):
        row = kept[start : start + columns]
        ys = np.concatenate([stroke[:, 1] for strokes in row for stroke in strokes] or [[0.0]])
        for column, strokes in enumerate(row):
            corner = (_MARGIN + column * (cell + gap), down - ys.min())
            panels.append(_plain([stroke + corner for stroke in strokes]))
        down += np.ptp(ys) + 0.35 * _BODY
    right = _MARGIN + min(columns, len(kept)) * (cell + gap) - gap
    return _page(right, down - 0.35 * _BODY, panels, words, pen)


def _save_page(page, path):
    if style.is_svg(path):
        files.check_writable(path)
        files.write_text(path, _svg(page))
    else:
        style.save(_draw(page), path)


def _svg(page):
    """The page as the text of an SVG image."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 0 {page.width * _PIXELS:.1f} {page.height * _PIXELS:.1f}">',
        f'<g fill="none" stroke="{_MARK}" stroke-width="{page.pen * _PIXELS / 72:.2f}" '
        'stroke-linecap="round" stroke-linejoin="round">',
    ]
    for panel in page.panels:
        for colour in dict.fromkeys(panel.colours):
            pairs = zip(panel.pieces, panel.colours, strict=True)
            way = "".join(_path(piece) for piece, own in pairs if own == colour)
            parts.append(f'<path stroke="{colour}" d="{way}"/>')
        for x, y in panel.marks * _PIXELS:
            circle = f'cx="{x:.1f}" cy="{y:.1f}" r="{_CIRCLE * _PIXELS / 72:.1f}"'
            parts.append(f'<circle {circle} stroke-width="0.8"/>')
    parts.append("</g>")
    for x, y, text, look in page.words:
        size, weight, colour, _ = style.LETTERING[look]
        size *= _PIXELS / 72
        parts.append(
            f'<text x="{x * _PIXELS:.1f}" y="{y * _PIXELS + 0.8 * size:.1f}" '
            f'fill="{colour}" font-family="sans-serif" font-size="{size:.1f}" '
            f'font-weight="{weight}">{escape(glyphs.glyph(text))}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _path(stroke):
    """A stroke in tenths of a pixel: where it begins, then the way from point to point."""
    tenths = np.rint(stroke * _PIXELS * 10).astype(int)
    steps = np.diff(tenths, axis=0)
    steps = steps[steps.any(axis=1)] if steps.any() else np.zeros((1, 2))  # a dot has no way
    numbers = [f"{n / 10:g}" for n in steps.ravel()]
    x, y = (f"{n / 10:.1f}" for n in tenths[0])
    return f"M{x} {y}l{' '.join(numbers)}"


def _draw(page):
    """The page as a matplotlib figure, with one collection of ink per panel."""
    from matplotlib.collections import LineCollection

    figure = new_figure(figsize=(page.width, page.height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, page.width), ylim=(page.height, 0))
    axes.set_axis_off()
    for panel in page.panels:
        # Matplotlib draws no piece without length, nor a level one of less than a pixel.
        pieces = [p if np.ptp(p, axis=0).any() else [*p, p[-1] + _DOT] for p in panel.pieces]
        ink = LineCollection(pieces, linewidths=page.pen, colors=panel.colours)
        ink.set(capstyle="round", joinstyle="round")
        axes.add_collection(ink)
        if len(panel.marks):
            axes.plot(*panel.marks.T, "o", ms=2 * _CIRCLE, mfc="none", mec=_MARK, mew=0.6)
    for words in page.words:
        style.write(figure, *words)
    return figure
