"""The benchmarks compare equal mathematics, pair their ratios, and run; no timing is asserted."""

import functools
import json

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import peers, timing, train_step
from hmrnn_jax import language, models
from hmrnn_jax.cells import hm_lstm

SIZE = train_step.Size((6, 5, 4), 3, 8, 7, batch=4, window=12)


def naive_params(params, depth):
    """The naive version's parameters, made of a `LanguageModel`'s (kernels are transposed)."""
    flat = {"embedding/embedding": params["embedding"]}
    for layer in range(1, depth + 1):
        entry = params["cell1"][f"layer{layer}"]
        parts = [entry["gates"]] + ([entry["detector"]] if "detector" in entry else [])
        both = {name: jnp.concatenate([part[name] for part in parts]) for name in entry["gates"]}
        flat[f"recurrent{layer}/bias"] = both["b"]
        for ours, theirs in {"U_rec": "recurrent", "U_td": "top_down", "W_bu": "bottom_up"}.items():
            if ours in both:
                flat[f"{theirs}{layer}/kernel"] = both[ours].T
        flat[f"embed{layer}/kernel"] = params["output"][f"embed{layer}"]
    flat["gate/kernel"] = params["output"]["gate"]
    flat["softmax/kernel"] = params["softmax_kernel"]
    flat["softmax/bias"] = params["softmax_bias"]
    return {"step": flax.traverse_util.unflatten_dict(flat, sep="/")}


@pytest.fixture(scope="module")
def pair():
    """Both models, our parameters, a batch, and a carry with all pairs of boundaries."""
    config = hm_lstm.Config(SIZE.embedding, SIZE.sizes, layer_norm="none")
    ours = models.LanguageModel(SIZE.vocabulary, SIZE.embedding, (config,), SIZE.output)
    naive = peers.NaiveHMLSTM(SIZE.vocabulary, SIZE.embedding, SIZE.sizes, SIZE.output)
    shapes = jax.eval_shape(functools.partial(language.init_params, ours), jax.random.key(0))
    draw = np.random.default_rng(1).normal
    # Biases too are drawn, so that each of them matters.
    params = jax.tree.map(lambda p: draw(0, 0.5, p.shape).astype(np.float32), shapes)
    h, c = (
        tuple(draw(size=(SIZE.batch, n)).astype(np.float32) for n in SIZE.sizes) for _ in range(2)
    )
    z = tuple((jnp.arange(SIZE.batch) >> k & 1).astype(jnp.float32) for k in range(2))
    return ours, naive, params, train_step.one_batch(SIZE), (h, c, z)


def test_the_naive_version_is_the_same_model(pair):
    ours, naive, params, batch, (h, c, z) = pair
    mapped = naive_params(params, len(SIZE.sizes))
    out = ours.apply({"params": params}, batch.inputs, (hm_lstm.State(h, c, z),), slope=1.5)
    carry = (h, c, tuple(v[:, None] for v in z))
    logits, after = naive.apply({"params": mapped}, batch.inputs, carry, slope=1.5)
    fired = np.stack(out.states[0].z)
    assert 0.1 < fired.mean() < 0.9  # all three operations take place
    np.testing.assert_allclose(logits, out.logits, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(out.carry[0], after, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(b.reshape(a.shape), a, rtol=1e-5, atol=1e-5)
    expected = jax.eval_shape(naive.init, jax.random.key(0), batch.inputs, carry)["params"]
    assert jax.tree.map(jnp.shape, mapped) == jax.tree.map(jnp.shape, expected)


def test_the_naive_version_has_the_same_gradients(pair):
    ours, naive, params, batch, (h, c, z) = pair

    def nats(logits):
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets).mean()

    def loss(params):
        state = (hm_lstm.State(h, c, z),)
        return nats(ours.apply({"params": params}, batch.inputs, state).logits)

    def naive_loss(params):
        carry = (h, c, tuple(v[:, None] for v in z))
        mapped = naive_params(params, len(SIZE.sizes))
        return nats(naive.apply({"params": mapped}, batch.inputs, carry)[0])

    gradients, expected = jax.jit(jax.grad(loss))(params), jax.jit(jax.grad(naive_loss))(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradients, expected
    )


def test_ratios_are_paired_within_rounds():
    # The machine slows down tenfold between the rounds; within them the ratio is 2.
    assert timing.paired_ratio([1.0, 10.0, 3.0], [2.0, 20.0, 6.0]) == (2.0, 2.0, 2.0)
    assert timing.paired_ratio([1.0, 1.0, 1.0], [1.0, 5.0, 2.0]) == (2.0, 1.0, 5.0)


def test_every_timed_step_follows_an_untimed_one_of_its_own():
    calls = []
    steps = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = timing.interleaved(steps, rounds=2, least=0)
    assert "".join(calls) == "abc" + "aabbcc" + "bbccaa"
    assert {name: len(values) for name, values in seconds.items()} == dict.fromkeys("abc", 2)


def test_the_program_runs(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(train_step.SIZES, "tiny", SIZE)
    file = tmp_path / "figures.json"
    train_step.main(["--size=tiny", "--rounds=1", "--only=ours f32", f"--json={file}"])
    printed = capsys.readouterr().out
    assert printed.startswith("CPU ")
    rows = [line.split(" | ")[0].strip("| ") for line in printed.splitlines() if "| x" in line]
    assert rows == ["naive", "ours f32"]
    figures = json.loads(file.read_text())["sizes"]["tiny"]["candidates"]
    assert figures["naive"]["parameters"] == figures["ours f32"]["parameters"]
    assert figures["naive"]["ratio"]["median"] == 1


def test_the_flax_stack_keeps_its_carry_and_predicts_every_symbol():
    model = peers.FlaxLSTM(SIZE.vocabulary, SIZE.embedding, SIZE.sizes, SIZE.output)
    ids, carry = train_step.one_batch(SIZE).inputs, model.initial_carry(SIZE.batch)
    key = jax.random.key(0)
    (logits, after), _ = jax.eval_shape(model.init_with_output, key, ids, carry)
    assert logits.shape == (SIZE.window, SIZE.batch, SIZE.vocabulary)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, carry)


def test_pytorch_runs_where_it_is_installed():
    batch = train_step.one_batch(SIZE)
    sizes = (SIZE.vocabulary, SIZE.embedding, SIZE.sizes, SIZE.output, batch.inputs, batch.targets)
    try:
        step, _ = peers.torch_lstm_step(*sizes)
    except peers.Unavailable as reason:
        pytest.skip(str(reason))
    step()


@pytest.mark.parametrize("flag", ["--size=huge", "--only=ours", "--rounds=0"])
def test_wrong_flags_are_refused(flag, capsys):
    with pytest.raises(SystemExit):
        train_step.main([flag])
    assert flag.split("=")[0] in capsys.readouterr().err
