"""A TPU's kernel that leaves out products computes what the scan does, and does leave them out.

The kernels are interpreted here.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_skipping import DETECTORS, problem

from hmrnn_jax import recurrence
from hmrnn_jax.cells import hm_lstm
from hmrnn_jax.recurrence import Policy, rare_products

BACKENDS = (Policy(backend="scan"), Policy(backend="pallas", skip_copies=True))
CASES = {
    "seldom": (DETECTORS, -1.0),
    "at times": ({}, 0.0),
    "each term normalised": ({"layer_norm": "ba"}, -0.5),
    "no gradient of the choice": ({"gradient": "select", "flush": False}, -0.5),
    "boundary before the text": ({"z_init": 1.0, "layer_norm": "none"}, -1.0),
}


def of_policy(policy, config, params, state, x, keywords):
    """All that comes out of a window, and the gradients of a sum of it."""

    def loss(params, state, x):
        out = recurrence.unroll(config, params, state, x, policy=policy, **keywords)
        leaves = jax.tree.leaves(out)
        factors = [jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape) for leaf in leaves]
        return sum(jnp.vdot(f, leaf) for f, leaf in zip(factors, leaves, strict=True)), out

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(params, state, x)


SLOW = ("at times", "each term normalised", "no gradient of the choice")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in CASES]
)
def test_values_and_gradients_are_those_of_the_scan(name, x64):
    """Of three rows, so that a layer does COPY in all of them, with resets, in float64."""
    expected, found = (of_policy(way, *problem(*CASES[name], batch=3)) for way in BACKENDS)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-10, rtol=1e-10)


def test_a_layer_that_never_moves_is_never_multiplied(x64):
    """Its kernel could be anything, even no number."""
    config, params, state, x, keywords = problem(DETECTORS, -1e6, batch=3)
    state = jax.tree.map(jnp.zeros_like, state)
    gates = params["layer3"]["gates"]
    for name in config.terms(2):
        gates[name] = jnp.full_like(gates[name], jnp.nan)
    dense, left_out = (
        of_policy(way, config, params, state, x, keywords | {"resets": None})
        for way in (Policy(backend="pallas"), BACKENDS[1])
    )
    state_gradients, outputs = left_out[0][1:], left_out[1].states
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state_gradients, outputs)))
    assert not np.isfinite(dense[0][2]).all()


def kernels_of(jaxpr):
    """The kernels within a program, in order."""
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if equation.primitive.name == "pallas_call" and hasattr(inner, "eqns"):
                yield inner
            elif hasattr(inner, "eqns"):
                yield from kernels_of(inner)


def test_products_and_their_kernels_are_within_branches(x64):
    """What were read outside of one, the chip would copy at every step."""
    config, params, state, x, keywords = problem(DETECTORS, -1.0, batch=3)
    shapes = {
        part.shape
        for number, (kernel, _) in enumerate(hm_lstm.products(config, params).values())
        for part in (kernel, *hm_lstm.by_term(config, number, kernel))
    }
    for policy, outside in zip((Policy(backend="pallas"), BACKENDS[1]), (True, False), strict=True):
        program = jax.make_jaxpr(
            lambda *given, policy=policy: of_policy(policy, config, *given, keywords)
        )(params, state, x)
        forwards, backwards = kernels_of(program.jaxpr)
        for kernel in (forwards, backwards):
            products = [e for e in kernel.eqns if e.primitive.name == "dot_general"]
            reads = [e for e in kernel.eqns if e.outvars and e.outvars[0].aval.shape in shapes]
            assert bool(products) == bool(reads) == outside


def test_kernels_of_ten_layers_and_more_are_cut_each_in_its_own_terms():
    """In the order of names layer10 comes before layer2."""
    config = hm_lstm.Config(3, tuple(range(4, 15)))
    params = jax.eval_shape(lambda: hm_lstm.init(jax.random.key(0), config))
    products = jax.eval_shape(lambda p: hm_lstm.products(config, p), params)
    kernels = {name: np.zeros(kernel.shape) for name, (kernel, _) in products.items()}
    found = rare_products._by_term(config, dict(sorted(kernels.items())))
    for layer, size in enumerate(config.sizes):
        widths = [part.shape[1] for part in found[f"layer{layer + 1}"]]
        below = config.sizes[layer - 1] * (layer > 0)  # the input's product is not among them
        above = config.sizes[layer + 1] if layer + 1 < len(config.sizes) else 0
        assert sorted(widths) == sorted(filter(None, (size, below, above)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_a_state_that_is_not_float32_is_multiplied_whole(dtype, x64):
    config, params, state, x, keywords = problem(*CASES["seldom"], batch=3)
    state, x = jax.tree.map(lambda v: v.astype(dtype), (state, x))
    plain, rare = (
        recurrence.unroll(config, params, state, x, policy=policy, **keywords).states.h[1]
        for policy in (Policy(backend="pallas", precision="bfloat16"),
                       Policy(backend="pallas", precision="bfloat16", skip_copies=True))
    )  # fmt: skip
    np.testing.assert_array_equal(np.asarray(rare, float), np.asarray(plain, float))


def test_the_share_that_is_expected_to_be_left():
    """Of kernels of one size: two terms of layer 1, three of layer 2, two of layer 3, both ways."""
    config = hm_lstm.Config(128, (512,) * 3, nested=True)
    assert rare_products.expected(config, (1, 1, 1), 8) == 1
    # Layer 1's two terms alone backwards, its recurrent one forwards.
    assert rare_products.expected(config, (1, 0, 0), 8) == pytest.approx(3 / 14)
    plain = hm_lstm.Config(128, (512,) * 3)
    assert rare_products.expected(plain, (1, 0, 0), 8) == pytest.approx(6 / 14)
    assert rare_products.expected(config, (1, 0.21, 0.04), 8) == pytest.approx(drawn(8), abs=0.02)
    assert rare_products.expected(config, (1, 0.21, 0.04), 16) == pytest.approx(drawn(16), abs=0.02)


def drawn(rows, steps=20_000):
    """The same share, counted of boundaries that fire at .18 and .04, nested, in rows of a chip."""
    random = np.random.default_rng(0)
    first = random.random((steps, rows)) < 0.18
    second = first & (random.random((steps, rows)) < 0.04 / 0.18)
    moves = {2: first | np.roll(second, 1, axis=0), 3: second}
    some = {layer: own.any(axis=1) for layer, own in moves.items()}
    one, two = first.any(axis=1), second.any(axis=1)
    forwards = [
        np.ones(steps), np.roll(one, 1),  # layer 1: its own h, what is handed down after it fired
        np.roll(some[2], 1), np.roll(two, 1), one,  # layer 2: changed h, handed down, from below
        np.roll(some[3], 1), two,
    ]  # fmt: skip
    backwards = 2 * [np.ones(steps)] + 3 * [some[2]] + 2 * [some[3]]
    return np.mean(forwards + backwards)
