"""The language model: counts, output module, carry, and what must not matter."""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from fixtures import assert_close, load, names

from hmrnn_jax import defaults, recurrence
from hmrnn_jax.cells import hm_lstm, lstm
from hmrnn_jax.errors import UserError
from hmrnn_jax.models import stack as cell_stack
from hmrnn_jax.models.density import StrokeModel
from hmrnn_jax.models.language import LanguageModel, language_model
from hmrnn_jax.tasks import language, metrics
from hmrnn_jax.training import state as train_state


def hm_model(vocabulary, sizes, output, embedding=8, **choices):
    cell = hm_lstm.Config(embedding, sizes, **choices)
    return LanguageModel(vocabulary, embedding, (cell,), output)


@pytest.fixture(scope="module")
def small():
    """A model whose detectors fire now and then, its parameters, 400 steps of 2 rows, apply."""
    model = hm_model(6, (8, 7, 5), 9, layer_norm="none")
    params = language.init_params(model, jax.random.key(0))
    params = jax.tree.map(lambda v: 2 * v, params)
    ids = jax.random.randint(jax.random.key(1), (400, 2), 0, 6)
    return model, params, ids, jax.jit(lambda p, *a, **k: model.apply({"params": p}, *a, **k))


@pytest.mark.parametrize(
    "vocabulary, sizes, output, count",
    [
        (50, (512,) * 3, 512, 8_434_100),  # Penn Treebank
        (27, (1024,) * 3, 2048, 36_261_405),  # text8
        (205, (1024,) * 3, 2048, 36_648_911),  # enwik8
    ],
)
def test_number_of_parameters_of_the_published_models(vocabulary, sizes, output, count):
    """Follows from the sizes of section 4: no detector and no top-down matrix in layer 3."""
    model = hm_model(vocabulary, sizes, output, embedding=128, layer_norm="none")
    shapes = jax.eval_shape(lambda key: language.init_params(model, key), jax.random.key(0))
    assert sum(v.size for v in jax.tree.leaves(shapes)) == count


# The output module


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-10), ("float32", 1e-5)])
@pytest.mark.skipif(not names("hm_lstm_output_module"), reason="no such fixture in the folder")
def test_output_module_fixture(dtype, tolerance):
    """Eq. 11-12 and an affine softmax: gates, h^e, logits, loss and every gradient."""
    arrays, meta = load("hm_lstm_output_module")
    depth = len(meta["hidden"])

    def parts(prefix=""):
        def get(name):
            return jnp.asarray(arrays[prefix + name], dtype)

        params = {"gate": get("gate/w")}
        params |= {f"embed{k + 1}": get(f"embed/{k}") for k in range(depth)}
        softmax = (get("softmax/W"), get("softmax/b"))
        return params, softmax, [get(f"h/{k}") for k in range(depth)]

    def loss(params, softmax, hidden):
        embedded = cell_stack.GatedOutput(meta["E"]).apply({"params": params}, hidden)
        logits = cell_stack.dense(embedded, softmax[0], "float32") + softmax[1]
        count = len(arrays["targets"])
        nats = metrics.cross_entropy(logits, arrays["targets"], jnp.ones(count, dtype))
        return nats / count, (embedded, logits)

    with jax.enable_x64(dtype == "float64"):
        derive = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)
        (value, (embedded, logits)), gradients = derive(*parts())
        assert_close(value, arrays["loss"], tolerance)
        assert_close(embedded, arrays["out/he"], tolerance)
        assert_close(logits, arrays["out/logits"], tolerance)
        jax.tree.map(lambda a, b: assert_close(a, b, tolerance), gradients, parts("grad/"))


def test_output_gates_see_all_layers_and_every_layer_has_its_own_matrix():
    """g^l = sigmoid(w^l . [h^1; ...; h^L]) varies with h; h^e >= 0; no example meets another."""
    module, sizes = cell_stack.GatedOutput(7), (4, 4, 4)
    keys = jax.random.split(jax.random.key(0), 3)
    hidden = [jax.random.normal(key, (5, size)) for key, size in zip(keys, sizes, strict=True)]
    params = module.init(jax.random.key(1), hidden)["params"]
    assert {name: v.shape for name, v in params.items()} == {
        "gate": (12, 3), "embed1": (4, 7), "embed2": (4, 7), "embed3": (4, 7),
    }  # fmt: skip
    y = module.apply({"params": params}, hidden)
    assert (y >= 0).all() and (y == 0).any() and (y > 0).any()
    order = jnp.array([3, 0, 4, 1, 2])
    shuffled = module.apply({"params": params}, [h[order] for h in hidden])
    np.testing.assert_allclose(shuffled, y[order], atol=1e-6)
    # Layer 3 reaches h^e through the gates of the others even when its own matrix is zero.
    muted = params | {"embed3": jnp.zeros((4, 7))}
    before = module.apply({"params": muted}, hidden)
    after = module.apply({"params": muted}, [*hidden[:2], hidden[2] + 1])
    assert jnp.abs(before - after).max() > 1e-3


# The model over time


def test_400_steps_are_4_windows_of_100_with_all_of_the_state_carried(small):
    """h, c and z; without z, the first step of a window takes the wrong operation."""
    model, params, ids, apply = small
    whole = apply(params, ids, model.initial_carry(2)).logits
    assert (whole < 0).any() and (whole > 0).any()

    def in_windows(edge):
        carry, logits = model.initial_carry(2), []
        for window in ids.reshape(4, 100, 2):
            out = apply(params, window, edge(carry))
            carry = out.carry
            logits.append(out.logits)
        return jnp.concatenate(logits)

    def without_z(carry):
        return (carry[0]._replace(z=tuple(jnp.zeros_like(z) for z in carry[0].z)),)

    np.testing.assert_allclose(in_windows(lambda carry: carry), whole, rtol=0, atol=1e-5)
    assert jnp.abs(in_windows(without_z) - whole).max() > 1e-2


def test_bits_per_character_do_not_depend_on_the_slope(small):
    """In step mode the slope changes gradients alone, so evaluation is invariant to it."""
    model, params, ids, apply = small
    window, carry = ids[:100], model.initial_carry(2)
    one, five = (apply(params, window, carry, slope=a).logits for a in (1.0, 5.0))
    np.testing.assert_array_equal(one, five)


def test_rows_of_a_batch_do_not_meet(small):
    model, params, ids, apply = small
    window, carry = ids[:100], model.initial_carry(2)
    changed = window.at[:, 1].set((window[:, 1] + 1) % 6)
    before, after = (apply(params, v, carry).logits for v in (window, changed))
    np.testing.assert_array_equal(before[:, 0], after[:, 0])
    assert (before[:, 1] != after[:, 1]).any()


def test_a_table_of_products_gives_the_logits_of_the_embeddings(small):
    """Windows of fewer symbols than the vocabulary multiply each step, longer ones the table."""
    model, params, ids, apply = small
    carry, logits = model.initial_carry(2), []
    for start in range(0, 12, 3):  # 3 steps of 2 rows are not more than the 6 symbols
        out = apply(params, ids[start : start + 3], carry)
        carry = out.carry
        logits.append(out.logits)
    whole = apply(params, ids[:12], model.initial_carry(2)).logits
    np.testing.assert_allclose(jnp.concatenate(logits), whole, rtol=0, atol=1e-5)


def test_a_model_that_knows_nothing_scores_log2_of_the_vocabulary(small):
    """BPC is nats over ln 2, averaged over the steps that count; exactly log2 V when uniform."""
    model, params, ids, apply = small
    flat = params | {"softmax_kernel": jnp.zeros((9, 6)), "softmax_bias": jnp.full(6, 3.0)}
    window = ids[:101]
    mask = (jnp.arange(100)[:, None] % jnp.array([2, 3])).astype(jnp.float32).clip(0, 1)
    logits = apply(flat, window[:-1], model.initial_carry(2)).logits
    nats = metrics.cross_entropy(logits, window[1:], mask)
    assert float(metrics.BITS * nats / mask.sum()) == pytest.approx(np.log2(6), rel=1e-6)


def test_an_lstm_stack_shows_all_its_layers_to_the_output_module():
    """The baseline: three LSTMs, each over the whole window, and the same output module."""
    sizes = (4, 5, 6)
    stack = tuple(lstm.Config(n, size) for n, size in zip((3, 4, 5), sizes, strict=True))
    model = LanguageModel(7, 3, stack, 8)
    params = language.init_params(model, jax.random.key(0))
    assert params["output"]["gate"].shape == (15, 3)
    ids = jax.random.randint(jax.random.key(1), (6, 2), 0, 7)
    out = model.apply({"params": params}, ids, model.initial_carry(2))
    x = params["embedding"][ids]
    for k, config in enumerate(stack):
        start = recurrence.initial_state(config, 2)
        x = recurrence.unroll(config, params[f"cell{k + 1}"], start, x).states.h
        np.testing.assert_allclose(out.states[k].h, x, rtol=0, atol=1e-6)


def test_parameters_are_drawn_as_flax_draws_them():
    """Though the network is not run for it, whose windows are of a length that remat divides."""
    model = language_model(section(), 11)
    key, ids = jax.random.key(3), jnp.zeros((1, 1), jnp.int32)
    noise = jnp.zeros((1, 1, model.noise_width))
    drawn = model.inference.init(key, ids, model.initial_carry(1), noise=noise)["params"]
    jax.tree.map(np.testing.assert_array_equal, language.init_params(model, key), drawn)


@pytest.mark.parametrize("kind", [LanguageModel, StrokeModel])
def test_a_gated_head_without_a_width_is_refused(kind):
    """`output` is 0 unless it is given, and the gated head is the default."""
    model = kind(5, 3, (lstm.Config(3, 4),))
    x = jnp.zeros((1, 1), int) if kind is LanguageModel else jnp.zeros((1, 1, 3))
    with pytest.raises(UserError, match="output is 0; .*must be 1 or more"):
        cell_stack.init_params(model, jax.random.key(0), x, model.initial_carry(1))


# From a configuration


def section(**changes):
    config = ml_collections.ConfigDict(
        dict(
            cell="hm_lstm", sizes=(8, 7), embedding=5, output=6, head="gated",
            gradient="autodiff", precision="bfloat16", remat=2, unroll=4, backend="scan",
            embedding_scale=0.5,
            embedding_uniform=False, hm_lstm=dict(boundary="soft", forget_bias=1.0),
            lstm=dict(layer_norm="ba"), on_lstm=dict(chunk=4), dropout={},
        )
    )  # fmt: skip
    config.update(changes)
    return config


@pytest.mark.parametrize("cell", ["hm_lstm", "nested_lstm", "on_lstm"])
def test_one_program_draws_the_parameters_that_a_hundred_do(cell):
    """Bit for bit, scaled draws and orthogonal matrices too: figures stay what they were."""
    config = defaults.text().model
    config.update(cell=cell, sizes=(8,), output=8, embedding=8)
    if cell == "hm_lstm":
        config.sizes = (8, 8)
    model = language_model(config, 11)
    init = functools.partial(language.init_params, model)
    key = jax.random.split(jax.random.key(3))[0]
    drawn = train_state.initial_params(init, 3)
    jax.tree.map(np.testing.assert_array_equal, drawn, init(key))


def test_a_model_from_its_section_of_the_configuration():
    model = language_model(section(), 11)
    assert model.cells == (hm_lstm.Config(5, (8, 7), boundary="soft", forget_bias=1.0),)
    assert (model.vocabulary, model.embedding, model.output) == (11, 5, 6)
    assert model.embedding_scale == 0.5
    assert model.policy == recurrence.Policy("autodiff", "bfloat16", 2, 4)
    assert model.noise_width == 0
    stack = cell_stack.cells_from(section(cell="lstm"), 5)
    assert stack == (lstm.Config(5, 8, "ba"), lstm.Config(8, 7, "ba"))


def test_sampling_models_ask_for_one_draw_a_detector():
    assert hm_model(6, (8, 7, 5), 9, boundary="sample").noise_width == 2


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"cell": "rnn"}, "model.cell is 'rnn'; it must be one of hm_lstm, lstm"),
        ({"sizes": ()}, r"model.sizes is \(\); it must hold at least one positive width"),
        ({"sizes": (4, 0)}, r"model.sizes is \(4, 0\); it must hold at least one positive width"),
        ({"hm_lstm": {"layer_norm": "batch"}}, "layer_norm is 'batch'; it must be one of none"),
        ({"cell": "on_lstm"}, "layer of 7 units cannot be cut in chunks of 4"),
        ({"cell": "lstm", "head": "tied"}, "tied decoder needs a last layer as wide as the embed"),
        ({"head": "ring"}, "model.head is 'ring'; it must be one of gated, plain, tied"),
        ({"dropout": {"weight": 1.0}}, "dropout.weight is 1.0; a probability below 1 is needed"),
        ({"dropout": {"hidden": 0.1}}, "layers read each other within a step"),
    ],
)
def test_sections_that_make_no_model(changes, message):
    with pytest.raises(UserError, match=message):
        language_model(section(**changes), 11)
