"""The configurations that travel with the package, by name; nothing heavy is imported."""

import ast
import os
from pathlib import Path

from hmrnn_jax.training.fields import nearest

_PACKAGE = Path(__file__).parents[1]


def packaged():
    """`{name: path}` of the configurations that travel with the package, by name.

    An installed package has them in its folder `configs`, a checkout beside the package.
    """
    own = _PACKAGE / "configs"
    folder = own if own.is_dir() else _PACKAGE.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.py")) if path.stem != "__init__"}


def summaries():
    """`{name: first line of its docstring}` of `packaged`; nothing of the files is run."""
    found = {}
    for name, path in packaged().items():
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found[name] = docstring.partition("\n")[0]
    return found


def resolve(file):
    """The path of `NAME`, a packaged configuration, or of `FILE.py`.

    `configs/NAME.py` is the packaged one where no such file is at hand. What is neither comes
    back as it is.
    """
    if os.path.isfile(file):
        return file
    folder, name = os.path.split(file)
    if folder in ("", "configs") and (folder or not name.endswith(".py")):
        return str(packaged().get(name.removesuffix(".py"), file))
    return file


def missing(file):
    """The sentence of a configuration that is not there."""
    near = nearest(Path(file).stem, packaged())
    meant = f"did you mean {near}?" if near else "`hmrnn configs` lists those that there are."
    return f"There is no configuration {file}; {meant}"
