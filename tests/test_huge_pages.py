"""Programs begin anew with memory in huge pages, once, and with all that they were given."""

import os
import subprocess
import sys

import pytest

from hmrnn_jax import huge_pages

PROGRAM = """
import os, pathlib, sys
from hmrnn_jax import huge_pages
huge_pages.ENABLED = pathlib.Path(sys.argv[1])
print("begun", os.getpid(), flush=True)
huge_pages.use()
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[2:], sys.flags.optimize, sys.stdin.read())
"""
ASKED = f"{huge_pages.TUNABLE}=1"


def begin(folder, enabled, *, tunables=None, as_text=False):
    """The lines that the program prints, with huge pages `enabled` as the kernel says it."""
    (folder / "program.py").write_text(PROGRAM)
    (folder / "enabled").write_text(enabled)
    environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    if tunables is not None:
        environment["GLIBC_TUNABLES"] = tunables
    program = ["-c", PROGRAM] if as_text else [str(folder / "program.py")]
    done = subprocess.run(
        [sys.executable, "-O", *program, str(folder / "enabled"), "a b", "--c=*"],
        input="typed", env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    *begun, last = done.stdout.splitlines()
    assert last.endswith(" ['a b', '--c=*'] 1 typed")
    assert len(set(begun)) == 1  # one process, however often it begins
    return len(begun), last.split()[0]


def test_a_program_begins_anew_once(tmp_path):
    assert begin(tmp_path, "always [madvise] never\n") == (2, ASKED)


def test_what_else_is_tuned_stays(tmp_path):
    others = "glibc.malloc.perturb=3"
    found = begin(tmp_path, "always [madvise] never\n", tunables=others)
    assert found == (2, f"{others}:{ASKED}")


@pytest.mark.parametrize("enabled", ["[always] madvise never\n", "always madvise [never]\n"])
def test_where_asking_changes_nothing_nothing_is_asked(tmp_path, enabled):
    assert begin(tmp_path, enabled) == (1, "None")


def test_a_choice_already_made_is_kept(tmp_path):
    chosen = f"{huge_pages.TUNABLE}=0"
    assert begin(tmp_path, "always [madvise] never\n", tunables=chosen) == (1, chosen)


def test_a_program_that_is_no_file_goes_on(tmp_path):
    assert begin(tmp_path, "always [madvise] never\n", as_text=True) == (1, "None")


def test_a_kernel_without_huge_pages(tmp_path, monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(huge_pages, "ENABLED", tmp_path / "missing")
    huge_pages.use()
    assert "GLIBC_TUNABLES" not in os.environ
