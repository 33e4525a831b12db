"""Two processes take the same decisions: the same checkpoint, the same errors, one lock."""

import subprocess
import sys
from pathlib import Path

import pytest
from test_processes import free_port
from test_programs import ROOT, environment

from hmrnn_jax.training.lock import Lock

EXPECTED = """\
decided: ['é', 1.5, None, 0]
refused: told by process 0
all well: {number}
one failed: told by process 1
locked: {busy} is in use by another training
restored: (2, True, 2.0, 0)
fell back: (1, True, 1.0, {notes})
one cannot read: process 1 cannot read now
not finite: The parameters after update 3 are not finite; nothing is saved yet.
"""


@pytest.mark.whole_program
def test_two_processes_decide_alike(tmp_path):
    port, program = free_port(), Path(__file__).parent / "agreement.py"
    settings = environment() | {"PYTHONPATH": str(ROOT)}
    with Lock(tmp_path / "busy", print):
        processes = [
            subprocess.Popen(
                [sys.executable, str(program), str(port), str(number), str(tmp_path)],
                cwd=ROOT, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for number in range(2)
        ]  # fmt: skip
        try:
            outputs = [process.communicate(timeout=300) for process in processes]
        finally:
            for process in processes:
                process.kill()
    for number, (out, error) in enumerate(outputs):
        expected = EXPECTED.format(number=number, busy=tmp_path / "busy", notes=1 - number)
        lines = [line.partition(" (process ")[0] for line in out.splitlines() if "Gloo" not in line]
        assert lines == expected.splitlines(), error[-2000:]
