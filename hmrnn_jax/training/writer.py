"""Writes checkpoints in the background (Orbax), each with the manifest that vouches for it."""

import contextlib
import threading

import jax
from etils import epy

from hmrnn_jax.errors import UserError
from hmrnn_jax.training import manifest, stored

with epy.lazy_imports():  # half a second, when a checkpoint is first read or written
    import orbax.checkpoint as ocp


class Writer:
    """Writes one checkpoint at a time; every process calls it alike.

    Args:
      folder: what the sets of checkpoints are in.
      warn: function of a sentence.
    """

    def __init__(self, folder, warn):
        self._folder, self._warn = folder, warn
        self._saving = None  # (set, step, facts) that are being written
        self._swept, self._cleaner = False, None
        # Between the last byte and the commit: a checkpoint appears with its manifest.
        options = ocp.options.AsyncOptions(post_finalization_callback=self._vouch)
        self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(), async_options=options)

    def write(self, name, step, tree, **facts):
        """Begins to write the checkpoint of update `step` to the set `name`, in place of its like.

        Args:
          facts: numbers for its manifest.

        Raises:
          UserError: it, or the one before, cannot be written.
        """
        self.wait()
        self._saving = (name, step, facts)
        item = ocp.args.Composite(**{stored.ITEM: ocp.args.StandardSave(tree)})
        with self._failing():
            self._sweep()
            self._orbax.save(self._folder / name / str(step), args=item, force=True)

    def wait(self):
        """Blocks until what is being written is whole; returns its `(set, step, facts)`, or None.

        Raises:
          UserError: it cannot be written.
        """
        if self._saving:
            with self._failing():
                self._orbax.wait_until_finished()
        done, self._saving = self._saving, None
        return done

    def _vouch(self):
        name, step, facts = self._saving
        folder = self._orbax.get_temporary_path(self._folder / name / str(step)).get()
        manifest.write(folder, stored.ITEM, **facts)

    @contextlib.contextmanager
    def _failing(self):
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise many kinds
            (_, step, _), self._saving = self._saving, None
            raise UserError(
                f"The checkpoint of update {step:,} cannot be written ({stored.reason(error)});"
                " what was saved before is kept."
            ) from error

    def _sweep(self):
        """Deletes what saves that were cut short have left, before the first one begins."""
        if self._swept or jax.process_index():
            return
        self._swept = True
        for name in ("latest", "best"):
            folder = self._folder / name
            for path in folder.iterdir() if folder.exists() else ():
                if ocp.utils.is_tmp_checkpoint(path):
                    path.rmtree()

    def delete(self, folders):
        """Deletes checkpoints in the background; folders that are none stay. For process 0."""
        self.join()
        self._cleaner = threading.Thread(target=self._delete, args=(folders,))
        self._cleaner.start()

    def _delete(self, folders):
        for folder in folders:
            try:
                if (folder / stored.ITEM).exists():
                    stored.delete(folder)
            except OSError as error:
                self._warn(f"{folder} cannot be deleted ({stored.reason(error)})")

    def join(self):
        """Blocks until what was to be deleted is."""
        if self._cleaner:
            self._cleaner.join()

    def close(self):
        """Ends the background work."""
        self.join()
        self._orbax.close()
