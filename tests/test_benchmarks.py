"""The benchmarks compare equal mathematics, pair their ratios, and run; no timing is asserted."""

import dataclasses
import functools
import json

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import cells as study_of_cells
from benchmarks import peers, problems, sparsity, timing, train_step
from hmrnn_jax import defaults
from hmrnn_jax.cells import hm_lstm
from hmrnn_jax.datasets import iam_ondb, synthetic
from hmrnn_jax.datasets.vocabulary import Vocabulary
from hmrnn_jax.errors import UserError
from hmrnn_jax.models import mixture
from hmrnn_jax.models.density import StrokeModel
from hmrnn_jax.models.language import LanguageModel
from hmrnn_jax.tasks import language
from hmrnn_jax.training.workdir import open_run

SIZE = problems.Size((6, 5, 4), 3, 8, 7, batch=4, window=12)
STROKES = problems.Size((6, 5, 4), 0, 8, 0, batch=4, window=12, components=3)


def naive_params(params, depth):
    """The naive version's parameters, made of our model's (kernels are transposed)."""
    flat = {"embedding/embedding": params["embedding"]} if "embedding" in params else {}
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
    head = "softmax" if "embedding" in params else "mixture"
    flat["softmax/kernel"], flat["softmax/bias"] = params[f"{head}_kernel"], params[f"{head}_bias"]
    return {"step": flax.traverse_util.unflatten_dict(flat, sep="/")}


@pytest.fixture(scope="module")
def pair():
    """Both models, our parameters, a batch, and a carry with all pairs of boundaries."""
    config = hm_lstm.Config(SIZE.embedding, SIZE.sizes, layer_norm="none")
    ours = LanguageModel(SIZE.vocabulary, SIZE.embedding, (config,), SIZE.output)
    naive = peers.NaiveHMLSTM(SIZE.vocabulary, SIZE.embedding, SIZE.sizes, SIZE.output)
    params = drawn(functools.partial(language.init_params, ours))
    return ours, naive, params, problems.one_batch(SIZE), state_of(SIZE)


def drawn(init):
    """Parameters, biases too, so that each of them matters."""
    draw, shapes = np.random.default_rng(1).normal, jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(lambda p: draw(0, 0.5, p.shape).astype(np.float32), shapes)


def state_of(size):
    """h, c and z of three layers, the last with all pairs of boundaries."""
    draw = np.random.default_rng(2).normal
    h, c = (
        tuple(draw(size=(size.batch, n)).astype(np.float32) for n in size.sizes) for _ in range(2)
    )
    z = tuple((jnp.arange(size.batch) >> k & 1).astype(jnp.float32) for k in range(2))
    return h, c, z


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


def test_the_naive_stroke_model_is_the_same_model():
    """Of loss and gradient both, with its own mixture's nats."""
    ours, init, loss = problems.network(STROKES, "hm_lstm", "none", {})
    naive, params = train_step.naive_hm_lstm(STROKES), drawn(init)
    batch, (h, c, z) = problems.one_batch(STROKES), state_of(STROKES)
    assert isinstance(loss.args[0], StrokeModel) and ours.columns == 3
    assert batch.mask.all() and not batch.resets.any() and batch.inputs.shape == (12, 4, 3)
    np.testing.assert_array_equal(batch.inputs[1:], batch.targets[:-1])

    @jax.value_and_grad
    def whole(params):
        out = ours.apply({"params": params}, batch.inputs, (hm_lstm.State(h, c, z),))
        values, events = batch.targets[..., :2], batch.targets[..., 2]
        return mixture.negative_log_likelihood(out.mixture, values, events).mean()

    @jax.value_and_grad
    def naive_whole(params):
        carry = (h, c, tuple(v[:, None] for v in z))
        variables = {"params": naive_params(params, len(STROKES.sizes))}
        outputs = naive.apply(variables, batch.inputs, carry)[0]
        return peers.mixture_loss(STROKES.components, outputs, batch.targets).mean()

    (value, gradients), (other, expected) = jax.jit(whole)(params), jax.jit(naive_whole)(params)
    np.testing.assert_allclose(value, other, rtol=1e-6)
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
    monkeypatch.setitem(train_step.SIZES, "tiny", SIZE._replace(sizes=(6, 5)))
    file = tmp_path / "figures.json"
    train_step.main(["--size=tiny", "--rounds=1", "--only=ours f32", f"--json={file}"])
    printed = capsys.readouterr().out
    assert printed.startswith("CPU ")
    rows = [line.split(" | ")[0].strip("| ") for line in printed.splitlines() if "| x" in line]
    assert rows == ["naive", "ours f32"]
    figures = json.loads(file.read_text())["sizes"]["tiny"]["candidates"]
    assert figures["naive"]["parameters"] == figures["ours f32"]["parameters"]
    assert figures["naive"]["ratio"]["median"] == 1


def test_the_step_that_skips_is_another_program(monkeypatch, capsys, tmp_path):
    small = train_step.SIZES["ptb_taught"]._replace(
        sizes=(16, 16, 16), batch=16, window=6, output=8
    )
    monkeypatch.setitem(train_step.SIZES, "ptb_taught", small)
    file, only = tmp_path / "figures.json", "ours f32,ours skipping f32"
    flags = ["--size=ptb_taught", "--rates=.5,.2", "--rounds=1", f"--only={only}", f"--json={file}"]
    train_step.main(flags)
    found = json.loads(file.read_text())["sizes"]["ptb_taught"]["candidates"]
    dense, skipping = (found[name] for name in only.split(","))
    assert dense["parameters"] == skipping["parameters"]
    assert dense["temporaries"] != skipping["temporaries"]


def test_the_stroke_models_table_is_of_steps_and_tells_the_padding(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(train_step.SIZES, "strokes", STROKES._replace(sizes=(6, 5)))
    scribbles = functools.partial(synthetic.scribbles, lines=(30, 1, 1))
    monkeypatch.setattr(iam_ondb, "load", scribbles)
    file, only = tmp_path / "figures.json", "ours f32,flax lstm"
    train_step.main(["--size=strokes", "--rounds=1", f"--only={only}", f"--json={file}"])
    printed = capsys.readouterr().out
    assert "| ms/update | steps/s |" in printed and "3 Gaussians" in printed
    rows = [line.split(" | ")[0].strip("| ") for line in printed.splitlines() if "| x" in line]
    assert rows == ["naive", "ours f32"]
    found = json.loads(file.read_text())["sizes"]["strokes"]
    own = found["candidates"]["ours f32"]
    assert own["steps_per_second"] == pytest.approx(4 * 12 / own["median_seconds"])
    assert own["parameters"] == found["candidates"]["naive"]["parameters"]
    # By hand: lines of about the same length fill a batch, which is read to its longest.
    steps = np.sort(scribbles().splits["train"].lengths - 1)
    read = sum(4 * -(-steps[k : k + 4].max() // 12) * 12 for k in range(0, 30, 4))
    assert found["padding"] == pytest.approx(1 - steps.sum() / read, abs=0.02)
    told = f"In the default buckets {found['padding']:.1%} of an epoch's steps are padding"
    assert f"{told} (30 lines, scribbles)." in printed


def test_padding_of_made_up_lines_is_said_to_be_so(monkeypatch):
    monkeypatch.delenv("HMRNN_DATA", raising=False)
    share, lines = problems.padding(problems.SIZES["strokes"])
    assert lines == "5,364 lines, synthetic: normal lengths, 615 +- 184"
    # Half a window of 100 is lost in each of some 600 steps, and little between lines.
    assert share == pytest.approx(50 / (614 + 50), abs=0.01)


def test_less_than_a_tenth_of_the_steps_of_handwriting_is_padding():
    share, lines = problems.padding(problems.SIZES["strokes"])
    if "iam_ondb" not in lines:
        pytest.skip("no handwriting here: HMRNN_DATA names no folder with iam-ondb")
    assert 0.05 < share < 0.1


def test_the_flax_stack_keeps_its_carry_and_predicts_every_symbol():
    model = peers.FlaxLSTM(SIZE.vocabulary, SIZE.embedding, SIZE.sizes, SIZE.output)
    ids, carry = problems.one_batch(SIZE).inputs, model.initial_carry(SIZE.batch)
    key = jax.random.key(0)
    (logits, after), _ = jax.eval_shape(model.init_with_output, key, ids, carry)
    assert logits.shape == (SIZE.window, SIZE.batch, SIZE.vocabulary)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, carry)


def test_pytorch_learns_a_batch_where_it_is_installed():
    batch = problems.one_batch(SIZE)
    sizes = (SIZE.vocabulary, SIZE.embedding, SIZE.sizes, SIZE.output, batch.inputs, batch.targets)
    try:
        step, parameters = peers.torch_lstm_step(*sizes)
    except peers.Unavailable as reason:
        pytest.skip(str(reason))
    losses = [step() for _ in range(20)]
    assert losses[-1] < losses[0] < 2 * np.log(SIZE.vocabulary)
    model = peers.FlaxLSTM(SIZE.vocabulary, SIZE.embedding, SIZE.sizes, SIZE.output)
    carry, key = model.initial_carry(SIZE.batch), jax.random.key(0)
    ours = jax.tree.leaves(jax.eval_shape(model.init, key, batch.inputs, carry))
    second_biases = 4 * sum(SIZE.sizes)
    assert parameters == sum(p.size for p in ours) + second_biases


@pytest.mark.parametrize("flag", ["--size=huge", "--only=ours", "--rounds=0"])
def test_wrong_flags_are_refused(flag, capsys):
    with pytest.raises(SystemExit):
        train_step.main([flag])
    assert flag.split("=")[0] in capsys.readouterr().err


def test_the_sparsity_benchmark_tells_what_each_rate_saves(tmp_path):
    flags = ["--sizes=8,8", "--batch=2", "--steps=20", "--rounds=1", f"--output={tmp_path}"]
    sparsity.main([*flags, "--rates", "0,0", ".5,0"])
    rows = json.loads((tmp_path / "sparsity.json").read_text())["rows"]
    assert [row["boundaries"] for row in rows] == ["(0.0, 0.0)", "(0.5, 0.0)"] * 3
    assert rows[0]["rates"] == [0] and 0.2 < rows[1]["rates"][0] < 0.8
    for wrong in (["--rates", "2,0"], ["--batch=1,0"], ["--sizes=a"]):
        with pytest.raises(SystemExit):
            sparsity.main([*flags, *wrong])
    sparsity.main(flags)
    rows = json.loads((tmp_path / "sparsity.json").read_text())["rows"]
    assert {row["program"] for row in rows} == set(sparsity.PROGRAMS)
    for program in sparsity.PROGRAMS:
        theory = [row["theory"] for row in rows if row["program"] == program]
        # Nothing to skip but a first step's top-down product, and in generation the products with
        # the inputs, which are made beforehand; then more and more.
        most = 0.15 if program == "generation" else 0.05
        assert theory[0] == pytest.approx(1, abs=most) and theory == sorted(theory)
    # Left over in training is, were boundaries never: of the first layer U h, and of its top-down
    # product the one of three that is made for all columns.
    assert 2 < max(row["theory"] for row in rows if row["program"] == "gradient") < 3
    assert (tmp_path / "sparsity.png").read_bytes().startswith(b"\x89PNG")
    assert "| generation | 2 |" in (tmp_path / "sparsity.md").read_text()


def test_forced_boundaries_are_those_that_are_drawn_of_a_nested_model_too():
    model, params = sparsity.untrained((4, 4, 4), "float32")
    (config,) = model.cells
    nested = model.clone(cells=(dataclasses.replace(config, nested=True),))
    z = sparsity.drawn((0.5, 0.5), 3, 12, 2)
    noise = np.where(z, -1.0, 2.0).astype(np.float32)
    ids = np.zeros((12, 2), np.int32)
    forced = sparsity.forced(nested)
    out = forced.inference.apply(
        {"params": params}, ids, forced.initial_carry(2), slope=1.0, noise=noise
    )
    np.testing.assert_array_equal(np.stack(out.states[0].z, axis=-1) == 1, z)


def test_cells_of_other_settings_are_not_taken_for_those_asked_for(tmp_path, monkeypatch, capsys):
    """What an earlier call has left is of its own epochs and precision."""
    config = defaults.text()
    (tmp_path / "of.py").write_text("")
    monkeypatch.setattr(
        study_of_cells.runpy,
        "run_path",
        lambda path: {"get_config": lambda cell: config.copy_and_resolve_references()},
    )
    trained = []

    def train(config, workdir, stopping):
        open_run(workdir, config, Vocabulary.of("ab", "characters"))
        trained.append(config.epochs)
        return {"nats": 1.0, "bpc": 1.5}

    monkeypatch.setattr(study_of_cells.loop, "train", train)
    monkeypatch.setattr(study_of_cells, "size", lambda config: 12)
    flags = [f"--config={tmp_path / 'of.py'}", "--cells=lstm", "--seeds=1", f"--output={tmp_path}"]
    for _ in range(2):
        assert study_of_cells.main([*flags, "--epochs=2"]) == 0
    for wrong in (
        ["--epochs=3"],
        ["--epochs=2", "--steps=5"],
        ["--epochs=2", "--precision=bfloat16"],
    ):
        with pytest.raises(UserError, match="lstm-0 was trained with .*: choose another --output"):
            study_of_cells.main([*flags, *wrong])
    assert trained == [2] and "2 epochs, float32, 1 seeds" in capsys.readouterr().out
