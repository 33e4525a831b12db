"""What `benchmarks/starts.py` times: a program's first line and its first update."""

import pytest

from benchmarks import starts
from hmrnn_jax.errors import UserError

PROGRAM = """
import os, pathlib, sys, time
kept = pathlib.Path(os.environ["HMRNN_CACHE"]) / "kept"
print("starting", sys.argv[-1], flush=True)
with open("log", "a") as log:
    log.write("again " if kept.exists() else "first ")
time.sleep(0.5)
kept.touch()
{then}
time.sleep(60)
"""
UPDATE = 'print("update 1/2600  bpc 6.6", flush=True)'


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A function of what the program does then: the folder of a checkout."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    (tmp_path / "other").mkdir()

    def make(then):
        (tmp_path / "other/train.py").write_text(PROGRAM.format(then=then))
        return tmp_path / "other"

    return make


def test_a_start_from_nothing_and_one_with_what_it_left(checkout, monkeypatch):
    monkeypatch.setattr(starts, "IMPORTS", dict.fromkeys(starts.IMPORTS, "pass"))
    values = starts.once(checkout(UPDATE), None)
    assert values["line"] + 0.4 < values["update"]  # it sleeps in between
    assert (checkout(UPDATE) / "log").read_text() == "first again "
    lines = starts.table({checkout(UPDATE): [values, values | {"update": 60.0}]}).splitlines()
    assert lines[0] == "| seconds | other |" and len(lines) == 2 + len(starts.ROWS)
    assert lines[3].endswith("-60.00) |")


def test_two_checkouts_are_timed_in_turns(monkeypatch, capsys, tmp_path):
    (tmp_path / "train.py").touch()
    begun = []
    monkeypatch.setattr(starts, "start", lambda *args: begun.append(args[0]) or (0.25, len(begun)))
    monkeypatch.setattr(starts, "imported", lambda checkout, program: len(program) / 100)
    starts.main(["--rounds=2", f"--beside={tmp_path}"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[0] for row in rows[2:]] == list(starts.ROWS.values()) and len(rows[0]) == 3
    assert begun == [starts.ROOT] * 2 + [tmp_path] * 4 + [starts.ROOT] * 2
    assert rows[3][1:] == ["4.00 (1.00-7.00)", "4.00 (3.00-5.00)"]
    assert rows[5][1] == "0.16 (0.16-0.16)"


def test_imports_may_keep_their_bytecode(monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert starts.imported(starts.ROOT, "import sys; assert not sys.dont_write_bytecode") > 0


def test_a_start_that_fails_is_told(checkout, tmp_path):
    with pytest.raises(UserError, match="ended before its first update:\nstarting --config=c"):
        starts.start(checkout("sys.exit()"), "c", tmp_path)


def test_a_folder_that_is_no_checkout_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="has no train.py"):
        starts.main([f"--beside={tmp_path}"])
