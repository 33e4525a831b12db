"""Segments that a file gives for the training text teach the detectors, as a user would do it."""

import gzip
import json
import re

import jax
import numpy as np
import pytest
from runs import run

from hmrnn_jax import commands, defaults, files, parallel
from hmrnn_jax.analysis import boundaries, ngram, scores
from hmrnn_jax.analysis.segmenters import word_scores
from hmrnn_jax.datasets import segmented
from hmrnn_jax.errors import UserError
from hmrnn_jax.opening import load
from hmrnn_jax.tasks import language, objectives

WORDS = "the cat sat on a mat and then it went to see who was there by sun light again".split()
DELAY = 2


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    make_mesh = parallel.make_mesh
    monkeypatch.setattr(parallel, "make_mesh", lambda *_: make_mesh(jax.devices()[:1]))


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A stream of words without separators, the ends of all, and the training part's segments."""
    folder = tmp_path_factory.mktemp("given")
    words = np.random.default_rng(0).choice(WORDS, 3000)
    ends = np.concatenate([np.arange(len(word)) == len(word) - 1 for word in words])
    (folder / "text.txt").write_text("".join(words))
    config = make(folder)
    train = language.corpus(config).splits["train"]
    text = language.corpus(config).vocabulary.symbol_strings(train)
    z = ends[None, : len(train)]
    boundaries.write_segments(folder / "first.jsonl", boundaries.segment_lines(text, z))
    return folder, ends


def make(folder, segments="first.jsonl"):
    config = defaults.text()
    config.data.name, config.data.path = "text", str(folder / "text.txt")
    config.model.sizes, config.model.output, config.model.embedding = (24, 12), 16, 8
    config.model.hm_lstm.update(surrogate="logistic", detector_reads_h=True)
    config.batch, config.window, config.steps, config.report = 8, 20, 150, 50
    config.evaluation.update(batch=8, window=20, warmup=20, every=75)
    config.learning_rate, config.finish = 2e-2, "view"
    config.boundaries.update(
        lengths=(3.3,), teacher="segments", segments=str(folder / segments), delay=DELAY,
        teacher_weight=1.0,
    )  # fmt: skip
    return config


def test_they_are_taught_later_and_read_where_they_end(given, tmp_path):
    folder, ends = given
    config = make(folder)
    corpus = language.corpus(config)
    task = language.Task(config, parallel.make_mesh())
    assert "are taught: layer 1 along 100% of the training text" in task.describe()
    taught = task.stream(0).taught
    length = (len(corpus.splits["train"]) - 1) // config.batch
    for row in range(1, config.batch):
        start = row * length - DELAY
        fired = ends[start : start + config.window]
        np.testing.assert_array_equal(taught[:, row], objectives.given(0, fired))
    assert not taught[:DELAY, 0].any()
    _, said = run(config, tmp_path)
    rows = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    last = [row for row in rows if "target/layer1" in row][-1]
    assert 0.2 < last["target/layer1"] < 0.4 and last["teacher/layer1"] < 0.4
    trained, test = load(tmp_path), corpus.splits["test"]
    z = trained.boundaries(test)
    found = scores.precision_recall_f1(z[0], ends[-len(test) :])
    assert found[2] > 0.8  # a boundary at every symbol has 0.49
    view = boundaries.text_view(corpus.vocabulary.symbol_strings(test[:540]), list(z[:, :540]))
    assert view.splitlines()[:3] == said.splitlines()[-len(view.splitlines()) :][:3]
    # What it finds in the training text can teach another run.
    commands.execute(["hmrnn", "segment", f"--workdir={tmp_path}", "--split=train"])
    again = make(tmp_path, "train.segments.jsonl")
    again.data.path = config.data.path
    (found,) = {language.Task(again, parallel.make_mesh()).stream(0).taught.shape}
    assert found == (config.window, config.batch)


def test_a_text_shorter_than_the_delay_is_one_sentence(tmp_path):
    (tmp_path / "text.txt").write_text("ab cd ef\n" * 5)
    config = make(tmp_path)
    config.window = 50
    config.boundaries.update(teacher="line_break", segments="", delay=49)
    with pytest.raises(UserError, match="the training text has 40 symbols, but 8 rows of 50 steps"):
        language.Task(config, parallel.make_mesh())


def test_a_file_that_ends_early_teaches_so_far(given, tmp_path):
    folder, _ = given
    lines = files.read_text(folder / "first.jsonl").splitlines()
    (tmp_path / "some.jsonl").write_text("\n".join(lines[: len(lines) // 10]))
    end = json.loads(lines[len(lines) // 10 - 1])["end"]
    whole, config = make(folder), make(folder)
    config.boundaries.segments = str(tmp_path / "some.jsonl")
    task = language.Task(config, parallel.make_mesh())
    assert "layer 1 along 10% of" in task.describe()
    every = range(task.stream.steps_per_epoch)
    ours = np.concatenate([task.stream(step).taught for step in every]).T.ravel()
    task = language.Task(whole, parallel.make_mesh())
    theirs = np.concatenate([task.stream(step).taught for step in every]).T.ravel()
    np.testing.assert_array_equal(ours[: end + DELAY], theirs[: end + DELAY])
    assert not ours[end + DELAY :].any()


def test_the_data_are_told_apart_by_what_the_file_holds(given, tmp_path):
    """Wherever it is, and packed or not."""
    folder, _ = given
    config, content = make(folder), files.read_bytes(folder / "first.jsonl")

    def fingerprint(name, content):
        (tmp_path / name).write_bytes(content)
        config.boundaries.segments = str(tmp_path / name)
        return language.Task(config, parallel.make_mesh()).fingerprint()

    first = fingerprint("a.jsonl", content)
    assert fingerprint("b.jsonl.gz", gzip.compress(content)) == first
    fewer = fingerprint("a.jsonl", content[: content.index(b"\n", 999)])
    assert {name for name in first if first[name] != fewer[name]} == {"segments"}
    config.boundaries.update(teacher="none", segments="")
    task = language.Task(config, parallel.make_mesh())
    assert task.fingerprint() == language.corpus(config).fingerprint()


def test_an_n_gram_model_says_where_a_line_break_would_suit(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    lines = [list(rng.choice(WORDS, rng.integers(1, 6))) for _ in range(1500)]
    text, ends = segmented.unspaced(lines)
    (tmp_path / "text.txt").write_text(text)
    config = make(tmp_path)
    config.boundaries.update(teacher="line_break", segments="", lengths=(3.3, 3.0))
    task = language.Task(config, parallel.make_mesh())
    told = re.search(
        r"an n-gram model, on average of ([\d.]+) symbols, are taught: layer 1 along 100%",
        task.describe(),
    )
    every = range(task.stream.steps_per_epoch)
    inputs, _, mask, _, taught = (
        np.concatenate(field).T.ravel() for field in zip(*map(task.stream, every), strict=True)
    )
    counted = mask > 0
    taught, newline = taught[counted], inputs[counted] == task.encoding.line_end
    assert set(taught[DELAY:]) == {*objectives.given(0, np.array([False, True]))}  # of one layer
    fired = taught[DELAY:] == objectives.given(0, True)
    found, _ = word_scores(fired, ends[: len(fired)], newline[: len(fired)])
    assert fired[newline[: len(fired)]].all() and found[2] > 0.8
    assert float(told[1]) == pytest.approx(1 / fired.mean(), abs=0.1)
    monkeypatch.setattr(ngram, "_PIECE", 100)
    again = language.Task(config, parallel.make_mesh())
    np.testing.assert_array_equal(again.stream(0).taught, task.stream(0).taught)


def test_segments_of_another_text_are_refused_before_anything_is_written(given, tmp_path):
    folder, _ = given
    config = make(folder)
    lines = files.read_text(folder / "first.jsonl").splitlines()
    config.boundaries.segments = str(tmp_path / "other.jsonl")
    (tmp_path / "other.jsonl").write_text("\n".join(lines[1:]))
    with pytest.raises(UserError, match="cut this very text, hmrnn segment --split=train"):
        run(config, tmp_path / "run")
    (tmp_path / "other.jsonl").write_text("[" * 100_000)
    with pytest.raises(UserError, match="line 1: it must be a segment with layer, start, end"):
        run(config, tmp_path / "run")
    config.boundaries.segments = str(tmp_path / "gone.jsonl")
    with pytest.raises((UserError, OSError), match="gone.jsonl"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
