"""An event file of TensorBoard, written by the thread that adds to it.

tensorboardX's own `SummaryWriter` leaves the writing to a thread. Once that has met a full disk it
is gone, with a traceback, and after ten more events whoever adds one waits for it forever.
"""

import os
import sys
import time

# tensorboardX imports torch where that is installed, some seconds for what is not needed here.
TORCH = sys.modules.setdefault("torch", None)
try:
    from tensorboardX import summary
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.utils import figure_to_image
finally:
    if TORCH is None:
        del sys.modules["torch"]

_HELD = 20  # seconds for which an event may be in memory alone


class EventFile:
    """A new event file.

    Args:
      folder: a local one that is there.
      step: the step training goes on from; what other event files have of later ones is not shown.

    All methods raise `OSError` where the disk does not take what they add.
    """

    def __init__(self, folder, step):
        self._writer, self._flushed = EventsWriter(os.path.join(folder, "events")), time.monotonic()
        self._add(step + 1, file_version="brain.Event:2")
        self._add(step + 1, session_log=SessionLog(status=SessionLog.START))

    def _add(self, step, **content):
        self._writer.write_event(Event(wall_time=time.time(), step=step, **content))
        if time.monotonic() > self._flushed + _HELD:
            self.flush()

    def scalar(self, tag, value, step):
        """Adds a number."""
        self._add(step, summary=summary.scalar(tag, value))

    def text(self, tag, text, step):
        """Adds a text, in Markdown."""
        self._add(step, summary=summary.text(tag, text))

    def figure(self, tag, figure, step):
        """Adds a figure of Matplotlib."""
        self._add(step, summary=summary.image(tag, figure_to_image(figure, close=False)))

    def hparams(self, values, metrics):
        """Adds hyper-parameters, and the names of metrics that runs are compared by.

        Args:
          values: `{name: bool, int, float or str}`. metrics: `{name: number}`.
        """
        for part in summary.hparams(values, metrics):
            self._add(None, summary=part)

    def flush(self):
        """Writes what is still in memory."""
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self):
        """Writes what is still in memory; the last call."""
        self._writer.close()
