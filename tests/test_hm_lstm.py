"""The HM-LSTM cell against the paper: Chung, Ahn, Bengio 2017, eq. 1-9."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import hm_lstm_step, inputs, make, random_state

from hmrnn_jax import recurrence
from hmrnn_jax.cells import hm_lstm, lstm
from hmrnn_jax.errors import UserError

Config = functools.partial(hm_lstm.Config, 3)
SIZES = (4, 6, 5)
NORMS = ("none", "sum", "ba")


@functools.partial(jax.jit, static_argnums=0, static_argnames="gradient")
def run(config, params, state, x, slope=1.0, resets=None, noise=None, gradient="deferred"):
    return recurrence.unroll(
        config, params, state, x, resets=resets, constants={"slope": slope},
        per_step=None if noise is None else {"noise": noise},
        policy=recurrence.Policy(gradient=gradient),
    )  # fmt: skip


def row(state, k):
    return jax.tree.map(lambda v: np.asarray(v)[k], state)


VARIANTS = {
    "default": Config(SIZES),
    "select": Config(SIZES, gradient="select"),
    "no layer norm": Config(SIZES, layer_norm="none"),
    "layer norm of Ba": Config(SIZES, layer_norm="ba"),
    "no top-down": Config(SIZES[:2], top_down=False),
    "no top-down, layer norm of Ba": Config(SIZES[:2], top_down=False, layer_norm="ba"),
    "no flush": Config(SIZES[:2], flush=False, layer_norm="none"),
    "z_init 1": Config(SIZES[:2], z_init=1.0),
    "sample": Config(SIZES, boundary="sample", layer_norm="none"),
    "soft": Config(SIZES, boundary="soft"),
    "soft without flush": Config(SIZES[:2], boundary="soft", flush=False, layer_norm="none"),
    "one layer": Config((5,)),
    "four layers": Config((3, 4, 2, 5), layer_norm="none"),
    "nested": Config(SIZES, nested=True),
    "nested, soft": Config(SIZES, nested=True, boundary="soft", layer_norm="none"),
    "the detector reads h": Config(SIZES, detector_reads_h=True),
    "no recurrent term at FLUSH": Config(SIZES, reset_recurrent=True),
    "no recurrent term at FLUSH, layer norm of Ba": Config(
        SIZES, reset_recurrent=True, layer_norm="ba"
    ),
    "no recurrent term at p, no flush": Config(SIZES, flush=False, reset_recurrent=True),
    "all, sampled": Config(
        SIZES,
        boundary="sample",
        surrogate="logistic",
        nested=True,
        detector_reads_h=True,
        reset_recurrent=True,
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_equations_1_to_9_step_by_step(name, x64):
    config, steps, batch, slope = VARIANTS[name], 12, 3, 0.7
    params, x = make(config), inputs(steps, batch)
    noise = np.random.default_rng(3).uniform(size=(steps, batch, config.depth - 1))
    start = recurrence.initial_state(config, batch, jnp.float64)
    out = run(config, params, start, x, slope, noise=noise if config.uses_noise else None)
    fired = set()
    for k in range(batch):
        state = row(start, k)
        assert all(z == config.z_init for z in state.z)
        for t in range(steps):
            state, detectors = hm_lstm_step(config, params, state, x[t, k], slope, noise[t, k])
            state = hm_lstm.State(*state)
            actual = jax.tree.map(lambda v, t=t, k=k: v[t, k], (out.states, out.aux.x))
            expected = (state, tuple(detectors))
            for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)
            fired |= set(state.z)
    if config.boundary != "soft" and config.depth > 1:
        assert fired == {0.0, 1.0}


def test_update_copy_and_flush_for_all_pairs_of_boundaries(x64):
    """Eq. 2-3: each (z_{t-1}^l, z_t^{l-1}) in the first, a middle and the last layer."""
    config = Config(SIZES, layer_norm="none")
    params, state, x = make(config), random_state(config, 64), inputs(1, 64)
    final = run(config, params, state, x).final
    pairs = [set(), set(), set()]
    for k in range(64):
        expected, _ = hm_lstm_step(config, params, row(state, k), x[0, k])
        for a, b in zip(jax.tree.leaves(row(final, k)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)
        own, below = [*row(state, k).z, 0.0], [1.0, *expected[2]]
        for layer in range(3):
            pairs[layer].add((float(own[layer]), float(below[layer])))
    assert pairs[0] == {(0, 1), (1, 1)}  # the first layer never COPYs
    assert pairs[1] == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert pairs[2] == {(0, 0), (0, 1)}  # the last never FLUSHes


@pytest.mark.parametrize("layer_norm", NORMS)
def test_copy_keeps_every_bit_for_1000_steps(layer_norm):
    """Without boundaries below, h and c of the upper layers never change (section 2.2.1)."""
    config = Config(SIZES, layer_norm=layer_norm)
    params = make(config, layer1=-5.0, layer2=-5.0)
    start = random_state(config, 2, dtype="float32")
    start = start._replace(z=tuple(np.zeros_like(z) for z in start.z))
    states = run(config, params, start, inputs(1000, 2).astype("float32")).states
    for layer in (1, 2):
        for name in ("h", "c"):
            history = np.asarray(getattr(states, name)[layer])
            copies = np.broadcast_to(getattr(start, name)[layer], history.shape)
            np.testing.assert_array_equal(history, copies)
    assert all((np.diff(v, axis=0) != 0).any() for v in (states.h[0], states.c[0]))


def changed(config, params, state, x, layer, other):
    """Whether (h, c) of `layer` after one step differ with the changes `other` makes."""
    results = [
        run(config, p, s, v).final for p, s, v in ((params, state, x), other(params, state, x))
    ]
    pairs = [(getattr(r, name)[layer]) for name in "hc" for r in results]
    return [bool((a != b).any()) for a, b in (pairs[:2], pairs[2:])]


def nudge(field, layer):
    """Adds 1 to part of one layer's state."""

    def other(params, state, x):
        values = list(getattr(state, field))
        values[layer] = values[layer] + np.arange(1, values[layer].shape[-1] + 1)
        return params, state._replace(**{field: tuple(values)}), x

    return other


def nudge_forget_bias(params, state, x):
    b = params["layer2"]["gates"]["b"].copy()
    b[: SIZES[1]] += 1
    gates = params["layer2"]["gates"] | {"b": b}
    return params | {"layer2": params["layer2"] | {"gates": gates}}, state, x


def nudge_input(params, state, x):
    return params, state, x + 1


@pytest.mark.parametrize("layer_norm", NORMS)
def test_what_reaches_the_middle_layer(layer_norm):
    """Eq. 2-7: FLUSH drops c_{t-1}, not h_{t-1}; U_td is gated by z_{t-1}^l, W_bu by z_t^{l-1}."""
    config = Config(SIZES, layer_norm=layer_norm)
    state = random_state(config, 2, dtype="float32")
    x = inputs(1, 2).astype("float32")
    closed, opened = make(config, layer1=-5.0), make(config, layer1=5.0)

    def reaches(params, own, other):
        before = state._replace(z=(state.z[0], np.full(2, own, "float32")))
        return changed(config, params, before, x, 1, other)

    never, always, memory = [False] * 2, [True] * 2, nudge("c", 1)
    # FLUSH, with and without bottom-up input
    for params in (closed, opened):
        assert reaches(params, 1, memory) == never
        assert reaches(params, 1, nudge_forget_bias) == never
        assert reaches(params, 1, nudge("h", 1)) == always
        assert reaches(params, 1, nudge("h", 2)) == always
    assert reaches(closed, 1, nudge_input) == never
    assert reaches(opened, 1, nudge_input) == always
    # UPDATE
    assert reaches(opened, 0, memory) == always
    assert reaches(opened, 0, nudge_forget_bias) == always
    assert reaches(opened, 0, nudge("h", 2)) == never
    assert reaches(opened, 0, nudge_input) == always
    # COPY
    assert reaches(closed, 0, nudge_input) == never
    assert reaches(closed, 0, nudge_forget_bias) == never


def test_first_and_last_layer_have_only_the_parts_the_paper_gives_them():
    """No detector and no top-down matrix in the last layer: 4H rows, not 4H + 1."""
    shapes = jax.eval_shape(lambda key: hm_lstm.init(key, Config(SIZES)), jax.random.key(0))
    shapes = jax.tree.map(lambda v: v.shape, shapes, is_leaf=lambda v: hasattr(v, "shape"))
    assert set(shapes) == {"layer1", "layer2", "layer3"}
    assert shapes["layer1"]["gates"] == {
        "U_rec": (16, 4), "U_td": (16, 6), "W_bu": (16, 3), "b": (16,),
    }  # fmt: skip
    assert shapes["layer2"]["detector"] == {
        "U_rec": (1, 6), "U_td": (1, 5), "W_bu": (1, 4), "b": (1,),
    }  # fmt: skip
    assert shapes["layer3"]["gates"] == {"U_rec": (20, 5), "W_bu": (20, 6), "b": (20,)}
    assert set(shapes["layer3"]) == {"gates", "norm"}
    assert len(recurrence.initial_state(Config(SIZES), 1).z) == 2


def test_options_of_the_detectors_leave_the_other_parameters_as_they_are():
    plain, reading = (
        hm_lstm.init(jax.random.key(0), Config(SIZES, nested=reads, detector_reads_h=reads))
        for reads in (False, True)
    )
    for name, size in (("layer1", 4), ("layer2", 6)):
        row = reading[name]["detector"].pop("V")
        assert row.shape == (1, size) and (np.abs(row) > 0).all()
        np.testing.assert_array_equal(row, reading[name]["detector"]["U_rec"])
    jax.tree.map(np.testing.assert_array_equal, plain, reading)


def test_without_top_down_terms_a_detector_reads_h_as_it_reads_the_layer_below():
    """Where both are equally wide; runs on record began so."""
    config = Config((3, 3, 4), top_down=False, detector_reads_h=True)
    params = hm_lstm.init(jax.random.key(0), config)
    for layer in ("layer1", "layer2"):
        detector = params[layer]["detector"]
        np.testing.assert_array_equal(detector["V"], detector["W_bu"])


def test_slope_changes_gradients_only_in_step_mode():
    """`z = 1 iff hardsigm_a(x) > 1/2` is `x > 0` for every a; soft boundaries do depend on a."""
    for mode, same in (("step", True), ("soft", False)):
        config = Config(SIZES[:2], boundary=mode, layer_norm="none")
        params, x = make(config), inputs(20, 2).astype("float32")
        start = recurrence.initial_state(config, 2)
        one, five = (run(config, params, start, x, slope).states.h[1] for slope in (1.0, 5.0))
        assert np.array_equal(one, five) == same


def test_sampled_boundaries_are_bernoulli_with_the_hard_sigmoid():
    """Mean of 1e5 draws within 4 standard errors, also where it saturates."""
    config = Config((2, 2), boundary="sample", layer_norm="none")
    draws, start = 100_000, recurrence.initial_state(config, 100_000)
    noise = jax.random.uniform(jax.random.key(0), (1, draws, 1))
    for x, slope in ((-0.3, 1.0), (0.4, 2.0), (0.6, 1.0), (-1.5, 1.0), (1.5, 1.0)):
        params = make(config, layer1=x)
        z = run(config, params, start, np.zeros((1, draws, 3), "float32"), slope, noise=noise)
        mean, p = float(z.final.z[0].mean()), min(1, max(0, (slope * x + 1) / 2))
        assert abs(mean - p) <= 4 * np.sqrt(p * (1 - p) / draws)


def test_without_boundaries_upper_layers_never_start(x64):
    """All z 0: the layers above COPY their zeros for ever."""
    config = Config(SIZES)
    start = recurrence.initial_state(config, 3, jnp.float64)
    states = run(config, make(config, layer1=-5.0, layer2=-5.0), start, inputs(12, 3)).states
    assert not any(v.any() for v in states.h[1:] + states.c[1:] + states.z)
    assert states.h[0].all()


def test_with_all_boundaries_the_last_layer_is_an_lstm_of_every_step(x64):
    """All z^1 1: the last layer of two is a plain LSTM over h^1."""
    config = Config(SIZES[:2])
    params, x = make(config, layer1=5.0), inputs(12, 3)
    start = recurrence.initial_state(config, 3, jnp.float64)
    states = run(config, params, start, x).states
    top = params["layer2"]
    plain = lstm.Config(4, 6, layer_norm="sum")
    weights = {"U": top["gates"]["U_rec"], "W": top["gates"]["W_bu"], "b": top["gates"]["b"]}
    weights["norm"] = top["norm"]
    expected = recurrence.unroll(
        plain, weights, recurrence.initial_state(plain, 3, jnp.float64), states.h[0]
    )
    np.testing.assert_allclose(states.h[1], expected.states.h, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layer_norm", NORMS)
def test_examples_of_a_batch_do_not_meet(layer_norm):
    config = Config(SIZES, layer_norm=layer_norm)
    params, x = make(config), inputs(12, 3).astype("float32")
    other, start = x.copy(), random_state(config, 3, dtype="float32")
    other[:, 1:] += 1
    before, after = (run(config, params, start, v).states for v in (x, other))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:, 0], b[:, 0]), before, after)
    assert (before.h[2][:, 1:] != after.h[2][:, 1:]).any()


def test_the_detector_is_not_normalised():
    """A gain or bias of layer normalisation never moves its own layer's detector."""
    config = Config(SIZES)
    params, start = make(config), random_state(config, 4, dtype="float32")
    norm = jax.tree.map(lambda v: 3 * v + 1, params["layer2"]["norm"])
    changed = params | {"layer2": params["layer2"] | {"norm": norm}}
    x = inputs(1, 4).astype("float32")
    before, after = (run(config, p, start, x) for p in (params, changed))
    np.testing.assert_array_equal(before.aux.x[1], after.aux.x[1])
    assert (before.final.h[1] != after.final.h[1]).any()
    shapes = jax.eval_shape(
        lambda key: hm_lstm.init(key, Config(SIZES, layer_norm="none")), jax.random.key(0)
    )
    assert all("norm" not in layer for layer in shapes.values())


@pytest.mark.parametrize("z_init", [0.0, 1.0])
def test_a_reset_row_starts_afresh(z_init):
    config = Config(SIZES[:2], z_init=z_init)
    params, x = make(config), inputs(12, 3).astype("float32")
    resets = np.zeros((12, 3), bool)
    resets[5, 1] = True
    start = random_state(config, 3, dtype="float32")
    out = run(config, params, start, x, resets=resets).states
    never = functools.partial(run, config, params, resets=np.zeros_like(resets))
    fresh = never(recurrence.initial_state(config, 3), np.roll(x, -5, axis=0)).states
    untouched = never(start, x).states
    for a, b, c in zip(*map(jax.tree.leaves, (out, fresh, untouched)), strict=True):
        np.testing.assert_allclose(a[5:, 1], b[:7, 1], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(a[:, [0, 2]], c[:, [0, 2]])
        np.testing.assert_array_equal(a[:5], c[:5])


def test_initial_values():
    """Orthogonal recurrent block for each gate; gates' biases small, none of them zero."""
    config = Config(SIZES[:2], forget_bias=1.5, detector_bias=-0.5, detector_scale=0.1)
    params = hm_lstm.init(jax.random.key(0), config)
    for name, size in (("layer1", 4), ("layer2", 6)):
        gates = params[name]["gates"]
        bias = np.asarray(gates["b"]) - np.repeat([1.5, 0], [size, 3 * size])
        assert (np.abs(bias) <= size**-0.5).all() and (bias != 0).all()
        for block in np.split(np.asarray(gates["U_rec"]), 4):
            np.testing.assert_allclose(block @ block.T, np.eye(size), atol=1e-5)
        fans = size + gates["W_bu"].shape[1]
        assert 0 < np.abs(gates["W_bu"]).max() <= np.sqrt(6 / fans)
    np.testing.assert_array_equal(params["layer1"]["detector"]["b"], [-0.5])
    assert 0 < np.abs(params["layer1"]["detector"]["W_bu"]).max() <= 0.1 * np.sqrt(6 / 4)
    assert all((norm["gain"] == 1).all() for norm in params["layer1"]["norm"].values())


def test_nested_boundaries_are_boundaries_of_the_layer_below():
    """And without the option they are not: a detector fires during COPY, too."""
    x = inputs(60, 4).astype("float32")
    for nested in (True, False):
        config = Config((4, 6, 5, 3), nested=nested)
        out = run(config, make(config, seed=3), random_state(config, 4, dtype="float32"), x)
        z = [np.asarray(layer) for layer in out.states.z]
        assert all(0 < layer.mean() < 1 for layer in z)
        inside = all((upper <= lower).all() for lower, upper in zip(z[:-1], z[1:], strict=True))
        assert inside == nested


@pytest.mark.parametrize("field", ["boundary", "gradient", "layer_norm", "surrogate"])
def test_unknown_choices_are_refused_with_the_known_ones(field):
    with pytest.raises(UserError, match=f"{field} is 'other'; it must be one of .*, "):
        Config(SIZES, **{field: "other"})
