"""Propositional logic: published counts, the labels against truth tables, faulty files."""

import gzip
import itertools
import os

import numpy as np
import pytest

from hmrnn_jax.datasets import logic
from hmrnn_jax.datasets.logic import LABELS, Pairs, Sentences
from hmrnn_jax.errors import UserError

# Pairs by number of operators; training files up to 6 operators.
TRAIN = [30, 2319, 12451, 23252, 30373, 34152, 32952]
TEST = [6, 410, 2198, 4104, 5361, 6027, 5816, 4707, 3347, 2230, 1444, 864, 853]
NAMES = [f"{split}{length}" for split in ("train", "test") for length in range(13)]


@pytest.fixture(scope="module")
def published():
    root = os.environ.get("HMRNN_DATA")
    if not root or not os.path.isdir(os.path.join(root, "propositional-logic")):
        pytest.skip("set HMRNN_DATA to a data folder with propositional-logic")
    return logic.load(root)


def formula(i: int) -> str:
    """The number i as a formula: its binary digits are `b` and `not a`, so no two agree."""
    return " ".join("( not a )" if digit == "1" else "b" for digit in f"{i + 1:b}")


@pytest.fixture
def folder(tmp_path):
    """A user's own folder: 5 pairs in each file, all different, every other file gzipped."""
    count = itertools.count()
    for name in NAMES:
        numbers = itertools.islice(count, 5)
        lines = [f"{LABELS[k % 7]}\t{formula(k)}\t( c ( or d ) )\n" for k in numbers]
        content = "".join(lines).encode()
        if name[-1] in "13579":
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (tmp_path / name).write_bytes(content)
    return tmp_path


def texts(sentences):
    return [logic.VOCABULARY.decode(sentences[i]) for i in range(len(sentences))]


# The published data


def test_published_counts(published):
    assert sum(TRAIN) == 135_529
    assert (len(published.train), len(published.valid)) == (121_977, 13_552)
    assert {length: len(pairs) for length, pairs in published.test.items()} == dict(enumerate(TEST))
    assert published.longest == 6
    text = published.describe()
    for part in ("train 121,977", "valid 13,552", "12: 853", "7 relations", "vocabulary 12"):
        assert part in text


def test_every_tenth_training_pair_of_the_files_in_order_is_for_validation(published):
    lines = []
    for length in range(7):
        with gzip.open(f"{published.source}/train{length}.gz", "rt") as file:
            lines += [line.rstrip("\n").split("\t") for line in file]
    assert len(lines) == sum(TRAIN)
    expected = {"valid": lines[9::10], "train": [x for i, x in enumerate(lines, 1) if i % 10]}
    for split, rows in expected.items():
        pairs = getattr(published, split)
        assert [LABELS[i] for i in pairs.labels] == [row[0] for row in rows]
        chosen = range(0, len(rows), 37)
        decode = published.vocabulary.decode
        assert [decode(pairs.left[i]) for i in chosen] == [rows[i][1] for i in chosen]
        assert [decode(pairs.right[i]) for i in chosen] == [rows[i][2] for i in chosen]


def test_labels_are_the_relations_of_the_truth_tables(published):
    seen, decode = set(), published.vocabulary.decode
    for pairs in published.test.values():
        for i in range(0, len(pairs), 11):
            left, right = (truth(decode(side[i])) for side in (pairs.left, pairs.right))
            label = LABELS[pairs.labels[i]]
            assert label == relation(left, right)
            seen.add(label)
    assert seen == set(LABELS)


def test_operators_are_at_most_those_of_the_file(published):
    operators = [published.vocabulary.symbols.index(word) for word in ("and", "or", "not")]

    def most(pairs, i):
        return max(np.isin(side[i], operators).sum() for side in (pairs.left, pairs.right))

    for length, pairs in published.test.items():
        found = {most(pairs, i) for i in range(0, len(pairs), 7)}
        assert found == {length} if length < 12 else min(found) == 12
    assert max(most(published.train, i) for i in range(0, len(published.train), 101)) == 6


def truth(text: str) -> frozenset:
    """The assignments to a-f, as tuples, under which a formula holds."""
    words = text.split()

    def term():
        word = words.pop(0)
        if word != "(":
            return lambda values: values["abcdef".index(word)]
        if words[0] == "not":
            words.pop(0)
            inner = term()
            assert words.pop(0) == ")"
            return lambda values: not inner(values)
        # ( left ( and right ) )
        first = term()
        assert words.pop(0) == "("
        both = {"and": all, "or": any}[words.pop(0)]
        second = term()
        assert [words.pop(0), words.pop(0)] == [")", ")"]
        return lambda values: both((first(values), second(values)))

    holds = term()
    assert not words
    return frozenset(v for v in itertools.product((False, True), repeat=6) if holds(v))


def relation(left: frozenset, right: frozenset) -> str:
    """MacCartney and Manning's seven relations of two sets of the 64 assignments."""
    if left == right:
        return "="
    if left < right:
        return "<"
    if left > right:
        return ">"
    disjoint, exhaustive = not left & right, len(left | right) == 64
    return {(True, True): "^", (True, False): "|", (False, True): "v", (False, False): "#"}[
        disjoint, exhaustive
    ]


# A folder of the user's own


def test_an_own_folder(folder):
    data = logic.load(folder)
    # 35 pairs of up to 6 operators: the 10th, 20th and 30th are for validation.
    assert texts(data.valid.left) == [formula(i) for i in (9, 19, 29)]
    assert texts(data.train.left) == [formula(i) for i in range(35) if i not in (9, 19, 29)]
    assert [i % 7 for i in (9, 19, 29)] == data.valid.labels.tolist()
    assert [texts(pairs.left) for pairs in data.test.values()] == [
        [formula(65 + 5 * length + i) for i in range(5)] for length in range(13)
    ]
    assert set(texts(data.train.right)) == {"( c ( or d ) )"}  # brackets are kept
    assert data.vocabulary.symbols == (
        "<pad>", "(", ")", "a", "b", "c", "d", "e", "f", "or", "and", "not",
    )  # fmt: skip
    assert LABELS == ("<", ">", "=", "^", "|", "#", "v")
    assert data.train.left.ids.min() > 0  # 0 is padding
    assert (data.train.left.ids.dtype, data.train.labels.dtype) == (np.int32, np.int32)


def test_other_pairs_have_another_fingerprint(folder):
    before = logic.load(folder).fingerprint()
    assert before == logic.load(folder).fingerprint()
    lines = (folder / "test4").read_text().splitlines()
    relation, *formulas = lines[-1].split("\t")
    other = "\t".join(["#" if relation == "=" else "=", *formulas])
    (folder / "test4").write_text("\n".join([*lines[:-1], other]) + "\n")
    after = logic.load(folder).fingerprint()
    assert {split for split in after if after[split] != before[split]} == {"test"}
    assert after["test"][0] == before["test"][0]


def test_longest_says_which_training_files_are_read(folder):
    for length in range(9, 13):
        for file in folder.glob(f"train{length}*"):
            file.unlink()
    assert len(logic.load(folder).train) == 32
    data = logic.load(folder, longest=8)
    assert (len(data.train), len(data.valid), data.longest) == (41, 4, 8)
    with pytest.raises(UserError, match="no train9"):
        logic.load(folder, longest=9)
    with pytest.raises(UserError, match="from 0 to 12"):
        logic.load(folder, longest=13)


def test_the_data_folder_is_found(folder, tmp_path_factory, monkeypatch):
    root = tmp_path_factory.mktemp("data")
    (root / "propositional-logic").symlink_to(folder)
    monkeypatch.setenv("HMRNN_DATA", str(root))
    assert len(logic.load().train) == len(logic.load(root).train) == 32
    monkeypatch.delenv("HMRNN_DATA")
    with pytest.raises(UserError, match="HMRNN_DATA"):
        logic.load()


# Faults, told with file and line


@pytest.mark.parametrize(
    "line, words",
    [
        ("=\ta", "2 fields instead of 3"),
        ("=\ta\tb\tc", "4 fields instead of 3"),
        ("", "1 fields instead of 3"),
        ("= a b", "1 fields instead of 3"),
        ("x\ta\tb", "'x' is no relation"),
        ("\ta\tb", "'' is no relation"),
        ("=\t( g ( and b ) )\tb", "'g' is no symbol"),
        ("=\ta\t(not b)", r"'\(not' is no symbol"),
        ("=\ta\t<pad>", "'<pad>' is no symbol"),
        ("=\t\tb", "a formula is empty"),
        ("=\ta\t ", "a formula is empty"),
    ],
)
@pytest.mark.parametrize("name", ["train2", "test12"])
def test_faulty_lines_are_named(folder, name, line, words):
    (folder / name).write_text(f"#\ta\tb\n{line}\n#\ta\tb\n")
    with pytest.raises(UserError, match=f"{name}, line 2: .*{words}"):
        logic.load(folder)


def test_faulty_files(folder, tmp_path):
    (folder / "test4").write_bytes(b"")
    with pytest.raises(UserError, match="test4 is empty"):
        logic.load(folder)
    (folder / "test4").write_bytes(b"=\ta\t\xff\n")
    with pytest.raises(UserError, match=r"test4, line 1, .*byte 0xff at offset 4"):
        logic.load(folder)
    (folder / "test4").unlink()
    with pytest.raises(UserError, match="no test4"):
        logic.load(folder)
    with pytest.raises(UserError, match="no train0"):
        logic.load(tmp_path / "nowhere")


def test_windows_line_ends_and_byte_order_mark(folder):
    (folder / "train0").write_bytes("\ufeff=\ta\tb\r\n=\ta\tc\r\n".encode())
    data = logic.load(folder)
    assert texts(data.train.left)[:3] == ["a", "a", formula(5)]
    assert texts(data.train.right)[:2] == ["b", "c"]


def test_only_line_ends_end_lines(folder):
    """Else a stray separator would shift the numbers of the lines that follow."""
    (folder / "train0").write_bytes("=\ta\tb\x0c\n=\ta\tc\u2028\r=\ta\n".encode())
    with pytest.raises(UserError, match="train0, line 3: there are 2 fields"):
        logic.load(folder)


def test_ten_training_pairs_are_needed(folder):
    with pytest.raises(UserError, match="5 training pairs.*10 or more"):
        logic.load(folder, longest=0)
    data = logic.load(folder, longest=1)
    assert (len(data.train), len(data.valid)) == (9, 1)


# The containers


def test_sentences_and_pairs():
    lists = [[1, 2, 3], [4], [5, 6]]
    sentences = Sentences.of(lists)
    assert [sentences[i].tolist() for i in range(len(sentences))] == lists
    assert sentences.lengths.tolist() == [3, 1, 2]
    pairs = Pairs.of(lists, lists[::-1], [0, 1, 2])
    assert pairs.right.lengths.tolist() == [2, 1, 3] and len(pairs) == 3
    assert len(Pairs.of([], [], [])) == 0
    with pytest.raises(UserError, match="sentence 1"):
        Sentences.of([[1], []])
    with pytest.raises(UserError, match="3 left sentences, 3 right ones and 2 labels"):
        Pairs.of(lists, lists, [0, 1])
