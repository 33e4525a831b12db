"""What the detectors of classifiers do: rates over the steps that count, collapse, the log."""

import functools
import json

import jax
import numpy as np
import pytest
from oracles import hm_lstm_step
from runs import run

from hmrnn_jax import defaults, parallel
from hmrnn_jax.batches.images import ImageBatch
from hmrnn_jax.batches.pairs import EvaluationPairs
from hmrnn_jax.cells import hm_lstm, lstm
from hmrnn_jax.datasets import mnist
from hmrnn_jax.datasets.logic import Pairs
from hmrnn_jax.models import classifiers
from hmrnn_jax.tasks import classification

SLOPE, ROWS = 1.5, 4
SIZES = (5, 4, 3)
OPERATIONS = ("update", "copy", "flush")
CELL = hm_lstm.Config(4, SIZES, layer_norm="none", z_init=1.0)


def image_problem(cell=CELL):
    """A classifier of images, a batch with a filler row, and the sequences that count."""
    model = classifiers.Classifier((cell,), 10)
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(6, ROWS, 4)).astype(np.float32)
    mask = np.array([1, 1, 0, 1], np.float32)
    batch = ImageBatch(inputs, np.zeros(ROWS, np.int32), mask)
    return model, batch, lambda params: [inputs[:, row] for row in np.flatnonzero(mask)]


def pair_problem():
    """The same of three pairs of sentences of 1 to 6 symbols; the fourth row is a filler."""
    model = classifiers.PairClassifier(6, 4, (CELL,), 5, 3)
    rng = np.random.default_rng(0)
    sides = [
        [rng.integers(1, 6, n).tolist() for n in lengths] for lengths in ((1, 6, 3), (4, 2, 1))
    ]
    (batch,) = EvaluationPairs(Pairs.of(*sides, [0, 1, 2]), ROWS, devices=2)
    return model, batch, lambda params: [params["embedding"][s] for side in sides for s in side]


def drawn(model, batch):
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda v: (0.6 * rng.normal(size=v.shape)).astype("float32"), shapes)


def summed(model, params, batch):
    """The sums of an evaluation's batch on two devices."""
    mesh = parallel.make_mesh(jax.devices()[:2])
    step = parallel.pmapped_evaluation(functools.partial(classification.eval_step, model), mesh)
    return parallel.accumulate(step, params, (), [batch], mesh, slope=SLOPE)


def rates_by_hand(params, sequences):
    """Shares of all steps of the sequences, each read by itself from the initial state."""
    params, rows = jax.tree.map(lambda v: v.astype(np.float64), params), []
    for sequence in sequences:
        zeros = tuple(np.zeros(size) for size in SIZES)
        state = hm_lstm.State(zeros, zeros, (CELL.z_init,) * 2)
        for x in sequence:
            before = (*state.z, 0)
            new, detectors = hm_lstm_step(CELL, params["cell1"], state, x, SLOPE)
            state, row = hm_lstm.State(*new), {}
            below = (1, *state.z)
            for layer in range(3):
                done = "flush" if before[layer] else "update" if below[layer] else "copy"
                row |= {f"{kind}/layer{layer + 1}": kind == done for kind in OPERATIONS}
            for layer in range(2):
                row[f"rate/layer{layer + 1}"] = state.z[layer]
                row[f"live/layer{layer + 1}"] = abs(SLOPE * detectors[layer]) < 1
            rows.append(row)
    return {name: np.mean([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("problem", [image_problem, pair_problem])
def test_rates_are_of_the_steps_that_count_alone(problem):
    """Neither padding nor filler rows; counted by hand, a sequence at a time."""
    model, batch, sequences = problem()
    params = drawn(model, batch)
    sums = summed(model, params, batch)
    expected = rates_by_hand(params, sequences(params))
    assert sums["count"] == 3 and sums["steps"] == sum(map(len, sequences(params)))
    result = classification.summary(sums)
    assert {name: value for name, value in result.items() if "/" in name} == pytest.approx(expected)
    various = ["rate/layer1", "live/layer1", *(f"{kind}/layer2" for kind in OPERATIONS)]
    assert all(0.05 < expected[name] < 0.95 for name in various)


def test_other_cells_have_no_rates():
    model, batch, _ = image_problem(lstm.Config(4, 5))
    result = classification.summary(summed(model, drawn(model, batch), batch))
    assert result.keys() == {"examples", "nats", "accuracy", "error"}


def test_training_logs_the_rates_and_warns_of_a_dead_detector(monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    parts = {
        split: mnist.Labelled(
            rng.integers(0, 256, (n, 28, 28)).astype(np.uint8), rng.integers(0, 10, n)
        )
        for split, n in (("train", 16), ("valid", 8), ("test", 8))
    }
    monkeypatch.setattr(mnist, "load", lambda path: mnist.Images("made up", parts, "nowhere"))
    config = defaults.images()
    config.model.patch, config.model.sizes = 14, (6, 5)
    config.model.hm_lstm.detector_bias = -9.0
    config.batch = config.evaluation.batch = 8
    config.epochs, config.report = 1, 1
    _, said = run(config, tmp_path)
    assert "fires 0.00  live 0.00" in said and "copy 0.00 1.00" in said
    assert "warning: the detector of layer1 has collapsed: it never fires" in said
    assert "warning: the detector of layer1 no longer learns" in said
    train, *_, test = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert (train["rate/layer1"], train["update/layer1"], train["copy/layer2"]) == (0, 1, 1)
    assert test["test/rate/layer1"] == 0
