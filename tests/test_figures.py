"""Figures are written, hold what they were given and refuse what they cannot draw."""

import itertools
import json

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from hmrnn_jax.analysis.figures import style
from hmrnn_jax.analysis.figures.curves import (
    compare_curves,
    in_words,
    length_curves,
    training_curves,
)
from hmrnn_jax.analysis.figures.text import boundary_figure
from hmrnn_jax.errors import UserError
from hmrnn_jax.training.metrics_log import read_metrics

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def saved(monkeypatch):
    """The figures that were saved, in order; the files are written as well."""
    figures, save = [], style.save
    monkeypatch.setattr(style, "save", lambda f, path: (figures.append(f), save(f, path)))
    return figures


def is_png(path):
    return path.read_bytes()[:8] == PNG


@pytest.mark.filterwarnings("error")
def test_boundary_figure(tmp_path, saved):
    text = "a $5 bet, or $6?\n京 x" * 2
    steps = len(text)
    z = np.array([[c.isspace() for c in text], np.arange(steps) % 9 == 8])
    boundary_figure(tmp_path / "b.png", text, z, np.ones((3, steps)), "100 $ or $", width=25)
    assert is_png(tmp_path / "b.png")
    texts = [artist.get_text() for artist in saved[0].texts]
    assert texts[: len("a $5 bet, or $6?⏎")] == list("a $5 bet, or $6?⏎")
    # Two rows, each with the strip of detectors and the heat map, and one colour scale.
    assert len(saved[0].axes) == 2 * 2 + 1
    assert any(f" over {steps} symbols" in words for words in texts)
    # Layer 2 does not COPY where z1 fires, nor on the step after its own boundary.
    after = np.roll(z[1], 1)
    after[0] = False
    layer2 = int(np.sum(z[0] | after))
    assert any(f"{steps} / {layer2} / {z[1].sum()} " in words for words in texts)


def within(figure, artists):
    """Whether these lie within the figure, and none upon another."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [artist.get_window_extent(canvas.get_renderer()) for artist in artists]
    whole = figure.bbox
    inside = all(whole.x0 <= b.x0 and b.x1 <= whole.x1 and b.y1 <= whole.y1 for b in boxes)
    pairs = itertools.combinations(boxes, 2)
    return inside and not any(a.overlaps(b) and abs(a.y0 - b.y0) < 9 for a, b in pairs)


@pytest.mark.parametrize(
    "text",
    [
        ["the ", "company ", "of ", "incomprehensibilities ", "<unk> ", "a "] * 9,
        "中华人民共和国" * 9, "a 京 b" * 9,
    ],
    ids=["words", "wide", "both"],
)  # fmt: skip
def test_symbols_do_not_lie_upon_each_other(saved, tmp_path, text):
    z = np.arange(len(text)) % 3 == 0
    title = "HM-LSTM 3 x 128 on Python's language reference: 红楼梦.txt, entropy, peaks, of about 5"
    boundary_figure(tmp_path / "b.png", text, z[None], np.ones((2, len(text))), title)
    artists = saved[0].texts
    assert within(saved[0], artists) and artists[-2].get_text().startswith("HM-LSTM 3 x 128 on")
    # A bar stands over each symbol with a boundary, as wide as that is.
    bars = saved[0].axes[0].collections[1].get_paths()
    high, axes = artists[0].get_position()[1], saved[0].axes[0]
    letters = [one for one in artists[: len(text)] if one.get_position()[1] == high]
    assert len(bars) == len(range(0, len(letters), 3))
    for bar, letter in zip(bars, letters[::3], strict=True):
        box = letter.get_window_extent(saved[0].canvas.get_renderer())
        middle = axes.transData.inverted().transform(((box.x0 + box.x1) / 2, box.y0))[0]
        assert bar.vertices[:, 0].min() < middle < bar.vertices[:, 0].max()


def test_the_legend_of_long_titles_lies_within_the_figure(saved, tmp_path):
    runs = {
        "HM-LSTM 3 x 512 on Penn Treebank characters, learning_rate 0.002": ROWS,
        "HM-LSTM 3 x 512 on Penn Treebank characters, learning_rate 0.004 $x$": ROWS[:2],
    }
    compare_curves(tmp_path / "c.png", runs, ["valid/bpc", "rate/layer1"])
    (legend,) = saved[0].legends
    assert within(saved[0], [legend]) and [t.get_text() for t in legend.get_texts()] == [*runs]
    assert min(axes.get_window_extent().width for axes in saved[0].axes) > 2.5 * saved[0].dpi


def test_heat_map_has_the_top_layer_on_top_and_scales_each_layer(tmp_path, saved):
    h_norms = np.array([[1.0, 2.0], [40.0, 20.0], [0.0, 0.0]])
    boundary_figure(tmp_path / "b.png", "ab", np.zeros((2, 2)), h_norms)
    (image,) = saved[0].axes[1].images
    np.testing.assert_allclose(image.get_array(), [[0.5, 1], [1, 0.5], [0, 0]])
    assert image.origin == "lower"


@pytest.mark.parametrize(
    ("text", "z", "h_norms"),
    [
        ("", np.zeros((1, 0)), np.zeros((2, 0))),
        ("abc", np.zeros((1, 2)), np.zeros((2, 3))),
        ("abc", np.zeros((1, 3)), np.zeros((1, 3))),
        ("a" * 4000, np.zeros((1, 4000)), np.zeros((2, 4000))),
    ],
)
def test_boundary_figure_refuses(tmp_path, text, z, h_norms):
    with pytest.raises(UserError):
        boundary_figure(tmp_path / "b.png", text, z, h_norms)


def test_missing_folder(tmp_path):
    with pytest.raises(UserError):
        training_curves(tmp_path / "missing" / "t.png", [])


ROWS = [
    {"step": 0, "epoch": 0, "train/bpc": 5.0},
    {"step": 10, "epoch": 0, "train/bpc": 3.0, "valid/bpc": 3.5, "rate/layer1": 0.2},
    {"step": 20, "epoch": 1, "valid/bpc": 2.5, "rate/layer1": 0.0, "live/layer2": 0.4},
    {"epoch": 1, "note": "no step"},
]


@pytest.mark.filterwarnings("error")
def test_training_curves_with_missing_keys(tmp_path, saved):
    training_curves(tmp_path / "t.png", ROWS, "HM-LSTM 3 x 512 on ptb_char")
    training_curves(tmp_path / "empty.png", [])
    assert is_png(tmp_path / "t.png") and is_png(tmp_path / "empty.png")
    curves = {line.get_label(): line.get_xydata() for a in saved[0].axes for line in a.lines}
    detectors = {"layer 1, firing rate", "layer 2, active fraction"}
    assert set(curves) == {"training", "validation"} | detectors
    np.testing.assert_array_equal(curves["validation"], [[10, 3.5], [20, 2.5]])
    np.testing.assert_array_equal(curves["layer 1, firing rate"], [[10, 0.2], [20, 0]])


@pytest.mark.filterwarnings("error")
def test_compare_curves(tmp_path, saved):
    runs = {"HM-LSTM": ROWS, "LSTM": ROWS[:2]}
    compare_curves(tmp_path / "c.png", runs, ["valid/bpc", "rate/layer1"])
    assert is_png(tmp_path / "c.png")
    for axes in saved[0].axes:
        assert [line.get_label() for line in axes.lines] == ["HM-LSTM", "LSTM"]
    labels = [(axes.get_xlabel(), axes.get_ylabel()) for axes in saved[0].axes]
    expected = ("bits per character, validation", "firing rate, layer 1")
    assert labels == [("updates", words) for words in expected]
    with pytest.raises(UserError):
        compare_curves(tmp_path / "c.png", runs, [])


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("train/bpc", "bits per character, training"),
        ("valid/live/layer2", "active fraction, layer 2, validation"),
        ("learning_rate", "learning rate"),
        ("slope", "slope of the detectors"),
        ("chars_per_second", "chars per second"),
        ("test/accuracy/length7", "accuracy, length 7, test"),
    ],
)
def test_axes_are_in_words(key, words):
    assert in_words(key) == words


@pytest.mark.parametrize(
    ("row", "symbol", "what"),
    [
        ({"valid/bpc": 9.0, "valid/nats": 6.0}, "word", "bits per word"),
        ({"valid/bpc": 2.0, "valid/nats": 1.0}, "byte", "bits per byte"),
        ({"valid/nats": 1.0, "valid/log_likelihood": -9.0}, "word", "nats a prediction"),
    ],
)
def test_a_loss_is_drawn_in_the_run_s_own_unit(tmp_path, saved, row, symbol, what):
    rows = [{"step": step} | row for step in (1, 2)]
    training_curves(tmp_path / "t.png", rows, symbol=symbol)
    compare_curves(tmp_path / "c.png", {"mine": rows}, ["valid/bpc"], symbol)
    (first, _), (only,) = (figure.axes for figure in saved)
    assert first.get_ylabel() == what and only.get_ylabel() == f"{what}, validation"
    key = "valid/bpc" if "bits" in what else "valid/nats"
    for axes in (first, only):
        (line,) = axes.lines
        assert list(line.get_ydata()) == [row[key]] * 2


def test_letters_are_legible_at_half_size(tmp_path, saved):
    """Half of a figure of 150 dots an inch: no letter below 10 dots high."""
    training_curves(tmp_path / "t.png", ROWS, "HM-LSTM 3 x 512 on ptb_char")
    compare_curves(tmp_path / "c.png", {"HM-LSTM": ROWS}, ["valid/bpc"])
    for figure in saved:
        for text in figure.findobj(lambda artist: hasattr(artist, "get_fontsize")):
            assert not text.get_text() or text.get_fontsize() * 150 / 72 / 2 >= 10


@pytest.mark.filterwarnings("error")
def test_length_curves(tmp_path, saved):
    long = {f"accuracy/length{n}": 1 - n / 20 for n in range(13)} | {"accuracy": 0.7}
    length_curves(tmp_path / "l.png", {"ON-LSTM": long, "LSTM": long}, trained=6)
    assert is_png(tmp_path / "l.png")
    lines = saved[0].axes[0].lines
    assert [line.get_label() for line in lines] == ["ON-LSTM", "LSTM"]
    assert list(lines[0].get_xdata()) == list(range(13)) and lines[0].get_ydata()[12] == 0.4


def test_read_metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = "".join(json.dumps(row) + "\n" for row in ROWS)
    path.write_text(whole)
    assert read_metrics(path) == ROWS
    for cut in ('{"step": 30, "val', '{"a": "é'):
        path.write_bytes((whole + cut).encode()[: -1 if "é" in cut else None])
        assert read_metrics(path) == ROWS
    path.write_text('{"step": 1\n' + whole)
    with pytest.raises(UserError, match="Line 1 "):
        read_metrics(path)
    with pytest.raises(UserError):
        read_metrics(tmp_path / "missing.jsonl")
