"""Trainings within a test, and what they leave."""

import jax
import numpy as np

from hmrnn_jax.training import loop as program
from hmrnn_jax.training.checkpoint import Checkpoints


def run(config, workdir):
    """The result of a training and what it said."""
    lines = []
    result = program.train(config, str(workdir), lines.append)
    return result, "\n".join(lines)


def newest(workdir):
    """The trees of the newest and of the best checkpoint."""
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints._newest("latest", None), checkpoints._newest("best", None)


def latest(workdir):
    """The newest whole state on disk, as plain arrays."""
    return newest(workdir)[0]


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
