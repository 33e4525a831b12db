"""Classifiers of sentence pairs (Shen et al. 2019, section 5.4): values, padding, dropout, runs."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import newest, run

from hmrnn_jax import defaults, parallel, recurrence, tasks
from hmrnn_jax.batches.pairs import EvaluationPairs, PairStream
from hmrnn_jax.cells import hm_lstm, lstm, on_lstm
from hmrnn_jax.datasets import logic
from hmrnn_jax.datasets.logic import Pairs
from hmrnn_jax.errors import UserError
from hmrnn_jax.models import classifiers
from hmrnn_jax.tasks import classification
from hmrnn_jax.training import optim
from hmrnn_jax.training import state as train_state

SYMBOLS, LABELS, ROWS = 6, 3, 8
SCALARS = {"slope": np.float32(1), "learning_rate": np.float32(0.05)}
STACKS = {
    "on_lstm": (on_lstm.Config(4, 6, 2), on_lstm.Config(6, 4, 2)),
    "lstm": (lstm.Config(4, 5, recurrent_bias=True),),
    "hm_lstm": (hm_lstm.Config(4, (5, 3)),),
}


def model_of(name="lstm", dropout=0.0):
    return classifiers.PairClassifier(SYMBOLS, 4, STACKS[name], 5, LABELS, dropout, dropout / 2)


@functools.cache
def params_of(name="lstm"):
    rng = np.random.default_rng(0)
    batch = next(iter(EvaluationPairs(made_up(), ROWS)))
    shapes = jax.eval_shape(model_of(name).init, jax.random.key(0), batch)["params"]
    return jax.tree.map(lambda v: (0.6 * rng.normal(size=v.shape)).astype("float32"), shapes)


@functools.cache
def made_up(n=ROWS, seed=0):
    """Random pairs of 1 to 6 symbols; id 0 is padding."""
    rng = np.random.default_rng(seed)
    draw = lambda: [rng.integers(1, SYMBOLS, rng.integers(1, 7)).tolist() for _ in range(n)]  # noqa: E731
    return Pairs.of(draw(), draw(), rng.integers(0, LABELS, n))


@functools.partial(jax.jit, static_argnums=0)
def apply(model, params, batch, masks=None):
    return model.apply({"params": params}, batch, masks=masks).logits


def encode(model, params, sentence, mask=1.0):
    """The last layer's state after a sentence, read by itself; `mask` is of its symbols."""
    x = (params["embedding"][np.array(sentence)] * mask)[:, None]
    for number, config in enumerate(model.cells):
        start = recurrence.initial_state(config, 1)
        constants = {"slope": 1.0} if config.uses_slope else None
        entry = params[f"cell{number + 1}"]
        out = recurrence.unroll(config, entry, start, x, constants=constants)
        h = out.states.h
        x = h[-1] if isinstance(h, tuple) else h
    return np.asarray(x[-1, 0], np.float64)


def by_hand(model, params, left, right, masks=(1.0, 1.0), symbols=(1.0, 1.0)):
    """The paper's features and layers in numpy."""
    u, v = (encode(model, params, *read) for read in zip((left, right), symbols, strict=True))
    features = np.concatenate([u, v, u * v, np.abs(u - v)]) * masks[0]
    s = features @ params["hidden_kernel"] + params["hidden_bias"]
    hidden = np.where(s > 0, s, np.exp(s) - 1) * masks[1]
    return hidden @ params["labels_kernel"] + params["labels_bias"]


# Values


@pytest.mark.parametrize("name", ["on_lstm", "hm_lstm"])
def test_logits_by_hand(name):
    """[u, v, u v, |u - v|], a layer of ELUs, a softmax; u and v of one encoder."""
    model, params, pairs = model_of(name), params_of(name), made_up()
    (batch,) = EvaluationPairs(pairs, ROWS)
    order = EvaluationPairs(pairs, ROWS).order[0]
    logits = apply(model, params, batch)
    assert logits.shape == (ROWS, LABELS)
    for row in (0, ROWS - 1):
        left, right = pairs.left[order[row]], pairs.right[order[row]]
        expected = by_hand(model, params, left, right)
        np.testing.assert_allclose(logits[row], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["on_lstm", "hm_lstm"])
def test_padding_leaves_no_trace(name):
    """Neither its length nor its symbol's embedding, which has no gradient."""
    model, params = model_of(name), params_of(name)
    (short,), (long,) = (EvaluationPairs(made_up(), ROWS, quantum=q) for q in (1, 16))
    assert len(short.ids) == 10 and len(long.ids) == 16

    np.testing.assert_allclose(
        apply(model, params, long), apply(model, params, short), rtol=0, atol=1e-5
    )
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(apply(model, p, long)))))(params)
    assert not gradient["embedding"][0].any() and gradient["embedding"][1:].any(axis=1).all()
    other = params | {"embedding": np.vstack([np.full((1, 4), 9.0), params["embedding"][1:]])}
    np.testing.assert_array_equal(apply(model, other, long), apply(model, params, long))


def test_scores_count_the_pairs_and_not_the_filler_rows():
    model, params, pairs = model_of(), params_of(), made_up(11)
    mesh = parallel.make_mesh(jax.devices()[:2])
    stream, divided = EvaluationPairs(pairs, ROWS), EvaluationPairs(pairs, ROWS, devices=2)
    step = parallel.pmapped_evaluation(functools.partial(classification.eval_step, model), mesh)
    total = {"nats": 0.0, "count": 0.0, "correct": 0.0, "steps": 0.0}
    for batch in divided:
        _, sums = step(params, (), parallel.shard_batch(batch, mesh), SCALARS)
        parallel.settle(sums)
        total = {name: total[name] + float(sums[name]) for name in total}
    logits = np.concatenate([apply(model, params, batch) for batch in stream]).astype(np.float64)
    order = stream.order.ravel()
    logits, labels = logits[order >= 0], pairs.labels[order[order >= 0]]
    nll = np.log(np.exp(logits).sum(1)) - logits[np.arange(11), labels]
    result = classification.summary(total)
    assert result["examples"] == 11 and total["count"] == 11
    assert result["nats"] == pytest.approx(nll.mean(), rel=1e-5)
    assert result["accuracy"] == pytest.approx(np.mean(logits.argmax(1) == labels))
    assert 0 < result["accuracy"] < 1


# Dropout


def test_dropout_of_symbols_features_and_hidden_layer():
    """All by inverted masks; each symbol's and each pair's own; evaluation has none."""
    model, params, pairs = model_of(dropout=0.4), params_of(), made_up()
    (batch,) = EvaluationPairs(pairs, ROWS)
    order = EvaluationPairs(pairs, ROWS).order[0]
    masks = jax.jit(model.masks)(jax.random.key(0), batch)
    assert [m.shape for m in masks] == [(*batch.ids.shape, 4), (ROWS, 20), (ROWS, 5)]
    for mask, kept in zip(masks, (0.8, 0.6, 0.6), strict=True):
        np.testing.assert_allclose(np.unique(mask), [0, 1 / kept], rtol=1e-6)
    assert len(np.unique(masks[1], axis=0)) == ROWS
    # Of a symbol's 4 units 16 patterns are possible, and those of a row's steps differ.
    assert len(np.unique(np.asarray(masks[0])[batch.numbers >= 0], axis=0)) > 7
    assert (np.asarray(masks[0])[0, 0] != np.asarray(masks[0])[:, 0]).any()
    logits = apply(model, params, batch, masks)
    for row in (0, ROWS - 1):
        pair = pairs.left[order[row]], pairs.right[order[row]]
        symbols = [
            np.asarray(masks[0])[end - len(sentence) + 1 : end + 1, place]
            for sentence, (end, place) in zip(
                pair, (batch.left[:, row], batch.right[:, row]), strict=True
            )
        ]
        own = [np.asarray(m[row]) for m in masks[1:]]
        expected = by_hand(model, params, *pair, own, symbols)
        np.testing.assert_allclose(logits[row], expected, rtol=0, atol=1e-5)
    evaluation = apply(model, params, batch)
    np.testing.assert_array_equal(evaluation, apply(model_of(), params, batch))
    assert model_of().masks(jax.random.key(0), batch) == (None, None, None)


def trainer(model, optimizer, mesh):
    loss = functools.partial(classification.loss, model)
    return parallel.pmapped(functools.partial(train_state.train_step, loss, optimizer), mesh)


def train(devices):
    """Parameters after three updates of which the last has filler rows."""
    mesh, optimizer = parallel.make_mesh(jax.devices()[:devices]), optim.optimizer("sgd")
    step = trainer(model_of(dropout=0.4), optimizer, mesh)
    stream = PairStream(made_up(19), ROWS, 0, devices=devices)
    state = train_state.create(lambda key: params_of(), optimizer, seed=0)
    state, carry = parallel.replicate(state, mesh), ()
    for number in range(3):
        batch = parallel.shard_batch(stream(number), mesh)
        state, carry, metrics = step(state, carry, batch, parallel.replicate(SCALARS, mesh))
        parallel.settle(metrics)
    return jax.device_get((state.params, metrics))


def test_dropout_trains_alike_on_1_and_2_devices():
    """A pair's masks belong to its place in the whole batch, those of its symbols to theirs; the
    mean is over counted pairs."""
    (params, metrics), (expected, once) = train(2), train(1)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, params, expected)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4), metrics, once)
    assert np.abs(params["embedding"] - params_of()["embedding"]).max() > 1e-3


# Learning


def test_learns_whether_two_sentences_end_alike():
    rng = np.random.default_rng(0)
    sides = [[rng.integers(1, 4, rng.integers(1, 4)).tolist() for _ in range(256)] for _ in "lr"]
    labels = [int(left[-1] == right[-1]) for left, right in zip(*sides, strict=True)]
    pairs = Pairs.of(*sides, labels)
    mesh, optimizer = parallel.make_mesh(jax.devices()[:1]), optim.optimizer("adam")
    model = model_of()
    step, stream = trainer(model, optimizer, mesh), PairStream(pairs, 32, seed=0)
    state = train_state.create(lambda key: params_of(), optimizer, seed=0)
    state, results = parallel.replicate(state, mesh), []
    scalars = parallel.replicate(SCALARS, mesh)
    for number in range(160):
        state, _, sums = step(state, (), parallel.shard_batch(stream(number), mesh), scalars)
        parallel.settle(sums)
        results.append(classification.summary(jax.device_get(sums)))
    assert results[0]["accuracy"] < 0.7
    assert np.mean([r["accuracy"] for r in results[-8:]]) > 0.97


# The task


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A user's folder of 12 pairs a file, and a tiny model on two devices."""
    make_mesh = parallel.make_mesh
    monkeypatch.setattr(parallel, "make_mesh", lambda: make_mesh(jax.devices()[:2]))
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for length in range(13):
            lines = []
            for _ in range(12):
                formulas = ["a" + " ( not b )" * rng.integers(0, 2) for _ in "lr"]
                lines.append("\t".join([logic.LABELS[rng.integers(7)], *formulas]) + "\n")
            (tmp_path / f"{split}{length}").write_text("".join(lines))
    config = defaults.logic()
    config.data.path, config.data.longest = str(tmp_path), 1
    config.model.embedding, config.model.hidden, config.model.sizes = 4, 5, (6,)
    config.model.on_lstm.chunk = 2
    config.batch = config.evaluation.batch = 8
    config.steps, config.report, config.learning_rate = 9, 2, 0.01
    return config


def test_logic_runs_and_resumes_bit_for_bit(config, tmp_path):
    """22 training pairs are three updates an epoch; validation accuracy chooses the epoch."""
    whole, said = run(config, tmp_path / "whole")
    config.steps = 6
    run(config, tmp_path / "parts")
    config.steps = 9
    parts, again = run(config, tmp_path / "parts")
    assert "resumed after update 6" in again and whole == parts
    (state, best), (other, other_best) = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, (state, best), (other, other_best))
    rows = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").open()]
    valid = {row["step"]: row["valid/accuracy"] for row in rows if "valid/accuracy" in row}
    assert sorted(valid) == [3, 6, 9]
    assert best[0] == min(valid, key=lambda step: (-valid[step], step))
    # The test score, of the best parameters, another way.
    task = tasks.make(config, parallel.make_mesh())
    by_length = {}
    for length, pairs in task.data.test.items():
        stream = EvaluationPairs(pairs, ROWS)
        hits = [
            np.argmax(apply(task.model, best[1]["params"], batch), 1) == batch.labels
            for batch in stream
        ]
        by_length[length] = np.concatenate(hits)[stream.order.ravel() >= 0].mean()
        assert whole[f"accuracy/length{length}"] == pytest.approx(by_length[length])
    assert whole["accuracy"] == pytest.approx(np.mean(list(by_length.values())))
    assert whole["examples"] == 13 * 12
    assert "pairs/s" in said and "accuracy" in said
    table = [line.split() for line in said.splitlines()[-14:]]
    assert table[-1] == ["all", f"{100 * whole['accuracy']:.2f}"]
    assert table[:-1] == [[str(k), f"{100 * v:.2f}"] for k, v in by_length.items()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 7}, "7 rows cannot be divided over 2 devices"),
        ({"evaluation.batch": 7}, "7 rows cannot be divided over 2 devices"),
        ({"data.longest": 13}, "longest is 13"),
        ({"data.path": "nowhere"}, "nowhere"),
        ({"model.cell": "rnn"}, "model.cell is 'rnn'"),
        ({"model.on_lstm.chunk": 4}, "6 units cannot be cut in chunks of 4"),
        ({"model.dropout": 1.0}, "model.dropout is 1.0"),
        ({"model.input_dropout": 1.0}, "model.input_dropout is 1.0"),
        ({"model.precision": "int8"}, "precision is 'int8'"),
        (
            {"model.cell": "hm_lstm", "model.sizes": (6, 4), "model.hm_lstm.boundary": "sample"},
            "classifiers draw no boundaries; choose step or soft",
        ),
    ],
)
def test_settings_that_make_no_task(config, tmp_path, change, message):
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=message):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
