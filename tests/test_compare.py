"""The comparison's models are matched, its runs resume, its figures are what they say."""

import json
import random

import pytest

from benchmarks import compare, compare_report, matched
from hmrnn_jax import defaults
from hmrnn_jax.errors import UserError

SYMBOLS = 50
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def base():
    """The common configuration, as the program's defaults make it."""
    config = defaults.text()
    config.model.update(head="gated", embedding=128, output=128)
    matched.alike(config, 1.0)
    return config


@pytest.mark.parametrize("name", matched.KINDS)
@pytest.mark.parametrize("budget", [300_000, 1_000_000])
def test_models_have_the_budget(base, name, budget):
    config = matched.fit(base, name, SYMBOLS, budget)
    total, cells = matched.parameters(config, SYMBOLS)
    assert abs(total - budget) <= 0.01 * budget
    sizes = config.model.sizes
    assert len(sizes) == {"hm_lstm": 3, "stack2": 2, "on_lstm": 2}.get(name, 1)
    grain = config.model.on_lstm.chunk if name == "on_lstm" else 1
    assert sizes == tuple(sorted(sizes, reverse=True)) and max(sizes) - min(sizes) <= grain
    assert all(size % grain == 0 for size in sizes)
    # The rest is the same for all: embedding, softmax, and a row of the module for each unit.
    module = sum(sizes) * (128 + len(sizes))
    assert total - cells == 128 * SYMBOLS + 128 * SYMBOLS + SYMBOLS + module


@pytest.mark.parametrize("name", ["lstm", "stack2", "nested2", "nested3"])
def test_counts_are_those_of_the_equations(base, name):
    config = matched.fit(base, name, SYMBOLS, 1_000_000)
    expected, below = 0, 128
    for size in config.model.sizes:
        expected += 4 * size * (below + size + 1)
        below = size
    depth = {"nested2": 2, "nested3": 3}.get(name, 1)
    expected += (depth - 1) * 4 * below * (2 * below + 1)
    assert matched.parameters(config, SYMBOLS)[1] == expected


def test_the_fit_is_the_closest_width(base):
    config = matched.fit(base, "lstm", SYMBOLS, 1_000_000)
    (size,) = config.model.sizes
    errors = [
        abs(matched.parameters(matched.sized(base, "lstm", n, 1), SYMBOLS)[0] - 1_000_000)
        for n in (size - 1, size, size + 1)
    ]
    assert min(errors) == errors[1]


def test_another_chunk_is_taken_where_8_falls_between(base):
    for units in range(28, 36):
        count, _ = matched.parameters(matched.sized(base, "on_lstm", units, 8), SYMBOLS)
        assert abs(count - 320_000) > 3_200
    config = matched.fit(base, "on_lstm", SYMBOLS, 320_000).model
    assert config.on_lstm.chunk == 7 and len(set(config.sizes)) == 1


def test_cells_start_alike(base):
    for name, kind in matched.KINDS.items():
        cell = matched.sized(base, name, 6, 1).model[kind.cell]
        assert cell.forget_bias == 1
        assert cell.get("initialisation", "orthogonal") == "orthogonal"
        assert cell.get("layer_norm", "none") == "none"


def test_layers_share_what_does_not_come_out_even():
    assert matched.widths(11, 3) == (4, 4, 3)
    assert matched.widths(12, 3) == (4, 4, 4)


@pytest.mark.parametrize(("name", "budget"), [("nested3", 25_000), ("lstm", 1_000)])
def test_small_budgets_are_refused(base, name, budget):
    with pytest.raises(UserError, match=f"width of {name} has {budget:,} .* larger") as refusal:
        matched.fit(base, name, SYMBOLS, budget)
    # The budget that it names instead can be had.
    nearest = int(str(refusal.value).split("nearest has ")[1].split(";")[0].replace(",", ""))
    config = matched.fit(base, name, SYMBOLS, nearest)
    assert matched.parameters(config, SYMBOLS)[0] == nearest


def run_of(points, characters=100, test=1.0):
    keys = ("update", "seconds", "bpc")
    curve = [dict(zip(keys, point, strict=True)) for point in points]
    return {"curve": curve, "characters": characters, "test": {"bpc": test}}


def test_equal_time_by_hand():
    fast = run_of([(0, 0.0, 6.0), (5, 4.0, 3.0), (10, 8.0, 2.0)], test=2.5)
    slow = run_of([(0, 0.0, 6.0), (5, 6.0, 3.0), (10, 12.0, 1.8)], test=1.5)
    slower = run_of([(0, 0.0, 6.0), (5, 16.0, 2.0), (10, 32.0, 1.0)], test=1.9)
    result = compare_report.summary({"a": [fast], "b": [slow, slower]})
    assert result["equal_seconds"] == 8
    a, b = result["models"]["a"], result["models"]["b"]
    assert a["equal_time_bpc"]["values"] == [2.0] and a["equal_time_bpc"]["deviation"] is None
    # A third of the way from 3.0 to 1.8, half of the way from 6.0 to 2.0.
    assert b["equal_time_bpc"]["values"] == pytest.approx([2.6, 4.0])
    assert b["equal_time_bpc"]["mean"] == pytest.approx(3.3)
    assert b["test_bpc"]["mean"] == pytest.approx(1.7)
    assert b["test_bpc"]["deviation"] == pytest.approx(0.08**0.5)
    assert b["valid_bpc"]["values"] == [1.8, 1.0]
    assert b["characters_per_second"] == pytest.approx(200 / 44)


def test_the_lowest_last_validation_chooses_the_rate():
    early = run_of([(0, 0.0, 6.0), (5, 1.0, 1.0), (10, 2.0, 2.0)])
    late = run_of([(0, 0.0, 6.0), (5, 1.0, 3.0), (10, 2.0, 1.9)])
    diverged = run_of([(0, 0.0, 6.0), (5, 1.0, float("nan"))]) | {"test": None}
    assert compare.best_rate("lstm", {0.1: diverged, 0.01: early, 0.001: late}) == 0.001
    with pytest.raises(UserError, match="lstm diverged"):
        compare.best_rate("lstm", {0.1: diverged})


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A small text: every word is followed by its own reversal."""
    letters = random.Random(0)
    words = ["".join(letters.choices("abcdef", k=4)) for _ in range(400)]
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(" ".join(word + word[::-1] for word in words))
    return path


@pytest.fixture(scope="module")
def small(text, tmp_path_factory):
    """Runs the program small; `(command, folder, its standard output)`."""
    folder = tmp_path_factory.mktemp("compare") / "out"
    return [
        f"--data={text}", f"--output={folder}", "--models=lstm,nested2", "--budget=19800",
        "--seeds=2", "--steps=8", "--every=3", "--batch=4", "--window=12", "--warmup=10",
        "--embedding=8", "--head=16", "--learning_rate=0.01",
    ], folder  # fmt: skip


@pytest.mark.slow
def test_a_whole_run_and_its_resumption(small, capsys):
    command, folder = small
    compare.main(command)
    printed = capsys.readouterr().out
    assert printed == (folder / "compare.md").read_text()
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ")][2:]
    assert [row[0] for row in rows] == ["| LSTM", "| Nested LSTM, depth 2"]
    assert (folder / "compare.png").read_bytes()[:8] == PNG
    everything = json.loads((folder / "compare.json").read_text())
    for row, figures in zip(rows, everything["models"].values(), strict=True):
        assert abs(figures["parameters"] - 19_800) <= 198
        assert int(row[2].replace(",", "")) == figures["parameters"]
        bpc = figures["test_bpc"]
        assert row[5] == f"{bpc['mean']:.4f} ± {bpc['deviation']:.4f}"
        assert len(figures["runs"]) == 2 and bpc["values"][0] != bpc["values"][1]
        for run in figures["runs"]:
            curve = run["curve"]
            assert [point["update"] for point in curve] == [0, 3, 6, 8]
            seconds = [point["seconds"] for point in curve]
            assert seconds == sorted(seconds) and seconds[0] == 0
            assert run["characters"] == 8 * 4 * 12
            assert curve[-1]["bpc"] < curve[0]["bpc"] and run["test"]["bpc"] < 4
    least = min(max(f["seconds"]) for f in everything["models"].values())
    assert everything["equal_seconds"] <= least

    # A run that was cut short trains again, as does one of other settings; no other does.
    cut, other = folder / "runs" / "nested2-1-0.01.json", folder / "runs" / "lstm-0-0.01.json"
    cut.write_text(cut.read_text()[:100])
    saved = json.loads(other.read_text())
    saved["settings"]["config"]["clip"] = 2.0
    other.write_text(json.dumps(saved))
    compare.main(command)
    lines = capsys.readouterr().err.splitlines()
    before = {line.split(":")[0] for line in lines if "finished before" in line}
    trained = {line.split(":")[0] for line in lines if "update 8/8" in line}
    assert before == {"nested2 seed 0 rate 0.01", "lstm seed 1 rate 0.01"}
    assert trained == {"nested2 seed 1 rate 0.01", "lstm seed 0 rate 0.01"}
    again = json.loads((folder / "compare.json").read_text())
    for name, figures in again["models"].items():
        # The same seed gives the same bits again; seconds differ.
        expected = everything["models"][name]["test_bpc"]["values"]
        assert figures["test_bpc"]["values"] == pytest.approx(expected, abs=1e-5)

    # Longer trainings are not those that are there.
    compare.main([*command, "--steps=9", "--seeds=1", "--models=lstm"])
    captured = capsys.readouterr()
    assert "finished before" not in captured.err and "±" not in captured.out.splitlines()[-3]


def test_every_rate_is_tried_with_the_first_seed_only(small, capsys, tmp_path):
    command, _ = small
    rates = ["--learning_rates=0.00001,0.01", f"--output={tmp_path}", "--models=lstm"]
    compare.main([*command, *rates])
    captured = capsys.readouterr()
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert names == ["lstm-0-0.01.json", "lstm-0-1e-05.json", "lstm-1-0.01.json"]
    assert "* LSTM: 1e-05: " in captured.out
    figures = json.loads((tmp_path / "compare.json").read_text())["models"]["lstm"]
    assert figures["learning_rate"] == 0.01
    assert figures["tried"]["0.01"] == figures["valid_bpc"]["values"][0]
    assert figures["tried"]["0.01"] < figures["tried"]["1e-05"]


@pytest.mark.parametrize(
    "flag", ["--models=gru", "--seeds=0", "--learning_rate=-1", "--validation=-1", "--budget=1e6"]
)
def test_wrong_flags_are_refused(flag, small, capsys):
    with pytest.raises(SystemExit):
        compare.main([*small[0], flag])
    assert flag.split("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--budget=1000", "larger one"),
        ("--batch=5000", "smaller batch"),
        ("--data=no/such/text.txt", "there is no file"),
    ],
)
def test_bad_input_ends_with_a_sentence(flag, words, small, tmp_path, capsys):
    folder = tmp_path / "none"
    with pytest.raises(SystemExit) as exit:
        compare.main([*small[0], f"--output={folder}", flag])
    assert exit.value.code == 2 and not folder.exists()
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1
