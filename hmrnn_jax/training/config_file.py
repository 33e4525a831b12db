"""The configuration of a name or of a user's own file."""

import importlib.machinery
import importlib.util
import inspect
import sys
import textwrap
import traceback

from ml_collections import ConfigDict

from hmrnn_jax.errors import UserError, refusal
from hmrnn_jax.training import catalogue, settings


def load(path):
    """The configuration of `NAME`, `FILE.py` or either with `:ARGUMENT`, locked.

    What the file's `get_config` returns, given the argument if there is one. Names are those of
    `catalogue.packaged`.

    Raises:
      UserError: no such file, one that is not Python or raises something, a result that is no
        configuration, or a field that is unknown, missing or out of its range.
    """
    file, _, argument = str(path).partition(":")
    arguments = (argument,) if ":" in str(path) else ()
    file = catalogue.resolve(file)
    try:
        loader = importlib.machinery.SourceFileLoader("config_file", file)
        module = importlib.util.module_from_spec(
            importlib.util.spec_from_loader(loader.name, loader)
        )
        sys.modules[loader.name] = module  # where dataclasses look for the names in their types
        loader.exec_module(module)
        get_config = getattr(module, "get_config", None)
        if get_config is None:
            raise UserError(f"{file} has no function get_config; see the files in configs/.")
        if not _takes(get_config, arguments):
            wanted = f"no argument: drop :{argument}" if arguments else "an argument: FILE.py:NAME"
            raise UserError(f"{file} takes {wanted}.")
        config = get_config(*arguments)
    except UserError:
        raise
    except FileNotFoundError as error:
        if error.filename != file:
            raise UserError(_raised(file, error)) from error
        raise UserError(catalogue.missing(file)) from None
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise UserError(f"{file}{line} is not Python: {error.msg}.") from error
    except (Exception, SystemExit) as error:  # whatever the file's own code raises
        raise UserError(_raised(file, error)) from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"get_config of {file} returned {type(config).__name__}, not a ConfigDict; begin with"
            " one of hmrnn_jax.defaults, as the files in configs/ do."
        )
    try:
        settings.check(config)
    except UserError as error:
        raise UserError(f"In {file}: {error}") from None
    return config.lock()


def _takes(function, arguments):
    try:
        inspect.signature(function).bind(*arguments)
        return True
    except TypeError:
        return False


def _raised(file, error):
    """What a configuration raised, and in which of its lines."""
    if isinstance(error, OSError) and error.filename == file:
        return f"The configuration {refusal(error)}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == file]
    where = f", line {own[-1].lineno}, {own[-1].line!r}," if own else ""
    what = textwrap.shorten(str(error).strip("'"), 150, placeholder=" ...")
    return f"{file}{where} raised {type(error).__name__}: {what}."
