"""Command lines as the programs take them, and what they print."""

from pathlib import Path

from hmrnn_jax import cli, commands
from hmrnn_jax.errors import BAD_INPUT

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "configs" / "quickstart.py"


def hmrnn(*arguments, **how):
    """The status of a command line of `hmrnn`."""
    return cli.status(lambda: commands.execute(["hmrnn", *arguments], **how))


def is_one_sentence(result, *parts):
    status, error = result
    assert status == BAD_INPUT
    assert error.startswith("error: ") and error.endswith((".\n", "?\n")) and error.count("\n") == 1
    for part in parts:
        assert part in error
    return True
