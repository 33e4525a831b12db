"""One training at a time in a workdir: `lock.json` there says whose it is."""

import contextlib
import json
import os
import socket
import threading
import time
import uuid

from hmrnn_jax import files, parallel
from hmrnn_jax.errors import UserError

NAME = "lock.json"
# Seconds: in a bucket the holder renews its lock; one that was not renewed for a lease is dead.
RENEWAL, LEASE, LOOKS, SETTLING = 15, 60, 5, 2


class Lock:
    """Holds a workdir for this run; a context manager. Process 0 of several holds it for all.

    On a file system the kernel's lock on the open file counts, which ends with its holder; between
    hosts, as far as the file system carries locks over.

    A bucket has no locks: there the object is renewed every 15 seconds, and whoever finds one waits
    a minute for that. The run of a dead holder is thus taken over after a minute. Of two that start
    within the same two seconds the one that wrote last goes on; slower races than that are not
    excluded.

    Args:
      workdir: the run's folder, local or `gs://`; made if it is missing, and unmade if nothing came
        of it.
      say: function that logs a line.

    Its `lost` tells whether another process has taken the workdir over: then nothing may be written
    there any more.

    Raises:
      UserError: another process holds it, or the folder cannot be made or written.
    """

    def __init__(self, workdir, say):
        self._folder = files.place(workdir)
        self._path = self._folder / NAME
        self._local, self._say = "://" not in str(workdir), say
        self._me = {"host": socket.gethostname(), "pid": os.getpid(), "id": uuid.uuid4().hex}
        self._made, self._file, self._thread = [], None, None
        self._end, self.lost = threading.Event(), False

    def __enter__(self):
        parallel.from_first(self._acquire)
        return self

    def __exit__(self, *error):
        if self._file:
            self._path.unlink(missing_ok=True)
            self._file.close()
        if self._thread:
            self._end.set()
            self._thread.join()
            if self._content().get("id") == self._me["id"]:
                self._path.unlink(missing_ok=True)
        self._unmake()

    def check(self):
        """Raises `UserError` if another process has taken the workdir over."""
        if self.lost:
            raise UserError(
                f"{self._folder} was taken over by another process while this one could not renew"
                " its lock: it goes on there."
            )

    def _acquire(self):
        try:
            self._take_file() if self._local else self._take_object()
        except OSError as error:
            self._unmake()
            reason = error.strerror or error
            raise UserError(
                f"{self._folder} cannot be written ({reason}): choose another --workdir."
            ) from error

    def _take_file(self):
        import fcntl  # not on every system that can evaluate

        above = [self._folder, *self._folder.parents]
        self._made = [path for path in above if not path.exists()]
        self._folder.mkdir(parents=True, exist_ok=True)
        while True:
            file = open(os.fspath(self._path), "a+")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                raise self._refusal(self._content()) from None
            except OSError as error:
                self._say(
                    f"warning: {self._folder} is on a file system without locks"
                    f" ({error.strerror}): nothing keeps another training out"
                )
            if self._path.exists() and os.path.samestat(
                os.fstat(file.fileno()), os.stat(self._path)
            ):
                break
            file.close()  # of a holder that has just ended and deleted it
        file.truncate(0)
        file.write(json.dumps(self._me) + "\n")
        file.flush()
        self._file = file

    def _unmake(self):
        for path in self._made:
            with contextlib.suppress(OSError):  # something is in it
                os.rmdir(path)

    def _take_object(self):
        found, end = self._content(), time.monotonic() + LEASE
        while found and time.monotonic() < end:
            time.sleep(LOOKS)
            if (now := self._content()) and now != found:
                raise self._refusal(now)
            found = now
        self._renew(0)
        time.sleep(SETTLING)
        if (now := self._content()).get("id") != self._me["id"]:
            raise self._refusal(now)
        self._thread = threading.Thread(target=self._hold, daemon=True)
        self._thread.start()

    def _hold(self):
        beat = 0
        while not self._end.wait(RENEWAL):
            beat += 1
            with contextlib.suppress(Exception):  # a bucket out of reach may come back
                found = self._content()
                if found and found.get("id") != self._me["id"]:
                    self.lost = True
                    return
                self._renew(beat)

    def _renew(self, beat):
        # Always of one length: a reader may have learnt the size of the one before.
        self._path.write_text(json.dumps(self._me | {"renewed": f"{beat:09}"}))

    def _content(self):
        try:
            return json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return {}

    def _refusal(self, holder):
        who = f" (process {holder['pid']} on {holder['host']})" if "pid" in holder else ""
        return UserError(
            f"{self._folder} is in use by another training{who}: wait for its end, or choose"
            " another --workdir."
        )
