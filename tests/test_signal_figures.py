"""Figures of signals: what is drawn, where, in which colour; what is refused."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from figures import NS, PNG, kept
from matplotlib.colors import to_hex

from hmrnn_jax.analysis.figures.signals import signal_figure
from hmrnn_jax.errors import UserError

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def saved(monkeypatch):
    return kept(monkeypatch)


def spans(axes):
    """For each strip of an axes its spans (left, right) and their colours."""
    return [
        (
            [(path.vertices[:, 0].min(), path.vertices[:, 0].max()) for path in strip.get_paths()],
            [to_hex(colour) for colour in strip.get_facecolors()],
        )
        for strip in axes.collections
    ]


def dashes(axes):
    return [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"]


def test_signal_figure(tmp_path, saved):
    rng = np.random.default_rng(0)
    values = np.cumsum(rng.normal(size=(90, 2)), axis=0)
    z = [rng.random(90) < 0.3, np.isin(np.arange(90), (9, 40, 89))]
    changes = np.isin(np.arange(90), (29, 59, 89))
    events = np.isin(np.arange(90), (0, 50))
    h_norms = rng.random((3, 90)) * np.array([[1], [40], [0]])
    path = tmp_path / "s.png"
    signal_figure(path, values, ["x", "$y$"], z, events, changes, h_norms, "Oscillators")
    assert path.read_bytes()[:8] == PNG
    x, y, ticks, strips, heat = saved[0].axes[:5]
    for axes, name, column in ((x, "x", values[:, 0]), (y, "$y$", values[:, 1])):
        assert axes.get_title(loc="left") == name
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), column)
        np.testing.assert_array_equal(axes.lines[0].get_xdata(), np.arange(90) + 0.5)
        assert dashes(axes) == [30, 60]  # after steps 29 and 59; the end is no change
    assert dashes(strips) == [30, 60]
    np.testing.assert_array_equal(
        [s[0, 0] for s in ticks.collections[0].get_segments()], [0.5, 50.5]
    )
    drawn = spans(strips)
    assert len(drawn) == 2
    assert drawn[1][0] == [(0, 10), (10, 41), (41, 90)]
    for (edges, colours), fired in zip(drawn, z, strict=True):
        assert [right for _, right in edges[:-1]] == list(np.flatnonzero(fired[:-1]) + 1)
        assert all(a != b for a, b in zip(colours, colours[1:], strict=False))
    assert not set(drawn[0][1]) & set(drawn[1][1])  # each layer has tones of its own
    assert [label.get_text() for label in strips.get_yticklabels()] == ["layer 1", "layer 2"]
    assert [text.get_text() for text in strips.texts][1] == "3 segments"
    (image,) = heat.images
    assert image.origin == "lower"
    np.testing.assert_allclose(image.get_array()[1], h_norms[1] / h_norms[1].max())
    assert not image.get_array()[2].any()
    assert all(axes.get_xlim() == (0, 90) for axes in saved[0].axes[:5])
    words = " ".join(text.get_text() for text in saved[0].texts)
    assert "Oscillators" in words and "dashed" in words and "not shown" not in words


def test_long_and_wide_signals_are_cut_and_say_so(tmp_path, saved):
    values = np.zeros((2500, 9))
    fired = np.arange(2500) % 400 == 399
    path = tmp_path / "s.svg"
    signal_figure(path, values, list("abcdefghi"), [fired], changes=fired)
    assert ET.fromstring(path.read_text()).tag == NS + "svg"
    *columns, strips = saved[0].axes
    assert [axes.get_title(loc="left") for axes in columns] == list("abcdef")
    assert all(len(axes.lines[0].get_xdata()) == 2000 for axes in columns)
    assert spans(strips)[0][0] == [(n, n + 400) for n in range(0, 2000, 400)]
    words = [text.get_text() for text in saved[0].texts]
    assert words[0] == "(first 2,000 of 2,500 steps)" and "3 more columns not shown" in words[1]


def test_a_signal_by_itself(tmp_path, saved):
    signal_figure(tmp_path / "a.png", np.zeros((30, 1)), ["x"])
    signal_figure(tmp_path / "b.png", np.zeros((30, 1)), ["x"], h_norms=np.ones((2, 30)))
    assert [len(figure.axes) for figure in saved] == [1, 2]
    assert not any(text.get_text() for text in saved[0].texts)
    assert not saved[0].axes[0].collections


def test_signal_refuses(tmp_path):
    values, fired, norms = np.zeros((20, 2)), np.zeros(20), np.zeros((2, 20))
    good = {"values": values, "columns": ["x", "y"], "z": [fired]}
    for change, words in (
        ({"values": values[:0]}, "shape"),
        ({"values": values[:, 0]}, "shape"),
        ({"columns": ["x"]}, "1 names"),
        ({"values": values + np.inf}, "Column x is inf at step 0"),
        ({"z": [fired, fired[1:]]}, "z of the signal"),
        ({"z": [fired + 0.3]}, "other than 0 and 1"),
        ({"events": fired[1:]}, "the events of the signal"),
        ({"changes": fired + 2}, "the change points of the signal"),
        ({"h_norms": norms[:1]}, "norms"),
        ({"h_norms": norms + np.nan}, "norms"),
        ({"z": [], "h_norms": norms[:, 1:]}, "norms"),
    ):
        with pytest.raises(UserError, match=words):
            signal_figure(tmp_path / "s.png", **(good | change))
    with pytest.raises(UserError, match="missing does not exist"):
        signal_figure(tmp_path / "missing" / "s.png", **good)
    assert not list(tmp_path.iterdir())
