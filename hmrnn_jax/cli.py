"""The shared frame of `train.py` and `eval.py`: flags in, one sentence out on bad input."""

import sys

from absl import app, flags, logging

from hmrnn_jax.errors import UserError


def run(main, default_config=None):
    """Runs `main(argv)`; a user's fault ends with one sentence on stderr and exit status 2.

    Args:
      main: the program.
      default_config: file of the flag `--config` where the command line names none. Not the
        flag's own default, against which overrides meant for another file would be checked.
    """

    def guarded(argv):
        try:
            main(argv)
        except UserError as error:
            fail(error)

    named = any(argument.split("=")[0] in ("--config", "-config") for argument in sys.argv[1:])
    if default_config and not named:
        sys.argv.insert(1, f"--config={default_config}")
    # Orbax and absl report their own progress, and as errors also what they raise.
    logging.set_verbosity(logging.FATAL)
    app.run(guarded, flags_parser=_parse)


def _parse(argv):
    try:
        rest = flags.FLAGS(argv)
        if "config" in flags.FLAGS and flags.FLAGS.config is not None:
            flags.FLAGS.config.keys()  # a file that cannot be loaded is told of only when used
        return rest
    except (flags.Error, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        fail(_cause(error))


def _cause(error):
    """The sentence in what absl and ml_collections report, tracebacks and all."""
    text = str(error.args[0] if error.args else error)
    if "UserError: " in text:
        return text.rpartition("UserError: ")[2].strip().splitlines()[0]
    if "No such file" in text:
        return f"There is no configuration {text.rpartition(': ')[2].strip()}; see configs/."
    text = " ".join(text.replace("\\n", " ").replace("\\'", "'").split()).strip("\"'")
    if isinstance(error, AttributeError | KeyError):
        return f"The configuration has no such field: {text}"
    return f"The command line cannot be read: {text}"


def fail(error):
    """Prints the sentence of an error and exits with status 2."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
