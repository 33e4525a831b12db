"""`import hmrnn_jax as hm`: what it costs and has, a cell as functions, and what a run can do."""

import dataclasses
import functools
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hmrnn_jax as hm
from hmrnn_jax import defaults, parallel
from hmrnn_jax.analysis import trees
from hmrnn_jax.cells import on_lstm
from hmrnn_jax.datasets.vocabulary import Vocabulary
from hmrnn_jax.errors import UserError
from hmrnn_jax.inference import activations
from hmrnn_jax.models.language import LanguageModel
from hmrnn_jax.tasks import language

ROOT = Path(__file__).parent.parent
TEXT = "the cat sat on a mat\nthe dog sat on the cat\n"


def test_importing_it_imports_nothing_and_its_names_are_all_there():
    code = (
        "import sys, hmrnn_jax; heavy = {'jax', 'flax', 'numpy', 'absl'} & set(sys.modules);"
        "assert not heavy, heavy; assert set(hmrnn_jax.__all__) <= set(dir(hmrnn_jax))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert hm.__all__ == sorted(hm.__all__) and (ROOT / "hmrnn_jax/py.typed").exists()
    for name in hm.__all__:
        assert name == "__version__" or getattr(hm, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'unrol'"):
        hm.unrol  # noqa: B018


# A cell as functions


@pytest.fixture(scope="module")
def cell():
    return hm.LSTM(input_size=3, size=4)


@pytest.fixture(scope="module")
def params(cell):
    return hm.init(jax.random.key(0), cell)


def inputs(steps=6, rows=3):
    return np.random.default_rng(0).normal(size=(steps, rows, 3)).astype(np.float32)


def alone(cell, params, x, **how):
    """`unroll` of one row `[T, 3]`."""
    out = hm.unroll(cell, params, hm.initial_state(cell, 1), x[:, None], **how)
    return jax.tree.map(lambda v: v[0], out.final), jax.tree.map(lambda v: v[:, 0], out.states)


def equal(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), actual, expected)


@pytest.mark.parametrize("reverse", [False, True])
def test_rows_of_any_length_are_read_as_if_alone(cell, params, reverse):
    """Forwards or backwards; what stands in the padding, not even nan, touches nothing."""
    x, lengths = inputs(), np.array([6, 2, 0])
    resets = np.zeros((6, 3), bool)
    resets[4, 0] = True
    x[2:, 1] = x[:, 2] = np.nan

    def run(params, lengths):
        state = hm.initial_state(cell, 3)
        return hm.unroll(cell, params, state, x, lengths=lengths, reverse=reverse, resets=resets)

    out = jax.jit(run)(params, lengths)
    for row, length in enumerate(lengths[:2]):
        order = slice(None, None, -1) if reverse else slice(None)
        own, reset = x[:length, row][order], resets[:length, row][order]
        final, states = alone(cell, params, own, resets=reset[:, None])
        equal(jax.tree.map(lambda v, row=row: v[row], out.final), final)
        places = jax.tree.map(
            lambda v, at=(row, length, order): v[: at[1], at[0]][at[2]], out.states
        )
        equal(places, states)
        assert not any(np.any(v[length:, row]) for v in jax.tree.leaves(out.states))
    empty = jax.tree.map(lambda v: v[2], out.final)
    equal(empty, jax.tree.map(lambda v: v[0], hm.initial_state(cell, 1)))

    def loss(params):
        out = run(params, lengths)
        return sum(jnp.sum(v) for v in jax.tree.leaves((out.final, out.states)))

    assert all(np.isfinite(g).all() for g in jax.tree.leaves(jax.jit(jax.grad(loss))(params)))
    lengths = jnp.asarray(lengths)  # which a traced function finds outside
    jax.eval_shape(jax.grad(loss), params)


def test_no_steps_of_no_length(cell, params):
    state = hm.initial_state(cell, 3)
    with jax.numpy_rank_promotion("raise"):
        out = hm.unroll(cell, params, state, inputs()[:0], lengths=np.zeros(3, int))
    equal(out.final, state)


def test_lengths_rely_on_no_promoted_ranks(cell, params):
    def run(lengths):
        how = {"lengths": lengths, "reverse": True}
        return hm.unroll(cell, params, hm.initial_state(cell, 3), jnp.asarray(inputs()), **how)

    with jax.numpy_rank_promotion("raise"):
        jax.eval_shape(run, jnp.zeros(3, int))


def test_a_cell_that_samples_draws_by_its_key():
    cell = hm.HMLSTM(3, (4, 4), boundary="sample", detector_scale=0.0)
    params, state = hm.init(jax.random.key(0), cell), hm.initial_state(cell, 8)
    one, other, again = (
        hm.unroll(cell, params, state, inputs(9, 8), key=jax.random.key(k)).states.z[0]
        for k in (0, 1, 0)
    )
    assert (one == again).all() and (one != other).any() and 0.2 < one.mean() < 0.8
    with pytest.raises(UserError, match="give a key"):
        hm.unroll(cell, params, state, inputs(9, 8))


def test_a_rare_boundary_is_as_rare_in_half_precision():
    """bfloat16 has 128 uniform numbers: a boundary in a thousand would be one in 128."""
    cell = hm.HMLSTM(3, (2, 2), boundary="sample", detector_scale=0.0, detector_bias=-0.998)
    params, x = hm.init(jax.random.key(0), cell), jnp.zeros((100, 1000, 3), jnp.bfloat16)
    state = hm.initial_state(cell, 1000)
    z = hm.unroll(cell, params, state, x, key=jax.random.key(1)).states.z[0]
    assert z.mean() == pytest.approx(0.001, abs=0.0005)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": np.zeros((6, 3))}, r"x has shape \(6, 3\); it must be \[T, B, input_size\]"),
        ({"x": np.zeros((6, 3, 5))}, "5 wide, but the cell's config says input_size=3"),
        ({"x": np.zeros((6, 2, 3))}, r"make it with initial_state\(cell, 2\)"),
        ({"lengths": np.zeros(2, int)}, r"lengths has shape \(2,\); with this x it must be \(3,\)"),
        ({"resets": np.zeros((3, 6), bool)}, r"resets has shape \(3, 6\)"),
        ({"lengths": np.array([6, 7, 0])}, "lengths are from 0 to 7; .* from 0 to 6"),
        ({"lengths": np.array([6, -1, 0])}, "lengths are from -1 to 6"),
    ],
)
def test_what_does_not_fit_is_one_sentence(cell, params, changes, message):
    arguments = {"state": hm.initial_state(cell, 3), "x": inputs()} | changes
    with pytest.raises(UserError, match=message):
        hm.unroll(cell, params, **arguments)


# A run


def run_of(unit, *layers):
    vocabulary = Vocabulary.of(TEXT, unit, unknown=unit == "words")
    model = LanguageModel(vocabulary.size, 4, layers, 8, "plain" if len(layers) > 1 else "gated")
    config = defaults.text()
    mesh = parallel.make_mesh(jax.devices()[:1])
    params = jax.jit(functools.partial(language.init_params, model))(jax.random.key(0))
    return hm.Run("mine", config, vocabulary, model, params, 1.0, mesh)


@pytest.fixture(scope="module")
def run():
    return run_of("characters", hm.HMLSTM(4, (6, 5), layer_norm="none"))


def test_boundaries_and_segments_of_a_text_are_data(run):
    z = run.boundaries(TEXT)
    ids, _ = run.encoding.encode(TEXT)
    expected, _ = activations.of(run.model, run.plain, ids)
    assert z.dtype == np.int8 and z.shape == (1, len(TEXT))
    np.testing.assert_array_equal(z, np.array(expected) > 0.5)
    np.testing.assert_array_equal(run.boundaries(ids), z)
    rows = run.segment(TEXT)
    assert "".join(row["text"] for row in rows) == TEXT and rows == run.segment(ids)
    assert [row["end"] for row in rows] == np.union1d(np.flatnonzero(z) + 1, len(TEXT)).tolist()
    stream = run.stream()
    assert stream.push(TEXT).segments + stream.finish().segments == rows


@pytest.mark.parametrize(
    "given, message",
    [
        (Path("my.txt"), "not PosixPath: read a file"),
        ([1, 2], "not list"),
        (None, "not NoneType"),
        (7, "not int"),
        (np.array([1, 99999]), "these are 1 to 99,999"),
        (np.array([-1, 2]), "these are -1 to 2"),
        (np.array([1.5, 2.0]), "these are float64 of shape"),
        (np.array([[1, 2]]), "of shape .1, 2."),
        (jnp.array(3), "of shape .."),
    ],
)
def test_what_is_no_text_is_refused(run, given, message):
    for ask in (run.score, run.boundaries, run.segment):
        with pytest.raises(UserError, match=message):
            ask(given)


def test_ids_of_jax_are_a_text_and_further_wishes_are_checked(run):
    ids = jnp.asarray(run.encoding.encode(TEXT)[0])
    np.testing.assert_array_equal(run.boundaries(ids), run.boundaries(TEXT))
    assert run.segment(ids) == run.segment(TEXT)
    with pytest.raises(UserError, match="batch is -3"):
        run.score(TEXT, batch=-3)
    with pytest.raises(UserError, match="A prompt is a str or bytes, not ndarray"):
        run.sample(np.array([1, 2]))
    for ask in (functools.partial(run.segment, TEXT), run.stream):
        with pytest.raises(UserError, match="a length or a rule needs another reading"):
            ask(length=5)
        with pytest.raises(UserError, match="a length or a rule needs another reading"):
            ask(rule="peaks")
    with pytest.raises(UserError, match="looks 5 symbols ahead"):
        run.stream(reading="line_break", length=5)
    with pytest.raises(UserError, match="a model of words"):
        run.parse([["the", "cat"]])
    with pytest.raises(UserError, match="Sentences are a list"):
        run.parse("the cat")


def test_a_text_is_scored_as_the_stream_scores_it(run):
    found = run.score(TEXT)
    nats = -run.stream().push(TEXT).log_probabilities[1:]
    assert found["symbols"] == len(TEXT) - 1 and found["rows"] == 1
    assert found["nats"] == pytest.approx(nats.mean(), abs=1e-5)
    assert found["bpc"] == pytest.approx(found["nats"] / np.log(2))
    assert run.score(TEXT.encode(), batch=2, warmup=100)["nats"] == pytest.approx(found["nats"])
    with pytest.raises(UserError, match="at least 2 are needed"):
        run.score("t")
    with pytest.raises(UserError, match="the symbol 'z' at offset 4"):
        run.score("the zebra")


def test_samples_are_drawn_by_seed(run):
    one, again, other = (run.sample("the ", 30, seed=seed) for seed in (0, 0, 1))
    assert one["text"] == again["text"] != other["text"]
    assert len(one["text"]) == 30 == len(one["log_probabilities"]) and one["read"] == 4
    read = run.stream().push("the " + one["text"]).log_probabilities[4:]
    np.testing.assert_allclose(one["log_probabilities"], read, atol=1e-5)
    with pytest.raises(UserError, match="give a whole length of 1 or more"):
        run.sample("the ", 0)
    with pytest.raises(UserError, match="The prompt is empty"):
        run.sample("")


def test_sentences_become_trees():
    cells = (on_lstm.Config(4, 6, chunk=2), on_lstm.Config(6, 6, chunk=2))
    run = run_of("words", *cells)
    found = run.parse(["the cat sat on", ("the", "dog")], layer=1)
    assert [trees.leaves(tree) for tree in found] == ["the cat sat on".split(), ["the", "dog"]]
    distances = activations.distances(run.model, run.plain, run.encoding, [("the", "cat", "sat")])
    for biased in (True, False):
        (tree,) = run.parse(["the cat sat"], layer=2, biased=biased)
        assert tree == trees.tree_from_distances("the cat sat".split(), distances[0][:, 1], biased)
    with pytest.raises(UserError, match="layer is 3; this model has 2 layers"):
        run.parse(["the cat"], layer=3)
    with pytest.raises(UserError, match="A sentence has no word"):
        run.parse([""])


def test_a_training_by_name_and_a_run_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="There is no configuration quickstarr; did you mean quick"):
        hm.train("quickstarr", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="is not a run"):
        hm.load(tmp_path)


def test_a_run_of_another_task_says_so(run):
    other = dataclasses.replace(run, config=defaults.logic())
    for ask in (other.score, other.boundaries, other.segment, other.sample, other.parse):
        with pytest.raises(UserError, match="by a run of the task language; mine is one of logic"):
            ask(TEXT)
    with pytest.raises(UserError, match="mine is a run of the task logic"):
        other.stream()
