"""Word models through `loop.train`: random windows, dropout, averaging; tiny sizes."""

import json
import math
import signal

import jax
import numpy as np
import pytest

from hmrnn_jax import defaults, parallel, tasks
from hmrnn_jax.errors import UserError
from hmrnn_jax.training import loop as program
from hmrnn_jax.training.checkpoint import Checkpoints

WORDS = "the cat sat on a mat and then it went to see who was there by sun light".split()
BEGINS = "averaging of the parameters begins"


@pytest.fixture(scope="module", autouse=True)
def two_devices():
    make_mesh = parallel.make_mesh
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "make_mesh", lambda: make_mesh(jax.devices()[:2]))
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "words.txt"
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS, rng.integers(2, 9))) for _ in range(150)]
    path.write_text("\n".join(lines) + "\n")
    return path


def make(text):
    """The word recipe, all of it, with a learning rate at which validation soon stalls."""
    config = defaults.words()
    config.data.name, config.data.path, config.data.unit = "text", str(text), "words"
    config.model.cell, config.model.on_lstm.chunk = "on_lstm", 2
    config.model.embedding, config.model.sizes = 6, (8, 6)
    config.batch = config.evaluation.batch = 4
    config.window, config.window_quantum = 10, 10
    config.evaluation.window, config.evaluation.warmup, config.evaluation.every = 10, 10, 4
    config.nonmono, config.finetune = 1, 0
    config.steps, config.report = 32, 2
    return config


@pytest.fixture
def config(text):
    return make(text)


def run(config, workdir, stop_at=None):
    """Trains; with `stop_at` a signal comes at the first report of that update or later."""
    lines = []

    def say(line):
        lines.append(line)
        if stop_at and line.startswith(f"update {stop_at}/"):
            signal.raise_signal(signal.SIGTERM)

    return program.train(config, str(workdir), say), "\n".join(lines)


def newest(workdir, kind="latest"):
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints._newest(kind, None)


def metrics(workdir, name):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    return {row["step"]: row[name] for row in rows if name in row}


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory):
    """`(folder, result, what was said, update at which averaging began)`, never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    result, said = run(make(text), folder)
    # The first loss above the least of all but the one before it.
    values = list(metrics(folder, "valid/nats").items())
    begins = [
        step for k, (step, loss) in enumerate(values)
        if k > 1 and loss > min(v for _, v in values[: k - 1])
    ][0]  # fmt: skip
    assert said.count(BEGINS) == 1
    assert f"update {begins}  validation" in said.split(BEGINS)[0].splitlines()[-1]
    return folder, result, said, begins


@pytest.mark.slow
def test_resumes_bit_for_bit_while_it_averages(config, tmp_path, whole):
    """Stopped at a validation, and in between by a signal."""
    folder, result, _, begins = whole
    assert begins <= 20
    config.steps = 24
    run(config, tmp_path / "parts")
    config.steps = 32
    parts, again = run(config, tmp_path / "parts")
    assert "resumed after update 24" in again and BEGINS not in again
    stopped, _ = run(config, tmp_path / "cut", stop_at=26)
    assert stopped is None
    step, tree = newest(tmp_path / "cut")
    assert begins < step < 28 and int(tree["progress"]["since"]) == begins
    cut, _ = run(config, tmp_path / "cut")
    assert result == parts == cut
    for other in (tmp_path / "parts", tmp_path / "cut"):
        assert metrics(other, "valid/nats") == metrics(folder, "valid/nats")
        for kind in ("latest", "best"):
            jax.tree.map(np.testing.assert_array_equal, newest(other, kind), newest(folder, kind))


def test_evaluation_uses_the_average_and_training_does_not(config, tmp_path, whole):
    folder, result, _, _ = whole
    task = tasks.make(config, parallel.make_mesh())
    _, tree = newest(folder)
    raw, average = tree["state"]["params"], tree["state"]["average"]
    valid = metrics(folder, "valid/nats")
    assert task.evaluate(average, "valid", 1.0)["nats"] == pytest.approx(valid[32], rel=1e-5)
    assert abs(task.evaluate(raw, "valid", 1.0)["nats"] - valid[32]) > 1e-2
    step, best = newest(folder, "best")
    assert step == min(valid, key=valid.get)
    test = task.evaluate(best["params"], "test", 1.0)
    assert test["nats"] == pytest.approx(result["nats"], rel=1e-5)
    # A run that never averages trains to the same raw parameters.
    config.nonmono = 100
    _, never = run(config, tmp_path / "raw")
    assert BEGINS not in never
    _, other = newest(tmp_path / "raw")
    jax.tree.map(np.testing.assert_array_equal, other["state"]["params"], raw)


def test_reports_perplexity_and_the_scaled_learning_rate(config, whole):
    folder, result, said, _ = whole
    perplexity = math.exp(result["nats"])
    assert said.splitlines()[-1].startswith(f"test perplexity {perplexity:.2f} on ")
    assert "words/s" in said and "chars" not in said
    assert 5 < perplexity < 1e4
    stream = tasks.make(config, parallel.make_mesh()).stream
    rates = metrics(folder, "learning_rate")
    expected = {step: 30 * stream.scale(step - 1) for step in rates}
    assert rates == pytest.approx(expected) and len(set(rates.values())) > 1


def test_a_fresh_average_at_the_end_of_epoch_finetune(config, tmp_path, whole):
    """Epochs end between validations; the first one after counts, once."""
    *_, begins = whole
    stream = tasks.make(config, parallel.make_mesh()).stream
    epoch = next(e for e in range(1, 9) if stream.steps_in(e) > begins)
    config.finetune = epoch
    _, said = run(config, tmp_path / "fine")
    _, tree = newest(tmp_path / "fine")
    restart = -(-stream.steps_in(epoch) // 4) * 4
    assert begins < restart < 32
    assert int(tree["progress"]["since"]) == restart
    assert said.count(BEGINS) == 2


def test_a_window_padded_to_a_compiled_length_trains_as_the_window(config):
    """The recipe's windows have the lengths that are drawn, whatever the step is compiled for."""
    assert defaults.words().window_quantum == 1
    config.window_quantum = 1
    task = tasks.make(config, parallel.make_mesh())
    batches = [task.stream(k) for k in range(task.stream.steps_in(4))]
    assert {len(batch.mask) % 5 for batch in batches} == {0}
    padded = next(batch for batch in batches if not batch.mask.all() and len(batch.mask) == 15)
    length = int(padded.mask[:, 0].sum())
    whole = jax.tree.map(lambda v: v[:length], padded)
    params = task.init_params(jax.random.key(0))
    rng = np.random.default_rng(0)
    carry = jax.tree.map(lambda v: rng.normal(size=v.shape), task.initial_carry(4))

    @jax.jit
    def update(batch):
        def one(batch):
            loss = jax.value_and_grad(task.loss, has_aux=True)
            return loss(params, carry, batch, {"slope": 1.0}, jax.random.key(1))

        return jax.vmap(one, axis_name="data")(jax.tree.map(lambda v: v[None], batch))

    for ours, theirs in zip(*map(jax.tree.leaves, (update(padded), update(whole))), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_weight_decay_cannot_come_or_go(config, tmp_path):
    """The optimiser's saved state has a part for it."""
    config.steps = 2
    run(config, tmp_path)
    config.weight_decay = 0.0
    with pytest.raises(UserError, match="weight_decay: 1.2e-06 in the run, 0.0 now"):
        run(config, tmp_path)
    config.weight_decay, config.steps = 1.2e-6, 4
    _, said = run(config, tmp_path)
    assert "resumed after update 2" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.sizes": (8, 4)}, "tied decoder needs a last layer as wide as the embedding"),
        ({"model.remat": 5}, "model.remat needs windows of one length; set window_random=False"),
        ({"window_quantum": 0}, "window_quantum is 0"),
        ({"model.dropout.weight": 1.0}, "dropout.weight is 1.0"),
        ({"nonmono": 0}, "nonmono is 0; it must be a whole number from 1"),
        ({"batch": 5}, "5 rows cannot be divided over 2 devices"),
    ],
)
def test_settings_that_make_no_run(config, tmp_path, change, message):
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=message):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
