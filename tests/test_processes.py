"""Several processes over loopback: the numbers of one, and a run that loses one resumes."""

import contextlib
import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading

import jax
import numpy as np
import one_process
import pytest
from jax._src.clusters import cloud_tpu_cluster
from runs import run
from test_programs import ROOT, difference, environment, parameters, start, train

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


@pytest.mark.slow
@pytest.mark.whole_program
def test_two_processes_equal_one_of_two_devices(two, tmp_path):
    workdir, outputs = two
    assert "in 2 processes" in outputs[0] and "test bpc" in outputs[0]
    assert "validation" not in outputs[1]  # one process logs
    one = train(tmp_path / "one", UPDATES, devices=2)
    assert one.returncode == 0, one.stderr
    assert_same_losses(workdir, tmp_path / "one")
    assert difference(parameters(workdir), parameters(tmp_path / "one")) == 0


@pytest.mark.slow
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


# Devices in an order that is not the processes'


@contextlib.contextmanager
def metadata_server(**attributes):
    """The address of a server that answers as a host of Google's Compute Engine is answered."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            value = attributes.get(self.path.rpartition("/")[2].replace("-", "_"))
            self.send_response(404 if value is None else 200)
            self.end_headers()
            self.wfile.write((value or "").encode())

        def log_message(self, *told):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def begin(arguments, devices, **more):
    """Starts `one_process.py` with so many devices."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    variables = environment(devices) | {"PYTHONPATH": path, "NO_PROXY": "127.0.0.1"} | more
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tests/one_process.py"), *map(str, arguments)],
        cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "letters.txt"
    path.write_text("".join(np.random.default_rng(0).choice(list("abc de"), 8000)))
    return path


@pytest.fixture(scope="module")
def of_one_process(text, tmp_path_factory):
    """The folder and the result of one process that has the eight devices."""
    workdir = tmp_path_factory.mktemp("order") / "one"
    return workdir, run(one_process.config(text), workdir)[0]


def assert_like_one(workdir, outputs, of_one_process):
    """What several processes saw, and that it is what one sees."""
    seen = [json.loads(output.splitlines()[-1]) for output in outputs]
    number = len(seen)
    assert f"in {number} processes" in outputs[0] and "validation" not in "".join(outputs[1:])
    assert [process["process"] for process in seen] == list(range(number))
    for process in seen:
        assert process["owners"] == list(range(number)) * (8 // number)  # in turns
        rows = list(range(one_process.BATCH))
        assert process["rows"] == [rows, [rows, rows]]  # each of them once
        assert process["any"] == [True, True, False]
        assert process["result"] == seen[0]["result"]
    for name, value in of_one_process[1].items():
        expected = value if isinstance(value, str) else pytest.approx(value, rel=1e-5)
        assert seen[0]["result"][name] == expected, name
    assert_same_losses(workdir, of_one_process[0], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.whole_program
def test_two_hosts_of_a_tpu_slice_find_each_other_and_read_every_row_once(
    text, of_one_process, tmp_path
):
    """By the metadata server of a slice, whose chips come in the torus's order."""
    port = str(free_port())
    with contextlib.ExitStack() as servers:
        processes = []
        for number in range(2):
            server = metadata_server(
                agent_worker_number=str(number),
                worker_network_endpoints="127.0.0.1,127.0.0.1",
                tpu_env="",
            )
            told = {"JAX_FORCE_TPU_INIT": "1", "JAX_COORDINATOR_PORT": port}
            told["GCE_METADATA_IP"] = servers.enter_context(server)
            processes.append(begin([text, tmp_path / "two"], 4, **told))
        outputs = finish(processes)
    assert_like_one(tmp_path / "two", outputs, of_one_process)


@pytest.mark.slow
@pytest.mark.whole_program
def test_four_processes_of_slurm_find_each_other_and_read_every_row_once(
    text, of_one_process, tmp_path
):
    """By the variables that `srun` sets; no flag is given."""
    # JAX makes the coordinator's port of the job's number: 61440 and its last twelve bits.
    slurm = {"JOB_ID": free_port(61440) - 61440, "STEP_NODELIST": "127.0.0.1", "NTASKS": 4}
    processes = []
    for number in range(4):
        told = slurm | {"PROCID": number, "LOCALID": number}
        told = {f"SLURM_{name}": str(value) for name, value in told.items()}
        processes.append(begin([text, tmp_path / "four"], 2, **told))
    outputs = finish(processes)
    assert_like_one(tmp_path / "four", outputs, of_one_process)


# What is told by hand or by the environment


@pytest.fixture
def initialized(monkeypatch):
    """Calls of `jax.distributed.initialize`, of which none is made."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **kept: calls.append(given))
    for name in os.environ:
        if name.startswith(("SLURM_", "TPU_", "MEGASCALE_", "OMPI_", "KUBERNETES_", "JOB_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", lambda key: pytest.fail("a slow query"))
    return calls


@pytest.fixture
def on_tpu(monkeypatch):
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)


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


def test_slurm_tells_of_other_processes(initialized, monkeypatch):
    for name, value in (("JOB_ID", "7"), ("NTASKS", "8"), ("PROCID", "0"), ("LOCALID", "0")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    parallel.initialize()
    assert initialized == []  # a batch script, which srun did not start
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node[1-2]")
    parallel.initialize()
    parallel.initialize("host:1", 2, 0)
    assert initialized == [(), ("host:1", 2, 0)]
    monkeypatch.setenv("SLURM_NTASKS", "1")
    parallel.initialize()
    assert len(initialized) == 2


def test_a_tpu_slice_of_kubernetes_tells_of_other_processes(initialized, monkeypatch, on_tpu):
    """And a notebook's TPU, of one host, asks nobody for more."""
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    for hosts in ("localhost", "first,second"):
        monkeypatch.setenv("TPU_WORKER_HOSTNAMES", hosts)
        parallel.initialize()
        assert initialized == [()] * ("," in hosts)
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "alone")
    monkeypatch.setenv("MEGASCALE_NUM_SLICES", "2")
    parallel.initialize()
    assert initialized == [(), ()]


@pytest.mark.parametrize("endpoints", ["10.0.0.1,10.0.0.2", "a:1:10.0.0.1,b:2:10.0.0.2"])
def test_a_tpu_slice_of_compute_engine_tells_of_other_processes(
    initialized, monkeypatch, on_tpu, endpoints
):
    told = {"agent-worker-number": "1", "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-16'"}
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", lambda key: (told[key], 200))
    told["worker-network-endpoints"] = endpoints.partition(",")[0]
    parallel.initialize()
    assert initialized == []  # one host has all chips
    told["worker-network-endpoints"] = endpoints
    parallel.initialize()
    assert initialized == [()]


def test_open_mpi_tells_of_other_processes(initialized, monkeypatch):
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "1531576320.0;tcp://10.96.0.1:34911")
    for count in ("1", "4"):
        monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", count)
        parallel.initialize()
    assert initialized == [()]


def test_no_cluster_is_asked_for_a_process_that_is_alone(initialized, monkeypatch, recwarn):
    """Nor is a notebook in Kubernetes, of whose processes there is no number."""
    parallel.initialize()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    parallel.initialize()
    assert not initialized and not recwarn.list


def test_a_cluster_that_does_not_answer_is_told_of(initialized, monkeypatch, on_tpu):
    def unreachable(key):
        raise OSError("Connection refused\nand more")

    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", unreachable)
    with pytest.raises(UserError, match=r"GceTpuCluster .* \(Connection refused\); give --coord"):
        parallel.initialize()
    assert not initialized


def test_chips_of_several_hosts_that_know_nothing_of_each_other_are_refused(
    initialized, monkeypatch
):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with pytest.raises(UserError, match="those of 4 processes, .* give --coordinator"):
        parallel.initialize()


# What processes compare before they begin


def test_processes_have_the_same_settings_wherever_each_has_its_files(text, tmp_path, monkeypatch):
    told = []

    def compare(own, what):
        told.append(own)
        raise UserError(f"{what} are compared.")

    monkeypatch.setattr(parallel, "check_same", compare)

    def settings(**changes):
        config = one_process.config(text)
        config.update_from_flattened_dict(changes)
        with pytest.raises(UserError, match="^The settings, --config and its fields, are compared"):
            run(config, tmp_path / "run")
        return told.pop()

    places = {"data.path": "elsewhere.txt", "boundaries.segments": "other.jsonl"}
    assert settings(**places) == settings()
    for change in ({"learning_rate": 0.5}, {"model.sizes": (9,)}, {"model.precision": "auto"}):
        assert settings(**change) != settings()


# The loops of docs/cloud_tpu.md


def ended(first, statuses, folder):
    """Runs the block of the page that begins so; `(exit status, calls made, what was printed)`."""
    page = (ROOT / "docs/cloud_tpu.md").read_text()
    (block,) = re.findall(rf"^```\n({re.escape(first)}.*?)^```", page, re.M | re.S)
    left = folder / "statuses"
    left.write_text("".join(f"{status}\n" for status in statuses))
    commands = f"""
        sleep() {{ :; }}
        scontrol() {{ echo "scontrol $*"; }}
        train() {{ read -r status < {left}; sed -i 1d {left}; return $status; }}
        srun() {{ train; }}
        gcloud() {{ if [ $4 = describe ]; then echo READY; else train; fi; }}
    """
    done = subprocess.run(["bash", "-c", commands + block], capture_output=True, text=True)
    return done.returncode, len(statuses) - len(left.read_text().split()), done.stdout


@pytest.mark.parametrize(
    ("statuses", "status", "calls"),
    [
        ([0, 0], 0, 1),
        ([2, 0], 2, 1),
        ([130, 0], 130, 1),
        ([75] * 12 + [255, 134, 1, 75, 1, 1, 1, 1, 0], 0, 21),
        ([1] * 9, 1, 5),
    ],
)
def test_the_loop_for_spot_capacity_resumes_and_does_not_repeat_bad_input(
    tmp_path, statuses, status, calls
):
    assert ended("failures=0", statuses, tmp_path)[:2] == (status, calls)


@pytest.mark.parametrize("status", [0, 1, 2, 75, 130])
def test_the_job_for_slurm_is_put_back_when_it_was_stopped(tmp_path, status):
    ended_with, _, said = ended("#!/bin/bash", [status], tmp_path)
    assert ended_with == status and ("scontrol requeue" in said) == (status == 75)
