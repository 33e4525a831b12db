"""The loops for CPUs are `lax.scan`, and concatenate nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmrnn_jax import parallel, recurrence
from hmrnn_jax.cells import hm_lstm
from hmrnn_jax.recurrence import cpu_loop


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("unroll", [1, 3])
def test_scan_is_that_of_lax(reverse, unroll):
    xs = {"a": jnp.arange(7.0), "b": jnp.arange(14).reshape(7, 2)}

    def body(carry, x):
        carry = 2 * carry + x["a"]
        return carry, (carry, x["b"] + 1, carry > 50)  # two of one shape and type, and a boolean

    expected = jax.lax.scan(body, 1.0, xs, reverse=reverse)
    actual = cpu_loop.scan(body, 1.0, xs, reverse, unroll)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
    assert [y.dtype for y in actual[1]] == [y.dtype for y in expected[1]]


def test_the_parts_of_an_operand_are_joined_in_their_order():
    def body(resident, carry, x, join):
        whole = join("product", [carry, resident * x])
        return whole[:2], join("other", whole)

    body = cpu_loop.with_scratch(body)
    carry, x = jnp.arange(6.0).reshape(2, 3), jnp.arange(12.0).reshape(4, 3)
    scratch = {"product": jnp.full((6, 3), jnp.nan)}
    (carry_after, scratch), y = body(2.0, (carry, scratch), x)
    np.testing.assert_array_equal(y, jnp.concatenate([carry, 2 * x]))
    np.testing.assert_array_equal(scratch["product"], y)
    np.testing.assert_array_equal(carry_after, carry)


def test_they_are_for_cpus_and_deferred_gradients_alone(monkeypatch):
    config = hm_lstm.Config(3, (4, 5))
    params = hm_lstm.init(jax.random.key(0), config)
    state = recurrence.initial_state(config, 2)

    def concatenations(**policy):
        policy = recurrence.Policy(backend="scan", **policy)
        return str(
            jax.make_jaxpr(
                lambda x: recurrence.unroll(config, params, state, x, policy=policy).states
            )(jnp.zeros((6, 2, 3)))
        ).count("= concatenate[")

    plain = concatenations(gradient="autodiff")
    assert concatenations(device_kind="TPU v4") == concatenations(device_kind="GPU A") == plain
    # One for each layer's product is gone.
    assert concatenations() == concatenations(device_kind="cpu") == plain - config.depth
    for chip in ("TPU v4", "GPU A"):  # asked while tracing
        monkeypatch.setattr(parallel, "device_kind", lambda chip=chip: chip)
        assert concatenations() == plain > concatenations(device_kind="cpu")
