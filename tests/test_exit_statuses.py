"""How programs end: statuses, one sentence for every refusal, pipes, signals."""

import errno
import os
import signal
import subprocess
import sys

import jax
import pytest
from command_lines import ROOT

from hmrnn_jax import cli
from hmrnn_jax.errors import BAD_INPUT, INTERRUPTED, STOPPED, UserError
from hmrnn_jax.training.fields import Names, Switch, Text, Whole, Wholes

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
