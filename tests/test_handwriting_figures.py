"""Figures of handwriting: what is drawn, where, in which colour; what is refused."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from figures import NS, PNG, kept
from matplotlib.colors import to_hex
from matplotlib.image import imread

from hmrnn_jax.analysis.figures.handwriting import _DOT, handwriting_figure, handwriting_sheet, svg
from hmrnn_jax.errors import UserError

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def saved(monkeypatch):
    return kept(monkeypatch)


def writing(words=6, seed=0, rise=0.0):
    """Loops like joined letters, a stroke of 24 points for each word; offsets and pen_up."""
    rng = np.random.default_rng(seed)
    t = np.arange(24 * words)
    x = 12 * t + 40 * np.sin(t) + 90 * (t // 24)
    y = 60 * np.cos(t) + rise * x + rng.normal(size=len(t))
    points = np.stack([x, y], axis=1)
    return np.diff(points, axis=0, prepend=0), t % 24 == 23


def inks(figure):
    """For each panel its pieces of ink `[n, 2]` and their colours; a dot has one point."""
    (axes,) = figure.axes
    dot = _DOT + 1e-9
    return [
        (
            [p[: 1 + (np.ptp(p, axis=0) > dot).any() * len(p)] for p in ink.get_segments()],
            [to_hex(colour).upper() for colour in ink.get_colors()],
        )
        for ink in axes.collections
    ]


def assert_same_shape(pieces, expected):
    """The pieces are the expected ones, but for one scale and one place for all of them."""
    assert [len(piece) for piece in pieces] == [len(piece) for piece in expected]
    drawn, true = np.concatenate(pieces), np.concatenate(expected)
    scale = np.ptp(drawn[:, 0]) / np.ptp(true[:, 0])
    np.testing.assert_allclose(drawn - drawn[0], (true - true[0]) * scale, atol=1e-9)


def strokes_of(line):
    """By hand: a stroke ends with its pen_up; none is left empty."""
    strokes, stroke = [], []
    for point, up in zip(np.cumsum(line[0], axis=0), line[1], strict=True):
        stroke.append(point)
        if up:
            strokes.append(stroke)
            stroke = []
    return strokes + [stroke] * bool(stroke)


def test_plain_ink_is_the_strokes_and_nothing_between_them(tmp_path, saved):
    first, second = writing(5), writing(2, seed=1)
    second[1][-1] = 0  # the last stroke was not ended
    second[1][3:6] = 1  # strokes of a single point
    handwriting_figure(tmp_path / "w.png", [first, second], texts=["for $5 & <more", "京"])
    assert (tmp_path / "w.png").read_bytes()[:8] == PNG
    drawn = inks(saved[0])
    assert len(drawn) == 2
    for (pieces, colours), line in zip(drawn, (first, second), strict=True):
        assert_same_shape(pieces, strokes_of(line))
        assert set(colours) == {"#000000"}
    # One scale for both, and the second wholly below the first.
    widths = [np.ptp(np.concatenate(pieces)[:, 0]) for pieces, _ in drawn]
    true = [np.ptp(np.cumsum(line[0], axis=0)[:, 0]) for line in (first, second)]
    assert widths[0] / widths[1] == pytest.approx(true[0] / true[1])
    assert np.concatenate(drawn[0][0])[:, 1].max() < np.concatenate(drawn[1][0])[:, 1].min()
    # y grows downwards in the picture too.
    low, high = saved[0].axes[0].get_ylim()
    assert low > high == 0
    assert [words.get_text() for words in saved[0].texts][0] == "for $5 & <more"


def test_a_stroke_of_one_point_is_a_visible_dot(tmp_path):
    line = np.array([[0.0, 0], [50, 0], [10, 40]]), np.array([1, 1, 1])
    handwriting_figure(tmp_path / "dots.png", [line])
    dark = imread(tmp_path / "dots.png")[..., 0] < 0.5
    rows = np.flatnonzero(dark.any(axis=1))
    columns = np.flatnonzero(dark.any(axis=0))
    # Three places along x, two along y.
    assert np.sum(np.diff(columns) > 1) == 2 and np.sum(np.diff(rows) > 1) == 1
    assert svg([line]).count("l0 0") == 3


def test_everything_drawn_lies_on_the_page(tmp_path, saved):
    lines = [writing(n, seed=n) for n in (1, 9, 4)]
    z = [[np.arange(len(up)) % 5 == 0] * 3 for _, up in lines]
    handwriting_figure(tmp_path / "a.png", lines, title="A title that is wider than one word")
    handwriting_figure(tmp_path / "b.png", lines, z, names=["a", "b", "c"])
    handwriting_sheet(tmp_path / "c.png", lines)
    for figure in saved:
        width, height = figure.get_size_inches()
        points = np.concatenate([piece for pieces, _ in inks(figure) for piece in pieces])
        assert points.min() > 0.1 and (points < [width - 0.1, height - 0.1]).all()
        figure.canvas.draw()
        for words in figure.texts:
            box = words.get_window_extent().transformed(figure.dpi_scale_trans.inverted())
            assert box.x0 > 0 and box.y0 > 0 and box.x1 < width and box.y1 < height


def test_colours_follow_the_segments_of_each_layer(tmp_path, saved):
    rng = np.random.default_rng(0)
    lines = [writing(4), writing(2, seed=1)]
    z = [[rng.random(len(up)) < rate for rate in (0.3, 0.05)] for _, up in lines]
    z[0][1][:] = 0
    handwriting_figure(tmp_path / "z.png", lines, z, ["one", "two"], title="HM-LSTM")
    drawn = inks(saved[0])
    assert len(drawn) == 4
    for panel, (pieces, colours) in enumerate(drawn):
        line, fired = lines[panel // 2], z[panel // 2][panel % 2]
        # By hand: the ink of step t, from point t-1, has the colour of the segment t lies in.
        points, segment, expected, hues = np.cumsum(line[0], axis=0), 0, [], []
        for t in range(len(points)):
            begins = t == 0 or line[1][t - 1]
            if begins:
                expected.append([points[t]])
            elif fired[t - 1]:
                expected.append([points[t - 1], points[t]])
            else:
                expected[-1].append(points[t])
            if len(hues) < len(expected):
                hues.append(segment)
            segment += bool(fired[t])
        assert_same_shape(pieces, expected)
        hue = dict(zip(hues, colours, strict=True))
        assert [hue[segment] for segment in hues] == colours  # one colour for a segment
        for segment in hue:
            assert hue.get(segment + 1) != hue[segment]
    assert len(set(drawn[2][1])) == 3 and len(set(drawn[1][1])) == 1
    # A circle around the last point of every stroke, in every panel.
    for (pieces, _), marks, line in zip(
        drawn, saved[0].axes[0].lines, [lines[0]] * 2 + [lines[1]] * 2, strict=True
    ):
        assert marks.get_markerfacecolor() == "none" and marks.get_linestyle() == "None"
        ends = np.cumsum(line[0], axis=0)[line[1]]
        assert_same_shape([marks.get_xydata()], [ends])
        assert tuple(marks.get_xydata()[-1]) == tuple(pieces[-1][-1])
    words = [artist.get_text() for artist in saved[0].texts]
    assert words.count("layer 1") == words.count("layer 2") == 2 and "one" in words
    assert "1 segment" in words and f"{z[0][0][:-1].sum() + 1} segments" in words


def coordinates(path):
    """The strokes of an SVG path of the form M x y l dx dy ...; nothing else is in it."""
    strokes = []
    for part in path.get("d").split("M")[1:]:
        begin, way = part.split("l")
        steps = np.array([begin.split(), *np.array(way.split()).reshape(-1, 2)], float)
        strokes.append(np.cumsum(steps, axis=0))
    assert re.fullmatch(r"[Ml0-9. -]*", path.get("d"))
    return strokes


def test_svg_is_the_same_ink(tmp_path):
    lines = [writing(3), writing(5, seed=2)]
    root = ET.fromstring(svg(lines))
    assert root.tag == NS + "svg"
    (group,) = root
    assert group.get("stroke-linejoin") == "round" and group.get("fill") == "none"
    left, top, width, height = map(float, root.get("viewBox").split())
    assert left == top == 0 and root.get("width") is None
    assert len(group) == len(lines)
    scales = []
    for path, line in zip(group, lines, strict=True):
        strokes, expected = coordinates(path), strokes_of(line)
        assert len(strokes) == len(expected) == line[1].sum()
        drawn, true = np.concatenate(strokes), np.concatenate(expected)
        scales.append(np.ptp(drawn[:, 0]) / np.ptp(true[:, 0]))
        # Rounding to a tenth of a pixel must not add up along a stroke.
        np.testing.assert_allclose(drawn - drawn[0], (true - true[0]) * scales[0], atol=0.21)
        assert (drawn > 0).all() and (drawn < [width, height]).all()
    assert scales[0] == pytest.approx(scales[1], rel=1e-3)


def test_svg_files(tmp_path):
    lines = [writing(3), writing(2, seed=3)]
    handwriting_figure(tmp_path / "plain.svg", lines)
    assert (tmp_path / "plain.svg").read_text() == svg(lines)
    z = [[np.arange(len(up)) % 7 == 6, up] for _, up in lines]
    handwriting_figure(tmp_path / "z.SVG", lines, z, None, ["a < b & c\x00", "京"], "Segments")
    root = ET.fromstring((tmp_path / "z.SVG").read_text(encoding="utf-8"))
    words = [text.text for text in root.iter(NS + "text")]
    assert "a < b & c␀" in words and words.count("layer 2") == 2
    assert len(list(root.iter(NS + "circle"))) == 2 * sum(up.sum() for _, up in lines)
    handwriting_sheet(tmp_path / "sheet.svg", lines)
    sheet = ET.fromstring((tmp_path / "sheet.svg").read_text())
    assert [len(coordinates(path)) for path in sheet.iter(NS + "path")] == [3, 2]


def test_sheet_levels_lines_and_sets_them_in_rows(tmp_path, saved):
    lines = [writing(8, seed=n, rise=rise) for n, rise in enumerate((0, 0.1, -0.15, 0.05, 0))]
    handwriting_sheet(tmp_path / "s.png", lines, columns=2, title="Samples")
    assert (tmp_path / "s.png").read_bytes()[:8] == PNG
    drawn = [np.concatenate(pieces) for pieces, _ in inks(saved[0])]
    assert len(drawn) == 5
    for points, line in zip(drawn, lines, strict=True):
        # Level, and turned, not stretched: lengths from point to point keep their ratio.
        assert abs(np.polyfit(*points.T, 1)[0]) < 1e-3
        steps, true = (
            np.hypot(*np.diff(p, axis=0).T) for p in (points, np.cumsum(line[0], axis=0))
        )
        np.testing.assert_allclose(steps / steps.sum(), true / true.sum(), rtol=1e-6)
    # Rows of two on one baseline, columns flush left, nothing on top of one another.
    middles = [np.median(points[:, 1]) for points in drawn]
    assert middles[0] == pytest.approx(middles[1]) and middles[2] == pytest.approx(middles[3])
    assert max(drawn[0][:, 1].max(), drawn[1][:, 1].max()) < drawn[2][:, 1].min()
    assert drawn[0][:, 0].min() == pytest.approx(drawn[4][:, 0].min())
    assert drawn[0][:, 0].max() < drawn[1][:, 0].min()
    handwriting_sheet(tmp_path / "s.png", lines * 4)
    starts = {round(np.concatenate(pieces)[:, 0].min(), 6) for pieces, _ in inks(saved[1])}
    assert len(starts) == 2  # auto takes two columns for twenty lines


def test_a_wild_line_does_not_shrink_the_others(tmp_path, saved):
    lines = [writing(8, seed=n) for n in range(6)]
    far, high = (tuple(map(np.copy, line)) for line in lines[:2])
    far[0][100] = (1e6, 0)
    high[0][30] = (0, 1e7)
    high[0][60] = (0, -1e7)
    for batch in (lines, [*lines, far, high], [lines[0], far]):
        handwriting_sheet(tmp_path / "s.png", batch, columns=1)
    drawn = [inks(figure) for figure in saved]
    for tame in range(6):
        for piece, same in zip(drawn[0][tame][0], drawn[1][tame][0], strict=True):
            np.testing.assert_allclose(np.ptp(piece, axis=0), np.ptp(same, axis=0), rtol=0.02)
    # What there is of a wild line before it leaves is drawn as of the tame one it was.
    assert len(np.concatenate(drawn[1][6][0])) == 100
    np.testing.assert_allclose(
        np.diff(np.concatenate(drawn[1][6][0])[:100], axis=0),
        np.diff(np.concatenate(drawn[1][0][0])[:100], axis=0),
        atol=1e-3,
    )
    # No ink on the way out or back, nor from where it left to where it came back.
    assert [len(piece) for piece in drawn[1][7][0]] == [24, 6, 12, 24, 24, 24, 24, 24]
    assert any("in 2 of 8 lines" in words.get_text() for words in saved[1].texts)
    assert not saved[0].texts
    assert np.ptp(np.concatenate(drawn[2][0][0])[:, 0]) > 5
    assert max(saved[1].get_size_inches()) < 20


def test_handwriting_refuses(tmp_path):
    offsets, pen_up = writing(2)
    path, fired = tmp_path / "x.png", np.zeros(len(pen_up))
    line = (offsets, pen_up)
    endless = offsets.copy()
    endless[7, 1] = np.nan
    for bad, words in (
        ([], "0 lines"),
        ([line] * 65, "65 lines"),
        ([(offsets[:0], pen_up[:0])], "Line 1 "),
        ([line, (offsets[:, :1], pen_up)], "Line 2 "),
        ([(offsets, pen_up[:-1])], "pen_up of line 1"),
        ([(offsets, pen_up * 2)], "other than 0 and 1 in pen_up"),
        ([line, (endless, pen_up)], "Line 2 is not finite at point 7"),
    ):
        for draw in (
            lambda bad: handwriting_figure(path, bad),
            lambda bad: handwriting_sheet(path, bad),
            svg,
        ):
            with pytest.raises(UserError, match=words):
                draw(bad)
    for z, words in (
        ([], "1 lines"),
        ([[]], "no boundaries"),
        ([[fired[1:]]], "z of line 1"),
        ([[fired + 0.5]], "other than 0 and 1 in z"),
    ):
        with pytest.raises(UserError, match=words):
            handwriting_figure(path, [line], z)
    with pytest.raises(UserError, match="as many layers"):
        handwriting_figure(path, [line] * 2, [[fired], [fired] * 2])
    with pytest.raises(UserError, match="3 texts for 1 lines"):
        handwriting_figure(path, [line], texts="abc")
    with pytest.raises(UserError, match="columns is 0"):
        handwriting_sheet(path, [line], columns=0)
    for name in ("missing/x.png", "missing/x.svg"):
        with pytest.raises(UserError, match="missing does not exist"):
            handwriting_figure(tmp_path / name, [line])
    assert not list(tmp_path.iterdir())
