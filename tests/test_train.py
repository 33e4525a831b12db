"""`train.train` as a whole: learning, resuming, refusing; in this process, tiny sizes."""

import json
import signal

import jax
import numpy as np
import pytest
from runs import newest, run

import train as program
from hmrnn_jax import defaults, evaluate, parallel
from hmrnn_jax.errors import UserError

WORDS = "the cat sat on a mat and then it went to see who was there by sun light again".split()


@pytest.fixture(autouse=True)
def two_devices(monkeypatch):
    """Two of the suite's eight virtual devices: two cores run those in reasonable time."""
    make_mesh = parallel.make_mesh
    monkeypatch.setattr(parallel, "make_mesh", lambda: make_mesh(jax.devices()[:2]))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A stream of words from a fixed list, without separators."""
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("".join(np.random.default_rng(0).choice(WORDS, 6000)))
    return path


@pytest.fixture
def config(text):
    config = defaults.text()
    config.data.name, config.data.path = "text", str(text)
    config.model.sizes, config.model.output, config.model.embedding = (16, 12, 8), 16, 8
    config.batch = config.evaluation.batch = 8
    config.window = config.evaluation.window = 20
    config.evaluation.warmup, config.evaluation.every = 20, 6
    config.steps, config.report = 12, 4
    config.slope.increment = 0.5
    config.learning_rate = 1e-2
    return config


def latest(workdir):
    """The newest whole state on disk, as plain arrays."""
    return newest(workdir)[0]


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_learns_and_logs_every_layer(config, tmp_path):
    config.steps, config.evaluation.every = 200, 100
    result, said = run(config, tmp_path)
    unigram = 4.1  # bits: entropy of the letters, about
    assert result["bpc"] < 3.2 < unigram
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for kind, layers in (("rate", 2), ("live", 2), ("update", 3), ("copy", 3), ("flush", 3)):
        for layer in range(1, layers + 1):
            values = [row[f"valid/{kind}/layer{layer}"] for row in rows if "valid/bpc" in row]
            assert len(values) == 2 and all(0 <= v <= 1 for v in values)
    for layer in range(1, 4):
        row = [row for row in rows if "valid/bpc" in row][-1]
        total = sum(row[f"valid/{kind}/layer{layer}"] for kind in ("update", "copy", "flush"))
        assert total == pytest.approx(1, abs=1e-6)
    assert "total" in said and "chars/s" in said and "left" in said and "devices:" in said
    assert list(tmp_path.glob("events.out.tfevents*"))


def test_resumed_run_equals_uninterrupted_one_bit_for_bit(config, tmp_path):
    config.model.hm_lstm.boundary = "sample"  # the random draws resume too
    whole, _ = run(config, tmp_path / "whole")
    config.steps = 6
    run(config, tmp_path / "parts")
    config.steps = 12
    parts, said = run(config, tmp_path / "parts")
    assert "resumed after update 6" in said and "changed since the run began: steps" in said
    assert whole == parts
    assert_equal(latest(tmp_path / "whole"), latest(tmp_path / "parts"))


def test_sigterm_saves_and_the_same_command_resumes(config, tmp_path):
    whole, _ = run(config, tmp_path / "whole")
    lines = []

    def say(line):
        lines.append(line)
        if line.startswith("update 4/"):
            signal.raise_signal(signal.SIGTERM)

    assert program.train(config, str(tmp_path / "cut"), say) is None
    assert "all is saved" in lines[-1]
    step, _ = latest(tmp_path / "cut")
    assert 4 <= step < 6
    result, said = run(config, tmp_path / "cut")
    assert f"resumed after update {step}" in said and result == whole
    assert_equal(latest(tmp_path / "whole"), latest(tmp_path / "cut"))
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut/metrics.jsonl").open()]
    assert steps == sorted(steps)


def test_truncated_checkpoint_falls_back_to_the_one_before(config, tmp_path):
    whole, _ = run(config, tmp_path)
    before = latest(tmp_path)
    for file in (tmp_path / "checkpoints/latest/12").rglob("d/*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    result, said = run(config, tmp_path)
    assert "latest/12 is not a whole checkpoint" in said and "resumed after update 6" in said
    assert result == whole
    assert_equal(before, latest(tmp_path))


def test_no_readable_checkpoint_is_an_error_and_keeps_the_files(config, tmp_path):
    run(config, tmp_path)
    for file in (tmp_path / "checkpoints/latest").rglob("d/*"):
        file.write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    for _ in range(2):
        with pytest.raises(UserError, match="None of the checkpoints"):
            run(config, tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_relative_workdir(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config.steps = 2
    run(config, "runs/here")
    assert latest("runs/here")[0] == 2


def test_other_shape_is_refused_and_named(config, tmp_path):
    config.steps = 2
    run(config, tmp_path)
    saved = (tmp_path / "config.json").read_text()
    config.model.sizes = (16, 12, 9)
    with pytest.raises(
        UserError, match=r"model.sizes: \[16, 12, 8\] in the run, \[16, 12, 9\] now"
    ):
        run(config, tmp_path)
    assert (tmp_path / "config.json").read_text() == saved


def test_loss_that_is_not_finite_stops_with_the_update_named(config, tmp_path):
    config.steps = 6
    run(config, tmp_path)
    config.steps, config.learning_rate = 30, float("1e38")
    with pytest.raises(UserError, match="The loss of update [89] is not finite"):
        run(config, tmp_path)
    assert latest(tmp_path)[0] == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 7}, "7 rows cannot be divided over 2 devices"),
        ({"window": 100_000}, "symbols"),
        ({"data.path": "nowhere.txt"}, "nowhere.txt"),
        ({"model.cell": "gru"}, "gru"),
        ({"model.precision": "int8"}, "precision is .int8."),
        ({"model.remat": 7}, "remat"),
        ({"schedule": "linear"}, "schedule"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"data.name": "ptb"}, "ptb"),
    ],
)
def test_bad_settings_leave_nothing_behind(config, tmp_path, change, message):
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=message):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_collapse_is_reported():
    result = {"valid/rate/layer1": 0.001, "rate/layer2": 0.995, "live/layer1": 0.005, "bpc": 2.0}
    warnings = evaluate.collapsed(result)
    assert len(warnings) == 3
    assert "never" in warnings[0] and "always" in warnings[1] and "no longer learns" in warnings[2]
    assert not evaluate.collapsed({"rate/layer1": 0.5, "live/layer1": 0.5})
