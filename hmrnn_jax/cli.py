"""The shared frame of `train.py` and `eval.py`: flags in, one sentence out on bad input."""

import sys

from absl import app, flags, logging

from hmrnn_jax.errors import UserError


def run(main):
    """Runs `main(argv)`; a user's fault ends with one sentence on stderr and exit status 2."""

    def guarded(argv):
        try:
            main(argv)
        except UserError as error:
            _fail(error)

    # Orbax and absl report their own progress at INFO.
    logging.set_verbosity(logging.ERROR)
    app.run(guarded, flags_parser=_parse)


def _parse(argv):
    try:
        return flags.FLAGS(argv)
    except (UserError, flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        _fail(error)
    except FileNotFoundError as error:
        _fail(f"The configuration {error.filename} does not exist; see configs/ for those that do.")


def _fail(error):
    print(f"error: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
    sys.exit(2)
