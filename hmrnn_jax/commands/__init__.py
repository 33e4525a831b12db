"""The sub-commands of `hmrnn`: a function each, of the same name; its docstring is its help.

`MODULES` says which module has which; a module's `COMMANDS` are the functions with their flags.
"""

import ast
import functools
import importlib
from pathlib import Path

from hmrnn_jax import cli
from hmrnn_jax.errors import UserError
from hmrnn_jax.training.fields import nearest

MODULES = {
    "train": "training",
    "score": "reading",
    "boundaries": "reading",
    "explore": "exploring",
    "segment": "reading",
    "stream": "reading",
    "sample": "generation",
    "poems": "generation",
    "trees": "syntax",
    "parse": "syntax",
    "syneval": "syntax",
    "curves": "records",
    "export": "records",
    "configs": "configs",
    "convert": "convert",
}
# Said at once of what is silent for seconds: importing JAX, reading the data, compiling.
_FIRST = {"train": "starting: JAX and the data are loaded, then the first update is compiled"}
_HELP = """HM-LSTM, Nested LSTM and ON-LSTM: trains them, and shows what they discovered.

    hmrnn train
    hmrnn boundaries

{commands}

`hmrnn COMMAND --help` has an example and the flags of each, `hmrnn configs` what can be trained."""


def execute(argv, command=None, default=None):
    """Runs the sub-command of a command line; returns its exit status.

    Args:
      argv: the name of the program first. command, default: see `__main__.main`.

    Raises:
      UserError: there is no such sub-command, or it cannot read its flags.
    """
    name, rest = command, argv[1:]
    if command is None:
        if rest[:1] and (rest[0] in cli.HELP or rest[0] == "help") or not (rest or default):
            return print(overview())
        name = default
        if rest and (default is None or not rest[0].startswith("-")):
            name, *rest = rest
    others = [word for word in rest if word.startswith("--process=") and word != "--process=0"]
    if name in _FIRST and not others and not cli.HELP.intersection(rest):
        print(_FIRST[name], flush=True)
    return cli.execute(find(name), [argv[0], *rest], MODULES)


def find(name):
    """The `cli.Command` of a name. Raises `UserError` if there is none."""
    if name not in MODULES:
        near = nearest(name.lstrip("-"), MODULES)
        meant = f"did you mean {near}?" if near else f"give one of {', '.join(MODULES)}."
        raise UserError(f"There is no sub-command {name}; {meant}")
    return importlib.import_module(f"{__name__}.{MODULES[name]}").COMMANDS[name]


def overview():
    """Each sub-command with the first line of its docstring; none of them is imported."""
    width = max(map(len, MODULES))
    lines = [f"  {name:{width}}  {_functions(MODULES[name])[name]}" for name in MODULES]
    return _HELP.format(commands="\n".join(lines))


@functools.cache
def _functions(module):
    """`{name: first line of its docstring}` of a module's functions."""
    tree = ast.parse((Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8"))
    return {
        node.name: (ast.get_docstring(node) or "").partition("\n")[0]
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }
