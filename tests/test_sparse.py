"""What is read sparsely has the dense cell's numbers, and what is copied is not computed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import hm_lstm_step, make, random_state

from hmrnn_jax import recurrence
from hmrnn_jax.cells import hm_lstm, lstm
from hmrnn_jax.inference import activations, generate_text, sparse_model
from hmrnn_jax.models.language import LanguageModel
from hmrnn_jax.recurrence import active, sparse
from hmrnn_jax.tasks import language

SIZES = (4, 6, 5)
Config = functools.partial(hm_lstm.Config, 3)
CASES = {
    "no layer norm": (Config(SIZES, layer_norm="none"), 5),
    "sum": (Config(SIZES), 5),
    "layer norm of Ba": (Config(SIZES, layer_norm="ba"), 5),
    "sample, one row": (Config(SIZES, boundary="sample"), 1),
    "soft": (Config(SIZES[:2], boundary="soft"), 5),
    "no top-down, one row": (
        Config(SIZES, boundary="sample", top_down=False, layer_norm="ba"),
        1,
    ),
    "no flush": (Config(SIZES, flush=False, layer_norm="none"), 3),
    "z_init 1, one row": (Config(SIZES, z_init=1.0), 1),
    "one layer": (Config((5,)), 2),
    "two layers, one row": (Config((5, 3), layer_norm="none"), 1),
    "gathered": (Config((4, 3, 5), boundary="sample"), 70),
    "every option of the detectors": (
        Config(SIZES, boundary="sample", nested=True, detector_reads_h=True, reset_recurrent=True),
        5,
    ),
    "the detector reads h, layer norm of Ba, one row": (
        Config(SIZES, layer_norm="ba", nested=True, detector_reads_h=True, reset_recurrent=True),
        1,
    ),
}


def problem(config, batch, steps=24):
    """Parameters, a state with all pairs of boundaries, inputs, and the other arguments."""
    rng = np.random.default_rng(5)
    state = random_state(config, batch)
    noise = rng.uniform(size=(steps, batch, max(1, config.depth - 1)))
    # Rates that wander, so that a batch passes through every capacity.
    noise = noise + np.linspace(-0.6, 1, steps)[:, None, None]
    keywords = {
        "resets": rng.uniform(size=(steps, batch)) < 0.1,
        "constants": {"slope": 1.5},
        "per_step": {"noise": noise} if config.uses_noise else None,
    }
    keywords["resets"][0, :1] = True
    return make(config), state, rng.normal(size=(steps, batch, 3)), keywords


def jitted(function):
    # Compiling is all the time.
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def run(config, unroll=sparse.unroll):
    return jitted(functools.partial(unroll, config))


@pytest.mark.parametrize("name", CASES)
def test_equations_1_to_9_read_sparsely(name, x64):
    config, batch = CASES[name]
    params, state, x, keywords = problem(config, batch)
    out = run(config)(params, state, x, **keywords)
    noise = (keywords["per_step"] or {}).get("noise", x)
    first = recurrence.initial_state(config, 1, "float64")
    fired = set()
    for k in range(0, batch, 1 + batch // 10):
        row = jax.tree.map(lambda v, k=k: v[k], state)
        for t in range(len(x)):
            if keywords["resets"][t, k]:
                row = jax.tree.map(lambda v: np.asarray(v[0]), first)
            row, detectors = hm_lstm_step(config, params, row, x[t, k], 1.5, noise[t, k])
            row = hm_lstm.State(*map(tuple, row))
            actual = jax.tree.map(lambda v, t=t, k=k: v[t, k], (out.states, tuple(out.aux.x)))
            for ours, theirs in zip(
                jax.tree.leaves(actual), jax.tree.leaves((row, tuple(detectors))), strict=True
            ):
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)
            fired |= set(row.z)
    if config.boundary != "soft" and config.depth > 1:
        assert fired == {0, 1}


def test_inputs_may_be_rows_of_a_table(x64):
    config, batch = CASES["sum"]
    params, state, x, keywords = problem(config, batch)
    ids = np.random.default_rng(6).integers(4, size=x.shape[:2])
    table = x[0, :4]
    out = run(config)(params, state, table, table_ids=ids, **keywords)
    wanted = run(config)(params, state, table[ids], **keywords)
    for ours, theirs in zip(jax.tree.leaves(out), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_a_batch_passes_through_every_capacity():
    """The case above does: no active row, a block that holds them, more than it holds."""
    config, batch = CASES["gathered"]
    params, state, x, keywords = problem(config, batch)
    z = run(config, recurrence.unroll)(params, state, x, **keywords).states.z[0]
    capacities = active.finer_tiers(batch)
    held = {int(np.searchsorted(capacities, count)) for count in np.sum(z, axis=1)}
    assert capacities == (0, 5, 9, 18, 27, 35, 70) and held == set(range(7))
    assert active.tiers(batch) == (0, 9, 18, 35, 70)
    assert active.tiers(1) == (0, 1) and active.tiers(16) == (0, 8, 16)


def test_a_boundary_fired_on_copy_flushes_next():
    """The detector of a layer that COPYs is evaluated; where it fires, the layer FLUSHes."""
    config = Config((4, 5, 3), layer_norm="none")
    # Layer 1 never fires; layer 2 always does, from a COPY: so it FLUSHes at every later step.
    params = make(config, layer1=-5.0, layer2=5.0)
    state = random_state(config, 1)._replace(z=(np.zeros(1), np.zeros(1)))
    x = np.random.default_rng(0).normal(size=(3, 1, 3))
    out = run(config)(params, state, x)
    dense = run(config, recurrence.unroll)(params, state, x)
    assert np.asarray(out.states.z[0]).tolist() == [[0]] * 3
    assert np.asarray(out.states.z[1]).tolist() == [[1]] * 3
    np.testing.assert_array_equal(out.states.c[1][0], np.float32(state.c[1]))
    assert (np.asarray(out.states.c[1][1]) != out.states.c[1][0]).all()
    for ours, theirs in zip(jax.tree.leaves(out), jax.tree.leaves(dense), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("batch", (1, 20))
def test_what_is_copied_is_not_computed(batch):
    """Gates that would be NaN are never reached; the dense cell's numbers become NaN."""
    config = Config((4, 5, 3), layer_norm="none")
    params = make(config, layer1=-5.0, layer2=-5.0)
    state = random_state(config, batch)
    state = state._replace(z=tuple(np.zeros_like(z) for z in state.z))
    x = np.random.default_rng(0).normal(size=(4, batch, 3))
    for layer in ("layer2", "layer3"):
        params[layer]["gates"] = jax.tree.map(lambda v: np.nan * v, params[layer]["gates"])
    params["layer1"]["gates"]["U_td"] *= np.nan  # its own z is 0
    finite = [
        all(
            np.isfinite(leaf).all()
            for leaf in jax.tree.leaves(run(config, unroll)(params, state, x))
        )
        for unroll in (sparse.unroll, recurrence.unroll)
    ]
    assert finite == [True, False]


@pytest.fixture(scope="module")
def language_model():
    config = hm_lstm.Config(3, (6, 5, 4), boundary="sample")
    model = LanguageModel(7, 3, (config,), 8)
    shapes = jax.eval_shape(functools.partial(language.init_params, model), jax.random.key(0))
    draw = np.random.default_rng(1).normal
    return model, jax.tree.map(lambda s: draw(0, 0.5, s.shape).astype(np.float32), shapes)


HEADS = {
    "gated": {},
    "plain": {"head": "plain"},
    "bfloat16": {"policy": recurrence.Policy(precision="bfloat16")},
    "a large vocabulary": {},
}


@pytest.mark.parametrize("name", HEADS)
def test_a_sparse_model_is_the_model(name, language_model, monkeypatch):
    model, params = language_model
    if name == "a large vocabulary":
        monkeypatch.setattr(sparse_model, "_LARGEST_TABLE", 3)
    model = model.clone(**HEADS[name])
    if name == "plain":
        params = params | {"softmax_kernel": params["softmax_kernel"][: model.width]}
    skipping, weights = sparse_model.inference(model, params)
    assert isinstance(skipping, sparse_model.SparseModel) and skipping.inference is skipping
    rng = np.random.default_rng(2)
    ids = rng.integers(7, size=(12, 2))
    noise = rng.uniform(size=(12, 2, 2)).astype(np.float32)
    dense, apply = (jitted(pair.apply) for pair in (model, skipping))
    expected = dense({"params": params}, ids, model.initial_carry(2), slope=1.5, noise=noise)
    carry, parts = skipping.initial_carry(2), []
    for part in (slice(6), slice(6, 12)):
        out = apply({"params": weights}, ids[part], carry, slope=1.5, noise=noise[part])
        carry = out.carry
        parts.append((out.logits, out.states, out.aux, out.top))
    actual = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    wanted = (expected.logits, expected.states, expected.aux, expected.top)
    tolerance = 2e-2 if name == "bfloat16" else 2e-6
    for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


def test_what_a_detector_reads_of_the_new_h_is_no_operand():
    """It is not rounded to bfloat16, as training does not round it."""
    config = Config(SIZES, nested=True, detector_reads_h=True)
    params = hm_lstm.init(jax.random.key(0), config)
    weights = sparse.prepare(config, params, "bfloat16")
    for name in ("layer1", "layer2"):
        own, given = weights[name]["detector"], params[name]["detector"]
        np.testing.assert_array_equal(own["V"], given["V"])
        assert own["U_rec"].dtype == jnp.bfloat16 != own["V"].dtype


def test_generating_and_looking_are_as_dense(language_model):
    model, params = language_model
    skipping = sparse_model.inference(model, params)
    prompt = np.array([1, 5, 2])
    for temperature in (0.0, 1.0):
        dense, skipped = (
            generate_text.generate(*pair, prompt, 30, temperature, seed=3)
            for pair in ((model, params), skipping)
        )
        np.testing.assert_array_equal(skipped[0], dense[0])
        np.testing.assert_allclose(skipped[1], dense[1], atol=1e-5)
    ids = np.random.default_rng(4).integers(7, size=50)
    dense, skipped = (activations.of(*pair, ids) for pair in ((model, params), skipping))
    np.testing.assert_array_equal(skipped[0], dense[0])
    np.testing.assert_allclose(skipped[1], dense[1], atol=1e-5)


def test_only_what_has_copies_is_replaced(language_model):
    model, params = language_model
    for cells in (
        (hm_lstm.Config(3, (6, 5), boundary="soft"),),
        (hm_lstm.Config(3, (6, 5), z_init=0.5),),
        (lstm.Config(3, 6),),
        (lstm.Config(3, 6), lstm.Config(6, 6)),
    ):
        other = model.clone(cells=cells, policy=recurrence.Policy(remat=5))
        chosen, kept = sparse_model.inference(other, params)
        assert kept is params and chosen == other.inference and chosen.policy.remat == 0


def test_every_product_of_an_upper_layer_is_within_a_branch():
    """The program multiplies by no gates' kernel outside a conditional but U_rec of layer 1."""
    config = Config(SIZES, layer_norm="none")
    weights = sparse.prepare(config, make(config))
    state = hm_lstm.initial_state(config, (1,))
    jaxpr = jax.make_jaxpr(functools.partial(sparse.step, config))(
        weights, state, jnp.zeros((4 * SIZES[0] + 1, 1))
    )
    heights = [
        equation.outvars[0].aval.shape[0]
        for equation in jaxpr.jaxpr.eqns
        if equation.primitive.name == "dot_general"
    ]
    assert sorted(heights) == [1] * 5 + [4 * SIZES[0]]  # the rest are rows of detectors
