"""`train.py` and `eval.py` on real-valued sequences as a user starts them."""

import json
import shutil

import numpy as np
import pytest
from test_programs import call, difference, parameters

from hmrnn_jax.analysis.segmenters import last_steps
from hmrnn_jax.batches.sequences import BucketStream
from hmrnn_jax.datasets import synthetic
from hmrnn_jax.datasets.sequences import Scale
from hmrnn_jax.inference import activations
from hmrnn_jax.tasks import sequences
from hmrnn_jax.training.checkpoint import Checkpoints
from hmrnn_jax.training.workdir import load_run

pytestmark = [pytest.mark.whole_program, pytest.mark.slow]
# One set of shapes for both runs: what one has compiled the other need not.
TINY = [
    "--config.model.sizes=8,8", "--config.model.head=plain", "--config.model.components=2",
    "--config.model.hm_lstm.layer_norm=none", "--config.batch=16", "--config.window=50",
    "--config.evaluation.batch=8", "--config.evaluation.window=50", "--config.evaluation.every=4",
    "--config.report=4",
]  # fmt: skip
TREE = "( (S (NP (DT The) (NN author)) (VP (VBZ laughs)) (. .)) )\n"


def train(workdir, config, *arguments):
    return call("train.py", f"--config=configs/{config}.py", f"--workdir={workdir}", *TINY,
                *arguments)  # fmt: skip


def look(workdir, command, *arguments, code=0):
    result = call("eval.py", command, f"--workdir={workdir}", *arguments)
    assert result.returncode == code, result.stderr
    assert code == 0 or result.stderr.count("\n") == 1
    return result.stdout if code == 0 else result.stderr


# Made-up handwriting


@pytest.fixture(scope="module")
def scribbles(tmp_path_factory):
    """The folder of an uninterrupted run of 8 updates, and what it said."""
    workdir = tmp_path_factory.mktemp("scribbles") / "run"
    result = train(workdir, "hm_lstm_scribbles", "--config.steps=8")
    assert result.returncode == 0, result.stderr
    return workdir, result.stdout


def test_training_tells_what_the_data_are_and_keeps_their_scale(scribbles):
    workdir, out = scribbles
    assert "sequences scribbles: synthetic" in out and "of an epoch's steps are padding" in out
    assert "validation log-likelihood" in out and "test log-likelihood" in out
    saved = Scale.from_json((workdir / "scale.json").read_text())
    assert saved == synthetic.scribbles(0).scale and saved.event == "pen_up"


def test_a_run_stopped_within_a_batch_resumes_to_the_same_parameters(scribbles, tmp_path):
    """The state of half-read lines is carried over the stop."""
    lines = synthetic.scribbles(0).splits["train"]
    assert not BucketStream(lines, 16, 0, window=50)(5).resets.any()
    for steps in (5, 8):
        result = train(tmp_path / "run", "hm_lstm_scribbles", f"--config.steps={steps}")
        assert result.returncode == 0, result.stderr
    assert "resumed after update 5" in result.stdout
    assert difference(parameters(scribbles[0]), parameters(tmp_path / "run")) == 0
    scores = [
        [line for line in told.splitlines() if line.startswith("test ")]
        for told in (result.stdout, scribbles[1])
    ]
    assert scores[0] == scores[1] and len(scores[0]) == 1


def test_the_score_ends_with_one_json_object(scribbles):
    out = look(scribbles[0], "score", "--json")
    last = json.loads(out.splitlines()[-1])
    assert last["split"] == "test" and last["sequences"] == 40
    assert last["log_likelihood"] * 40 == pytest.approx(-last["nats"] * last["steps"], rel=1e-6)
    assert f"test log-likelihood {last['log_likelihood']:.2f} a sequence" in scribbles[1]
    assert {"rate/layer1", "update/layer2"} <= last.keys()


def test_boundaries_are_drawn_and_scored_against_pen_ups_and_ends_of_words(scribbles, tmp_path):
    picture = f"--output={tmp_path / 'lines.png'}"
    out = look(scribbles[0], "boundaries", picture, "--shown=2", "--tolerance=3")
    assert (tmp_path / "lines.png").read_bytes().startswith(b"\x89PNG")
    assert "boundaries against pen_up, 40 sequences" in out
    assert "boundaries against ends of words, 40 sequences" in out
    assert out.count("±3: F1 within 3 steps") == out.count("every symbol") == 2
    test = synthetic.scribbles(0).splits["test"]
    always = [line for line in out.splitlines() if line.startswith("every symbol")]
    for line, gold in zip(always, (test.events, test.changes), strict=True):
        # Neither padding nor the last step of a line is scored.
        assert f"{100 * gold[~last_steps(test.lengths)].mean():6.1f} 100.0" in line


def test_new_lines_are_drawn_and_kept(scribbles, tmp_path):
    picture = tmp_path / "lines.png"
    out = look(
        scribbles[0], "sample", "--count=3", "--length=60", f"--output={picture}", "--seed=2"
    )
    assert "3 sequences of 1 + 60 steps" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "lines.svg").read_text()
    with np.load(tmp_path / "lines.npz") as drawn:
        assert {name: drawn[name].shape for name in drawn} == dict.fromkeys(
            ("dx", "dy", "pen_up"), (3, 61)
        )
        assert set(drawn["pen_up"].flat) <= {0, 1}
        # In tablet units: lines begin at rest, and points are some tens apart.
        np.testing.assert_allclose([drawn["dx"][:, 0], drawn["dy"][:, 0]], 0, atol=1e-4)
        assert 10 < np.abs(drawn["dx"]).mean() < 200


def test_what_is_for_language_alone_is_refused(scribbles, tmp_path):
    (tmp_path / "wsj_0001.mrg").write_text(TREE)
    error = look(scribbles[0], "trees", f"--treebank={tmp_path}", code=2)
    assert "hmrnn trees is for runs of the task language" in error and "is one of strokes" in error


# A user's own sequences


def write(path, steps, seed):
    """A table of two columns and an event."""
    rng = np.random.default_rng(seed)
    values = [5, -300] + [0.1, 40] * rng.normal(size=(steps, 2))
    table = np.column_stack([values, rng.random(steps) < 0.1])
    np.savetxt(path, table, fmt="%.6g", delimiter=",", header="volts,force,alarm", comments="")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of 20 to 119 steps in the folders train, valid and test."""
    folder = tmp_path_factory.mktemp("mine")
    for number, split in enumerate(["train"] * 20 + ["valid", "test"]):
        (folder / split).mkdir(exist_ok=True)
        write(folder / split / f"log{number}.csv", 20 + number * 37 % 100, number)
    return folder


def train_on(path, workdir):
    return train(workdir, "hm_lstm_oscillators", "--config.data.name=signals",
                 f"--config.data.path={path}", "--config.data.event=alarm",
                 "--config.steps=4")  # fmt: skip


@pytest.fixture(scope="module")
def signals(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("signals") / "run"
    result = train_on(folder, workdir)
    assert result.returncode == 0, result.stderr
    assert "volts" in result.stdout and "event alarm" in result.stdout
    return workdir


def test_segments_of_an_own_file_are_those_on_the_scale_of_the_run(signals, folder, tmp_path):
    """Not on the file's own: its mean and deviation are others."""
    path = tmp_path / "one.csv"
    write(path, 70, seed=100)
    assert "one.csv.segments.jsonl" in look(signals, "segment", f"--text={path}")
    rows = [json.loads(line) for line in (tmp_path / "one.csv.segments.jsonl").open()]
    assert {row["sequence"] for row in rows} == {"one.csv"}
    covered = sum((list(range(row["start"], row["end"])) for row in rows), [])
    assert covered == list(range(70)) and {row["layer"] for row in rows} == {1}

    tables = [np.loadtxt(f, delimiter=",", skiprows=1) for f in (folder / "train").iterdir()]
    values, table = np.concatenate(tables)[:, :2], np.loadtxt(path, delimiter=",", skiprows=1)
    saved = json.loads((signals / "scale.json").read_text())
    assert saved["columns"] == ["volts", "force"] and saved["event"] == "alarm"
    np.testing.assert_allclose(saved["mean"], values.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(saved["deviation"], values.std(axis=0), rtol=1e-9)
    table[:, :2] = (table[:, :2] - values.mean(axis=0)) / values.std(axis=0)
    config, scale = load_run(signals)
    model = sequences.model_of(config.model, scale)
    with Checkpoints(signals, read_only=True) as checkpoints:
        _, tree = checkpoints._newest("latest", None)  # of the only validation, so the best
    (z,), _ = activations.of(model, tree["state"]["params"], table[:, None])
    # Detectors are taught, and fire, some steps after the segment's end.
    fired = np.flatnonzero(z[config.boundaries.delay :, 0])
    ends = np.union1d(fired + 1, 70)
    assert config.boundaries.delay == 2 and len(ends) > 1
    assert [row["end"] for row in rows] == ends.tolist()


def test_of_signals_one_sequence_is_drawn(signals):
    error = look(signals, "boundaries", "--shown=2", code=2)
    assert "--shown is for texts and handwriting" in error


def test_data_of_another_scale_are_refused(signals, folder):
    """Their z would be those of other inputs."""
    changed = folder / "train" / "log0.csv"
    before = changed.read_text()
    write(changed, 90, seed=7)
    try:
        error = look(signals, "boundaries", code=2)
    finally:
        changed.write_text(before)
    assert "another scale than the run's" in error and not (signals / "boundaries.png").exists()


def test_a_number_that_is_none_is_told_before_anything_is_compiled(folder, tmp_path):
    mine = shutil.copytree(folder, tmp_path / "mine")
    broken = mine / "train" / "log3.csv"
    lines = broken.read_text().splitlines()
    lines[5] = "nan," + lines[5].partition(",")[2]
    broken.write_text("\n".join(lines))
    result = train_on(mine, tmp_path / "run")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert f"{broken}, line 6, column volts is nan" in result.stderr
    assert not (tmp_path / "run").exists()
    assert result.stdout.startswith("starting: ") and result.stdout.count("\n") == 1
