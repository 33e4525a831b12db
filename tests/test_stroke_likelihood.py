"""The stroke model's likelihood against the equations, whatever the batch and the padding."""

import functools

import jax
import numpy as np
import pytest
import scipy.special
import scipy.stats
from oracles import hm_lstm_step, lstm_step, sigmoid
from stroke_models import COMPONENTS, data, make, mesh_of

from hmrnn_jax import parallel
from hmrnn_jax.batches.sequences import EvaluationSequences, columns
from hmrnn_jax.cells import hm_lstm
from hmrnn_jax.tasks import sequences as sequences_task


def likelihoods(model, params, sequences):
    """Log-likelihood of each sequence by the papers' equations, in float64, without batches."""
    params = jax.tree.map(lambda v: v.astype(np.float64), params)
    table = columns(sequences).astype(np.float64)
    result = []
    for i in range(len(sequences)):
        rows = table[sequences.place(i)]
        tops = _layers(model, params, rows[:-1])
        steps = zip(tops, rows[1:], strict=True)
        result.append(sum(_log_density(model, params, h, target) for h, target in steps))
    return np.array(result)


def _layers(model, params, inputs):
    """h of every layer after each step."""
    config, cells = model.cells[0], model.cells
    if isinstance(config, hm_lstm.Config):
        zeros = tuple(np.zeros(size) for size in config.sizes)
        state = hm_lstm.State(zeros, zeros, (0.0,) * (config.depth - 1))
        for x in inputs:
            state = hm_lstm.State(*hm_lstm_step(config, params["cell1"], state, x)[0])
            yield state.h
        return
    states = [(np.zeros(config.size),) * 2 for config in cells]
    for x in inputs:
        for layer, config in enumerate(cells):
            states[layer] = lstm_step(config, params[f"cell{layer + 1}"], *states[layer], x)
            x = states[layer][0]
        yield [h for h, _ in states]


def _log_density(model, params, hidden, target):
    if model.head == "gated":  # Chung et al. 2017, eq. 11-12
        output = params["output"]
        gates = sigmoid(np.concatenate(hidden) @ output["gate"])
        embedded = [h @ output[f"embed{n}"] for n, h in enumerate(hidden, 1)]
        top = np.maximum(sum(g * e for g, e in zip(gates, embedded, strict=True)), 0)
    else:
        top = hidden[-1]
    y, k = top @ params["mixture_kernel"] + params["mixture_bias"], COMPONENTS
    pi, mu, sigma = y[:k], y[k : 3 * k].reshape(k, 2), np.exp(y[3 * k : 5 * k].reshape(k, 2))
    rho = np.tanh(y[5 * k : 6 * k])
    logs = []
    for mean, (a, b), r in zip(mu, sigma, rho, strict=True):
        gaussian = scipy.stats.multivariate_normal(mean, [[a * a, r * a * b], [r * a * b, b * b]])
        logs.append(gaussian.logpdf(target[:2]))
    value = scipy.special.logsumexp(scipy.special.log_softmax(pi) + logs)
    return value + np.log(sigmoid(y[6 * k] if target[2] else -y[6 * k]))


@functools.cache
def scorer(model, devices):
    step = functools.partial(sequences_task.eval_step, model.inference)
    return parallel.pmapped_evaluation(step, mesh_of(devices))


def score(model, params, sequences, batch, window, devices=1, change=lambda part: part):
    mesh = mesh_of(devices)
    parts = map(change, EvaluationSequences(sequences, batch, window))
    params, carry = parallel.replicate(params, mesh), model.initial_carry(batch)
    return sequences_task.sequence_summary(
        parallel.accumulate(scorer(model, devices), params, carry, parts, mesh)
    )


@pytest.mark.parametrize(("cell", "head"), [("hm_lstm", "gated"), ("lstm", "plain")])
def test_likelihood_is_that_of_the_equations_whatever_the_batch(cell, head):
    """Padding, other rows, the evaluation's window and devices change no sequence's figure."""
    model, params = make(cell, head)
    sequences = data()
    expected = likelihoods(model, params, sequences)
    whole = score(model, params, sequences, batch=2, window=4)
    assert (whole["sequences"], whole["steps"]) == (5, 55)
    assert whole["log_likelihood"] == pytest.approx(expected.mean(), rel=1e-5)
    assert whole["nats"] == pytest.approx(-expected.sum() / 55, rel=1e-5)
    for i, own in enumerate(expected):  # each by itself, beside a row without a sequence
        alone = score(model, params, sequences.chosen([i]), batch=2, window=4)
        assert (alone["sequences"], alone["steps"]) == (1, sequences.lengths[i] - 1)
        assert alone["log_likelihood"] == pytest.approx(own, rel=1e-5)
    other = score(model, params, sequences, batch=4, window=40, devices=2)
    assert other == pytest.approx(whole, rel=1e-6)
    if cell == "hm_lstm":
        assert 0.05 < whole["rate/layer1"] < 0.95  # all three operations are at work


def test_what_the_padding_holds_changes_nothing():
    model, params = make("hm_lstm")
    rng = np.random.default_rng(1)

    def fill(part):
        padding = part.mask[..., None] == 0
        noise = rng.normal(size=part.inputs.shape).astype(np.float32)
        dirty = (np.where(padding, noise, x) for x in (part.inputs, part.targets))
        return part._replace(**dict(zip(("inputs", "targets"), dirty, strict=True)))

    clean = score(model, params, data(), batch=2, window=4)
    assert score(model, params, data(), 2, 4, change=fill) == clean
