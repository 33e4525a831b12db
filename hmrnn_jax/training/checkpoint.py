"""The checkpoints of a run: which are kept, which one is taken, and what is said of the rest.

A run keeps two sets in `workdir/checkpoints`: `latest`, the last two whole states of training,
written asynchronously, and `best`, the parameters with the lowest validation loss. A checkpoint
appears whole or not at all, with a manifest that vouches for its files; a save that was cut short
leaves a temporary folder that is never read. Orbax is in `stored` and `writer` alone.

Reading renames and deletes nothing. A checkpoint that is not whole is reported and passed over, and
the one before it is taken; what cannot be read for another reason, such as a time-out, ends the
program, as the checkpoint may be good.
"""

import contextlib
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from hmrnn_jax import parallel
from hmrnn_jax.errors import UserError
from hmrnn_jax.training import optim, stored
from hmrnn_jax.training.manifest import Damaged
from hmrnn_jax.training.writer import Writer

_KEPT = 2  # whole states in `latest`


class Best(NamedTuple):
    """The parameters that a run is judged by.

    Attributes:
      step: their update.
      tree: `{params, slope}`.
      origin: what they are, in words: "parameters of update 12", or of which others and why.
    """

    step: int
    tree: Any
    origin: str


class Checkpoints:
    """The checkpoints of one workdir; use as a context manager, which waits for pending saves.

    Args:
      workdir: folder, local or `gs://`.
      read_only: True for evaluation: nothing is created, moved or deleted.
      say: function that logs a line; the attribute `notes` collects them if it is not given.
    """

    def __init__(self, workdir, read_only=False, say=None):
        workdir = epath.Path(workdir)
        if "://" not in str(workdir):
            workdir = workdir.absolute()  # Orbax insists
        self.folder = workdir / "checkpoints"
        self.notes = []
        self._say = say or self.notes.append
        self._writer = None if read_only else Writer(self.folder, self._warn)
        self._whole = set()  # steps of `latest` that this process has written or verified
        self._best = None  # (step, loss) of the best one; no loss if an earlier version wrote it
        self._new_best = False  # whether this process has written it

    def __enter__(self):
        return self

    def __exit__(self, kind, *error):
        if self._writer:
            try:
                # An error that is on its way says more than what it did to a save.
                with contextlib.suppress(UserError) if kind else contextlib.nullcontext():
                    self.wait()
                    # What a run deletes that ends by an error may by now be another one's.
                    if not kind:
                        self._clean()
            finally:
                self._writer.close()

    # Writing

    def save(self, step, tree):
        """Saves the whole state of training; returns while the files are being written.

        Raises:
          UserError: the parameters are not finite, or this save or the one before failed.
        """
        self.wait()
        if step not in self._whole:
            self._write("latest", step, tree)

    def save_best(self, step, tree, loss):
        """Saves `{params, slope}` of the validation that did best, with its loss.

        A better one stays: a run that goes on from an older state may have had it. Raises as
        `save`.
        """
        self.wait()
        kept, its = self._best or (None, None)
        if its is None or its > loss:
            self._write("best", step, tree, loss=loss)
        elif kept != step:
            self._say(f"the best checkpoint stays that of update {kept:,}, of the loss {its:.6g}")

    def _write(self, name, step, tree, **facts):
        # On the host, where they go anyway: a compiled check is a program that a start waits for.
        parameters = jax.tree.leaves(jax.device_get(stored.parameters(tree)))
        if not all(np.isfinite(leaf).all() for leaf in parameters):
            raise UserError(f"The parameters after update {step:,} are not finite; {self.kept()}.")
        self._clean(keep=step)
        self._writer.write(name, step, tree, **facts)

    def wait(self):
        """Blocks until every save is whole on disk.

        Raises:
          UserError: one failed.
        """
        name, step, facts = self._writer.wait() or (None, None, None)
        if name == "latest":
            self._whole.add(step)
        elif name == "best":
            self._best, self._new_best = (step, facts["loss"]), True

    def kept(self):
        """What a run that ends now can go on from, in words."""
        with contextlib.suppress(UserError):
            self.wait()
        if not self._whole:
            return "nothing is saved yet"
        return f"the checkpoint of update {max(self._whole):,} is kept"

    def _clean(self, keep=None):
        """Deletes what newer checkpoints have replaced, but those of the step `keep`.

        Only steps known to be whole count among those kept, and what is newer than these stays.
        """
        self._whole = set(sorted(self._whole)[-_KEPT:])
        if jax.process_index():
            return
        old = []
        if len(self._whole) == _KEPT:
            found = stored.steps(self.folder / "latest")
            old += [self.folder / "latest" / str(step) for step in found if step < min(self._whole)]
        if self._new_best:
            found = set(stored.steps(self.folder / "best")) - {self._best[0], keep}
            old += [self.folder / "best" / str(step) for step in found]
        self._writer.delete(old)

    # Reading

    def restore(self, target):
        """The newest whole state of training, placed as `target` is; None if there is none.

        Every process takes the one that process 0 chooses.

        Raises:
          UserError: checkpoints are there, but none that training can go on from is whole; or one
            cannot be read now, or is of another model.
        """
        step, tree = self._newest("latest", target)
        if step is None:
            return None
        self._whole = {step}
        best = parallel.from_first(self._look_at_best, step, float(tree["progress"]["best"]))
        self._best = best and tuple(best)
        return tree

    def restore_best(self, target):
        """The best checkpoint, or the newest state's parameters if there is none, as a `Best`.

        Of a state whose average is what validation judges it is the average.

        Args:
          target: `{params, slope}`, placed as they are wanted.

        Raises:
          UserError: no checkpoint is whole; or one cannot be read now, or is of another model.
        """
        if self._writer:
            self._writer.join()
        step, tree = self._newest("best", target)
        if step is not None:
            return Best(step, tree, f"parameters of update {step:,}")
        step, tree = self._newest("latest")
        if step is None:
            raise UserError(f"{self.folder} holds no checkpoint: train a run there first.")
        why = "no validation has done best yet"
        if np.isfinite(tree["progress"]["best"]):
            why = "the best is lost"
            self._warn("the best checkpoint is lost: no score of other parameters is its score")
        since = int(tree["progress"].get("since", -1))  # of `optim.NonMonotone`
        name, which = "params", "parameters"
        if optim.averaged_since(since, step):
            name, which = "average", "averaged parameters"
        tree = {"params": tree["state"][name], "slope": tree["slope"]}
        stored.check_fit(tree, target, self.folder / "latest" / str(step))
        tree = jax.tree.map(_place, tree, target)
        return Best(step, tree, f"{which} of the newest state, update {step:,}, as {why}")

    def _look_at_best(self, step, loss):
        """`(step, loss)` of the best checkpoint, for a run that goes on after update `step` and
        knows of the validation loss `loss`."""
        for best, written in self._attempts("best"):
            try:
                stored.verify(self.folder / "best" / str(best), written)
            except Damaged as fault:
                self._tell("best", best, fault)
                continue
            its = written and written["facts"].get("loss")
            if its is None and best > step:
                self._warn(
                    f"the best checkpoint, of update {best:,}, is newer than the state that the"
                    " run goes on from, and its loss is not on record: the next validation that"
                    " does best replaces it"
                )
            elif its is not None and np.float32(its) != np.float32(loss):
                self._warn(
                    f"the best checkpoint, of update {best:,}, has the loss {its:.6g}; the state"
                    f" that the run goes on from knows of {loss:.6g}. It stays until a validation"
                    " does better than both"
                )
            return best, its
        if np.isfinite(loss):
            self._warn(
                f"the best checkpoint, of the loss {loss:.6g}, is lost: the next validation that"
                " does better takes its place"
            )
        return None

    def _newest(self, name, target=None):
        """`(step, tree)` of the newest whole checkpoint of a set, or `(None, None)`.

        The tree is placed as `target` is, or as nested dicts and lists of numpy arrays.
        """
        taken = []

        def choose():
            step, tree = self._choose(name, target)
            taken.append(tree)
            return step

        step = parallel.from_first(choose)
        if step is None:
            return None, None
        folder = self.folder / name / str(step)
        tree = parallel.in_all(lambda: taken[0] if taken else stored.read(folder, target))
        return step, tree if target is None else jax.tree.map(_place, tree, target)

    def _choose(self, name, target):
        attempts = self._attempts(name)
        for step, written in attempts:
            folder = self.folder / name / str(step)
            try:
                stored.verify(folder, written)
                return step, stored.read(folder, target, vouched=bool(written))
            except Damaged as fault:
                if not self._writer and not folder.exists():
                    return self._choose(name, target)  # training went on and replaced it
                self._tell(name, step, fault)
        if attempts and name == "latest":
            raise UserError(
                f"None of the checkpoints in {self.folder / name} is whole; they stay where they"
                " are. Bring one back from a backup, choose another --workdir, or train anew with"
                " --fresh, which sets the old run aside."
            )
        return None, None

    def _attempts(self, name):
        """`(step, manifest or None)` of a set in the order in which they are tried.

        The newest state or the least loss comes first, and what has a damaged manifest last:
        nothing vouches for its files, but they may be good.
        """
        found, doubtful = [], []
        for step in stored.steps(self.folder / name):
            try:
                found.append((step, stored.read_manifest(self.folder / name / str(step))))
            except Damaged as fault:
                self._warn(f"{name}/{step}: {fault}, so that nothing vouches for its files")
                doubtful.append((step, None))
        if name == "best":
            found.sort(key=lambda pair: pair[1]["facts"]["loss"] if pair[1] else np.inf)
        return found + doubtful

    def _warn(self, note):
        self._say(f"warning: {note}")

    def _tell(self, name, step, fault):
        self._warn(f"{name}/{step} is not a whole checkpoint ({fault}); it stays where it is")


def _place(array, like):
    """An array as `like` lies on the devices: a copy in memory of JAX's own, safe to donate."""
    array = np.asarray(array)
    if not isinstance(like, jax.Array):
        return array
    with jax.transfer_guard("allow"):  # JAX does not count this as put there by intent
        return jax.make_array_from_callback(array.shape, like.sharding, lambda at: array[at]).copy()
