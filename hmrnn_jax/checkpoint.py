"""Checkpoints (Orbax). The only file that imports it.

A run keeps two sets in `workdir/checkpoints`: `latest`, the last two whole states of
training, written asynchronously; and `best`, the parameters with the lowest validation
loss. A save that was cut short leaves a temporary folder that is never read.
"""

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from hmrnn_jax.errors import UserError


class Checkpoints:
    """The checkpoints of one workdir; use as a context manager, which waits for pending saves.

    Args:
      workdir: folder, local or `gs://`.
      read_only: True for evaluation: nothing is created or cleaned up.
    """

    def __init__(self, workdir, read_only=False):
        workdir = epath.Path(workdir)
        if "://" not in str(workdir):
            workdir = workdir.absolute()  # Orbax insists
        self.folder = workdir / "checkpoints"
        self.notes = []
        self._read_only = read_only
        self._managers = {"latest": self._open("latest", 2), "best": self._open("best", 1)}

    def _open(self, name, keep):
        if self._read_only and not (self.folder / name).exists():
            return None
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if self._read_only else keep,
            cleanup_tmp_directories=not self._read_only,
            create=not self._read_only,
            read_only=self._read_only,
        )
        return ocp.CheckpointManager(self.folder / name, options=options)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for manager in filter(None, self._managers.values()):
            manager.close()

    def save(self, step, tree):
        """Saves the whole state of training; returns while the files are being written."""
        self.wait()
        manager = self._managers["latest"]
        if manager.latest_step() != step:
            manager.save(step, args=ocp.args.StandardSave(tree), force=True)

    def save_best(self, step, tree):
        """Saves `{params, slope}` of the validation that did best so far."""
        self.wait()
        manager = self._managers["best"]
        if step in manager.all_steps():  # trained again from an older checkpoint
            manager.delete(step)
        manager.save(step, args=ocp.args.StandardSave(tree), force=True)

    def wait(self):
        """Blocks until every save is whole on disk.

        Each save begins with it: two at once, of several processes, would wait for each
        other at the same barriers.
        """
        for manager in filter(None, self._managers.values()):
            manager.wait_until_finished()

    def restore(self, target):
        """The newest whole state of training, placed as `target` is; None if there is none.

        A checkpoint that cannot be read is moved aside, told in `notes`, and the one
        before it is taken.

        Raises:
          UserError: checkpoints are there, but none can be read.
        """
        step, tree = self._newest("latest", target)
        return None if step is None else tree

    def restore_best(self, target):
        """`(step, {params, slope})` of the best checkpoint, or of the newest if there is no best.

        Args:
          target: `{params, slope}`, placed as they are wanted.

        Raises:
          UserError: no checkpoint can be read.
        """
        step, tree = self._newest("best", target)
        if step is None:
            step, tree = self._newest("latest", None)
            if step is None:
                raise UserError(f"{self.folder} holds no whole checkpoint; run train.py first.")
            found = {"params": tree["state"]["params"], "slope": tree["slope"]}
            tree = jax.tree.map(lambda t, x: jax.device_put(x, t.sharding), target, found)
        return step, tree

    def _newest(self, name, target):
        manager = self._managers[name]
        steps = sorted(manager.all_steps(), reverse=True) if manager else []
        abstract = target and jax.tree.map(ocp.utils.to_shape_dtype_struct, target)
        for step in steps:
            try:
                if target is None:
                    return step, _plain(self.folder / name / str(step) / "default")
                tree = manager.restore(step, args=ocp.args.StandardRestore(abstract))
                return step, jax.tree.map(_own, tree)
            except Exception as error:  # Orbax and TensorStore raise many kinds for a broken file
                self._set_aside(name, step, error)
        if steps and name == "latest":
            raise UserError(
                f"None of the checkpoints in {self.folder / name} can be read; they were kept"
                " aside. Choose another --workdir to start afresh."
            )
        return None, None

    def _set_aside(self, name, step, error):
        reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
        kept = ""
        if not self._read_only and jax.process_index() == 0:
            aside = self.folder / f"unreadable-{name}-{step}"
            (self.folder / name / str(step)).rename(aside)
            kept = f", moved to {aside}"
        self.notes.append(f"checkpoint {name}/{step} cannot be read ({reason}){kept}")
        if not self._read_only:
            self._managers[name].reload()


def _plain(folder):
    """A checkpoint as numpy arrays, whatever the devices and processes that wrote it."""
    checkpointer = ocp.PyTreeCheckpointer()
    tree = checkpointer.metadata(folder).item_metadata.tree
    as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
    arguments = jax.tree.map(lambda _: as_numpy, tree, is_leaf=lambda x: hasattr(x, "shape"))
    return checkpointer.restore(folder, restore_args=arguments)


def _own(x):
    """A copy in memory of JAX's own, safe to donate.

    On the CPU a restored array may borrow memory that XLA must not reuse.
    """
    return x.copy() if isinstance(x, jax.Array) else np.asarray(x)
