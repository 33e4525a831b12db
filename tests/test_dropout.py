"""Dropout and penalties of word models (Merity, Keskar, Socher 2018; Shen et al. 2019)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmrnn_jax import parallel
from hmrnn_jax.batches.text import Batch
from hmrnn_jax.cells import hm_lstm, lstm, nested_lstm, on_lstm
from hmrnn_jax.errors import UserError
from hmrnn_jax.models import dropout as dropout_masks
from hmrnn_jax.models import language as language_models
from hmrnn_jax.models.dropout import Dropout
from hmrnn_jax.models.language import LanguageModel
from hmrnn_jax.parallel import AXIS
from hmrnn_jax.tasks import language
from hmrnn_jax.training import optim
from hmrnn_jax.training import state as train_state

STEPS, ROWS, WORDS = 7, 16, 9
SCALARS = {"slope": np.float32(1)}
ALL = Dropout(embedding=0.3, input=0.4, hidden=0.3, output=0.4, weight=0.5)
PENALTIES = language.Penalties(activation=2.0, temporal=1.0)


def model_of(dropout=ALL, head="tied", **choices):
    """Two ON-LSTM layers, 4 to 6 to 4 units."""
    stack = (on_lstm.Config(4, 6, 2), on_lstm.Config(6, 4, 2))
    return LanguageModel(
        WORDS, 4, stack, head=head, embedding_uniform=True, dropout=dropout, **choices
    )


def make(model):
    """Normal parameters."""
    rng = np.random.default_rng(0)
    init = functools.partial(language.init_params, model)
    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(lambda v: (0.5 * rng.normal(size=v.shape)).astype("float32"), shapes)


@functools.cache
def params_of():
    return make(model_of())


def batch_of(rows=ROWS, seed=0, ragged=True):
    rng = np.random.default_rng(seed)
    words = rng.integers(0, WORDS, (STEPS + 1, rows)).astype(np.int32)
    lengths = rng.integers(1, STEPS + 1, rows) if ragged else np.full(rows, STEPS)
    mask = (np.arange(STEPS)[:, None] < lengths).astype(np.float32)
    return Batch(words[:-1], words[1:], mask, np.arange(STEPS * rows).reshape(STEPS, -1) < rows)


@functools.partial(jax.jit, static_argnums=0)
def apply(model, params, batch, masks=None):
    carry = model.initial_carry(batch.inputs.shape[1])
    return model.apply({"params": params}, batch.inputs, carry, masks=masks)


@functools.partial(jax.jit, static_argnums=(0, 2))
def masks_of(dropout, key=0, rows=ROWS, first=0):
    return model_of(dropout).masks(params_of(), jax.random.key(key), rows, first)


def loss_of(model, params, batch, penalties=PENALTIES, key=0):
    """`tasks.language.loss` on one device of the axis, its value alone."""

    def one(carry, batch):
        return language.loss(model, penalties, params, carry, batch, SCALARS, jax.random.key(key))[
            0
        ]

    carry = model.initial_carry(batch.inputs.shape[1])
    arguments = jax.tree.map(lambda v: jnp.asarray(v)[None], (carry, batch))
    return float(jax.jit(jax.vmap(one, axis_name=AXIS))(*arguments)[0])


# Masks


@pytest.mark.parametrize("name, shape", [("input", (1000, 4)), ("output", (1000, 4)),
                                         ("hidden", (1000, 6))])  # fmt: skip
def test_locked_masks_differ_by_row_and_keep_the_mean(name, shape):
    """One mask a row for the whole window; units kept are divided by 1 - p."""
    masks = masks_of(Dropout(**{name: 0.4}), rows=1000)
    mask = np.asarray(masks.hidden[0] if name == "hidden" else getattr(masks, name))
    assert mask.shape == shape
    np.testing.assert_allclose(np.unique(mask), [0, 1 / 0.6], rtol=1e-6)
    assert abs((mask > 0).mean() - 0.6) < 4 * np.sqrt(0.24 / mask.size)
    assert len(np.unique(mask, axis=0)) == 2 ** shape[1]
    others = masks._replace(**{name: () if name == "hidden" else None})
    assert not jax.tree.leaves(others)


def test_masks_are_drawn_apart_for_each_update_and_place():
    draws = [masks_of(ALL, key) for key in range(3)]
    for leaves in zip(*map(jax.tree.leaves, draws), strict=True):
        assert all((a != b).any() for a, b in zip(leaves, leaves[1:], strict=False))
    wide = dropout_masks.sample_masks(
        Dropout(0.5, 0.5, 0.5, 0.5, 0.5), jax.random.key(0), 50, 0, 50, (1, (1, 1), 1),
        [[(50, 1)]] * 2,
    )  # fmt: skip
    columns = [np.asarray(v).ravel() for v in jax.tree.leaves(wide)]
    assert len(columns) == 7
    for k, a in enumerate(columns):
        for b in columns[:k]:
            assert 5 < np.sum((a > 0) != (b > 0)) < 45


def test_rows_have_the_masks_of_their_place():
    whole, part = masks_of(ALL), masks_of(ALL, rows=4, first=8)
    for name in ("input", "output"):
        np.testing.assert_array_equal(getattr(whole, name)[8:12], getattr(part, name))
    np.testing.assert_array_equal(whole.hidden[0][8:12], part.hidden[0])
    np.testing.assert_array_equal(whole.embedding, part.embedding)
    jax.tree.map(np.testing.assert_array_equal, whole.weights, part.weights)


def test_locked_masks_act_at_every_step_of_the_window():
    """A unit that is dropped is so at all steps, hence the exact zeros in these gradients."""
    batch = batch_of(1, ragged=False)
    stack = (lstm.Config(4, 6), lstm.Config(6, 4))
    model = model_of(Dropout(input=0.5, hidden=0.5, output=0.5), "plain").clone(cells=stack)
    params = make(model)
    masks = masks_of(model.dropout, key=1, rows=1)
    dropped = [np.asarray(v[0] == 0) for v in (masks.input, masks.hidden[0], masks.output)]
    assert all(0 < v.sum() < len(v) for v in dropped)

    def loss(params):
        return jnp.sum(jnp.sin(apply(model, params, batch, masks).logits))

    gradient = jax.jit(jax.grad(loss))(params)
    reached = [
        np.abs(gradient["cell1"]["W"]).sum(0),
        np.abs(gradient["cell2"]["W"]).sum(0),
        np.abs(gradient["softmax_kernel"]).sum(1),
    ]
    for read, zero in zip(reached, dropped, strict=True):
        np.testing.assert_array_equal(read == 0, zero)
    plain, after = apply(model, params, batch, masks).top
    np.testing.assert_allclose(after, plain * masks.output, rtol=1e-6)


@pytest.mark.parametrize("words", [WORDS, 200])
def test_embedding_dropout_kills_whole_words(words):
    """One draw a word, kept rows divided by 1 - p; the softmax still scores every word."""
    model = model_of(Dropout(embedding=0.4)).clone(vocabulary=words)
    params = make(model)
    masks = model.masks(params, jax.random.key(1), ROWS, 0)
    mask = np.asarray(masks.embedding)
    assert mask.shape == (words, 1)
    np.testing.assert_allclose(np.unique(mask), [0, 1 / 0.6], rtol=1e-6)
    batch = batch_of()  # of more words than the table has, and of fewer
    out = apply(model, params, batch, masks)
    untied = model.clone(head="plain", dropout=Dropout())
    weights = params | {"embedding": params["embedding"] * mask}
    weights["softmax_kernel"] = params["embedding"].T
    np.testing.assert_allclose(out.logits, apply(untied, weights, batch).logits, atol=1e-6)
    assert np.abs(out.logits[1:, :, mask[:, 0] == 0]).min() > 0


# DropConnect


@pytest.mark.parametrize("inverted, factors, evaluation", [(False, [0, 1], 0.6),
                                                           (True, [0, 1 / 0.6], 1)])  # fmt: skip
def test_dropconnect(inverted, factors, evaluation):
    """The ON-LSTM's: w or 0, and (1 - p) w in evaluation. AWD-LSTM's: w / (1 - p) or 0, and w."""
    model = model_of(Dropout(weight=0.4, weight_inverted=inverted))
    params, batch = params_of(), batch_of()
    masks = model.masks(params, jax.random.key(0), ROWS, 0)
    assert [[v.shape for v in cell] for cell in masks.weights] == [[(30, 6)], [(20, 4)]]
    plain = model_of(Dropout())

    def with_kernels(*kernels):
        cells = {f"cell{k + 1}": params[f"cell{k + 1}"] | {"U": u} for k, u in enumerate(kernels)}
        return apply(plain, params | cells, batch).logits

    kernels = [params["cell1"]["U"], params["cell2"]["U"]]
    values = [np.asarray(m[0]) for m in masks.weights]
    for value in values:
        np.testing.assert_allclose(np.unique(value), factors, rtol=1e-6)
        assert abs((value > 0).mean() - 0.6) < 4 * np.sqrt(0.24 / value.size)
    trained = with_kernels(*(u * value for u, value in zip(kernels, values, strict=True)))
    np.testing.assert_allclose(apply(model, params, batch, masks).logits, trained, atol=1e-6)
    evaluated = with_kernels(*(u * np.float32(evaluation) for u in kernels))
    np.testing.assert_allclose(apply(model, params, batch).logits, evaluated, atol=1e-6)


@pytest.mark.parametrize(
    "config, dropped",
    [
        (hm_lstm.Config(3, (4, 5), layer_norm="ba"), {"layer1/gates/U_rec", "layer2/gates/U_rec"}),
        (hm_lstm.Config(3, (4, 5, 2)), {f"layer{k}/gates/U_rec" for k in (1, 2, 3)}),
        (lstm.Config(3, 4, layer_norm="ba"), {"U"}),
        (nested_lstm.Config(3, 4), {"level1/U", "level2/U"}),
        (on_lstm.Config(3, 4, 2), {"U"}),
    ],
    ids=["hm_lstm ba", "hm_lstm", "lstm ba", "nested_lstm", "on_lstm"],
)
def test_dropconnect_touches_recurrent_kernels_alone(config, dropped):
    """No input matrix, bias or gain, and no row of a boundary detector."""
    model = LanguageModel(5, 3, (config,), 4, dropout=Dropout(weight=0.5))
    cell = make(model)["cell1"]
    masks = model.masks({"cell1": cell}, jax.random.key(0), 2, 0).weights[0]
    for connected, share in (
        (dropout_masks.drop_connect(cell, model.dropout, [0 * m for m in masks]), 0.0),
        (dropout_masks.drop_connect(cell, model.dropout, None), 0.5),
    ):
        changed = set()
        for path, value in jax.tree_util.tree_leaves_with_path(connected):
            name = "/".join(part.key for part in path)
            before = functools.reduce(lambda tree, part: tree[part.key], path, cell)
            if (value != before).any():
                changed.add(name)
                np.testing.assert_array_equal(value, share * before)
        assert changed == dropped
    assert len(masks) == len(dropped)


# Nothing dropped


def test_probability_0_is_evaluation_to_the_bit():
    model, params, batch = model_of(Dropout()), params_of(), batch_of()
    assert model.masks(params, jax.random.key(0), ROWS, 0) is None

    def evaluated(carry, batch):
        return language.eval_step(model, params, carry, batch, SCALARS | {"seed": 0, "number": 0})

    arguments = jax.tree.map(lambda v: jnp.asarray(v)[None], (model.initial_carry(ROWS), batch))
    _, sums = jax.jit(jax.vmap(evaluated, axis_name=AXIS))(*arguments)
    value = loss_of(model, params, batch, language.Penalties())
    assert value == float(sums["nats"][0] / sums["count"][0])
    # And a model whose dropout is not 0 evaluates without it, save for the kernels' scale.
    inverted = model_of(ALL._replace(weight_inverted=True))
    np.testing.assert_array_equal(
        apply(inverted, params, batch).logits, apply(model, params, batch).logits
    )


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5])
@pytest.mark.parametrize("name", Dropout._fields[:-1])
def test_probabilities_outside_0_to_1_are_refused(name, p):
    with pytest.raises(UserError, match=f"dropout.{name} is {p}; a probability below 1"):
        Dropout(**{name: p}).check()


# Penalties


def test_penalties_by_hand():
    """AR: mean of h^2. TAR: mean of (h_t - h_{t-1})^2. Steps that do not count are left out."""
    h = jnp.array([[[1.0, 2.0], [3.0, 4.0]], [[2.0, 0.0], [3.0, 1.0]]])
    ones = jnp.ones((2, 2))
    assert tuple(map(float, language.activation_penalty(h, ones))) == (44.0, 8.0)
    assert tuple(map(float, language.temporal_penalty(h, ones))) == (14.0, 4.0)
    mask = jnp.array([[1.0, 1.0], [1.0, 0.0]])
    assert tuple(map(float, language.activation_penalty(h, mask))) == (34.0, 6.0)
    assert tuple(map(float, language.temporal_penalty(h, mask))) == (5.0, 2.0)
    total, number = language.temporal_penalty(h[:1], ones[:1])
    assert float(total) == 0 and float(number) > 0


@pytest.mark.parametrize("after_dropout", [False, True])
def test_penalties_of_the_loss(after_dropout):
    """AR reads the undropped output in the ON-LSTM's code, the dropped one in AWD-LSTM's."""
    model, params, batch = model_of(Dropout(output=0.5)), params_of(), batch_of()
    value = loss_of(model, params, batch, language.Penalties(20.0, 3e3, after_dropout))
    mask_key = jax.random.split(jax.random.key(0))[0]
    out = apply(model, params, batch, model.masks(params, mask_key, ROWS, 0))
    nll = -jnp.take_along_axis(jax.nn.log_softmax(out.logits), batch.targets[..., None], -1)
    nats = np.sum(nll[..., 0] * batch.mask) / batch.mask.sum()
    counted = batch.mask == 1
    undropped, dropped = (np.asarray(h, np.float64) for h in out.top)
    activation = np.mean((dropped if after_dropout else undropped)[counted] ** 2)
    pairs = counted[1:] & counted[:-1]
    temporal = np.mean((undropped[1:] - undropped[:-1])[pairs] ** 2)
    np.testing.assert_allclose(value, nats + 20 * activation + 3e3 * temporal, rtol=1e-5)


# Many devices

OPTIMIZER = optim.optimizer("sgd", clip=0.25, weight_decay=1e-3)


def train(devices):
    """Parameters after three updates, with everything that can be dropped, on so many devices."""
    model = model_of()
    mesh = parallel.make_mesh(jax.devices()[:devices])
    state = train_state.create(lambda key: make(model), OPTIMIZER, seed=0)
    state = parallel.replicate(state, mesh)
    carry = parallel.shard_rows(jax.tree.map(np.asarray, model.initial_carry(ROWS)), mesh)
    loss = functools.partial(language.loss, model, PENALTIES)
    step = parallel.pmapped(functools.partial(train_state.train_step, loss, OPTIMIZER), mesh)
    scalars = parallel.replicate(SCALARS | {"learning_rate": np.float32(2)}, mesh)
    for seed in range(3):
        batch = parallel.shard_batch(batch_of(seed=seed), mesh)
        state, carry, metrics = step(state, carry, batch, scalars)
        parallel.settle(metrics)
    return jax.device_get((state.params, carry))


def test_dropout_trains_alike_on_1_and_8_devices():
    """Masks belong to a row's place in the whole batch; penalties are means over all devices."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), train(8), train(1)
    )


class Drawn(Exception):
    """Everything random of an update is drawn."""


def test_masks_are_no_rows_noise(monkeypatch):
    """A sampling model's boundaries and its dropout are independent draws of one update."""
    keys, noise, draw = {}, parallel.row_noise, dropout_masks.sample_masks
    cell = hm_lstm.Config(4, (3, 3), boundary="sample", layer_norm="none")
    model = LanguageModel(WORDS, 4, (cell,), 5, dropout=Dropout(embedding=0.5))

    def record_noise(key, *shape):
        keys["noise"] = key
        return noise(key, *shape)

    def record_masks(dropout, key, *shapes):
        keys["masks"] = key
        return draw(dropout, key, *shapes)

    def stop(*_, **__):
        raise Drawn

    params = make(model)
    monkeypatch.setattr(parallel, "row_noise", record_noise)
    monkeypatch.setattr(language_models, "sample_masks", record_masks)
    monkeypatch.setattr(LanguageModel, "apply", stop)
    with pytest.raises(Drawn):
        jax.vmap(
            lambda batch: language.loss(
                model, PENALTIES, params, (), batch, SCALARS, jax.random.key(0)
            ),
            axis_name=AXIS,
        )(jax.tree.map(lambda v: v[None], batch_of()))
    mask = draw(Dropout(embedding=0.5), keys["masks"], 1, 0, 1000, (4, (), 5), [[]]).embedding
    for row in range(ROWS):
        uniform = jax.random.uniform(jax.random.fold_in(keys["noise"], row), (1000,))
        assert 400 < np.sum((uniform < 0.5) != (mask[:, 0] > 0)) < 600


def test_a_loss_is_the_same_outside_a_mapped_step():
    """Of all rows at once, as the shares of four devices add up; with penalties and dropout."""
    model, params, batch = model_of(), params_of(), batch_of()

    def value(params, carry, batch):
        return language.loss(model, PENALTIES, params, carry, batch, SCALARS, jax.random.key(0))[0]

    outside = jax.jit(jax.value_and_grad(value))(params, model.initial_carry(ROWS), batch)
    rows = jax.tree.map(lambda v: v.reshape(len(v), 4, -1).swapaxes(0, 1), batch)
    carry = jax.tree.map(lambda v: v.reshape(4, -1, *v.shape[1:]), model.initial_carry(ROWS))
    mapped = jax.vmap(jax.value_and_grad(value), (None, 0, 0), axis_name=AXIS)
    shares = jax.jit(mapped)(params, carry, rows)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b.sum(0), rtol=1e-5, atol=1e-6), outside, shares
    )
