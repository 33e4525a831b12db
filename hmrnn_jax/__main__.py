"""The program: `hmrnn`, `python -m hmrnn_jax`, and `train.py` and `eval.py` of a checkout."""

import os
import signal
import sys

from hmrnn_jax import huge_pages


def main(command=None, default=None):
    """Runs the sub-command that the command line names, and exits.

    Args:
      command: the sub-command, of which the command line has the flags alone.
      default: the sub-command of a command line that begins with a flag, or is empty.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        # The imports take seconds, and a Ctrl-C would show where they are.
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
        # Before training has begun, and after it has ended, nothing is left to be saved.
        signal.signal(signal.SIGTERM, lambda *_: os._exit(75))
    huge_pages.use()  # here already, for what follows takes a while
    from hmrnn_jax import cli, commands

    cli.start(lambda: commands.execute(sys.argv, command, default))


if __name__ == "__main__":
    main()
