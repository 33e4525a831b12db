"""Faults that the user can mend: one exception, and the sentences of the operating system's."""

import errno
import os

# Exit statuses of the programs, beside 0 and Python's 1 for a fault of ours.
BAD_INPUT = 2  # a `UserError`
STOPPED = 75  # SIGTERM came, all is saved, and the same command resumes, but for --fresh
INTERRUPTED = 130  # Ctrl-C, as the shell counts it

# What to do about the operating system's refusals.
_ADVICE = {
    errno.ENOSPC: "make room, or choose another place",
    errno.EDQUOT: "make room, or choose another place",
    errno.EROFS: "choose another place",
    errno.EACCES: "choose another place, or change its permissions",
    errno.EPERM: "choose another place, or change its permissions",
    errno.EISDIR: "give a file, not a folder",
    errno.ENOTDIR: "choose a place in a folder, not under a file",
    errno.EEXIST: "choose another place",
    errno.ENOENT: "check the path",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit on open files, ulimit -n",
}


class UserError(ValueError):
    """Bad input; the message says in one sentence what is wrong and how to fix it.

    The program prints the sentence without a traceback and exits with status 2, so it is raised
    before any compilation starts.
    """


def require(field, value, allowed):
    """Raises `UserError` unless `value` is one of `allowed`."""
    if value not in allowed:
        raise UserError(f"{field} is {value!r}; it must be one of {', '.join(map(str, allowed))}.")


def refusal(error):
    """The sentence of an `OSError`: which file, why, what to do."""
    place = f"{os.fsdecode(error.filename)}: " if error.filename else ""
    advice = f"; {_ADVICE[error.errno]}" if error.errno in _ADVICE else ""
    return f"{place}{error.strerror or error}{advice}."
