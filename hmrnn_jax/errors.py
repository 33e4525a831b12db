"""The one exception for faults that the user can mend."""


class UserError(ValueError):
    """Bad input, told in one sentence: what was wrong and what to do.

    `train.py` and `eval.py` print the sentence without a traceback and exit
    with status 2, so it is raised before any compilation starts.
    """
