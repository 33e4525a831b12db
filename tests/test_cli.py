"""Command lines of `train.py` and `eval.py`: every fault is one sentence, and a status says which.

In this process, but for what only a real terminal or pipe shows.
"""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from absl import flags
from ml_collections import ConfigDict

import eval as evaluation
import train
from hmrnn_jax import cli
from hmrnn_jax.errors import BAD_INPUT, INTERRUPTED, UserError
from hmrnn_jax.training import settings
from hmrnn_jax.training.fields import Names, Switch, Text, Whole, Wholes, flag

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "configs" / "quickstart.py"


@pytest.fixture
def train_says(capsys, monkeypatch):
    """`(status, the configuration or what stderr says)` of train.py's arguments."""
    taken = []
    # A result: None would be a run that a signal stopped.
    monkeypatch.setattr(train, "train", lambda config, *_: taken.append(config) or {})

    def says(*arguments):
        status = cli.call(
            train.main, ["train.py", *arguments], train.FLAGS, QUICKSTART, "--config.data.path={}"
        )
        error = capsys.readouterr().err
        return status, taken.pop() if status == 0 else error

    return says


@pytest.fixture
def eval_says(capsys):
    """`(status, what stderr says)` of eval.py's arguments."""

    def says(*arguments):
        status = cli.call(
            evaluation.main, ["eval.py", *arguments], evaluation.FLAGS, words="--text={}"
        )
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
        ("text my.txt", "'text my.txt' is not a flag; did you mean --config.data.path=my.txt?"),
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
    result = cli.call(
        train.main,
        ["train.py", "--config.data.name=text", f"--config.data.path={path}",
         f"--workdir={tmp_path}/run"],
        train.FLAGS, QUICKSTART,
    )  # fmt: skip
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
        ("configs/nothing.py", "There is no configuration configs/nothing.py; see configs/."),
        (str(ROOT / "configs"), "Is a directory; give a file"),
        (f"{QUICKSTART}:fast", "takes no argument: drop :fast."),
        (f"{ROOT}/configs/hm_lstm_ptb_char.py:fast", "one of sample, soft, step, annealed, paper,"),
        (f"{QUICKSTART}/deeper.py", "Not a directory"),
        ("x" * 300, "File name too long; choose a shorter name."),
    ],
)
def test_a_configuration_that_is_none_is_named(train_says, path, part):
    assert is_one_sentence(train_says(f"--config={path}"), part)


# Help


@pytest.mark.parametrize("flag", ["--help", "--helpfull"])
@pytest.mark.parametrize("name", ["quickstart", "logic", "hm_lstm_scribbles", "mnist_pixels"])
def test_help_tells_every_field_its_default_and_what_it_may_be(capsys, flag, name):
    file = str(ROOT / "configs" / f"{name}.py")
    assert cli.call(train.main, ["train.py", f"--config={file}", flag], train.FLAGS) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Trains a model" in shown and "--workdir=runs/quickstart" in shown
    config = cli.load(file)
    given = settings.flat(config.to_dict())
    for field, kind in settings.fields(config).items():
        value = given[field]
        value = ",".join(map(str, value)) if isinstance(value, tuple) else value
        meaning = " ".join(f"{kind.meaning} ({kind.allowed})".split())
        # A line is broken between words, nowhere else.
        assert f"--config.{field}={value} {meaning}".replace("= ", "=") in shown.replace("= ", "=")


def test_help_of_eval_tells_its_flags(capsys):
    assert cli.call(evaluation.main, ["eval.py", "--help"], evaluation.FLAGS) == 0
    shown = capsys.readouterr().out
    for name in evaluation.FLAGS:
        assert f"  --{name}" in shown


# eval.py


@pytest.mark.parametrize(
    "argument",
    [
        "--batch=0", "--batch=1000000000000", "--warmup=-1", "--length=0", "--length=-5",
        "--length=100000", "--score_length=-1", "--score_length=0", "--lines=0", "--lines=100000",
        "--score_lines=0", "--tolerance=-1", "--sections=two", "--longest=0", "--layer=0",
        "--draw=0", "--sample=0", "--sample=1000000000000", "--poems=0", "--poems=100000000",
        "--steps=0", "--steps=1000000000000", "--prime=0", "--bias=-1", "--bias=nan",
        "--temperature=-1", "--temperature=inf", "--temperature=nan", "--seed=-1",
        "--seed=1099511627776", "--split=tset", "--workdir=", "--prompt=", "--output=", "--text=",
    ],
)  # fmt: skip
def test_a_flag_out_of_its_range_is_refused(eval_says, argument):
    assert is_one_sentence(eval_says(argument), f"flag {argument}: it must be ")


@pytest.mark.parametrize(
    ("arguments", "one", "other"),
    [
        ("--boundaries --sample=5", "--boundaries", "--sample"),
        ("--segment=a --stream", "--segment", "--stream"),
        ("--trees=a --parse=b", "--trees", "--parse"),
        ("--syneval --trees=a", "--syneval", "--trees"),
        ("--items=a --export=b.npz", "--syneval", "--export"),
        ("--curves --poems=3", "--curves", "--poems"),
        ("--sample=4 --text=a", "--sample", "--text"),
        ("--boundaries --text=a --words=b", "--text", "--words"),
        ("--words=b", "--words", "--boundaries"),
        ("--config={}", "--config", "--weights"),
        ("--config.batch=3", "--config.batch", "--config=FILE"),
    ],
)
def test_of_two_things_asked_at_once_both_are_named(eval_says, arguments, one, other):
    assert is_one_sentence(eval_says(*arguments.format(QUICKSTART).split()), one, other)


@pytest.mark.parametrize("look", ["--boundaries", "--segment=a.txt", "--sample=3", "--curves"])
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
    eval_says, tmp_path, monkeypatch, look, output, part
):
    (tmp_path / "file").touch()
    monkeypatch.setattr(evaluation, "restore", lambda *_: pytest.fail("too late"))
    assert is_one_sentence(eval_says(look, f"--output={output.format(tmp_path)}"), part)


# Statuses


def program(raised=None, result=None):
    values = flags.FlagValues()
    flag(values, "count", 1, Whole("A number.", 1))
    flag(values, "sizes", None, Wholes("Sizes."))
    flag(values, "names", None, Names("Names."))
    flag(values, "loud", False, Switch("Loud."))
    flag(values, "workdir", "runs", Text("Folder.", empty=False))

    def main(argv):
        if raised is not None:
            raise raised
        return result(values) if callable(result) else result

    return main, values


def status(*arguments, **how):
    main, values = program(**how)
    return cli.call(main, ["program", *arguments], values)


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
from absl import flags
from hmrnn_jax import cli
def main(argv):
    for line in {lines}:
        print(line, flush={flush})
    if {wait}:
        print("waiting", file=sys.stderr, flush=True)
        import time
        time.sleep(60)
cli.run(main, flags.FlagValues())
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
@pytest.mark.parametrize("name", ["train.py", "eval.py"])
def test_control_c_while_the_program_is_still_being_read(name):
    """Its imports take seconds."""
    process = subprocess.Popen(
        [sys.executable, "-v", ROOT / name, "--help"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    for line in process.stderr:
        if line.startswith("import 'jax"):
            process.send_signal(signal.SIGINT)
            break
    assert "Traceback" not in process.stderr.read()
    assert process.wait() == INTERRUPTED
