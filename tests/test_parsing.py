"""Trees from distances and their scores: worked examples, the reference values, a second judge."""

import os
import re
import zipfile
from pathlib import Path

import fixtures
import numpy as np
import pytest

from hmrnn_jax.analysis import parsing, trees
from hmrnn_jax.analysis.figures import style
from hmrnn_jax.analysis.figures.trees import tree_figure
from hmrnn_jax.datasets import treebank
from hmrnn_jax.errors import UserError

ABCDE = "a b c d e".split()
RIGHT = "( a ( b ( c ( d e ) ) ) )"


def sentences_of(tmp_path, *trees):
    path = tmp_path / "gold.mrg"
    path.write_text("\n".join(trees))
    return treebank.read_trees(path).sentences


@pytest.mark.parametrize(
    ("distances", "biased", "unbiased"),
    [
        ([5, 4, 3, 2, 1], RIGHT, RIGHT),
        ([1, 2, 3, 4, 5], "( ( ( ( a b ) c ) d ) e )", "( ( ( ( a b ) c ) d ) e )"),
        ([3, 3, 3, 3, 3], RIGHT, RIGHT),
        ([9, 1, 3, 2, 5], "( a ( ( b ( c d ) ) e ) )", "( ( ( a b ) ( c d ) ) e )"),
        ([0.2, 0.9, 0.1, 0.7, 0.4], RIGHT, "( a ( ( b c ) ( d e ) ) )"),
        ([0.1, 0.1, 0.9, 0.1, 0.1], "( ( a b ) ( c ( d e ) ) )", "( ( a b ) ( c ( d e ) ) )"),
    ],
)
def test_worked_examples(distances, biased, unbiased):
    for flag, expected in ((True, biased), (False, unbiased)):
        tree = parsing.tree_from_distances(ABCDE, distances, flag)
        assert parsing.bracket_string(tree) == expected
        assert parsing.leaves(tree) == ABCDE
        # Only the order of the distances matters.
        again = parsing.tree_from_distances(ABCDE, np.exp(distances) - 7, flag)
        assert again == tree
    assert parsing.tree_from_distances(ABCDE, distances) == parsing.tree_from_distances(
        ABCDE, distances, biased=True
    )


@pytest.mark.parametrize("biased", [True, False])
def test_trees_are_binary_and_keep_the_words(biased):
    rng = np.random.default_rng(0)
    for count in range(1, 30):
        words = [f"w{i}" for i in range(count)]
        tree = parsing.tree_from_distances(words, rng.integers(0, 9, count), biased)
        assert parsing.leaves(tree) == words
        # n words, n - 1 binary nodes: the whole sentence and n - 2 spans.
        assert len(parsing.spans(tree)) == max(count - 2, 0)
    assert parsing.tree_from_distances(["a"], [0.3], biased) == "a"


def test_trivial_trees():
    assert parsing.bracket_string(parsing.right_tree(ABCDE)) == RIGHT
    assert parsing.left_tree(ABCDE) == (((("a", "b"), "c"), "d"), "e")
    assert parsing.balanced_tree(ABCDE) == (("a", "b"), ("c", ("d", "e")))
    assert parsing.balanced_tree(list("abcdefgh")) == (
        (("a", "b"), ("c", "d")),
        (("e", "f"), ("g", "h")),
    )
    assert parsing.random_tree(ABCDE, 3) == parsing.random_tree(ABCDE, 3)
    # Every split is as likely as the others: of three words, both trees; of four, a third each
    # for the two halves and for the first and last word alone.
    rng = np.random.default_rng(0)
    drawn = [len(parsing.leaves(parsing.random_tree("abcd", rng)[0])) for _ in range(3000)]
    np.testing.assert_allclose(np.bincount(drawn)[1:] / 3000, [1 / 3] * 3, atol=0.03)
    for build in (parsing.right_tree, parsing.left_tree, parsing.balanced_tree):
        assert build(["a"]) == "a" and build(["a", "b"]) == ("a", "b")
    assert parsing.mean_depth(["a", ("a", "b"), ("a", ("b", "c"))]) == pytest.approx(8 / 9)


@pytest.mark.parametrize("name", fixtures.names("trees"))
def test_equals_reference(tmp_path, name):
    arrays, _ = fixtures.load(name)
    gold = sentences_of(tmp_path, *arrays["gold_labelled"].tolist())
    assert [" ".join(s.words) for s in gold] == arrays["words"].tolist()
    golden = [parsing.gold_tree(s) for s in gold]
    assert [parsing.bracket_string(tree) for tree in golden] == arrays["gold"].tolist()
    distances = np.split(arrays["distances"], arrays["offsets"][1:-1])
    labels = arrays["labels"].tolist()
    for kind in ("biased", "unbiased"):
        trees = [
            parsing.tree_from_distances(s.words, d, biased=kind == "biased")
            for s, d in zip(gold, distances, strict=True)
        ]
        strings = [parsing.bracket_string(tree) for tree in trees]
        assert strings == arrays[f"pred_{kind}"].tolist()
        scores = [
            parsing.precision_recall_f1(parsing.spans(tree), parsing.spans(true))
            for tree, true in zip(trees, golden, strict=True)
        ]
        fixtures.assert_close(scores, arrays[f"prf_{kind}"], 1e-10, "prf")
        figures = parsing.evaluate(gold, trees, labels)
        means = [figures["precision"], figures["recall"], figures["f1"]]
        fixtures.assert_close(means, arrays[f"prf_{kind}"].mean(0), 1e-10, "mean prf")
        fixtures.assert_close(figures["f1"], arrays[f"mean_f1_{kind}"], 1e-10, "mean F1")
        fixtures.assert_close(figures["depth"], arrays[f"mean_depth_{kind}"], 1e-10, "depth")
        counts = parsing.label_counts(gold, trees, labels)
        assert [list(counts[n]) for n in labels] == arrays[f"label_counts_{kind}"].tolist()
        for label, (hits, total) in counts.items():
            assert figures[f"count_{label}"] == total
            assert figures[f"recall_{label}"] == (hits / total if total else None)


def test_f1_worked_examples(tmp_path):
    gold, two, flat = sentences_of(
        tmp_path,
        "(S (NP (NN a) (NN b)) (VP (NP (NN c) (NN d)) (NN e)))",
        "(S (NN a) (VP (NN b)))",
        "(S (NN a) (NN b) (NN c))",
    )

    def f1(sentence, distances, biased=True):
        tree = parsing.tree_from_distances(sentence.words, distances, biased)
        return parsing.evaluate([sentence], [tree])["f1"]

    assert f1(gold, [0.1, 0.1, 0.9, 0.1, 0.1]) == pytest.approx(2 / 3)
    assert f1(gold, [0.2, 0.9, 0.1, 0.7, 0.4]) == pytest.approx(1 / 3)
    assert f1(gold, [0.2, 0.9, 0.1, 0.7, 0.4], biased=False) == 0
    # Nothing to find and nothing found is right; something found where nothing is, is wrong.
    assert f1(two, [0.1, 0.2]) == pytest.approx(1)
    assert f1(flat, [0.1, 0.2, 0.3]) == 0
    assert parsing.precision_recall_f1(set(), {(0, 2)}) == (0, 0, 0)

    # Of the corpus F1's spans: 2 of 3 right and 3 gold ones, then 0 of 1 right and none gold;
    # the sentence of two words has none.
    trees = [
        parsing.tree_from_distances(ABCDE, [0.1, 0.1, 0.9, 0.1, 0.1]),
        ("a", "b"),
        ("a", ("b", "c")),
    ]
    figures = parsing.evaluate([gold, two, flat], trees)
    assert figures["f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert figures["corpus_precision"] == pytest.approx(2 / 4)
    assert figures["corpus_recall"] == pytest.approx(2 / 3)
    assert figures["corpus_f1"] == pytest.approx(4 / 7)
    assert (figures["sentences"], figures["words"]) == (3, 10)
    # The NPs are (0, 2), found, and (2, 4), not found; nothing is an ADJP.
    assert figures["recall_NP"] == 0.5 and figures["recall_ADJP"] is None


def test_labels_are_cut_and_chains_count_once(tmp_path):
    (sentence,) = sentences_of(
        tmp_path,
        "(S (NP-SBJ=2 (NP (NN a) (NN b)) (. .)) (VP (VB c) (PP=1 (ADJP-PRD (IN d) (NN e)))))",
    )
    counts = parsing.label_counts([sentence], [parsing.right_tree(ABCDE)], ["NP", "PP", "ADJP"])
    assert counts == {"NP": (0, 1), "PP": (1, 1), "ADJP": (1, 1)}
    # The whole sentence counts as found, whatever the tree.
    counts = parsing.label_counts([sentence], [parsing.left_tree(ABCDE)], ["S", "VP"])
    assert counts == {"S": (1, 1), "VP": (0, 1)}


@pytest.mark.parametrize("biased", [True, False])
def test_long_sentences(tmp_path, biased):
    words = [f"w{i}" for i in range(3000)]
    falling = parsing.tree_from_distances(words, -np.arange(3000), biased)
    rising = parsing.tree_from_distances(words, np.arange(3000), biased)
    assert parsing.bracket_string(falling) == parsing.bracket_string(parsing.right_tree(words))
    assert parsing.bracket_string(rising) == parsing.bracket_string(parsing.left_tree(words))
    deep = "(S (NN a) " * 299 + "(NN b)" + ")" * 299
    (gold,) = sentences_of(tmp_path, deep)
    assert len(gold.words) == 300
    tree = parsing.tree_from_distances(gold.words, -np.arange(300), biased)
    figures = parsing.evaluate([gold], [tree])
    assert figures["f1"] == pytest.approx(1)
    assert figures["depth"] == pytest.approx((sum(range(1, 300)) + 299) / 300)
    tree_figure(tmp_path / "long.png", gold.words, np.ones(300), tree, "long")


def test_trees_in_brackets_are_read_back():
    tree = (("a", "(", "b)"), (("c\u00a0d",), "e"))
    text = "( ( a -LRB- b-RRB- ) ( ( c\u00a0d ) e ) )"
    assert parsing.bracket_string(tree) == text
    assert parsing.tree_from_brackets(text) == tree
    assert parsing.tree_from_brackets(" word\n") == "word"
    deep = parsing.right_tree([f"w{i}" for i in range(3000)])
    assert parsing.leaves(parsing.tree_from_brackets(parsing.bracket_string(deep))) == [
        f"w{i}" for i in range(3000)
    ]
    for faulty in ("", "( a", "a )", "( a ( ) )", "a b", "( a b ) ( c d )"):
        with pytest.raises(UserError, match="bracket"):
            parsing.tree_from_brackets(faulty)


def test_refusals(tmp_path):
    one, two = sentences_of(tmp_path, "(S (NN a) (NN b))", "(S (NN c) (NN d))")
    for words, distances in (([], []), (["a", "b"], [1]), (["a", "b"], [1, np.nan]), (["a"], 1)):
        with pytest.raises(UserError):
            parsing.tree_from_distances(words, distances)
    with pytest.raises(UserError, match=r"gold\.mrg:2 reads 'c x'.*'c d'"):
        parsing.evaluate([one, two], [("a", "b"), ("c", "x")])
    with pytest.raises(UserError, match="1 trees for 2"):
        parsing.evaluate([one, two], [("a", "b")])
    for tree in (("a",), ("a", 7), ("a", ()), None):
        with pytest.raises(UserError):
            parsing.evaluate([one], [tree])
    for tree in ((3, "a", "b"), ("a", "b", 0), 0):  # a number is no word, nor the end of a node
        with pytest.raises(UserError, match="parts must be words or trees"):
            trees.walk(tree)
    with pytest.raises(UserError):
        parsing.evaluate([], [])
    with pytest.raises(UserError):
        parsing.baselines([one], seeds=[])
    with pytest.raises(UserError, match="crosses"):
        parsing.tree_from_spans("abc", [(0, 2), (1, 3)])
    with pytest.raises(UserError, match="outside"):
        parsing.tree_from_spans("abc", [(1, 4)])


def test_comparison_stands_beside_the_baselines(tmp_path):
    gold = sentences_of(
        tmp_path, "(S (NP (NN a) (NN b)) (VP (NP (NN c) (NN d)) (NN e)))", "(S (NN a) (NN b))"
    )
    trees = [parsing.gold_tree(s) for s in gold]
    rows = parsing.compare(gold, {"gold": trees}, seeds=range(3))
    names = ["gold", "right", "left", "balanced", "random (3 seeds)"]
    assert [row["name"] for row in rows] == names
    assert rows[0]["f1"] == pytest.approx(1)
    runs = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        drawn = [parsing.random_tree(s.words, rng) for s in gold]
        runs.append(parsing.evaluate(gold, drawn)["f1"])
    assert rows[-1]["f1"] == pytest.approx(np.mean(runs))
    assert rows[-1]["f1_std"] == pytest.approx(np.std(runs, ddof=1))
    assert rows[-1]["recall_ADJP"] is None and rows[-1]["sentences"] == 2
    table = parsing.format_table(rows).splitlines()
    assert table[0].split() == "F1 corpus F1 P R depth ADJP NP PP INTJ".split()
    assert table[1].split()[:2] == ["gold", "100.0"] and table[1].split()[-1] == "-"
    assert "±" in table[5] and "2 sentences, 7 words" in table[6]


def test_tree_figure(tmp_path, monkeypatch):
    figures, save = [], style.save
    monkeypatch.setattr(style, "save", lambda f, path: (figures.append(f), save(f, path)))
    words, distances = ["$5", "a", "bc", "d"], [0.1, 0.4, 0.9, 0.2]
    tree = parsing.tree_from_distances(words, distances)
    tree_figure(tmp_path / "t.png", words, distances, tree, "$ 5")
    assert (tmp_path / "t.png").read_bytes()[:4] == b"\x89PNG"
    (figure,) = figures
    drawing, bars = figure.axes
    assert [text.get_text() for text in figure.texts] == [*words, "$ 5"]
    # A bar and a word stand on one line, and each word hangs from the tree at the same place.
    assert drawing.get_position().x0 == bars.get_position().x0
    assert drawing.get_position().width == bars.get_position().width
    box, across = bars.get_position(), bars.get_xlim()[1]
    centres = [bar.get_x() + bar.get_width() / 2 for bar in bars.patches]
    assert [bar.get_height() for bar in bars.patches] == distances
    feet = {x for line in drawing.lines for x, y in line.get_xydata() if y == 0}
    np.testing.assert_allclose(sorted(feet), centres)
    for centre, text in zip(centres, figure.texts, strict=False):
        assert text.get_position()[0] == pytest.approx(box.x0 + centre / across * box.width)
    for wrong in ({"words": words[:3]}, {"distances": [1, 2]}, {"tree": ("a", "b")}):
        with pytest.raises(UserError):
            tree_figure(
                tmp_path / "t.png", **{"words": words, "distances": distances, "tree": tree} | wrong
            )
    with pytest.raises(UserError):
        tree_figure(tmp_path / "missing" / "t.png", words, distances, tree)


# A second judge of trees, written another way: gold trees as nested lists read by recursion,
# words dropped by the tags that are not of words, and spans read off bracket strings.

NOT_WORDS = {"-NONE-", "$", "#", ",", ".", ":", "``", "''", "-LRB-", "-RRB-"}


def nested(tokens):
    label = tokens.pop() if tokens[-1] not in "()" else ""
    parts = []
    while (token := tokens.pop()) != ")":
        parts.append(nested(tokens) if token == "(" else token)
    return label, parts


def plain(node):
    """The tree without labels and dropped words as a bracket string; "" if nothing remains."""
    label, parts = node
    if isinstance(parts[0], str):
        return "" if label in NOT_WORDS else re.sub(r"\d+", "N", parts[0].lower())
    left = [text for text in map(plain, parts) if text]
    return left[0] if len(left) == 1 else f"( {' '.join(left)} )" if left else ""


def bracketed(string):
    """The places of every bracket, (first word, last word + 1), but for the outermost."""
    found, opened, place = set(), [], 0
    for token in string.split():
        if token == "(":
            opened.append(place)
        elif token == ")":
            found.add((opened.pop(), place))
        else:
            place += 1
    return found - {(0, place)}


def second_f1(ours, gold):
    if not gold:
        return float(not ours)
    # 2PR / (P + R) is the share of the mean number of spans that both have.
    return 2 * len(ours & gold) / (len(ours) + len(gold))


@pytest.fixture(scope="module")
def sample():
    if "HMRNN_DATA" not in os.environ:
        pytest.skip("HMRNN_DATA names no data folder")
    (path,) = Path(os.environ["HMRNN_DATA"], "nltk-treebank").glob("*.zip")
    strings = []
    with zipfile.ZipFile(path) as archive:
        for name in sorted(n for n in archive.namelist() if n.endswith(".mrg")):
            tokens = re.findall(r"[()]|[^\s()]+", archive.read(name).decode())[::-1]
            while tokens:
                assert tokens.pop() == "("
                strings.append(plain(nested(tokens)))
    return treebank.nltk_sample().sentences, strings


def test_second_judge_reads_the_same_gold_trees(sample):
    sentences, strings = sample
    assert len(sentences) == 3669
    assert [parsing.bracket_string(parsing.gold_tree(s)) for s in sentences] == strings


def greedy(biased):
    rng = np.random.default_rng(1)
    return lambda words: parsing.tree_from_distances(words, rng.random(len(words)), biased)


def random():
    rng = np.random.default_rng(0)
    return lambda words: parsing.random_tree(words, rng)


# The figures of the trivial trees were measured with both judges; random distances make random
# trees in the unbiased parser, and in the biased one trees that lean to the right.
@pytest.mark.parametrize(
    ("build", "measured", "tolerance"),
    [
        pytest.param(parsing.right_tree, 0.400058, 1e-6, id="right"),
        pytest.param(parsing.left_tree, 0.086677, 1e-6, id="left"),
        pytest.param(parsing.balanced_tree, 0.242974, 1e-6, id="balanced"),
        pytest.param(random(), 0.182, 0.008, id="random"),
        pytest.param(greedy(biased=False), 0.182, 0.008, id="unbiased"),
        pytest.param(greedy(biased=True), 0.207, 0.008, id="biased"),
    ],
)
def test_second_judge_agrees_on_the_sample(sample, build, measured, tolerance):
    sentences, strings = sample
    trees = [build(s.words) for s in sentences]
    ours = parsing.evaluate(sentences, trees)
    golds = [bracketed(string) for string in strings]
    found = [bracketed(parsing.bracket_string(tree)) for tree in trees]
    f1 = np.mean([second_f1(a, b) for a, b in zip(found, golds, strict=True)])
    # The published terms of 1e-8 are worth at most as much.
    assert ours["f1"] == pytest.approx(f1, abs=1e-7)
    both = sum(len(a & b) for a, b in zip(found, golds, strict=True))
    assert ours["corpus_precision"] == pytest.approx(both / sum(map(len, found)), abs=1e-12)
    assert ours["corpus_recall"] == pytest.approx(both / sum(map(len, golds)), abs=1e-12)
    assert ours["f1"] == pytest.approx(measured, abs=tolerance)
