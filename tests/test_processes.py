"""Several processes over loopback: the numbers of one, and a run that loses one resumes."""

import contextlib
import json
import socket
import subprocess

import jax
import numpy as np
import pytest
from test_programs import difference, parameters, start, train

from hmrnn_jax import parallel
from hmrnn_jax.errors import UserError

UPDATES = "--config.steps=24"


def free_port(least=0):
    """A port that nobody listens at: any, or one of the last, from `least` on."""
    for port in range(65535, least, -1) if least else [0]:
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return free.getsockname()[1]


def launch(workdir, *arguments, processes=2):
    """Starts the processes of a run, each with one device, by hand."""
    address = f"--coordinator=127.0.0.1:{free_port()}"
    return [
        start(workdir, UPDATES, *arguments, address, f"--processes={processes}", f"--process={k}")
        for k in range(processes)
    ]


def finish(processes):
    """What each process said; all must end well."""
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    codes = [process.returncode for process in processes]
    assert not any(codes), (codes, *(output[-2000:] for output in outputs))
    return outputs


def assert_same_losses(several, one, rtol=1e-6):
    """Those of training, validation and test."""
    logs = []
    for workdir in (several, one):
        with open(workdir / "metrics.jsonl") as file:
            rows = [json.loads(line) for line in file]
        logs.append({(r["step"], k): r[k] for r in rows for k in r if k.endswith("/nats")})
    names = {name for _, name in logs[0]}
    assert logs[0].keys() == logs[1].keys() and names == {"train/nats", "valid/nats", "test/nats"}
    for key, value in logs[0].items():
        np.testing.assert_allclose(value, logs[1][key], rtol=rtol, err_msg=str(key))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder of an uninterrupted run of two processes, and what they said."""
    workdir = tmp_path_factory.mktemp("processes") / "two"
    return workdir, finish(launch(workdir))


@pytest.mark.whole_program
def test_two_processes_equal_one_of_two_devices(two, tmp_path):
    workdir, outputs = two
    assert "in 2 processes" in outputs[0] and "test bpc" in outputs[0]
    assert "update" not in outputs[1]  # one process logs
    one = train(tmp_path / "one", UPDATES, devices=2)
    assert one.returncode == 0, one.stderr
    assert_same_losses(workdir, tmp_path / "one")
    assert difference(parameters(workdir), parameters(tmp_path / "one")) == 0


@pytest.mark.whole_program
def test_four_processes_that_slurm_tells_of_equal_one_of_four_devices(monkeypatch, tmp_path):
    """By the variables that `srun` sets; no flag is given.

    Four addends come in another order, and boundaries that are rounded to 0 or 1 would make
    much of it.
    """
    soft = [UPDATES, "--config.model.hm_lstm.boundary=soft"]
    # JAX makes the coordinator's port of the job's number: 61440 and its last twelve bits.
    slurm = {"JOB_ID": free_port(61440) - 61440, "STEP_NODELIST": "127.0.0.1", "NTASKS": 4}
    processes = []
    for number in range(4):
        for name, value in (slurm | {"PROCID": number, "LOCALID": number}).items():
            monkeypatch.setenv(f"SLURM_{name}", str(value))
        processes.append(start(tmp_path / "four", *soft))
    outputs = finish(processes)
    assert "in 4 processes" in outputs[0] and "update" not in "".join(outputs[1:])
    monkeypatch.undo()
    one = train(tmp_path / "one", *soft, devices=4)
    assert one.returncode == 0, one.stderr
    assert_same_losses(tmp_path / "four", tmp_path / "one", rtol=1e-5)


@pytest.mark.whole_program
def test_a_lost_process_ends_the_others_and_all_resume(two, tmp_path):
    often = ["--config.save=1", "--config.report=1"]
    first, second = launch(tmp_path / "run", *often)
    for line in first.stdout:
        if line.startswith("update 5/"):
            second.kill()
            break
    try:
        # JAX alone would wait for a heartbeat of 100 seconds.
        said = first.communicate(timeout=60)[0]
    except subprocess.TimeoutExpired:
        pytest.fail("a process outlived the one that was killed by a minute")
    finally:
        for process in (first, second):
            process.kill()
            process.wait()
    assert first.returncode != 0 and "all is saved" not in said
    outputs = finish(launch(tmp_path / "run", *often))
    assert "resumed after update" in outputs[0]
    assert difference(parameters(two[0]), parameters(tmp_path / "run")) == 0


# What is told by hand or by the environment


@pytest.fixture
def initialized(monkeypatch):
    """Calls of `jax.distributed.initialize`, of which none is made."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **kept: calls.append(given))
    for name in ("SLURM_NTASKS", "SLURM_STEP_NODELIST", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    return calls


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("host:1", None, None), "Give --processes and --process too"),
        (("host:1", 2, None), "Give --process too"),
        (("host:1", None, 0), "Give --processes too"),
        ((None, 2, 0), "Give --coordinator too"),
        ((None, None, 0), "Give --coordinator and --processes too"),
        (("host", 2, 0), "'host'; it must be HOST:PORT"),
        (("host:", 2, 0), "'host:'; it must be HOST:PORT"),
        (("host:1", 2, 2), "--process is 2; with --processes=2 it must be 0 to 1"),
        (("host:1", 2, -1), "--process is -1"),
    ],
)
def test_half_of_the_flags_is_refused(initialized, given, message):
    with pytest.raises(UserError, match=message):
        parallel.initialize(*given)
    assert not initialized


def test_the_environment_tells_of_other_processes(initialized, monkeypatch):
    parallel.initialize()
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    monkeypatch.setenv("SLURM_NTASKS", "8")  # a batch script, which srun did not start
    parallel.initialize()
    assert initialized == []
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node[1-2]")
    parallel.initialize()
    monkeypatch.delenv("SLURM_STEP_NODELIST")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "first,second")
    parallel.initialize()
    parallel.initialize("host:1", 2, 0)
    assert initialized == [(), (), ("host:1", 2, 0)]
