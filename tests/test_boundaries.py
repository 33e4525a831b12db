"""Operations, segments and scores, checked against hand counts and the reference values."""

import io
import json
import os

import fixtures
import numpy as np
import pytest

from hmrnn_jax.analysis import boundaries, scores
from hmrnn_jax.analysis.boundaries import COPY, FLUSH, UPDATE
from hmrnn_jax.analysis.glyphs import columns
from hmrnn_jax.errors import UserError

# Five steps of three layers. z1 fires at 1 and 3; z2 at 3 only.
Z1 = np.array([0, 1, 0, 1, 0])
Z2 = np.array([0, 0, 0, 1, 0])


def test_operations_by_hand():
    done = boundaries.operations([Z1, Z2], layers=3)
    # Layer 1 FLUSHes after its own boundaries and UPDATEs elsewhere: it never COPYs.
    np.testing.assert_array_equal(done["layer1"], [UPDATE, UPDATE, FLUSH, UPDATE, FLUSH])
    # Layer 2 UPDATEs where z1 fires and FLUSHes after its own boundary although z1 is 0 there.
    np.testing.assert_array_equal(done["layer2"], [COPY, UPDATE, COPY, UPDATE, FLUSH])
    # Layer 3 has no detector: it UPDATEs where z2 fires and never FLUSHes.
    np.testing.assert_array_equal(done["layer3"], [COPY, COPY, COPY, UPDATE, COPY])
    assert boundaries.update_counts([Z1, Z2]) == [5, 3, 1]
    assert boundaries.counts(done)["layer2"] == {"COPY": 2, "UPDATE": 2, "FLUSH": 1}
    assert boundaries.rates(done)["layer1"] == {"COPY": 0.0, "UPDATE": 0.6, "FLUSH": 0.4}
    # Without FLUSH layer 2 COPYs after its own boundary, as z1 is 0 there.
    assert boundaries.update_counts([Z1, Z2], flush=False) == [5, 2, 1]
    assert boundaries.text_view("abcde", [Z1, Z2], flush=False).endswith("5 / 2 / 1")
    # A boundary before the first step is flushed at it.
    assert boundaries.update_counts([Z1, Z2], z_initial=[0, 1]) == [5, 4, 1]


def test_flush_wins_over_update():
    done = boundaries.operations([np.array([1, 1]), np.array([1, 1])])
    np.testing.assert_array_equal(done["layer2"], [UPDATE, FLUSH])


def test_initial_boundaries_and_batch():
    z = [np.stack([Z1, Z1[::-1]], 1), np.stack([Z2, Z2[::-1]], 1)]
    done = boundaries.operations(z, z_initial=[np.array([1, 0]), 1])
    np.testing.assert_array_equal(done["layer1"][0], [FLUSH, UPDATE])
    np.testing.assert_array_equal(done["layer2"][0], [FLUSH, FLUSH])
    np.testing.assert_array_equal(done["layer3"][:, 0], [COPY, COPY, COPY, UPDATE, COPY])
    # Two windows, the second started with the last z of the first, equal one long window.
    halves = [
        boundaries.operations([a[:2] for a in z]),
        boundaries.operations([a[2:] for a in z], z_initial=[a[1] for a in z]),
    ]
    for layer, whole in boundaries.operations(z).items():
        np.testing.assert_array_equal(np.concatenate([h[layer] for h in halves]), whole)


@pytest.mark.parametrize(
    ("z", "kwargs"),
    [
        ([], {}),
        ([Z1, Z2[:-1]], {}),
        ([Z1 * 0.5], {}),
        ([Z1, Z2], {"layers": 2}),
        ([Z1, Z2], {"z_initial": [0]}),
    ],
)
def test_operations_refuses_bad_boundaries(z, kwargs):
    with pytest.raises(UserError):
        boundaries.operations(z, **kwargs)


def test_precision_recall_by_hand():
    pred, gold = [[0, 1, 1, 0], [1, 0, 0, 0]], [[0, 1, 0, 0], [0, 0, 0, 1]]
    assert scores.precision_recall_f1(pred, gold) == pytest.approx((1 / 3, 1 / 2, 0.4))
    # pred at t + 1 against gold at t: the first prediction and the last gold column drop out.
    assert scores.precision_recall_f1(pred, gold, 1) == pytest.approx((1 / 2, 1, 2 / 3))
    assert scores.precision_recall_f1(pred, gold, 9) == (0, 0, 0)
    assert scores.precision_recall_f1(pred, gold, -9) == (0, 0, 0)
    assert scores.precision_recall_f1([0, 0], [0, 0]) == (0, 0, 0)


@pytest.mark.parametrize("name", fixtures.names("misc"))
def test_precision_recall_equals_reference(name):
    misc, _ = fixtures.load(name)
    pred, gold = misc["boundary/pred"], misc["boundary/gold"]
    for shift, expected in zip(misc["boundary/shift"], misc["boundary/prf"], strict=True):
        ours = scores.precision_recall_f1(pred, gold, int(shift))
        np.testing.assert_array_equal(ours, expected)


def test_scores_against_spaces():
    text = "ab cd ef gh ij kl " * 40
    at_space = np.array([c == " " for c in text])
    after_space = np.roll(at_space, 1)
    after_space[0] = 0
    given = ([at_space, after_space], at_space, (0, 1))
    rows = scores.score_against(*given, every_step=False)
    assert [(row["layer"], row["shift"]) for row in rows] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert [row["f1"] for row in rows] == [1, 0, 0, 1]
    # A detector that reads nothing hits a space as often as spaces occur: one symbol in three.
    for row in rows:
        assert row["rate"] == pytest.approx(1 / 3, abs=0.01)
        assert row["random_precision"] == pytest.approx(1 / 3, abs=0.05)
    assert rows == scores.score_against(*given, every_step=False)
    # The regular detector of this rate fires at 0, 3, 6, ...: never at a space of this text.
    assert rows[0]["regular_recall"] == 0


def test_scores_of_a_batch():
    gold = np.array([[0, 0], [1, 0], [0, 1], [0, 0]])
    z = [np.array([[0, 0], [1, 0], [0, 1], [1, 0]])]
    row = scores.score_against(z, gold, shifts=[0])[0]
    assert (row["precision"], row["recall"]) == pytest.approx((2 / 3, 1))
    for wrong in (gold[:, :1], np.zeros(4)):
        with pytest.raises(UserError, match="one for each step"):
            scores.score_against(z, wrong)
    with pytest.raises(UserError):
        scores.score_against([np.zeros(0)], np.zeros(0))


def test_pairs_of_which_a_step_is_masked_do_not_count():
    pred, gold, mask = [1, 1, 0, 1, 1], [1, 0, 1, 1, 0], [1, 1, 1, 0, 1]
    # At 0, 1, 2 and 4: fired 3 times, 2 are true, 1 hit.
    assert scores.precision_recall_f1(pred, gold, 0, mask) == pytest.approx((1 / 3, 1 / 2, 0.4))
    # One later, the pairs (0, 1) and (1, 2): fired at 1 only, true at 0 only.
    assert scores.precision_recall_f1(pred, gold, 1, mask) == (1, 1, 1)
    with pytest.raises(UserError, match="mask"):
        scores.precision_recall_f1(pred, gold, 0, mask[1:])


def test_scores_against_any_boundaries_by_hand():
    gold = np.array([0, 1, 0, 0, 1, 1, 0, 1])
    z = [np.array([0, 1, 1, 0, 0, 1, 0, 0]), np.zeros(8)]
    rows = scores.score_against(z, gold, shifts=(0, 1), seeds=range(4))
    assert [(row["layer"], row["shift"]) for row in rows] == [
        (1, 0), (1, 1), (2, 0), (2, 1), ("every", 0), ("every", 1),
    ]  # fmt: skip
    assert (rows[0]["precision"], rows[0]["recall"]) == (2 / 3, 1 / 2)
    # One later: the boundaries at 2 and 5 follow those at 1 and 4; the true one at 7 has no later.
    assert (rows[1]["precision"], rows[1]["recall"]) == (2 / 3, 2 / 3)
    # Three firings in eight steps come evenly at 0, 2 and 5.
    assert (rows[0]["regular_precision"], rows[0]["regular_recall"]) == (1 / 3, 1 / 4)
    assert rows[2]["rate"] == rows[2]["f1"] == rows[2]["random_f1"] == 0
    for row, rate in zip(rows[4:], (4 / 8, 3 / 7), strict=True):
        assert row["rate"] == row["recall"] == row["random_recall"] == 1
        assert row["precision"] == row["random_precision"] == row["regular_precision"] == rate
    assert rows[:4] == scores.score_against(z, gold, seeds=range(4), every_step=False)


def test_random_boundaries_stay_on_the_steps_that_count():
    rng = np.random.default_rng(0)
    mask = rng.random((300, 2)) < 0.5
    gold = rng.random((300, 2)) < 0.4
    # Beside the mask the detector fires always, on it like the true boundaries.
    row = scores.score_against([gold | ~mask], gold, [0], range(20), mask)[0]
    assert row["f1"] == 1 and row["rate"] == gold[mask].mean()
    assert row["random_precision"] == pytest.approx(gold[mask].mean(), abs=0.03)
    assert row["random_recall"] == pytest.approx(gold[mask].mean(), abs=0.03)
    # Columns are sequences of their own: a pair never reaches from one into the next.
    last, first = np.zeros((5, 2)), np.zeros((5, 2))
    last[-1, 0] = first[0, 1] = 1
    assert scores.score_against([first], last, [1])[0]["f1"] == 0


def test_scores_refuse_what_does_not_fit():
    z = np.array([0, 1, 0])
    for gold, mask, words in (
        (z[1:], None, "true boundaries"),
        (z, z[1:], "mask"),
        (z, np.zeros(3), "no step"),
    ):
        with pytest.raises(UserError, match=words):
            scores.score_against([z], gold, mask=mask)
    with pytest.raises(UserError, match="0 and 1"):
        scores.score_against([z * 0.4], z)


def test_segments_cover_the_text():
    text = "to be\n東京"
    rows = list(boundaries.segments(text, [0, 0, 1, 0, 0, 1, 0, 0], layer=1))
    assert rows == [
        {"start": 0, "end": 3, "text": "to ", "layer": 1},
        {"start": 3, "end": 6, "text": "be\n", "layer": 1},
        {"start": 6, "end": 8, "text": "東京", "layer": 1},
    ]
    assert [r["text"] for r in boundaries.segments(["the", "end"], [1, 1], 2)] == ["the", "end"]
    assert list(boundaries.segments("", [], 1)) == []
    rng = np.random.default_rng(0)
    for _ in range(20):
        z = rng.integers(0, 2, 50)
        word = "".join(rng.choice(list("ab "), 50))
        rows = list(boundaries.segments(word, z, 2))
        assert "".join(row["text"] for row in rows) == word
        assert [row["start"] for row in rows] == [0, *(row["end"] for row in rows[:-1])]
        assert rows[-1]["end"] == 50 and all(row["end"] > row["start"] for row in rows)


def test_write_segments(tmp_path):
    path = tmp_path / "segments.jsonl"
    rows = list(boundaries.segments("京 \udc80", [0, 1, 0], 1))
    assert boundaries.write_segments(path, rows) == 2
    assert "京" in path.read_text("utf-8")
    assert [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]] == rows
    stream = io.StringIO()
    boundaries.write_segments(stream, rows[:1])
    assert json.loads(stream.getvalue()) == rows[0]

    def failing():
        yield rows[0]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        boundaries.write_segments(path, failing())
    # The old file is whole and nothing is left beside it.
    assert len(path.read_text("utf-8").splitlines()) == 2
    assert os.listdir(tmp_path) == ["segments.jsonl"]
    with pytest.raises(UserError):
        boundaries.write_segments(tmp_path / "missing" / "s.jsonl", rows)


def test_write_segments_leaves_a_device_in_place():
    boundaries.write_segments(os.devnull, [{"start": 0}])
    assert not os.path.isfile(os.devnull)


def test_text_view_by_hand():
    view = boundaries.text_view(
        "to be\nor", [[0, 0, 1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1, 0, 0]], 5
    )
    assert view.splitlines() == [
        "    to be",
        "z1  ··|··",
        "z2  ·····",
        "",
        "    ⏎or",
        "z1  |··",
        "z2  |··",
        "",
        "updates per layer over 8 symbols: 8 / 3 / 1",
    ]


def test_text_view_keeps_its_columns():
    text = "a東b\t京́c\x07é\u200bd" * 5
    z = np.arange(len(text)) % 2
    view = boundaries.text_view(text, [z], width=7).splitlines()[:-1]
    for shown, marks, blank in zip(view[::3], view[1::3], view[2::3], strict=True):
        assert columns(shown) == columns(marks) <= 4 + 7
        assert blank == ""
    assert "".join(view[1::3]).count("|") == z.sum()
    with pytest.raises(UserError):
        boundaries.text_view(text, [z[1:]])
    with pytest.raises(UserError):
        boundaries.text_view(b"bytes", [np.zeros(5)])


def test_the_first_segments_are_shown_with_a_bar_after_each():
    text, z = "two cats\nsat 猫猫猫", np.zeros((2, 16), int)
    z[0, [3, 8, 12]] = z[1, 8] = 1
    expected = "layer 1: two |cats⏎|sat |猫猫猫\nlayer 2: two cats⏎|sat 猫猫猫"
    assert boundaries.first_segments(text, z) == expected
    short = boundaries.first_segments(text, z, width=25).split("\n")
    assert short == ["layer 1: two |cats⏎|s ...", "layer 2: two cats⏎|sa ..."]
    assert (
        boundaries.first_segments([text[:8], text[8:]], z[:1, [3, 4]])
        == "layer 1: two cats|⏎sat 猫猫猫"
    )
