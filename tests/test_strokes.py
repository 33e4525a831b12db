"""Real-valued sequences: the model against the equations, padding, training, generating."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from oracles import hm_lstm_step, lstm_step, sigmoid

from hmrnn_jax import buckets, defaults, evaluate, optim, parallel, strokes, tasks, train_state
from hmrnn_jax.cells import hm_lstm, lstm
from hmrnn_jax.datasets import synthetic
from hmrnn_jax.datasets.sequences import Scale, Sequences
from hmrnn_jax.errors import UserError
from hmrnn_jax.looks import run as runs
from hmrnn_jax.looks import sequences as looks

COMPONENTS = 3
CELLS = {
    "hm_lstm": (hm_lstm.Config(3, (6, 5, 4)),),
    "lstm": (lstm.Config(3, 6), lstm.Config(6, 5)),
}


@functools.cache
def make(cell, head="gated"):
    """A small model of two values and an event, and parameters for it."""
    model = strokes.StrokeModel(2, True, CELLS[cell], 7, head, COMPONENTS)
    return model, draw(model)


def draw(model, seed=0, scale=0.5):
    """Normal parameters of a model's shapes; gains about 1."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(functools.partial(strokes.init_params, model), jax.random.key(0))

    def leaf(path, v):
        return (scale * rng.normal(size=v.shape) + (path[-1].key == "gain")).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def data(lengths=(5, 9, 14, 2, 30), seed=0):
    rng = np.random.default_rng(seed)
    steps = sum(lengths)
    return Sequences(
        values=rng.normal(size=(steps, 2)).astype(np.float32),
        events=rng.integers(0, 2, steps).astype(np.uint8),
        lengths=np.array(lengths, np.int64),
        names=tuple(f"sequence {i}" for i in range(len(lengths))),
    )


def mesh_of(devices=1):
    return parallel.make_mesh(jax.devices()[:devices])


# The likelihood


def likelihoods(model, params, sequences):
    """Log-likelihood of each sequence by the papers' equations, in float64, without batches."""
    params = jax.tree.map(lambda v: v.astype(np.float64), params)
    table = buckets.columns(sequences).astype(np.float64)
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
    step = functools.partial(strokes.eval_step, model.inference)
    return parallel.pmapped_evaluation(step, mesh_of(devices))


def score(model, params, sequences, batch, window, devices=1, change=lambda part: part):
    mesh = mesh_of(devices)
    parts = map(change, buckets.EvaluationSequences(sequences, batch, window))
    params, carry = parallel.replicate(params, mesh), model.initial_carry(batch)
    return strokes.whole_summary(
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


# Training


def batch_of(rows=4, steps=6):
    """A window of ragged rows, so that devices differ in how many of their steps count."""
    lengths = np.array([steps, 1, 3, 2][:rows])
    rng = np.random.default_rng(2)
    values = rng.normal(size=(steps + 1, rows, 3)).astype(np.float32)
    values[..., 2] = values[..., 2] > 0
    mask = (np.arange(steps)[:, None] < lengths).astype(np.float32)
    resets = np.zeros((steps, rows), bool)
    resets[0] = True
    return buckets.SequenceBatch(values[:-1], values[1:], mask, resets)


def test_one_and_two_devices_have_the_same_loss_and_gradient():
    """The mean over all counted steps, and its plain gradient: one step of SGD at rate 1."""
    model = strokes.StrokeModel(2, True, CELLS["lstm"][:1], head="plain", components=2)
    params, sgd = draw(model), optim.optimizer("sgd", clip=1e9)
    step = functools.partial(train_state.train_step, functools.partial(strokes.loss, model), sgd)
    knobs = {"learning_rate": np.float32(1), "slope": np.float32(1)}
    batch, found = batch_of(), []
    for devices in (1, 2):
        mesh = mesh_of(devices)
        state = train_state.create(lambda key: params, sgd, seed=0)
        carry = parallel.shard_rows(jax.tree.map(np.asarray, model.initial_carry(4)), mesh)
        state, _, sums = parallel.pmapped(step, mesh)(
            parallel.replicate(state, mesh), carry, parallel.shard_batch(batch, mesh),
            parallel.replicate(knobs, mesh),
        )  # fmt: skip
        moved = jax.tree.map(lambda a, b: a - np.asarray(b), params, state.params)
        found.append((moved, jax.device_get(sums)))

    @jax.jit
    @jax.value_and_grad
    def plain(params):
        out = model.apply({"params": params}, batch.inputs, model.initial_carry(4))
        values, events = batch.targets[..., :2], batch.targets[..., 2]
        nll = strokes.mixture.negative_log_likelihood(out.mixture, values, events)
        return jnp.sum(nll * batch.mask) / batch.mask.sum()

    loss, gradient = plain(params)
    for moved, sums in found:
        assert float(sums["nats"] / sums["count"]) == pytest.approx(float(loss), rel=1e-6)
        assert (sums["count"], sums["sequences"]) == (12, 4)
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-6), moved, gradient)
    assert max(float(np.abs(g).max()) for g in jax.tree.leaves(gradient)) > 0.1


@pytest.fixture
def small_oscillators(monkeypatch):
    """The made-up data that configurations name, in a small size."""
    small = functools.partial(synthetic.oscillators, sequences=(16, 3, 3), steps=61)
    monkeypatch.setattr(synthetic, "oscillators", small)


def config_of(**changes):
    config = defaults.strokes()
    config.data.name = "oscillators"
    config.model.sizes, config.model.head, config.model.components = (12, 12), "plain", 4
    config.model.hm_lstm.layer_norm = config.model.lstm.layer_norm = "none"
    config.batch, config.window, config.learning_rate = 16, 20, 0.02
    config.evaluation.batch, config.evaluation.window = 4, 60
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.parametrize("cell", ["hm_lstm", "lstm"])
def test_training_lowers_the_loss_of_held_out_sequences(small_oscillators, cell):
    mesh = mesh_of()
    config = config_of(**{"model.cell": cell})
    task = tasks.make(config, mesh)
    params = draw(task.model, scale=0.3)
    state = train_state.create(lambda key: params, optim.optimizer_from(config), config.seed)
    state = parallel.replicate(state, mesh)
    carry = parallel.shard_rows(jax.tree.map(np.asarray, task.initial_carry(16)), mesh)
    step = functools.partial(train_state.train_step, task.loss, optim.optimizer_from(config))
    step = parallel.pmapped(step, mesh)
    knobs = {"learning_rate": np.float32(config.learning_rate), "slope": np.float32(1)}
    before = task.evaluate(state.params, "valid", 1.0)
    assert (before["steps"], before["sequences"]) == (3 * 60, 3)
    losses = []
    for done in range(60):
        batch = parallel.shard_batch(task.stream(done), mesh)
        state, carry, metrics = step(state, carry, batch, knobs)
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


# Generating


ROWS = 1000  # that continue each of three prompts


@functools.cache
def prompt():
    """Four steps of three sequences, `[4, 3 ROWS, C]`."""
    steps = np.random.default_rng(5).normal(size=(4, 3, 3)).astype(np.float32)
    return np.repeat(steps, ROWS, axis=1)


def generate(cell="hm_lstm", **knobs):
    """Nine drawn steps, and the mixtures of a model that is given these from outside."""
    model, params = make(cell)
    drawn = strokes.generate(model, params, prompt(), 9, **knobs)
    density = apply(model, params, np.concatenate([prompt(), drawn[:-1]])).mixture
    return drawn, jax.tree.map(lambda leaf: np.asarray(leaf)[3:], density)


@functools.partial(jax.jit, static_argnums=0)
def apply(model, params, steps):
    """The model's output after each of `steps [T, B, C]`."""
    return model.apply({"params": params}, steps, model.initial_carry(steps.shape[1]))


def likeliest_means(density):
    """The mean of the component with the largest weight, `[T, B, D]`."""
    likeliest = np.argmax(density.pi_logits, axis=-1)[..., None, None]
    return np.take_along_axis(density.mu, likeliest, axis=2)[:, :, 0]


def test_at_temperature_0_each_step_is_the_likeliest_mean_after_its_past():
    """The first follows the prompt; the others are fed back, here all given at once."""
    drawn, density = generate(temperature=0.0)
    assert drawn.shape == (9, 3 * ROWS, 3) and drawn.dtype == np.float32
    np.testing.assert_allclose(drawn[..., :2], likeliest_means(density), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(drawn[..., 2], density.event_logit > 0)
    assert np.abs(np.diff(drawn, axis=0)).max() > 0.1  # it does not stand still


def test_steps_are_drawn_from_the_mixture_after_the_rows_own_past():
    """Moments of the first step over rows of one prompt; the second against its own mixtures."""
    drawn, density = generate(seed=3)
    pi = scipy.special.softmax(density.pi_logits, axis=-1)[..., None]
    mean = np.sum(pi * density.mu, axis=2)
    square = np.sum(pi * (density.mu**2 + np.exp(2 * density.log_sigma)), axis=2)
    values, bound = drawn[..., :2], 5 / ROWS**0.5
    for rows in np.split(np.arange(3 * ROWS), 3):
        assert (density.mu[0, rows] == density.mu[0, rows[0]]).all()
        # Of mean 0 and deviation 1, if each value is of its own row's mixture.
        scores = ((values - mean) / np.sqrt(square - mean**2))[:2, rows]
        assert np.abs(scores.mean(axis=1)).max() < bound
        np.testing.assert_allclose(scores.std(axis=1), 1, atol=0.15)
        # Every step has noise of its own.
        assert np.abs(np.mean(scores[0] * scores[1], axis=0)).max() < bound
        surprise = drawn[:2, rows, 2] - sigmoid(density.event_logit[:2, rows])
        assert np.abs(surprise.mean(axis=1)).max() < bound / 2
    assert set(drawn[..., 2].flat) == {0, 1} and len(np.unique(values[0])) > 5 * ROWS


def test_the_seed_decides_and_the_bias_keeps_to_the_means():
    near, density = generate(seed=1, bias=15.0)
    again, other = generate(seed=1, bias=15.0)[0], generate(seed=2, bias=15.0)[0]
    np.testing.assert_array_equal(near, again)
    assert (near != other).any()
    distance = np.abs(near[:, :, None, :2] - density.mu).max(axis=-1).min(axis=-1)
    assert distance.max() < 1e-4 < np.abs(near[..., :2]).max()


def test_sequences_without_events_and_of_any_width():
    model = strokes.StrokeModel(3, False, CELLS["lstm"][:1], head="plain", components=2)
    params, first = draw(model), prompt()[:, ::ROWS]
    drawn = strokes.generate(model, params, first, 5, temperature=0.0)
    density = apply(model, params, np.concatenate([first, drawn[:-1]])).mixture
    assert model.columns == 3 and density.event_logit is None and density.rho_hat is None
    means = likeliest_means(jax.tree.map(np.asarray, density))
    np.testing.assert_allclose(drawn, means[3:], rtol=1e-4, atol=1e-5)


# Looking


SCALE = Scale(("x", "y"), "pen", (1.0, -2.0), (0.5, 3.0))


def run_of(cell, **changes):
    model, params = make(cell)
    return runs.Run("run", config_of(**changes), SCALE, model, params, 1.0, mesh_of())


def write(folder, sequences):
    """The sequences in raw units, a file each."""
    raw = SCALE.restore(sequences.values)
    for i, name in enumerate(sequences.names):
        place = sequences.place(i)
        table = np.column_stack([sequences.events[place], raw[place]])
        np.savetxt(folder / f"{name}.csv", table, delimiter=",", header="pen,x,y", comments="")


def test_segments_of_each_sequence_are_those_it_has_alone(tmp_path):
    """Sequences of any length are read side by side; none sees another, or its padding."""
    run, sequences = run_of("hm_lstm"), data((40, 7, 300, 23))
    write(tmp_path, sequences)
    path, table = tmp_path / "segments.jsonl", buckets.columns(sequences)
    said = looks.segment(run, looks.read(run, tmp_path), path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert said.startswith(f"{len(rows)} segments of 4 sequences")
    for i, name in enumerate(sequences.names):
        alone = table[sequences.place(i)][:, None]
        padded = np.pad(alone, [(0, 300 - len(alone)), (0, 0), (0, 0)])
        states = jax.device_get(apply(run.model, run.plain, padded).states[0])
        h, fired = ([leaf[: len(alone)] for leaf in leaves] for leaves in (states.h, states.z))
        z, norms = evaluate.look(run.model, run.plain, alone, window=50)
        np.testing.assert_array_equal(z, fired)
        expected = [np.linalg.norm(layer, axis=-1) for layer in h]
        np.testing.assert_allclose(norms, expected, rtol=1e-5, atol=1e-6)
        for layer, steps in enumerate(fired, start=1):
            own = [row for row in rows if (row["sequence"], row["layer"]) == (f"{name}.csv", layer)]
            covered = np.concatenate([np.arange(row["start"], row["end"]) for row in own])
            np.testing.assert_array_equal(covered, np.arange(len(alone)))
            ends = np.union1d(np.flatnonzero(steps) + 1, len(alone))
            assert [row["end"] for row in own] == ends.tolist()


def test_boundaries_are_scored_without_the_padding_of_shorter_sequences(tmp_path):
    """The table's first row against a count over the segments of each sequence by itself."""
    run, sequences = run_of("hm_lstm"), data((40, 7, 90))
    rng = np.random.default_rng(1)
    sequences = dataclasses.replace(sequences, changes=rng.random(137) < 0.2)
    out = looks.show_boundaries(run, "mine", sequences, tmp_path / "figure.png", scored=2)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    table, fired = buckets.columns(sequences), []
    for i in range(2):
        z, _ = evaluate.look(run.model, run.plain, table[sequences.place(i)][:, None])
        fired += z[0][:, 0].tolist()
    fired = np.array(fired) == 1
    for name, gold in (("pen", sequences.events), ("changes", sequences.changes)):
        gold = gold[:47] == 1
        hits = np.sum(fired & gold)
        precision, recall = 100 * hits / fired.sum(), 100 * hits / gold.sum()
        rows = out.partition(f"boundaries against {name}, 2 sequences")[2].splitlines()
        assert rows[3].startswith(f"    1  +0   {fired.mean():.3f} |{precision:6.1f}{recall:6.1f}")


def test_what_cannot_be_looked_at_is_refused(tmp_path, small_oscillators):
    write(tmp_path, data((40, 7)))
    with pytest.raises(UserError, match="no boundary detectors"):
        looks.segment(run_of("lstm"), looks.read(run_of("lstm"), tmp_path), tmp_path / "out")
    run = run_of("hm_lstm")  # of another scale than the oscillators that its configuration names
    for ask in (looks.score, looks.held_out):
        with pytest.raises(UserError, match="oscillators .*another scale than the run's"):
            ask(run, "test")
    for numbers in ((0, 5, 1, 1.0, 0.0), (1, 0, 1, 1.0, 0.0), (1, 5, 0, 1.0, 0.0),
                    (1, 5, 1, -1.0, 0.0), (1, 5, 1, 1.0, -1.0)):  # fmt: skip
        with pytest.raises(UserError, match="positive numbers"):
            looks.sample(run, "test", *numbers, seed=0, path=tmp_path / "sample.png")


# Faults of a configuration


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.name": "nothing"}, "data.name is 'nothing'; it must be one of iam_ondb, signals"),
        ({"data.path": "mine"}, "data.path goes with your own files, not with oscillators"),
        ({"data.name": "signals"}, "give data.path"),
        ({"data.name": "signals", "data.path": "nowhere"}, "no file or folder nowhere"),
        ({"model.components": 0}, "model.components is 0; it must be 1 or more"),
        ({"model.head": "tied"}, "model.head is 'tied'; it must be one of gated, plain"),
        ({"model.cell": "gru"}, "model.cell is 'gru'"),
        ({"buckets": 0}, "buckets 0"),
        ({"longest": -1}, "longest -1"),
        ({"model.remat": 7}, "remat is 7; it must divide the window, 20 steps"),
        ({"evaluation.window": 0}, "evaluation.batch and evaluation.window must both be 1"),
        ({"evaluation.batch": 0}, "evaluation.batch and evaluation.window must both be 1"),
    ],
)
def test_faults_are_told_when_the_task_is_made(small_oscillators, changes, message):
    with pytest.raises(UserError, match=message):
        tasks.make(config_of(**changes), mesh_of())


def test_rows_must_divide_over_the_devices(small_oscillators):
    for changes in ({"batch": 5}, {"evaluation.batch": 3}):
        with pytest.raises(UserError, match="cannot be divided over 2 devices"):
            tasks.make(config_of(**changes), mesh_of(2))
