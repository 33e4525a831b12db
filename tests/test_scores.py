"""Boundaries scored within a tolerance: hits against all pairings, beside blind detectors."""

import itertools

import numpy as np
import pytest

from hmrnn_jax.analysis import scores
from hmrnn_jax.datasets import synthetic
from hmrnn_jax.errors import UserError


def most_pairs(fired, true, tolerance):
    """Hits of the best one-to-one pairing of a sequence, by trying all of them."""
    small, large = sorted((fired, true), key=len)
    return max(
        sum(abs(a - b) <= tolerance for a, b in zip(small, chosen, strict=True))
        for chosen in itertools.permutations(large, len(small))
    )


@pytest.mark.parametrize("tolerance", [0, 1, 2, 4, 20])
def test_hits_are_those_of_the_best_pairing(tolerance):
    rng = np.random.default_rng(tolerance)
    for _ in range(60):
        pred, gold = rng.random((2, 3, 14)) < rng.uniform(0, 0.35, (2, 3, 1))
        mask = rng.random((3, 14)) < 0.8
        places = [
            [np.flatnonzero(row).tolist()[:5] for row in array & mask] for array in (pred, gold)
        ]
        pred, gold = np.zeros((2, 3, 14), bool)
        for array, rows in zip((pred, gold), places, strict=True):
            for row, steps in zip(array, rows, strict=True):
                row[steps] = True
        hits = sum(most_pairs(*pair, tolerance) for pair in zip(*places, strict=True))
        fired, true = pred.sum(), gold.sum()
        # Where there are none, nor are there hits.
        expected = [n * hits / max(m, 1) for n, m in ((1, fired), (1, true), (2, fired + true))]
        # What lies beside the mask is not there.
        ours = scores.precision_recall_f1(pred | ~mask, gold | ~mask, 0, mask, tolerance)
        assert ours == pytest.approx(expected)
        if not tolerance:
            assert ours == scores.precision_recall_f1(pred, gold, mask=mask)


def test_a_boundary_hits_once_and_is_hit_once_on_either_side():
    def score(fired, true, tolerance):
        pred, gold = np.zeros((2, 40), bool)
        pred[fired], gold[true] = True, True
        return scores.precision_recall_f1(pred, gold, tolerance=tolerance)

    assert score([13, 27], [10, 30], 3) == (1, 1, 1)  # after the one, before the other
    assert score([13, 27], [10, 30], 2) == (0, 0, 0)
    assert score([9, 10, 11], [10], 3) == (1 / 3, 1, 1 / 2)  # a burst is one hit
    assert score([10], [8, 9, 11], 3) == (1, 1 / 3, 1 / 2)
    # To the nearest each would go 11 -> 10 and 12 is left with none; or 13 -> 12 twice.
    assert score([11, 13], [8, 12], 3) == (1, 1, 1)
    assert score([11, 16], [12, 14], 2) == (1, 1, 1)


def test_sequences_do_not_reach_into_each_other():
    last, first = np.zeros((2, 6)), np.zeros((2, 6))
    last[0, -1] = first[1, 0] = 1
    for pred, gold in ((last, first), (first, last)):
        assert scores.precision_recall_f1(pred, gold, tolerance=5) == (0, 0, 0)


def test_a_tolerance_adds_a_row_for_each_layer_beside_equally_kind_blind_detectors():
    """A detector 3 steps late is perfect within 3; one that reads nothing gains much as well."""
    corpus = synthetic.oscillators(sequences=(1, 1, 20))
    gold = corpus.splits["test"].changes.reshape(20, -1).T
    late = np.roll(gold, 3, axis=0)
    late[:3] = 0
    rng = np.random.default_rng(0)
    blind = rng.permuted(late, axis=0)
    exact = scores.score_against([late, blind], gold)
    rows = scores.score_against([late, blind], gold, tolerance=3)
    assert [(r["layer"], r["shift"], r["tolerance"]) for r in rows] == [
        (layer, *kind) for layer in (1, 2, "every") for kind in ((0, 0), (1, 0), (0, 3))
    ]
    assert [row for row in rows if not row["tolerance"]] == exact
    mine, other, every = (row for row in rows if row["tolerance"])
    assert exact[0]["f1"] == 0 and mine["precision"] == 1 and mine["recall"] > 0.98
    # About one change in 40 steps: a window of 7 catches a random firing about as often as 7/40.
    assert exact[0]["random_f1"] < 0.06 < 0.12 < mine["random_f1"] < 0.25
    assert other["f1"] == pytest.approx(other["random_f1"], abs=0.05)
    assert every["recall"] == 1 and every["precision"] == pytest.approx(gold.mean())
    seeded = scores.score_against([late, blind], gold, seeds=range(10), tolerance=3)
    assert seeded == rows
    few = scores.score_against([late], gold, [0], range(3), tolerance=3, every_step=False)
    assert few[1]["random_f1"] != mine["random_f1"] and few[1]["f1"] == mine["f1"]


def test_the_random_detectors_are_scored_by_the_same_rule():
    """Their mean, from the seeds alone."""
    rng = np.random.default_rng(1)
    z, gold = rng.random((2, 50)) < 0.15
    row = scores.score_against([z], gold, (), [4, 9], every_step=False, tolerance=2)[0]
    random = [np.random.default_rng(seed).permutation(z) for seed in (4, 9)]
    hits = [most_pairs(np.flatnonzero(r), np.flatnonzero(gold), 2) for r in random]
    assert row["random_precision"] == pytest.approx(np.mean(hits) / z.sum())
    assert row["random_recall"] == pytest.approx(np.mean(hits) / gold.sum())


def test_untrained_models_stand_beside_the_trained_one_at_the_same_place():
    """Mean and deviation of F1, by the same function, for each layer, shift and tolerance."""
    rng = np.random.default_rng(3)
    gold, mask = rng.random((60, 2)) < 0.2, rng.random((60, 2)) < 0.8
    z = [rng.random((60, 2)) < rate for rate in (0.3, 0.1)]
    fresh = [[rng.random((60, 2)) < rate for rate in (0.5, 0.2)] for _ in range(3)]
    rows = scores.score_against(z, gold, mask=mask, tolerance=2, untrained=fresh)
    plain = scores.score_against(z, gold, mask=mask, tolerance=2)
    for row, without in zip(rows, plain, strict=True):
        assert without.items() <= row.items()
        if row["layer"] == scores.EVERY:
            assert row == without
            continue
        alone = [
            scores.precision_recall_f1(
                one[row["layer"] - 1].T, gold.T, row["shift"], mask.T, row["tolerance"]
            )[2]
            for one in fresh
        ]
        assert row["untrained"] == 3
        assert row["untrained_f1"] == pytest.approx(np.mean(alone))
        assert row["untrained_f1_std"] == pytest.approx(np.std(alone, ddof=1)) and np.std(alone)
        rates = [one[row["layer"] - 1][mask].mean() for one in fresh]
        assert row["untrained_rate"] == pytest.approx(np.mean(rates))
    for wrong in ([fresh[0][:1]], [[layer[1:] for layer in fresh[0]]]):
        with pytest.raises(UserError, match="layer by layer"):
            scores.score_against(z, gold, untrained=wrong)


def test_a_negative_tolerance_is_refused():
    z = np.array([0, 1, 0])
    with pytest.raises(UserError, match="tolerance is -1 steps: give 0"):
        scores.score_against([z], z, tolerance=-1)
