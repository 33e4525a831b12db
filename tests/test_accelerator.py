"""The measurement of an accelerator, on whatever is here; a run in one small file."""

import json
import os
import signal
import time

import jax
import numpy as np
import pytest

from benchmarks import accelerator, convergence_jobs, peers, small_state
from benchmarks.problems import Size
from hmrnn_jax import defaults, parallel
from hmrnn_jax.errors import STOPPED, UserError
from hmrnn_jax.training.checkpoint import Checkpoints
from hmrnn_jax.training.metrics_log import read_metrics
from hmrnn_jax.training.workdir import open_run

TINY = Size((8, 8), 8, 8, 20, batch=4, window=3)


def test_a_cpu_is_refused(tmp_path):
    with pytest.raises(UserError, match="no GPU or TPU here: run it on one, or give --anywhere"):
        accelerator.measured(accelerator.parsed([f"--output={tmp_path}"]), print)


@pytest.mark.parametrize(
    "wrong, error, part",
    [
        ("--size=pbt", SystemExit, "'pbt': choose from "),
        ("--train=ptb_512/gru", UserError, "names no job"),
        ("--train=on_lstm_words/lstm", UserError, "train it with benchmarks/convergence.py"),
        ("--training=--seeds=0,1", UserError, "several --seeds: give one"),
        ("--training=--precision=float16", SystemExit, "invalid choice: 'float16'"),
    ],
)
def test_what_is_mistyped_is_told_before_anything_is_measured(tmp_path, capsys, wrong, error, part):
    flags = [f"--output={tmp_path / 'out'}", "--anywhere", wrong]
    with pytest.raises(error) as told:
        accelerator.measured(accelerator.parsed(flags), print)
    assert part in f"{told.value} {capsys.readouterr().err}"
    assert not (tmp_path / "out").exists()


def test_gradients_that_are_no_numbers_are_not_equal():
    """Wherever they are: of the numbers 1 and nan the greater one is either, by their order."""
    ones, wrong = np.ones(3, np.float32), np.float32([1, np.nan, 1])
    value = np.float32(2.5)
    for leaves in ([wrong, ones], [ones, wrong]):
        found = accelerator.differences(value, leaves, value, [ones, ones])
        assert found == {"loss": 0.0, "gradient": None}
    found = accelerator.differences(value, [ones, 2 * ones], value + 1, [ones, ones])
    assert found == {"loss": 1.0, "gradient": 1.0}


def test_the_log_of_a_training_goes_on_from_its_state(tmp_path):
    """Of updates after it, which are made anew, what is new stands alone."""
    path = tmp_path / "metrics.jsonl"
    accelerator.keep([{"step": n} for n in (20, 40, 60)], path, 0)
    accelerator.keep([{"step": 60, "new": 1}], path, 40)
    assert read_metrics(path) == [{"step": 20}, {"step": 40}, {"step": 60, "new": 1}]


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    mesh = parallel.make_mesh
    monkeypatch.setattr(parallel, "make_mesh", lambda *given: mesh(*given or [jax.devices()[:1]]))


@pytest.fixture
def anywhere(tmp_path, monkeypatch):
    """`(output folder, function of further arguments: its JSON)`, of tiny sizes."""
    folder = tmp_path / "data/ptb"
    folder.mkdir(parents=True)
    for part, times in (("train", 220), ("valid", 4), ("test", 4)):
        text = "the cat sat on the mat and the dog saw it"
        (folder / f"ptb.char.{part}.txt").write_text(" ".join(text + "\n") * times)
    monkeypatch.setenv("HMRNN_DATA", str(tmp_path / "data"))
    monkeypatch.setitem(accelerator.KERNELS, "kernels", TINY)
    monkeypatch.setitem(accelerator.SIZES, "tiny", TINY)
    convergence_jobs.vocabulary.cache_clear()
    convergence_jobs.UPDATES.clear()
    training = "--rates=0.002 --budget=2000 --width=8 --batch=8 --window=10 --updates=4"

    def run(*more):
        said = []
        flags = [f"--output={tmp_path / 'out'}", "--anywhere", "--size=tiny", "--reserve=0"]
        flags += ["--train=equal_parameters/lstm", f"--training={training}", *more]
        run.status = accelerator.main(accelerator.parsed(flags), said.append)
        return json.loads(said[-1]), said

    yield tmp_path / "out", run
    convergence_jobs.vocabulary.cache_clear()
    convergence_jobs.UPDATES.clear()


@pytest.mark.slow
def test_all_stages_are_made_or_say_why_not(anywhere, monkeypatch):
    folder, run = anywhere

    def unavailable(size):
        raise peers.Unavailable("PyTorch is not installed")

    steps = {"scan f32": accelerator.STEPS["scan f32"], "torch lstm f32": unavailable}
    monkeypatch.setattr(accelerator, "STEPS", steps)
    found, _ = run()
    assert found == json.loads((folder / "accelerator.json").read_text())
    kernels, step, training = found["stages"].values()
    assert kernels["kernels f32"]["equal"]  # interpreted here
    assert 0 < kernels["scan bf16"]["gradient"] < 1  # it is compared, and differs
    assert step["scan f32"]["characters_per_second"] > 0
    assert step["torch lstm f32"] == {"failed": "PyTorch is not installed"}
    assert training["ended"] and training["updates"] == 4 and len(training["curve"]) == 4
    assert training["state_bytes"] == (folder / "equal_parameters-lstm-0.state").stat().st_size
    # A stage that breaks is told, and those after it go on; without time none begins.
    monkeypatch.setattr(accelerator, "compared", lambda *_: 1 / 0)
    found, _ = run("--minutes=0")
    assert all("skipped" in stage for stage in found["stages"].values())
    monkeypatch.setattr(accelerator, "timed", lambda *_: {"timed": 1})
    found, said = run()
    kernels, step, training = found["stages"].values()
    assert kernels["failed"].startswith("ZeroDivisionError") and step["timed"] == 1
    # From the small state of the first call, whose updates are all made.
    assert "resumed after update 4" in said and training["ended"]
    assert run.status == 0


def test_a_signal_ends_the_program_and_what_was_trained_is_kept(anywhere, monkeypatch):
    folder, run = anywhere
    train = accelerator.loop.train

    def stopped(config, folder, say, stopping):
        def tell(line):
            if line.startswith("update 2/"):
                os.kill(os.getpid(), signal.SIGTERM)

        return train(config, folder, tell, stopping=stopping)

    monkeypatch.setattr(accelerator.loop, "train", stopped)
    monkeypatch.setattr(accelerator, "timed", lambda *_: {})
    found, _ = run("--no-kernels", "--train=equal_parameters/lstm,equal_parameters/st*")
    _, training = found["stages"].values()  # the next one does not begin
    assert run.status == training["stopped"] == STOPPED and not training["ended"]
    kept = read_metrics(folder / "equal_parameters-lstm-0.metrics.jsonl")
    assert kept[-1]["step"] == training["updates"] >= 2 and training["state_bytes"] > 0
    # A state that is too large to be carried away takes none of the figures with it.
    monkeypatch.setattr(accelerator.loop, "train", train)
    monkeypatch.setattr(small_state, "MOST", 10)
    found, _ = run("--no-kernels")
    _, training = found["stages"].values()
    assert "more than 10" in training["failed"] and training["updates"] == 4


def test_a_deadline_is_a_signal_that_comes():
    assert not accelerator.Deadline(time.monotonic() + 1000)
    assert accelerator.Deadline(time.monotonic()) and accelerator.Deadline(0).status


def test_what_fits_is_made_at_a_lower_rate_and_validated():
    rows = [{"step": n, "train/symbols": 200, "chars_per_second": 100} for n in (10, 20, 30)]
    assert accelerator.that_fit(rows[:1], 1000) > 0 and accelerator.that_fit([], 1000) == 0
    pace = 0.2  # seconds an update
    assert accelerator.that_fit(rows, accelerator.AGAIN + 100) == accelerator.SURE * 100 / pace
    assert accelerator.that_fit(rows, accelerator.AGAIN - 1) == 0
    config = accelerator.ending(defaults.text(), done=2231, left=558)
    assert (config.steps, config.drops) == (2789, 1) and config.drop_by * config.steps == 2231
    every = config.evaluation.every
    assert 3 <= sum(n % every == 0 or n == 2789 for n in range(2232, 2790)) <= 4


def test_a_small_state_has_the_parameters_and_the_number_of_updates(tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and the dog saw it\n" * 40)
    config = defaults.text()
    config.data.update(name="text", path=str(text))
    config.model.update(cell="lstm", sizes=(8, 8), embedding=8, output=8)
    config.update(batch=8, window=10)
    task, whole = small_state._fresh(config, parallel.make_mesh())
    state = whole["state"].replace(step=whole["state"].step + 7)
    progress = whole["progress"] | {"dropped": whole["progress"]["dropped"] + 1}
    open_run(tmp_path / "run", config, task.encoding)
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(7, whole | {"state": state, "progress": progress})
    size = small_state.pack(tmp_path / "run", tmp_path / "state")
    assert size == (tmp_path / "state").stat().st_size
    small_state.unpack(tmp_path / "state", config, tmp_path / "again")
    with Checkpoints(tmp_path / "again", read_only=True) as checkpoints:
        again = checkpoints.restore(whole)
    assert (int(again["state"].step), int(again["progress"]["dropped"])) == (7, 1)
    # Rounded to the nearest number of eight bits.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(b, a, rtol=2**-8),
        *(jax.device_get(one.params) for one in (state, again["state"])),
    )
    config.model.sizes = (8, 9)
    with pytest.raises(UserError, match="holds no state of this model"):
        small_state.unpack(tmp_path / "state", config, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    monkeypatch.setattr(small_state, "MOST", 10)
    with pytest.raises(UserError, match="bytes, more than 10"):
        small_state.pack(tmp_path / "run", tmp_path / "larger")
    assert not (tmp_path / "larger").exists()
