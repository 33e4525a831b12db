"""Gradients of the HM-LSTM: through the choice of operation, the surrogates, soft boundaries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import inputs, make, random_state, sigmoid
from test_hm_lstm import NORMS, SIZES, Config, run

from hmrnn_jax import recurrence
from hmrnn_jax.cells import hm_lstm


@pytest.mark.parametrize("slope", [1.0, 2.0])
def test_boundaries_get_gradient_through_the_choice_of_operation(slope, x64):
    """With the matrices that z gates at zero, only the choice of UPDATE, COPY or FLUSH is left.

    `blend` passes the derivative of the mix to p and, times a/2 where |a x| < 1, to the
    detector below; `select` passes nothing.
    """
    config = Config(SIZES, layer_norm="none")
    params, state, x = make(config, scale=0.3), random_state(config, 40), inputs(1, 40)
    gates = params["layer2"]["gates"]
    zeros = {name: np.zeros_like(gates[name]) for name in ("U_td", "W_bu")}
    params["layer2"]["gates"] = gates | zeros

    def loss(kind, bias, own):
        changed = params | {"layer1": params["layer1"] | {"detector": detector | {"b": bias}}}
        before = state._replace(z=(state.z[0], own))
        config = Config(SIZES, layer_norm="none", gradient=kind)
        out = run(config, changed, before, x, slope)
        return jnp.sum(out.final.c[1] + 2 * out.final.h[1]), out

    detector = params["layer1"]["detector"]
    arguments = (detector["b"], state.z[1])
    derive = jax.value_and_grad(loss, argnums=(1, 2), has_aux=True)
    (_, out), (to_detector, to_own) = derive("blend", *arguments)
    f, i, o, g = np.split(state.h[1] @ gates["U_rec"].T + gates["b"], 4, axis=1)
    f, i, o, g = sigmoid(f), sigmoid(i), sigmoid(o), np.tanh(g)
    c, h, p, q = state.c[1], state.h[1], state.z[1][:, None], np.asarray(out.final.z[0])[:, None]
    new = p * i * g + (1 - p) * (1 - q) * c + (1 - p) * q * (f * c + i * g)
    slopes = {
        "p": (i * g - (1 - q) * c - q * (f * c + i * g), 1 - q),
        "q": ((1 - p) * (f * c + i * g - c), 1 - p),
    }
    expected = {}
    for name, (to_c, share) in slopes.items():
        copy = (1 - p) * (1 - q)
        to_h = share * (o * np.tanh(new) - h) + (1 - copy) * o * (1 - np.tanh(new) ** 2) * to_c
        expected[name] = np.sum(to_c + 2 * to_h, axis=1)
    alive = np.abs(slope * np.asarray(out.aux.x[0][0])) < 1
    assert 0 < alive.sum() < 40
    np.testing.assert_allclose(to_own, expected["p"], rtol=1e-10)
    through_detector = np.sum(expected["q"] * alive * slope / 2)
    np.testing.assert_allclose(to_detector, [through_detector], rtol=1e-10)
    assert abs(through_detector) > 1e-3
    _, (to_detector, to_own) = derive("select", *arguments)
    assert not to_detector.any() and not to_own.any()


@pytest.mark.parametrize(
    "options",
    [*({"layer_norm": norm} for norm in NORMS),
     {"sizes": (4, 3, 2), "nested": True, "detector_reads_h": True, "reset_recurrent": True},
     {"surrogate": "logistic"}],
    ids=[*NORMS, "every option of the detectors", "another surrogate"],
)  # fmt: skip
def test_soft_mode_gradients_are_finite_differences(options, x64):
    """Soft boundaries are not discretised (Table 1), so the gradient is the true one."""
    config = Config(**{"sizes": (4, 3), "boundary": "soft"} | options)
    state, x = random_state(config, 2), inputs(6, 2)
    soft = state._replace(z=tuple(np.full(2, 0.4) for _ in state.z))
    arguments = (make(config, scale=0.3), soft, x)

    @jax.jit
    def loss(params, state, x):
        out = run(config, params, state, x, 1.3)
        return sum(jnp.sum(jnp.sin(k + h)) for k, h in enumerate(out.states.h + out.final.c))

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*arguments)
    rng, epsilon = np.random.default_rng(4), 1e-6
    for _ in range(5):
        direction = jax.tree.map(lambda v: rng.normal(size=np.shape(v)), arguments)
        up, down = (
            loss(*jax.tree.map(lambda v, d, s=s: v + s * epsilon * d, arguments, direction))
            for s in (1, -1)
        )
        slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: np.sum(g * d), gradient, direction)))
        np.testing.assert_allclose(slope, (up - down) / (2 * epsilon), rtol=1e-6)


def test_a_layer_that_flushes_before_it_has_read_anything_has_a_finite_gradient():
    """With zero biases c would be exactly 0 there, where layer normalisation is steepest."""
    config = Config(SIZES)
    params = hm_lstm.init(jax.random.key(0), config)
    for name, bias in (("layer1", -2.0), ("layer2", 2.0)):  # nothing below, FLUSH above
        params[name]["detector"]["b"] = jnp.full(1, bias)
    x = jnp.zeros((30, 2, config.input_size))

    def loss(params):
        start = recurrence.initial_state(config, 2)
        h = recurrence.unroll(config, params, start, x).states.h[1]
        return jnp.sum(h * jnp.arange(h.shape[-1]))  # normalisation takes equal weights away

    gradients = jax.grad(loss)(params)
    assert all(np.abs(g).max() < 1e4 for g in jax.tree.leaves(gradients))


def test_nested_boundaries_pass_gradient_to_both_factors(x64):
    """d(z^1 s^2) is s^2 to z^1, and z^1 times the surrogate's derivative to x^2."""
    config = Config(SIZES, nested=True, surrogate="logistic", layer_norm="none")
    params, state, x = make(config, scale=0.3), random_state(config, 40), inputs(1, 40)

    def loss(shift):
        changed = jax.tree.map(lambda v: v, params)
        for name, by in zip(("layer1", "layer2"), shift, strict=True):
            detector = params[name]["detector"]
            changed[name] = params[name] | {"detector": detector | {"b": detector["b"] + by}}
        # h and c of layer 2 read z^1 too: they are kept out of the sum.
        out = run(config, changed, state, x, 1.5)
        return jnp.sum(out.final.z[1] * np.arange(40)), out

    gradient, out = jax.grad(loss, has_aux=True)(np.zeros(2))
    x1, x2 = (np.asarray(v[0]) for v in out.aux.x)
    p1, p2 = (sigmoid(2 * 1.5 * v) for v in (x1, x2))
    z1 = np.asarray(out.final.z[0])
    weights = np.arange(40)
    to_x2 = np.sum(weights * z1 * 3 * p2 * (1 - p2))
    np.testing.assert_allclose(gradient[1], to_x2, rtol=1e-10)
    # z^1 gates layer 2's bottom-up input as well, and with it x^2.
    w = (params["layer2"]["detector"]["W_bu"] @ np.asarray(out.final.h[0]).T)[0]
    to_z1 = (x2 > 0) + z1 * 3 * p2 * (1 - p2) * w
    np.testing.assert_allclose(gradient[0], np.sum(weights * to_z1 * 3 * p1 * (1 - p1)), rtol=1e-10)
