"""Targeted syntactic evaluation: scorers of known accuracy, and the published set itself."""

import collections
import gzip
import math
import os

import numpy as np
import pytest

from hmrnn_jax.analysis import syneval
from hmrnn_jax.datasets.syneval import PAIR, Item, find, read_items
from hmrnn_jax.datasets.vocabulary import Vocabulary
from hmrnn_jax.errors import UserError

DATA = pytest.mark.skipif("HMRNN_DATA" not in os.environ, reason="HMRNN_DATA names no data folder")

ITEMS = [
    Item("simple_agrmt", "sing", ("the cat sleeps", "the cat sleep")),
    Item("simple_agrmt", "plur", ("the cats sleep", "the cats sleeps")),
    Item("prep_anim", "sing", ("the cat near dogs runs", "the cat near dogs run")),
    Item("prep_inanim", "sing", ("the box near dogs falls", "the box near dogs fall")),
    Item("prep_inanim", "plur", ("the boxes near dogs fall", "the boxes near dogs falls")),
    Item("simple_npi_anim", "past", ("no cat ever", "the cat ever", "most cat ever")),
    Item("simple_npi_anim", "past", ("no cats ever", "the cats ever", "most cats ever")),
]


@pytest.fixture(scope="module")
def vocabulary():
    text = " ".join(sentence for item in ITEMS for sentence in item.sentences)
    return Vocabulary.of(text, "words", unknown=True)


def without(vocabulary, *words, unknown=True):
    symbols = [s for s in vocabulary.symbols if s not in words and s != "<unk>"]
    return Vocabulary("words", ("<unk>", *symbols) if unknown else tuple(symbols), unknown)


def scorer(vocabulary, scores, calls=None):
    """Gives each sentence what `scores` has for it, 0 for the others."""

    def score(arrays):
        texts = [vocabulary.decode(ids) for ids in arrays]
        if calls is not None:
            calls.append(texts)
        return [scores.get(text, 0) for text in texts]

    return score


def by_key(rows):
    return {(row["construction"], row["better"], row["worse"]): row for row in rows}


def test_accuracies_of_a_rigged_scorer(vocabulary):
    scores = {
        "the cat sleeps": -1, "the cat sleep": -2,  # right
        "the cats sleep": -3, "the cats sleeps": -2,  # wrong
        "the cat near dogs runs": -5, "the cat near dogs run": -5,  # a tie is wrong
        "the box near dogs falls": -5, "the box near dogs fall": -6,  # right
        "the boxes near dogs fall": -7, "the boxes near dogs falls": -7.5,  # right
        "no cat ever": -3, "the cat ever": -2, "most cat ever": -1,  # all three wrong
        "no cats ever": -2, "the cats ever": -3, "most cats ever": -1,  # g > i alone
    }  # fmt: skip
    calls = []
    rows = syneval.evaluate(ITEMS, vocabulary, scorer(vocabulary, scores, calls))
    assert [sorted(texts) for texts in calls] == [sorted(scores)]
    found = [
        (row["construction"], row["better"][0] + row["worse"][0], row["items"], row["right"])
        for row in rows
    ]
    assert found == [
        ("simple_agrmt", "gu", 2, 1),
        ("prep_anim", "gu", 1, 0),
        ("prep_inanim", "gu", 2, 2),
        ("simple_npi_anim", "gi", 2, 1),
        ("simple_npi_anim", "iu", 2, 0),
        ("simple_npi_anim", "gu", 2, 0),
    ]
    assert [row["accuracy"] for row in rows] == [0.5, 0, 1, 0.5, 0, 0]
    assert all(row["known"] == 1 and row["known_right"] == row["right"] for row in rows)
    # Animate and inanimate together, weighted by their items, in the papers' order.
    pool = syneval.pooled(rows)
    assert [row["construction"] for row in pool] == ["simple_agrmt", "prep", *["simple_npi"] * 3]
    assert pool[1]["items"] == 3 and pool[1]["accuracy"] == pytest.approx(2 / 3)
    assert [row["better"] for row in pool[2:]] == ["grammatical", "intrusive", "grammatical"]


def test_unknown_words_are_read_as_unknown_and_counted(vocabulary):
    small = without(vocabulary, "sleeps", "cats")
    scores = {
        "the cat <unk>": -1, "the cat sleep": -2,
        "the <unk> sleep": -1, "the <unk> <unk>": -2,
        "no cat ever": -1, "the cat ever": -2, "most cat ever": -3,
        "no <unk> ever": -3, "the <unk> ever": -2, "most <unk> ever": -1,
    }  # fmt: skip
    rows = by_key(syneval.evaluate(ITEMS, small, scorer(small, scores)))
    row = rows["simple_agrmt", *PAIR]
    assert (row["accuracy"], row["known"], row["known_accuracy"]) == (1, 0, None)
    for pair in (("grammatical", "intrusive"), ("intrusive", "ungrammatical"), PAIR):
        row = rows["simple_npi_anim", *pair]
        assert (row["accuracy"], row["known"], row["known_accuracy"]) == (0.5, 0.5, 1)
    # Both words unknown: one sentence twice, scored once, whatever the scorer says.
    smaller, calls = without(vocabulary, "sleeps", "sleep"), []
    score = scorer(smaller, {"the cat <unk>": -1, "the cats <unk>": -1}, calls)
    row = by_key(syneval.evaluate(ITEMS, smaller, score))["simple_agrmt", *PAIR]
    assert row["right"] == 0 and row["known_items"] == 0
    assert len(calls[0]) == len(set(calls[0]))
    assert calls[0].count("the cat <unk>") == 1


def test_an_unknown_word_that_the_text_itself_spells_serves_too(vocabulary):
    symbols = tuple(sorted({*vocabulary.symbols} - {"cats"}))
    spelt = Vocabulary("words", symbols, unknown=False)
    assert symbols[0] == "<unk>" and not spelt.unknown
    rows = syneval.evaluate(ITEMS[:2], spelt, lambda arrays: -np.arange(len(arrays)))
    assert rows[0]["known"] == 0.5
    calls = []
    moved = Vocabulary("words", ("aaa", *symbols), unknown=False)
    syneval.evaluate(ITEMS[1:2], moved, scorer(moved, {}, calls))
    assert sorted(calls[0]) == ["the <unk> sleep", "the <unk> sleeps"]


def test_without_an_unknown_symbol_only_missing_words_are_an_error(vocabulary):
    closed = without(vocabulary, unknown=False)
    rows = syneval.evaluate(ITEMS, closed, lambda arrays: np.zeros(len(arrays)))
    assert all(row["accuracy"] == 0 and row["known"] == 1 for row in rows)
    with pytest.raises(UserError, match="'cats'.*'the cats sleep'"):
        missing = without(vocabulary, "cats", unknown=False)
        syneval.evaluate(ITEMS, missing, lambda arrays: np.zeros(len(arrays)))


def test_other_units_than_words():
    letters = Vocabulary.of("abcdefghijklmnopqrstuvwxyz ", "characters", unknown=True)
    rows = syneval.evaluate(ITEMS, letters, lambda arrays: [-len(ids) for ids in arrays])
    # "the cats sleep" is shorter than "the cats sleeps", "the cat sleeps" longer.
    assert rows[0]["accuracy"] == 0.5 and rows[0]["known"] == 1


@pytest.mark.parametrize("scores", [[0.0], [[0.0, 0.0]], [math.nan, 0.0]])
def test_scores_that_are_none(vocabulary, scores):
    with pytest.raises(UserError, match="scores of 2 sentences"):
        syneval.evaluate(ITEMS[:1], vocabulary, lambda arrays: scores)
    with pytest.raises(UserError, match="no items"):
        syneval.evaluate([], vocabulary, lambda arrays: scores)


def test_table_shows_the_published_figures_and_what_they_are(vocabulary):
    rows = syneval.evaluate(ITEMS, vocabulary, lambda arrays: -np.arange(len(arrays)))
    rows += [dict(rows[0], construction="my_own", known=0.0, known_accuracy=None)]
    for table in (syneval.format_table(rows), syneval.format_table(syneval.pooled(rows))):
        assert "80 million words of Wikipedia" in table
        lines = {line.split("|")[0].strip(): line.split() for line in table.splitlines()}
        assert lines["agreement, simple"][-2:] == ["99", "100"]
        assert lines["my_own"][-2:] == ["-", "-"]
    lines = syneval.format_table(rows).splitlines()
    assert lines[-2].split("|")[2].split() == ["0.0", "-"]
    assert len({line.index("|") for line in lines if "|" in line}) == 1
    # The figures of an animate half are those of the whole.
    assert next(line for line in lines if line.startswith("prep_anim")).split()[-2:] == ["67", "68"]


def test_every_published_figure_has_a_title_and_is_a_share():
    assert {key[0] for key in syneval.PUBLISHED} == set(syneval.TITLES)
    assert all(0 <= value <= 1 for pair in syneval.PUBLISHED.values() for value in pair)
    # Some that the paper's text dwells on: long dependencies better, short ones worse.
    assert syneval.PUBLISHED["subj_rel", *PAIR] == (0.66, 0.60)
    assert syneval.PUBLISHED["obj_rel_across", *PAIR] == (0.57, 0.52)
    assert syneval.PUBLISHED["simple_agrmt", *PAIR] == (0.99, 1.00)


def write(path, items):
    lines = ["\t".join([item.construction, item.condition, *item.sentences]) for item in items]
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_reading_plain_and_gzipped(tmp_path):
    assert read_items(write(tmp_path / "a.tsv", ITEMS)) == ITEMS
    assert read_items(write(tmp_path / "a.tsv.gz", ITEMS)) == ITEMS
    (tmp_path / "b.tsv").write_bytes("\ufeffa\tb\tc d\tc e\r\na\tb\tf\tg".encode())
    assert read_items(tmp_path / "b.tsv") == [
        Item("a", "b", ("c d", "c e")),
        Item("a", "b", ("f", "g")),
    ]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("simple_agrmt\tsing\tthe cat sleeps", "has 3 fields"),
        ("", "has 1 fields"),
        ("a\tb\tc\td\te\tf", "has 6 fields"),
        ("simple_agrmt\tsing\tno cat\tthe cat\tmost cat", "began with 4"),
        ("simple_agrmt\tsing\tthe cat sleeps\t", "empty field"),
        ("\tsing\tthe cat sleeps\tthe cat sleep", "empty field"),
        ("simple_agrmt\tsing\tthe cat\tthe cat", "same sentence"),
    ],
)
def test_broken_lines_are_named(tmp_path, line, fault):
    path = write(tmp_path / "a.tsv", ITEMS)
    path.write_text(path.read_text() + line + "\nx\ty\tz\tw\n")
    with pytest.raises(UserError, match=f"line 8 of {path} .*{fault}"):
        read_items(path)


def test_broken_files_are_named(tmp_path):
    for name, content in (("a.tsv", b""), ("b.tsv", b"\xff\t"), ("c.tsv.gz", b"a\tb\tc\td\n")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            read_items(tmp_path / name)
    with pytest.raises(UserError, match=r"d\.tsv"):
        read_items(tmp_path / "d.tsv")


def test_finding_the_file(tmp_path, monkeypatch):
    monkeypatch.delenv("HMRNN_DATA", raising=False)
    with pytest.raises(UserError, match="HMRNN_DATA"):
        find()
    with pytest.raises(UserError, match=str(tmp_path)):
        find(tmp_path)
    (tmp_path / "lm-syneval").mkdir()
    path = write(tmp_path / "lm-syneval" / "emnlp2018.tsv.gz", ITEMS)
    assert str(find(tmp_path)) == str(path)
    monkeypatch.setenv("HMRNN_DATA", str(tmp_path))
    assert read_items(find()) == ITEMS


@DATA
def test_the_published_set():
    items = read_items(find())
    counts = collections.Counter(item.construction for item in items)
    assert len(items) == 163_124 and len(counts) == 22
    assert counts["simple_agrmt"] == 140 and counts["reflexives_across"] == 22_400
    npi = {name for name in counts if "npi" in name}
    assert npi == {item.construction for item in items if len(item.sentences) == 3}
    # A scorer that follows the file's order: every sentence scored once, earlier ones higher.
    text = "\n".join(sentence for item in items[::50] for sentence in item.sentences)
    vocabulary = Vocabulary.of(text + "\n", "words", unknown=True)
    rows = syneval.evaluate(items[::50], vocabulary, lambda arrays: -np.arange(len(arrays)))
    assert len(rows) == 22 + 2 * 4
    # Pooled, they are the rows of the paper, each with its figures.
    pool = syneval.pooled(rows)
    assert [(r["construction"], r["better"], r["worse"]) for r in pool] == list(syneval.PUBLISHED)
    assert sum(row["items"] for row in pool) == sum(row["items"] for row in rows)
    # In each comparison the two sentences differ, and only the words of one place do so
    # where none is an NPI.
    for item in items[::500]:
        if item.construction not in npi:
            better, worse = (sentence.split() for sentence in item.sentences)
            assert sum(a != b for a, b in zip(better, worse, strict=True)) == 1


@DATA
def test_the_share_of_items_in_the_penn_treebank_vocabulary():
    with open(os.path.join(os.environ["HMRNN_DATA"], "ptb", "ptb.train.txt")) as file:
        vocabulary = Vocabulary.of(file.read(), "words")
    items = read_items(find())
    rows = syneval.evaluate(items, vocabulary, lambda arrays: np.zeros(len(arrays)))
    known = sum(r["known_items"] for r in rows if (r["better"], r["worse"]) == PAIR)
    assert known == 35_352
