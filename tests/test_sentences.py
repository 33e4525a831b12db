"""Many sentences at once against one at a time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmrnn_jax.cells import hm_lstm, lstm
from hmrnn_jax.errors import UserError
from hmrnn_jax.inference import sentences
from hmrnn_jax.models.language import LanguageModel

VOCABULARY, BEFORE, AFTER = 11, 4, 7

CELLS = {
    "lstm": (lstm.Config(6, 8), lstm.Config(8, 5)),
    "hm_lstm": (hm_lstm.Config(6, (8, 7, 5), layer_norm="none"),),
    "soft": (hm_lstm.Config(6, (8, 7, 5), layer_norm="none", boundary="soft"),),
    "sample": (hm_lstm.Config(6, (8, 7, 5), layer_norm="none", boundary="sample"),),
}


@functools.cache
def make(name):
    model = LanguageModel(VOCABULARY, 6, CELLS[name], 9)
    noise = jnp.zeros((1, 1, model.noise_width))
    ids, carry = jnp.zeros((1, 1), jnp.int32), model.initial_carry(1)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), ids, carry, noise=noise))
    rng = np.random.default_rng(5)  # both detectors fire at some steps and not at others
    return model, jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.6, leaf.shape), jnp.float32), shapes["params"]
    )


@pytest.fixture(scope="module", params=["lstm", "hm_lstm"])
def setup(request):
    return make(request.param)


@pytest.fixture(scope="module")
def texts():
    """Forty sentences of 1 to 7 symbols; 28 to 38 end otherwise than 0 to 10, 39 equals 5."""
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, VOCABULARY, n) for n in rng.choice([2, 3, 7], 27)]
    drawn += [rng.integers(0, VOCABULARY, 1)]
    drawn += [np.append(drawn[i][:-1], (drawn[i][-1] + 1 + i % 3) % VOCABULARY) for i in range(11)]
    return [*drawn, drawn[5]]


def alone(model, params, sentence, after=None):
    """The definition: one sentence, one row, from the initial state. Log probabilities `[n]`."""
    out = apply(model, params, np.append(BEFORE, sentence).astype(np.int32)[:, None])
    following = np.append(sentence, [] if after is None else after).astype(int)
    logits = np.asarray(out.logits[: len(following), 0], np.float64)
    return logits[np.arange(len(following)), following] - np.log(np.exp(logits).sum(1))


@functools.partial(jax.jit, static_argnums=0)
def apply(model, params, ids):
    return model.apply({"params": params}, ids, model.initial_carry(ids.shape[1]))


def hidden(out):
    """h of the topmost layer, `[T, B, H]`."""
    h = out.states[-1].h
    return h[-1] if isinstance(h, tuple) else h


@pytest.mark.parametrize("after", [None, AFTER])
def test_probabilities_are_those_of_each_sentence_alone(setup, texts, after, monkeypatch):
    model, params = setup
    expected = [alone(model, params, text, after) for text in texts]
    options = {"before": BEFORE, "after": after}
    parts = sentences.per_symbol(model, params, texts, batch=8, **options)
    for part, own in zip(parts, expected, strict=True):
        assert part.shape == own.shape
        np.testing.assert_allclose(part, own, atol=2e-5)
    totals = sentences.log_probabilities(model, params, texts, batch=8, **options)
    np.testing.assert_allclose(totals, [own.sum() for own in expected], atol=5e-5)
    # A forest of smaller trees.
    monkeypatch.setattr(sentences, "_BATCHES_HELD", 2)
    again = sentences.log_probabilities(model, params, texts, batch=8, **options)
    np.testing.assert_allclose(again, totals, atol=5e-5)


def test_sentences_neither_disturb_nor_displace_each_other(setup, texts):
    model, params = setup
    totals = sentences.log_probabilities(model, params, texts, before=BEFORE, batch=8)
    order = np.random.default_rng(1).permutation(len(texts))
    shuffled = [texts[i] for i in order]
    again = sentences.log_probabilities(model, params, shuffled, before=BEFORE, batch=8)
    np.testing.assert_allclose(again, totals[order], atol=1e-5)
    assert totals[5] == totals[-1], "the same sentence twice is a tie to the last bit"
    one = sentences.log_probabilities(model, params, texts[3:4], before=BEFORE, batch=8)
    np.testing.assert_allclose(one, totals[3:4], atol=1e-5)


def test_probabilities_of_all_sentences_of_two_symbols_sum_to_one(setup):
    model, params = setup
    every = [np.array([a, b]) for a in range(VOCABULARY) for b in range(VOCABULARY)]
    totals = sentences.log_probabilities(model, params, every, before=BEFORE, batch=8)
    assert np.exp(totals).sum() == pytest.approx(1, abs=1e-5)
    # What was read before matters.
    other = sentences.log_probabilities(model, params, every, before=BEFORE + 1, batch=8)
    assert np.abs(totals - other).max() > 1e-3


def test_outputs_belong_to_the_step_that_reads_the_word(setup, texts):
    model, params = setup
    found = sentences.outputs(
        model, params, texts, before=BEFORE, extract=hidden, batch=8, quantum=8
    )
    for values, text in zip(found, texts, strict=True):
        whole = np.append(BEFORE, text).astype(np.int32)[:, None]
        expected = hidden(apply(model, params, whole))[1:, 0]
        assert values.shape == expected.shape
        np.testing.assert_allclose(values, expected, atol=1e-5)


def test_few_compilations(texts):
    model, params = make("lstm")
    known = sentences._step._cache_size()
    sentences.log_probabilities(model, params, texts, before=BEFORE, batch=9)
    sentences.log_probabilities(model, params, texts[:3], before=BEFORE, after=AFTER, batch=9)
    assert sentences._step._cache_size() == known + 1

    traced = []

    def extract(out):
        traced.append(out.logits.shape)
        return out.logits[..., 0]

    for part in (texts, texts[:20], texts[:1]):
        found = sentences.outputs(
            model, params, part, before=BEFORE, extract=extract, batch=8, quantum=5
        )
        assert [values.shape for values in found] == [text.shape for text in part]
    assert sorted(traced) == [(5, 8, VOCABULARY), (10, 8, VOCABULARY)]


def test_batches_lose_nothing_and_have_few_shapes():
    rng = np.random.default_rng(2)
    texts = [rng.integers(1, 9, n) for n in rng.integers(0, 14, 50)]
    found = list(sentences.batches(texts, 8, 4))
    assert sorted(np.concatenate([part.places for part in found])) == list(range(50))
    assert {part.symbols.shape for part in found} <= {(4, 8), (8, 8), (12, 8), (16, 8)}
    assert [len(part.places) for part in found] == [8] * 6 + [2]
    for part in found:
        assert part.symbols.shape[0] - part.lengths.max() < 4
        for row, place in enumerate(part.places):
            np.testing.assert_array_equal(part.symbols[: part.lengths[row], row], texts[place])
            assert part.lengths[row] == len(texts[place])
            assert not part.symbols[part.lengths[row] :, row].any()
        assert not part.symbols[:, len(part.places) :].any()
        assert not part.lengths[len(part.places) :].any()
    order = np.concatenate([part.places for part in found])
    assert (np.diff([len(texts[place]) for place in order]) >= 0).all()
    assert list(sentences.batches([], 8, 4)) == []


def test_one_long_sentence_is_read_in_few_rows(monkeypatch):
    monkeypatch.setattr(sentences, "_MOST_SYMBOLS", 1000)
    texts = [np.full(n, n % 7, np.int32) for n in (3, 900, 5, 260, 4, 2000, 250, 240)]
    found = list(sentences.batches(texts, 16, 8))
    read = sorted(int(place) for part in found for place in part.places)
    assert read == list(range(8))
    assert all(b.symbols.size <= 1100 or b.symbols.shape[1] == 1 for b in found)
    for part in found:
        for row, place in enumerate(part.places):
            np.testing.assert_array_equal(part.symbols[: part.lengths[row], row], texts[place])


def test_sampling_draws_from_the_seed_and_once_for_each_prefix(texts):
    model, params = make("sample")

    def score(seed, slope=1.0):
        return sentences.per_symbol(
            model, params, texts, before=BEFORE, batch=8, seed=seed, slope=slope
        )

    first, again, other = map(np.concatenate, (score(0), score(0), score(1)))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4
    parts = score(0)
    for i in range(11):
        # Sentence 28 + i is sentence i but for its end: what they share was read once.
        np.testing.assert_array_equal(parts[28 + i][:-1], parts[i][:-1])
    one, two = (
        sentences.outputs(model, params, texts, before=BEFORE, extract=hidden, seed=seed)
        for seed in (0, 1)
    )
    assert np.abs(np.concatenate(one) - np.concatenate(two)).max() > 1e-4


def test_the_slope_reaches_soft_detectors(texts):
    model, params = make("soft")
    low, high = (
        sentences.log_probabilities(model, params, texts, before=BEFORE, batch=8, slope=slope)
        for slope in (1.0, 5.0)
    )
    assert np.abs(low - high).max() > 1e-4
    low, high = (
        sentences.outputs(model, params, texts, before=BEFORE, extract=hidden, slope=slope)
        for slope in (1.0, 5.0)
    )
    assert np.abs(np.concatenate(low) - np.concatenate(high)).max() > 1e-4


def test_nothing_in_nothing_out(setup):
    model, params = setup
    assert sentences.log_probabilities(model, params, [], before=BEFORE).shape == (0,)
    assert sentences.outputs(model, params, [], before=BEFORE, extract=hidden) == []


def test_bad_input(setup, texts):
    model, params = setup

    def score(texts, batch=4, **symbols):
        symbols = {"before": BEFORE, **symbols}
        return sentences.log_probabilities(model, params, texts, batch=batch, **symbols)

    with pytest.raises(UserError, match="sentence 2"):
        score([texts[0], np.array([], np.int32)])
    with pytest.raises(UserError, match="sentence 1"):
        sentences.outputs(model, params, [[]], before=BEFORE, extract=hidden)
    with pytest.raises(UserError, match="sentence 1"):
        score([np.zeros((2, 2), np.int32)])
    with pytest.raises(UserError, match="symbol 11"):
        score([np.array([3, 11])])
    with pytest.raises(UserError, match="symbol -1"):
        score([np.array([3, -1])])
    with pytest.raises(UserError, match="symbol 12"):
        score(texts, before=12)
    with pytest.raises(UserError, match="symbol 13"):
        score(texts, after=13)
    with pytest.raises(UserError, match="batch"):
        score(texts, batch=0)
    with pytest.raises(UserError, match="batch"):
        list(sentences.batches(texts, 0, 4))
    with pytest.raises(UserError, match="quantum"):
        list(sentences.batches(texts, 4, 0))
