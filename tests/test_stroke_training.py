"""Training on real-valued sequences: gradients, learning, the log, faults of a configuration."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stroke_models import CELLS, config_of, draw, mesh_of, shrink_oscillators

from hmrnn_jax import defaults, parallel, tasks
from hmrnn_jax.batches.sequences import SequenceBatch
from hmrnn_jax.datasets.sequences import Scale
from hmrnn_jax.errors import UserError
from hmrnn_jax.models import mixture
from hmrnn_jax.models.density import StrokeModel
from hmrnn_jax.tasks import sequences
from hmrnn_jax.training import optim, settings, workdir
from hmrnn_jax.training import state as train_state


def batch_of(rows=4, steps=6):
    """A window of ragged rows, so that devices differ in how many of their steps count."""
    lengths = np.array([steps, 1, 3, 2][:rows])
    rng = np.random.default_rng(2)
    values = rng.normal(size=(steps + 1, rows, 3)).astype(np.float32)
    values[..., 2] = values[..., 2] > 0
    mask = (np.arange(steps)[:, None] < lengths).astype(np.float32)
    resets = np.zeros((steps, rows), bool)
    resets[0] = True
    return SequenceBatch(values[:-1], values[1:], mask, resets)


def test_one_and_two_devices_have_the_same_loss_and_gradient():
    """The mean over all counted steps, and its plain gradient: one step of SGD at rate 1."""
    model = StrokeModel(2, True, CELLS["lstm"][:1], head="plain", components=2)
    params, sgd = draw(model), optim.optimizer("sgd", clip=1e9)
    step = functools.partial(train_state.train_step, functools.partial(sequences.loss, model), sgd)
    scalars = {"learning_rate": np.float32(1), "slope": np.float32(1)}
    batch, found = batch_of(), []
    for devices in (1, 2):
        mesh = mesh_of(devices)
        state = train_state.create(lambda key: params, sgd, seed=0)
        carry = parallel.shard_rows(jax.tree.map(np.asarray, model.initial_carry(4)), mesh)
        state, _, sums = parallel.pmapped(step, mesh)(
            parallel.replicate(state, mesh), carry, parallel.shard_batch(batch, mesh),
            parallel.replicate(scalars, mesh),
        )  # fmt: skip
        moved = jax.tree.map(lambda a, b: a - np.asarray(b), params, state.params)
        found.append((moved, jax.device_get(sums)))

    @jax.jit
    @jax.value_and_grad
    def plain(params):
        out = model.apply({"params": params}, batch.inputs, model.initial_carry(4))
        values, events = batch.targets[..., :2], batch.targets[..., 2]
        nll = mixture.negative_log_likelihood(out.mixture, values, events)
        return jnp.sum(nll * batch.mask) / batch.mask.sum()

    loss, gradient = plain(params)
    for moved, sums in found:
        assert float(sums["nats"] / sums["count"]) == pytest.approx(float(loss), rel=1e-6)
        assert (sums["count"], sums["sequences"]) == (12, 4)
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-6), moved, gradient)
    assert max(float(np.abs(g).max()) for g in jax.tree.leaves(gradient)) > 0.1


@pytest.fixture
def small_oscillators(monkeypatch):
    shrink_oscillators(monkeypatch)


@pytest.mark.parametrize("cell", ["hm_lstm", "lstm"])
def test_training_lowers_the_loss_of_held_out_sequences(small_oscillators, cell):
    mesh = mesh_of()
    config = config_of(**{"model.cell": cell})
    task = tasks.make(config, mesh)
    params = draw(task.model, scale=0.3)
    task.init_params = lambda key: params
    plan = optim.Plan(config, task.stream)
    state, carry = train_state.start(task, plan, config, mesh)
    step = functools.partial(train_state.train_step, task.loss, plan.optimizer)
    step = parallel.pmapped(step, mesh)
    scalars = {"learning_rate": np.float32(config.learning_rate), "slope": np.float32(1)}
    before = task.evaluate(state.params, "valid", 1.0)
    assert (before["steps"], before["sequences"]) == (3 * 60, 3)
    losses = []
    for done in range(60):
        batch = parallel.shard_batch(task.stream(done), mesh)
        state, carry, metrics = step(state, carry, batch, scalars)
        losses.append(task.summary(jax.device_get(metrics))["nats"])
    after = task.evaluate(state.params, "valid", 1.0)
    # Independent normal values of deviation 1 have 2.84 nats a step.
    assert np.mean(losses[-6:]) < 2.4 < 2.8 < losses[0]
    assert after["nats"] < min(2.4, before["nats"] - 0.4)
    assert task.score(after) == after["nats"]
    words = f"log-likelihood {-60 * after['nats']:.2f} a sequence, {-after['nats']:.4f} a step"
    assert task.headline(after) == words


def test_the_log_names_the_lengths_while_they_are_few(small_oscillators):
    task = tasks.make(config_of(), mesh_of())
    assert "padded to 60 steps: 0.0% of an epoch's steps are padding" in task.describe()
    task.stream.ends = np.arange(100, 2001, 100)
    assert "padded to 100, 200, 300, " in task.describe()
    task.stream.ends = np.arange(100, 2101, 100)
    assert "padded to 21 lengths of 100 to 2,100 steps" in task.describe()


# Faults of a configuration


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.name": "nothing"}, "data.name is 'nothing'; it must be one of iam_ondb, signals"),
        ({"data.path": "mine"}, "data.path goes with your own files, not with oscillators"),
        ({"data.name": "signals"}, "give data.path"),
        ({"data.name": "signals", "data.path": "nowhere"}, "no file or folder nowhere"),
        ({"model.components": 0}, "model.components is 0; it must be a whole number from 1"),
        ({"model.head": "tied"}, "model.head is 'tied'; it must be one of gated, plain"),
        ({"model.cell": "rnn"}, "model.cell is 'rnn'"),
        ({"buckets": 0}, "buckets is 0; it must be a whole number from 1"),
        ({"longest": -1}, "longest is -1; it must be a whole number from 0"),
        ({"model.remat": 7}, "remat is 7; it must divide the window, 20 steps"),
        ({"evaluation.window": 0}, "evaluation.window is 0; it must be a whole number from 1"),
        ({"evaluation.batch": 0}, "evaluation.batch is 0; it must be a whole number from 1"),
    ],
)
def test_faults_are_told_before_training(small_oscillators, changes, message):
    """By the table of fields, or when the task is made."""
    with pytest.raises(UserError, match=message):
        settings.check(config_of(**changes))
        tasks.make(config_of(**changes), mesh_of())


def test_rows_must_divide_over_the_devices(small_oscillators):
    for changes in ({"batch": 5}, {"evaluation.batch": 3}):
        with pytest.raises(UserError, match="cannot be divided over 2 devices"):
            tasks.make(config_of(**changes), mesh_of(2))


def test_a_run_from_before_the_header_could_be_told_goes_on(tmp_path):
    """It read tables by guessing, which is still the default."""
    config, scale = defaults.strokes(), Scale(("x",), "", (0.0,), (1.0,))
    workdir.open_run(tmp_path, config, scale)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["data"].pop("header") == "guess"
    (tmp_path / "config.json").write_text(json.dumps(saved))
    workdir.open_run(tmp_path, config, scale)
    saved["data"]["header"] = "yes"
    (tmp_path / "checkpoints/latest/5").mkdir(parents=True)  # beyond its beginning
    (tmp_path / "config.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match="data.header: 'yes' in the run, 'guess' now"):
        workdir.open_run(tmp_path, config, scale)
