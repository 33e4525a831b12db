"""The elementary operations against numpy, and the straight-through rule."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from fixtures import assert_close, load, names

from hmrnn_jax import ops


def boundary(x, slope, mode, noise=None, surrogate="hard_sigmoid"):
    """A detector's z and its derivative, as `hm_lstm_pointwise.detect` makes them."""
    fired = ops.fired(x, slope, mode, noise)
    return ops.straight_through_both_ways(fired, x, slope, surrogate)


def derivative(x, slope, mode="step", noise=None):
    """dz/dx of the detector, one number for each x."""
    _, pullback = jax.vjp(lambda v: boundary(v, slope, mode, noise), x)
    return pullback(jnp.ones_like(x))[0]


# The detector


@pytest.mark.parametrize("mode", ops.BOUNDARY_MODES)
@pytest.mark.parametrize("slope", [1.0, 2.0, 5.0])
def test_straight_through_derivative_is_half_the_slope_inside_the_band(slope, mode):
    """The backward pass takes the hard sigmoid: a / 2 for |x| < 1 / a, else 0, kinks included."""
    x = jnp.array([-2, -1.001 / slope, -1 / slope, -0.999 / slope, -1e-5, 0])
    x = jnp.concatenate([x, -x])
    expected = np.array([0, 0, 0, slope / 2, slope / 2, slope / 2] * 2)
    np.testing.assert_allclose(derivative(x, slope, mode, jnp.full(12, 0.5)), expected, rtol=1e-6)


@pytest.mark.parametrize("surrogate", ops.SURROGATES)
def test_the_rule_of_reverse_mode_is_that_of_both_modes(surrogate, x64):
    x = jnp.linspace(-3, 3, 61)
    values = ops.fired(x, 2.0, "step")

    def through(estimator):
        value, pullback = jax.vjp(lambda x: estimator(values, x, 2.0, surrogate), x)
        return value, *pullback(jnp.cos(x))

    reverse, both = map(through, (ops.straight_through, ops.straight_through_both_ways))
    np.testing.assert_array_equal(both[0], reverse[0])
    np.testing.assert_allclose(both[1], reverse[1], rtol=1e-14)


@pytest.mark.parametrize("mode", ops.BOUNDARY_MODES)
@pytest.mark.parametrize("surrogate", ops.SURROGATES)
def test_a_boundary_has_derivatives_of_every_order_in_both_modes(surrogate, mode, x64):
    """z sin(x) within a loop: z' sin + z cos, then z'' sin + 2 z' cos - z sin."""
    x, slope = jnp.linspace(-0.9, 1.1, 21) / 2, 2.0
    noise = jnp.full_like(x, 0.4)

    def emitted(x, noise):
        return boundary(x, slope, mode, noise, surrogate)

    def looped(x, noise):
        return jax.lax.scan(lambda c, x: (c, emitted(x, noise) * jnp.sin(x)), 0.0, x[None])[1][0]

    z = emitted(x, noise)
    first = ops.surrogate_derivative(x, slope, surrogate)
    second = jax.vmap(jax.grad(lambda x: ops.surrogate_derivative(x, slope, surrogate)))(x)
    expected = first * jnp.sin(x) + z * jnp.cos(x)
    for way in (jax.grad, jax.jacfwd):
        np.testing.assert_allclose(jax.vmap(way(looped))(x, noise), expected, rtol=1e-12)
    expected = second * jnp.sin(x) + 2 * first * jnp.cos(x) - z * jnp.sin(x)
    for outer in (jax.grad, jax.jacfwd):
        for inner in (jax.grad, jax.jacfwd):
            actual = jax.vmap(outer(inner(looped)))(x, noise)
            np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("slope", [1.0, 5.0])
def test_the_logistic_surrogate_is_the_derivative_of_a_logistic_function(slope, x64):
    """Equal to the hard sigmoid's at 0, and nowhere 0: a detector can come back from far away."""
    x = jnp.linspace(-4, 4, 81) / slope
    _, pullback = jax.vjp(lambda v: boundary(v, slope, "step", surrogate="logistic"), x)
    (actual,) = pullback(jnp.ones_like(x))
    np.testing.assert_allclose(
        actual, jax.vmap(jax.grad(jax.nn.sigmoid))(2 * slope * x) * 2 * slope
    )
    assert actual[40] == slope / 2 and (actual > 0).all()


def test_the_step_is_strict_and_exact_near_zero():
    """z = 1 iff the hard sigmoid exceeds 1/2: not at x = 0, and not lost to rounding above it."""
    x = jnp.array([0, -0.0, -1e-5, 1e-5, 1e-9, -1e-9, 1e-30, 3, -3])
    for slope in (1.0, 5.0):
        z = boundary(x, slope, "step")
        np.testing.assert_array_equal(z, [0, 0, 0, 1, 1, 0, 1, 1, 0])


@pytest.mark.parametrize("mode", ["step", "sample"])
def test_a_boundary_is_exactly_zero_or_one(mode):
    x_key, noise_key = jax.random.split(jax.random.key(0))
    x, noise = jax.random.normal(x_key, 1_000_000), jax.random.uniform(noise_key, 1_000_000)
    draw = jax.jit(boundary, static_argnums=(2, 4))
    for slope, surrogate in ((1.0, "hard_sigmoid"), (2.0, "logistic"), (5.0, "hard_sigmoid")):
        z = np.asarray(draw(x, slope, mode, noise, surrogate))
        assert np.isin(z, [0.0, 1.0]).all()
        assert 0.4 < z.mean() < 0.6


def test_the_soft_boundary_is_the_hard_sigmoid():
    x = jnp.array([-3, -0.5, -0.25, 0, 0.25, 0.5, 3])
    expected = [0, 0, 0.25, 0.5, 0.75, 1, 1]
    np.testing.assert_array_equal(boundary(x, 2.0, "soft"), expected)
    np.testing.assert_array_equal(ops.hard_sigmoid(x, 2.0), expected)


def test_slope_reaches_the_compiled_gradient_without_compiling_again():
    """Annealed from 1 to 5, the gradient at x = 0.5 goes from 1/2 to 0."""
    compiled = jax.jit(derivative)
    x = jnp.full(1, 0.5)
    assert [float(compiled(x, a)[0]) for a in (1.0, 1.5, 5.0)] == [0.5, 0.75, 0]
    assert compiled._cache_size() == 1


@pytest.mark.skipif(not names("misc"), reason="the reference folder has no misc.npz")
def test_detector_fixture(x64):
    arrays, _ = load("misc")
    x = jnp.asarray(arrays["detector/x"])
    for k, slope in enumerate(arrays["detector/slope"]):
        step = boundary(x, slope, "step")
        np.testing.assert_array_equal(step, arrays["detector/step"][k])
        assert_close(boundary(x, slope, "soft"), arrays["detector/soft"][k], 1e-10)
        assert_close(derivative(x, slope), arrays["detector/derivative"][k], 1e-10)


# Layer normalisation


@pytest.mark.parametrize("shape", [(12,), (12, 5)])
@pytest.mark.parametrize("groups", [1, 4])
def test_layer_norm_of_each_slice_and_each_example(groups, shape, x64):
    """Population variance, epsilon 1e-5 inside the root; one gain and bias a feature."""
    rng = np.random.default_rng(0)
    x, gain, bias = rng.normal(size=shape), rng.normal(size=12), rng.normal(size=12)
    actual = ops.layer_norm(x, gain, bias, groups)
    expected = np.empty((12, x.size // 12))
    for k, column in enumerate(x.reshape(12, -1).T):
        for part in np.split(np.arange(12), groups):
            v = column[part]
            v = (v - sum(v) / len(v)) / np.sqrt(np.mean((v - v.mean()) ** 2) + 1e-5)
            expected[part, k] = v * gain[part] + bias[part]
    np.testing.assert_allclose(actual, expected.reshape(shape), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [2, 64])
def test_layer_norm_keeps_its_digits_where_features_hardly_differ(size, x64):
    """In float32, value and gradient; rounding of the mean alone is some 50 times as much."""
    rng = np.random.default_rng(0)
    x, weights = 3 + 0.01 * rng.normal(size=(size, 200)), 3 + rng.normal(size=(size, 200))

    def both(dtype):
        cast = [v.astype(np.float32).astype(dtype) for v in (x, weights)]
        one, zero = np.ones(size, dtype), np.zeros(size, dtype)

        @jax.jit
        def run(x, weights):
            y, pullback = jax.vjp(lambda x: ops.layer_norm(x, one, zero), x)
            return y, *pullback(weights)

        return run(*cast)

    for actual, expected in zip(both(np.float32), both(np.float64), strict=True):
        assert actual.dtype == np.float32
        assert_close(actual, expected, 1e-6)


# Products


def rounded(array):
    """float32 values after rounding to bfloat16."""
    return np.asarray(array).astype(ml_dtypes.bfloat16).astype(np.float32)


@pytest.mark.parametrize("shape", [(40,), (40, 7)])
def test_bfloat16_rounds_the_operands_and_accumulates_in_float32(shape):
    """The gradient's two products too: each of their operands is rounded once."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(30, 40)).astype("float32")
    vector = rng.normal(size=shape).astype("float32")
    cotangent = rng.normal(size=(30, *shape[1:])).astype("float32")
    value, pullback = jax.vjp(lambda m, v: ops.product(m, v, "bfloat16"), matrix, vector)
    to_matrix, to_vector = pullback(jnp.asarray(cotangent))
    assert {v.dtype for v in (value, to_matrix, to_vector)} == {jnp.dtype("float32")}
    columns, rows = rounded(vector).reshape(40, -1), rounded(cotangent).reshape(30, -1)
    expected = (rounded(matrix) @ rounded(vector), rows @ columns.T)
    expected += (rounded(matrix).T @ rounded(cotangent),)
    # A product of unrounded operands, or a result rounded to bfloat16, is off by 1e-2.
    for actual, wanted in zip((value, to_matrix, to_vector), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=2e-5)
    assert np.abs(value - matrix @ vector).max() > 1e-3


def test_float64_products_stay_float64(x64):
    rng = np.random.default_rng(0)
    matrix, vector = rng.normal(size=(30, 40)), rng.normal(size=(40, 7))
    value = ops.product(jnp.asarray(matrix), jnp.asarray(vector))
    assert value.dtype == jnp.float64
    np.testing.assert_allclose(value, matrix @ vector, rtol=0, atol=1e-12)


def test_only_operands_are_cast_and_only_under_bfloat16():
    x = jnp.ones((2, 3))
    assert ops.operand(x, "bfloat16").dtype == jnp.bfloat16
    assert ops.operand(x, "float32") is x


# Initialisers


def test_each_gate_has_its_own_orthogonal_block():
    (blocks,) = ops.draw_blocks(
        {0: ops.Blocks(ops.ORTHOGONAL, jax.random.key(0), 5, 5, 4)}
    ).values()
    assert blocks.shape == (20, 5)
    parts = np.split(np.asarray(blocks), 4)
    for block in parts:
        np.testing.assert_allclose(block @ block.T, np.eye(5), atol=1e-5)
    assert len({part.tobytes() for part in parts}) == 4


def test_blocks_drawn_together_are_those_drawn_one_by_one():
    """By JAX alone, each with its own key, whatever else is asked for."""
    first, second, third = jax.random.split(jax.random.key(1), 3)
    asked = {
        "a": ops.Blocks(ops.ORTHOGONAL, first, 6, 4, 4),
        "b": ops.Blocks(ops.GLOROT, second, 6, 4, 3),
        "c": ops.Blocks(ops.ORTHOGONAL, third, 6, 4, 4),
        "d": ops.Blocks(ops.GLOROT, third, 1, 4),
    }
    found = jax.jit(lambda: ops.draw_blocks(asked))()
    for name, (make, key, rows, columns, blocks) in asked.items():
        own = [make(k, (rows, columns), jnp.float32) for k in jax.random.split(key, blocks)]
        np.testing.assert_array_equal(found[name], np.concatenate(own))


def test_glorot_bounds_count_the_fans_of_one_gate():
    asked = ops.Blocks(ops.GLOROT, jax.random.key(0), 50, 30, 4)
    blocks = np.asarray(ops.draw_blocks({"W": asked})["W"])
    bound = np.sqrt(6 / (50 + 30))
    assert blocks.shape == (200, 30)
    assert 0.98 * bound < np.abs(blocks).max() <= bound
