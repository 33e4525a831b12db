"""SIGTERM and Ctrl-C while a run is training."""

import signal
import threading

from hmrnn_jax.errors import INTERRUPTED, STOPPED


class Stopping:
    """True once SIGTERM (preemption) or Ctrl-C has come; a second Ctrl-C interrupts at once.

    A context manager, which puts back the handlers it found. Python handles signals in the main
    thread alone: in another one nothing is changed, and nothing comes.
    """

    def __init__(self):
        self._received = []
        self._found = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._found[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error):
        for number, handler in self._found.items():
            # None is a handler that was not set from Python, and cannot be.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._found.clear()

    def __bool__(self):
        return bool(self._received)

    @property
    def status(self):
        """The exit status of a run that stopped: by this process's signal or by another's."""
        return INTERRUPTED if signal.SIGINT in self._received else STOPPED

    def _receive(self, number, frame):
        self._received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
