"""The one exception for faults that the user can mend."""


class UserError(ValueError):
    """Bad input, told in one sentence: what was wrong and what to do.

    `train.py` and `eval.py` print the sentence without a traceback and exit
    with status 2, so it is raised before any compilation starts.
    """


def require(field, value, allowed):
    """Raises `UserError` unless `value` is one of `allowed`."""
    if value not in allowed:
        raise UserError(f"{field} is {value!r}; it must be one of {', '.join(map(str, allowed))}.")
