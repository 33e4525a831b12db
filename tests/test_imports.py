"""What starting costs: nothing heavy is imported before it is needed."""

import subprocess
import sys
from pathlib import Path

import pytest

from hmrnn_jax import commands

HEAVY = (
    "tensorboardX", "torch", "tensorflow", "tensorflow_datasets", "matplotlib", "orbax",
    "ml_collections", "requests", "jax.experimental.pallas",
)  # fmt: skip
LIBRARY = (
    "cells.linen", "cells.nnx", "recurrence", "models.language", "models.density",
    "models.classifiers", "inference.stream",
)  # fmt: skip


@pytest.mark.parametrize(
    "names, needed",
    [
        ([f"hmrnn_jax.{name}" for name in LIBRARY], {"jax"}),
        (["train", "eval", "hmrnn_jax.commands", "hmrnn_jax.cli"], set()),
        (
            [f"hmrnn_jax.commands.{name}" for name in sorted(set(commands.MODULES.values()))],
            {"jax", "ml_collections"},
        ),
    ],
    ids=["the library", "the way in", "the programs"],
)
def test_nothing_heavy_is_imported_that_is_not_needed(names, needed):
    program = f"import sys, {', '.join(names)}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    imported = set(done.stdout.split())
    assert needed <= imported and set(names) <= imported
    assert not ({*HEAVY, "jax"} - needed) & imported


@pytest.mark.parametrize("before", [False, True], ids=["", "imported before"])
def test_a_torch_that_is_installed_is_left_to_who_needs_it(tmp_path, before):
    """tensorboardX would import it, some seconds of each start."""
    (tmp_path / "torch.py").write_text("class Tensor: pass\nprint('torch')")
    program = f"""import sys; sys.path.insert(0, {str(tmp_path)!r})
{"import torch" if before else ""}
from hmrnn_jax.training import events
print("events", "torch" in sys.modules)
import torch"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    events = f"events {before}"
    assert done.stdout.split("\n")[:2] == (["torch", events] if before else [events, "torch"])
