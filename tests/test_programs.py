"""`train.py` and `eval.py` as a user starts them: separate processes, real signals."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from hmrnn_jax.training.checkpoint import Checkpoints

pytestmark = pytest.mark.whole_program
ROOT = Path(__file__).parent.parent
COMPILED = {
    "JAX_COMPILATION_CACHE_DIR": tempfile.mkdtemp(),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}
TINY = [
    "--config.model.sizes=(16,12,8)", "--config.model.output=16", "--config.model.embedding=8",
    "--config.batch=4", "--config.window=20", "--config.evaluation.batch=4",
    "--config.evaluation.every=20", "--config.evaluation.warmup=20", "--config.report=5",
    "--config.finish=metrics", "--config.boundaries.teacher=none", "--config.boundaries.rate=none",
]  # fmt: skip


def command(program, *arguments):
    return [sys.executable, str(ROOT / program), *map(str, arguments)]


def environment(devices=1):
    # The suite's eight virtual devices are its own affair. What one process has compiled
    # the next need not compile again.
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags} | COMPILED


def call(program, *arguments, devices=1, given=None):
    return subprocess.run(
        command(program, *arguments),
        cwd=ROOT,
        env=environment(devices),
        input=given,
        capture_output=True,
        text=True,
    )


def train(workdir, *arguments, devices=1):
    return call("train.py", f"--workdir={workdir}", *TINY, *arguments, devices=devices)


def start(workdir, *arguments):
    return subprocess.Popen(
        command("train.py", f"--workdir={workdir}", *TINY, *arguments),
        cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def parameters(workdir):
    with Checkpoints(workdir, read_only=True) as checkpoints:
        step, tree = checkpoints._newest("latest", None)
    leaves = {}

    def collect(tree, prefix):
        for key, value in tree.items():
            if isinstance(value, dict):
                collect(value, f"{prefix}/{key}")
            else:
                leaves[f"{prefix}/{key}"] = np.asarray(value)

    collect(tree["state"]["params"], "")
    return step, leaves


def difference(a, b):
    return max(float(np.max(np.abs(a[1][name] - b[1][name]))) for name in a[1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run of 40 updates."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    result = train(workdir, "--config.steps=40", "--config.finish=view")
    assert result.returncode == 0, result.stderr
    return workdir, result.stdout


def test_training_tells_what_a_stranger_wants_to_know(whole):
    _, out = whole
    assert "total" in out and "devices: 1 x cpu" in out
    assert "python_reference" in out and "validation bpc" in out and "test bpc" in out
    assert "interpolated n-gram" in out and "updates per layer over" in out
    assert "embedding" not in out and "compiling the training step ...\n" in out
    assert out.index("making the model ...") < out.index("in total (--table lists them)")
    end = out.partition(f"The run is in {whole[0]}")[2]
    for told in ("z1 is where layer 1 ends a segment", "hmrnn explore --workdir=", "hmrnn segment"):
        assert told in end


@pytest.mark.slow
def test_killed_in_the_middle_of_saving_resumes_to_the_same_parameters(whole, tmp_path):
    """kill -9 while every update is being saved; more than once."""
    killed = 0
    for updates in (3, 9):
        process = start(
            tmp_path / "run", "--config.steps=40", "--config.save=1", "--config.report=1"
        )
        for line in process.stdout:
            if line.startswith(f"update {updates}/") or line.startswith("update 30/"):
                process.send_signal(signal.SIGKILL)
                killed += 1
                break
        process.wait()
    assert killed == 2
    result = train(tmp_path / "run", "--config.steps=40", "--config.save=1")
    assert result.returncode == 0 and "resumed after update" in result.stdout
    assert difference(parameters(whole[0]), parameters(tmp_path / "run")) == 0


@pytest.mark.slow
def test_sigterm_saves_first_and_exits_with_a_status_of_its_own(whole, tmp_path):
    process = start(tmp_path / "run", "--config.steps=40", "--config.report=1")
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("update 7/"):
            process.send_signal(signal.SIGTERM)
    assert process.wait() == 75
    assert "all is saved" in lines[-1]
    result = train(tmp_path / "run", "--config.steps=40")
    assert result.returncode == 0 and "resumed after update" in result.stdout
    assert difference(parameters(whole[0]), parameters(tmp_path / "run")) == 0


def _test_bpc(out):
    return float(out.split("test bpc ")[1].split()[0])


def test_evaluation_ends_with_one_json_object(whole):
    result = call("eval.py", f"--workdir={whole[0]}", "--json")
    assert result.returncode == 0, result.stderr
    last = json.loads(result.stdout.splitlines()[-1])
    assert last["split"] == "test" and {"symbols", "nats", "bpc", "rate/layer1"} <= last.keys()
    assert last["bpc"] == pytest.approx(_test_bpc(whole[1]), abs=1e-4)


@pytest.mark.slow
def test_boundaries_segments_and_samples(whole, tmp_path):
    text = "Some text with naïve “quotes”, and a second line.\nEnd\n"
    (tmp_path / "mine.txt").write_text(text, encoding="utf-8")
    figure = tmp_path / "figure.png"
    shown = call(
        "eval.py", "boundaries", f"--workdir={whole[0]}", f"--text={tmp_path}/mine.txt",
        f"--output={figure}", "--json",
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    last = json.loads(shown.stdout.splitlines()[-1])
    assert last["figure"] == str(figure) and {"f1", "rate"} <= last["rows"][0].keys()
    assert figure.read_bytes().startswith(b"\x89PNG") and "F1 beside" in shown.stdout
    cut = call("eval.py", "segment", f"--workdir={whole[0]}", f"--text={tmp_path}/mine.txt")
    assert cut.returncode == 0, cut.stderr
    rows = [json.loads(line) for line in (tmp_path / "mine.txt.segments.jsonl").open()]
    for layer in (1, 2):
        assert "".join(row["text"] for row in rows if row["layer"] == layer) == text
    streamed = call("eval.py", "stream", f"--workdir={whole[0]}", given=text)
    assert sorted(map(json.loads, streamed.stdout.splitlines()), key=str) == sorted(rows, key=str)
    drawn = [
        call(
            "eval.py", "sample", f"--workdir={whole[0]}", "--length=60", "--prompt=The ",
            f"--seed={seed}",
        )
        for seed in (1, 1, 2)
    ]  # fmt: skip
    assert drawn[0].stdout == drawn[1].stdout != drawn[2].stdout and "The " in drawn[0].stdout


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        ("train.py", ["--config.data.name=text", "--config.data.path=gone.txt"], "gone.txt"),
        (
            "train.py",
            ["text", "{nowhere}"],
            "--config.data.name=text --config.data.path={nowhere}?",
        ),
        ("eval.py", ["--workdir={nowhere}"], "is not a run"),
        (
            "eval.py",
            ["score", "{nowhere}.txt"],
            "did you mean --workdir={nowhere}.txt for a run, or --text={nowhere}.txt",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(tmp_path, program, arguments, message):
    """As the shell sees it; `test_commands` has more, in one process."""
    *arguments, message = (
        part.format(nowhere=tmp_path / "nowhere") for part in (*arguments, message)
    )
    if program == "train.py":
        arguments = [f"--workdir={tmp_path}/run", *arguments]
    begun = time.monotonic()
    result = call(program, *arguments)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("error: ")
    assert message in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists() and time.monotonic() - begun < 60
