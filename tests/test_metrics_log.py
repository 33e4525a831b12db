"""The metrics of a run: they go on where the state does, also in a bucket."""

import errno
import json
import os
from types import SimpleNamespace
from unittest import mock

import fsspec
import numpy as np
import pytest
from tensorboardX.event_file_writer import EventsWriter

from hmrnn_jax import defaults
from hmrnn_jax.datasets.vocabulary import Vocabulary
from hmrnn_jax.errors import UserError
from hmrnn_jax.inference import activations
from hmrnn_jax.training import board as board_training
from hmrnn_jax.training import metrics_log
from hmrnn_jax.training.metrics_log import Logger, read_metrics


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


def test_other_files_of_metrics_are_neither_read_nor_deleted(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 2}\n')
    (tmp_path / "metrics-1000000.jsonl").write_text('{"step": 3}\n')  # a part, of many
    others = ["metrics-before-lr.jsonl", "metrics-2024.jsonl", "metrics-000001-old.jsonl"]
    others += ["metrics-0000001.jsonl"]
    for name in others:
        (tmp_path / name).write_text('{"step": 9}\n')
    rows = [{"step": 2}, {"step": 3}]
    assert read_metrics(tmp_path / "metrics.jsonl") == rows and metrics_log.last_step(tmp_path) == 3
    Logger(tmp_path, 9).close()
    assert lines(tmp_path) == ['{"step": 2}', '{"step": 3}']
    left = {path.name for path in tmp_path.glob("*.jsonl")}
    assert left == {"metrics.jsonl", *others}


def test_listings_of_buckets_are_not_remembered():
    class Bucket(fsspec.AbstractFileSystem):
        protocol = ("gs", "gcs")  # as gcsfs has it

    assert Bucket().dircache.use_listings_cache is False
    assert fsspec.filesystem("file").dircache.use_listings_cache is True


# TensorBoard


@pytest.fixture
def looking(monkeypatch):
    """A task whose model fires at every fifth symbol."""
    text = "it is so\n" * 50
    encoding = Vocabulary.of(text, "characters")
    splits = {"valid": encoding.encode(text)[0]}

    def of(model, params, ids, slope):
        return [np.arange(len(ids)) % 5 == 0], np.ones((2, len(ids)))

    monkeypatch.setattr(activations, "of", of)
    return SimpleNamespace(
        encoding=encoding, corpus=SimpleNamespace(splits=splits), model=SimpleNamespace(cells=()),
        boundaries=SimpleNamespace(delay=0),
    )  # fmt: skip


def test_tensorboard_has_settings_and_the_boundaries_of_a_validation(tmp_path, looking):
    said = []
    board = board_training.Board(tmp_path, 0, said.append)
    board.settings(defaults.text())
    board.boundaries(99, looking, {}, 1.0, "mine")  # too early
    board.boundaries(400, looking, {}, 1.0, "mine")
    board.boundaries(500, SimpleNamespace(), {}, 1.0, "of another task")
    board.close()
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    for part in (b"learning_rate", b"valid/bpc", b"\nz1  |", b"boundaries/text_summary", b"PNG"):
        assert part in content
    assert content.count(b"boundaries/text_summary") == 1 and not said


def test_tensorboard_has_as_many_words_as_its_figure_has_room_for(tmp_path, looking):
    text = "considerably incomprehensible characteristics\n" * 90
    looking.encoding = Vocabulary.of(text, "words")
    looking.corpus.splits["valid"] = looking.encoding.encode(text)[0]
    said = []
    board = board_training.Board(tmp_path, 0, said.append)
    board.boundaries(400, looking, {}, 1.0, "mine")
    board.close()
    (path,) = tmp_path.iterdir()
    assert b"PNG" in path.read_bytes() and b" over 270 symbols" not in path.read_bytes()
    assert not said


def test_what_cannot_be_written_for_tensorboard_is_told_once_and_ends_nothing(
    tmp_path, looking, monkeypatch
):
    said = []
    logger = Logger(tmp_path, 0, said.append)
    logger.log(1, {"a": 1})
    monkeypatch.setattr(board_training, "draw_boundaries", lambda *_: 1 / 0)
    for step in (400, 800):
        logger.board.boundaries(step, looking, {}, 1.0, "mine")
        logger.log(step, {"a": step})
    logger.board.settings(defaults.text())
    logger.close()
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 400, 800]
    assert said == ["warning: nothing more is written for TensorBoard (ZeroDivisionError('division"
                    " by zero'))"]  # fmt: skip
    (tmp_path / "file").touch()
    board_training.Board(tmp_path / "file", 0, said.append).scalars(1, {"a": 1})
    assert len(said) == 2


def test_a_full_disk_ends_what_is_written_for_tensorboard_and_no_training(tmp_path, monkeypatch):
    """Whoever adds an event is told; nobody waits for a thread that is gone."""
    said = []
    logger = Logger(tmp_path, 0, said.append)
    logger.log(1, {"a": 1})
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(EventsWriter, "write_event", mock.Mock(side_effect=full))
    for step in range(2, 30):
        logger.log(step, {"a": step})
    logger.close()
    assert len(said) == 1 and "No space left on device" in said[0]
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 29


def test_tensorboard_is_up_to_date_after_each_checkpoint(tmp_path):
    logger = Logger(tmp_path, 0)
    logger.log(1, {"one_name": 1})
    logger.flush()
    (path,) = tmp_path.glob("events*")
    assert b"one_name" in path.read_bytes()
