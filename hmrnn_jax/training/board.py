"""What TensorBoard shows of a run: metrics, settings, and the boundaries of a text as they form."""

import contextlib

import numpy as np

from hmrnn_jax.analysis.boundaries import text_view
from hmrnn_jax.analysis.figures.text import draw_boundaries, fitting
from hmrnn_jax.inference import activations
from hmrnn_jax.training import settings

SHOWN = 270  # symbols of the validation text, as in the HM-LSTM's paper
_ROW = 45  # in a row of the figure, which TensorBoard shows some 340 pixels wide
# Looking compiles another program, some seconds: not for a run that is a trial.
FIRST = 100
_KINDS = (bool, int, float, str)
_COMPARED = ("valid/bpc", "valid/nats", "valid/accuracy", "test/bpc", "test/nats", "test/accuracy")


class Board:
    """The event files of a run in a local folder; for the process that writes its metrics.

    That one of them cannot be written ends no training: it is told once, and no more is written.

    Args:
      workdir: folder of the run. step: the step training goes on from; what is there of later ones
        is not shown. say: function that logs a line.
    """

    def __init__(self, workdir, step, say):
        self._say, self._events = say, None
        with self._quietly():
            from hmrnn_jax.training.events import EventFile  # takes long to import

            self._events = EventFile(workdir, step)

    @contextlib.contextmanager
    def _quietly(self):
        try:
            yield
        except Exception as error:  # of libraries, disks and devices, at something that can be left
            self._events = None
            self._say(f"warning: nothing more is written for TensorBoard ({error!r:.200})")

    def scalars(self, step, metrics):
        """Adds `{name: number}` of a step."""
        with self._quietly():
            for name, value in metrics.items() if self._events else ():
                self._events.scalar(name, value, step)

    def settings(self, config):
        """Adds all fields of a configuration, as hyper-parameters to compare runs by."""
        if not self._events:
            return
        with self._quietly():
            flat = settings.flat(config.to_dict())
            flat = {k: v if isinstance(v, _KINDS) else str(v) for k, v in flat.items()}
            self._events.hparams(flat, dict.fromkeys(_COMPARED, 0.0))

    def boundaries(self, step, task, params, slope, title):
        """Adds the boundaries of the beginning of the validation text, as text and as a figure.

        Args:
          step: of the parameters; before `FIRST` nothing is done. task: nothing is done for one
            that is not of `tasks.language`, or whose model has no detectors.
          params: on the host. title: of the run.
        """
        if not self._events or step < FIRST or not hasattr(task, "corpus"):
            return
        with self._quietly():
            ids = task.corpus.splits["valid"][:SHOWN]
            ids = ids[: fitting(task.encoding.symbol_strings(ids), _ROW)]
            z, norms = activations.of(task.model, params, ids, slope)
            if not z:
                return
            delay = task.boundaries.delay
            z = [np.append(fired[delay:], fired[:delay] * 0) for fired in z]
            symbols = task.encoding.symbol_strings(ids)
            cell = activations.counted(task.model)
            view = f"```\n{text_view(symbols, z, **cell)}\n```"
            self._events.text("boundaries", view, step)
            heading = f"{title}, update {step:,}"
            figure = draw_boundaries(symbols, z, norms, heading, _ROW, **cell)
            self._events.figure("boundaries", figure, step)

    def flush(self):
        """Writes what is still in memory."""
        with self._quietly():
            if self._events:
                self._events.flush()

    def close(self):
        """Writes what is still in memory; the last call."""
        events, self._events = self._events, None
        if events:
            with self._quietly():
                events.close()
