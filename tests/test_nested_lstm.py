"""The Nested LSTM against its equations and bounds (Moniz, Krueger 2017)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import inputs, sigmoid

from hmrnn_jax import recurrence
from hmrnn_jax.cells import lstm, nested_lstm
from hmrnn_jax.errors import UserError

Config = functools.partial(nested_lstm.Config, 3, 5)
run = jax.jit(recurrence.unroll, static_argnums=0)


def make(config, scale=0.3, seed=0):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: nested_lstm.init(key, config), jax.random.key(0))
    return jax.tree.map(lambda v: scale * rng.normal(size=v.shape), shapes)


def random_state(config, batch, seed=1):
    """`[B, H]` each."""
    rng = np.random.default_rng(seed)
    draw = lambda: rng.normal(size=(batch, config.size))  # noqa: E731
    return nested_lstm.State(draw(), tuple(draw() for _ in range(config.depth)))


def affine(entry, x, h):
    """Gates and the proposal's pre-activation of one level."""
    f, i, o, s = np.split(entry["W"] @ x + entry["U"] @ h + entry["b"], 4)
    return sigmoid(f), sigmoid(i), sigmoid(o), s


def step_of_two(params, h, c, x, proposal):
    """Depth 2 written out: the outer memory is what the inner LSTM puts out."""
    outer_c, inner_c = c
    f, i, o, s = affine(params["level1"], x, h)
    inner_f, inner_i, inner_o, inner_s = affine(params["level2"], i * proposal(s), f * outer_c)
    inner_c = inner_f * inner_c + inner_i * np.tanh(inner_s)
    outer_c = inner_o * np.tanh(inner_c)
    return o * np.tanh(outer_c), (outer_c, inner_c)


def step_of_any(params, h, c, x, proposal, level=1):
    """The recursion: a level's memory is the next level, or the sum at the innermost one."""
    f, i, o, s = affine(params[f"level{level}"], x, h)
    memory, update = f * c[0], i * proposal(s)
    if len(c) == 1:
        new = (memory + update,)
    else:
        value, rest = step_of_any(params, memory, c[1:], update, np.tanh, level + 1)
        new = (value, *rest)
    return o * np.tanh(new[0]), new


PROPOSALS = {"identity": lambda s: s, "tanh": np.tanh}


@pytest.mark.parametrize("proposal", PROPOSALS)
@pytest.mark.parametrize("depth, oracle", [(2, step_of_two), (1, step_of_any), (2, step_of_any),
                                           (3, step_of_any)])  # fmt: skip
def test_equations_step_by_step(depth, oracle, proposal, x64):
    config = Config(depth, proposal)
    params, start, x = make(config), random_state(config, 2), inputs(6, 2)
    out = run(config, params, start, x).states
    for k in range(2):
        h, c = start.h[k], tuple(v[k] for v in start.c)
        for t in range(6):
            h, c = oracle(params, h, c, x[t, k], PROPOSALS[proposal])
            np.testing.assert_allclose(out.h[t, k], h, rtol=0, atol=1e-10)
            for mine, expected in zip(out.c, c, strict=True):
                np.testing.assert_allclose(mine[t, k], expected, rtol=0, atol=1e-10)


def test_depth_1_is_an_lstm(x64):
    """With the additive memory and a tanh proposal the cell is an LSTM of the same weights."""
    config, plain = Config(1, "tanh"), lstm.Config(3, 5)
    params, start, x = make(config), random_state(config, 2), inputs(20, 2)
    out = run(config, params, start, x).states
    expected = run(plain, params["level1"], lstm.State(start.h, start.c[0]), x).states
    np.testing.assert_allclose(out.h, expected.h, rtol=0, atol=1e-10)
    np.testing.assert_allclose(out.c[0], expected.c, rtol=0, atol=1e-10)
    identity = run(Config(1), params, start, x).states
    assert np.abs(identity.h - expected.h).max() > 1e-2


def bias(params, level, gate, value):
    """The parameters with one gate's bias at a level (f, i, o, g) set."""
    b = params[f"level{level}"]["b"].copy()
    b[5 * "fiog".index(gate) : 5 * "fiog".index(gate) + 5] = value
    return params | {f"level{level}": params[f"level{level}"] | {"b": b}}


def test_the_inner_input_is_a_product(x64):
    """A closed input gate passes exactly 0 on: the inner input matrix no longer matters."""
    config = Config(2)
    params, start, x = make(config), random_state(config, 2), inputs(6, 2)
    inner = params["level2"]
    changed = params | {"level2": inner | {"W": inner["W"] + 1}}
    for level, same in ((1, True), (2, False)):
        a, b = (run(config, bias(p, level, "i", -1e9), start, x).states for p in (params, changed))
        assert np.array_equal(a.h, b.h) == same


def test_the_inner_hidden_is_the_forgotten_memory(x64):
    """f c, and no output of the inner LSTM's own: with f closed the outer c has no past."""
    config = Config(2)
    params, start, x = make(config), random_state(config, 2), inputs(1, 2)
    other = start._replace(c=(start.c[0] + 1, start.c[1]))
    for value, same in ((-1e9, True), (0.0, False)):
        closed = bias(params, 1, "f", value)
        a, b = (run(config, closed, s, x).final for s in (start, other))
        assert np.array_equal(a.h, b.h) == np.array_equal(a.c[1], b.c[1]) == same
    closed = bias(bias(params, 1, "f", -1e9), 2, "f", -1e9)
    other = start._replace(c=tuple(c + 1 for c in start.c))
    a, b = (run(config, closed, s, x).final for s in (start, other))
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_state_is_h_and_one_memory_a_level(depth):
    state = recurrence.initial_state(Config(depth), 2)
    leaves = jax.tree.leaves(state)
    assert len(leaves) == depth + 1
    assert all(leaf.shape == (2, 5) and not leaf.any() for leaf in leaves)


def test_bounds_whatever_the_inputs():
    """|c| <= 1 but at the innermost level, |h| <= tanh 1; only the outermost g is not bounded."""
    x = (1e3 * inputs(50, 4)).astype("float32")
    for depth in (2, 3):
        config = Config(depth)
        out = run(config, make(config), recurrence.initial_state(config, 4), x).states
        assert np.abs(out.h).max() <= 0.7616
        assert all(np.abs(c).max() <= 1 for c in out.c[:-1])
        assert np.abs(out.h).max() > 0.1
        first = np.abs(out.c[-1][0])  # i g of the innermost level, whose g is a tanh
        assert 0.1 < first.max() <= 1
    config = Config(1)
    out = run(config, make(config), recurrence.initial_state(config, 4), x).states
    assert np.abs(out.c[0]).max() > 100 and np.abs(out.h).max() <= 1


@pytest.mark.parametrize("depth, count", [(1, 2_882_400), (2, 5_764_800), (3, 8_647_200)])
def test_number_of_parameters(depth, count):
    """600 units: as many as a stack of `depth` LSTMs of the same width."""
    shapes = jax.eval_shape(
        lambda key: nested_lstm.init(key, nested_lstm.Config(600, 600, depth)), jax.random.key(0)
    )
    layer = jax.eval_shape(lambda key: lstm.init(key, lstm.Config(600, 600)), jax.random.key(0))
    sizes = [sum(v.size for v in jax.tree.leaves(tree)) for tree in (shapes, layer)]
    assert sizes[0] == count == depth * sizes[1]
    assert set(shapes) == {f"level{d + 1}" for d in range(depth)}


def test_a_reset_row_starts_afresh():
    config = Config(3)
    params, start = make(config), random_state(config, 3)
    params, start, x = jax.tree.map(lambda v: v.astype("float32"), (params, start, inputs(9, 3)))
    resets = np.zeros((9, 3), bool)
    resets[4, 1] = True
    out = run(config, params, start, x, resets=resets).states
    fresh = run(config, params, recurrence.initial_state(config, 3), x[4:]).states
    untouched = run(config, params, start, x).states
    for a, b, c in zip(*map(jax.tree.leaves, (out, fresh, untouched)), strict=True):
        np.testing.assert_allclose(a[4:, 1], b[:, 1], rtol=0, atol=1e-6)
        np.testing.assert_allclose(a[:, [0, 2]], c[:, [0, 2]], rtol=0, atol=1e-6)
        assert jnp.abs(a[4:, 1] - c[4:, 1]).max() > 1e-3


def test_initial_values():
    """At every level: an orthogonal block for each gate, zero biases but f's."""
    params = nested_lstm.init(jax.random.key(0), Config(3))
    for level, width in (("level1", 3), ("level2", 5), ("level3", 5)):
        entry = params[level]
        for block in np.split(np.asarray(entry["U"]), 4):
            np.testing.assert_allclose(block @ block.T, np.eye(5), atol=1e-5)
        np.testing.assert_array_equal(entry["b"], [1.0] * 5 + [0.0] * 15)
        assert entry["W"].shape == (20, width)
        assert 0 < np.abs(entry["W"]).max() <= np.sqrt(6 / (5 + width))
    assert (params["level2"]["U"] != params["level3"]["U"]).any()


def test_choices_that_make_no_cell():
    with pytest.raises(UserError, match="proposal is 'relu'; it must be one of identity, tanh"):
        Config(proposal="relu")
    with pytest.raises(UserError, match="depth is 0; it must be a positive"):
        Config(0)
