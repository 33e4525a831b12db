"""The study of convergence: its models' cost, its choice of rates, that it resumes, its tables."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import ANY

import jax
import pytest
from test_convergence_report import made_up

from benchmarks import (
    convergence,
    convergence_jobs,
    convergence_speed,
    matched,
)
from hmrnn_jax import datasets, defaults, opening, parallel
from hmrnn_jax.errors import BAD_INPUT, STOPPED, UserError
from hmrnn_jax.recurrence import skipping
from hmrnn_jax.training import update as updates
from hmrnn_jax.training.metrics_log import read_metrics
from hmrnn_jax.training.workdir import open_run

PNG = b"\x89PNG\r\n\x1a\n"
TEXT = "the cat sat on the mat and the dog saw it\n"


@pytest.fixture
def study(tmp_path, monkeypatch):
    """`(output folder, function of further arguments: status and what was said)`, of few words."""
    folder = tmp_path / "data/ptb"
    folder.mkdir(parents=True)
    for part, times in (("train", 220), ("valid", 4), ("test", 4)):
        (folder / f"ptb.char.{part}.txt").write_text(" ".join(TEXT) * times)
        (folder / f"ptb.{part}.txt").write_text(TEXT * times)
    monkeypatch.setenv("HMRNN_DATA", str(tmp_path / "data"))
    mesh = parallel.make_mesh
    monkeypatch.setattr(parallel, "make_mesh", lambda: mesh(jax.devices()[:1]))
    convergence_jobs.vocabulary.cache_clear()
    convergence_jobs.UPDATES.clear()
    given = [f"--output={tmp_path / 'out'}", "--only=equal_parameters/lstm", "--budget=2000"]
    given += ["--width=8", "--batch=8", "--window=10", "--updates=4", "--rates=0.01,1e-12"]

    def run(*more):
        said = []
        status = convergence.study(convergence.parsed([*given, *more]), said.append)
        return status, "\n".join(said)

    yield tmp_path / "out", run
    convergence_jobs.vocabulary.cache_clear()
    convergence_jobs.UPDATES.clear()


def flags(*more):
    return convergence.parsed(["--output=nowhere", *more])


# What is trained


def test_groups_are_planned_seed_after_seed(study):
    models = ["lstm", "hm_paper", "hm_taught"]
    only = "--only=equal_parameters/lstm,equal_parameters/hm_*,ptb_512/*,on_lstm_words/*"
    jobs = convergence_jobs.plan(flags(only, "--seeds=0,3", "--epochs=40", "--shrink=10"))
    names = [job.name for job in jobs]
    assert names[:6] == [f"equal_parameters/{m}/{seed}" for seed in (0, 3) for m in models]
    of = {job.name: job for job in jobs}
    for model in models:
        job = of[f"equal_parameters/{model}/3"]
        assert abs(matched.parameters(job.config, 21)[0] - 1_000_000) < 10_000
        ends = job.config.schedule, job.config.drops, job.config.drop_by, job.config.patience
        assert ends == ("plateau", 1, 0.75, 3)
        trials = job.trials()
        assert list(trials) == [1e-3, 2e-3, 4e-3]
        assert {(t.config.epochs, t.config.seed) for t in trials.values()} == {(4, 0)}
        assert trials[2e-3].name == f"equal_parameters/{model}/rates/0.002"
    taught, paper = (of[f"ptb_512/{m}/0"].config for m in ("hm_taught", "hm_paper"))
    assert taught.boundaries.teacher == "entropy" and paper.boundaries.teacher == "none"
    assert (paper.clip, paper.detector_rate, paper.slope.increment) == (1, 1, 0.04)
    assert paper.model.hm_lstm.layer_norm == taught.model.hm_lstm.layer_norm == "sum"
    assert not of["ptb_512/lstm/0"].trials()
    words = of["on_lstm_words/on_lstm/0"].config.model
    assert words.sizes == (110, 110, 40) and words.embedding == 40
    with pytest.raises(UserError, match="--only=ptb names no job; choose from equal_parameters/"):
        convergence_jobs.plan(flags("--only=ptb"))


@pytest.mark.parametrize("cell", ["lstm", "nested_lstm", "hm_lstm"])
def test_multiplications_are_those_of_the_equations(cell):
    """Counted by hand: V symbols, embedding E, output module M, layers n."""
    config, (V, E, M) = defaults.text(), (50, 6, 10)
    sizes = (4,) if cell == "nested_lstm" else (4, 8, 12)
    config.model.update(cell=cell, sizes=sizes, embedding=E, output=M)
    head = sum(sizes) * (M + len(sizes)) + M * V
    if cell == "nested_lstm":
        cells = 4 * 4 * (E + 4) + 4 * 4 * (4 + 4)
    else:
        cells = sum(4 * n * (n + below) for n, below in zip(sizes, (E, *sizes), strict=False))
    if cell == "hm_lstm":  # from above, and a detector's row
        cells += 4 * 4 * 8 + 4 * 8 * 12 + (4 + 8 + E) + (8 + 12 + 4)
    assert matched.multiplications(config, V) == cells + head


def test_multiplications_that_copy_leaves_out():
    """A text of 8 symbols, walked through symbol by symbol."""
    config, (V, E, M, a, b, c) = defaults.text(), (50, 6, 10, 4, 8, 12)
    config.model.update(sizes=(a, b, c), embedding=E, output=M)
    z1, z2 = (0, 0, 1, 0, 1, 0, 0, 1), (0, 0, 0, 0, 1, 0, 0, 0)
    total, p1, p2, moved = 0, z1[-1], z2[-1], [0, 0, 0]  # the text again and again
    for q1, q2 in zip(z1, z2, strict=True):
        total += (4 * a + 1) * (E + a) + p1 * (4 * a + 1) * b + a * (M + 3)
        active = q1 or p2
        total += active * (4 * b * b + b * (M + 3)) + b  # the detector's row whatever it does
        total += p2 * (4 * b + 1) * c + q1 * (4 * b + 1) * a
        total += q2 * (4 * c * (c + b) + c * (M + 3)) + M * V
        moved = [n + m for n, m in zip(moved, (1, active, q2), strict=True)]
        p1, p2 = q1, q2
    row = {"valid/rate/layer1": 3 / 8, "valid/rate/layer2": 1 / 8}
    row |= {f"valid/copy/layer{n}": 1 - m / 8 for n, m in enumerate(moved, start=1)}
    moves = matched.Moves.measured(row, "valid/")
    assert matched.multiplications(config, V, moves) == pytest.approx(total / 8)
    assert matched.Moves.measured({"valid/bpc": 2.0}, "valid/") is None
    asked = matched.Moves.asked((6.0, 5.0))
    assert asked.active == pytest.approx((1, 1 / 6 + 1 / 30, 1 / 30))
    # Widths in the wanted proportions, the nearest to the multiplications asked for.
    found = matched.fit_multiplications(config, V, (1, 2, 4), 500_000, asked)
    n = found.model.sizes[0]
    assert found.model.sizes == (n, 2 * n, 4 * n)
    assert abs(matched.multiplications(found, V, asked) - 500_000) < 5_000  # half a unit's


# Its course


def test_a_whole_study_goes_on_where_it_was_killed(study, monkeypatch):
    folder, run = study
    own = folder / "equal_parameters/lstm"
    status, said = run("--status")
    assert "0 of 4 updates at most, 0 of 2 rates tried, no update measured yet" in said
    assert not folder.exists()

    class Killed(BaseException):
        pass

    def killing(text):
        said.append(text)
        if text.startswith("equal_parameters/lstm/0: update 3/4"):
            raise Killed

    said = []
    with pytest.raises(Killed):
        arguments = ["--only=equal_parameters/lstm", "--budget=2000", "--width=8", "--batch=8"]
        arguments += ["--window=10", "--updates=4", "--rates=0.01,1e-12"]
        convergence.study(convergence.parsed([f"--output={folder}", *arguments]), killing)
    assert json.loads((own / "rates/0.01/config.json").read_text())["steps"] == 1
    _, said = run("--status")
    assert "3 of 4 updates at most" in said and "as so far" in said
    status, said = run()
    assert status == 0 and "rates" not in said.partition("training")[0]
    assert "/rates/" not in said and "resumed after update" in said
    rows = read_metrics(own / "0/metrics.jsonl")
    assert [row["step"] for row in rows if "valid/bpc" in row] == [1, 2, 3, 4]
    # The rate that learns something is the better one; every other step is as it says.
    (job,) = json.loads((folder / "convergence.json").read_text())["jobs"]
    assert job["learning_rate"] == 0.01 and set(job["tried"]) == {"0.01", "1e-12"}
    assert job["end"] == "epochs" and job["updates"] == job["most"] == 4
    assert job["dropped"] == 4  # three of four updates, by three quarters
    assert job["test"] == next(row["test/bpc"] for row in rows if "test/bpc" in row)
    assert (folder / "equal_parameters.png").read_bytes()[:8] == PNG
    assert said.endswith((folder / "convergence.md").read_text())
    _, said = run("--status")
    assert "ended after 4 of 4 updates" in said and "1 of 1 ended, 0 h 00 min left" in said
    _, said = run()
    assert "training" not in said.partition("`")[0]
    with pytest.raises(UserError, match="was trained with steps=4, not 5: choose another --output"):
        run("--updates=5")
    # Rates of which another one is chosen are not those that it began with.
    (own / "0/trained.json").unlink()
    status, said = run("--rates=1e-12,1e-9")
    assert status == BAD_INPUT and "was trained with learning_rate=0.01, not 1e-" in said


def test_validation_ends_a_training_and_speed_is_told_apart(study):
    """At a rate that changes nothing: one best, two that stall, the drop, two more."""
    folder, run = study
    run("--rates=1e-12", "--updates=20", "--patience=2", "--drop_by=0")
    (job,) = json.loads((folder / "convergence.json").read_text())["jobs"]
    assert (job["end"], job["updates"], job["dropped"]) == ("validation", 5, 4)
    assert job["idle"] is None and job["seconds"] > 0
    status, said = run("--rates=1e-12", "--updates=20", "--patience=2", "--drop_by=0", "--speed",
                       "--rounds=1")  # fmt: skip
    (job,) = json.loads((folder / "convergence.json").read_text())["jobs"]
    assert status == 0 and job["idle"]["units_an_update"] == 80
    # The text's 7,040 symbols, in 8 rows and windows of 10, are 88 updates an epoch.
    assert job["epochs"] == pytest.approx(5 / 88) and "| validation 0.1 |" in said
    # Seconds of other settings are not those of this training.
    speed = json.loads((folder / "speed.json").read_text())
    speed["equal_parameters/lstm"]["config"]["model.precision"] = "bfloat16"
    (folder / "speed.json").write_text(json.dumps(speed))
    run("--rates=1e-12", "--updates=20", "--patience=2", "--drop_by=0", "--report")
    (job,) = json.loads((folder / "convergence.json").read_text())["jobs"]
    assert job["idle"] is None


def test_the_speed_of_a_training_that_skips_is_that_without_copies(study, monkeypatch):
    """Its form, and the parameters by which its layers move as often as they did."""
    folder, run = study
    monkeypatch.setattr(skipping, "expected", lambda config, moves: 0.5)
    more = "--only=equal_parameters/hm_taught", "--rates=0.01", "--budget=2084"
    run(*more)
    timed, loaded = [], []
    monkeypatch.setattr(
        convergence_speed,
        "load",
        lambda folder: loaded.append(folder) or opening.load(folder),
    )
    original = updates.Update.compiled.fget
    monkeypatch.setattr(
        updates.Update,
        "compiled",
        property(lambda self: timed.append(self._skips) or original(self)),
    )
    status, _ = run(*more, "--speed", "--rounds=1")
    assert status == 0 and timed and all(timed)
    assert loaded == [folder / "equal_parameters/hm_taught/0"]
    assert convergence_speed.idle(folder)["equal_parameters/hm_taught"]["units_an_update"] == 80


def test_the_rate_is_that_which_validated_best(tmp_path, monkeypatch):
    job = SimpleNamespace(group="equal_parameters", rates=(1.0, 2.0, 4.0))
    found = {1.0: 2.5, 2.0: 2.25, 4.0: None}
    monkeypatch.setattr(convergence.report, "tried", lambda output, job: found)
    assert convergence.chosen(SimpleNamespace(output=tmp_path), job) == 2.0
    job.group = "logic"  # more is better
    assert convergence.chosen(SimpleNamespace(output=tmp_path), job) == 1.0
    found.update({1.0: None, 2.0: None})
    with pytest.raises(UserError, match="diverged at every one of --rates: try some below 1."):
        convergence.chosen(SimpleNamespace(output=tmp_path), job)


def test_one_that_diverges_has_ended_and_stops_no_other(study, monkeypatch):
    handler = signal.getsignal(signal.SIGINT)
    folder, run = study
    stopped, vocabulary = [], datasets.load("ptb_char").vocabulary

    def train(config, workdir, say, stopping):
        if config.seed == 2:
            raise UserError("Another process trains in it.")
        open_run(workdir, config, vocabulary)
        if config.learning_rate == 0.01 or config.seed == 1:
            raise UserError("The loss of update 1 is not finite; nothing is saved.")
        rows = "".join(json.dumps(row) + "\n" for row in made_up(3.0, 2.0))
        Path(workdir, "metrics.jsonl").write_text(rows)
        if "rates" not in workdir:
            stopped.append(stopping._receive(signal.SIGTERM, None))  # when it has ended
        return {}

    monkeypatch.setattr(convergence.loop, "train", train)
    # What is asked to stop when a training has ended begins no other.
    assert run("--seeds=0,1,2", "--rates=0.01,0.02") == (STOPPED, ANY)
    assert len(stopped) == 1
    status, said = run("--seeds=0,1,2", "--rates=0.01,0.02")
    assert status == BAD_INPUT and "/2: Another process" in said
    job, diverged = json.loads((folder / "convergence.json").read_text())["jobs"]
    assert job["tried"] == {"0.01": None, "0.02": 2.0}
    assert "0.01: diverged" in said
    # Before its first report: it is told all the same, and is no part of the mean.
    assert (diverged["seed"], diverged["end"], diverged["curve"]) == (1, "diverged", [])
    assert "| LSTM | 1 of 2 |" in said and f"| epochs {20 / 88:.1f}, diverged 0.0 | 2.000 |" in said
    _, said = run("--status", "--seeds=0,1,2", "--rates=0.01,0.02")
    assert "lstm/1: diverged after 0 of 4" in said and "2 of 3 ended" in said
    signal.signal(signal.SIGINT, handler)


def test_trees_by_epoch_go_on_when_more_epochs_are_asked_for(study, monkeypatch):
    folder, run = study
    epochs, vocabulary = [], datasets.load("ptb_word").vocabulary

    def train(config, workdir, say, stopping):
        open_run(workdir, config, vocabulary)
        epochs.append(config.epochs)
        if config.epochs == 4:
            raise UserError("The loss of update 1 is not finite; nothing is saved.")
        rows = "".join(json.dumps(row) + "\n" for row in made_up(*range(9, 9 - config.epochs, -1)))
        Path(workdir, "metrics.jsonl").write_text(rows)
        return {}

    monkeypatch.setattr(convergence.loop, "train", train)
    monkeypatch.setattr(convergence.syntax, "read_treebank", lambda path: None)
    trees = SimpleNamespace(data={"layer 1": {"f1": 0.5}})
    monkeypatch.setattr(convergence.syntax, "trees", lambda run, bank: trees)
    monkeypatch.setattr(convergence, "load", lambda folder: SimpleNamespace(checkpoint="best"))
    more = "--only=on_lstm_words/lstm", "--shrink=10"
    for number, last, end in ((1, 1, "epochs"), (3, 3, "epochs"), (5, 4, "diverged")):
        wanted = list(range(1, last + 1))
        assert run(*more, f"--epochs={number}")[0] == 0 and epochs == wanted
        if number == 3:  # killed before it was noted that it ended
            (folder / "on_lstm_words/lstm/0/trained.json").unlink()
            assert run(*more, f"--epochs={number}")[0] == 0 and epochs == wanted
        (job,) = json.loads((folder / "convergence.json").read_text())["jobs"]
        assert job["end"] == end and len(job["trees"]) == min(number, 3)
        assert run(*more, f"--epochs={number}")[0] == 0 and epochs == wanted
    _, said = run(*more, "--epochs=5", "--status")
    assert "diverged after" in said


def test_what_lacks_its_data_is_told_beside_the_others(study):
    said = []
    asked = flags("--only=handwriting/lstm,equal_parameters/lstm", "--budget=2000", "--width=8",
                  "--batch=8", "--window=10", "--status")  # fmt: skip
    assert convergence.study(asked, lambda text: said.extend(text.splitlines())) == 0
    characters, pens, both = said
    assert "/lstm/0: 0 of 1,760 updates at most, 0 of 3 rates" in characters  # 20 epochs of 88
    assert pens.startswith("handwriting/lstm/0: ") and "IAM-OnDB" in pens
    assert "0 of 2 ended" in both and "and 2 of which that is not known" in both
