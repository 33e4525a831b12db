"""The study of discovery: what its settings are, that it resumes, what its tables say."""

import json
from pathlib import Path
from unittest import mock

import pytest
import stroke_models

from benchmarks import discovery, discovery_jobs, discovery_report, discovery_scores
from hmrnn_jax import run as runs
from hmrnn_jax.errors import BAD_INPUT, STOPPED, UserError
from hmrnn_jax.evaluation.report import Report
from hmrnn_jax.inference.readings import Cut
from hmrnn_jax.models.language import language_model
from hmrnn_jax.training import settings
from hmrnn_jax.training.workdir import load_run, open_run

STOP = "stop"
METRICS = """\
{"step": 1, "valid/nats": 3, "valid/bpc": 3, "valid/rate/layer1": 0.0}
{"step": 1, "valid/nats": 2, "valid/bpc": 2.5, "valid/rate/layer1": 0.25}
{"step": 1, "test/nats": 2, "test/bpc": 2.75}
"""
LINES = "you want the dog\nthe dog\nwhat do you want\nlook at the dog look\n"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def study(tmp_path, monkeypatch):
    """`(output folder, function of further arguments: status and what was said)`, of few words."""
    (tmp_path / "data/brent").mkdir(parents=True)
    for part, times in (("train", 20), ("valid", 3), ("test", 4)):
        (tmp_path / f"data/brent/br-text.{part}.txt").write_text(LINES * times)
    monkeypatch.setenv("HMRNN_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(discovery_jobs, "corpus", discovery_jobs.corpus.__wrapped__)
    given = [f"--output={tmp_path / 'out'}", "--updates=1", "--size=8", "--seeds=0"]

    def run(*more):
        said = []
        flags = discovery.parsed([*given, "--only=brent_text/defaults", *more])
        return discovery.study(flags, said.append), "\n".join(said)

    return tmp_path / "out", run


def changed(setting, data="brent_text", updates=2600):
    """The fields in which a setting's configuration differs from the untaught defaults."""
    one, other = (
        settings.flat(discovery_jobs.studied(data, name, updates, 128).to_dict())
        for name in (setting, "defaults")
    )
    return {name.rpartition(".")[2]: value for name, value in one.items() if value != other[name]}


def test_settings_change_one_thing_at_a_time():
    assert changed("defaults") == {}
    assert changed("rate") == {"lengths": (4.0,), "rate": "ratio"}
    assert changed("nested") == {"nested": True}
    assert changed("teacher") == {"lengths": (4.0,), "teacher": "line_end"}
    assert changed("teacher_stopped") == changed("teacher") | {"reaches_below": False}
    assert changed("teacher", "ptb_char")["teacher"] == "entropy"
    assert changed("slope_.2") == {"increment": 0.2} and changed("slope_5") == {"start": 5.0}
    assert changed("lstm") == {"cell": "lstm"}
    paper = {"clip": 1.0, "detector_rate": 1.0, "detector_scale": 1.0, "increment": 0.04}
    assert paper.items() <= changed("paper").items()
    everything = changed("teacher") | changed("rate") | changed("nested")
    assert everything.items() <= changed("all").items()


def test_taught_models_are_taught():
    for name, (_, data, updates) in discovery_jobs.TAUGHT.items():
        config = discovery_jobs.taught(name)
        assert (config.data.name, config.steps) == (data, updates)
        assert config.boundaries.teacher != "none" and len(config.boundaries.lengths)
        assert discovery_jobs.taught(name, size=7).model.sizes == (7, 7, 7)


def test_beside_them_stand_the_same_without_a_teacher():
    for name, (like, kind) in discovery_jobs.BESIDE.items():
        one, other = (
            settings.flat(config.to_dict())
            for config in (discovery_jobs.beside(name), discovery_jobs.taught(like))
        )
        found = {field: one[field] for field in one if one[field] != other[field]}
        cell = {"model.cell": "lstm"} if kind == "lstm" else {}
        assert found == {"boundaries.teacher": "none", "boundaries.rate": "none"} | cell


def test_patterns_choose_and_slopes_that_never_move_are_left_out(study):
    def names(*only, **more):
        jobs, notes = discovery_jobs.plan(only, **more)
        return [job.name for job in jobs], notes

    assert names("*/ptb", "brent_text/te*", seeds=(1, 0)) == (
        [
            "brent_text/teacher/1", "brent_text/teacher_stopped/1", "headline/ptb/1",
            "brent_text/teacher/0", "brent_text/teacher_stopped/0", "headline/ptb/0",
        ],
        [],
    )  # fmt: skip
    with pytest.raises(UserError, match="--only=brent names no job; choose from ptb_char/paper,"):
        names("brent")
    # The text of 1,100 symbols has two windows of 16 x 50 an epoch.
    assert names("brent_text/slope*", updates=3)[0][0] == "brent_text/slope_.04/0"
    left, notes = names("brent_text/slope*", updates=1)
    assert left == ["brent_text/slope_5/0"] and len(notes) == 2
    assert "brent_text/slope_.04 is left out: 1 updates are less than an epoch" in notes[0]


@pytest.mark.slow
def test_a_whole_study(study):
    folder, run = study
    status, said = run()
    assert status == 0 and "update 1/1" in said
    assert said.endswith((folder / "discovery.md").read_text())
    assert (folder / "discovery.png").read_bytes()[:8] == PNG
    (only,) = json.loads((folder / "discovery.json").read_text())["jobs"]
    file = folder / "brent_text/defaults/0/metrics.jsonl"
    metrics = [json.loads(line) for line in file.read_text().splitlines()]
    assert only["valid"] == min(row["valid/bpc"] for row in metrics if "valid/bpc" in row)
    assert "test" not in only and len(only["rates"]) == len(only["least_rates"]) == 2
    rows = only["scores"]["valid"]
    readings = {row["reading"] for row in rows if row["control"] is None}
    assert {"detectors", "entropy", "surprise", "line_end"} <= readings
    assert {row["control"] for row in rows} == {None, *discovery_report.CONTROLS, "every"}
    assert max(row.get("seeds", 0) for row in rows) == 5
    _, said = run()
    assert "training; " not in said and "scoring" not in said


@pytest.mark.slow
def test_a_model_is_taught_by_the_segments_of_another_of_its_seed(study):
    folder, run = study
    again, first = "headline/brent_text_again", "headline/brent_text_line_end"
    file = folder / first / "0/train.segments.jsonl"
    status, said = run(f"--only={again}")
    assert status == BAD_INPUT and f"{first}/0 is not trained yet" in said
    status, said = run(f"--only={again},{first}")
    assert status == 0 and "training" in said
    assert "".join(json.loads(line)["text"] for line in file.open()) == (
        LINES.replace(" ", "") * 20
    )
    config = load_run(folder / again / "0")[0]
    assert (config.boundaries.teacher, config.boundaries.segments) == ("segments", str(file))


@pytest.fixture
def work(monkeypatch):
    """Trainings and scorings that cost nothing; two lists of those that were asked for."""
    trained, scored = [], []

    def train(config, workdir, say, **more):
        trained.append(workdir)
        open_run(workdir, config, discovery_jobs.corpus("brent_text").vocabulary)
        Path(workdir, "metrics.jsonl").write_text(METRICS)
        return None if STOP in trained else {}

    def restore(workdir, mesh):
        config, vocabulary = load_run(workdir)
        model = language_model(config.model, vocabulary.size)
        return runs.Run("", config, vocabulary, model, None, 1.0, mesh)

    def show(run, title, inputs, ends, path, cut, **more):
        scored.append((title, len(inputs[0]), int(ends.sum()), cut.reading))
        return Report("", {"rows": job("defaults", 0, 2.0, 0.5, 0.25)["scores"]["valid"]})

    for module, name, double in (
        (discovery.loop, "train", train),
        (discovery_scores.opening, "restore", restore),
        (discovery_scores.text, "show_boundaries", show),
    ):
        # With the signature of what they stand for.
        spec = mock.create_autospec(getattr(module, name), side_effect=double)
        monkeypatch.setattr(module, name, spec)
    return trained, scored


def test_a_study_goes_on_where_it_was_killed(study, work):
    (folder, run), (trained, scored) = study, work
    own = folder / "brent_text/defaults/0"
    assert "0 of 1 trained" in run("--status")[1] and not folder.exists()
    # Stopped while it trains.
    trained.append(STOP)
    assert run() == (STOPPED, "brent_text/defaults/0: training; 1 min left in all")
    assert "brent_text/defaults/0: 1 of 1 updates" in run("--status")[1] and not scored
    trained.clear()
    status, said = run()
    assert status == 0 and trained == [str(own)] and scored == [("valid", 156, 45, "detectors")]
    (first,) = json.loads((folder / "discovery.json").read_text())["jobs"]
    assert (first["valid"], first["rates"], first["least_rates"]) == (2.5, [0.25], [0.0])
    assert "1 of 1 trained, 0 min left" in run("--status")[1]
    run()
    assert len(trained) == len(scored) == 1
    # Killed while it scored, and before the end of the training was noted.
    (own / "scores-valid.json").unlink()
    run()
    assert len(trained) == 1 and len(scored) == 2
    (own / "trained.json").unlink()
    run()
    assert len(trained) == 2 and len(scored) == 2
    # The test part, when it is asked for.
    assert "test" not in first
    run("--part=test")
    (last,) = json.loads((folder / "discovery.json").read_text())["jobs"]
    assert last["test"] == 2.75 and len(trained) == 2
    assert [title for title, *_ in scored] == ["valid", "valid", "test"]
    with pytest.raises(UserError, match="was trained with steps=1, not 5: choose another --output"):
        run("--updates=5")


@pytest.mark.parametrize("cell, first", [("lstm", "surprise"), ("hm_lstm", "detectors")])
def test_pen_strokes_are_scored_by_a_reading_that_the_cell_has(cell, first, tmp_path, monkeypatch):
    name = "handwriting_lstm" if cell == "lstm" else "handwriting"
    config = (discovery_jobs.beside if cell == "lstm" else discovery_jobs.taught)(name)
    job, asked = discovery_jobs.Job("headline", name, config), []

    def show(run, title, inputs, path, cut):
        asked.append(cut)
        return Report("", {"rows": [{"against": "pen_up"}]})

    run = mock.Mock(model=stroke_models.make(cell)[0])
    monkeypatch.setattr(discovery_scores.opening, "restore", lambda *_: run)
    monkeypatch.setattr(discovery_scores.sequences, "held_out", lambda *_: None)
    monkeypatch.setattr(discovery_scores.sequences, "show_boundaries", show)
    flags = mock.Mock(part="test", symbols=100)
    discovery_scores.score(tmp_path, job, flags)
    assert asked == [Cut(first, 25)]
    assert discovery_scores.scored(tmp_path, job, flags) == {"pen_up": [{"against": "pen_up"}]}


def test_one_that_diverges_stops_no_other(study, work, monkeypatch):
    folder, run = study
    fit = discovery.fit

    def diverges(folder, job, say):
        if job.config.seed == 0:
            raise UserError("The loss is not finite.")
        return fit(folder, job, say)

    monkeypatch.setattr(discovery, "fit", diverges)
    status, said = run("--seeds=0,1")
    assert status == 2 and "brent_text/defaults/0: The loss is not finite." in said
    assert [job["seed"] for job in json.loads((folder / "discovery.json").read_text())["jobs"]] == [
        1
    ]


def job(setting, seed, bits, f1, word, test=None):
    rows = [
        {"reading": "detectors", "layer": 1, "control": None, "rate": 0.2, "precision": f1,
         "recall": f1, "f1": f1, "word_f1": word},
        {"reading": "detectors", "layer": 1, "control": "untrained", "rate": 0.2, "f1": 0.125,
         "word_f1": 0.0625},
        {"reading": None, "layer": None, "control": "every", "rate": 1, "precision": 0.25,
         "recall": 1.0, "f1": 0.4, "word_f1": 0.015},
    ]  # fmt: skip
    rows += [row | {"reading": "entropy"} for row in rows[:1]]
    rows += [row | {"reading": "entropy", "control": "ngram"} for row in rows[:1]]
    found = {"group": "brent_text", "setting": setting, "seed": seed, "data": "brent_text"}
    found |= {"updates": 2600, "sizes": [128, 128, 128], "unit": "bpc", "valid": bits}
    found |= {"seconds": 180, "hardware": {"CPU": "made up"}, "rates": [0.2, 0.1]}
    found |= {"least_rates": [0.2, 0.0], "scores": {"test" if test else "valid": rows}}
    return found | ({"test": test} if test else {})


def test_tables_have_the_mean_and_deviation_of_seeds(tmp_path):
    jobs = [job("all", 0, 2.0, 0.5, 0.25), job("all", 1, 2.5, 0.75, 0.25)]
    jobs.append(job("paper", 0, 1.75, 0.125, 0.0))
    everything = {"command": "python x", "part": "valid", "jobs": jobs}
    text = discovery_report.tables(everything)
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line[:1] == "|"]
    heads, _, trained = lines[:3]
    trained = dict(zip(heads, trained, strict=True))
    assert (trained["setting"], trained["seeds"]) == ("all", "2")
    assert trained["valid, bits a character"] == "2.250 ± 0.354" and len(trained) == 8
    assert trained["rates of layers"] == "0.20 ± 0.00, 0.10 ± 0.00"
    assert trained["alive throughout"] == "layer 2: no"
    heads = next(line for line in lines if line[1] == "reading")
    rows = {
        tuple(line[:2]): dict(zip(heads, line, strict=True))
        for line in lines
        if len(line) == len(heads)
    }
    own = rows["all", "detectors"]
    assert own["F1"] == "62.5 ± 17.7" and own["words"] == "25.0 ± 0.0" and own["ngram"] == "-"
    assert own["untrained"] == "12.5 ± 0.0" and own["untrained, words"] == "6.2 ± 0.0"
    assert rows["all", "entropy"]["ngram"] == "62.5 ± 17.7"
    assert rows[discovery_jobs.SETTINGS["paper"], "detectors"]["F1"] == "12.5"
    assert sum("every symbol" in line for line in lines) == 1
    assert "the test part is not looked at" in text and "made up" in text
    discovery_report.figure(tmp_path / "figure.png", everything)
    assert (tmp_path / "figure.png").read_bytes()[:8] == PNG


def test_a_text_of_which_one_model_alone_has_scores():
    """What layers find beyond words an LSTM, without detectors, has no scores of."""
    one, other = job("all", 0, 2.0, 0.5, 0.25), job("paper", 0, 1.75, 0.125, 0.0)
    other["scores"] = other["scores"] | {"utterances": one["scores"]["valid"]}
    for jobs in ([one, other], [other, one]):
        text = discovery_report.tables({"command": "x", "part": "valid", "jobs": jobs})
        assert text.count("| setting | reading |") == 2
        last = text.rpartition("| setting | reading |")[2]
        assert discovery_jobs.SETTINGS["paper"] in last and "| all |" not in last


def test_who_teaches_has_the_settings_of_who_is_taught(tmp_path):
    (again,), _ = discovery_jobs.plan(["headline/brent_text_again"], [3], 7, 64, tmp_path)
    (first,) = discovery_jobs.teachers([again], 7, 64)
    assert first.name == again.first == "headline/brent_text_line_end/3"
    assert first.config.steps == 7 and tuple(first.config.model.sizes) == (64, 64, 64)


def test_test_bits_are_told_at_the_end_alone():
    jobs = [job("all", 0, 2.0, 0.5, 0.25, test=2.125)]
    text = discovery_report.tables({"command": "x", "part": "test", "jobs": jobs})
    assert "| 2.000 | 2.125 |" in text and "**test part**, once" in text


def test_every_setting_has_a_marker_of_its_own():
    markers = discovery_report.MARKERS
    assert len(set(markers)) == len(markers) == len(discovery_jobs.SETTINGS)
