"""Texts with gold words: reading, taking the spaces out, and the corpora without them."""

import gzip
import os

import numpy as np
import pytest

from hmrnn_jax import datasets
from hmrnn_jax.analysis import boundaries, scores
from hmrnn_jax.datasets import segmented
from hmrnn_jax.datasets.chinese import FILES, FOLDER, chinese
from hmrnn_jax.datasets.segmented import read_words, unspaced
from hmrnn_jax.errors import UserError

SENTENCES = [["練", "得", "銅皮鐵骨", "。"], ["本", "港", "約", "有", "450"]]


@pytest.mark.parametrize("content", [
    "練 得 銅皮鐵骨 。\n本 港 約 有 450\n",
    "\ufeff練  得 銅皮鐵骨 。 \r\n\r\n本 港 約 有  450\r\n",
    "練\u3000得\u3000銅皮鐵骨\u3000。\n \u3000\n本\u3000港\u3000約\u3000有\u3000450",
])  # fmt: skip
def test_read_words(tmp_path, content):
    plain, packed = tmp_path / "gold.utf8", tmp_path / "gold.utf8.gz"
    plain.write_bytes(content.encode())
    packed.write_bytes(gzip.compress(content.encode()))
    assert read_words(plain) == read_words(packed) == SENTENCES


def test_unspaced_by_hand():
    text, ends = unspaced(SENTENCES)
    assert text == "練得銅皮鐵骨。\n本港約有450\n"
    assert ends.dtype == bool and len(ends) == len(text)
    marks = "".join("|" if end else "." for end in ends)
    assert marks == "||...||.||||..|."
    text, ends = unspaced([])
    assert text == "" and ends.shape == (0,)


def test_faults(tmp_path):
    path = tmp_path / "gold.txt"
    with pytest.raises(UserError, match="cannot be read"):
        read_words(path)
    path.write_bytes("練 得\n".encode() + "約 有\n".encode("big5"))
    with pytest.raises(UserError, match=f"{path}, line 2, is not UTF-8"):
        read_words(path)
    for blank in ("", "\ufeff\r\n \u3000\n"):
        path.write_text(blank, encoding="utf-8")
        with pytest.raises(UserError, match="holds no words"):
            read_words(path)


def test_corpus_has_no_spaces_and_every_file_in_its_split(tmp_path, monkeypatch):
    monkeypatch.delenv("HMRNN_DATA", raising=False)
    with pytest.raises(UserError, match=r"into \$HMRNN_DATA/zh-segmentation, with HMRNN_DATA"):
        chinese()
    folder = tmp_path / FOLDER
    folder.mkdir()
    texts = {
        "ud-zh-gsd-v1.3.train.txt": "甲 乙丙\n",
        "as_testing_gold.utf8": "丁\u3000戊己\u3000\r\n",
        "cityu_test_gold.utf8": "\ufeff庚 A B\r\n\r\n",
        "ud-zh-gsd-v1.3.dev.txt": "甲丁 庚\n",
        "ud-zh-gsd-v1.3.test.txt": "辛 乙 壬\n",
    }
    for name, text in texts.items():
        (folder / name).write_bytes(text.encode())
    corpus = chinese(tmp_path)
    assert corpus.name == "chinese_unsegmented-modified"
    decoded = {split: corpus.vocabulary.decode(ids) for split, ids in corpus.splits.items()}
    expected = {"train": "甲乙丙\n丁戊己\n庚AB\n", "valid": "甲丁庚\n", "test": "\ufffd乙\ufffd\n"}
    assert decoded == expected
    assert corpus.unknown == {"train": 0, "valid": 0, "test": 2}
    assert "gold words are not used" in corpus.source
    assert marked(corpus, "train") == "甲|乙丙|\n丁|戊己|\n庚|A|B|\n"
    assert marked(corpus, "test") == "�|乙|�|\n"
    monkeypatch.setenv("HMRNN_DATA", str(tmp_path))
    assert datasets.load("chinese_unsegmented").name == corpus.name
    (folder / "as_testing_gold.utf8").unlink()
    with pytest.raises(UserError, match=f"needs as_testing_gold.utf8 .* into {folder}"):
        chinese(tmp_path)


def marked(corpus, split):
    """A split's text with `|` after each true end of a word."""
    symbols, ends = corpus.vocabulary.decode(corpus.splits[split]), corpus.ends[split]
    assert ends.dtype == bool and len(ends) == len(symbols)
    return "".join(s + "|" * int(end) for s, end in zip(symbols, ends, strict=True))


def test_simplified_chinese_is_one_file_cut_by_lines(tmp_path):
    (tmp_path / FOLDER).mkdir()
    lines = [f"甲乙 {number:02}" for number in range(20)]
    (tmp_path / FOLDER / "msr_test_gold.utf8").write_text("\r\n".join(lines), encoding="utf-8")
    corpus = datasets.load("chinese_simplified", tmp_path)
    assert corpus.name == "chinese_simplified-modified"
    assert marked(corpus, "train") == "".join(f"甲乙|{n:02}|\n" for n in range(18))
    assert (marked(corpus, "valid"), marked(corpus, "test")) == ("甲乙|18|\n", "甲乙|19|\n")


def test_brent_without_spaces(tmp_path, monkeypatch):
    monkeypatch.delenv("HMRNN_DATA", raising=False)
    with pytest.raises(UserError, match=r"br-text.train.txt.* into \$HMRNN_DATA/brent, with"):
        datasets.load("brent_text")
    (tmp_path / "brent").mkdir()

    def write(kind, split, text):
        (tmp_path / "brent" / f"br-{kind}.{split}.txt").write_text(text)

    for kind in ("text", "phono"):
        for split in ("train", "valid"):
            write(kind, split, f"you want {kind}\nlook\n")
    with pytest.raises(UserError, match="needs br-text.test.txt"):
        datasets.load("brent_text", tmp_path)
    write("text", "test", "to see\n")
    corpus = datasets.load("brent_text", tmp_path)
    assert corpus.name == "brent_text-modified"
    assert marked(corpus, "train") == "you|want|text|\nlook|\n"
    assert marked(corpus, "test") == "to|���|\n".replace("���", "�ee")
    # The phonemes' test part is held out by some: validation stands in, and it is said.
    corpus = datasets.load("brent_phono", tmp_path)
    assert "validation stands in" in corpus.source
    assert marked(corpus, "test") == marked(corpus, "valid") == "you|want|phono|\nlook|\n"
    write("phono", "test", "look you\n")
    corpus = datasets.load("brent_phono", tmp_path)
    assert "stands in" not in corpus.source and marked(corpus, "test") == "look|you|\n"


def test_own_lines_of_spaced_words(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("".join(f"so {n:02} ends\n" for n in range(20)))
    corpus = datasets.load("brent_text", path=path)
    assert corpus.name == "text" and str(path) in corpus.source
    assert marked(corpus, "train") == "".join(f"so|{n:02}|ends|\n" for n in range(18))
    assert (marked(corpus, "valid"), marked(corpus, "test")) == ("so|18|ends|\n", "so|19|ends|\n")
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "train.txt").write_text("a bc\n")
    (folder / "valid").write_text("a\n")
    with pytest.raises(UserError, match="has no test.txt"):
        datasets.load("brent_text", path=folder)
    (folder / "test.txt").write_text("bc a\n")
    assert marked(datasets.load("brent_phono", path=folder), "test") == "bc|a|\n"
    with pytest.raises(UserError, match="holds no words"):
        path.write_text(" \n")
        datasets.load("brent_text", path=path)
    with pytest.raises(UserError, match="train part of .* is empty"):
        path.write_text("a b\n")
        datasets.load("brent_text", path=path)


def test_words_scored_without_the_line_ends():
    """The way from a gold file to a score: three detectors whose counts are known."""
    text, ends = unspaced([["甲乙", "丙"], ["丁", "戊", "己庚"]])
    mask = np.array(list(text)) != "\n"
    perfect, first = ends, np.array([s in "甲丁" for s in text])
    at_newline = ~mask
    rows = scores.score_against([perfect, first, at_newline], ends, [0, 1], range(3), mask)
    by_key = {(row["layer"], row["shift"]): row for row in rows}
    assert by_key[1, 0]["f1"] == 1 and by_key[1, 0]["rate"] == 5 / 7
    # Of the five ends, a one-symbol word that begins its sentence is the only one hit.
    assert (by_key[2, 0]["precision"], by_key[2, 0]["recall"]) == (1 / 2, 1 / 5)
    # A boundary at a newline is neither a hit nor a false alarm.
    assert by_key[3, 0]["rate"] == by_key[3, 1]["precision"] == 0
    every = by_key[scores.EVERY, 0]
    assert (every["precision"], every["recall"]) == (5 / 7, 1)
    # One step later, the pairs inside a sentence are two and three, and three of them ends.
    every = by_key[scores.EVERY, 1]
    assert (every["precision"], every["recall"]) == (3 / 5, 1)


def cut(path, symbols, z):
    """A file of segments, as `hmrnn segment` writes it."""
    boundaries.write_segments(path, boundaries.segment_lines(symbols, z))
    return path


@pytest.mark.parametrize("symbols", ["ab\u2028c\nd é", ["a ", "b ", "<eos> ", "c "] * 2])
def test_segments_are_read_as_they_are_written(tmp_path, symbols):
    z = np.random.default_rng(0).integers(0, 2, (3, len(symbols)))
    z[:, -1] = 1
    path = cut(tmp_path / "a.jsonl", symbols, z)
    for layers in (1, 2, 3):
        found, reached = segmented.read_segments(path, symbols, layers)
        np.testing.assert_array_equal(found, z[:layers])
        assert reached == [len(symbols)] * layers


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [lines[0], '{"start": 2}', *lines[1:]], "line 2: it must be a segment with"),
        (lambda lines: ["3"], "line 1: it must be a segment with"),
        (lambda lines: [line.replace('"layer": 1', '"layer": 0') for line in lines], "must be a s"),
        (lambda lines: [lines[0], *lines[2:]], "line 2: this is not the training text's next"),
        (lambda lines: [line.replace("cd", "cD") for line in lines], "line 2: this is not"),
        (lambda lines: [line.replace('"layer": 1', '"layer": 3') for line in lines], "no segment"),
        (lambda lines: lines + lines[:1], "line 4: this is not"),
        (
            lambda lines: [line.replace('"end": 7', '"end": 9') for line in lines],
            "line 3: this is n",
        ),
    ],
)
def test_segments_of_another_text_are_refused(tmp_path, change, message):
    z = np.array([[0, 1, 0, 1, 0, 0, 1]])
    lines = cut(tmp_path / "a.jsonl", "abcdefg", z).read_text().splitlines()
    (tmp_path / "b.jsonl").write_text("\n".join(change(lines)))
    with pytest.raises(UserError, match=message):
        segmented.read_segments(tmp_path / "b.jsonl", "abcdefg", 2)


def test_segments_may_stop_before_the_text_does(tmp_path):
    lines = cut(tmp_path / "a.jsonl", "abcdefg", np.array([[0, 1, 0, 1, 0, 0, 1]])).read_text()
    (tmp_path / "a.jsonl").write_text(lines.rpartition("{")[0])
    found, reached = segmented.read_segments(tmp_path / "a.jsonl", "abcdefg", 2)
    np.testing.assert_array_equal(found, [[0, 1, 0, 1, 0, 0, 0], [0] * 7])
    assert reached == [4, 0]


@pytest.fixture
def folder():
    """The folder of the gold files."""
    path = os.path.join(os.environ.get("HMRNN_DATA", ""), FOLDER)
    if "HMRNN_DATA" not in os.environ or not os.path.isdir(path):
        pytest.skip("HMRNN_DATA names no data folder with zh-segmentation")
    return path


@pytest.mark.parametrize(
    ("name", "lines", "words", "characters"),
    [
        ("msr_test_gold.utf8", 3_985, 106_873, 184_355),
        ("as_testing_gold.utf8", 14_429, 122_610, 197_681),
        ("cityu_test_gold.utf8", 1_492, 40_936, 67_689),
        ("ud-zh-gsd-v1.3.train.txt", 3_997, 98_608, 156_309),
        ("ud-zh-gsd-v1.3.dev.txt", 500, 12_663, 20_000),
        ("ud-zh-gsd-v1.3.test.txt", 500, 12_012, 19_206),
    ],
)
def test_published_counts(folder, name, lines, words, characters):
    sentences = read_words(os.path.join(folder, name))
    text, ends = unspaced(sentences)
    assert (len(sentences), sum(map(len, sentences))) == (lines, words)
    assert len(text) == characters + lines and text.count("\n") == lines
    assert ends.sum() == words and not any(c.isspace() and c != "\n" for c in text)


def test_published_corpus(folder):
    corpus = datasets.load("chinese_unsegmented")
    assert corpus.name == "chinese_unsegmented"
    assert [len(ids) for ids in corpus.splits.values()] == [441_597, 20_500, 19_706]
    assert corpus.vocabulary.size == 4_494 and corpus.vocabulary.unknown
    assert corpus.unknown == {"train": 0, "valid": 65, "test": 44}
    # What is scored is what the model was to read.
    (name,) = FILES["test"]
    text, ends = unspaced(read_words(os.path.join(folder, name)))
    assert np.array_equal(corpus.vocabulary.encode(text)[0], corpus.splits["test"])
    assert np.array_equal(ends, corpus.ends["test"])
    simplified = datasets.load("chinese_simplified")
    assert simplified.name == "chinese_simplified" and simplified.vocabulary.size == 2_780


@pytest.mark.parametrize(
    ("kind", "symbols", "words"),
    [("text", (110_376, 13_954, 13_871), 3_370), ("phono", (84_622, 10_422), None)],
)
def test_published_brent(folder, kind, symbols, words):
    try:
        corpus = datasets.load(f"brent_{kind}")
    except UserError as error:
        pytest.skip(str(error))
    assert corpus.name == f"brent_{kind}"
    sizes = [len(ids) for ids in corpus.splits.values()]
    assert tuple(sizes[: len(symbols)]) == symbols
    assert words is None or corpus.ends["test"].sum() == words
