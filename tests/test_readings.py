"""Boundaries read of any language model: curves by hand, rules, lengths, streams."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmrnn_jax.analysis.ngram import InterpolatedNgram
from hmrnn_jax.cells import hm_lstm, lstm, nested_lstm, on_lstm
from hmrnn_jax.datasets.vocabulary import Vocabulary
from hmrnn_jax.errors import UserError
from hmrnn_jax.inference import generate_text, marginal, reading, readings
from hmrnn_jax.inference.readings import Reading
from hmrnn_jax.inference.stream import Stream
from hmrnn_jax.models.language import LanguageModel
from hmrnn_jax.tasks import language

VOCABULARY = Vocabulary("characters", tuple("\nabcde"))
NEWLINE, LENGTH = 0, 90
NAMES = ("entropy", "entropy_within", "surprise", "pmi", "line_end")
CELLS = {
    "hm_lstm": (hm_lstm.Config(5, (6, 5, 4), layer_norm="none"),),
    "lstm": (lstm.Config(5, 6), lstm.Config(6, 6)),
    "on_lstm": (on_lstm.Config(5, 6, chunk=2), on_lstm.Config(6, 6, chunk=2)),
    "nested_lstm": (nested_lstm.Config(5, 6),),
}


def make(cell):
    model = LanguageModel(VOCABULARY.size, 5, CELLS[cell], 7, "gated")
    params = language.init_params(model, jax.random.key(1))
    return model, jax.tree.map(lambda x: 1.7 * x, params)


@pytest.fixture(scope="module", params=["hm_lstm", "on_lstm"])
def setup(request):
    """A model, its parameters, a text, and all that can be read of it."""
    model, params = make(request.param)
    ids = np.random.default_rng(0).integers(0, VOCABULARY.size, LENGTH).astype(np.int32)
    names = readings.available(model, NEWLINE)
    return model, params, ids, reading.curves(model, params, ids, names, NEWLINE, rows=1)


@functools.partial(jax.jit, static_argnums=0)
def applied(model, params, ids):
    return model.apply({"params": params}, ids, model.initial_carry(1))


def passed(model, params, ids):
    """`(log-probabilities [N, V], output)` of a text read by itself."""
    padded = np.pad(ids, (0, LENGTH + 5 - len(ids)))  # one shape for all
    out = applied(model, params, padded[:, None])
    log_p = np.asarray(out.logits[: len(ids), 0], np.float64)
    log_p -= log_p.max(axis=1, keepdims=True)
    return log_p - np.log(np.exp(log_p).sum(axis=1, keepdims=True)), out


def passed_long(model, params, ids):
    """As `passed`, of a long text."""
    out = applied(model, params, jnp.asarray(ids)[:, None])
    return jax.nn.log_softmax(out.logits[:, 0]), out


def cost(model, params, ids, count):
    """Negative log-probability of the last `count` symbols of a text."""
    log_p, _ = passed(model, params, ids)
    places = np.arange(len(ids) - count, len(ids))
    return -log_p[places - 1, ids[places]].sum()


# Curves


def test_detectors_that_fire_later_end_their_segments_where_they_are_taught_to():
    model, params = make("hm_lstm")
    ids = np.random.default_rng(0).integers(0, VOCABULARY.size, LENGTH).astype(np.int32)
    by = Reading.of("detectors", delay=2)
    fired = reading.curves(model, params, ids, ("detectors",), NEWLINE, rows=1)["detectors"]
    cut = by.boundaries(fired, ids == NEWLINE)
    np.testing.assert_array_equal(cut[:, :-2], fired[:, 2:])
    assert cut[0].sum() > 5 and not cut[:, -2:].any()
    stream, text = Stream(model, params, VOCABULARY, by=by), VOCABULARY.decode(ids)
    pieces = [text[:1], text[1:3], text[3:40], text[40:]]
    rows = [row for piece in pieces for row in stream.push(piece).segments]
    rows += stream.finish().segments
    for layer, z in enumerate(cut, 1):
        ends = [row["end"] for row in rows if row["layer"] == layer]
        assert ends == [*(np.flatnonzero(z) + 1).tolist(), LENGTH]


def test_each_curve_is_what_it_says(setup):
    model, params, ids, found = setup
    log_p, out = passed(model, params, ids)
    p = np.exp(log_p)
    within = np.delete(p, NEWLINE, axis=1)
    within /= within.sum(axis=1, keepdims=True)
    expected = {
        "entropy": -(p * log_p).sum(axis=1),
        "entropy_within": -(within * np.log(within)).sum(axis=1),
        "surprise": np.append(-log_p[np.arange(LENGTH - 1), ids[1:]], 0),
        "line_end": log_p[:, NEWLINE],
    }
    alone = marginal.log_probabilities(model, params)
    expected["pmi"] = expected["surprise"] + np.append(alone[ids[1:]], 0)
    for name, curve in expected.items():
        assert found[name].shape == (1, LENGTH)
        np.testing.assert_allclose(found[name][0], curve, rtol=2e-5, atol=1e-6)
    last = "detectors" if "detectors" in found else "distance"
    layers = [aux.forget for aux in out.aux] if last == "distance" else out.states[0].z
    np.testing.assert_allclose(found[last], [layer[:LENGTH, 0] for layer in layers], rtol=1e-5)


def test_how_likely_a_symbol_is_by_itself():
    """The mean prediction along texts that it writes; of a model without memory, its only one."""
    model, params = make("lstm")
    found = marginal.log_probabilities(model, params)
    assert np.exp(found).sum() == pytest.approx(1, rel=1e-5)
    text, _ = generate_text.generate(model, params, [NEWLINE], 6000, seed=5)
    log_p, _ = passed_long(model, params, text)
    np.testing.assert_allclose(np.exp(found), np.exp(log_p[100:]).mean(axis=0), atol=0.02)
    forgetful = jax.tree.map(np.zeros_like, params)
    bias = np.linspace(-1, 1, VOCABULARY.size)
    forgetful["softmax_bias"] = bias.astype(np.float32)
    exact = bias - np.log(np.exp(bias).sum())
    alone = marginal.log_probabilities(model, forgetful)
    np.testing.assert_allclose(alone, exact, rtol=1e-4, atol=1e-5)


def test_a_line_break_is_worth_what_it_adds_to_the_text(setup):
    """The text with a newline put in, read anew, against the text without."""
    model, params, ids, found = setup
    found = found["line_break"][0]
    for t in (0, 7, 40, LENGTH - 3, LENGTH - 1):
        rest = ids[t + 1 :][: reading.AHEAD]
        broken = np.concatenate([ids[: t + 1], [NEWLINE], rest])
        plain = cost(model, params, ids[: t + 1 + len(rest)], len(rest)) if len(rest) else 0
        gain = plain - cost(model, params, broken, 1 + len(rest))
        assert found[t] == pytest.approx(gain, rel=1e-4, abs=1e-4)


def test_rows_that_read_their_whole_past_give_the_same_curves(setup):
    model, params, ids, one = setup
    five = reading.curves(model, params, ids, tuple(one), NEWLINE, rows=5, warmup=LENGTH)
    for name, curve in one.items():
        np.testing.assert_allclose(five[name], curve, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", [0, 3])
def test_the_curves_of_an_ngram_model(order):
    rng = np.random.default_rng(0)
    train, ids = rng.integers(0, 5, 400) ** 2 % 6, rng.integers(0, 6, 40)
    model = InterpolatedNgram(6, order).fit(train)
    found = model.curves(ids, (*NAMES, "line_break"), NEWLINE, ahead=2)
    p = np.array([model.probabilities(ids[: t + 1]) for t in range(40)])
    within = p[:, 1:] / p[:, 1:].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found["entropy"][0], -(p * np.log(p)).sum(axis=1))
    np.testing.assert_allclose(found["entropy_within"][0], -(within * np.log(within)).sum(axis=1))
    np.testing.assert_allclose(found["line_end"][0], np.log(p[:, NEWLINE]))
    np.testing.assert_allclose(found["surprise"][0, :-1], -np.log(p[np.arange(39), ids[1:]]))
    alone = np.log(InterpolatedNgram(6, 0).fit(train).probabilities(ids[:0]))
    np.testing.assert_allclose(found["pmi"][0], found["surprise"][0] + np.append(alone[ids[1:]], 0))

    def logs(text, count):
        places = range(len(text) - count, len(text))
        return sum(np.log(model.probabilities(text[:k])[text[k]]) for k in places)

    for t in range(order, 40):  # before, the past is padded
        rest = ids[t + 1 :][:2]
        broken = np.concatenate([ids[: t + 1], [NEWLINE], rest])
        gain = logs(broken, 1 + len(rest)) - logs(ids[: t + 1 + len(rest)], len(rest))
        assert found["line_break"][0, t] == pytest.approx(gain)


# Rules


def test_ends_of_lines_are_given_and_no_boundary_lies_beside_them():
    text = "ab\ncde\n\nb"
    newline = np.array([c == "\n" for c in text])
    z = Reading.of("entropy", rule="level").boundaries(np.zeros((2, 9)), newline)
    assert z.dtype == np.int8 and z.shape == (2, 9)
    np.testing.assert_array_equal(z[0], [1, 0, 1, 1, 1, 0, 1, 1, 0])
    detectors = np.eye(2, 9)
    np.testing.assert_array_equal(readings.DETECTORS.boundaries(detectors, newline), detectors)


def test_segments_have_the_length_that_is_asked_for_with_those_that_lines_end():
    rng = np.random.default_rng(0)
    valid, other = rng.normal(size=(2, 2, 20_000))
    newline = np.zeros(20_000, bool)
    newline[20::25] = True
    for length in (4, 9):
        asked = Reading.of("entropy", length).calibrated(valid, newline)
        for z in asked.boundaries(other, newline):
            assert z.sum() == pytest.approx(20_000 / length, rel=0.05)
    # Lines are shorter than that already; and no length asks for nothing.
    z = Reading.of("entropy", 30).calibrated(valid, newline).boundaries(other, newline)
    np.testing.assert_array_equal(z, [newline] * 2)
    assert Reading.of("entropy").calibrated(valid, newline) == Reading.of("entropy")
    with pytest.raises(UserError, match=r"length is 0.5; it must be 1 or more"):
        Reading.of("entropy", 0.5)


def test_a_threshold_is_the_least_value_of_a_boundary():
    curve, newline = np.array([[3, 3, 1, 5, 4, 2, 6, 7, 1, 2]]), np.zeros(10, bool)
    by = Reading.of("entropy", threshold=3)
    assert by.description == "entropy, level, at least 3"
    assert by.calibrated(curve, newline) == by
    np.testing.assert_array_equal(by.boundaries(curve, newline)[0], [1, 1, 0, 1, 1, 0, 1, 1, 0, 0])
    by = Reading.of("entropy", rule="peaks", threshold=6)
    np.testing.assert_array_equal(by.boundaries(curve, newline)[0], [0, 0, 0, 0, 0, 0, 0, 1, 0, 0])
    with pytest.raises(UserError, match="0.2, but line_end is a log-probability.* -1.6 for .2"):
        Reading.of("line_end", threshold=0.2)
    assert Reading.of("line_end", threshold=-1.6).level == -1.6
    with pytest.raises(UserError, match="length of 4 and a threshold of 0.5: give one"):
        Reading.of("entropy", 4, threshold=0.5)
    with pytest.raises(UserError, match="Detectors fire or do not: a threshold needs another"):
        Reading.of("detectors", threshold=0.5)


def test_segments_shorter_than_peaks_can_have_are_cut_at_a_level():
    curve = np.array([[3, 3, 1, 5, 4, 2, 6, 7, 1, 2]])
    newline = np.zeros(10, bool)
    asked = Reading.of("pmi", 1.5).calibrated(curve, newline)
    assert asked.description == "pmi, level, segments of about 1.5"
    np.testing.assert_array_equal(
        asked.boundaries(curve, newline)[0], [1, 1, 0, 1, 1, 1, 1, 1, 0, 0]
    )
    assert "peaks" in Reading.of("pmi", 2).description


def test_a_length_for_which_a_curve_has_too_few_peaks_is_not_claimed():
    curve = np.tile([0.0, 2, 1, 0], 25)[None]  # a peak in four steps
    newline = np.zeros(100, bool)
    for length, told in ((2, "4, the shortest that it has, not 2"), (4, "4"), (8, "8")):
        by = Reading.of("entropy", length)
        asked = by.calibrated(curve, newline)
        assert asked.description == f"entropy, peaks, segments of about {told}"
        assert asked.boundaries(curve, newline).sum() == 25  # all are equally high
    both = np.stack([curve[0], np.tile([0.0, 1], 50)])  # of two layers one has peaks enough
    asked = Reading.of("distance", 2.5).calibrated(both, newline)
    assert asked.description == "distance, peaks, segments of about 2.5"
    # States of streams are told apart by this.
    by = Reading.of("entropy", 2)
    asked = by.calibrated(curve, newline)
    assert "shortest" not in repr(asked) and by.calibrated(curve, newline) == asked


@pytest.mark.parametrize("cell", CELLS)
def test_what_can_be_read_of_which_cell(cell):
    model = LanguageModel(6, 5, CELLS[cell])
    own = {"hm_lstm": {"detectors"}, "lstm": {"distance"}, "on_lstm": {"distance"}}
    everywhere = {*NAMES, "line_break"}
    assert set(readings.available(model, NEWLINE)) == everywhere | own.get(cell, set())
    lineless = {"entropy", "surprise", "pmi"}
    assert set(readings.available(model, None)) == lineless | own.get(cell, set())
    for name in {"detectors", "distance"} - own.get(cell, set()):
        with pytest.raises(UserError, match="no boundary detectors|needs an ON-LSTM"):
            readings.check(model, name, NEWLINE)
    with pytest.raises(UserError, match="line_end needs a model of text with lines"):
        readings.check(model, "line_end", None)
    with pytest.raises(UserError, match="must be one of detectors"):
        readings.check(model, "nothing", NEWLINE)


# Streams


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ("hm_lstm", "entropy"),
        ("lstm", "surprise"),
        ("lstm", "pmi"),
        ("on_lstm", "distance"),
    ],
)
def test_a_stream_cuts_as_the_whole_text_is_cut(cell, name, tmp_path):
    model, params = make(cell)
    ids = np.random.default_rng(2).integers(0, VOCABULARY.size, LENGTH)
    text, rng = VOCABULARY.decode(ids), np.random.default_rng(3)
    by = Reading.of(name, rule="rises" if name == "entropy" else "peaks")
    z = readings.read(model, params, ids, [by], NEWLINE)[name]
    expected = [
        (start + 1, end + 1, layer)
        for layer, fired in enumerate(z, start=1)
        for ends in [np.flatnonzero(np.append(fired[:-1], 1))]
        for start, end in zip([-1, *ends], ends, strict=False)
    ]
    stream, found, latest = Stream(model, params, VOCABULARY, by=by), [], 0
    place = 0
    while place < LENGTH:
        piece = text[place : place + rng.integers(0, 6)]
        part = stream.push(piece)
        place += len(piece)
        found += part.segments
        latest = max([latest, *(place - row["end"] for row in part.segments)])
        stream.save(tmp_path / "state.npz")
        stream = Stream(model, params, VOCABULARY, by=by)
        stream.load(tmp_path / "state.npz")
    assert len(found) > 10
    found += stream.finish().segments
    assert sorted(expected) == sorted((r["start"], r["end"], r["layer"]) for r in found)
    assert all(row["text"] == text[row["start"] : row["end"]] for row in found)
    # Nothing waits longer than it must.
    one_by_one, waits = Stream(model, params, VOCABULARY, by=by), []
    for number, symbol in enumerate(text, start=1):
        waits += [number - row["end"] for row in one_by_one.push(symbol).segments]
    assert set(waits) == {2 if name in ("surprise", "pmi") else 1}
    with pytest.raises(UserError, match="another model"):
        Stream(model, params, VOCABULARY, by=Reading.of("entropy", 0, "level")).load(
            tmp_path / "state.npz"
        )


def test_a_stream_cannot_look_far_ahead():
    model, params = make("lstm")
    with pytest.raises(UserError, match="looks 5 symbols ahead"):
        Stream(model, params, VOCABULARY, by=Reading.of("line_break"))
    with pytest.raises(UserError, match="no boundary detectors"):
        Stream(model, params, VOCABULARY)
