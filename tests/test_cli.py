"""Command lines of `hmrnn`: every fault is one sentence, and a status says which.

In this process, but for what only a real terminal or pipe shows.
"""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from hmrnn_jax import cli, commands
from hmrnn_jax.commands import base
from hmrnn_jax.datasets.vocabulary import Vocabulary
from hmrnn_jax.errors import BAD_INPUT, INTERRUPTED, STOPPED, UserError
from hmrnn_jax.training import config_file, loop, settings
from hmrnn_jax.training.fields import Names, Switch, Text, Whole, Wholes
from hmrnn_jax.training.workdir import DEFAULTS

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "configs" / "quickstart.py"


def hmrnn(*arguments, **how):
    """The status of a command line of `hmrnn`."""
    return cli.status(lambda: commands.execute(["hmrnn", *arguments], **how))


@pytest.fixture
def train_says(capsys, monkeypatch):
    """`(status, the configuration or what stderr says)` of `hmrnn train`'s arguments."""
    taken = []
    # A result: None would be a run that a signal stopped.
    monkeypatch.setattr(loop, "train", lambda config, *_: taken.append(config) or {})

    def says(*arguments):
        status = hmrnn("train", *arguments)
        error = capsys.readouterr().err
        return status, taken.pop() if status == 0 else error

    return says


@pytest.fixture
def hmrnn_says(capsys):
    """`(status, what stderr says)` of a command line of `hmrnn`."""

    def says(*arguments, **how):
        status = hmrnn(*arguments, **how)
        return status, capsys.readouterr().err

    return says


def is_one_sentence(result, *parts):
    status, error = result
    assert status == BAD_INPUT
    assert error.startswith("error: ") and error.endswith((".\n", "?\n")) and error.count("\n") == 1
    for part in parts:
        assert part in error
    return True


# Overrides


def test_overrides_reach_the_configuration(train_says):
    status, config = train_says(
        "--config.batch=32", "-config.window", "20", "--config.window_random",
        "--noconfig.model.hm_lstm.flush", "--config.model.sizes=(8, 6)", "--config.clip=1e-1",
        "--config.data.name", "text", "--config.data.path=a b.txt",
    )  # fmt: skip
    assert status == 0 and isinstance(config, ConfigDict) and config.is_locked
    assert (config.batch, config.window, config.clip) == (32, 20, 0.1)
    assert config.window_random and not config.model.hm_lstm.flush
    assert config.model.sizes == (8, 6) and config.data.path == "a b.txt"
    assert config.steps == 2600  # of the file


def test_of_a_field_given_twice_the_last_counts(train_says):
    _, config = train_says("--config.model.sizes=8,8", "--config.model.sizes=6,6")
    assert config.model.sizes == (6, 6)
    _, config = train_says("--config.batch=8", "--config.batch=6")
    assert config.batch == 6
    names = ["--config.data.columns=a,b", "--config.data.columns=c,d"]
    _, config = train_says(f"--config={ROOT}/configs/hm_lstm_oscillators.py", *names)
    assert config.data.columns == ("c", "d")


def test_one_run_leaves_nothing_to_the_next(train_says):
    train_says("--config.batch=8")
    _, config = train_says(f"--config={ROOT}/configs/hm_lstm_ptb_char.py:step")
    assert config.batch == 64 and config.slope.increment == 0
    _, config = train_says("--config.seed=5", f"--config={ROOT}/configs/logic.py")
    assert (config.task, config.seed) == ("logic", 5)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("--config.lerning_rate=1", "did you mean --config.learning_rate?"),
        ("--config.sizes=8", "did you mean --config.model.sizes?"),
        ("--config.model.lstm.flush=0", "did you mean --config.model.hm_lstm.flush?"),
        ("--wordkir=runs/a", "did you mean --workdir?"),
        ("--zzz=1", "no flag --zzz."),
        ("config.steps=3", "did you mean --config.steps=3?"),
        (
            "text my.txt",
            "'text my.txt' is not a flag; did you mean --config.data.name=text"
            " --config.data.path=my.txt?",
        ),
        ("--workdir=", "must be a text that is not empty"),
        ("--workdir", "Missing value for flag --workdir"),
        ("--config", "Missing value for flag --config"),
        ("--config.batch=four", "--config.batch=four: it must be a whole number from 1"),
        ("--config.batch=0", "--config.batch=0: it must be"),
        ("--config.seed=-1", "--config.seed=-1: it must be"),
        ("--config.seed=1099511627776", "to 4,294,967,295"),
        ("--config.model.sizes=('a','b')", "whole numbers from 1 to 65,536"),
        ("--config.model.sizes=8.5,8", "whole numbers from 1 to 65,536"),
        ("--config.learning_rate=nan", "a number above 0"),
        ("--config.finish=vieww", "one of metrics, view"),
        ("--config.window_random=perhaps", "true or false"),
        ("--noconfig.window_random=1", "does not take an argument"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_one_sentence(train_says, arguments, part):
    assert is_one_sentence(train_says(*arguments.split(" ")), part)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"na\xefve " * 1000, "UTF-8"),
        (b"", "empty"),
        (b"a few words only", "symbols"),
        (None, "no"),
    ],
)
def test_a_text_that_cannot_be_trained_on_is_one_sentence(capsys, tmp_path, content, part):
    path = tmp_path / "my.txt"
    if content is not None:
        path.write_bytes(content)
    arguments = ["--config.data.name=text", f"--config.data.path={path}"]
    result = hmrnn("train", *arguments, f"--workdir={tmp_path}/run")
    assert is_one_sentence((result, capsys.readouterr().err), part)
    assert not (tmp_path / "run").exists()


# Configuration files

BROKEN = {
    "def get_config(:": ", line 1 is not Python: invalid syntax",
    "def get_config():\n    return 1 / 0": "line 2, 'return 1 / 0', raised ZeroDivisionError",
    "def get_config():\n    pass": "returned NoneType, not a ConfigDict",
    "def get_config():\n    return {}": "returned dict, not a ConfigDict",
    "from ml_collections import ConfigDict as get_config": "task is None; it must be one of",
    "import nothing_of_that_name": "raised ModuleNotFoundError: No module named",
    "open('/no/such/file')": "raised FileNotFoundError",
    "raise SystemExit(0)": "raised SystemExit",
    "steps = 5": "has no function get_config",
    "def get_config(variant):\n    return variant": "takes an argument: FILE.py:NAME",
    "from hmrnn_jax import defaults\ndef get_config():\n    config = defaults.text()\n"
    "    config.lerning_rate = 1\n    return config": "'config.lerning_rate = 1', raised Attribute",
    "from ml_collections import config_dict\nfrom hmrnn_jax import defaults\n"
    "def get_config():\n    config = defaults.text()\n"
    "    config.batch = config_dict.required_placeholder(int)\n    return config": "has no value",
    "from hmrnn_jax import defaults\ndef get_config():\n    config = defaults.text()\n"
    "    config.window = 0\n    return config": "window is 0; it must be a whole number",
}  # fmt: skip


@pytest.mark.parametrize("content", BROKEN, ids=list(BROKEN.values()))
def test_a_broken_configuration_is_one_sentence(train_says, tmp_path, content):
    file = tmp_path / "mine.py"
    file.write_text(content)
    result = train_says(f"--config={file}")
    assert is_one_sentence(result, BROKEN[content]) and result[1].count(str(file)) == 1


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("configs/nothing.py", "configuration configs/nothing.py; `hmrnn configs` lists those"),
        ("quikstart", "There is no configuration quikstart; did you mean quickstart?"),
        ("mine/quickstart.py", "There is no configuration mine/quickstart.py; did you mean"),
        ("quickstart:fast", "quickstart.py takes no argument: drop :fast."),
        (str(ROOT / "configs"), "Is a directory; give a file"),
        (f"{QUICKSTART}:fast", "takes no argument: drop :fast."),
        (f"{ROOT}/configs/hm_lstm_ptb_char.py:fast", "one of sample, soft, step, annealed, paper,"),
        (f"{QUICKSTART}/deeper.py", "Not a directory"),
        ("x" * 300, "File name too long; choose a shorter name."),
    ],
)
def test_a_configuration_that_is_none_is_named(train_says, path, part):
    assert is_one_sentence(train_says(f"--config={path}"), part)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("quickstart", "configs/quickstart.py"),
        ("configs/quickstart.py", "configs/quickstart.py"),
        ("logic:lstm", "configs/logic.py:lstm"),
    ],
)
def test_configurations_come_with_the_program_wherever_it_is_run(
    train_says, tmp_path, monkeypatch, name, file
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logic").mkdir()  # a folder is no configuration
    status, config = train_says(f"--config={name}")
    assert status == 0 and config.to_dict() == config_file.load(ROOT / file).to_dict()
    (tmp_path / "quickstart").write_text(
        "from hmrnn_jax import defaults\nget_config = defaults.text"
    )
    status, config = train_says("--config=quickstart")
    assert config.batch == 64  # a file of one's own goes before


def test_configs_lists_those_that_there_are(capsys):
    assert hmrnn("configs", "--json") == 0
    *lines, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)["configs"]
    assert list(found) == sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
    for name, line in zip(found, lines, strict=True):
        text = (ROOT / "configs" / f"{name}.py").read_text(encoding="utf-8")
        assert text.startswith(f'"""{found[name]}\n')
        assert line.split(maxsplit=1) == [name, found[name]]


# Help


@pytest.mark.parametrize("flag", ["--help", "--helpfull"])
@pytest.mark.parametrize("name", ["quickstart", "logic", "hm_lstm_scribbles", "mnist_pixels"])
def test_help_tells_every_field_its_default_and_what_it_may_be(capsys, flag, name):
    assert hmrnn("train", f"--config={name}", flag) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Train a model" in shown and "--workdir=runs/quickstart" in shown
    config = config_file.load(name)
    given = settings.flat(config.to_dict())
    for field, kind in settings.fields(config).items():
        value = given[field]
        value = ",".join(map(str, value)) if isinstance(value, tuple) else value
        meaning = " ".join(f"{kind.meaning} ({kind.allowed})".split())
        # A line is broken between words, nowhere else.
        assert f"--config.{field}={value} {meaning}".replace("= ", "=") in shown.replace("= ", "=")


@pytest.mark.parametrize("arguments", [["--help"], ["help"], []])
def test_help_lists_the_sub_commands(capsys, arguments):
    assert hmrnn(*arguments) == 0
    shown = capsys.readouterr().out
    for name in commands.MODULES:
        summary = commands.find(name).main.__doc__.partition("\n")[0]
        assert f"  {name} " in shown and summary in shown


@pytest.mark.parametrize("name", commands.MODULES)
def test_each_sub_command_has_its_own_flags_and_an_example(capsys, name):
    assert hmrnn(name, "--help") == 0
    shown = capsys.readouterr().out
    example = re.compile(rf"^    (.* \| )?hmrnn {name}( |$)", re.MULTILINE)
    assert example.search(shown.partition("Flags, with their defaults:")[0])
    flags = [line.split("=")[0].strip() for line in shown.splitlines() if line.startswith("  --")]
    own = [flag.lstrip("-") for flag in flags if not flag.startswith("--config.")]
    assert own == list(commands.find(name).flags) and len(own) <= 13 and "json" in own


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


# Statuses


def program(raised=None, result=None):
    flags = {
        "count": (1, Whole("A number.", 1)),
        "sizes": (None, Wholes("Sizes.")),
        "names": (None, Names("Names.")),
        "loud": (False, Switch("Loud.")),
        "workdir": ("runs", Text("Folder.", empty=False)),
    }

    def main(given):
        if raised is not None:
            raise raised
        return result(given) if callable(result) else result

    return cli.Command(main, flags)


def status(*arguments, **how):
    return cli.call(program(**how), ["program", *arguments])


def test_flags_of_every_kind():
    def seen(values):
        found.append((values.count, values.sizes, values.names, values.loud, values.workdir))

    found = []
    assert status("--count=3", "--sizes=8,9", "--names=a,b", "--loud", result=seen) == 0
    assert status("--count", "3", "--count=4", "--sizes", "(8,)", "--noloud", result=seen) == 0
    assert found == [(3, (8, 9), ("a", "b"), True, "runs"), (4, (8,), None, False, "runs")]


def test_a_programs_own_status_is_kept():
    assert status() == 0 and status(result=75) == 75 and status(result="text") == 0
    with pytest.raises(SystemExit) as stopped:
        status(raised=SystemExit(75))
    assert stopped.value.code == 75


def full(path, number=errno.ENOSPC):
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("raised", "expected", "said"),
    [
        (UserError("A fault."), BAD_INPUT, "error: A fault.\n"),
        (KeyboardInterrupt(), INTERRUPTED, "error: interrupted.\n"),
        (BrokenPipeError(), cli.PIPE_CLOSED, ""),
        (full("a.png"), BAD_INPUT, "error: a.png: No space left on device; make room, or "),
        (full(b"a.png", errno.EROFS), BAD_INPUT, "error: a.png: Read-only file system; choose"),
        (full("a.png", errno.EACCES), BAD_INPUT, "error: a.png: Permission denied; choose"),
        (full("runs", errno.EISDIR), BAD_INPUT, "error: runs: Is a directory; give a file"),
        (full("a.txt/b", errno.ENOTDIR), BAD_INPUT, "error: a.txt/b: Not a directory; choose"),
        (full("x" * 300, errno.ENAMETOOLONG), BAD_INPUT, f"error: {'x' * 300}: File name too"),
        (full(None), BAD_INPUT, "error: No space left on device; make room"),
        (OSError("odd"), BAD_INPUT, "error: odd.\n"),
        (MemoryError(), BAD_INPUT, "error: There is too little memory (the machine has no more)"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nx"),
            BAD_INPUT, "error: There is too little memory (RESOURCE_EXHAUSTED: Out of memory",
        ),
    ],
)  # fmt: skip
def test_every_refusal_is_one_sentence_and_a_status(capsys, raised, expected, said):
    assert status(raised=raised) == expected
    error = capsys.readouterr().err
    assert error.startswith(said) and error.count("\n") == bool(said)


@pytest.mark.parametrize("raised", [ValueError("ours"), jax.errors.JaxRuntimeError("INTERNAL: x")])
def test_our_own_faults_keep_their_traceback(raised):
    with pytest.raises(type(raised)):
        status(raised=raised)


# As a terminal and a pipe have it

PROGRAM = """
import sys
from hmrnn_jax import cli
def main(given):
    for line in {lines}:
        print(line, flush={flush})
    if {wait}:
        print("waiting", file=sys.stderr, flush=True)
        import time
        time.sleep(60)
cli.run(cli.Command(main))
"""


def start(lines="['a']", flush=True, wait=False, **how):
    code = PROGRAM.format(lines=lines, flush=flush, wait=wait)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment |= how.pop("environment", {})
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, **how)


@pytest.mark.whole_program
def test_a_reader_that_leaves_and_a_full_disk_get_no_traceback():
    flushed = start("range(10**6)", stdout=subprocess.PIPE)
    buffered = start("range(10**6)", flush=False, stdout=subprocess.PIPE)
    for process in (flushed, buffered):
        process.stdout.readline()
        process.stdout.close()
    with open("/dev/full", "w") as disk:
        filled = start(flush=False, stdout=disk)
    assert flushed.wait() == cli.PIPE_CLOSED and not flushed.stderr.read()
    assert buffered.wait() == cli.PIPE_CLOSED and not buffered.stderr.read()
    assert filled.wait() == BAD_INPUT
    error = filled.stderr.read().decode()
    assert error.startswith("error: No space left on device") and error.count("\n") == 1


@pytest.mark.whole_program
def test_control_c_and_a_terminal_of_ascii():
    ascii = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "POSIX"}
    waiting = start(wait=True, stdout=subprocess.DEVNULL)
    plain = start("['caf\\u00e9 \\ud800']", stdout=subprocess.PIPE, environment=ascii)
    assert waiting.stderr.readline() == b"waiting\n"
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait() == INTERRUPTED and waiting.stderr.read() == b"error: interrupted.\n"
    out, error = plain.communicate()
    assert (plain.returncode, out, error) == (0, b"caf\\xe9 \\ud800\n", b"")


@pytest.mark.whole_program
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_the_very_end_changes_no_status(number):
    """Python's own end takes its time when threads have to be waited for."""
    code = f"""
import atexit, sys, time
sys.path.insert(0, {str(ROOT)!r})
from hmrnn_jax import cli
atexit.register(lambda: (print("over", flush=True), time.sleep(60)))
cli.start(lambda: 3)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"over\n"
    process.send_signal(number)
    assert process.wait() == 3


@pytest.mark.whole_program
@pytest.mark.parametrize(
    ("program", "number", "status"),
    [
        (["train.py", "--help"], signal.SIGTERM, STOPPED),
        (["eval.py"], signal.SIGINT, INTERRUPTED),
        (["-m", "hmrnn_jax", "score"], signal.SIGINT, INTERRUPTED),
    ],
)
def test_a_signal_while_the_program_is_still_being_read(program, number, status):
    """Its imports take seconds."""
    process = subprocess.Popen(
        [sys.executable, "-v", *program], cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    for line in process.stderr:
        if line.startswith("import 'jax"):
            process.send_signal(number)
            break
    assert "Traceback" not in process.stderr.read()
    assert process.wait() == status
