"""The HM-LSTM against numeric fixtures: values and gradients, float64 and float32.

Every file is put to the front door with deferred gradients, without, and rematerialised.
Equations: Chung, Ahn, Bengio 2017, eq. 1-12.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import assert_close, chunk, load, names

from hmrnn_jax import recurrence
from hmrnn_jax.cells import hm_lstm

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
# For a window of so many steps.
POLICIES = {
    "deferred": lambda steps: recurrence.Policy(),
    "autodiff": lambda steps: recurrence.Policy(gradient="autodiff"),
    "remat": lambda steps: recurrence.Policy(remat=chunk(steps)),
}


def config_of(arrays, meta, **changes):
    fields = dict(
        input_size=meta["n_in"],
        sizes=tuple(meta["hidden"]),
        boundary=meta["mode"],
        layer_norm="sum" if meta["layer_norm"] else "none",
    )
    return hm_lstm.Config(**(fields | changes))


def params_of(arrays, config, prefix=""):
    """Our tree from the fixture's `layer{l}/NAME`; works on values and on gradients."""
    params = {}
    for layer, size in enumerate(config.sizes):
        rows = 4 * size
        get = lambda name, layer=layer: arrays[f"{prefix}layer{layer}/{name}"]  # noqa: E731
        whole = {name: get(name).T for name in config.terms(layer)} | {"b": get("b")}
        entry = {"gates": {name: value[:rows] for name, value in whole.items()}}
        if layer < config.depth - 1:
            entry["detector"] = {name: value[rows:] for name, value in whole.items()}
        if config.layer_norm == "sum":
            entry["norm"] = {
                "s": {"gain": get("ln_gain"), "bias": get("ln_bias")},
                "c": {"gain": get("ln_c_gain"), "bias": get("ln_c_bias")},
            }
        params[f"layer{layer + 1}"] = entry
    return params


def state_of(arrays, config, prefix="", suffix="0"):
    depth = config.depth
    return hm_lstm.State(
        *(
            tuple(arrays[f"{prefix}{name}{suffix}/{layer}"] for layer in range(count))
            for name, count in (("h", depth), ("c", depth), ("z", depth - 1))
        )
    )


def run(config, meta, policy, params, state, x, weights):
    def loss(params, state, x):
        out = recurrence.unroll(
            config, params, state, x, constants={"slope": jnp.asarray(meta["slope"], x.dtype)},
            policy=policy(len(x)),
        )  # fmt: skip
        steps, last = weights
        value = sum(jnp.sum(r * h) for r, h in zip(steps, out.states.h, strict=True))
        value += sum(jnp.sum(r * c) for r, c in zip(last, out.final.c, strict=True))
        return value, out

    grad = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
    return jax.jit(grad)(params, state, x)


def check(arrays, meta, policy, dtype, *, window="", state=None, gradient="grad", changes=()):
    """One window of a fixture; returns the state after it."""
    tolerance = TOLERANCE[dtype]
    config = config_of(arrays, meta, **dict(changes))
    cast = lambda tree: jax.tree.map(lambda v: jnp.asarray(v, dtype), tree)  # noqa: E731
    params = cast(params_of(arrays, config))
    state = cast(state_of(arrays, config)) if state is None else state
    layers = range(config.depth)
    weights = cast(
        ([arrays[f"{window}R/{k}"] for k in layers], [arrays[f"{window}Rc/{k}"] for k in layers])
    )
    (loss, out), grads = run(
        config, meta, policy, params, state, cast(arrays[f"{window}x"]), weights
    )
    for name, values in (("h", out.states.h), ("c", out.states.c), ("pre", out.aux.x)):
        for layer, value in enumerate(values):
            key = f"{window}out/{name}/{layer}"
            assert_close(value, arrays[key], tolerance, key)
    for layer, z in enumerate(out.states.z):
        if meta["mode"] == "step":
            np.testing.assert_array_equal(z, arrays[f"{window}out/z/{layer}"])
        assert_close(z, arrays[f"{window}out/z/{layer}"], tolerance)
    assert_close(loss, arrays[f"{window}loss"], tolerance)
    expected = (
        params_of(arrays, config, f"{window}{gradient}/"),
        state_of(arrays, config, f"{window}{gradient}/"),
        arrays[f"{window}{gradient}/x"],
    )
    jax.tree_util.tree_map_with_path(
        lambda path, a, b: assert_close(a, b, tolerance, jax.tree_util.keystr(path)),
        grads,
        expected,
    )
    return out.final


@pytest.fixture(params=sorted(TOLERANCE))
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


# Rounding is that of the cell, whichever way its gradient is taken.
EVERY_WAY = pytest.mark.parametrize(
    ("dtype", "policy"),
    [("float32", POLICIES["deferred"]), *(("float64", policy) for policy in POLICIES.values())],
    ids=["float32", *(f"float64-{name}" for name in POLICIES)],
    indirect=["dtype"],
)


CELLS = [name for name in names("hm_lstm") if "output_module" not in name]
SELECT = [name for name in CELLS if any("grad_select/" in key for key in load(name)[0])]


@EVERY_WAY
@pytest.mark.parametrize("name", CELLS)
def test_values_and_gradients(name, policy, dtype):
    arrays, meta = load(name)
    if "windows" not in meta:
        check(arrays, meta, policy, dtype)
        return
    state = None
    for window in range(len(meta["windows"])):
        state = check(arrays, meta, policy, dtype, window=f"window{window}/", state=state)


@EVERY_WAY
@pytest.mark.parametrize("name", SELECT)
def test_select_gradients(name, policy, dtype):
    arrays, meta = load(name)
    check(arrays, meta, policy, dtype, gradient="grad_select", changes={"gradient": "select"})


@pytest.mark.skipif(not names("hm_lstm_carry"), reason="the folder has no hm_lstm_carry.npz")
def test_dropping_z_from_the_carry_gives_the_wrong_answer(dtype):
    arrays, meta = load("hm_lstm_carry")
    config = config_of(arrays, meta)
    state = state_of(arrays, config, "window0/state_after/", "")
    state = state._replace(z=tuple(np.zeros_like(z) for z in state.z))
    cast = lambda tree: jax.tree.map(lambda v: jnp.asarray(v, dtype), tree)  # noqa: E731
    out = recurrence.unroll(
        config, cast(params_of(arrays, config)), cast(state), cast(arrays["window1/x"])
    )
    for layer, h in enumerate(out.states.h):
        assert_close(h, arrays[f"no_z_carry/out/h/{layer}"], TOLERANCE[dtype])
        assert np.max(np.abs(h - arrays[f"window1/out/h/{layer}"])) > 1e-3
