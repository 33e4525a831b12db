"""The one exception for faults that the user can mend."""

# Exit statuses of the programs, beside 0 and Python's 1 for a fault of ours.
BAD_INPUT = 2  # a `UserError`
STOPPED = 75  # SIGTERM came, all is saved, and the same command resumes (EX_TEMPFAIL)
INTERRUPTED = 130  # Ctrl-C, as the shell counts it


class UserError(ValueError):
    """Bad input, told in one sentence: what was wrong and what to do.

    `train.py` and `eval.py` print the sentence without a traceback and exit
    with status 2, so it is raised before any compilation starts.
    """


def require(field, value, allowed):
    """Raises `UserError` unless `value` is one of `allowed`."""
    if value not in allowed:
        raise UserError(f"{field} is {value!r}; it must be one of {', '.join(map(str, allowed))}.")
