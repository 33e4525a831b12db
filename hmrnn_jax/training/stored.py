"""Checkpoints as they lie on disk, folders named by their updates (Orbax): list, read, delete."""

import contextlib
import json
import re
import textwrap

import jax
import numpy as np
from etils import epy

from hmrnn_jax.errors import UserError
from hmrnn_jax.training import manifest
from hmrnn_jax.training.manifest import Damaged

with epy.lazy_imports():  # half a second, when a checkpoint is first read or written
    import orbax.checkpoint as ocp

ITEM = "default"  # the folder that Orbax puts the tree in
# What TensorStore says of files that are not what it wrote.
_DAMAGE = ("DATA_LOSS", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE")
# What Orbax raises of files that it did not write. Not every ValueError: TensorStore's are such.
_FOREIGN = (
    json.JSONDecodeError, UnicodeDecodeError, FileNotFoundError, KeyError, TypeError,
    AttributeError,
)  # fmt: skip


def steps(folder):
    """The updates of the checkpoints in a folder, newest first, whole or not.

    Raises:
      UserError: it cannot be listed.
    """
    try:
        names = [path.name for path in folder.iterdir()] if folder.exists() else []
        numbers = [int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name)]
        found = [n for n in numbers if ocp.utils.is_checkpoint_finalized(folder / str(n))]
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({reason(error)}): try again.") from error
    return sorted(found, reverse=True)


def verify(folder, written):
    """Raises `Damaged` unless a checkpoint is whole, by its manifest if it has one."""
    with _reading(folder):
        if not (folder / ITEM).is_dir():
            raise Damaged(f"it has no folder {ITEM!r}")
        if written:
            manifest.verify(folder, written)


def read_manifest(folder):
    """The manifest of a checkpoint, None if it has none; `Damaged` if that is not as written."""
    with _reading(folder):
        return manifest.read(folder)


def read(folder, target=None, vouched=True):
    """The tree of a checkpoint in numpy arrays, whatever devices and processes wrote it.

    Args:
      target: a tree of arrays of the structure and shapes that are wanted; nested dicts and lists
        if there is none.
      vouched: whether a manifest vouches for the files. Where none does, damage is found by what
        is raised.

    Raises:
      Damaged: the files are not what was written.
      UserError: the tree is another than `target`; or the files, which may be good, cannot be read.
    """
    with _reading(folder, vouched):
        # The handlers themselves: checkpointers would have all processes wait for each other.
        handler = ocp.PyTreeCheckpointHandler()
        stored = handler.metadata(folder / ITEM).tree
        if target is None:
            as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
            arguments = jax.tree.map(lambda _: as_numpy, stored, is_leaf=_is_array)
            arguments = ocp.args.PyTreeRestore(restore_args=arguments)
        else:
            check_fit(stored, target, folder)
            target = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), target)
            handler, arguments = ocp.StandardCheckpointHandler(), ocp.args.StandardRestore(target)
        tree = handler.restore(folder / ITEM, args=arguments)
    if not all(np.isfinite(x).all() for x in jax.tree.leaves(parameters(tree))):
        raise Damaged("its parameters are not finite")
    return tree


def parameters(tree):
    """What must be finite in a tree that is saved: the parameters, and their average."""
    if "state" not in tree:
        return tree["params"]
    state = tree["state"] if isinstance(tree["state"], dict) else vars(tree["state"])
    return state["params"], state["average"]


def check_fit(stored, target, folder):
    """Raises `UserError` unless a stored tree has the arrays of `target`."""
    stored, wanted = _shapes(stored), _shapes(target)
    for name in sorted(stored.keys() | wanted.keys()):
        there, here = stored.get(name), wanted.get(name)
        if there != here:
            raise UserError(
                f"{folder} is not of the model that the run's configuration and vocabulary"
                f" describe: {name} has the shape {there} there and {here} here."
            )


def delete(folder):
    """Deletes a checkpoint; gone in one step for whoever reads at this moment."""
    if "://" in str(folder):
        (folder / "commit_success.txt").unlink(missing_ok=True)
    else:
        folder = folder.rename(folder.parent / (folder.name + ocp.utils.TMP_DIR_SUFFIX))
    folder.rmtree()


def reason(error):
    """What went wrong, short enough for a sentence."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if re.match("[A-Z_]+: ", text):  # TensorStore goes from the code to the cause, then details
        text = text.partition(" [")[0].rpartition(": ")[2]
    return textwrap.shorten(text, 160, placeholder=" ...")


@contextlib.contextmanager
def _reading(folder, vouched=True):
    try:
        yield
    except (UserError, Damaged):
        raise
    except Exception as error:  # Orbax and TensorStore raise many kinds
        damage = isinstance(error, _FOREIGN)
        if not vouched and (damage or str(error).startswith(_DAMAGE)):
            raise Damaged(reason(error)) from error
        raise UserError(
            f"{folder} cannot be read now ({reason(error)}). Nothing was changed: try again, or"
            " move that folder away to go on without it."
        ) from error


def _is_array(x):
    return hasattr(x, "shape")


def _shapes(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_array)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x.shape for path, x in leaves}
