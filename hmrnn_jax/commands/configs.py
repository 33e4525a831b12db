"""What can be trained without a configuration of one's own."""

from hmrnn_jax.cli import JSON, Command
from hmrnn_jax.training import catalogue


def configs(given):
    """List the configurations that come with the program.

        hmrnn configs
        hmrnn train --config=hm_lstm_ptb_char

    A configuration is a Python file; the docstring of each has its paper, the expected figure and
    its variants, `--config=NAME:VARIANT`. Any other file is given by its path,
    `--config=mine.py`.
    """
    found = catalogue.summaries()
    width = max(map(len, found))
    for name, line in found.items():
        print(f"{name:{width}}  {line}")
    return {"configs": found}


COMMANDS = {"configs": Command(configs, JSON)}
