"""What the study of convergence tells of made-up metrics: tables, pictures, durations."""

from pathlib import Path

import numpy as np

from benchmarks import convergence_figures, convergence_jobs, convergence_report, convergence_speed
from hmrnn_jax.analysis.figures import style

GROUPS = convergence_jobs.GROUPS


def made_up(*validations, drop=None, speed=100.0):
    rows = []
    for number, value in enumerate(validations, start=1):
        report = {"step": 10 * number, "train/symbols": 1000, "learning_rate": 1.0}
        if number > 1:
            report["chars_per_second"] = speed
        if drop and number > drop:
            report["learning_rate"] = 0.02
        rows += [report, {"step": 10 * number, "valid/bpc": value, "valid/nats": value}]
    return rows


def test_seconds_are_the_pieces_summed():
    rows = made_up(3.0, 2.5, 2.0, 2.25)
    del rows[4]["chars_per_second"]  # the first report after a resumption
    rows[6]["chars_per_second"] = 50.0
    assert convergence_report.clock(rows[:1]) == {}  # of nothing but a compilation
    assert convergence_report.clock(rows) == {10: 15.0, 20: 25.0, 30: 40.0, 40: 60.0}
    assert convergence_report.clock([]) == {}


def test_the_outcome_of_metrics():
    rows = made_up(3.0, 2.5, 2.0, 2.25, drop=2)
    found = convergence_report.outcome(rows, GROUPS["equal_parameters"])
    assert (found["best"], found["best_update"], found["dropped"]) == (2.0, 30, 30)
    assert found["curve"][1] == {"update": 20, "seconds": 20.0, "value": 2.5}
    assert found["test"] is None and found["moves"] is None
    words = convergence_report.outcome(made_up(0.0, 1.0), GROUPS["on_lstm_words"])
    assert (words["best"], words["best_update"]) == (1.0, 10)
    # Its windows differ in length, and the rates with them; none is a drop.
    words = convergence_report.outcome(made_up(0.0, 1.0, drop=1), GROUPS["on_lstm_words"])
    assert words["dropped"] is None


def entry(group, model, seed, values, **more):
    found = {"group": group, "model": model, "seed": seed, "sizes": [8], "parameters": 1000}
    found |= convergence_report.outcome(made_up(*values, drop=2), GROUPS[group])
    found |= {"dense": 900.0, "left_out": 450.0, "most": 80, "epochs": 1.5, "end": "validation"}
    found |= {"learning_rate": 0.002, "tried": {}, "trees": [], "idle": None, "test": 2.125}
    return found | {"hardware": {"CPU": "made up"}} | more


def test_tables_and_pictures_of_made_up_figures(tmp_path):
    idle = {"seconds_an_update": 0.5, "units_per_second": 1234.0}
    moves = {"fires": [0.25], "active": [1.0, 0.25]}
    jobs = [
        entry("equal_parameters", "lstm", 0, (3.0, 2.0, 1.75), idle=idle, tried={"0.1": None}),
        entry("equal_parameters", "lstm", 1, (3.0, 2.0, 1.25), idle=idle),
        entry("equal_parameters", "hm_taught", 0, (3.0, 2.5, 2.0), end="not ended", moves=moves),
        entry("equal_multiplications", "wide", 0, (3.0, 2.5, 1.5)),
    ]
    by_length = {"test/accuracy/length3": 0.5, "test/accuracy/length12": 0.25}
    accurate = [{"step": 10, "valid/accuracy": 0.5}, {"step": 20, "valid/accuracy": 0.75}]
    logic = convergence_report.outcome(accurate, GROUPS["logic"])
    jobs.append(entry("logic", "lstm", 0, ()) | logic | {"tests": by_length, "dense": None})
    f1 = {"layer 1, biased": 40.0, "layer 1, unbiased": 30.0, "right": 39.5}
    parsed = [{"epoch": n, "checkpoint": f"update {n}", "f1": f1} for n in (1, 2)]
    jobs.append(entry("on_lstm_words", "on_lstm", 0, (5.0, 4.0), trees=parsed))
    everything = {"command": "python x", "bits": None, "jobs": jobs}
    text = convergence_report.tables(everything)
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line[:1] == "|"]
    heads = lines[0]
    lstm, taught = (dict(zip(heads, line, strict=True)) for line in lines[2:4])
    assert lstm["validation, bits a character"] == "1.500 ± 0.354" and lstm["seeds"] == "2"
    # 2.0 is what both models reach, the LSTM after 20 updates of half an idle second.
    assert (lstm["updates to 2"], taught["updates to 2"]) == ("20 ± 0", "30")
    assert (lstm["idle s to it"], taught["idle s to it"]) == ("10 ± 0", "-")
    assert lstm["measured s to it"] == "20 ± 0" and lstm["idle units/s"] == "1,234"
    assert lstm["end, epochs"] == "validation 1.5, validation 1.5"
    assert taught["end, epochs"] == "not ended 1.5" and taught["layers move"] == "1.00, 0.25"
    assert "* LSTM: 0.1: diverged" in text and "made up" in text
    assert ["LSTM", "50.0", "25.0"] in lines and ["1 (update 1)", "40.0", "30.0", "39.5"] in lines
    assert convergence_report.level(jobs[:3], GROUPS["equal_parameters"], 2.5) == 2.5
    convergence_report.convergence_figures.draw(tmp_path, everything)
    drawn = {path.name for path in Path(tmp_path).iterdir()}
    assert drawn == {
        "equal_parameters.png", "equal_multiplications.png", "logic.png", "on_lstm_words.png",
        "multiplications.png", "logic_by_length.png", "trees_by_epoch.png",
    }  # fmt: skip


def test_curves_leave_out_what_would_flatten_the_others(tmp_path, monkeypatch):
    """The first validations, and seconds of a few that lie far beyond all others."""
    drawn = []
    monkeypatch.setattr(style, "save", lambda drawing, path: drawn.append(drawing))
    job = entry("equal_parameters", "lstm", 0, (9.0, *np.linspace(3, 2, 19)))
    for late in (0, 10_000):
        for number, point in enumerate(job["curve"]):
            point["seconds"] = 10.0 * number + (late if number == 19 else 0)
        convergence_figures.curves(tmp_path / "x.png", [job], GROUPS["equal_parameters"])
        bits, seconds = drawn[-1].axes
        assert bits.get_ylim()[0] < 2 and 3.2 > bits.get_ylim()[1] > 2.9
        assert (seconds.get_xlim()[1] < 10_000) and seconds.get_xlim()[1] > 180
        assert ("are beyond" in seconds.get_xlabel()) == bool(late)


def test_durations():
    assert convergence_speed.duration(3 * 3600 + 125) == "3 h 02 min"
