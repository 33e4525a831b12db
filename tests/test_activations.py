"""Scoring, looking and generating against computations done by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmrnn_jax import parallel, recurrence
from hmrnn_jax.batches.text import EvaluationStream
from hmrnn_jax.cells import hm_lstm
from hmrnn_jax.inference import activations, generate_text
from hmrnn_jax.models.language import LanguageModel
from hmrnn_jax.tasks import language

VOCABULARY = 11


@pytest.fixture(scope="module")
def setup():
    config = hm_lstm.Config(6, (8, 7, 5), layer_norm="none")
    model = LanguageModel(VOCABULARY, 6, (config,), 9)
    params = language.init_params(model, jax.random.key(3))
    params = jax.tree.map(lambda x: 1.5 * x, params)
    ids = np.random.default_rng(0).integers(0, VOCABULARY, 203).astype(np.int32)
    return model, params, ids


def whole(model, params, ids):
    """One pass over the whole text: the model's output for every symbol but the last."""
    return jax.jit(model.apply)({"params": params}, ids[:-1, None], model.initial_carry(1))


def test_every_symbol_but_the_first_is_scored_once_with_the_state_carried(setup):
    model, params, ids = setup
    out = whole(model, params, ids)
    log_probabilities = jax.nn.log_softmax(out.logits[:, 0])
    nats = -np.mean(np.asarray(log_probabilities)[np.arange(len(ids) - 1), ids[1:]])
    mesh = parallel.make_mesh(jax.devices()[:1])
    exact = language.Evaluator(model, mesh, batch=1, window=30, warmup=0)(params, ids)
    assert exact["symbols"] == len(ids) - 1
    assert exact["nats"] == pytest.approx(nats, abs=1e-6)
    assert exact["bpc"] == pytest.approx(nats / np.log(2), abs=1e-6)
    for layer, z in enumerate(out.states[0].z, start=1):
        assert exact[f"rate/layer{layer}"] == pytest.approx(float(z.mean()), abs=1e-6)
    # Rows that read all of their past first lose nothing, on one device or several.
    rows = language.Evaluator(
        model, parallel.make_mesh(jax.devices()[:2]), batch=4, window=30, warmup=len(ids)
    )(params, ids)
    assert rows["symbols"] == exact["symbols"]
    assert rows["nats"] == pytest.approx(nats, abs=1e-5)
    # Without it their first symbols are read from the initial state, and the score differs.
    cold = language.Evaluator(model, mesh, batch=4, window=30, warmup=0)(params, ids)
    assert abs(cold["nats"] - nats) > 1e-5


def test_operation_rates_count_update_copy_flush(setup):
    model, params, ids = setup
    z = [np.asarray(layer)[:, 0] for layer in whole(model, params, ids).states[0].z]
    mesh = parallel.make_mesh(jax.devices()[:1])
    result = language.Evaluator(model, mesh, batch=1, window=50, warmup=0)(params, ids)
    before = [np.concatenate([[0], layer[:-1]]) for layer in z] + [np.zeros(len(z[0]))]
    below = [np.ones(len(z[0])), *z]
    for layer, (p, q) in enumerate(zip(before, below, strict=True), start=1):
        assert result[f"flush/layer{layer}"] == pytest.approx(np.mean(p == 1), abs=1e-6)
        assert result[f"update/layer{layer}"] == pytest.approx(
            np.mean((p == 0) & (q == 1)), abs=1e-6
        )
        assert result[f"copy/layer{layer}"] == pytest.approx(np.mean((p == 0) & (q == 0)), abs=1e-6)


def test_step_mode_does_not_depend_on_the_slope_and_soft_mode_does(setup):
    model, params, ids = setup
    mesh = parallel.make_mesh(jax.devices()[:1])
    scores = {}
    for mode in ("step", "soft"):
        config = hm_lstm.Config(6, (8, 7, 5), layer_norm="none", boundary=mode)
        evaluator = language.Evaluator(model.clone(cells=(config,)), mesh, 1, 50, 0)
        scores[mode] = [evaluator(params, ids, slope)["nats"] for slope in (1.0, 5.0)]
    assert scores["step"][0] == scores["step"][1]
    assert abs(scores["soft"][0] - scores["soft"][1]) > 1e-4


def test_an_evaluation_takes_the_kernel_of_its_mesh(setup, monkeypatch):
    """It is asked while the step is traced."""
    model, params, _ = setup
    model = model.clone(policy=recurrence.Policy(backend="auto"))
    mesh = parallel.make_mesh(jax.devices()[:1])
    monkeypatch.setattr(parallel, "device_kind", lambda mesh=None: "TPU v4")
    evaluator = language.Evaluator(model, mesh, batch=2, window=5, warmup=0)
    batch = next(iter(EvaluationStream(np.zeros(9, np.int32), 2, 5)))
    scalars = {"slope": np.float32(1), "seed": np.uint32(0), "number": np.uint32(0)}
    traced = jax.make_jaxpr(evaluator._step)(params, model.initial_carry(2), batch, scalars)
    assert str(traced).count("pallas_call") == 1


def test_look_equals_one_pass_whatever_the_window(setup):
    model, params, ids = setup
    out = jax.jit(model.apply)({"params": params}, ids[:, None], model.initial_carry(1))
    z, norms = activations.of(model, params, ids, window=64)
    assert norms.shape == (3, len(ids))
    for layer in range(2):
        np.testing.assert_array_equal(z[layer], out.states[0].z[layer][:, 0])
    for layer in range(3):
        expected = np.linalg.norm(out.states[0].h[layer][:, 0], axis=-1)
        np.testing.assert_allclose(norms[layer], expected, rtol=1e-5, atol=1e-6)


def test_generation_at_temperature_zero_is_the_argmax(setup):
    model, params, ids = setup
    symbols, _ = generate_text.generate(model, params, ids[:5], 12, temperature=0)
    logits = whole(model, params, np.concatenate([ids[:5], symbols])).logits[4:, 0]
    np.testing.assert_array_equal(symbols, jnp.argmax(logits, -1))


def test_generated_log_probabilities_are_the_teacher_forced_ones(setup):
    model, params, ids = setup
    symbols, recorded = generate_text.generate(model, params, ids[:5], 30, temperature=0.7, seed=4)
    again, _ = generate_text.generate(model, params, ids[:5], 30, temperature=0.7, seed=4)
    other, _ = generate_text.generate(model, params, ids[:5], 30, temperature=0.7, seed=5)
    np.testing.assert_array_equal(symbols, again)
    assert (symbols != other).any()
    text = np.concatenate([ids[:5], symbols])
    forced = jax.nn.log_softmax(whole(model, params, text).logits[:, 0])
    expected = np.asarray(forced)[np.arange(4, len(text) - 1), symbols]
    np.testing.assert_allclose(recorded, expected, atol=1e-5)
