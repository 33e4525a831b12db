"""The ON-LSTM against outputs and gradients of the authors' own code (Shen et al. 2019)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import assert_close, load, names

from hmrnn_jax import recurrence
from hmrnn_jax.cells import on_lstm
from hmrnn_jax.models import ordered_neurons

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
POLICIES = {
    "deferred": recurrence.Policy(),
    "autodiff": recurrence.Policy(gradient="autodiff"),
}
TENSORS = {"W": "ih/weight", "b_W": "ih/bias", "U": "hh/weight", "b_U": "hh/bias"}


def params_of(arrays, config, prefix=""):
    """Our tree from the authors' tensors, of values or of gradients."""
    return {
        ours: ordered_neurons.rows_to_ours(arrays[prefix + theirs], config.size, config.chunk)
        for ours, theirs in TENSORS.items()
    }


def flat(c):
    """The authors keep c as `[..., n, C]`."""
    return np.reshape(c, (*np.shape(c)[:-2], -1))


def caster(dtype):
    return lambda tree: jax.tree.map(lambda v: jnp.asarray(v, dtype), tree)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", names("on_lstm_cell"))
def test_cell(name, dtype):
    arrays, meta = load(name)
    config = on_lstm.Config(meta["n_in"], meta["hidden"], meta["chunk_size"])
    with jax.enable_x64(dtype == "float64"):
        cast = caster(dtype)
        params = cast(params_of(arrays, config))
        state = cast(on_lstm.State(arrays["h0"].T, flat(arrays["c0"]).T))
        weights = cast([arrays["R"].T, flat(arrays["Rc"]).T, arrays["Rf"], arrays["Ri"]])

        def loss(params, state, x):
            new, aux = on_lstm.step(config, params, state, x)
            terms = zip(weights, (new.h, new.c, aux.forget, aux.input), strict=True)
            return sum(jnp.sum(r * v) for r, v in terms), (new, aux)

        grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
        (value, (new, aux)), gradients = grad(params, state, cast(arrays["x"].T))
    check = lambda a, b, key: assert_close(a, b, TOLERANCE[dtype], key)  # noqa: E731
    check(value, arrays["loss"], "loss")
    check(new.h.T, arrays["out/h"], "h")
    check(new.c.T, flat(arrays["out/c"]), "c")
    check(aux.forget, arrays["out/dist_forget"], "forget distance")
    check(aux.input, arrays["out/dist_in"], "input distance")
    to_params, to_state, to_x = gradients
    check(to_x.T, arrays["grad/x"], "x")
    check(to_state.h.T, arrays["grad/h0"], "h0")
    check(to_state.c.T, flat(arrays["grad/c0"]), "c0")
    for key, array in params_of(arrays, config, "grad/").items():
        check(to_params[key], array, key)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", names("on_lstm_stack"))
def test_stack(name, policy, dtype):
    arrays, meta = load(name)
    sizes = meta["sizes"]
    configs = [
        on_lstm.Config(n, size, meta["chunk_size"])
        for n, size in zip(sizes[:-1], sizes[1:], strict=True)
    ]
    layers = range(len(configs))
    keep = 1 - meta["dropconnect"]
    with jax.enable_x64(dtype == "float64"):
        cast = caster(dtype)
        params = cast([params_of(arrays, c, f"cell{k}/") for k, c in enumerate(configs)])
        states = cast([on_lstm.State(arrays[f"h0/{k}"], flat(arrays[f"c0/{k}"])) for k in layers])
        weights = cast([arrays["R"], [flat(arrays[f"Rc/{k}"]) for k in layers]])
        distances = cast([arrays["Rf"], arrays["Ri"]])

        def loss(params, states, x):
            outs = []
            for config, entry, state in zip(configs, params, states, strict=True):
                entry = entry | {"U": keep * entry["U"]}  # the authors' evaluation
                outs.append(recurrence.unroll(config, entry, state, x, policy=POLICIES[policy]))
                x = outs[-1].states.h
            value = jnp.sum(weights[0] * x)
            for k, out in enumerate(outs):
                value += jnp.sum(weights[1][k] * out.final.c)
                value += jnp.sum(distances[0][k] * out.aux.forget)
                value += jnp.sum(distances[1][k] * out.aux.input)
            return value, outs

        grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
        (value, outs), gradients = grad(params, states, cast(arrays["x"]))
    check = lambda a, b, key: assert_close(a, b, TOLERANCE[dtype], key)  # noqa: E731
    check(value, arrays["loss"], "loss")
    to_params, to_states, to_x = gradients
    check(to_x, arrays["grad/x"], "x")
    for k, config in enumerate(configs):
        check(outs[k].states.h, arrays[f"out/h/{k}"], f"h of layer {k}")
        check(outs[k].final.c, flat(arrays[f"out/c_last/{k}"]), f"c of layer {k}")
        check(outs[k].aux.forget, arrays["out/dist_forget"][k], f"forget distance {k}")
        check(outs[k].aux.input, arrays["out/dist_in"][k], f"input distance {k}")
        check(to_states[k].h, arrays[f"grad/h0/{k}"], f"h0 of layer {k}")
        check(to_states[k].c, flat(arrays[f"grad/c0/{k}"]), f"c0 of layer {k}")
        for key, array in params_of(arrays, config, f"grad/cell{k}/").items():
            check(to_params[k][key], array, f"{key} of layer {k}")
