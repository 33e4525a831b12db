"""`loop.train` as a whole: learning, resuming, refusing; in this process, tiny sizes."""

import errno
import io
import json
import shutil
import signal
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from runs import newest, run

from hmrnn_jax import cli, commands, defaults, parallel
from hmrnn_jax.errors import UserError
from hmrnn_jax.evaluation import text as evaluation
from hmrnn_jax.opening import restore
from hmrnn_jax.recurrence import execution
from hmrnn_jax.tasks import metrics
from hmrnn_jax.training import config_file
from hmrnn_jax.training import loop as program
from hmrnn_jax.training import progress as progress_training

OLD = Path(__file__).parent / "reference/run_f78d648.tar.xz"
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


@pytest.fixture
def quick(config):
    """A model that compiles sooner, where what is kept of a run matters and not what it learns."""
    config.model.cell, config.model.sizes, config.model.head = "lstm", (8,), "plain"
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


class Killed(BaseException):
    """What nobody catches."""


def test_a_run_that_is_killed_before_its_first_save_begins_again(quick, tmp_path):
    whole, _ = run(quick, tmp_path / "whole")

    def say(line):
        if line.startswith("update 4/"):
            raise Killed

    with pytest.raises(Killed):
        program.train(quick, str(tmp_path / "cut"), say)
    assert latest(tmp_path / "cut")[0] == 0
    result, said = run(quick, tmp_path / "cut")
    assert "resumed after update 0" in said and result == whole
    assert_equal(latest(tmp_path / "whole"), latest(tmp_path / "cut"))


def test_an_old_run_is_never_begun_anew_but_by_fresh(quick, tmp_path):
    whole, _ = run(quick, tmp_path)
    checkpoints = tmp_path / "checkpoints"
    for lost, holds in (("latest", "the checkpoint best/12"), ("best", "metrics up to update 12")):
        shutil.rmtree(checkpoints / lost)
        before = sorted(tmp_path.rglob("*")), (tmp_path / "metrics.jsonl").read_text()
        with pytest.raises(UserError, match=f"holds {holds}, but no state .*--fresh"):
            run(quick, tmp_path)
        assert before == (sorted(tmp_path.rglob("*")), (tmp_path / "metrics.jsonl").read_text())
    lines = []
    assert program.train(quick, str(tmp_path), lines.append, fresh=True) == whole
    assert lines[0] == f"--fresh: the old run is set aside in {tmp_path}/set-aside-1"
    assert (tmp_path / "set-aside-1/metrics.jsonl").read_text() == before[1]
    result, said = run(quick, tmp_path)
    assert result == whole and "resumed after update 12" in said


def test_without_the_best_the_score_says_whose_it_is(quick, tmp_path):
    run(quick, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints/best")
    result, said = run(quick, tmp_path)
    assert "warning: the best checkpoint, of the loss" in said.partition("test bpc")[0]
    assert "(parameters of the newest state, update 12, as the best is lost)" in said
    assert result["checkpoint"].endswith("update 12, as the best is lost")
    found = restore(tmp_path, parallel.make_mesh())
    assert any("update 12, as the best is lost" in note for note in found.notes)
    scored = evaluation.score(found, "valid", np.arange(40) % 8)
    assert scored.data["checkpoint"] == result["checkpoint"]


def test_a_second_training_in_a_folder_is_refused(quick, tmp_path):
    said = []

    def say(line):
        if line.startswith("update 4/"):
            with pytest.raises(UserError, match="in use by another training"):
                program.train(quick, str(tmp_path), print)
            said.append(line)

    whole = program.train(quick, str(tmp_path), say)
    assert said and run(quick, tmp_path)[0] == whole
    assert not (tmp_path / "lock.json").exists()


def test_a_run_of_an_earlier_version_resumes_and_is_evaluated(config, tmp_path, monkeypatch):
    """Made by f78d648; its figures after update 4, and after 8 where it was not stopped."""
    with tarfile.open(OLD) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    found = restore("run", parallel.make_mesh())
    assert found.notes == ("run: parameters of update 4",)
    config.data.path, config.slope.increment, config.learning_rate = "text.txt", 0.0, 2e-3
    config.model.sizes, config.model.output, config.model.embedding = (8, 8), 8, 8
    config.batch = config.evaluation.batch = 2
    config.window = config.evaluation.window = config.evaluation.warmup = 10
    config.evaluation.every, config.report, config.steps = 4, 2, 4
    before, said = run(config, "run")
    assert "resumed after update 4" in said and "warning" not in said
    assert before["bpc"] == pytest.approx(4.2054, abs=1e-3)
    config.steps = 8
    after, said = run(config, "run")
    assert "resumed after update 4" in said and "warning" not in said
    assert after["bpc"] == pytest.approx(4.1829, abs=1e-3)
    steps = [json.loads(line)["step"] for line in open("run/metrics.jsonl")]
    assert steps == sorted(steps) and set(steps) == {2, 4, 6, 8}


def test_a_vocabulary_that_does_not_fit_the_parameters_is_told(tmp_path):
    with tarfile.open(OLD) as archive:
        archive.extractall(tmp_path, filter="data")
    vocabulary = json.loads((tmp_path / "run/vocabulary.json").read_text())
    vocabulary["symbols"].append("?")
    (tmp_path / "run/vocabulary.json").write_text(json.dumps(vocabulary))
    with pytest.raises(UserError, match=r"embedding has the shape \(19, 8\) there and \(20, 8\) h"):
        restore(tmp_path / "run", parallel.make_mesh())


# Signals


def interrupt(config, workdir, number):
    """What `train` returns when a signal comes in the middle."""

    def say(line):
        if line.startswith("update 4/"):
            signal.raise_signal(number)

    return program.train(config, str(workdir), say)


def test_the_handlers_of_signals_are_put_back(quick, tmp_path):
    def ours(number, frame):
        """Of the program that trains."""

    found = {number: signal.signal(number, ours) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert interrupt(quick, tmp_path / "stopped", signal.SIGINT) is None
        assert {signal.getsignal(number) for number in found} == {ours}
        run(quick, tmp_path / "stopped")
        assert {signal.getsignal(number) for number in found} == {ours}
        quick.learning_rate = 1e38
        with pytest.raises(UserError, match="not finite; the checkpoint of update 0 is kept"):
            run(quick, tmp_path / "failed")
        assert {signal.getsignal(number) for number in found} == {ours}
    finally:
        for number, handler in found.items():
            signal.signal(number, handler)


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


def test_outside_the_main_thread_training_leaves_signals_alone(quick, tmp_path):
    found = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with ThreadPoolExecutor(1) as pool:
        result, _ = pool.submit(run, quick, tmp_path).result()
    assert result["bpc"] > 0
    assert found == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_the_exit_status_tells_how_a_run_stopped(quick, tmp_path, monkeypatch, number, status):
    monkeypatch.setattr(config_file, "load", lambda path: quick.copy_and_resolve_references())

    def say(line, **how):
        if line.startswith("update 4/"):
            signal.raise_signal(number)

    monkeypatch.setattr("builtins.print", say)
    arguments = ["hmrnn", "train", f"--workdir={tmp_path}"]
    assert commands.execute(arguments) == status
    assert cli.status(lambda: commands.execute(arguments)) == 0


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
    result = {"valid/rate/layer1": 0.001, "rate/layer2": 0.995, "live/layer1": 0.005, "bpc": 2.0}
    warnings = metrics.collapsed(result)
    assert len(warnings) == 3
    assert "never" in warnings[0] and "always" in warnings[1] and "no longer learns" in warnings[2]
    assert not metrics.collapsed({"rate/layer1": 0.5, "live/layer1": 0.5})
