"""`loop.train` as a whole: learning, telling, refusing; in this process, tiny sizes."""

import errno
import io
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from runs import latest, run

from hmrnn_jax import parallel
from hmrnn_jax.errors import UserError
from hmrnn_jax.opening import restore
from hmrnn_jax.recurrence import execution
from hmrnn_jax.tasks import metrics
from hmrnn_jax.training import loop as program
from hmrnn_jax.training import progress as progress_training

pytestmark = pytest.mark.usefixtures("two_devices")


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


def test_all_that_goes_to_the_devices_is_put_there(config, tmp_path, monkeypatch):
    """In updates, validation and saving: on an accelerator what slips through is waited for."""
    config.schedule, config.save, progress = "cosine", 4, progress_training.Progress

    def begun(*arguments):
        jax.config.update("jax_transfer_guard", "disallow")
        return progress(*arguments)

    monkeypatch.setattr(program, "Progress", begun)
    try:
        _, said = run(config, tmp_path)
    finally:
        jax.config.update("jax_transfer_guard", "allow")
    assert "update 6  validation" in said and "test bpc" in said


def test_a_report_is_made_while_the_devices_have_the_next_update(quick, tmp_path, monkeypatch):
    quick.steps, quick.report, quick.evaluation.every = 4, 1, 4
    events, pmapped = [], parallel.pmapped

    def watched(*arguments):
        step = pmapped(*arguments)

        def call(*given):
            events.append("update")
            return step(*given)

        call.lower = step.lower
        return call

    monkeypatch.setattr(parallel, "pmapped", watched)
    program.train(quick, tmp_path, lambda line: events.append(line[:9].strip()))
    events = [event for event in events if event.startswith("update")]
    assert events == ["update", "update", "update 1/", "update", "update 2/", "update"] + [
        "update 3/", "update 4/", "update 4",
    ]  # fmt: skip


def test_on_a_terminal_one_live_line_takes_the_place_of_the_reports(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(progress_training, "_AHEAD", 2)
    lines, terminal = [], io.StringIO()
    result = program.train(quick, str(tmp_path), lines.append, terminal=terminal)
    said, shown = "\n".join(lines), terminal.getvalue()
    assert "update 4/12" not in said and "update 12  validation" in said and result["bpc"] > 0
    assert "\n" not in shown and "0/12, compiling ..." in shown.split("\r")[1]
    (last,) = [part for part in shown.split("\r") if "update 12/12" in part and "left" in part][-1:]
    assert "100% |" in last and "bpc" in last and "chars/s" in last
    assert not shown.split("\r")[-1].strip()  # and is gone at the end


def test_symbols_between_two_reports_are_counted_exactly():
    """From 2^24 on float32 has no odd numbers."""
    sums = {name: np.float32(1) for name in ("nats", "gradient_norm")}
    sums["count"] = np.float32(2**23 + 1)
    task = SimpleNamespace(summary=lambda sums: {"count": int(sums["count"])})
    assert program._finite(task, [sums] * 43, 43, None, None)["count"] == 43 * (2**23 + 1)


@pytest.mark.parametrize(("name", "what"), [("nats", "loss"), ("gradient_norm", "gradient's norm")])
def test_what_is_not_finite_is_named(config, name, what):
    sums, saved = dict.fromkeys(("nats", "gradient_norm"), np.float32(1)), SimpleNamespace(kept=str)
    with pytest.raises(UserError, match=f"The {what} of update 8 is not finite"):
        program._finite(None, [sums, sums | {name: np.float32(np.inf)}], 8, config, saved)


def test_a_run_keeps_the_precision_that_auto_was_where_it_began(quick, tmp_path, monkeypatch):
    quick.steps, quick.model.precision = 1, "auto"
    monkeypatch.setattr(execution, "native_precision", lambda device: "bfloat16")
    _, said = run(quick, tmp_path)
    assert "precision: bfloat16, which suits cpu" in said
    monkeypatch.setattr(execution, "native_precision", lambda device: "float32")
    quick.steps = 2
    _, said = run(quick, tmp_path)
    assert "precision: bfloat16, as the run in this folder has it" in said
    assert "began: steps" in said and "began: model.precision" not in said
    assert restore(tmp_path, parallel.make_mesh()).model.policy.precision == "bfloat16"
    assert quick.model.precision == "auto"


def test_a_restored_run_takes_the_back_end_of_the_device_that_it_is_on(
    config, tmp_path, monkeypatch
):
    config.steps = 2
    run(config, tmp_path)
    restored = restore(tmp_path, parallel.make_mesh())

    def kernels():
        ids, carry = np.zeros((3, 1), np.int32), restored.model.initial_carry(1)
        traced = jax.make_jaxpr(restored.model.apply)({"params": restored.plain}, ids, carry)
        return str(traced).count("pallas_call")

    assert kernels() == 0
    monkeypatch.setattr(parallel, "device_kind", lambda mesh=None: "TPU v4")
    assert kernels() == 1


def test_a_watched_training_tells_of_each_validation(quick, tmp_path, monkeypatch):
    seen = []

    class Watch:
        def __init__(self, task, config, title, workdir):
            assert (task.encoding.unit, workdir) == ("characters", str(tmp_path))

        def __call__(self, update, params, slope):
            assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(params))
            seen.append((update, float(slope)))
            if update == 6:
                raise OSError(errno.ENOSPC, "No space left on device", "watch.html")

    monkeypatch.setattr(program, "Watch", Watch)
    lines = []
    program.train(quick, str(tmp_path), lines.append, watch=True)
    assert [update for update, _ in seen] == [6, 12]
    warned = [line for line in lines if line.startswith("warning: the page")]
    assert len(warned) == 1 and "No space left on device; make room" in warned[0]


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
    with pytest.raises(
        UserError, match="The loss of update [89] is not finite; the checkpoint of update 6 is kept"
    ):
        run(config, tmp_path)
    assert latest(tmp_path)[0] == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 7}, "7 rows cannot be divided over 2 devices"),
        ({"window": 100_000}, "symbols"),
        ({"data.path": "nowhere.txt"}, "nowhere.txt"),
        ({"model.cell": "rnn"}, "rnn"),
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
    result = {
        "rate/layer1": 0.0004, "rate/layer2": 1.0, "rate/layer3": 0.006, "rate/layer4": 0.995,
        "live/layer1": 0.005, "bpc": 2.0,
    }  # fmt: skip
    assert metrics.collapsed(result) == [
        "the detector of layer1 has collapsed: it never fires",
        "the detector of layer2 has collapsed: it always fires",
        "the detector of layer3 hardly fires, at 0.6% of the steps",
        "the detector of layer4 nearly always fires, at 99.5% of the steps",
        "the detector of layer1 no longer learns: 0.5% of its inputs are live",
    ]
    assert not metrics.collapsed({"rate/layer1": 0.5, "live/layer1": 0.5})
