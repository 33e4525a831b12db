"""The Flax NNX adapter: every cell inside `nnx.RNN` is that of Flax linen, and trains."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fixtures import assert_close
from flax import nnx
from test_cell_guests import CONFIGS as ONE_OF_EACH

from hmrnn_jax import recurrence
from hmrnn_jax.cells import hm_lstm, linen, lstm
from hmrnn_jax.cells.nnx import RNNCell
from hmrnn_jax.errors import UserError

CONFIGS = ONE_OF_EACH | {"hm_lstm": hm_lstm.Config(3, (4, 2), z_init=1.0, boundary="soft")}
STEPS, BATCH, SLOPE = 5, 3, 2.0


def inputs(*shape):
    return jax.random.normal(jax.random.key(1), shape)


def rnn_of(config, seed=0, **settings):
    return nnx.RNN(RNNCell(config, slope=SLOPE, rngs=nnx.Rngs(seed), **settings), return_carry=True)


def params_of(module):
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))


def by_linen(config, rnn, x, **keywords):
    """`nn.RNN` with the parameters of an `nnx.RNN`."""
    other = nn.RNN(linen.RNNCell(config, slope=SLOPE, output="state"), return_carry=True)
    return other.apply({"params": params_of(rnn)}, x, **keywords)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_cell_is_the_one_of_linen_and_of_unroll(name):
    """Of linen bit for bit; `unroll` makes the products with the inputs all at once."""
    config, x = CONFIGS[name], inputs(BATCH, STEPS, 3)
    rnn = rnn_of(config, output="state")
    carry, states = rnn(x)
    jax.tree.map(np.testing.assert_array_equal, (carry, states), by_linen(config, rnn, x))
    start = recurrence.initial_state(config, BATCH)
    constants = {"slope": SLOPE} if config.uses_slope else None
    params = params_of(rnn)["cell"]["cell"]
    out = recurrence.unroll(config, params, start, x.swapaxes(0, 1), constants=constants)
    expected = jax.tree.map(lambda v: v.swapaxes(0, 1), out.states)
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-6), states, expected)
    (_, top), h = rnn_of(config)(x), expected.h
    assert_close(top, h[-1] if isinstance(h, tuple) else h, 1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_a_slope_is_the_one_of_linen_in_every_dtype(dtype):
    """Bit for bit, values and gradients, though one holds an array and the other a number."""
    config, choices = CONFIGS["hm_lstm"], {"slope": 1.3, "output": "state"}
    with jax.enable_x64(dtype == "float64"):
        cell = RNNCell(config, param_dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0), **choices)
        other = linen.RNNCell(config, param_dtype=jnp.dtype(dtype), **choices)
        (graph, state), params = nnx.split(cell), {"params": params_of(cell)}
        carry = cell.initialize_carry((64, 3))

        def by_nnx(x):
            return nnx.merge(graph, state)(carry, x)[0]

        def by_linen(x):
            return other.apply(params, carry, x)[0]

        @jax.jit
        def derived(x):
            (one, back), (two, again) = jax.vjp(by_nnx, x), jax.vjp(by_linen, x)
            ones = jax.tree.map(jnp.ones_like, one)
            return (one, back(ones)), (two, again(ones))

        for x in (inputs(64, 3), inputs(64, 3).astype(dtype)):
            actual, expected = derived(x)
            assert len(np.unique(expected[0].z[0])) > 10
            jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_small_increments_of_a_slope_add_up_in_half_precision():
    """bfloat16 has nothing between 2 and 2.0156."""
    cell = RNNCell(CONFIGS["hm_lstm"], slope=2, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    for _ in range(10):
        cell.slope[...] += 0.004
    assert float(cell.slope[...]) == pytest.approx(2.04)


def test_lengths_and_reversal_are_those_of_linen():
    config, x, lengths = CONFIGS["hm_lstm"], inputs(BATCH, STEPS, 3), jnp.array([2, 5, 3])
    rnn = rnn_of(config, output="state")
    for keywords in ({"seq_lengths": lengths}, {"seq_lengths": lengths, "reverse": True}):
        actual = rnn(x, **keywords)
        jax.tree.map(np.testing.assert_array_equal, actual, by_linen(config, rnn, x, **keywords))


def test_bidirectional_is_a_second_cell_on_the_reversed_text():
    config, x = lstm.Config(3, 4), inputs(BATCH, STEPS, 3)
    one, other = rnn_of(config), rnn_of(config, seed=1)
    y = nnx.Bidirectional(one, other)(x)
    (_, forward), (_, backward) = one(x), other(x[:, ::-1])
    np.testing.assert_array_equal(y, jnp.concatenate([forward, backward[:, ::-1]], axis=-1))


def test_training_lowers_the_loss_and_annealing_does_not_compile_again():
    config, x = CONFIGS["hm_lstm"], inputs(BATCH, STEPS, 3)
    rnn = rnn_of(config)
    optimizer = nnx.Optimizer(rnn, optax.adam(0.05), wrt=nnx.Param)
    traced = []

    @nnx.jit
    def update(rnn, optimizer):
        traced.append(1)

        def loss(rnn):
            return jnp.mean((rnn(x)[1] - 0.5) ** 2)

        value, gradient = nnx.value_and_grad(loss)(rnn)
        optimizer.update(rnn, gradient)
        return value

    losses = []
    for slope in np.linspace(1, 3, 10):
        rnn.cell.slope[...] = jnp.float32(slope)
        losses.append(float(update(rnn, optimizer)))
    assert losses[-1] < 0.8 * losses[0] and len(traced) == 1
    assert float(rnn.cell.slope[...]) == 3


def test_sample_mode_draws_anew_at_each_step_and_call():
    config = hm_lstm.Config(3, (2, 2), boundary="sample", detector_scale=0.0)  # fair coins
    rnn = rnn_of(config, output="state")
    first, second = (rnn(inputs(40, 20, 3))[1].z[0] for _ in range(2))
    assert set(np.unique(first)) == {0.0, 1.0} and abs(first.mean() - 0.5) < 0.1
    assert len(np.unique(first, axis=1).T) == 20 and (first != second).any()


def test_dtypes_and_the_carry_are_the_configurations():
    cell = RNNCell(CONFIGS["hm_lstm"], param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    carry = cell.initialize_carry((2, 6, 3), nnx.Rngs(0))
    assert [h.shape for h in carry.h] == [(2, 6, 4), (2, 6, 2)]
    assert all((z == 1).all() for z in carry.z)
    assert {v.dtype for v in jax.tree.leaves((carry, params_of(cell)))} == {jnp.dtype("bfloat16")}


def test_wrong_widths_and_outputs_are_refused():
    with pytest.raises(UserError, match="The input is 4 wide, .* input_size=3; make the two agree"):
        rnn_of(CONFIGS["lstm"])(inputs(BATCH, STEPS, 4))
    with pytest.raises(UserError, match="output is 'z'; it must be one of h, state"):
        RNNCell(CONFIGS["lstm"], output="z", rngs=nnx.Rngs(0))
