"""Gold trees: the word filter, the layouts a treebank comes in, and files that are not right."""

import os
import re
import zipfile
from pathlib import Path

import pytest

from hmrnn_jax import files
from hmrnn_jax.datasets import treebank
from hmrnn_jax.errors import UserError

TREE = """
( (S
    (NP-SBJ (-NONE- *T*-1) (NNP Mr.) (NNP Vinken))
    (, ,)
    (VP (VBD paid) (NP ($ $) (CD 1,000) (-NONE- *U*)) (PRT (-NONE- 0)) (PP-LOC (IN on) (# #)))
    (. .) ))
"""
SHORT = "(S (NP (DT The) (NN dog)) (VP (VBZ barks)))\n"


def write(path, text=TREE):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_word_filter_and_labels(tmp_path):
    read = treebank.read_trees(write(tmp_path / "wsj_0001.mrg", TREE + SHORT))
    first, second = read.sentences
    # Lower case, digit runs to N; traces, $, # and punctuation go, whatever they are inside of.
    assert first.words == ("mr.", "vinken", "paid", "N,N", "on")
    assert first.constituents == (
        ("S", 0, 5),
        ("NP-SBJ", 0, 2),
        ("VP", 2, 5),
        ("NP", 3, 4),
        ("PP-LOC", 4, 5),
    )
    assert (first.name, second.name) == ("wsj_0001.mrg:1", "wsj_0001.mrg:2")
    assert second.words == ("the", "dog", "barks") and second.section == 0
    assert "2 sentences, 8 words" in read.describe() and "skipped" not in read.describe()


@pytest.mark.parametrize(
    ("leaf", "kept"),
    [
        ("(CD 3.5)", "N.N"),
        ("(CD 1990s)", "Ns"),
        ("(NNP O'Neil)", "o'neil"),
        ("(PRP$ Its)", "its"),
        ("(WP$ whose)", "whose"),
        ("(NN %)", "%"),
        ("(SYM =)", "="),
        ("($ US$)", None),
        ("(# #)", None),
        ("(-NONE- 0)", None),
        ("(-LRB- -LRB-)", None),
        ("(: --)", None),
        ("(`` ``)", None),
        ("('' '')", None),
        ("(. !)", None),
        ("(, ,)", None),
    ],
)
def test_single_leaves(tmp_path, leaf, kept):
    (sentence,) = treebank.read_trees(write(tmp_path / "a.mrg", f"(S (NN x) {leaf})")).sentences
    assert sentence.words == (("x", kept) if kept else ("x",))


def test_trees_without_words_are_counted(tmp_path):
    path = write(tmp_path / "wsj_0102.mrg", "( (X (. .)) )" + SHORT + "((-NONE- *))")
    read = treebank.read_trees(path)
    assert [sentence.name for sentence in read.sentences] == ["wsj_0102.mrg:2"]
    assert [sentence.name for sentence in read.skipped] == ["wsj_0102.mrg:1", "wsj_0102.mrg:3"]
    assert "2 trees without any word were skipped" in read.describe()


def test_layouts_and_sections(tmp_path):
    wsj = tmp_path / "parsed" / "mrg" / "wsj"
    write(wsj / "23" / "wsj_2300.mrg", SHORT * 2)
    write(wsj / "23" / "any.mrg")
    write(wsj / "22" / "WSJ_2201.MRG", SHORT)
    write(wsj / "00" / "wsj_0001.mrg", "(S " + "(NN a)" * 11 + ")")
    write(wsj / "00" / "24.parsed", "(S " + "(NN a) (, ,)" * 10 + ")")
    write(wsj / "readme.txt", "no trees")
    write(wsj / "00" / "wsj_0001.pos", "no trees")
    write(wsj / "00" / "._wsj_0001.mrg", "no trees")
    whole = treebank.read_trees(tmp_path)
    assert [(s.name, s.section) for s in whole.sentences] == [
        ("24.parsed:1", 24),
        ("wsj_0001.mrg:1", 0),
        ("WSJ_2201.MRG:1", 22),
        ("any.mrg:1", 23),
        ("wsj_2300.mrg:1", 23),
        ("wsj_2300.mrg:2", 23),
    ]
    assert len(treebank.select(whole, sections=[23]).sentences) == 3
    assert len(treebank.select(whole, sections=[22, 23]).sentences) == 4
    # WSJ10 counts kept words: ten words with ten commas are in, eleven words are not.
    names = [s.name for s in treebank.select(whole, longest=10).sentences]
    assert "24.parsed:1" in names and "wsj_0001.mrg:1" not in names and len(names) == 5
    with pytest.raises(UserError, match="00, 22, 23, 24"):
        treebank.select(whole, sections=[1])

    with zipfile.ZipFile(tmp_path / "wsj.zip", "w") as archive:
        for path in sorted(wsj.rglob("*.*"), reverse=True):
            archive.write(path, path.relative_to(tmp_path))
    zipped = treebank.read_trees(tmp_path / "wsj.zip")
    assert zipped.sentences == whole.sentences


def test_sections_survive_skipping(tmp_path):
    write(tmp_path / "wsj_0100.mrg", "(X (. .))" + SHORT)
    write(tmp_path / "wsj_0200.mrg", "(X (. .))" + SHORT)
    part = treebank.select(treebank.read_trees(tmp_path), sections=[2])
    assert [s.name for s in part.skipped] == ["wsj_0200.mrg:1"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (SHORT + "(S (NN a)))\n" + SHORT, 2),  # one closing bracket too many
        (SHORT + "\n(S (NN a)\n" + SHORT, 3),  # never closed: the line where the tree begins
        ("( (S (NN a))\n( (S (NN b)) )", 2),  # the second tree would fall into the first
        ("(S (NN a)\n)\nword\n" + SHORT, 3),
    ],
)
def test_unbalanced_brackets_name_file_and_line(tmp_path, text, line):
    write(tmp_path / "wsj_0001.mrg", SHORT)
    write(tmp_path / "wsj_0002.mrg", text)
    with pytest.raises(UserError, match=rf"wsj_0002\.mrg, line {line}: [^\n]*\.$"):
        treebank.read_trees(tmp_path)


@pytest.mark.parametrize(
    "tree",
    [
        "(S (NN a)\n(NP the man))",
        "(S (NN a)\nman)",
        "(S\n(NP (NN a) man))",
        "(S (NP\nman (NN a)))",
        "(S (NN a)\n(NP))",
        "(S (NN a)\n())",
        "(\n())",
        "(S (NN a)\n(HYPH ) (NN b))",
        "(S (NN a)\n(PRN (( () (NP (NN b)) () ))) (VP (VBZ c)))",
    ],
)
def test_a_faulty_tree_is_skipped_and_told_with_file_and_line(tmp_path, tree):
    path = write(tmp_path / "wsj_0102.mrg", f"{SHORT}{tree}\n{SHORT}")
    read = treebank.read_trees(tmp_path)
    assert [sentence.name for sentence in read.sentences] == ["wsj_0102.mrg:1", "wsj_0102.mrg:3"]
    assert [sentence.name for sentence in read.skipped] == ["wsj_0102.mrg:2"]
    assert f"1 trees with faulty brackets were skipped, {path}, line 3: " in read.describe()
    assert "without any word" not in read.describe()
    assert treebank.select(read, [1]).skipped == read.skipped
    # Where nothing else is left, the fault is what to mend.
    path.write_text(tree)
    with pytest.raises(UserError, match=r"no tree that can be used \(.*wsj_0102\.mrg, line 2: "):
        treebank.read_trees(tmp_path)


def test_spaces_are_those_of_ascii(tmp_path):
    text = "(ROOT (S (NP (CD 1\u00a01/2)\t(NNS cups\u2028))\x0c(VP (VBP melt\x85))))\n(S"
    with pytest.raises(UserError, match="line 2: the tree that begins here is not closed"):
        treebank.read_trees(write(tmp_path / "a.mrg", text))
    (sentence,) = treebank.read_trees(write(tmp_path / "a.mrg", text[:-3])).sentences
    assert sentence.words == ("N\u00a0N/N", "cups\u2028", "melt\x85")


def test_tags_of_another_set_are_named(tmp_path):
    chinese = "( (IP (NP-SBJ (NR 上海)) (VP (VV 开发) (AS 了))) )\n"
    path = write(tmp_path / "ctb.mrg", chinese)
    with pytest.raises(UserError, match=r"no word with a tag of the Penn .*\(its tags: NR, VV, AS"):
        treebank.read_trees(path)
    mixed = treebank.read_trees(write(path, chinese + "(IP (NN 城市) (VV 开发))"))
    assert mixed.sentences[0].words == ("城市",) and mixed.foreign["VV"] == 2
    assert "4 words were left out, whose tags are not the Penn Treebank's: VV, NR, AS" in (
        mixed.describe()
    )
    assert "left out" not in treebank.read_trees(write(tmp_path / "a.mrg")).describe()


def test_archives_that_python_cannot_unpack_are_refused(tmp_path):
    path = tmp_path / "wsj.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("wsj_0001.mrg", SHORT)
    plain = path.read_bytes()
    # The flags and the method of packing, in the member's header and in the directory.
    for place, value, message in ((6, 1, "is encrypted"), (8, 99, "cannot be unpacked")):
        content = bytearray(plain)
        content[place] = content[plain.index(b"PK\x01\x02") + place + 2] = value
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"wsj\.zip {message}"):
            treebank.read_trees(path)


def test_more_than_the_memory_is_good_for_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "room", lambda: 4 * 150)
    write(tmp_path / "a" / "wsj_0001.mrg", SHORT * 3)
    assert len(treebank.read_trees(tmp_path / "a").sentences) == 3
    write(tmp_path / "a" / "wsj_0002.mrg", SHORT)
    with pytest.raises(UserError, match="/a holds more than 150 bytes"):
        treebank.read_trees(tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("wsj_0001.mrg", SHORT * 1000)
    with pytest.raises(UserError, match=r"a\.zip holds more than 150 bytes"):
        treebank.read_trees(tmp_path / "a.zip")
    monkeypatch.setattr(treebank, "_DEEPEST", 3)
    write(tmp_path / "b.mrg", "(A(B(C(NN a))))")
    with pytest.raises(UserError, match="line 1: more than 3 brackets are open"):
        treebank.read_trees(tmp_path / "b.mrg")


def test_what_is_no_treebank(tmp_path):
    with pytest.raises(UserError, match="missing"):
        treebank.read_trees(tmp_path / "missing")
    with pytest.raises(UserError, match=r"\*\.mrg"):
        treebank.read_trees(tmp_path)
    empty = write(tmp_path / "empty.mrg", "\n \n")
    with pytest.raises(UserError, match="empty.mrg holds no trees"):
        treebank.read_trees(empty)
    latin = tmp_path / "latin.mrg"
    latin.write_bytes(SHORT.encode() + "(S (NN café))".encode("latin-1"))
    with pytest.raises(UserError, match="latin.mrg, line 2"):
        treebank.read_trees(latin)
    broken = write(tmp_path / "broken.zip", "not a zip")
    with pytest.raises(UserError, match="broken.zip"):
        treebank.read_trees(broken)
    with zipfile.ZipFile(broken, "w") as archive:
        archive.writestr("a/readme.txt", "x")
    with pytest.raises(UserError, match=r"\*\.mrg"):
        treebank.read_trees(broken)


def test_sample_is_found_or_asked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("HMRNN_DATA", raising=False)
    with pytest.raises(UserError, match="HMRNN_DATA"):
        treebank.nltk_sample()
    with pytest.raises(UserError, match="nltk-treebank"):
        treebank.nltk_sample(tmp_path)
    write(tmp_path / "nltk-treebank" / "combined" / "wsj_0101.mrg")
    monkeypatch.setenv("HMRNN_DATA", str(tmp_path))
    assert treebank.nltk_sample().sentences[0].section == 1
    with zipfile.ZipFile(tmp_path / "nltk-treebank" / "any.zip", "w") as archive:
        archive.writestr("treebank/wsj_0001.mrg", SHORT)
    assert treebank.nltk_sample().sentences[0].words == ("the", "dog", "barks")


def test_deep_trees(tmp_path):
    deep = "(S (NN a) " * 5000 + "(NN b)" + ")" * 5000
    (sentence,) = treebank.read_trees(write(tmp_path / "deep.mrg", deep)).sentences
    assert len(sentence.words) == 5001
    assert sentence.constituents[-1] == ("S", 4999, 5001)


def test_whole_sample():
    if "HMRNN_DATA" not in os.environ:
        pytest.skip("HMRNN_DATA names no data folder")
    read = treebank.nltk_sample()
    assert len(read.sentences) + len(read.skipped) == 3669
    assert {s.section for s in read.sentences} == {0, 1}
    # Words counted another way: every (tag word), less the tags that are not of words.
    other = {"-NONE-", "$", "#", ",", ".", ":", "``", "''", "-LRB-", "-RRB-"}
    (path,) = Path(os.environ["HMRNN_DATA"], "nltk-treebank").glob("*.zip")
    with zipfile.ZipFile(path) as archive:
        text = "".join(archive.read(n).decode() for n in archive.namelist() if n.endswith("mrg"))
    leaves = re.findall(r"\(([^\s()]+) ([^\s()]+)\)", text)
    assert len(leaves) == 94286
    words = [re.sub(r"\d+", "N", word.lower()) for tag, word in leaves if tag not in other]
    assert sorted(words) == sorted(word for s in read.sentences for word in s.words)
