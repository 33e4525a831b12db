"""Boundaries read from a curve: where they lie, how many, and which words they make right."""

import numpy as np
import pytest

from hmrnn_jax.analysis.segmenters import Segmenter, blanks, within_lines, word_scores
from hmrnn_jax.errors import UserError

CURVE = [0.1, 0.9, 0.9, 0.2, 0.3, 0.8, 0.4, 0.5, 0.1, 2.0]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("peaks", [1, 5, 7, 9]),  # of equal neighbours the first; the last step may be one
        ("rises", [0, 1, 5, 9]),  # higher than both of the two before
        ("level", range(10)),
    ],
)
def test_each_rule_takes_the_steps_that_it_says(rule, expected):
    np.testing.assert_array_equal(np.flatnonzero(Segmenter(rule)(CURVE)), list(expected))


def test_a_level_leaves_the_low_ones_out():
    np.testing.assert_array_equal(np.flatnonzero(Segmenter("peaks", 0.8)(CURVE)), [1, 5, 9])


@pytest.mark.parametrize("rule", ["peaks", "rises", "level"])
def test_calibrated_on_one_text_it_cuts_another_into_segments_of_that_length(rule):
    rng = np.random.default_rng(0)
    valid, test = rng.normal(size=(2, 50_000))
    for length in (4, 7, 30):
        found = Segmenter(rule).calibrated(valid, length)(test)
        assert found.sum() == pytest.approx(50_000 / length, rel=0.05)


def test_steps_that_do_not_count_are_not_calibrated_on():
    curve, mask = np.tile([0, 1.0, 0, 5.0], 100), np.tile([1, 1, 1, 0], 100)
    assert Segmenter("peaks").calibrated(curve, 6, mask).level == 1


def test_a_curve_without_a_peak_gives_no_boundary():
    flat = Segmenter("peaks").calibrated(np.zeros(10), 3)
    assert not flat(np.zeros(10))[1:].any()
    with pytest.raises(UserError, match="wanted segment length is 0"):
        Segmenter().calibrated(CURVE, 0)
    with pytest.raises(UserError, match="must be one of peaks"):
        Segmenter("valleys")


def ends(text, mark="|"):
    """1 at the symbols that `|` follows in `text`, and where its newlines are."""
    symbols = [c for c in text if c != mark]
    flags, last = [], None
    for c in text:
        if c == mark:
            flags[last] = 1
        else:
            last = len(flags)
            flags.append(0)
    return np.array(flags), np.array(symbols) == "\n"


def expected_words(text):
    """The words of a marked text as (line, start, end) in a set."""
    found = set()
    for number, line in enumerate(text.split("\n")):
        start = 0
        for word in line.split("|"):
            found.add((number, start, start + len(word)))
            start += len(word)
    return found


@pytest.mark.parametrize(
    "found",
    [
        "look|at|this\nyes\nopen|it|up",
        "lookat|this\nyes\nopen|i|tup",
        "l|ook|at|this\nye|s\nopenitup",
    ],
)
def test_words_with_both_ends_right_count(found):
    true = "look|at|this\nyes\nopen|it|up"
    (pred, newline), (gold, _) = ends(found), ends(true)
    words, boundaries = word_scores(pred, gold, newline)
    right = len(expected_words(found) & expected_words(true))
    precision, recall = right / len(expected_words(found)), right / len(expected_words(true))
    f1 = 2 * precision * recall / (precision + recall)
    np.testing.assert_allclose(words, (precision, recall, f1))
    hits = np.sum(pred & gold)
    assert boundaries[:2] == (hits / pred.sum(), hits / gold.sum())


def test_ends_of_lines_are_no_boundaries_that_could_be_found():
    gold, newline = ends("ab|cd\nef")
    nothing = np.zeros_like(gold)
    words, boundaries = word_scores(nothing, gold, newline)
    assert boundaries == (0, 0, 0) and words == (1 / 2, 1 / 3, 0.4)  # the line ef is right
    at_line_ends = np.roll(newline, -1).astype(int)
    at_line_ends[-1] = 1
    assert word_scores(at_line_ends, gold, newline) == (words, boundaries)


def test_a_text_of_newlines_has_no_word():
    newline = np.ones(3, bool)
    assert word_scores(~newline, ~newline, newline) == ((0, 0, 0), (0, 0, 0))


def test_a_space_right_after_another_or_where_a_line_begins_is_a_blank():
    marked = "##a b##\n\n##\n#c #d"  # as it would be written with a space for each #
    symbols = np.array([*marked.replace("#", " ")])
    newline = symbols == "\n"
    blank = blanks(np.char.isspace(symbols), newline)
    # The first of two spaces at a line's end is its last symbol, but ends a word as others do.
    expected = np.array([*marked]) == "#"
    expected[marked.index("##\n")] = False
    np.testing.assert_array_equal(blank, expected)
    inner = within_lines(newline, blank)
    assert "".join(np.array([*marked])[inner]) == "a bc "
    np.testing.assert_array_equal(inner[~blank], within_lines(newline[~blank]))
    single = np.array([*"a b\n\nc d \n"])
    assert not blanks(np.char.isspace(single), single == "\n").any()
