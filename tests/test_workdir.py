"""The folder of a run: its configuration and encoding."""

import json

import numpy as np
import pytest

from hmrnn_jax import defaults
from hmrnn_jax.datasets.sequences import Scale
from hmrnn_jax.datasets.vocabulary import Vocabulary
from hmrnn_jax.errors import UserError
from hmrnn_jax.training import metrics_log, workdir
from hmrnn_jax.training.metrics_log import Logger

VOCABULARY = Vocabulary("characters", tuple("abc"))


def small():
    config = defaults.text()
    config.model.sizes = (8, 8)
    return config


def test_a_run_is_read_back_and_one_that_differs_is_refused(folder):
    assert workdir.open_run(folder, small(), VOCABULARY) == []
    config, encoding = workdir.load_run(folder)
    assert encoding == VOCABULARY and config.model.sizes == [8, 8] and config.batch == 64
    assert workdir.open_run(folder, small(), VOCABULARY) == []
    logger = Logger(folder, 0)
    logger.log(3, {"a": 1})
    logger.close()
    other = small()
    other.epochs = 7
    assert workdir.open_run(folder, other, VOCABULARY) == ["epochs: 100 in the run, 7 now"]
    # What later commands read of the run is what it goes on with.
    workdir.rewrite(folder, other)
    assert workdir.load_run(folder)[0].epochs == 7
    assert workdir.open_run(folder, other, VOCABULARY) == []
    other.model.hm_lstm.flush = False  # another network of the same parameters
    with pytest.raises(UserError, match="flush: True in the run, False now"):
        workdir.open_run(folder, other, VOCABULARY)
    other.model.hm_lstm.flush = True
    other.model.dropout.weight = 0.2  # scales the weights as the network reads
    with pytest.raises(UserError, match="dropout.weight: 0.0 in the run, 0.2 now"):
        workdir.open_run(folder, other, VOCABULARY)


def test_a_text_that_has_changed_is_told(folder):
    data = {"train": [3000, 17], "valid": [170, 1], "test": [170, 2]}
    workdir.open_run(folder, small(), VOCABULARY, data)
    later = data | {"train": [3087, 18], "test": [170, 3]}
    workdir.open_run(folder, small(), VOCABULARY, later)  # nothing has been trained yet
    workdir.open_run(folder, small(), VOCABULARY, data)
    (folder / "metrics.jsonl").write_text('{"step": 4}\n')
    assert workdir.load_data(folder) == data
    told = (
        "train text: 3,000 symbols in the run, 3,087 now;"
        " test text: 170 symbols in the run, 170 others now"
    )
    with pytest.raises(UserError, match=told):
        workdir.open_run(folder, small(), VOCABULARY, later)
    (folder / "data.json").write_text('{"train": [3000]}')
    with pytest.raises(UserError, match="data.json is damaged"):
        workdir.open_run(folder, small(), VOCABULARY, data)
    (folder / "data.json").unlink()  # a run of an earlier version
    assert workdir.open_run(folder, small(), VOCABULARY, data) == []
    assert workdir.load_data(folder) == data


def test_segments_that_have_changed_are_told_and_not_refused(folder):
    splits = {"train": [3000, 17], "valid": [170, 1], "test": [170, 2]}
    data = splits | {"segments": [90, 5]}
    workdir.open_run(folder, small(), VOCABULARY, data)
    (folder / "metrics.jsonl").write_text('{"step": 4}\n')
    assert workdir.load_data(folder) == splits
    assert workdir.open_run(folder, small(), VOCABULARY, data) == []
    told = workdir.open_run(folder, small(), VOCABULARY, data | {"segments": [90, 6]})
    assert told == ["what the file boundaries.segments holds"]
    (folder / "data.json").write_text(json.dumps(splits))  # of an earlier version
    assert workdir.open_run(folder, small(), VOCABULARY, data) == []


FOREIGN = {
    "config.json": '{"model_type": "bert", "task": "ner"}', "vocabulary.json": '{"the": 0}',
    "data.json": '{"train": [0, 1, 2], "valid": [3, 4, 5], "test": [6, 7, 8]}', "scale.json": "3",
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_that_is_no_runs_is_never_replaced(folder, name):
    folder.mkdir(parents=True)
    (folder / name).write_text(FOREIGN[name])
    for config, encoding in ((small(), VOCABULARY), (defaults.images(), None)):
        with pytest.raises(UserError, match=f"{name} is no file of a run.*choose another --workd"):
            workdir.open_run(folder, config, encoding)
    assert [path.name for path in folder.iterdir()] == [name]
    assert (folder / name).read_text() == FOREIGN[name]
    workdir.set_aside(folder)  # as --fresh asks
    workdir.open_run(folder, small(), VOCABULARY)
    assert (folder / "set-aside-1" / name).read_text() == FOREIGN[name]


def test_a_start_that_was_cut_short_begins_again(folder):
    data = {"train": [3000, 17], "valid": [170, 1], "test": [170, 2], "segments": [90, 5]}
    scale = Scale(("x", "y"), "", (0.0, 0.0), (1.0, 1.0))
    for config, encoding in ((small(), VOCABULARY), (defaults.strokes(), scale)):
        workdir.open_run(folder, config, encoding, data)
        (folder / "config.json").unlink()  # which is written last
    workdir.open_run(folder, small(), VOCABULARY)
    assert workdir.load_run(folder)[1] == VOCABULARY


def test_a_start_of_another_task_leaves_no_encoding_behind(folder):
    workdir.open_run(folder, small(), VOCABULARY, {"train": [1, 1]})
    strokes, scale = defaults.strokes(), Scale(("x", "y"), "", (0.0, 0.0), (1.0, 1.0))
    workdir.open_run(folder, strokes, scale)
    assert workdir.load_run(folder)[1] == scale
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "scale.json"]


def test_a_start_that_failed_gives_way_whatever_differs(folder):
    workdir.open_run(folder, small(), VOCABULARY)
    (folder / "checkpoints/latest/0").mkdir(parents=True)
    other = small()
    other.model.hm_lstm.detector_bias = 3.0  # which the first state does not have
    assert workdir.open_run(folder, other, VOCABULARY) == []
    assert not (folder / "checkpoints/latest/0").exists()
    assert workdir.load_run(folder)[0].model.hm_lstm.detector_bias == 3


def test_sizes_of_numpy(folder):
    config = small()
    config.model.sizes = tuple(2 ** np.arange(3, 5))
    workdir.open_run(folder, config, VOCABULARY)
    assert workdir.load_run(folder)[0].model.sizes == [8, 16]


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
    assert config.evaluation.warmup == 2000 and config.model.skip_copies is True
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
        (folder / "watch.html").write_text("a page")
        (folder / "metrics-before-lr.jsonl").write_text("a copy of the user's")
        said = workdir.set_aside(folder)
        aside = folder / f"set-aside-{number}"
        assert str(aside) in said
        assert (aside / "checkpoints/latest/4/default/file").read_text() == "4"
        assert workdir.load_run(aside)[1] == VOCABULARY and metrics_log.last_step(aside) == 4
        left = {path.name for path in folder.iterdir()}
        its = {"set-aside-1", "set-aside-2", "checkpoints"}
        assert {"figure.png", "metrics-before-lr.jsonl"} == left - its
        workdir.check_new(folder)


def test_a_logic_run_that_is_older_than_the_dropout_of_symbols_says_so(folder):
    """It was trained without; what goes on with it now has it, and that is told."""
    vocabulary = Vocabulary("words", ("a", "b"))
    workdir.open_run(folder, defaults.logic(), vocabulary)
    path = folder / workdir.CONFIG
    saved = json.loads(path.read_text())
    del saved["model"]["input_dropout"]
    path.write_text(json.dumps(saved))
    assert workdir.load_run(folder)[0].model.input_dropout == 0
    logger = Logger(folder, 0)
    logger.log(4, {"train/nats": 1.0})
    logger.close()
    lines = workdir.open_run(folder, defaults.logic(), vocabulary)
    assert lines == ["model.input_dropout: 0.0 in the run, 0.2 now"]
