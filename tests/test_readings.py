"""Boundaries read of any language model: curves by hand, rules, lengths, streams, controls."""

import dataclasses
import functools
import io
import json

import jax
import numpy as np
import pytest

from hmrnn_jax import defaults, parallel
from hmrnn_jax import run as runs
from hmrnn_jax.analysis import comparison, scores
from hmrnn_jax.analysis.ngram import InterpolatedNgram
from hmrnn_jax.analysis.segmenters import within_lines, word_scores
from hmrnn_jax.cells import hm_lstm, lstm, nested_lstm, on_lstm
from hmrnn_jax.datasets import treebank
from hmrnn_jax.datasets.text import Corpus
from hmrnn_jax.datasets.vocabulary import Vocabulary
from hmrnn_jax.errors import UserError
from hmrnn_jax.evaluation import phrases as phrases_of
from hmrnn_jax.evaluation import text as evaluation
from hmrnn_jax.inference import reading, readings
from hmrnn_jax.inference.readings import Reading
from hmrnn_jax.inference.stream import Stream
from hmrnn_jax.models.language import LanguageModel
from hmrnn_jax.tasks import language

VOCABULARY = Vocabulary("characters", tuple("\nabcde"))
NEWLINE, LENGTH = 0, 90
NAMES = ("entropy", "entropy_within", "surprise", "line_end")
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
    for name, curve in expected.items():
        assert found[name].shape == (1, LENGTH)
        np.testing.assert_allclose(found[name][0], curve, rtol=2e-5, atol=1e-6)
    last = "detectors" if "detectors" in found else "distance"
    layers = [aux.forget for aux in out.aux] if last == "distance" else out.states[0].z
    np.testing.assert_allclose(found[last], [layer[:LENGTH, 0] for layer in layers], rtol=1e-5)


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


@pytest.mark.parametrize("cell", CELLS)
def test_what_can_be_read_of_which_cell(cell):
    model = LanguageModel(6, 5, CELLS[cell])
    own = {"hm_lstm": {"detectors"}, "lstm": {"distance"}, "on_lstm": {"distance"}}
    everywhere = {*NAMES, "line_break"}
    assert set(readings.available(model, NEWLINE)) == everywhere | own.get(cell, set())
    assert set(readings.available(model, None)) == {"entropy", "surprise"} | own.get(cell, set())
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
    assert set(waits) == {2 if name == "surprise" else 1}
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


# Runs


@pytest.fixture
def run(monkeypatch):
    """A run of an LSTM, and its corpus of words without spaces."""
    rng = np.random.default_rng(5)
    words = ["ab", "cde", "a", "bcd"]
    texts, ends = {}, {}
    for split, lines in (("train", 60), ("valid", 40), ("test", 12)):
        sentences = [rng.choice(words, rng.integers(1, 6)) for _ in range(lines)]
        texts[split] = "".join("".join(line) + "\n" for line in sentences)
        marks = "".join("".join("0" * (len(w) - 1) + "1" for w in s) + "0" for s in sentences)
        ends[split] = np.array(list(marks)) == "1"
    splits = {split: VOCABULARY.encode(text)[0] for split, text in texts.items()}
    corpus = Corpus("made", splits, VOCABULARY, "", {}, ends)
    monkeypatch.setattr(language, "corpus", lambda config: corpus)
    model, params = make("lstm")
    config = defaults.text()
    config.data.name = "brent_text"
    return runs.Run(
        "mine", config, VOCABULARY, model, params, 1.0, parallel.make_mesh(jax.devices()[:1])
    )


def test_words_of_a_split_are_scored_by_every_reading_beside_every_control(run, tmp_path):
    *inputs, _ = evaluation.split(run, "test")
    ends = evaluation.word_ends(run, "test")
    shown = evaluation.show_boundaries(
        run, "test", inputs, ends, tmp_path / "a.png", reading="line_end", segment_length=3,
        every_reading=True,
    )  # fmt: skip
    rows = {(row["reading"], row["layer"], row["control"]): row for row in shown.data["rows"]}
    assert len(rows) == len(shown.data["rows"]) and shown.data["rows"][0]["reading"] == "line_end"
    json.dumps(shown.data["rows"])
    ids, newline = inputs[0], inputs[0] == NEWLINE
    valid = language.corpus(run.config).splits["valid"]
    fresh = list(runs.untrained(run))
    ngram = InterpolatedNgram(6, 4).fit(language.corpus(run.config).splits["train"])

    def found(read):
        one = Reading.of("line_end", 3).calibrated(read(valid), valid == NEWLINE)
        return one.boundaries(read(ids), newline)[0]

    def of(run):
        return lambda ids: reading.curves(run.model, run.plain, ids, ("line_end",), NEWLINE)[
            "line_end"
        ]

    zs = {None: [found(of(run))], "untrained": [found(of(one)) for one in fresh]}
    zs["ngram"] = [found(lambda ids: ngram.curves(ids, ["line_end"], NEWLINE)["line_end"])]
    for control, several in zs.items():
        row, mask = rows["line_end", 1, control], within_lines(newline)
        both = [word_scores(z, ends, newline) for z in several]
        expected = {
            "rate": np.mean([z[mask].mean() for z in several]),
            "precision": np.mean([b[0] for _, b in both]),
            "recall": np.mean([b[1] for _, b in both]),
            "f1": np.mean([b[2] for _, b in both]),
            "word_f1": np.mean([w[2] for w, _ in both]),
        }
        assert {key: row[key] for key in expected} == pytest.approx(expected)
    assert {control for _, _, control in rows} == {*comparison.CONTROLS, None, scores.EVERY}
    every = rows[None, None, "every"]
    assert every["recall"] == every["rate"] == 1
    assert "against words" in shown and "line_end            1" in shown
    asked = readings.available(run.model, NEWLINE)
    assert {reading for reading, _, control in rows if control is None} == set(asked)


def test_segments_by_a_reading_are_written_and_streamed(run, tmp_path, monkeypatch):
    *inputs, _ = evaluation.split(run, "test")
    path = tmp_path / "segments.jsonl"
    said = evaluation.segment(run, inputs, path, reading="entropy", length=3)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert "".join(row["text"] for row in rows) == VOCABULARY.decode(inputs[0])
    assert len(rows) == pytest.approx(len(inputs[0]) / 3, rel=0.3)
    assert "segments of 1 layer:" in said and "entropy, peaks, segments of about 3" in said
    # A text's lines end segments.
    assert all(row["text"].find("\n") in (-1, len(row["text"]) - 1) for row in rows)
    source = io.BytesIO(VOCABULARY.decode(inputs[0]).encode())
    lines = list(evaluation.stream_segments(run, source, reading="entropy", length=3))
    assert [json.loads(line) for line in lines] == rows
    # The run's own length, and what is said where there is no text to set it on.
    run.config.boundaries.lengths = (4.0,)
    assert runs.readings_of(run, ["entropy"])[0].length == 4
    monkeypatch.setattr(language, "corpus", lambda config: language.datasets.load("nothing"))
    with pytest.raises(UserError, match="not to be had: there is no corpus 'nothing'.*length of 0"):
        evaluation.segment(run, inputs, path, reading="entropy")
    assert "entropy, peaks" in evaluation.segment(run, inputs, path, reading="entropy", length=0)


def test_rows_of_one_reading_by_hand():
    gold, z = np.array([[0, 1, 0, 1, 0, 0], [0, 1, 1, 0, 0, 0]], bool)
    mask, newline = np.array([1, 1, 1, 1, 0, 0], bool), np.array([0, 0, 0, 0, 0, 1], bool)
    found = [comparison.Found("entropy", 1, z, (gold, z), gold)]
    rows = comparison.compare(found, gold, mask, newline, around=True)
    own, *_, untrained, ngram, every = rows
    assert own == {
        "reading": "entropy", "layer": 1, "control": None, "rate": 0.5, "precision": 0.5,
        "recall": 0.5, "f1": 0.5, "word_f1": pytest.approx(1 / 3), "f1_earlier": 0.5,
        "f1_later": pytest.approx(2 / 3),
    }  # fmt: skip
    assert (untrained["f1"], untrained["seeds"]) == (0.75, 2)
    assert untrained["f1_std"] == pytest.approx(np.std([1, 0.5], ddof=1))
    assert (ngram["f1"], ngram["word_f1"], every["control"]) == (1, 1, "every")
    table = comparison.table(rows, "the end of a word").splitlines()
    assert table[2].split()[:3] == ["entropy", "1", "0.500"]
    assert "75.0±35.4" in table[2] and table[3].startswith("every symbol")


# Layers above the words


BANK = """(S (NP (DT The) (NN cat)) (VP (VBD sat) (PP (IN on) (NP (DT a) (NN bed)))) (. .))
(S (NP (NNS Dogs)) (VP (VBP eat) (NP (CD 12) (NN cakes))))
"""


def test_ends_of_constituents_lie_at_the_spaces_after_them(tmp_path):
    (tmp_path / "a.mrg").write_text(BANK)
    bank = treebank.read_trees(tmp_path / "a.mrg")
    vocabulary = Vocabulary("characters", tuple("\n abcdeghiknostuN"))  # has no f, and no r
    text, words, phrases = phrases_of.text_of(bank.sentences, vocabulary)
    assert text == "the cat sat on a bed\ndogs eat N cakes\n"
    assert [i for i, end in enumerate(words) if end] == [
        i for i, c in enumerate(text) if c in " \n"
    ]
    # "the cat" alone: longer ones end with their sentence, "dogs" is one word.
    assert np.flatnonzero(phrases).tolist() == [7]


def test_layers_are_scored_at_ends_of_words_alone(run, tmp_path):
    model, params = make("hm_lstm")
    run = dataclasses.replace(run, model=model, params=params)
    run.config.boundaries.delay = 1
    shown = phrases_of.of_utterances(run, "test")
    corpus = language.corpus(run.config)
    kept = corpus.splits["test"] != NEWLINE
    last = np.append(~kept[1:], False)[kept]
    words = corpus.ends["test"][kept]
    z = reading.boundaries(model, params, corpus.splits["test"][kept])
    z = np.pad(z[:, 1:], ((0, 0), (0, 1)))  # a segment ended a step before
    rows = {(row["layer"], row["control"]): row for row in shown.data["rows"]}
    assert {row["against"] for row in shown.data["rows"]} == {"utterances"}
    for layer, fired in enumerate(z, start=1):
        hits = np.sum(fired[words & last])
        assert rows[layer, None]["rate"] == pytest.approx(fired[words].mean())
        assert rows[layer, None]["precision"] == pytest.approx(hits / max(fired[words].sum(), 1))
        assert rows[layer, "untrained"]["seeds"] == 5
    assert rows[None, "every"]["precision"] == pytest.approx(last.sum() / words.sum())
    corpus.ends.clear()
    with pytest.raises(UserError, match="words are known"):
        phrases_of.of_utterances(run, "test")
    (tmp_path / "a.mrg").write_text("(S (NP (DT a) (NN bed)) (VP (VBD ed)))\n" * 2)
    bank = treebank.read_trees(tmp_path / "a.mrg")
    with pytest.raises(UserError, match="' '"):  # that the model has never seen
        phrases_of.of_treebank(run, bank)
    vocabulary = Vocabulary("characters", tuple("\n abed"))
    shown = phrases_of.of_treebank(dataclasses.replace(run, encoding=vocabulary), bank)
    rows = [row for row in shown.data["rows"] if row["control"] == "every"]
    every = {row["against"]: row["precision"] for row in rows}
    assert every == pytest.approx({"constituents": 1 / 2, "sentences": 1 / 3})
