"""The Flax adapter: every cell inside `nn.RNN` is the library's own recurrence."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import assert_close
from flax.errors import InvalidRngError

from hmrnn_jax import recurrence
from hmrnn_jax.cells import hm_lstm, lstm
from hmrnn_jax.cells.linen import RNNCell
from hmrnn_jax.errors import UserError

CONFIGS = {
    "hm_lstm": hm_lstm.Config(3, (4, 5), z_init=1.0),
    "hm_lstm_ba": hm_lstm.Config(3, (4, 5), layer_norm="ba", boundary="soft"),
    "lstm": lstm.Config(3, 4, layer_norm="sum"),
}
STEPS, BATCH, SLOPE = 7, 3, 2.0


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def inputs(*shape):
    return jax.random.normal(jax.random.key(1), shape, jnp.float64)


def cell_of(config, **kwargs):
    return RNNCell(config, slope=SLOPE, param_dtype=jnp.float64, **kwargs)


def assert_trees_close(actual, expected, tolerance=1e-12):
    jax.tree.map(lambda a, b: assert_close(a, b, tolerance), actual, expected)


def unrolled(config, params, x, **kwargs):
    """`recurrence.unroll` on `x [B, T, d]`; states `[B, T, ...]`."""
    constants = {"slope": SLOPE} if config.uses_slope else None
    state = recurrence.initial_state(config, x.shape[0], x.dtype)
    out = recurrence.unroll(config, params, state, x.swapaxes(0, 1), constants=constants, **kwargs)
    return out.final, jax.tree.map(lambda v: v.swapaxes(0, 1), out.states)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_flax_rnn_equals_unroll_in_values_and_gradients(config):
    x = inputs(BATCH, STEPS, 3)
    rnn = nn.RNN(cell_of(config, output="state"), return_carry=True)
    params = rnn.init(jax.random.key(0), x)["params"]
    leaves = recurrence.initial_state(config, 1)

    def loss(states):
        return sum(jnp.sum(jnp.sin(k + v)) for k, v in enumerate(jax.tree.leaves(states)))

    def by_flax(params):
        final, states = rnn.apply({"params": params}, x)
        return loss(states), (final, states)

    def by_unroll(params):
        final, states = unrolled(config, params["cell"]["cell"], x)
        return loss(states), (final, states)

    (_, values), gradient = jax.jit(jax.value_and_grad(by_flax, has_aux=True))(params)
    (_, expected), expected_gradient = jax.jit(jax.value_and_grad(by_unroll, has_aux=True))(params)
    assert jax.tree.structure(values[0]) == jax.tree.structure(leaves)
    assert_trees_close(values, expected)
    assert_trees_close(gradient, expected_gradient)
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient)) > 0.01


def test_output_is_h_of_the_top_layer():
    config = CONFIGS["hm_lstm"]
    x = inputs(BATCH, STEPS, 3)
    rnn = nn.RNN(cell_of(config))
    y, variables = rnn.init_with_output(jax.random.key(0), x)
    _, states = unrolled(config, variables["params"]["cell"]["cell"], x)
    assert y.shape == (BATCH, STEPS, 5)
    assert_trees_close(y, states.h[-1])


def test_seq_lengths_give_the_state_at_each_rows_last_step():
    config = CONFIGS["hm_lstm"]
    x, lengths = inputs(BATCH, STEPS, 3), jnp.array([2, 7, 5])
    rnn = nn.RNN(cell_of(config))
    variables = rnn.init(jax.random.key(0), x)
    carry, _ = rnn.apply(variables, x, seq_lengths=lengths, return_carry=True)
    _, states = unrolled(config, variables["params"]["cell"]["cell"], x)
    last = jax.tree.map(lambda v: v[jnp.arange(BATCH), lengths - 1], states)
    assert_trees_close(carry, last)


def test_bidirectional_is_a_second_cell_on_the_reversed_text():
    config = CONFIGS["lstm"]
    x = inputs(BATCH, STEPS, 3)
    both = nn.Bidirectional(nn.RNN(cell_of(config)), nn.RNN(cell_of(config)))
    y, variables = both.init_with_output(jax.random.key(0), x)
    params = variables["params"]
    assert y.shape == (BATCH, STEPS, 8)
    _, forward = unrolled(config, params["forward_rnn"]["cell"]["cell"], x)
    _, backward = unrolled(config, params["backward_rnn"]["cell"]["cell"], x[:, ::-1])
    assert_trees_close(y, jnp.concatenate([forward.h, backward.h[:, ::-1]], axis=-1))


@pytest.mark.parametrize("name", ["hm_lstm", "lstm"])
def test_no_batch_axis_and_two_batch_axes_compute_the_same(name):
    x = inputs(2, BATCH, STEPS, 3)
    rnn = nn.RNN(cell_of(CONFIGS[name], output="state"), return_carry=True)
    variables = rnn.init(jax.random.key(0), x)
    two = rnn.apply(variables, x)
    flat = rnn.apply(variables, x.reshape(-1, STEPS, 3))
    one = rnn.apply(variables, x[1, 2])
    assert_trees_close(jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), two), flat)
    assert_trees_close(jax.tree.map(lambda v: v[1, 2], two), one)


def test_the_carry_starts_at_z_init():
    carry = RNNCell(CONFIGS["hm_lstm"]).initialize_carry(jax.random.key(0), (2, 6, 3))
    assert [h.shape for h in carry.h] == [(2, 6, 4), (2, 6, 5)]
    assert [z.shape for z in carry.z] == [(2, 6)]
    assert {v.dtype for v in jax.tree.leaves(carry)} == {jnp.dtype("float32")}
    assert all((z == 1).all() for z in carry.z)
    assert not any(v.any() for v in carry.h + carry.c)


def test_sample_mode_draws_anew_at_each_step_and_needs_its_stream():
    # Detectors with weight zero: every boundary is a fair coin, whatever the input.
    config = hm_lstm.Config(3, (2, 2), boundary="sample", detector_scale=0.0)
    x, key = inputs(40, 50, 3), jax.random.key(0)
    rnn = nn.RNN(cell_of(config, output="state"), split_rngs={"params": False, "boundary": True})
    variables = rnn.init({"params": key, "boundary": key}, x)
    (z,) = rnn.apply(variables, x, rngs={"boundary": key}).z
    assert set(np.unique(z)) == {0.0, 1.0}
    assert abs(z.mean() - 0.5) < 4 * 0.5 / np.sqrt(z.size)
    assert len(np.unique(z, axis=0)) == 40
    assert len(np.unique(z, axis=1).T) == 50
    with pytest.raises(InvalidRngError):
        rnn.apply(variables, x)


def test_unknown_output_is_refused():
    with pytest.raises(UserError, match="output is 'z'; it must be one of h, state"):
        RNNCell(CONFIGS["lstm"], output="z")


def test_an_input_of_another_width_is_refused():
    rnn = nn.RNN(cell_of(CONFIGS["lstm"]))
    with pytest.raises(UserError, match="The input is 4 wide, .* input_size=3; make the two agree"):
        rnn.init(jax.random.key(0), inputs(BATCH, STEPS, 4))


def test_parameters_of_half_precision():
    cell = RNNCell(CONFIGS["hm_lstm"], param_dtype=jnp.bfloat16)
    carry = cell.initialize_carry(jax.random.key(0), (BATCH, 3))
    params = cell.init(jax.random.key(0), carry, inputs(BATCH, 3).astype(jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
