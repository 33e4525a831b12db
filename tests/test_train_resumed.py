"""`loop.train` stopped, killed, damaged or of an earlier version, and resumed."""

import json
import shutil
import signal
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from runs import assert_equal, latest, run

from hmrnn_jax import cli, commands, parallel
from hmrnn_jax.errors import UserError
from hmrnn_jax.evaluation import text as evaluation
from hmrnn_jax.opening import restore
from hmrnn_jax.tasks import language
from hmrnn_jax.training import config_file, contradictions
from hmrnn_jax.training import loop as program
from hmrnn_jax.training.workdir import load_run

pytestmark = pytest.mark.usefixtures("two_devices")
OLD = Path(__file__).parent / "reference/run_f78d648.tar.xz"


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
    # What it has gone on with is its configuration; what a run that has ended is told is not.
    config.learning_rate = 0.5
    run(config, tmp_path / "parts")
    kept = load_run(tmp_path / "parts")[0]
    assert kept.steps == 12 and kept.learning_rate != 0.5


def test_what_is_refused_of_a_new_run_does_not_stop_one_that_has_begun(
    config, tmp_path, monkeypatch
):
    config.steps = 2
    config.model.hm_lstm.update(flush=False, reset_recurrent=True)
    with pytest.raises(UserError, match="says what FLUSH does"):
        run(config, tmp_path)
    assert not list(tmp_path.iterdir())
    with monkeypatch.context() as patch:  # as an earlier version
        patch.setattr(contradictions, "check", lambda config: None)
        run(config, tmp_path)
    config.steps += 1
    assert "resumed after update" in run(config, tmp_path)[1]


def test_sigterm_saves_and_the_same_command_resumes(config, tmp_path):
    whole, _ = run(config, tmp_path / "whole")
    lines = []

    def say(line):
        lines.append(line)
        if line.startswith("update 4/"):
            signal.raise_signal(signal.SIGTERM)

    # --fresh given again would begin anew.
    assert program.train(config, str(tmp_path / "cut"), say, fresh=True) is None
    assert lines[-1].endswith("all is saved, the same command without --fresh resumes.")
    step, _ = latest(tmp_path / "cut")
    assert 4 <= step < 6
    result, said = run(config, tmp_path / "cut")
    assert f"resumed after update {step}" in said and result == whole
    assert_equal(latest(tmp_path / "whole"), latest(tmp_path / "cut"))
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut/metrics.jsonl").open()]
    assert steps == sorted(steps)


def test_a_signal_during_a_validation_stops_there(quick, tmp_path, monkeypatch):
    evaluate, seen, lines = language.Task.evaluate, [], []

    def slow(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return evaluate(*arguments)

    monkeypatch.setattr(program, "Watch", lambda *_: lambda *given: seen.append(given))
    with monkeypatch.context() as patch:
        patch.setattr(language.Task, "evaluate", slow)
        assert program.train(quick, str(tmp_path), lines.append, watch=True) is None
    assert "update 6  validation" in "\n".join(lines) and not seen
    assert lines[-1].startswith("stopped after update 6;") and latest(tmp_path)[0] == 6
    assert "resumed after update 6" in run(quick, tmp_path)[1]


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


def test_an_old_run_is_never_begun_anew_but_by_fresh(quick, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise UserError("--watch is not for this.")

    whole, _ = run(quick, tmp_path)
    checkpoints = tmp_path / "checkpoints"
    for lost, holds in (("latest", "the checkpoint best/12"), ("best", "metrics up to update 12")):
        shutil.rmtree(checkpoints / lost)
        before = sorted(tmp_path.rglob("*")), (tmp_path / "metrics.jsonl").read_text()
        with pytest.raises(UserError, match=f"holds {holds}, but no state .*--fresh"):
            run(quick, tmp_path)
        assert before == (sorted(tmp_path.rglob("*")), (tmp_path / "metrics.jsonl").read_text())
    lines = []
    wrong = quick.copy_and_resolve_references()
    wrong.data.path = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="there is no file"):
        program.train(wrong, str(tmp_path), lines.append, fresh=True)
    with monkeypatch.context() as patch:  # as for a run of another task, or of several processes
        patch.setattr(program, "Watch", refuse)
        with pytest.raises(UserError, match="--watch is not for this"):
            program.train(quick, str(tmp_path), lines.append, fresh=True, watch=True)
    assert not lines and before[1] == (tmp_path / "metrics.jsonl").read_text()
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
