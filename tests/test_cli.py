"""A command line in: configurations, overrides and help; an answer in one sentence."""

import json
import os
import re
import sys

import pytest
from command_lines import QUICKSTART, ROOT, hmrnn, is_one_sentence
from ml_collections import ConfigDict

from hmrnn_jax import cli, commands
from hmrnn_jax.training import config_file, settings

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


def test_a_training_says_at_once_that_it_starts(capsys):
    for arguments, says in (
        (["--config.nothing=1"], True),
        (["--config.nothing=1", "--process=0"], True),
        (["--config.nothing=1", "--process=1"], False),
        (["--help"], False),
    ):
        hmrnn("train", *arguments)
        assert capsys.readouterr().out.startswith("starting: ") == says


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """Where programs would be kept, by the variables of the environment that are given."""
    monkeypatch.delitem(sys.modules, "jax")  # nothing is said to a JAX that is here already
    names = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")

    def place(**variables):
        with pytest.MonkeyPatch.context() as patch:
            for name in (*names, "TF_CPP_MIN_LOG_LEVEL"):
                patch.setenv(name, "")  # so that it is put back
                patch.delenv(name)
            for name, value in variables.items():
                patch.setenv(name, str(value))
            cli.keep_programs()
            return os.environ.get(names[0])

    return place


def test_programs_are_kept_in_the_users_cache_or_nowhere(kept, tmp_path):
    folder = kept(HMRNN_CACHE=tmp_path / "cache")
    assert os.path.dirname(folder) == str(tmp_path / "cache" / "programs") and os.path.isdir(folder)
    assert kept(HMRNN_CACHE=tmp_path / "cache") == folder
    assert kept(HMRNN_CACHE="off") is None
    assert kept(HMRNN_CACHE=tmp_path, JAX_COMPILATION_CACHE_DIR="mine") == "mine"
    (tmp_path / "file").write_text("")
    assert kept(HMRNN_CACHE=tmp_path / "file") is None
