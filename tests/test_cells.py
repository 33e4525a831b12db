"""The contract of a cell, `cells.base.Cell`, kept by all of them; and the GRU's equations."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

import hmrnn_jax as hm
from hmrnn_jax import cells, defaults
from hmrnn_jax.cells.base import Products
from hmrnn_jax.errors import UserError
from hmrnn_jax.models.stack import cells_from
from hmrnn_jax.training import settings

WIDTH, SIZE, STEPS, BATCH = 3, 4, 5, 2
SIZES = {"sizes": (SIZE, SIZE)}
CHOICES = {"hm_lstm": {}, "on_lstm": {"chunk": 2}}


@pytest.fixture(scope="module", params=cells.MODULES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def module(name):
    return cells.MODULES[name]


@pytest.fixture(scope="module")
def config(name, module):
    sizes = SIZES if name == "hm_lstm" else {"size": SIZE}
    return module.Config(input_size=WIDTH, **sizes, **CHOICES.get(name, {}))


@pytest.fixture(scope="module")
def params(module, config):
    """Random in every leaf: nothing is zero by its initial value."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: module.init(key, config), jax.random.key(0))
    return jax.tree.map(lambda leaf: np.float32(0.5 * rng.normal(size=leaf.shape)), shapes)


def inputs(*shape):
    return np.random.default_rng(1).normal(size=(*shape, WIDTH)).astype(np.float32)


def close(actual, expected, tolerance=2e-6):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance),
        actual, expected,
    )  # fmt: skip


def test_a_config_is_a_static_argument_and_checks_itself(name, module, config):
    assert cells.of(config) is module and isinstance(module.NAME, str)
    assert dataclasses.is_dataclass(config) and hash(config) == hash(dataclasses.replace(config))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.input_size = 5
    for field in ("input_size", "sizes" if name == "hm_lstm" else "size"):
        with pytest.raises(UserError, match=field):
            dataclasses.replace(config, **{field: 0})
    assert config.uses_noise == 0 and config.replays == config.uses_slope == (name == "hm_lstm")
    assert "forget_bias" in cells.choices(module)


def test_states_have_the_batch_last_and_keep_their_dtype(module, config, params):
    for batch in ((), (BATCH,)):
        state = module.initial_state(config, batch, jnp.bfloat16)
        assert isinstance(state, module.State)
        x = jax.ShapeDtypeStruct((WIDTH, *batch), jnp.float32)
        new, _ = jax.eval_shape(functools.partial(module.step, config), params, state, x)
        assert jax.tree.structure(new) == jax.tree.structure(state)
        for old, leaf in zip(jax.tree.leaves(state), jax.tree.leaves(new), strict=True):
            assert leaf.shape == old.shape and leaf.shape in ((SIZE, *batch), batch)
            assert leaf.dtype == old.dtype == jnp.bfloat16
    with pytest.raises(UserError, match="4 wide, but the cell's config says input_size=3"):
        module.inputs(config, params, jnp.zeros((4, BATCH)))


def test_a_step_is_its_products_and_a_pointwise_part(module, config, params):
    """And a batch is its examples, each by itself."""

    @jax.jit
    def steps(params, x):
        before = module.initial_state(config, (BATCH,))
        state, _ = module.step(config, params, before, x)
        whole = module.step(config, params, state, x)
        linear = Products(module.products(config, params), module.inputs(config, params, x))
        parts = module.step(config, module.vectors(config, params), state, linear=linear)
        first = jax.tree.map(lambda v: v[..., 0], (state, whole))
        return whole, parts, module.step(config, params, first[0], x[:, 0]), first[1]

    whole, parts, alone, first = steps(params, inputs(BATCH).T)
    close(parts, whole)
    close(alone, first)


def test_flax_modules_are_its_recurrence(config, params):
    x = inputs(BATCH, STEPS)
    cell = hm.nnx.RNNCell(config, output="state", rngs=nnx.Rngs(0))
    nnx.update(cell.cell, params)
    graph, state = nnx.split(nnx.RNN(cell))
    linen = nn.RNN(hm.linen.RNNCell(config, output="state"))

    @jax.jit
    def both(params, state, x):
        out = hm.unroll(config, params, hm.initial_state(config, BATCH), x.swapaxes(0, 1))
        states = jax.tree.map(lambda v: v.swapaxes(0, 1), out.states)
        return (
            states,
            linen.apply({"params": {"cell": {"cell": params}}}, x),
            nnx.merge(graph, state)(x),
        )

    expected, *found = both(params, state, x)
    for states in found:
        close(states, expected)


def test_a_window_may_be_lists_and_numpy_arrays():
    cell, x, lengths = hm.GRU(WIDTH, SIZE), inputs(STEPS, BATCH), np.array([5, 2])
    resets = np.arange(STEPS * BATCH).reshape(STEPS, BATCH) % 3 == 0
    params, state = hm.init(jax.random.key(0), cell), hm.initial_state(cell, BATCH)
    run = functools.partial(hm.unroll, cell, params, state)
    actual = run(x.tolist(), lengths=tuple(lengths.tolist()), resets=resets.tolist())
    expected = run(x, lengths=lengths, resets=resets)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def of_integers(state, parts):
    """`state` with integers in these of its parts."""
    return state._replace(**{
        part: jax.tree.map(lambda v: np.zeros(v.shape, np.int32), getattr(state, part))
        for part in parts
    })  # fmt: skip


def test_states_of_integers_are_refused(name, config, params):
    """A step keeps the dtype of the state, and would cut all of it to zeros."""
    state, x = hm.initial_state(config, BATCH), inputs(STEPS, BATCH)
    for parts in (state._fields, *zip(state._fields, strict=True)):
        wrong = of_integers(state, parts)
        with pytest.raises(UserError, match="The state holds int32; give it in a floating-point"):
            hm.unroll(config, params, wrong, x)
        with pytest.raises(UserError, match="The state holds int32"):
            hm.linen.RNNCell(config).apply({"params": {"cell": params}}, wrong, x[0])
        with pytest.raises(UserError, match="The state holds int32"):
            hm.nnx.RNNCell(config, rngs=nnx.Rngs(0))(wrong, x[0])
    half = jax.tree.map(lambda v: v.astype(jnp.bfloat16), state)
    run = functools.partial(hm.unroll, config)
    final = jax.eval_shape(run, params, half, x).final
    assert {v.dtype for v in jax.tree.leaves(final)} == {jnp.dtype("bfloat16")}


def test_lengths_that_are_no_integers_are_refused(config, params):
    state, x = hm.initial_state(config, BATCH), inputs(STEPS, BATCH)

    def run(lengths):
        return hm.unroll(config, params, state, x, lengths=lengths)

    for way in (run, jax.jit(run)):
        for lengths in (np.array([5.0, 2.0], np.float32), np.array([True, False])):
            with pytest.raises(UserError, match="lengths are of .*; they must be integers"):
                way(lengths)


@pytest.mark.parametrize("slope", [-1, 0.0, float("nan"), np.float32(-2)])
def test_slopes_that_are_not_above_0_are_refused(slope):
    """With one below 0 the detectors would learn uphill; other cells have no use for it."""
    cell, x, message = hm.HMLSTM(WIDTH, SIZES["sizes"]), inputs(STEPS, BATCH), "slope is .*above 0"
    params, state = hm.init(jax.random.key(0), cell), hm.initial_state(cell, BATCH)
    run = functools.partial(hm.unroll, cell, params, state, x)
    for way in (run, jax.jit(run, static_argnames="slope")):
        with pytest.raises(UserError, match=message):
            way(slope=slope)
    for make in (hm.linen.RNNCell, functools.partial(hm.nnx.RNNCell, rngs=nnx.Rngs(0))):
        with pytest.raises(UserError, match=message):
            make(cell, slope=slope)
        make(hm.LSTM(WIDTH, SIZE), slope=slope)
    annealed = hm.nnx.RNNCell(cell, rngs=nnx.Rngs(0))
    annealed.slope[...] = slope
    with pytest.raises(UserError, match=message):
        annealed(state, x[0])
    jax.eval_shape(lambda slope: run(slope=slope), slope)  # not known


@pytest.mark.parametrize("task", settings.OF_TASK)
def test_every_configuration_can_choose_it(name, module, task):
    config = {"language": defaults.text, "logic": defaults.logic, "strokes": defaults.strokes,
              "images": defaults.images}[task]()  # fmt: skip
    assert isinstance(config.model[name], ConfigDict)
    config.model.cell, config.model.sizes = name, (SIZE * 10, SIZE * 10)
    settings.check(config)
    stack = cells_from(config.model, WIDTH)
    assert {type(one) for one in stack} == {module.Config}
    assert sum(len(one.sizes) if name == "hm_lstm" else 1 for one in stack) == 2


def test_a_gru_is_that_of_pytorch():
    """Flax's, which is PyTorch's: r on the recurrent product, its bias included."""
    config = hm.GRU(WIDTH, SIZE)
    rng = np.random.default_rng(2)
    shapes = jax.eval_shape(lambda key: hm.init(key, config), jax.random.key(0))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    U, W, b_U, b_W = (params[k] for k in ("U", "W", "b_U", "b_W"))
    z, r, n = (slice(k * SIZE, (k + 1) * SIZE) for k in range(3))
    theirs = {
        "iz": {"kernel": W[z].T, "bias": b_W[z] + b_U[z]}, "hz": {"kernel": U[z].T},
        "ir": {"kernel": W[r].T, "bias": b_W[r] + b_U[r]}, "hr": {"kernel": U[r].T},
        "in": {"kernel": W[n].T, "bias": b_W[n]}, "hn": {"kernel": U[n].T, "bias": b_U[n]},
    }  # fmt: skip
    h, x = inputs(BATCH)[:, :1] * jnp.ones(SIZE), inputs(BATCH)
    expected, _ = nn.GRUCell(SIZE).apply({"params": theirs}, h, x)
    state, _ = cells.gru.step(config, params, cells.gru.State(h.T), x.T)
    close(state.h.T, expected)
    biased = hm.init(jax.random.key(0), hm.GRU(3, 4, forget_bias=5.0))["b_W"]
    np.testing.assert_array_equal(biased, [5] * 4 + [0] * 8)
