"""The lock of a run's folder: one training at a time, also in a bucket."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hmrnn_jax.errors import UserError
from hmrnn_jax.training import lock
from hmrnn_jax.training.lock import Lock


def quiet(line):
    """Nobody listens."""


def test_a_second_training_is_refused_and_told_who_holds_the_folder(tmp_path):
    with Lock(tmp_path / "run", quiet):
        with pytest.raises(
            UserError, match=rf"in use by another training \(process {os.getpid()} on"
        ):
            with Lock(tmp_path / "run", quiet):
                pytest.fail("two trainings in one folder")
        assert (tmp_path / "run/lock.json").exists()
        (tmp_path / "link").symlink_to(tmp_path / "run")
        with pytest.raises(UserError, match="in use"):
            Lock(tmp_path / "link", quiet).__enter__()
    with Lock(tmp_path / "run", quiet):
        pass


def test_a_folder_that_nothing_came_of_is_not_left_behind(tmp_path):
    with pytest.raises(ValueError, match="ours"), Lock(tmp_path / "a/b", quiet):
        raise ValueError("ours")
    assert not (tmp_path / "a").exists()
    with Lock(tmp_path / "a/b", quiet):
        (tmp_path / "a/b/file").touch()
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["file"]


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    program = (
        "import sys, time; from hmrnn_jax.training.lock import Lock\n"
        "with Lock(sys.argv[1], print): print('held', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    root = Path(__file__).parent.parent
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {holder.pid} on"), Lock(tmp_path, quiet):
            pytest.fail("two trainings in one folder")
    finally:
        holder.kill()
        holder.wait()
    with Lock(tmp_path, quiet):
        pass
    assert not (tmp_path / "lock.json").exists()


def test_a_folder_that_cannot_be_made_is_told_in_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    for path in ("file", "file/run", "n" * 300):
        with pytest.raises(UserError, match="cannot be written .*: choose another --workdir"):
            Lock(tmp_path / path, quiet).__enter__()


def test_a_file_system_without_locks_is_told_of_and_used(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    lines = []
    with Lock(tmp_path, lines.append):
        pass
    assert len(lines) == 1 and "without locks (Operation not supported)" in lines[0]


@pytest.fixture
def hurry(monkeypatch):
    for name, seconds in {"RENEWAL": 0.05, "LEASE": 0.4, "LOOKS": 0.1, "SETTLING": 0.02}.items():
        monkeypatch.setattr(lock, name, seconds)


def test_in_a_bucket_a_living_holder_is_respected_and_a_dead_one_succeeded(bucket, hurry):
    with Lock(bucket, quiet) as first:
        with pytest.raises(UserError, match=f"process {os.getpid()} on"), Lock(bucket, quiet):
            pytest.fail("two trainings in one folder")
        first.check()
    assert not (bucket / "lock.json").exists()
    (bucket / "lock.json").write_text('{"host": "gone", "pid": 1, "id": "x"}')
    begun = time.monotonic()
    with Lock(bucket, quiet):
        assert time.monotonic() - begun >= lock.LEASE


def test_in_a_bucket_whoever_was_taken_over_learns_of_it(bucket, hurry):
    with Lock(bucket, quiet) as first:
        (bucket / "lock.json").write_text('{"host": "other", "pid": 1, "id": "x"}')
        first._thread.join(timeout=60)
        assert first.lost
        with pytest.raises(UserError, match="was taken over by another process"):
            first.check()
    assert "other" in (bucket / "lock.json").read_text()


def test_of_two_that_start_at_once_in_a_bucket_one_goes_on(bucket, hurry, monkeypatch):
    monkeypatch.setattr(lock, "SETTLING", 0.3)
    held, barrier, done = [], threading.Barrier(2), threading.Event()

    def start():
        barrier.wait()
        try:
            with Lock(bucket, quiet):
                held.append(True)
                done.wait(60)
        except UserError:
            held.append(False)
        if len(held) == 2:
            done.set()

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while len(held) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join()
    assert sorted(held) == [False, True]
