"""Boundaries read of a run: its words beside every control, written, streamed."""

import dataclasses
import io
import json

import jax
import numpy as np
import pytest
from test_readings import NEWLINE, VOCABULARY, make
from test_text_evaluation import run_of

from hmrnn_jax import defaults, parallel
from hmrnn_jax import run as runs
from hmrnn_jax.analysis import comparison, scores
from hmrnn_jax.analysis.ngram import InterpolatedNgram
from hmrnn_jax.analysis.segmenters import within_lines, word_scores
from hmrnn_jax.datasets import treebank
from hmrnn_jax.datasets.text import Corpus
from hmrnn_jax.datasets.vocabulary import Vocabulary
from hmrnn_jax.errors import UserError
from hmrnn_jax.evaluation import phrases as phrases_of
from hmrnn_jax.evaluation import text as evaluation
from hmrnn_jax.inference import reading, readings
from hmrnn_jax.inference.readings import Cut, Reading
from hmrnn_jax.tasks import calibration, language


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
        run, "test", inputs, ends, tmp_path / "a.png", Cut("line_end", 3),
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
    said = evaluation.segment(run, inputs, path, Cut("entropy", 3))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert "".join(row["text"] for row in rows) == VOCABULARY.decode(inputs[0])
    assert len(rows) == pytest.approx(len(inputs[0]) / 3, rel=0.3)
    assert "segments of 1 layer:" in said and "entropy, peaks, segments of about 3" in said
    # A text's lines end segments.
    assert all(row["text"].find("\n") in (-1, len(row["text"]) - 1) for row in rows)
    source = io.BytesIO(VOCABULARY.decode(inputs[0]).encode())
    lines = list(evaluation.stream_segments(run.stream(reading="entropy", length=3), source))
    assert lines == rows
    # The run's own length, and what is said where there is no text to set it on.
    run.config.boundaries.lengths = (4.0,)
    assert calibration.of_text(run, Cut("entropy"))[0].length == 4
    monkeypatch.setattr(language, "corpus", lambda config: language.datasets.load("nothing"))
    with pytest.raises(UserError, match="not to be had: there is no corpus 'nothing'.*length of 0"):
        run.segment(inputs[0], reading="entropy")
    said = evaluation.segment(run, inputs, path, Cut("entropy"))
    assert "segments of about 4, by this text, for the run's validation text is not here" in said
    shown = evaluation.show_boundaries(
        run, "test", inputs, None, tmp_path / "b.png", Cut("entropy")
    )
    assert "lengths are set on this text itself" in shown
    monkeypatch.setattr(language, "corpus", lambda config: pytest.fail("no text is needed"))
    assert "entropy, peaks" in evaluation.segment(run, inputs, path, Cut("entropy", 0))
    # On a text that the model was trained on it is set on the text itself.
    evaluation.segment(run, inputs, path, Cut("entropy"), trained_on=True)
    count = len(path.read_text().splitlines())
    assert count == pytest.approx(len(inputs[0]) / 4, abs=2)


def test_a_rule_and_a_threshold_are_those_that_are_asked_for(run, tmp_path):
    run.config.boundaries.lengths = (4.0,)
    *inputs, _ = evaluation.split(run, "test")
    text, path = VOCABULARY.decode(inputs[0]), tmp_path / "segments.jsonl"
    ends = readings.line_ends(inputs[0], NEWLINE)
    curve = reading.curves(run.model, run.plain, inputs[0], ("line_end",), NEWLINE)["line_end"][0]
    least = float(np.median(curve))
    for rule in (None, "rises"):
        by = {"reading": "line_end", "rule": rule, "threshold": least}
        z = run.boundaries(text, **by)[0]
        allowed = curve >= least
        if rule:
            allowed[2:] &= (curve[2:] > curve[1:-1]) & (curve[2:] > curve[:-2])
        # Before the first symbols everything is lower, and ends of lines are given.
        np.testing.assert_array_equal(
            z[2:-1], np.where(ends, 1, allowed & within_lines(ends))[2:-1]
        )
        rows, stream = run.segment(text, **by), run.stream(**by)
        assert stream.push(text).segments + stream.finish().segments == rows
        if rule:
            continue
        said = evaluation.segment(run, inputs, path, Cut("line_end", threshold=least))
        assert f"line end, level, at least {least:g}" in said
        assert [json.loads(line) for line in path.read_text().splitlines()] == rows
        source = io.BytesIO(text.encode())
        lines = evaluation.stream_segments(run.stream(reading="line_end", threshold=least), source)
        assert list(lines) == rows
    # A threshold is of the reading that is asked for; the others keep the run's own length.
    asked = calibration.of_text(run, Cut("line_end", threshold=least), ["entropy"])
    assert [one.length for one in asked] == [0, 4]
    assert asked[0].level == least != asked[1].level
    with pytest.raises(UserError, match="give one of them"):
        run.segment(text, reading="entropy", length=5, threshold=1)


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


# What is scored


def shown_by(run, content, z, monkeypatch, tmp_path, **options):
    """`show_boundaries` of a text, in which each layer of every reading fires at z, bool `[N]`."""

    def read(one, ids, asked, **_):
        return {by.name: np.array([z[: len(ids)]], np.int8) for by in asked}, "made up"

    monkeypatch.setattr(evaluation, "_read", read)
    ids, _ = run.encoding.encode(content)
    symbols = run.encoding.as_written(content, ids)
    return evaluation.show_boundaries(
        run, "mine", (ids, symbols), None, tmp_path / "a.png", **options
    )


INDENTED = "  if a:\n      b  = c \n\n    \n  else\nd e\n"


@pytest.mark.parametrize("everywhere", [False, True])
def test_further_spaces_are_neither_right_nor_wrong(monkeypatch, tmp_path, everywhere):
    """Found or not: a model that fires after each word, or at every space, is perfect."""
    run = run_of(Vocabulary.of(INDENTED, "characters"))
    space = np.array([c == " " for c in INDENTED])
    after_word = space & np.append(False, np.array([not c.isspace() for c in INDENTED])[:-1])
    z = space if everywhere else after_word
    shown = shown_by(run, INDENTED, z, monkeypatch, tmp_path)
    further = (space & ~after_word).sum()
    assert f"{len(INDENTED)} symbols, {further} of them further spaces, left out, made up" in shown
    own, random = shown.data["rows"][:2]
    assert own["precision"] == own["recall"] == own["word_f1"] == 1 and random["f1"] < 0.9
    # Four of "if a", "b = c", "els" and "d ": what follows those ends the line anyway.
    assert own["rate"] == shown.data["rows"][-1]["precision"] == 4 / 14


def test_of_single_spaces_all_count_as_before(monkeypatch, tmp_path):
    content = "the cat sat on a mat\nthe dog <unk> ( a cat )\n\nsat " * 5
    run = run_of(Vocabulary.of(content, "characters"))
    space, newline = (np.array([c == one for c in content]) for one in " \n")
    z = np.random.default_rng(0).random(len(content)) < 0.3
    shown = shown_by(run, content, z, monkeypatch, tmp_path)
    assert "further" not in shown
    names = dict.fromkeys(row["reading"] for row in shown.data["rows"] if row["reading"])
    found = [comparison.Found(name, 1, z, (z,) * 5) for name in names]
    rows = comparison.compare(found, space, within_lines(newline), newline, around=True)
    assert shown.data["rows"] == rows


def test_without_a_space_nothing_is_scored(monkeypatch, tmp_path):
    run = run_of(Vocabulary.of("thecat\nsat", "characters"))
    monkeypatch.setattr(runs, "untrained", lambda run: pytest.fail("nothing is scored"))
    for content in ("thecat\nsat", "cat\n"):
        shown = shown_by(run, content, np.zeros(10, bool), monkeypatch, tmp_path)
        assert "no space to score against; give --words\n" in shown
        assert "boundaries against" not in shown and shown.data["rows"] == []
    ids, symbols = run.encoding.encode("cat\n")[0], "cat\n"
    ends = np.array([False, False, True, False])
    shown = evaluation.show_boundaries(run, "mine", (ids, symbols), ends, tmp_path / "figure.png")
    assert "no word ends within a line: there is nothing to score against" in shown


def test_what_a_figure_lacks_and_what_lengths_are_set_on_is_said_of_any_unit(monkeypatch, tmp_path):
    monkeypatch.setattr(evaluation, "boundary_figure", lambda *_, **__: None)  # large ones
    for unit, word in {"words": "understanding ", "characters": "understanding"}.items():
        content = (word * 9 + "\n") * 60
        run = run_of(Vocabulary.of(content, unit))
        ids, _ = run.encoding.encode(content)
        corpus = Corpus("text", {"train": ids, "valid": ids[5:]}, run.encoding, "", {})
        monkeypatch.setattr(language, "corpus", lambda config, corpus=corpus: corpus)
        options = {"cut": Cut("entropy", 3), "shown": 500}
        z = np.arange(len(content)) % 3 == 0
        shown = shown_by(run, content, z, monkeypatch, tmp_path, **options)
        assert ("the figure has room for the first" in shown) == (unit == "words")
        assert "lengths are set on" not in shown
        options |= {"trained_on": True, "scored": 100}
        shown = shown_by(run, content, z, monkeypatch, tmp_path, **options)
        assert "lengths are set on this text itself" in shown
        assert "the figure has the 100 symbols that are scored" in shown
        options = {"cut": Cut("entropy", 0), "trained_on": True}
        shown = shown_by(run, content, z, monkeypatch, tmp_path, **options)
        assert "lengths are set on" not in shown


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
