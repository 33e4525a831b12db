"""The Nested LSTM against numeric fixtures: values and gradients (Moniz, Krueger 2017)."""

import jax
import jax.numpy as jnp
import pytest
from fixtures import assert_close, chunk, load, names

from hmrnn_jax import recurrence
from hmrnn_jax.cells import nested_lstm

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
# For a window of so many steps.
POLICIES = {
    "deferred": lambda steps: recurrence.Policy(),
    "autodiff": lambda steps: recurrence.Policy(gradient="autodiff"),
    "remat": lambda steps: recurrence.Policy(remat=chunk(steps)),
}


def params_of(arrays, depth, prefix=""):
    """Our tree from the fixture's `level{d}/NAME`, of values or of gradients."""
    return {
        f"level{d + 1}": {
            "U": arrays[f"{prefix}level{d}/U"].T,
            "W": arrays[f"{prefix}level{d}/W"].T,
            "b": arrays[f"{prefix}level{d}/b"],
        }
        for d in range(depth)
    }


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("proposal", ["identity", "tanh"])
@pytest.mark.parametrize("name", names("nested_lstm"))
def test_fixture(name, proposal, policy, dtype):
    arrays, meta = load(name)
    prefix = "" if proposal == "identity" else "outer_tanh/"
    depth, tolerance = meta["depth"], TOLERANCE[dtype]
    config = nested_lstm.Config(meta["n_in"], meta["hidden"], depth, proposal)
    with jax.enable_x64(dtype == "float64"):
        cast = lambda tree: jax.tree.map(lambda v: jnp.asarray(v, dtype), tree)  # noqa: E731
        params = cast(params_of(arrays, depth))
        state = cast(
            nested_lstm.State(arrays["h0"], tuple(arrays[f"c0/{d}"] for d in range(depth)))
        )
        steps = cast(arrays["R"])
        last = cast([arrays[f"Rc/{d}"] for d in range(depth)])

        def loss(params, state, x):
            out = recurrence.unroll(config, params, state, x, policy=POLICIES[policy](len(x)))
            value = jnp.sum(steps * out.states.h)
            value += sum(jnp.sum(r * c) for r, c in zip(last, out.final.c, strict=True))
            return value, out

        grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
        (value, out), (to_params, to_state, to_x) = grad(params, state, cast(arrays["x"]))
    assert_close(value, arrays[f"{prefix}loss"], tolerance, "loss")
    assert_close(out.states.h, arrays[f"{prefix}out/h"], tolerance, "h")
    assert_close(to_x, arrays[f"{prefix}grad/x"], tolerance, "x")
    assert_close(to_state.h, arrays[f"{prefix}grad/h0"], tolerance, "h0")
    for d in range(depth):
        assert_close(out.states.c[d], arrays[f"{prefix}out/c/{d}"], tolerance, f"c{d}")
        assert_close(to_state.c[d], arrays[f"{prefix}grad/c0/{d}"], tolerance, f"c0/{d}")
    expected = params_of(arrays, depth, f"{prefix}grad/")
    for level, entry in expected.items():
        for key, array in entry.items():
            assert_close(to_params[level][key], array, tolerance, f"{level}/{key}")
