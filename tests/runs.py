"""Trainings within a test, and what they leave."""

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
