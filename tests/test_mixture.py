"""Mixture densities against integrals, scipy and moments; their safety in float32."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from hmrnn_jax.models import mixture
from hmrnn_jax.models.mixture import Mixture

nll = jax.jit(mixture.negative_log_likelihood)
sample = jax.jit(mixture.sample)


def make(dimensions, components=3, event=True, leading=(), seed=0, spread=1.0):
    """A random mixture of numpy float64 arrays."""
    rng = np.random.default_rng(seed)
    grid = (*leading, components, dimensions)
    return Mixture(
        rng.normal(size=grid[:-1]),
        spread * rng.normal(size=grid),
        rng.uniform(-0.8, 0.3, grid),
        rng.uniform(-1.5, 1.5, grid[:-1]) if dimensions == 2 else None,
        rng.normal(size=leading) if event else None,
    )


def covariances(density):
    """[K, D, D], from the definition."""
    sigma = np.exp(density.log_sigma)
    result = sigma[:, :, None] * sigma[:, None, :]
    if density.rho_hat is None:
        return result * np.eye(sigma.shape[1])
    off = 1 - np.eye(2)
    return result * (np.eye(2) + np.tanh(density.rho_hat)[:, None, None] * off)


def cast(density, dtype=jnp.float32):
    return jax.tree.map(lambda v: jnp.asarray(v, dtype), density)


# The density


@pytest.mark.parametrize(
    ("dimensions", "points", "event"),
    [(1, 2001, True), (2, 401, True), (2, 401, False), (3, 81, True)],
)
def test_density_integrates_to_one(dimensions, points, event):
    """Over a grid of values, and over both events."""
    density = make(dimensions, event=event)
    if dimensions == 2:
        density.rho_hat[:] = [1.8, -1.2, 0.3]
    axis, step = np.linspace(-10, 10, points, retstep=True)
    values = np.stack(np.meshgrid(*[axis] * dimensions, indexing="ij"), axis=-1)
    total = 0
    with jax.enable_x64(True):
        for e in (0, 1) if event else (None,):
            events = None if e is None else np.full(values.shape[:-1], e)
            total += np.exp(-nll(density, values, events)).sum() * step**dimensions
    assert total == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("dimensions", [1, 2, 3, 5])
def test_density_equals_scipy(dimensions):
    rng = np.random.default_rng(1)
    density = make(dimensions, seed=2)
    values, events = 2 * rng.normal(size=(50, dimensions)), rng.integers(0, 2, 50)
    gaussians = [
        scipy.stats.multivariate_normal(m, c)
        for m, c in zip(density.mu, covariances(density), strict=True)
    ]
    pi = scipy.special.softmax(density.pi_logits)
    p = sum(w * g.pdf(values) for w, g in zip(pi, gaussians, strict=True))
    p_event = scipy.stats.bernoulli(scipy.special.expit(density.event_logit)).pmf(events)
    with jax.enable_x64(True):
        ours = nll(density, values, events)
        without = nll(density._replace(event_logit=None), values)
    np.testing.assert_allclose(ours, -np.log(p * p_event), rtol=1e-11)
    np.testing.assert_allclose(without, -np.log(p), rtol=1e-11)
    # float32 from the same inputs.
    np.testing.assert_allclose(nll(cast(density), cast(values), events), ours, 2e-5, 2e-5)


def test_events_of_any_dtype():
    """The event is 0 or 1 as uint8 (where 1 - 2 is 255), bool or float; 1 has the sigmoid."""
    density = make(2, leading=(4,))
    values, events = np.zeros((4, 2)), np.array([0, 1, 1, 0])
    results = [nll(density, values, events.astype(d)) for d in (np.uint8, bool, np.float32)]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    sure = density._replace(event_logit=np.full(4, 20.0))
    alone = nll(density._replace(event_logit=None), values)
    np.testing.assert_allclose(nll(sure, values, events) - alone, [20, 0, 0, 20], atol=1e-5)


def test_events_are_not_left_out_in_silence():
    density = make(2)
    with pytest.raises(ValueError, match="both"):
        mixture.negative_log_likelihood(density, np.zeros(2))
    with pytest.raises(ValueError, match="both"):
        mixture.negative_log_likelihood(density._replace(event_logit=None), np.zeros(2), 1)


# Numbers in float32


@pytest.mark.parametrize(("dimensions", "components"), [(1, 1), (2, 1), (3, 1), (2, 20)])
def test_finite_at_the_extremes(dimensions, components):
    """No NaN or infinity in values and gradients, for wild outputs and far targets."""
    size = mixture.width(components, dimensions, True)
    if components == 1:
        extremes = (-1e3, 0, 1e3) if size <= 7 else (-1e3, 1e3)
        rows = np.array(list(itertools.product(extremes, repeat=size)))
    else:
        rng = np.random.default_rng(0)
        rows = rng.choice([-1e3, -60, -7, 0, 5, 60, 1e3], (2000, size))
    rows = jnp.asarray(rows, jnp.float32)

    def total(outputs, values, events):
        density = mixture.split(outputs, components, dimensions, True)
        return mixture.negative_log_likelihood(density, values, events)

    both = jax.jit(jax.vmap(jax.value_and_grad(total, (0, 1)), in_axes=(0, None, None)))
    for value, event in itertools.product((-1e3, -60.0, 0.0, 60.0), (0, 1)):
        values = jnp.full(dimensions, value).at[-1].set(abs(value))
        for result in jax.tree.leaves(both(rows, values, event)):
            assert np.all(np.isfinite(result))
    density = mixture.split(rows, components, dimensions, True)
    assert np.all(np.isfinite(sample(jax.random.key(0), density, 1.0, 0.0)[0]))


@pytest.mark.parametrize("sign", [1, -1])
def test_nothing_cancels_as_rho_nears_one(sign):
    """Narrow ellipses: float32 is as good as float64, on the long axis and beside it."""
    rho_hat = sign * np.array([2.0, 3.0, 4.0, 5.0])[:, None]
    shape = (4, 7, 1)
    density = Mixture(
        np.zeros(shape),
        np.zeros((*shape, 2)),
        np.full((*shape, 2), -1.0),
        np.broadcast_to(rho_hat, (4, 7))[..., None],
        None,
    )
    along = np.float32(np.linspace(-3, 3, 7))
    values = np.stack([along, sign * along + np.float32(0.01)], axis=-1)
    values = np.broadcast_to(values, (4, 7, 2)).astype(np.float32)
    sigma, rho = np.exp(-1), np.tanh(rho_hat)
    zx, zy = (values.astype(np.float64) / sigma).transpose(2, 0, 1)
    square = (zx**2 - 2 * rho * zx * zy + zy**2) / (1 - rho**2)
    expected = square / 2 + np.log(2 * np.pi * sigma**2) + 0.5 * np.log(1 - rho**2)
    np.testing.assert_allclose(nll(cast(density), values), expected, rtol=1e-5, atol=1e-4)


def test_bounds_leave_sane_outputs_alone_and_limit_the_rest():
    one = Mixture(np.zeros(1), np.zeros((1, 2)), np.zeros((1, 2)), np.zeros(1), None)

    def at_mean(log_sigma, rho_hat):
        density = one._replace(log_sigma=np.full((1, 2), log_sigma), rho_hat=np.full(1, rho_hat))
        return -nll(density, np.zeros(2))

    with jax.enable_x64(True):
        for s, r in itertools.product([-7.0, -3.0, 7.0], [-5.0, 0.0, 5.0]):
            exact = -np.log(2 * np.pi) - 2 * s + np.log(np.cosh(r))
            assert at_mean(s, r) == pytest.approx(exact, rel=1e-9)
        # Values that repeat exactly cannot be had for more than e^8 / sqrt(2 pi) a dimension.
        highest = -np.log(2 * np.pi) + 2 * 8 + np.log(np.cosh(6))
        previous = at_mean(-7.0, 5.0)
        for far in (7.5, 9.0, 20.0, 1e3, 1e6):
            now = at_mean(-far, far)
            assert previous < now < highest
            previous = now


@pytest.mark.parametrize("field", ["log_sigma", "rho_hat"])
@pytest.mark.parametrize("start", [-14.0, 14.0])
def test_outputs_beyond_a_bound_find_back(field, start):
    """The likelihood draws an output that strayed back; behind a clip it would rest for ever."""
    rng = np.random.default_rng(0)
    values = rng.multivariate_normal([0, 0], [[1, -0.6], [-0.6, 1]], 400).astype(np.float32)
    one = Mixture(jnp.zeros(1), jnp.zeros((1, 2)), jnp.zeros((1, 2)), jnp.zeros(1), None)

    def loss(outputs):
        return jnp.mean(mixture.negative_log_likelihood(one._replace(**{field: outputs}), values))

    def step(outputs, _):
        # Steps of one size, whatever the gradient's: only where it is 0 nothing moves.
        return outputs - 0.02 * jnp.sign(jax.grad(loss)(outputs)), None

    outputs = jnp.full_like(getattr(one, field), start)
    found, _ = jax.lax.scan(step, outputs, length=900)
    expected = {"log_sigma": [[0, 0]], "rho_hat": [np.arctanh(-0.6)]}
    np.testing.assert_allclose(found, expected[field], atol=0.1)


# Samples


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize(("temperature", "bias"), [(1.0, 0.0), (0.5, 0.0), (1.0, 1.0), (1.5, 0.5)])
def test_samples_have_the_moments_of_the_mixture(dimensions, temperature, bias):
    draws, density = 50_000, make(dimensions, seed=3, spread=2.0)
    if dimensions == 2:
        density.rho_hat[:] = [1.5, -1.0, 0.2]
    many = jax.tree.map(lambda v: jnp.broadcast_to(v, (draws, *v.shape)), cast(density))
    values, events = sample(jax.random.key(0), many, temperature, bias)
    values, events = np.float64(values), np.float64(events)

    pi = scipy.special.softmax(density.pi_logits * (1 + bias) / temperature)
    mean = pi @ density.mu
    centred = density.mu - mean
    inner = covariances(density) * temperature * np.exp(-2 * bias)
    covariance = np.einsum("k,kij->ij", pi, inner + centred[:, :, None] * centred[:, None])
    rate = scipy.special.expit(density.event_logit / temperature)

    def agree(samples, expected):
        error = samples.std(axis=0) / np.sqrt(draws)
        assert np.all(np.abs(samples.mean(axis=0) - expected) < 4.5 * error)

    agree(values, mean)
    agree((values - mean)[:, :, None] * (values - mean)[:, None], covariance)
    agree(events, rate)
    # Events are drawn apart from values, and one step apart from the next.
    agree((events - rate)[:, None] * (values - mean), np.zeros(dimensions))
    agree((values - mean)[1:] * (values - mean)[:-1], np.zeros(dimensions))


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize(("temperature", "bias"), [(0.0, 0.0), (1.0, 1e9), (1.0, np.inf)])
def test_the_limits_are_the_mean_of_the_likeliest_component(dimensions, temperature, bias):
    density = cast(make(dimensions, leading=(200,), seed=4))
    values, events = sample(jax.random.key(1), density, temperature, bias)
    best = np.argmax(density.pi_logits, axis=-1)
    np.testing.assert_allclose(values, density.mu[np.arange(200), best], atol=1e-6)
    if temperature == 0:
        np.testing.assert_array_equal(events, density.event_logit > 0)


def test_a_key_decides_the_sample():
    density = cast(make(2, leading=(6, 4)))
    values, events = sample(jax.random.key(0), density)
    assert values.shape == (6, 4, 2) and events.shape == (6, 4) and values.dtype == events.dtype
    assert set(np.unique(events)) == {0, 1}
    again = sample(jax.random.key(0), density)
    np.testing.assert_array_equal(values, again[0])
    np.testing.assert_array_equal(events, again[1])
    assert not np.any(values == sample(jax.random.key(1), density)[0])
    assert mixture.sample(jax.random.key(0), density._replace(event_logit=None))[1] is None


# The outputs of a network


@pytest.mark.parametrize(
    ("components", "dimensions", "event", "expected"),
    [(20, 2, True, 121), (20, 2, False, 120), (5, 1, True, 16), (4, 3, False, 28)],
)
def test_width_and_split(components, dimensions, event, expected):
    assert mixture.width(components, dimensions, event) == expected
    outputs = jnp.arange(6.0 * expected).reshape(3, 2, expected)
    density = mixture.split(outputs, components, dimensions, event)
    grid = (3, 2, components, dimensions)
    assert density.pi_logits.shape == grid[:-1]
    assert density.mu.shape == density.log_sigma.shape == grid
    assert (density.rho_hat is None) == (dimensions != 2)
    assert dimensions != 2 or density.rho_hat.shape == grid[:-1]
    assert (density.event_logit is None) == (not event)
    assert not event or density.event_logit.shape == (3, 2)
    # Every output is used once.
    used = np.concatenate([np.ravel(field) for field in jax.tree.leaves(density)])
    np.testing.assert_array_equal(np.sort(used), np.ravel(outputs))
    assert mixture.split(outputs.astype(jnp.bfloat16), components, dimensions, event).mu.dtype == (
        jnp.float32
    )
    with pytest.raises(ValueError, match=str(expected)):
        mixture.split(outputs[..., :-1], components, dimensions, event)
