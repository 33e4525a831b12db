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
