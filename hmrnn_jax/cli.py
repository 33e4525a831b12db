"""The shared frame of the programs: a command line in, one sentence and an exit status out.

A program's flags are absl's. The fields of the configuration that `--config` names are flags too,
`--config.window=50`, of the kinds in `settings`; whatever is given twice, the last one counts.
"""

import contextlib
import errno
import functools
import importlib.machinery
import importlib.util
import inspect
import os
import signal
import sys
import textwrap
import traceback

import jax
from absl import flags, logging
from ml_collections import ConfigDict

from hmrnn_jax.errors import BAD_INPUT, INTERRUPTED, UserError
from hmrnn_jax.training import fields, settings

PIPE_CLOSED = 141  # who read the output has gone, as the shell counts SIGPIPE
HELP = {"--help", "-help", "--helpfull", "-helpfull", "--helpshort", "-h", "-?"}
# What to do about the operating system's refusals.
ADVICE = {
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


def run(main, values=flags.FLAGS, default_config=None, words=""):
    """Runs a program and exits. Arguments and exit status: as `call`, with `sys.argv`."""
    start(functools.partial(_program, main, sys.argv, values, default_config, words))


def start(work):
    """Runs `work()` as this process's program and exits: with `status(work)`."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # what a terminal cannot show is escaped
            stream.reconfigure(errors="backslashreplace")
    flags.FLAGS.mark_as_parsed()  # libraries have flags there, which keep their defaults
    # Orbax and absl report their own progress, and as errors also what they raise.
    logging.use_absl_handler()
    logging.set_verbosity(logging.FATAL)
    sys.exit(status(work))


def call(main, argv, values=flags.FLAGS, default_config=None, words=""):
    """Parses `argv` and runs `main(argv)`; returns the exit status, see `status`.

    Args:
      main: the program; `values.config` is then the `ConfigDict` with all overrides, if
        there is one.
      values: the `FlagValues` of the program.
      default_config: file of the flag `--config` where the command line names none.
      words: what is likely meant by a word that is no flag, with `{}` for the word.
    """
    return status(functools.partial(_program, main, argv, values, default_config, words))


def _program(main, argv, values, default_config, words):
    everything = _with_config(argv, values, default_config)
    if HELP & set(argv[1:]):
        return print(help_text(main, values, everything))
    _parse(argv, values, everything, words)
    return main(argv[:1])


def status(work):
    """Runs `work()`; returns what it returns if that is a number, and 0 otherwise.

    A fault of the user's, the operating system's refusal, or too little memory is told in one
    sentence on stderr and is `errors.BAD_INPUT`; Ctrl-C is `errors.INTERRUPTED`; and
    `PIPE_CLOSED`, that who read the output has gone. Our own faults are raised.
    """
    try:
        result = work()
        if sys.stdout is not None:
            sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except UserError as error:
        return _told(error)
    except BrokenPipeError:
        return PIPE_CLOSED
    except KeyboardInterrupt:
        return _told("interrupted.", INTERRUPTED)
    except OSError as error:
        return _told(refusal(error))
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        reason = (str(error).strip() or "the machine has no more").splitlines()[0]
        if not isinstance(error, MemoryError) and not reason.startswith("RESOURCE_EXHAUSTED"):
            raise
        return _told(
            f"There is too little memory ({reason}): ask for less at once, such as a smaller"
            " batch, window or model."
        )
    finally:
        _drop_what_nobody_takes()


def refusal(error):
    """The sentence of an `OSError`: which file, why, what to do."""
    place = f"{os.fsdecode(error.filename)}: " if error.filename else ""
    advice = f"; {ADVICE[error.errno]}" if error.errno in ADVICE else ""
    return f"{place}{error.strerror or error}{advice}."


def _told(sentence, status=BAD_INPUT):
    with contextlib.suppress(OSError):
        print(f"error: {sentence}", file=sys.stderr, flush=True)
    return status


def _drop_what_nobody_takes():
    """Python writes what is left of stdout at its end, and would report that it cannot."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _with_config(argv, values, default):
    """The program's flags and those of the configuration's fields, together."""
    everything = flags.FlagValues()
    everything.append_flag_values(values)
    values.unparse_flags()
    if "config" not in values:
        return everything
    # Wherever it stands, before the fields are known.
    first = flags.FlagValues()
    first.set_gnu_getopt(True)
    flags.DEFINE_string("config", default and str(default), "", first)
    try:
        first(argv, known_only=True)
    except flags.Error as error:
        raise UserError(f"{error}.") from None
    if first.config is not None:
        config = load(first.config)
        given = settings.flat(config.to_dict())
        for name, field in settings.fields(config).items():
            fields.flag(everything, f"config.{name}", given[name], field)
        everything["config"].value = config
    return everything


def _parse(argv, values, everything, words):
    """Sets the flags and the configuration's fields."""
    config = everything["config"].value if "config" in everything else None
    try:
        rest = everything(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(_unknown(error.flagname, everything, config)) from None
    except (flags.Error, ValueError) as error:
        raise UserError(f"{error}.") from None
    values.mark_as_parsed()
    rest = [word for word in rest if not word.startswith("-")]
    if rest:
        likely = f"--{rest[0]}" if rest[0].partition("=")[0] in everything else words
        likely = f"; did you mean {likely.format(rest[-1])}?" if likely else "."
        raise UserError(f"{' '.join(rest)!r} is not a flag{likely}")
    if config is not None:
        names = [name for name in everything if name.startswith("config.")]
        config.update_from_flattened_dict(
            {
                name.partition(".")[2]: everything[name].value
                for name in names
                if everything[name].present
            }
        )
        values["config"].value = config


def _unknown(name, everything, config):
    if name.startswith("config.") and config is None:
        return f"--{name} is a field of a configuration: give its file too, --config=FILE."
    near = fields.nearest(name, everything)
    return f"There is no flag --{name}{f'; did you mean --{near}?' if near else '.'}"


def load(path):
    """The configuration of `FILE.py`, or `FILE.py:ARGUMENT`: what its `get_config` returns.

    Raises:
      UserError: no such file, one that is not Python or raises something, a result that is no
        configuration, or a field that is unknown, missing or out of its range.
    """
    file, _, argument = str(path).partition(":")
    arguments = (argument,) if ":" in str(path) else ()
    try:
        loader = importlib.machinery.SourceFileLoader("config_file", file)
        module = importlib.util.module_from_spec(
            importlib.util.spec_from_loader(loader.name, loader)
        )
        sys.modules[loader.name] = module  # where dataclasses look for the names in their types
        loader.exec_module(module)
        get_config = getattr(module, "get_config", None)
        if get_config is None:
            raise UserError(f"{file} has no function get_config; see the files in configs/.")
        if not _takes(get_config, arguments):
            wanted = f"no argument: drop :{argument}" if arguments else "an argument: FILE.py:NAME"
            raise UserError(f"{file} takes {wanted}.")
        config = get_config(*arguments)
    except UserError:
        raise
    except FileNotFoundError as error:
        if error.filename != file:
            raise UserError(_raised(file, error)) from error
        raise UserError(f"There is no configuration {file}; see configs/.") from None
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise UserError(f"{file}{line} is not Python: {error.msg}.") from error
    except (Exception, SystemExit) as error:  # whatever the file's own code raises
        raise UserError(_raised(file, error)) from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"get_config of {file} returned {type(config).__name__}, not a ConfigDict; begin with"
            " one of hmrnn_jax.defaults, as the files in configs/ do."
        )
    try:
        settings.check(config)
    except UserError as error:
        raise UserError(f"In {file}: {error}") from None
    return config.lock()


def _takes(function, arguments):
    try:
        inspect.signature(function).bind(*arguments)
        return True
    except TypeError:
        return False


def _raised(file, error):
    """What a configuration raised, and in which of its lines."""
    if isinstance(error, OSError) and error.filename == file:
        return f"The configuration {refusal(error)}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == file]
    where = f", line {own[-1].lineno}, {own[-1].line!r}," if own else ""
    what = textwrap.shorten(str(error).strip("'"), 150, placeholder=" ...")
    return f"{file}{where} raised {type(error).__name__}: {what}."


def help_text(main, values, everything):
    """What the program is, and each flag with its default, what it may be, and its meaning."""
    own = values.find_module_defining_flag("config")
    lines = [(main.__globals__["__doc__"] or "").strip(), "", "Flags, with their defaults:", ""]
    for name in sorted(everything):
        if name in values and values.find_module_defining_flag(name) != own:
            continue
        flag = everything[name]
        default = flag.default
        if isinstance(default, tuple | list):
            default = ",".join(map(str, default))
        if isinstance(default, str) and not default.isprintable():
            default = repr(default)
        lines.append(f"  --{name}" + ("" if default is None else f"={default}"))
        text = f"{flag.help} ({flag.parser.syntactic_help or 'text'})"
        lines.append(textwrap.fill(text, 96, initial_indent="      ", subsequent_indent="      "))
    return "\n".join(lines)
