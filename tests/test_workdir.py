"""The folder of a run: its lock, its configuration and encoding, its metrics."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import fsspec
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem

from hmrnn_jax import defaults
from hmrnn_jax.datasets.sequences import Scale
from hmrnn_jax.datasets.vocabulary import Vocabulary
from hmrnn_jax.errors import UserError
from hmrnn_jax.training import lock, metrics_log, workdir
from hmrnn_jax.training.lock import Lock
from hmrnn_jax.training.metrics_log import Logger, read_metrics

VOCABULARY = Vocabulary("characters", tuple("abc"))


def quiet(line):
    """Nobody listens."""


@pytest.fixture
def bucket(monkeypatch):
    """`gs://bucket/run`, held in memory."""

    class Memory(MemoryFileSystem):
        store, pseudo_dirs = {}, [""]
        protocol = "gcs"

        @classmethod
        def _strip_protocol(cls, path):
            return MemoryFileSystem._strip_protocol(path.replace("gs://", "memory://"))

        def rename(self, source, target, **more):
            self.mv(source, target, **more)

    path = epath.Path("gs://bucket/run")
    memory = Memory()
    monkeypatch.setattr(type(path._backend), "fs", lambda self, path: memory)
    return path


@pytest.fixture(params=["local", "bucket"])
def folder(request, tmp_path):
    """A run's folder that is not there yet, of both kinds."""
    return (
        epath.Path(tmp_path / "run")
        if request.param == "local"
        else request.getfixturevalue("bucket")
    )


# The lock


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


# The configuration and the encoding


def small():
    config = defaults.text()
    config.model.sizes = (8, 8)
    return config


def test_a_run_is_read_back_and_one_that_differs_is_refused(folder):
    assert workdir.open_run(folder, small(), VOCABULARY) == []
    config, encoding = workdir.load_run(folder)
    assert encoding == VOCABULARY and config.model.sizes == [8, 8] and config.batch == 64
    assert workdir.open_run(folder, small(), VOCABULARY) == []
    Logger(folder, 0).log(3, {"a": 1})
    other = small()
    other.epochs = 7
    assert workdir.open_run(folder, other, VOCABULARY) == ["epochs: 100 in the run, 7 now"]


def test_a_start_that_failed_does_not_block_its_folder(folder):
    workdir.open_run(folder, small(), VOCABULARY)
    (folder / "checkpoints/latest/0").mkdir(parents=True)
    (folder / "checkpoints/latest/0/file").write_text("")
    other = small()
    other.model.sizes = (8, 9)
    workdir.open_run(folder, other, VOCABULARY)
    assert workdir.load_run(folder)[0].model.sizes == [8, 9]
    assert not (folder / "checkpoints/latest/0/file").exists()
    files = {"metrics.jsonl": '{"step": 4}\n', "checkpoints/best/4/file": ""}
    files["checkpoints/unreadable-latest-4/file"] = ""  # as an earlier version left them
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
        with pytest.raises(UserError, match=r"model.sizes: \[8, 9\] in the run, \[8, 8\] now"):
            workdir.open_run(folder, small(), VOCABULARY)
        (folder / "config.json").rename(folder / "kept")
        with pytest.raises(UserError, match="lost its config.json"):
            workdir.open_run(folder, small(), VOCABULARY)
        (folder / "kept").rename(folder / "config.json")
        with pytest.raises(UserError, match="no state of training to go on from.*--fresh"):
            workdir.check_new(folder)
        (folder / name).unlink()
        if (folder / "checkpoints").exists():
            (folder / "checkpoints").rmtree()
    workdir.check_new(folder)


def test_fields_that_a_run_is_too_old_to_have_get_their_defaults(tmp_path):
    workdir.open_run(tmp_path, small(), VOCABULARY)
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text())
    del saved["evaluation"]["warmup"], saved["penalties"], saved["model"]["skip_copies"]
    saved["model"]["of another time"] = 3
    path.write_text(json.dumps(saved))
    config, _ = workdir.load_run(tmp_path)
    assert config.evaluation.warmup == 2000 and config.model.skip_copies is False
    assert config.penalties.to_dict() == small().penalties.to_dict()
    assert config.model["of another time"] == 3


@pytest.mark.parametrize(
    "content",
    [b"[]", b"null", b"7", b"", b"{", b"{}", b'{"task": []}', b'{"task": "chess"}', b"\xff\xfe{}",
     b"[" * 100_000, b'{"task": "language", "model": 3}', b'{"task": "language", "batch": "four"}',
     b'{"task": "language", "batch": {"a": 1}}', b'{"task": "language", "seed": true}'],
)  # fmt: skip
def test_a_configuration_that_is_none_is_told_in_a_sentence(tmp_path, content):
    workdir.open_run(tmp_path, small(), VOCABULARY)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match="config.json(, line 1,)? is (damaged|not UTF-8)"):
        workdir.load_run(tmp_path)


def test_a_configuration_that_is_a_folder_or_absent(tmp_path):
    with pytest.raises(UserError, match="is not a run: it has no config.json"):
        workdir.load_run(tmp_path / "nowhere")
    (tmp_path / "config.json").mkdir()
    with pytest.raises(UserError, match="config.json cannot be read"):
        workdir.load_run(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"[]", b"null", b"", b"\xff", b"{}", b'{"unit": "runes", "symbols": ["a"], "unknown": false}',
     b'{"unit": "characters", "symbols": ["ab"], "unknown": false}',
     b'{"unit": "characters", "symbols": [1], "unknown": false}',
     b'{"unit": "bytes", "symbols": ["a"], "unknown": false}',
     b'{"unit": "bytes", "symbols": [256], "unknown": false}',
     b'{"unit": "characters", "symbols": ["a", "a"], "unknown": false}'],
)  # fmt: skip
def test_a_vocabulary_that_is_none_is_told_in_a_sentence(tmp_path, content):
    workdir.open_run(tmp_path, small(), VOCABULARY)
    (tmp_path / "vocabulary.json").write_bytes(content)
    with pytest.raises(UserError, match="vocabulary.json(, line 1,)? is (damaged|not UTF-8)"):
        workdir.load_run(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"mean": [1.0]}, {"mean": [1.0, "2"]}, {"columns": None}, {"deviation": {}}, {"event": ...}],
)
def test_a_scale_that_is_none_is_told_in_a_sentence(tmp_path, change):
    scale = Scale(("dx", "dy"), "pen_up", (0.5, 1.5), (1.0, 2.0))
    workdir.open_run(tmp_path, defaults.strokes(), scale)
    assert workdir.load_run(tmp_path)[1] == scale
    fields = json.loads((tmp_path / "scale.json").read_text()) | change
    fields = {name: value for name, value in fields.items() if value is not ...}
    (tmp_path / "scale.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match="scale.json is damaged"):
        workdir.load_run(tmp_path)


def test_a_lost_encoding_is_told(tmp_path):
    workdir.open_run(tmp_path, small(), VOCABULARY)
    (tmp_path / "vocabulary.json").unlink()
    with pytest.raises(UserError, match="has lost its vocabulary.json or scale.json"):
        workdir.load_run(tmp_path)


def test_a_run_that_is_set_aside_is_kept_whole_and_leaves_the_folder_to_another(folder):
    assert "holds no run" in workdir.set_aside(folder)
    for number in (1, 2):
        workdir.open_run(folder, small(), VOCABULARY)
        (folder / "checkpoints/latest/4/default").mkdir(parents=True)
        (folder / "checkpoints/latest/4/default/file").write_text("4")
        (folder / "metrics.jsonl").write_text('{"step": 4}\n')
        (folder / "figure.png").write_text("a figure")
        said = workdir.set_aside(folder)
        aside = folder / f"set-aside-{number}"
        assert str(aside) in said
        assert (aside / "checkpoints/latest/4/default/file").read_text() == "4"
        assert workdir.load_run(aside)[1] == VOCABULARY and metrics_log.last_step(aside) == 4
        left = {path.name for path in folder.iterdir()}
        assert left <= {"figure.png", "set-aside-1", "set-aside-2", "checkpoints"}
        workdir.check_new(folder)


# Metrics


def lines(folder):
    return (folder / "metrics.jsonl").read_text().splitlines()


def test_metrics_go_on_where_the_state_does(folder):
    folder.mkdir(parents=True)
    logger = Logger(folder, 0)
    for step in (2, 4, 6):
        logger.log(step, {"a": step})
    logger.close()
    rows = [{"step": step, "a": step} for step in (2, 4, 6)]
    assert read_metrics(folder / "metrics.jsonl") == rows and metrics_log.last_step(folder) == 6
    logger = Logger(folder, 4)
    logger.log(5, {"a": 5})
    logger.close()
    assert read_metrics(folder / "metrics.jsonl") == [*rows[:2], {"step": 5, "a": 5}]
    # A finished run that is started once more scores the test split again.
    logger = Logger(folder, 5)
    logger.log(5, {"a": 5})
    logger.log(5, {"b": 5})
    logger.close()
    written = [path.read_text() for path in folder.glob("metrics*.jsonl")]
    assert sum(text.count("\n") for text in written) == 4


def test_metrics_lose_nothing_but_what_comes_after_the_state_and_a_cut_last_line(tmp_path):
    content = '{"step": 2}\nnot JSON\n{"no": 1}\n{"step": 9}\n{"step": 4}\n{"st'
    (tmp_path / "metrics.jsonl").write_text(content)
    Logger(tmp_path, 4).close()
    assert lines(tmp_path) == ['{"step": 2}', "not JSON", '{"no": 1}', '{"step": 4}']
    with pytest.raises(UserError, match="Line 2 of .*metrics.jsonl is not a JSON object"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_metrics_that_need_no_change_are_not_written_again(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 2}\n')
    before = (tmp_path / "metrics.jsonl").stat()
    Logger(tmp_path, 2).close()
    after = (tmp_path / "metrics.jsonl").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_in_a_bucket_each_line_is_written_once(bucket):
    (bucket / "metrics.jsonl").write_text('{"step": 2}\n')  # of a run that was written whole
    logger = Logger(bucket, 2)
    for step in range(3, 9):
        logger.log(step, {"a": step})
        if step % 3 == 2:
            logger.flush()
            logger.flush()
    logger.log(9, {"a": 9})  # a kill loses it, and with it the state that it is of
    names = sorted(path.name for path in bucket.iterdir())
    assert names == ["metrics-000001.jsonl", "metrics-000002.jsonl", "metrics.jsonl"]
    assert [r["step"] for r in read_metrics(bucket / "metrics.jsonl")] == list(range(2, 9))
    assert metrics_log.last_step(bucket) == 8
    Logger(bucket, 7).close()
    assert [json.loads(line)["step"] for line in lines(bucket)] == list(range(2, 8))
    assert [path.name for path in bucket.iterdir()] == ["metrics.jsonl"]


def test_a_start_cut_short_between_joining_and_deleting_tells_no_line_twice(bucket):
    for name in ("metrics.jsonl", "metrics-000001.jsonl"):
        (bucket / name).write_text('{"step": 1}\n{"step": 2}\n')
    assert [r["step"] for r in read_metrics(bucket / "metrics.jsonl")] == [1, 2]
    Logger(bucket, 2).close()
    assert lines(bucket) == ['{"step": 1}', '{"step": 2}']


def test_parts_without_the_file_are_read(bucket):
    (bucket / "metrics-000001.jsonl").write_text('{"step": 1}\n')
    assert read_metrics(bucket / "metrics.jsonl") == [{"step": 1}]
    with pytest.raises(UserError, match="cannot be read"):
        read_metrics(bucket / "other.jsonl")


def test_listings_of_buckets_are_not_remembered():
    class Bucket(fsspec.AbstractFileSystem):
        protocol = ("gs", "gcs")  # as gcsfs has it

    assert Bucket().dircache.use_listings_cache is False
    assert fsspec.filesystem("file").dircache.use_listings_cache is True
