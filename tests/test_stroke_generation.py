"""New sequences: drawn from the mixture after their own past, by seed, temperature and bias."""

import functools

import jax
import numpy as np
import scipy.special
from oracles import sigmoid
from stroke_models import CELLS, apply, draw, make

from hmrnn_jax.inference import generate_sequences
from hmrnn_jax.models.density import StrokeModel

ROWS = 1000  # that continue each of three prompts


@functools.cache
def prompt():
    """Four steps of three sequences, `[4, 3 ROWS, C]`."""
    steps = np.random.default_rng(5).normal(size=(4, 3, 3)).astype(np.float32)
    return np.repeat(steps, ROWS, axis=1)


def generate(cell="hm_lstm", **scalars):
    """Nine drawn steps, and the mixtures of a model that is given these from outside."""
    model, params = make(cell)
    drawn = generate_sequences.generate(model, params, prompt(), 9, **scalars)
    density = apply(model, params, np.concatenate([prompt(), drawn[:-1]])).mixture
    return drawn, jax.tree.map(lambda leaf: np.asarray(leaf)[3:], density)


def likeliest_means(density):
    """The mean of the component with the largest weight, `[T, B, D]`."""
    likeliest = np.argmax(density.pi_logits, axis=-1)[..., None, None]
    return np.take_along_axis(density.mu, likeliest, axis=2)[:, :, 0]


def test_at_temperature_0_each_step_is_the_likeliest_mean_after_its_past():
    """The first follows the prompt; the others are fed back, here all given at once."""
    drawn, density = generate(temperature=0.0)
    assert drawn.shape == (9, 3 * ROWS, 3) and drawn.dtype == np.float32
    np.testing.assert_allclose(drawn[..., :2], likeliest_means(density), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(drawn[..., 2], density.event_logit > 0)
    assert np.abs(np.diff(drawn, axis=0)).max() > 0.1  # it does not stand still


def test_steps_are_drawn_from_the_mixture_after_the_rows_own_past():
    """Moments of the first step over rows of one prompt; the second against its own mixtures."""
    drawn, density = generate(seed=3)
    pi = scipy.special.softmax(density.pi_logits, axis=-1)[..., None]
    mean = np.sum(pi * density.mu, axis=2)
    square = np.sum(pi * (density.mu**2 + np.exp(2 * density.log_sigma)), axis=2)
    values, bound = drawn[..., :2], 5 / ROWS**0.5
    for rows in np.split(np.arange(3 * ROWS), 3):
        assert (density.mu[0, rows] == density.mu[0, rows[0]]).all()
        # Of mean 0 and deviation 1, if each value is of its own row's mixture.
        scores = ((values - mean) / np.sqrt(square - mean**2))[:2, rows]
        assert np.abs(scores.mean(axis=1)).max() < bound
        np.testing.assert_allclose(scores.std(axis=1), 1, atol=0.15)
        # Every step has noise of its own.
        assert np.abs(np.mean(scores[0] * scores[1], axis=0)).max() < bound
        surprise = drawn[:2, rows, 2] - sigmoid(density.event_logit[:2, rows])
        assert np.abs(surprise.mean(axis=1)).max() < bound / 2
    assert set(drawn[..., 2].flat) == {0, 1} and len(np.unique(values[0])) > 5 * ROWS


def test_the_seed_decides_and_the_bias_keeps_to_the_means():
    near, density = generate(seed=1, bias=15.0)
    again, other = generate(seed=1, bias=15.0)[0], generate(seed=2, bias=15.0)[0]
    np.testing.assert_array_equal(near, again)
    assert (near != other).any()
    distance = np.abs(near[:, :, None, :2] - density.mu).max(axis=-1).min(axis=-1)
    assert distance.max() < 1e-4 < np.abs(near[..., :2]).max()


def test_sequences_without_events_and_of_any_width():
    model = StrokeModel(3, False, CELLS["lstm"][:1], head="plain", components=2)
    params, first = draw(model), prompt()[:, ::ROWS]
    drawn = generate_sequences.generate(model, params, first, 5, temperature=0.0)
    density = apply(model, params, np.concatenate([first, drawn[:-1]])).mixture
    assert model.columns == 3 and density.event_logit is None and density.rho_hat is None
    means = likeliest_means(jax.tree.map(np.asarray, density))
    np.testing.assert_allclose(drawn, means[3:], rtol=1e-4, atol=1e-5)
