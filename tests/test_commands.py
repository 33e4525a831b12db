"""The sub-commands: their flags, what they refuse before anything is done, their JSON."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from command_lines import is_one_sentence

from hmrnn_jax import cli, defaults, tasks
from hmrnn_jax.cells import hm_lstm, lstm
from hmrnn_jax.commands import base
from hmrnn_jax.datasets.vocabulary import Vocabulary
from hmrnn_jax.errors import UserError
from hmrnn_jax.evaluation import classification, syntax
from hmrnn_jax.inference import activations
from hmrnn_jax.training.workdir import DEFAULTS

# Sub-commands


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("boundries", "There is no sub-command boundries; did you mean boundaries?"),
        ("zzz", "There is no sub-command zzz; give one of train, score, "),
        ("--boundaries", "There is no sub-command --boundaries; did you mean boundaries?"),
        ("score --boundaries", "boundaries is a sub-command, see hmrnn boundaries --help."),
        ("score --temperature=1", "There is no flag --temperature."),
        ("boundaries --wordir=a", "did you mean --workdir?"),
        ("boundaries mine.txt", "did you mean --workdir=mine.txt for a run, or --text=mine.txt"),
        ("segment", "Give the file to cut, --text=FILE, or a split of the run's data, --split."),
        ("segment --text=a --split=train", "--text and --split are asked at once"),
        ("segment mine.txt", "did you mean --text=mine.txt?"),
        ("export", "--output is missing"),
        ("trees", "--treebank is missing"),
    ],
)
def test_a_wrong_word_is_answered_with_the_nearest_right_one(hmrnn_says, arguments, part):
    assert is_one_sentence(hmrnn_says(*arguments.split()), part)


@pytest.mark.parametrize("name", ["segment", "explore", "boundaries"])
def test_what_is_read_is_not_written_over(hmrnn_says, name):
    Path("my.txt").write_text("The cat sat.\n" * 9)
    said = hmrnn_says(name, "--text=my.txt", "--pretrained", "--output=./my.txt")
    assert is_one_sentence(said, "my.txt is what --text reads: give another --output.")
    assert Path("my.txt").read_text() == "The cat sat.\n" * 9


def test_nothing_is_written_over_the_data_of_a_run(hmrnn_says):
    Path("data").mkdir()
    Path("data/train.txt").write_text("x")
    config = defaults.text()
    config.data.update(name="text", path="data")
    config.model.cell = "hm_lstm"
    Path("run").mkdir()
    Path("run/config.json").write_text(json.dumps(config.to_dict()))
    Path("run/vocabulary.json").write_text(Vocabulary.of("abc", "characters").to_json())
    said = hmrnn_says("boundaries", "--workdir=run", "--output=data/train.txt")
    assert is_one_sentence(said, "data/train.txt is of the data of run: give another --output.")
    assert Path("data/train.txt").read_text() == "x"
    Path("data/old.png").write_text("of before")
    for own in ("new.png", "old.png"):  # which may lie there; but the run has no state
        said = hmrnn_says("boundaries", "--workdir=run", f"--output=data/{own}")
        assert said[0] == 2 and "is of the data" not in said[1]


def test_nothing_is_written_over_a_run(hmrnn_says, monkeypatch):
    """Neither over the file that it was exported to, nor over what its folder holds."""
    monkeypatch.setattr(base, "restore", lambda *_: pytest.fail("too late"))
    for name in ("mine.safetensors", "b.safetensors", "my.txt"):
        Path(name).write_text("as it was")
    Path("run/checkpoints/latest").mkdir(parents=True)
    for name in ("config.json", "metrics.jsonl", "metrics-000012.jsonl", "checkpoints/latest/a"):
        Path("run", name).write_text("as it was")
    for arguments, run in (
        ("segment my.txt --workdir=mine.safetensors --output=mine.safetensors", "mine.safetensors"),
        ("score --workdir=run --control=b.safetensors --output=b.safetensors", "b.safetensors"),
        ("score --workdir=my.safetensors --control=run --output=run/config.json", "run"),
        ("segment my.txt --workdir=run --output=run/config.json", "run"),
        ("segment my.txt --workdir=run --output=run/metrics.jsonl", "run"),
        ("segment my.txt --workdir=run --output=run/metrics-000012.jsonl", "run"),
        ("segment my.txt --workdir=run --output=run/checkpoints/latest/a", "run"),
    ):  # fmt: skip
        output = arguments.partition("--output=")[2]
        said = hmrnn_says(*arguments.split())
        assert is_one_sentence(said, f"{output} is of the run {run}", "give another --output.")
        assert Path(output).read_text() == "as it was"
    for name in (
        "a.png",
        "a.jsonl",
        "a.npz",
        "a.pt",
        "a.txt",
        "metrics-mine.jsonl",
    ):  # of an earlier call
        Path("run", name).write_text("of before")
        said = hmrnn_says("segment", "my.txt", "--workdir=run", f"--output=run/{name}")
        assert is_one_sentence(said, "config.json")  # which is none, but is read


@pytest.mark.parametrize(
    "word", ["-", "-- -x", "-- --workdir=a", "-- -"], ids=["dash", "flag", "workdir", "both"]
)
def test_no_word_with_a_dash_is_passed_over(hmrnn_says, word):
    said = hmrnn_says("score", *word.split(" "))
    assert is_one_sentence(said, f"{word.split(' ')[-1]!r} is not a flag, nor a file: leave out")


def test_a_control_of_another_task_names_what_was_asked_for(monkeypatch):
    run, other = (
        SimpleNamespace(config=DEFAULTS[task](), mesh=None, notes=())
        for task in ("language", "logic")
    )
    monkeypatch.setattr(base, "restore", lambda *_: other)
    given = SimpleNamespace(
        workdir="runs/quickstart", weights="on.npz", control="runs/logic", named={"weights"}
    )
    with pytest.raises(UserError, match="is a run of the task logic, on.npz of language"):
        base.with_control(run, given)


def test_a_control_that_cannot_be_read_is_refused_before_the_first_run_is(monkeypatch):
    class Task:
        def __init__(self, config, mesh):
            self.data = SimpleNamespace(source="here", fingerprint=lambda: {"test": [3, 1]})

        def evaluate(self, *_):
            pytest.fail("too late")

    monkeypatch.setattr(tasks, "make", Task)
    own, other = (
        SimpleNamespace(
            config=None, mesh=None, params=None, slope=1.0, name="a", data={"test": [count, 1]}
        )
        for count in (3, 4)
    )
    with pytest.raises(UserError, match="are not those of the run, which had 4"):
        classification.score([own, other], "test", "")

    def of(cell, unit="words"):
        model = SimpleNamespace(cells=(cell,))
        config = SimpleNamespace(model=SimpleNamespace(cell="other"))
        return SimpleNamespace(model=model, encoding=SimpleNamespace(unit=unit), config=config)

    monkeypatch.setattr(activations, "distances", lambda *_: pytest.fail("too late"))
    bank = SimpleNamespace(sentences=())
    with pytest.raises(UserError, match="this run has other cells"):
        syntax.trees(of(lstm.Config(4, 6)), bank, of(hm_lstm.Config(4, (6, 5))))


def test_without_a_sub_command_eval_py_scores(hmrnn_says):
    said = hmrnn_says("--workdir=no/run", default="score")
    assert is_one_sentence(said, "no/run is not a run")
    assert is_one_sentence(hmrnn_says(default="score"), "runs/quickstart is not a run")
    said = hmrnn_says("boundaries", "--workdir=no/run", default="score")
    assert is_one_sentence(said, "no/run is not a run")
    assert is_one_sentence(hmrnn_says("score", command="train"), "'score' is not a flag")


@pytest.mark.parametrize(
    "argument",
    [
        "score --batch=0", "score --batch=1000000000000", "score --warmup=-1",
        "score --split=tset", "score --workdir=", "score --text=", "score --seed=-1",
        "score --seed=1099511627776", "boundaries --shown=0", "boundaries --shown=-5",
        "boundaries --shown=100000", "boundaries --scored=-1", "boundaries --scored=0",
        "boundaries --tolerance=-1", "boundaries --output=", "trees --sections=two",
        "trees --longest=0", "parse --layer=0", "parse --draw=0", "poems --count=0",
        "poems --count=100000000", "sample --length=0", "sample --length=1000000000000",
        "sample --count=0", "sample --count=1000000000000", "sample --prime=0",
        "sample --bias=-1", "sample --bias=nan", "sample --temperature=-1",
        "sample --temperature=inf", "sample --temperature=nan", "sample --prompt=",
        "boundaries --length=-5", "segment --length=-5", "segment --length=nan",
    ],
)  # fmt: skip
def test_a_flag_out_of_its_range_is_refused(hmrnn_says, argument):
    name, flag = argument.split()
    assert is_one_sentence(hmrnn_says(name, flag), f"flag {flag}: it must be ")


@pytest.mark.parametrize(
    ("arguments", "one", "other"),
    [
        ("boundaries --text=a --words=b", "--text", "--words"),
        ("boundaries --text=a --split=valid", "--text", "--split"),
        ("score --text=a --split=test", "--text", "--split"),
        ("score --config=quickstart", "--config", "--weights"),
        ("score --config=logic --weights=on.pt", "language model's", "task logic"),
        ("score --config.batch=3", "--config.batch", "--config=FILE"),
        ("score --weights=on.pt", "--weights", "--config"),
    ],
)
def test_of_two_things_asked_at_once_both_are_named(hmrnn_says, arguments, one, other):
    assert is_one_sentence(hmrnn_says(*arguments.split()), one, other)


@pytest.fixture
def of_task(tmp_path):
    """A function of a task: the folder of a run that has a configuration, and no more."""

    def make(task):
        config = DEFAULTS[task]().to_dict()
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "vocabulary.json").write_text(Vocabulary.of("ab", "characters").to_json())
        return f"--workdir={tmp_path}"

    return make


@pytest.mark.parametrize(
    ("task", "arguments", "part"),
    [
        ("strokes", "stream", "hmrnn stream is for runs of the task language; "),
        ("strokes", "poems", "is one of strokes."),
        ("logic", "boundaries", "hmrnn boundaries is for runs of the task language or strokes"),
        ("logic", "sample", "is one of logic."),
        ("images", "segment --text=a", "is one of images."),
        ("strokes", "segment --split=test", "--split is for runs of the task language"),
        ("strokes", "score --text=a", "--text is for runs of the task language"),
        ("strokes", "sample --prompt=a", "--prompt is for runs of the task language"),
        ("language", "sample --bias=1", "--bias is for runs of the task strokes"),
        ("language", "boundaries --tolerance=3", "--tolerance is for runs of the task strokes"),
        ("language", "score --control=b", "--control is for runs of the task logic or images"),
    ],
)
def test_what_does_not_fit_a_runs_task_is_refused_first(
    hmrnn_says, of_task, monkeypatch, task, arguments, part
):
    monkeypatch.setattr(base, "restore", lambda *_: pytest.fail("too late"))
    assert is_one_sentence(hmrnn_says(*arguments.split(), of_task(task)), part)


@pytest.mark.parametrize(
    "look",
    [
        "boundaries",
        "segment --text=a.txt",
        "sample",
        "curves",
        "score",
        "parse --text=a.txt",
        "export",
    ],
)
@pytest.mark.parametrize(
    ("output", "part"),
    [
        ("{}/missing/x.png", "missing does not exist"),
        ("{}", "is a folder: give the name of a file"),
        ("{}/file/x.png", "file does not exist"),
        ("{}/" + "x" * 300, "is too long for the name of a file"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_first(
    hmrnn_says, tmp_path, monkeypatch, look, output, part
):
    (tmp_path / "file").touch()
    monkeypatch.setattr(base, "restore", lambda *_: pytest.fail("too late"))
    said = hmrnn_says(*look.split(), f"--output={output.format(tmp_path)}")
    assert is_one_sentence(said, part)


# JSON


def test_json_is_the_last_line_of_output_and_what_any_reader_takes(capsys):
    found = {"f1": np.float32(0.5), "nan": float("nan"), "z": np.ones((1, 2), np.int8), 1: ("é",)}

    def main(given):
        """Say."""
        print("for people")
        return found

    command = cli.Command(main, cli.JSON)
    assert cli.call(command, ["program", "--json"]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first == "for people"
    assert json.loads(last, parse_constant=pytest.fail) == {
        "f1": 0.5, "nan": None, "z": [[1, 1]], "1": ["é"],
    }  # fmt: skip
    assert cli.call(command, ["program"]) == 0
    assert capsys.readouterr().out == "for people\n"
