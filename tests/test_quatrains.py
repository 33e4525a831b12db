"""Quatrains: shape, doubles, split; and what is said about generated ones."""

import gzip
import itertools
import os

import pytest

from hmrnn_jax import datasets
from hmrnn_jax.analysis import quatrains as verse
from hmrnn_jax.datasets.quatrains import quatrains
from hmrnn_jax.errors import UserError

GOOD = "一二三四五，六七八九十。天地玄黄宇，宙洪荒日月。"
IDEOGRAPHS = "".join(map(chr, range(0x4E00, 0x4E00 + 400)))


def made_up(count):
    """`count` poems, no two alike, of a vocabulary that all of them share in."""
    symbols = itertools.cycle(IDEOGRAPHS)
    poems = []
    for number in range(count):
        verses = [chr(0x5000 + number % 7) + "".join(itertools.islice(symbols, 4))]
        verses += ["".join(itertools.islice(symbols, 5)) for _ in range(2)]
        verses += ["".join(itertools.islice(symbols, 3)) + chr(0x6000 + number) + "月"]
        poems.append("{}，{}。{}，{}。".format(*verses))
    return poems


def write(folder, poems, name="quatrains-5char.txt", end="\n"):
    path = folder / "zh-poetry" / name
    path.parent.mkdir(exist_ok=True)
    content = "".join(" ".join(poem) + " " + end for poem in poems).encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def of_splits(corpus):
    decode = corpus.vocabulary.decode
    return {split: decode(ids).split("\n")[:-1] for split, ids in corpus.splits.items()}


# The corpus


def test_doubles_are_removed_and_no_poem_is_in_two_splits(tmp_path):
    poems = made_up(200)
    # Written differently, the same poem is still the same.
    write(tmp_path, [*poems, *poems[:30], poems[0]])
    corpus = quatrains(tmp_path)
    parts = of_splits(corpus)
    assert [len(parts[s]) for s in ("train", "valid", "test")] == [180, 10, 10]
    assert [len(corpus.splits[s]) for s in ("train", "valid", "test")] == [4500, 250, 250]
    # The symbols of one poem alone are unknown where that poem is held out.
    assert set(parts["train"]) <= set(poems) and len(set(parts["train"])) == 180
    assert corpus.vocabulary.symbols[0] == "\ufffd" and corpus.unknown["train"] == 0
    assert corpus.unknown["valid"] == "".join(parts["valid"]).count("\ufffd") == 10
    together = sum(parts.values(), [])
    readable = [poem for poem in together if "\ufffd" not in poem]
    assert len(set(readable)) == len(readable) == 180
    # Held-out poems but for their one unknown symbol are none of training.
    known = {poem.replace(poem[21], "\ufffd") for poem in parts["train"]}
    assert not known & set(parts["valid"] + parts["test"])
    assert "231 poems, 31 repeated" in corpus.describe()
    assert corpus.name == "quatrains-modified"


def test_split_is_drawn_by_seed_and_not_by_the_order_of_the_file(tmp_path):
    poems = made_up(60)
    first = of_splits(quatrains(path=write(tmp_path, poems)))
    again = of_splits(quatrains(path=write(tmp_path, poems[::-1])))
    other = of_splits(quatrains(path=write(tmp_path, poems), seed=1))
    assert first == again
    assert first["train"] != other["train"] and first["train"] != poems[:54]
    assert set(first["train"]) != set(other["train"])


def test_files_of_any_kind(tmp_path, monkeypatch):
    poems = made_up(40)
    plain = of_splits(quatrains(path=write(tmp_path, poems)))
    packed = write(tmp_path, poems, "quatrains-5char.txt.gz", end="\r\n")
    (tmp_path / "zh-poetry" / "quatrains-5char.txt").unlink()
    monkeypatch.setenv("HMRNN_DATA", str(tmp_path))
    assert of_splits(datasets.load("quatrains")) == plain
    assert str(packed) in datasets.load("quatrains").source
    # No spaces, a byte order mark, blank lines.
    mine = tmp_path / "mine.txt"
    mine.write_text("\ufeff" + "\n\n".join(poems), encoding="utf-8")
    assert of_splits(datasets.load("quatrains", path=mine)) == plain


@pytest.mark.parametrize(
    ("poem", "what"),
    [
        (GOOD[:18], "3 in place of 4 verses"),
        (GOOD + "天", "5 in place of 4 verses"),
        (GOOD.replace("六", ""), "verse 2 has 4 in place of 5 characters"),
        (GOOD.replace("玄", "玄玄"), "verse 3 has 6 in place of 5 characters"),
        (GOOD.replace("，", "。", 1), "verse 1 does not end in ，"),
        (GOOD[:-1] + "，", "verse 4 does not end in 。"),
        (GOOD[:-1], "verse 4 does not end in 。"),
        (GOOD.replace("，", ","), "2 in place of 4 verses"),
    ],
)
def test_a_verse_of_the_wrong_shape(tmp_path, poem, what):
    path = write(tmp_path, [*made_up(30), poem, *made_up(2)])
    with pytest.raises(UserError, match=f"{path}, line 31: {what}"):
        quatrains(tmp_path)
    assert verse.keeps_form(poem) == what


def test_other_faults(tmp_path, monkeypatch):
    monkeypatch.delenv("HMRNN_DATA", raising=False)
    with pytest.raises(UserError, match="into .HMRNN_DATA/zh-poetry"):
        quatrains()
    with pytest.raises(UserError, match=f"into {tmp_path}/zh-poetry"):
        quatrains(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        quatrains(path=tmp_path / "none.txt")
    path = write(tmp_path, made_up(3))
    with pytest.raises(UserError, match="valid part .* is empty|train part .* is empty"):
        quatrains(tmp_path)
    path.write_bytes(GOOD.encode() + b"\n" + GOOD.encode("gb18030"))
    with pytest.raises(UserError, match=f"{path}, line 2, is not UTF-8"):
        quatrains(tmp_path)
    with pytest.raises(UserError, match="'quatrains' and 'text' only"):
        datasets.load("chinese_unsegmented", path=path)


@pytest.fixture
def published():
    """The published quatrains."""
    if "HMRNN_DATA" not in os.environ:
        pytest.skip("HMRNN_DATA names no data folder")
    try:
        return datasets.load("quatrains")
    except UserError as error:
        pytest.skip(str(error))


def test_published_quatrains(published):
    assert published.name == "quatrains"
    assert "16,394 poems, 401 repeated" in published.source
    assert [len(ids) for ids in published.splits.values()] == [25 * n for n in (14_393, 800, 800)]
    parts = of_splits(published)
    train = set(parts["train"])
    assert len(train) == 14_393
    assert verse.repeats(parts["valid"] + parts["test"], train) == 0
    # Some poems of the collection have a square for a lost character.
    assert {verse.keeps_form(p) for p in train} == {
        None,
        "the symbol '□' is no Chinese character",
        "the symbol 'ē' is no Chinese character",
    }
    assert published.unknown["train"] == 0 and 0 < published.unknown["test"] < 100


# Generated poems


@pytest.mark.parametrize("symbol", ["a", " ", "\ufffd", "□", "、", "１", "の"])
def test_symbols_that_are_no_chinese_characters(symbol):
    poem = GOOD.replace("三", symbol)
    assert verse.keeps_form(poem) == f"the symbol {symbol!r} is no Chinese character"


def test_due_form():
    assert verse.keeps_form(GOOD) is None
    # Rare ideographs lie outside the first block, the zero outside all of them.
    assert (
        verse.keeps_form(GOOD.replace("三", "䴔").replace("四", "𠮷").replace("五", "〇")) is None
    )
    assert verse.keeps_form("") == "0 in place of 4 verses"


def test_poems_are_cut_at_newlines_and_the_unfinished_one_is_dropped():
    assert verse.poems(f"{GOOD}\n甲乙，\n{GOOD[:7]}") == [GOOD, "甲乙，"]
    assert verse.poems(f"{GOOD}\n") == [GOOD]
    assert verse.poems(f"{GOOD}\n\n{GOOD}\n") == [GOOD, "", GOOD]
    assert verse.poems(GOOD) == []


def test_report_by_hand():
    new = GOOD.replace("一", "乙")
    generated = [GOOD, new, GOOD[:-1], GOOD]
    assert verse.repeats(generated, {GOOD, "甲"}) == 2
    share, lines = verse.form_report(generated, {GOOD, "甲"})
    assert share == 0.75
    assert lines.splitlines() == [
        GOOD,
        new,
        f"{GOOD[:-1]}  <- verse 4 does not end in 。",
        GOOD,
        "3 of 4 poems (75.0%) keep the form, 4 verses of 5 characters; 2 stand in the training"
        " text",
    ]
    assert verse.form_report([GOOD])[1].endswith("(100.0%) keep the form, 4 verses of 5 characters")
    with pytest.raises(UserError, match="generate more"):
        verse.form_report([])
