"""Images as sequences: patches, batches, the classifier on the final state, whole runs."""

import functools
import importlib.util
import json
import struct
from pathlib import Path

import jax
import numpy as np
import pytest
from runs import newest, run

from hmrnn_jax import cells, defaults, opening, parallel, tasks
from hmrnn_jax.batches.images import EvaluationImages, ImageBatch, ImageStream, patches
from hmrnn_jax.cells import hm_lstm, lstm, nested_lstm
from hmrnn_jax.errors import UserError
from hmrnn_jax.evaluation import classification as classify
from hmrnn_jax.models import classifiers
from hmrnn_jax.tasks import classification
from hmrnn_jax.tasks import images as images_task
from hmrnn_jax.training import optim
from hmrnn_jax.training import state as train_state

CONFIGS = Path(__file__).parent.parent / "configs"


@functools.cache
def made_up(n=11, seed=0):
    """Images of noise and their labels."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (n, 28, 28)).astype(np.uint8)
    return pixels, rng.integers(0, 10, n).astype(np.int32)


# Patches


@pytest.mark.parametrize(("size", "steps"), [(7, 16), (1, 784), (14, 4), (28, 1)])
def test_patches_put_back_together_are_the_image(size, steps):
    pixels, _ = made_up()
    cut = patches(pixels, size)
    assert cut.shape == (11, steps, size * size) and cut.dtype == np.uint8
    back = np.zeros_like(pixels)
    for t in range(steps):
        row, column = divmod(t, 28 // size)
        for k in range(size * size):
            y, x = divmod(k, size)
            back[:, row * size + y, column * size + x] = cut[:, t, k]
    np.testing.assert_array_equal(back, pixels)


def test_patches_are_in_raster_order():
    pixels = np.arange(784).reshape(1, 28, 28)
    first, second, fifth = patches(pixels, 7)[0, [0, 1, 4]]
    assert first[:8].tolist() == [0, 1, 2, 3, 4, 5, 6, 28]
    assert second[0] == 7 and fifth[0] == 7 * 28
    assert patches(pixels, 1)[0, :, 0].tolist() == list(range(784))


@pytest.mark.parametrize("size", [5, 0, -7, 56])
def test_patches_that_do_not_fit(size):
    with pytest.raises(UserError, match=f"model.patch is {size}; it must divide .* 28 x 28"):
        patches(made_up()[0], size)


# Batches


def standardised(pixels, size):
    return (patches(pixels, size).astype(np.float64) / 255 - 0.1307) / 0.3081


def test_evaluation_is_in_order_and_standardised():
    pixels, labels = made_up()
    stream = EvaluationImages(pixels, labels, 4, 7)
    batches = list(stream)
    assert len(batches) == len(stream) == 3
    for batch in batches:
        assert batch.inputs.shape == (16, 4, 49)
        assert [leaf.dtype for leaf in batch] == [np.float32, np.int32, np.float32]
    whole = np.concatenate([batch.inputs for batch in batches], axis=1)
    expected = standardised(pixels, 7).swapaxes(0, 1)
    np.testing.assert_allclose(whole[:, :11], expected, rtol=0, atol=1e-6)
    assert np.concatenate([batch.labels for batch in batches])[:11].tolist() == labels.tolist()
    assert batches[0].mask.tolist() == [1] * 4 and batches[2].mask.tolist() == [1, 1, 1, 0]
    assert not batches[2].inputs[:, 3].any() and batches[2].labels[3] == 0


def shown(stream, labels, epoch):
    """The images of an epoch in its order: the labels are their numbers."""
    steps = range(epoch * stream.steps_per_epoch, (epoch + 1) * stream.steps_per_epoch)
    batches = [stream(step) for step in steps]
    return [int(b.labels[i]) for b in batches for i in np.flatnonzero(b.mask)]


def test_stream_is_a_function_of_the_step_and_shows_each_image_once_an_epoch():
    pixels, _ = made_up()
    numbers = np.arange(11, dtype=np.int32)
    stream = ImageStream(pixels, numbers, 4, seed=0, patch=14)
    assert stream.steps_per_epoch == 3 and stream.steps_in(5) == 15
    assert [stream.epoch(step) for step in (0, 2, 3, 8)] == [0, 0, 1, 2]
    assert stream.scale(7) == 1.0 and stream.steps == 4
    later = stream(4)
    orders = [shown(stream, numbers, epoch) for epoch in range(3)]
    assert all(sorted(order) == list(range(11)) for order in orders)
    assert len(set(map(tuple, orders))) == 3
    jax.tree.map(np.testing.assert_array_equal, later, stream(4))
    other = ImageStream(pixels, numbers, 4, seed=0, patch=14)
    jax.tree.map(np.testing.assert_array_equal, later, other(4))
    assert shown(ImageStream(pixels, numbers, 4, 1, 14), numbers, 0) != orders[0]
    # An image goes with its label; fillers are at the end of the epoch's last batch.
    expected = standardised(pixels, 14)
    for step in (1, 5):
        batch = stream(step)
        for row in np.flatnonzero(batch.mask):
            image = expected[batch.labels[row]]
            np.testing.assert_allclose(batch.inputs[:, row], image, rtol=0, atol=1e-6)
    assert stream(5).mask.tolist() == [1, 1, 1, 0] and not stream(5).inputs[:, 3].any()


def test_processes_own_rows_of_the_same_batch():
    pixels, labels = made_up()
    kinds = (lambda rows: ImageStream(pixels, labels, 4, 3, 7, rows)(2),
             lambda rows: list(EvaluationImages(pixels, labels, 4, 7, rows))[2])  # fmt: skip
    for make in kinds:
        whole = make(None)
        for rows in (slice(0, 2), slice(2, 4)):
            part = make(rows)
            np.testing.assert_array_equal(part.inputs, whole.inputs[:, rows])
            np.testing.assert_array_equal(part.labels, whole.labels[rows])
            np.testing.assert_array_equal(part.mask, whole.mask[rows])


def test_streams_that_cannot_be():
    pixels, labels = made_up()
    with pytest.raises(UserError, match="batch is 0"):
        ImageStream(pixels, labels, 0, 0, 7)
    with pytest.raises(UserError, match="batch is -1"):
        EvaluationImages(pixels, labels, -1, 7)
    with pytest.raises(UserError, match="seed is -1"):
        ImageStream(pixels, labels, 4, -1, 7)
    with pytest.raises(UserError, match="no images"):
        EvaluationImages(pixels[:0], labels[:0], 4, 7)


# The classifier

STACKS = {
    "lstm_stack": (lstm.Config(4, 5), lstm.Config(5, 3)),
    "nested_lstm": (nested_lstm.Config(4, 5),),
    "hm_lstm": (hm_lstm.Config(4, (5, 4, 3), layer_norm="none"),),
}
T, ROWS = 4, 4


@functools.cache
def example(name, dropout=0.0):
    """A classifier, random parameters, and a batch."""
    model = classifiers.Classifier(STACKS[name], 10, dropout)
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(T, ROWS, 4)).astype(np.float32)
    batch = ImageBatch(inputs, np.arange(ROWS, dtype=np.int32), np.ones(ROWS, np.float32))
    return model, drawn(model, 0.6), batch


def drawn(model, scale):
    """Random parameters; to compile the orthogonal ones would take the most of a test."""
    rng = np.random.default_rng(1)
    init = functools.partial(images_task.init_params, model)
    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(lambda v: (scale * rng.normal(size=v.shape)).astype("float32"), shapes)


@functools.partial(jax.jit, static_argnums=0)
def apply(model, params, batch, masks=None):
    return model.apply({"params": params}, batch, masks=masks).logits


def final_states(model, params, inputs):
    """h of all layers after `inputs [T, B, D]`, [B, H], by the cells' own steps."""
    states = [cells.of(config).initial_state(config, (ROWS,)) for config in model.cells]
    for x in inputs.swapaxes(1, 2):
        for number, config in enumerate(model.cells):
            entry = params[f"cell{number + 1}"]
            states[number], _ = cells.of(config).step(config, entry, states[number], x)
            h = states[number].h
            x = h[-1] if isinstance(h, tuple) else h
    return np.concatenate([np.asarray(h, np.float64) for s in states for h in layers_of(s)]).T


def layers_of(state):
    return state.h if isinstance(state.h, tuple) else (state.h,)


@pytest.mark.parametrize("name", STACKS)
def test_logits_by_hand(name):
    """An affine map of the final h of every layer, dropout's masks between."""
    model, params, batch = example(name)
    width = sum(model.sizes)
    assert params["labels_kernel"].shape == (width, 10)
    mask = np.random.default_rng(0).integers(0, 2, (ROWS, width)) * np.float32(2)
    h = final_states(model, params, batch.inputs)
    for masks, factor in ((None, 1), ((mask,), mask)):
        expected = (h * factor) @ params["labels_kernel"] + params["labels_bias"]
        logits = apply(model, params, batch, masks)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


def test_the_last_patch_counts_where_the_upper_layers_copy():
    """Detectors that never fire: the layers above read nothing, the first one everything."""
    model, params, batch = example("hm_lstm")
    params = jax.tree.map(np.copy, params)
    for layer in ("layer1", "layer2"):
        params["cell1"][layer]["detector"]["b"][:] = -100
    other = batch._replace(inputs=batch.inputs.copy())
    other.inputs[-1] += 1
    before, after = apply(model, params, batch), apply(model, params, other)
    assert np.abs(before - after).max(axis=1).min() > 1e-3


def test_dropout_has_a_mask_for_every_row_and_none_in_evaluation():
    model, params, batch = example("hm_lstm", 0.25)
    many = batch._replace(labels=np.zeros(64, np.int32))
    (mask,) = jax.jit(model.masks)(jax.random.key(0), many)
    assert mask.shape == (64, 12)
    np.testing.assert_allclose(np.unique(mask), [0, 1 / 0.75], rtol=1e-6)
    assert len(np.unique(mask, axis=0)) > 48 and 0.65 < np.mean(mask > 0) < 0.85
    mesh = parallel.make_mesh(jax.devices()[:2])
    draw = lambda state, carry, batch, scalars: (  # noqa: E731
        state, carry, jax.lax.all_gather(model.masks(jax.random.key(0), batch)[0], parallel.AXIS),
    )  # fmt: skip
    *_, both = parallel.pmapped(draw, mesh)((), (), many, {})
    np.testing.assert_array_equal(both.reshape(mask.shape), mask)  # by place in the whole batch
    plain = example("hm_lstm")[0]
    np.testing.assert_array_equal(apply(model, params, batch), apply(plain, params, batch))
    assert plain.masks(jax.random.key(0), batch) is None


def bright_rows(count, seed):
    """Images of which one of four rows of patches is bright: the label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count).astype(np.int32)
    pixels = rng.integers(0, 20, (count, 28, 28)).astype(np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[7 * label : 7 * label + 7] = 200
    return pixels, labels


@pytest.mark.parametrize("name", ["nested_lstm", "hm_lstm"])
def test_learns_which_row_is_bright(name):
    config = defaults.images()
    config.model.cell = name
    config.model.sizes = (24, 16) if name == "hm_lstm" else (12,)
    model = images_task.model_of(config.model)
    mesh, optimizer = parallel.make_mesh(jax.devices()[:1]), optim.optimizer(clip=config.clip)
    loss = functools.partial(classification.loss, model)
    step = parallel.pmapped(functools.partial(train_state.train_step, loss, optimizer), mesh)
    state = train_state.create(lambda key: drawn(model, 0.2), optimizer, seed=0)
    state = parallel.replicate(state, mesh)
    scalars = {"slope": np.float32(1), "learning_rate": np.float32(0.01)}
    stream = ImageStream(*bright_rows(200, 0), 10, 0, 7)
    history = []
    for number in range(200):
        batch = parallel.shard_batch(stream(number), mesh)
        state, _, sums = step(state, (), batch, scalars)
        history.append(sums)
    evaluation = functools.partial(classification.eval_step, model)
    unseen = EvaluationImages(*bright_rows(25, 1), 10, 7)
    compiled = parallel.pmapped_evaluation(evaluation, mesh)
    after = classification.summary(parallel.accumulate(compiled, state.params, (), unseen, mesh))
    before = classification.summary(jax.device_get(history[0]))
    assert before["accuracy"] < 0.7 and after["accuracy"] > 0.9 and after["nats"] < 0.5
    assert after["examples"] == 25
    assert after["error"] == pytest.approx(100 * (1 - after["accuracy"]))


# Whole runs


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A folder of 60 training and 20 test images, and a tiny model on two devices."""
    make_mesh = parallel.make_mesh
    monkeypatch.setattr(parallel, "make_mesh", lambda: make_mesh(jax.devices()[:2]))
    monkeypatch.setitem(tasks.MODULES, "images", images_task)
    folder = tmp_path / "digits"
    folder.mkdir()
    for prefix, count in (("train", 60), ("t10k", 20)):
        pixels, labels = bright_rows(count, count)
        header = struct.pack(">4I", 2051, count, 28, 28)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        header = struct.pack(">2I", 2049, count)
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(header + bytes(labels.tolist()))
    config = defaults.images()
    config.data.path = str(folder)
    config.model.sizes, config.model.on_lstm.chunk = (12,), 4
    config.batch = config.evaluation.batch = 8
    config.steps, config.report, config.learning_rate = 21, 3, 0.02
    return config


def test_run_resumes_bit_for_bit_and_validation_nats_choose_the_epoch(config, tmp_path):
    """55 training images are seven updates an epoch, the last with a filler row."""
    config.model.cell, config.model.dropout = "lstm", 0.2
    config.model.sizes, config.schedule = (8,), "plateau"
    whole, first = run(config, tmp_path / "whole")
    config.steps = 14
    run(config, tmp_path / "parts")
    config.steps = 21
    parts, said = run(config, tmp_path / "parts")
    assert "resumed after update 14" in said and whole == parts
    (state, best), others = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, (state, best), others)
    rows = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").open()]
    valid = {row["step"]: row["valid/nats"] for row in rows if "valid/nats" in row}
    assert sorted(valid) == [7, 14, 21]
    assert best[0] == min(valid, key=valid.get)
    # The test score, of the best parameters, another way.
    task = tasks.make(config, parallel.make_mesh())
    part = task.data.splits["test"]
    (batch,) = EvaluationImages(part.images, part.labels, 20, 7)
    logits = np.asarray(apply(task.model, best[1]["params"], batch), np.float64)
    nll = np.log(np.exp(logits).sum(1)) - logits[np.arange(20), part.labels]
    assert whole["nats"] == pytest.approx(nll.mean(), rel=1e-4)
    assert whole["accuracy"] == pytest.approx(np.mean(logits.argmax(1) == part.labels))
    assert "images/s" in first and "mnist-modified" in first
    row = ["this", "run", "20", f"{whole['error']:.2f}", f"{whole['nats']:.4f}"]
    assert first.splitlines()[-1].split() == row
    # Other images of the same form and number are not gone on with, nor scored as the run's.
    labels = tmp_path / "digits/t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\x07")
    found = opening.load(tmp_path / "whole")
    assert classify.score([found], "valid", "").data["whole"]["examples"] == 5
    with pytest.raises(UserError, match="The test data found here .* are not those of the run"):
        classify.score([found], "test", "")
    with pytest.raises(UserError, match="test data: 20 examples in the run, 20 others now"):
        run(config, tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 7}, "7 rows cannot be divided over 2 devices"),
        ({"evaluation.batch": 7}, "7 rows cannot be divided over 2 devices"),
        ({"data.path": "nowhere"}, "nowhere lacks train-images"),
        ({"model.patch": 5}, "model.patch is 5"),
        ({"model.cell": "rnn"}, "model.cell is 'rnn'"),
        ({"model.dropout": -0.1}, "dropout is -0.1"),
        ({"model.remat": 5}, "remat is 5; it must divide the window, 16 steps"),
        (
            {"model.cell": "hm_lstm", "model.sizes": (6, 4), "model.hm_lstm.boundary": "sample"},
            "classifiers draw no boundaries",
        ),
    ],
)
def test_settings_that_make_no_task(config, tmp_path, change, message):
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=message):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Configurations


def load(name):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "shape"), [("mnist_glimpses", (16, 49)), ("mnist_pixels", (784, 1))]
)
def test_models_have_as_many_parameters_as_the_lstm(name, shape):
    module, counts = load(name), {}
    for choice in ("lstm", "lstm_stack", "nested_lstm", "hm_lstm", "on_lstm"):
        config = module.get_config(choice)
        config.model.remat = 4  # of the steps, of which initial parameters need but one
        model = images_task.model_of(config.model)
        init = functools.partial(images_task.init_params, model)
        shapes = jax.eval_shape(init, jax.random.key(0))
        counts[choice] = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        assert f"{counts[choice]:,}" in module.__doc__
        assert patches(made_up()[0], config.model.patch).shape[1:] == shape
        assert all(cell.forget_bias == 1 for cell in model.cells)
    assert max(abs(count / counts["lstm"] - 1) for count in counts.values()) < 0.01
    assert [len(module.get_config(c).model.sizes) for c in ("lstm", "lstm_stack", "hm_lstm")] == [
        1, 2, 3,
    ]  # fmt: skip
    assert module.get_config("nested_lstm").model.nested_lstm.depth == 2
    with pytest.raises(UserError, match="lstm_stack, nested_lstm"):
        module.get_config("gru")
