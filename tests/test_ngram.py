"""The n-gram baseline against hand counts and a slow implementation with dicts."""

import collections
import time

import numpy as np
import pytest

from hmrnn_jax.analysis.ngram import InterpolatedNgram, interpolated_ngram_bpc
from hmrnn_jax.errors import UserError


def slow_probability(train, context, symbol, vocabulary_size, order):
    """Witten-Bell read off the formula, one symbol at a time."""
    p = 1 / vocabulary_size
    for length in range(min(order, len(context)) + 1):
        u = tuple(context[len(context) - length :])
        followers = collections.Counter(
            train[i + length]
            for i in range(len(train) - length)
            if tuple(train[i : i + length]) == u
        )
        if followers:
            distinct, total = len(followers), sum(followers.values())
            p = (followers[symbol] + distinct * p) / (total + distinct)
    return p


def test_tiny_case_by_hand():
    # "abab" over {a, b, c}: c(a) = c(b) = 2, T() = 2, so p(a) = (2 + 2/3) / 6 = 4/9, p(c) = 1/9.
    # After a: c(ab) = 2, T(a) = 1, so p(b|a) = (2 + 4/9) / 3 = 22/27. After b: c(ba) = 1, T(b) = 1,
    # so p(a|b) = (1 + 4/9) / 2 = 13/18.
    model = InterpolatedNgram(3, order=1).fit([0, 1, 0, 1])
    np.testing.assert_allclose(model.probabilities([]), [4 / 9, 4 / 9, 1 / 9])
    np.testing.assert_allclose(model.probabilities([0]), [4 / 27, 22 / 27, 1 / 27])
    np.testing.assert_allclose(model.bits([0, 1, 0]), -np.log2([22 / 27, 13 / 18]))
    # c was never seen: the context says nothing and the unigrams decide.
    np.testing.assert_allclose(model.probabilities([2]), model.probabilities([]))


@pytest.mark.parametrize("order", [0, 1, 3, 4])
def test_equals_slow_implementation(order):
    rng = np.random.default_rng(order)
    train, test = rng.integers(0, 4, 120), rng.integers(0, 5, 40)
    model = InterpolatedNgram(5, order).fit(train)
    expected = [
        -np.log2(slow_probability(train.tolist(), test[:t].tolist(), test[t], 5, order))
        for t in range(1, test.size)
    ]
    np.testing.assert_allclose(model.bits(test), expected, rtol=1e-12)
    assert interpolated_ngram_bpc(train, test, 5, order) == pytest.approx(np.mean(expected))


def test_probabilities_sum_to_one_and_agree_with_bits():
    rng = np.random.default_rng(0)
    train, test = rng.integers(0, 6, 500) ** 2 % 7, rng.integers(0, 7, 60)
    model = InterpolatedNgram(7, order=3).fit(train)
    bits = model.bits(test)
    for t in range(1, test.size):
        p = model.probabilities(test[:t])
        assert p.sum() == pytest.approx(1, abs=1e-12)
        assert np.all(p > 0)
        assert -np.log2(p[test[t]]) == pytest.approx(bits[t - 1])
    expected = [model.probabilities(test[: t + 1]) for t in range(test.size)]
    np.testing.assert_allclose(np.concatenate([*model.predictions(test, rows=7)]), expected)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_training_text_shorter_than_the_order(length):
    train = [0, 1, 1][:length]
    model = InterpolatedNgram(2, order=6).fit(train)
    expected = [-np.log2(slow_probability(train, [0, 1][:t], 1, 2, 6)) for t in (1, 2)]
    np.testing.assert_allclose(model.bits([0, 1, 1]), expected)
    expected = [model.probabilities([0, 1, 1, 0][:t]) for t in (1, 2, 3, 4)]
    np.testing.assert_allclose(next(model.predictions([0, 1, 1, 0])), expected)
    assert model.probabilities([0, 1, 1, 0]).sum() == pytest.approx(1)


def test_large_vocabulary_and_order_do_not_overflow():
    train = np.tile(np.arange(100_000, 100_010), 20)
    model = InterpolatedNgram(1_000_000, order=12).fit(train)
    assert model.bits(train).mean() < 1.5
    assert model.probabilities(train).sum() == pytest.approx(1)


def test_learns_a_deterministic_text():
    text = np.tile([0, 1, 2, 0, 2, 1], 500)
    assert interpolated_ngram_bpc(text, text, 3, order=4) < 0.05
    assert interpolated_ngram_bpc(text, text, 3, order=0) == pytest.approx(np.log2(3), abs=1e-3)


def test_speed_on_400k_symbols():
    ids = (np.random.default_rng(0).zipf(1.5, 400_000) % 50).astype(np.int32)
    start = time.process_time()
    interpolated_ngram_bpc(ids, ids[:40_000], 50)
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("train", "test"),
    [([], [0, 1]), ([0, 1], [0]), ([0, 5], [0, 1]), ([0, 1], [-1, 0]), ([0.5, 1], [0, 1])],
)
def test_bad_input_is_told_in_a_sentence(train, test):
    with pytest.raises(UserError):
        interpolated_ngram_bpc(train, test, 3)
