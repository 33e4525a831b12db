"""A cell over time: deferred gradients, remat, unroll, precision and windows agree."""

import functools
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import assert_close
from oracles import lstm_step

from hmrnn_jax import cells, recurrence
from hmrnn_jax.cells import gru, hm_lstm, lstm, nested_lstm
from hmrnn_jax.errors import UserError
from hmrnn_jax.recurrence import Policy, execution

STEPS, BATCH, SYMBOLS = 8, 3, 4
HM_LSTM = functools.partial(hm_lstm.Config, 3, (4, 5))
CONFIGS = {
    "hm_lstm none": HM_LSTM(layer_norm="none"),
    "hm_lstm sum": HM_LSTM(z_init=1.0),
    "hm_lstm of three": hm_lstm.Config(3, (4, 2, 5), layer_norm="none"),
    "hm_lstm ba": HM_LSTM(layer_norm="ba"),
    "hm_lstm sample": HM_LSTM(boundary="sample", layer_norm="none"),
    "hm_lstm soft": HM_LSTM(boundary="soft", gradient="select", layer_norm="none"),
    "hm_lstm detectors": hm_lstm.Config(
        3,
        (4, 2, 5),
        surrogate="logistic",
        nested=True,
        detector_reads_h=True,
        reset_recurrent=True,
    ),
    "hm_lstm detectors, soft": HM_LSTM(
        boundary="soft", nested=True, detector_reads_h=True, reset_recurrent=True, layer_norm="ba"
    ),
    "lstm none": lstm.Config(3, 4),
    "lstm sum": lstm.Config(3, 4, layer_norm="sum"),
    "lstm ba": lstm.Config(3, 4, layer_norm="ba"),
    "nested_lstm": nested_lstm.Config(3, 4, depth=3),
    "gru": gru.Config(3, 4),
}
AUTODIFF = Policy(gradient="autodiff")


@functools.cache
def problem(config):
    """Parameters, state, table, ids, resets and noise, float64 or int."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: cells.of(config).init(key, config), jax.random.key(0))
    params = jax.tree_util.tree_map_with_path(
        lambda path, v: 0.4 * rng.normal(size=v.shape) + (path[-1].key == "gain"), shapes
    )
    state = jax.eval_shape(lambda: recurrence.initial_state(config, BATCH))
    state = jax.tree.map(lambda v: rng.normal(size=v.shape), state)
    if config.uses_slope:
        state = state._replace(z=tuple((z > 0).astype(float) for z in state.z))
    table, ids = rng.normal(size=(SYMBOLS, 3)), rng.integers(0, SYMBOLS, (STEPS, BATCH))
    resets = np.zeros((STEPS, BATCH), bool)
    resets[0, 0] = resets[3, 1] = resets[4] = True
    return params, state, table, ids, resets, rng.uniform(size=(STEPS, BATCH, 2))


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(config, policy, params, state, x, ids, resets, noise):
    return recurrence.unroll(
        config, params, state, x, resets=resets, policy=policy, table_ids=ids,
        constants={"slope": jnp.asarray(1.5, x.dtype)} if config.uses_slope else None,
        per_step={"noise": noise[..., : config.uses_noise]} if config.uses_noise else None,
    )  # fmt: skip


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames="table")
def gradients(config, policy, params, state, x, ids, resets, noise, table=False):
    """Values, and gradients to params, state and table, of a loss of all that comes out."""

    def loss(params, state, x):
        inputs = (x, ids) if table else (x[ids], None)
        out = run(config, policy, params, state, *inputs, resets, noise)
        return sum(jnp.sum(jnp.sin(k + v)) for k, v in enumerate(jax.tree.leaves(out))), out

    (_, out), grads = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(params, state, x)
    return out, grads


def assert_trees_close(actual, expected, tolerance):
    jax.tree.map(lambda a, b: assert_close(a, b, tolerance), actual, expected)


@pytest.mark.parametrize("name", CONFIGS)
def test_deferred_gradients_are_those_of_autodiff(name, x64):
    """To params, first state and inputs; with resets, in windows that go on from another."""
    config = CONFIGS[name]
    expected = gradients(config, AUTODIFF, *problem(config))
    assert_trees_close(gradients(config, Policy(), *problem(config)), expected, 1e-12)
    sizes = [float(jnp.abs(g).max()) for g in jax.tree.leaves(expected[1])]
    assert max(sizes) > 0.1 and np.isfinite(sizes).all()


@pytest.mark.parametrize(
    "change",
    [{"policy": Policy(remat=2)}, {"policy": Policy(remat=STEPS)}, {"policy": Policy(unroll=4)},
     {"table": True}, {"policy": Policy(device_kind="TPU v4")}],
    ids=["remat 2", "remat all", "unroll 4", "table", "an accelerator's scan"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["hm_lstm sample", "lstm none", "nested_lstm"])
def test_how_it_runs_never_changes_what_it_computes(name, change, x64):
    config = CONFIGS[name]
    expected = gradients(config, AUTODIFF, *problem(config))
    policy = change.get("policy", Policy())
    actual = gradients(config, policy, *problem(config), table=change.get("table", False))
    assert_trees_close(actual, expected, 1e-12)


def test_remat_with_a_table_and_layer_normalised_terms(x64):
    config = CONFIGS["hm_lstm ba"]
    expected = gradients(config, AUTODIFF, *problem(config))
    assert_trees_close(
        gradients(config, Policy(remat=4), *problem(config), table=True), expected, 1e-12
    )


def first(steps, arrays, start=0):
    params, state, table, *sequences = arrays
    return params, state, table, *(v[start : start + steps] for v in sequences)


@pytest.mark.parametrize("name", ["hm_lstm none", "lstm ba"])
def test_a_window_of_one_step(name, x64):
    """One step through the scan is the cell's own `step`, and has a gradient."""
    config = CONFIGS[name]
    params, state, table, ids, _, noise = first(1, problem(config))
    arrays = (params, state, table, ids, np.zeros((1, BATCH), bool), noise)
    (out, actual), (_, expected) = (gradients(config, p, *arrays) for p in (Policy(), AUTODIFF))
    assert_trees_close(actual, expected, 1e-12)
    columns = jax.tree.map(lambda v: jnp.moveaxis(v, 0, -1), state)
    after, _ = cells.of(config).step(config, params, columns, table[ids[0]].T)
    assert_trees_close(jax.tree.map(lambda v: jnp.moveaxis(v, -1, 0), after), out.final, 1e-12)


@pytest.mark.parametrize("name", ["hm_lstm sum", "lstm sum"])
def test_carried_windows_are_one_long_window(name, x64):
    config = CONFIGS[name]
    arrays = problem(config)
    whole = run(config, Policy(), *arrays)
    state, parts = arrays[1], []
    for start in range(0, STEPS, 4):
        params, _, *rest = first(4, arrays, start)
        out = run(config, Policy(), params, state, *rest)
        state = out.final
        parts.append((out.states, out.aux))
    joined = jax.tree.map(lambda *v: jnp.concatenate(v), *parts)
    assert_trees_close(joined, (whole.states, whole.aux), 1e-12)
    assert_trees_close(state, whole.final, 1e-12)


@pytest.mark.parametrize("name", ["hm_lstm none", "lstm sum"])
def test_bfloat16_touches_products_alone(name):
    """State, outputs and gradients stay float32; the two gradients agree to bfloat16's digits."""
    config = CONFIGS[name]
    arrays = jax.tree.map(lambda v: v.astype("float32") if v.dtype == float else v, problem(config))
    half = Policy(precision="bfloat16")
    out, actual = gradients(config, half, *arrays)
    same, expected = gradients(config, half._replace(gradient="autodiff"), *arrays)
    assert {v.dtype for v in jax.tree.leaves((out, actual))} == {jnp.dtype("float32")}
    assert_trees_close(out, same, 1e-6)
    assert_trees_close(actual, expected, 1e-2)
    exact = run(config, Policy(), *arrays)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (out, exact)), strict=True))


def test_weight_gradients_of_a_long_window_are_added_up_in_float32():
    """By autodiff too: what is rounded to bfloat16 is each product's operands, not their sum."""
    config = lstm.Config(3, 4, layer_norm="none")
    params, state = lstm.init(jax.random.key(0), config), recurrence.initial_state(config, 1)
    x = jnp.ones((1000, 1, 3))

    def gradient(policy):
        def loss(params):
            return recurrence.unroll(config, params, state, x, policy=policy).states.h.sum()

        return jax.grad(loss)(params)

    exact = gradient(Policy())
    for way in ("deferred", "autodiff"):
        found = gradient(Policy(precision="bfloat16", gradient=way))
        assert_trees_close(found, exact, 2e-2)


def test_high_precision_is_jaxs_in_all_products_and_a_cpu_is_exact():
    config = CONFIGS["hm_lstm none"]
    arrays = jax.tree.map(lambda v: v.astype("float32") if v.dtype == float else v, problem(config))
    high, exact = Policy(precision="high"), Policy()
    for ours, whole in zip(
        gradients(config, high, *arrays), gradients(config, exact, *arrays), strict=True
    ):
        assert_trees_close(ours, whole, 1e-6)
    traced = str(jax.make_jaxpr(lambda *given: gradients(config, high, *given))(*arrays))
    assert "Precision.HIGH," in traced and "Precision.HIGHEST" not in traced


@pytest.mark.parametrize(
    "device, told, precision",
    [
        ({"platform": "tpu"}, "", "bfloat16"),
        ({"platform": "gpu", "compute_capability": "8.0"}, "", "bfloat16"),
        ({"platform": "gpu", "compute_capability": "7.5"}, "amx_bf16", "float32"),
        ({"platform": "gpu", "compute_capability": "gfx90a"}, "", "float32"),
        ({"platform": "cpu"}, "flags : fpu avx512_bf16 sse", "bfloat16"),
        ({"platform": "cpu"}, "flags : fpu amx_bf16", "bfloat16"),
        ({"platform": "cpu"}, "flags : fpu avx2 avx512f", "float32"),
        ({"platform": "cpu"}, None, "float32"),
    ],
)
def test_the_native_precision_of_a_device(tmp_path, monkeypatch, device, told, precision):
    monkeypatch.setattr(execution, "CPU_INFO", tmp_path / "cpuinfo")
    if told is not None:
        (tmp_path / "cpuinfo").write_text(told + "\n")
    assert execution.native_precision(SimpleNamespace(**device)) == precision


@pytest.mark.parametrize(
    "policy, message",
    [
        (Policy(remat=3), "remat is 3; it must divide the window, 8 steps"),
        (Policy(gradient="none"), "gradient is 'none'; it must be one of deferred, autodiff"),
        (Policy(precision="high", backend="pallas"), "kernels multiply in float32 or bfloat16"),
        (
            Policy(precision="half"),
            "precision is 'half'; it must be one of float32, high, bfloat16",
        ),
    ],
)
def test_policies_that_cannot_be(policy, message):
    config = CONFIGS["lstm none"]
    with pytest.raises(UserError, match=message):
        run(config, policy, *problem(config))


# The LSTM, the baseline of the papers


@pytest.mark.parametrize("layer_norm", ["none", "sum", "ba"])
def test_lstm_is_its_equations(layer_norm, x64):
    config = lstm.Config(3, 4, layer_norm=layer_norm)
    params, state, table, ids, resets, noise = problem(config)
    out = run(config, Policy(), params, state, table, ids, np.zeros_like(resets), noise)
    for k in range(BATCH):
        h, c = state.h[k], state.c[k]
        for t in range(STEPS):
            h, c = lstm_step(config, params, h, c, table[ids[t, k]])
            assert_close(out.states.h[t, k], h, 1e-10)
            assert_close(out.states.c[t, k], c, 1e-10)


def test_lstm_is_the_lstm_of_flax(x64):
    config = CONFIGS["lstm none"]
    params, state, table, ids, resets, noise = problem(config)
    out = run(config, Policy(), params, state, table, ids, np.zeros_like(resets), noise)
    weights = {}
    for k, gate in enumerate("fiog"):
        rows = slice(4 * k, 4 * k + 4)
        weights[f"i{gate}"] = {"kernel": params["W"][rows].T}
        weights[f"h{gate}"] = {"kernel": params["U"][rows].T, "bias": params["b"][rows]}
    rnn = nn.RNN(nn.OptimizedLSTMCell(4), time_major=True)
    h = rnn.apply({"params": {"cell": weights}}, table[ids], initial_carry=(state.c, state.h))
    assert_close(out.states.h, h, 1e-12)


def test_lstm_initial_values():
    params = lstm.init(jax.random.key(0), lstm.Config(3, 4, forget_bias=1.0))
    np.testing.assert_array_equal(params["b"], [1] * 4 + [0] * 12)
    assert {name: v.shape for name, v in params.items()} == {"U": (16, 4), "W": (16, 3), "b": (16,)}
