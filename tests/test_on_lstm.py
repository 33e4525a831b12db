"""The ON-LSTM cell against the paper: Shen, Tan, Sordoni, Courville 2019, section 4."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import inputs, sigmoid

from hmrnn_jax import cells, ops, recurrence
from hmrnn_jax.cells import lstm, on_lstm
from hmrnn_jax.errors import UserError

Config = functools.partial(on_lstm.Config, 3)


def make(config, scale=0.3, seed=0):
    """Normal parameters of any cell."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: cells.of(config).init(key, config), jax.random.key(0))
    return jax.tree.map(lambda v: scale * rng.normal(size=v.shape), shapes)


def random_state(config, *batch, seed=1, dtype="float64"):
    rng = np.random.default_rng(seed)
    return on_lstm.State(*(rng.normal(size=(config.size, *batch)).astype(dtype) for _ in "hc"))


def single(tree):
    return jax.tree.map(lambda v: v.astype("float32"), tree)


def cumax(v):
    e = np.exp(v - v.max())
    return np.cumsum(e / e.sum())


def on_lstm_step(config, params, h, c, x):
    """Eq. 4-13 unit by unit for one example; returns h, c and the two distances."""
    size, n = config.size, config.size // config.chunk
    s = params["W"] @ x + params["b_W"] + params["U"] @ h + params["b_U"]
    master_f, master_i = cumax(s[4 * size : 4 * size + n]), 1 - cumax(s[4 * size + n :])
    new_h, new_c = np.empty(size), np.empty(size)
    for u in range(size):
        f, i, o = (sigmoid(s[gate * size + u]) for gate in range(3))
        g = np.tanh(s[3 * size + u])
        mf, mi = master_f[u // config.chunk], master_i[u // config.chunk]
        overlap = mf * mi
        new_c[u] = (f * overlap + (mf - overlap)) * c[u] + (i * overlap + (mi - overlap)) * g
        new_h[u] = o * np.tanh(new_c[u])
    return new_h, new_c, 1 - master_f.sum() / n, master_i.sum() / n


# cumax


def test_cumax_rises_to_one():
    """Eq. 4: the cumulative sum of a softmax; logits ln 1..4 give 0.1, 0.3, 0.6, 1."""
    worked = ops.cumax(jnp.log(jnp.array([[1.0, 2.0, 3.0, 4.0]])))
    np.testing.assert_allclose(worked, [[0.1, 0.3, 0.6, 1.0]], atol=1e-6)
    x = 3 * jax.random.normal(jax.random.key(0), (2, 115, 5))
    y = ops.cumax(x)
    assert y.shape == x.shape and (y >= 0).all() and (jnp.diff(y, axis=1) >= 0).all()
    np.testing.assert_allclose(y[:, -1], 1, atol=1e-6)
    np.testing.assert_allclose(ops.cumax(x + 7), y, atol=1e-5)
    expected = np.apply_along_axis(cumax, 1, np.asarray(x, np.float64))
    np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_cumax_of_huge_logits_is_a_step(sign):
    x = sign * jnp.array([[-1e4, 1e4, -1e4, -1e4, 1e4]])
    expected = [0, 0.5, 0.5, 0.5, 1] if sign > 0 else [1 / 3, 1 / 3, 2 / 3, 1, 1]
    value, gradient = jax.value_and_grad(lambda v: ops.cumax(v)[0, 2])(x)
    np.testing.assert_allclose(ops.cumax(x)[0], expected, atol=1e-6)
    assert np.isfinite(value) and np.isfinite(gradient).all()


# The cell


@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_equations_step_by_step(chunk, x64):
    """Windows of `unroll` against the paper's equations, distances included."""
    config, steps, batch = Config(8, chunk), 10, 3
    params, x = make(config), inputs(steps, batch)
    start = recurrence.initial_state(config, batch, jnp.float64)
    out = recurrence.unroll(config, params, start, x)
    for k in range(batch):
        h, c = np.zeros(8), np.zeros(8)
        for t in range(steps):
            h, c, forget, given = on_lstm_step(config, params, h, c, x[t, k])
            np.testing.assert_allclose(out.states.h[t, k], h, rtol=0, atol=1e-10)
            np.testing.assert_allclose(out.states.c[t, k], c, rtol=0, atol=1e-10)
            np.testing.assert_allclose(out.aux.forget[t, k], forget, rtol=0, atol=1e-10)
            np.testing.assert_allclose(out.aux.input[t, k], given, rtol=0, atol=1e-10)
    assert ((out.aux.forget > 0) & (out.aux.forget < 1)).all()


@pytest.mark.parametrize("memory, proposal", [(1.0, 0.0), (0.0, 0.5)])
def test_worked_cell(memory, proposal, x64):
    """f~ .1 .3 .6 1 and i~ .75 .5 .25 0 with open half gates; distances 0.5 and 0.375."""
    config = on_lstm.Config(1, 4, 1)
    params = jax.tree.map(np.zeros_like, make(config))
    params["b_W"][12:16] = np.arctanh(proposal)
    params["b_U"][16:20] = np.log([1, 2, 3, 4])
    state = on_lstm.State(np.zeros(4), np.full(4, memory))
    new, aux = on_lstm.step(config, params, state, np.zeros(1))
    gate = [0.0625, 0.225, 0.525, 1] if memory else [0.7125, 0.425, 0.175, 0]
    np.testing.assert_allclose(new.c, np.multiply(gate, memory or proposal), atol=1e-10)
    np.testing.assert_allclose(new.h, 0.5 * np.tanh(new.c), atol=1e-10)
    np.testing.assert_allclose([aux.forget, aux.input], [0.5, 0.375], atol=1e-10)


def test_open_master_gates_leave_an_lstm(x64):
    """With f~ = i~ = 1 the overlap is everything and f^ = f, i^ = i."""
    config, plain = Config(6, 2), lstm.Config(3, 6)
    params, state, x = make(config), random_state(config, 4), inputs(1, 4)[0].T
    ones = np.ones((3, 1))
    new, aux = on_lstm.step(config, params, state, x, masters=(ones, ones))
    weights = {name: params[name][:24] for name in ("U", "W")}
    weights["b"] = (params["b_W"] + params["b_U"])[:24]
    expected, _ = lstm.step(plain, weights, lstm.State(*state), x)
    np.testing.assert_allclose(new.h, expected.h, rtol=0, atol=1e-10)
    np.testing.assert_allclose(new.c, expected.c, rtol=0, atol=1e-10)
    assert not aux.forget.any() and (aux.input == 1).all()


def test_memory_is_kept_to_the_bit_where_nothing_is_forgotten_or_written():
    """f~ = 1, i~ = 0: c is a copy, under `jit` and in float32."""
    config = Config(6, 2)
    params, state = make(config), random_state(config, 4, dtype="float32")
    step = jax.jit(
        lambda state, x: on_lstm.step(config, single(params), state, x, masters=(1.0, 0.0))[0]
    )
    x = inputs(1, 4)[0].T.astype("float32")
    new = step(state, x)
    for _ in range(100):
        new = step(new, x)
    np.testing.assert_array_equal(new.c, state.c)
    assert (new.h != state.h).any()


def test_a_master_gate_rules_neighbouring_units():
    """Each value covers C consecutive units: unit u belongs to chunk u // C."""
    config = Config(6, 2)
    params, state = make(config), random_state(config, 1, dtype="float32")
    keep = np.array([[0.25], [0.5], [2.0]], "float32")
    x = np.zeros((3, 1), "float32")
    new, _ = on_lstm.step(config, single(params), state, x, masters=(keep, np.zeros_like(keep)))
    ratio = [0.25, 0.25, 0.5, 0.5, 2, 2]
    np.testing.assert_array_equal(new.c[:, 0], state.c[:, 0] * np.float32(ratio))


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-4), ("float64", 1e-12)])
def test_the_last_chunk_stays_at_its_initial_value(dtype, tolerance):
    """Its f~ is 1 and its i~ 0, as in the authors' code; the chunk before is alive."""
    config, batch = Config(20, 4), 3
    with jax.enable_x64(dtype == "float64"):
        params = jax.tree.map(lambda v: v.astype(dtype), make(config))
        start = recurrence.initial_state(config, batch, dtype)
        h = recurrence.unroll(config, params, start, inputs(200, batch).astype(dtype)).states.h
        start = start._replace(c=jnp.ones_like(start.c))
        c = recurrence.unroll(config, params, start, inputs(200, batch).astype(dtype)).final.c
    assert np.abs(h[..., 16:]).max() < tolerance
    assert np.abs(h[-1, :, 12:16]).min() > 1e-3
    np.testing.assert_allclose(c[:, 16:], 1, atol=tolerance)


@pytest.mark.parametrize("size, chunk", [(10, 4), (6, 0), (6, 12)])
def test_sizes_that_cannot_be_cut_are_refused(size, chunk):
    with pytest.raises(UserError, match=f"{size} units cannot be cut in chunks of {chunk}"):
        Config(size, chunk)


# How it runs


def test_master_gates_are_float32_whatever_the_precision_of_products():
    """Sums in bfloat16 would tie, and with them the splits: 8 bits do not tell 230 chunks apart."""
    assert ops.cumax(jnp.zeros((2, 6), jnp.bfloat16)).dtype == jnp.float32
    config = Config(230, 1)
    params = single(make(config, 0.5))
    x = inputs(1, 50).astype("float32")
    out = recurrence.unroll(
        config,
        params,
        recurrence.initial_state(config, 50),
        x,
        policy=recurrence.Policy(precision="bfloat16"),
    )
    assert all(v.dtype == jnp.float32 for v in jax.tree.leaves(out))
    s = ops.product(params["W"], x[0].T, "bfloat16")
    s = np.asarray(s + (params["b_W"] + params["b_U"])[:, None], np.float64)
    forget = [1 - np.mean(cumax(column)) for column in s[4 * 230 : 5 * 230].T]
    np.testing.assert_allclose(out.aux.forget[0], forget, rtol=0, atol=2e-6)
    assert len(np.unique(out.aux.forget)) == 50


def test_deferred_gradients_of_a_stack_are_those_of_autodiff(x64):
    """Layer after layer, rows reset in the window, a loss of states and distances."""
    configs = (Config(6, 2), on_lstm.Config(6, 4, 2))
    params = [make(config, 0.5, seed) for seed, config in enumerate(configs)]
    start = [recurrence.initial_state(config, 3, jnp.float64) for config in configs]
    start = jax.tree.map(lambda v: v + 0.3, start)
    resets = np.zeros((8, 3), bool)
    resets[0, 0] = resets[3, 1] = resets[5] = True

    @functools.partial(jax.jit, static_argnums=0)
    def gradients(policy, params, start, x):
        def loss(params, start, x):
            total = 0.0
            for config, entry, state in zip(configs, params, start, strict=True):
                out = recurrence.unroll(config, entry, state, x, resets=resets, policy=policy)
                leaves = enumerate(jax.tree.leaves(out))
                total += sum(jnp.sum(jnp.sin(k + v)) for k, v in leaves)
                x = out.states.h
            return total

        return jax.value_and_grad(loss, (0, 1, 2))(params, start, x)

    x = inputs(8, 3)
    expected = gradients(recurrence.Policy(gradient="autodiff"), params, start, x)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10),
        gradients(recurrence.Policy(), params, start, x),
        expected,
    )
    to_start = expected[1][1]
    assert not np.any(to_start[0].c[0]) and np.all(to_start[0].c[1, :4])  # row 0 was reset


# Initial values


@pytest.mark.parametrize(
    "config, limits, forget",
    [
        (Config(40, 4), {"W": 3**-0.5, "b_W": 3**-0.5, "U": 40**-0.5, "b_U": 40**-0.5}, "b_W"),
        (
            lstm.Config(3, 40, initialisation="uniform", recurrent_bias=True),
            dict.fromkeys(("W", "b", "U", "b_U"), 40**-0.5),
            "b",
        ),
        (  # the LSTM that the ON-LSTM's authors compare with is made of linear maps
            lstm.Config(3, 40, initialisation="linear", recurrent_bias=True),
            {"W": 3**-0.5, "b": 3**-0.5, "U": 40**-0.5, "b_U": 40**-0.5},
            "b",
        ),
    ],
    ids=["on_lstm", "lstm", "linear maps"],
)
def test_uniform_initial_values_are_pytorchs(config, limits, forget):
    """A linear map of PyTorch is uniform in +-1/sqrt(fan-in), its LSTM in +-1/sqrt(size)."""
    module, key = cells.of(config), jax.random.key(0)
    params = module.init(key, config)
    assert set(params) == set(limits)
    for name, limit in limits.items():
        value = np.abs(params[name])
        assert 0.9 * limit < value.max() <= limit
        np.testing.assert_allclose(value.mean(), limit / 2, rtol=0.15)
    assert len(np.unique(params["U"])) > 0.99 * params["U"].size
    biased = module.init(key, type(config)(**vars(config) | {"forget_bias": 1.0}))
    difference = {name: np.asarray(biased[name] - params[name]) for name in params}
    np.testing.assert_allclose(difference.pop(forget), [1] * 40 + [0] * (sum(config.blocks) - 40))
    assert not any(v.any() for v in difference.values())


def test_orthogonal_initial_values_are_made_gate_by_gate():
    config = Config(8, 4, initialisation="orthogonal", forget_bias=2.0)
    params = on_lstm.init(jax.random.key(0), config)
    gates = np.asarray(params["U"][:32]).reshape(4, 8, 8)
    for block in [*gates, params["U"][32:34], params["U"][34:]]:
        np.testing.assert_allclose(block @ block.T, np.eye(len(block)), atol=1e-5)
    np.testing.assert_array_equal(params["b_W"], [2.0] * 8 + [0.0] * 28)
    assert not params["b_U"].any()


def test_the_lstms_second_bias_is_added_to_the_first(x64):
    """As in PyTorch and cuDNN: twice the parameters, the same cell."""
    two, one = lstm.Config(3, 4, recurrent_bias=True), lstm.Config(3, 4)
    params, x = make(two), inputs(5, 2)
    summed = {"U": params["U"], "W": params["W"], "b": params["b"] + params["b_U"]}
    start = recurrence.initial_state(two, 2, jnp.float64)
    out, expected = (
        recurrence.unroll(config, entry, start, x).states.h
        for config, entry in ((two, params), (one, summed))
    )
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("module", [lstm, on_lstm])
def test_unknown_initialisation_is_refused(module):
    with pytest.raises(UserError, match="initialisation is 'he'; it must be one of uniform"):
        module.Config(3, 10, initialisation="he")
