"""The frame of the programs: a command line in, one sentence and an exit status out.

A program is a `Command`: a function and a table of its flags, which are absl's. The fields of the
configuration that its flag `--config` names are flags too, `--config.window=50`, of the kinds in
`training.settings`; whatever is given twice, the last one counts. What is heavy is imported where
it is needed, so that help and mistakes are answered at once.
"""

import contextlib
import functools
import hashlib
import inspect
import json
import os
import platform
import signal
import sys
import textwrap
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from absl import flags, logging

from hmrnn_jax import huge_pages
from hmrnn_jax.errors import BAD_INPUT, INTERRUPTED, UserError, refusal
from hmrnn_jax.training import fields

PIPE_CLOSED = 141  # who read the output has gone, as the shell counts SIGPIPE
# The flag that prints what a command returns.
JSON = {"json": (False, fields.Switch("Makes the last line of the output one JSON object."))}
HELP = {"--help", "-help", "--helpfull", "-helpfull", "--helpshort", "-h", "-?"}


class Command(NamedTuple):
    """A program, or a sub-command of one.

    Attributes:
      main: `main(given)`, with the flags' values as attributes of `given`; `given.config` is the
        `ConfigDict` with all overrides, or None where there is none; `given.named` are the names
        of the flags that the command line has. Its docstring is the help. It returns the exit
        status, if that is a number; else what a flag `json` prints: dictionaries, lists, numbers
        and arrays.
      flags: `{name: (default, field)}`, fields as in `training.fields`.
      needs: names of the flags that must be given.
      meant: what a word that is no flag was likely to be, with `{}` for the word.
      word: name of the flag that a word without one is for, if it names a file.
    """

    main: Callable[[Any], Any]
    flags: Mapping[str, tuple[Any, fields.Field]] = types.MappingProxyType({})
    needs: tuple[str, ...] = ()
    meant: str = ""
    word: str = ""


def run(command):
    """Runs a program and exits. Arguments and exit status: as `call`, with `sys.argv`."""
    start(functools.partial(execute, command, sys.argv))


def start(work):
    """Runs `work()` as this process's program and exits: with `status(work)`."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # what a terminal cannot show is escaped
            stream.reconfigure(errors="backslashreplace")
    huge_pages.use()
    keep_programs()
    flags.FLAGS.mark_as_parsed()  # libraries have flags there, which keep their defaults
    _silence_libraries()
    code = status(work)
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # Python's own end takes a while, too
            signal.signal(number, lambda *_: os._exit(code))
    sys.exit(code)


def call(command, argv):
    """Parses `argv` and runs the command; returns the exit status, see `status`."""
    return status(functools.partial(execute, command, argv))


def execute(command, argv, others=()):
    """Parses `argv`, the name of the program first, and runs the command; returns its status.

    Args:
      others: names of other commands, for who takes one for a flag.

    Raises:
      UserError: the command line cannot be read.
    """
    values = _values(command, argv)
    if HELP & set(argv[1:]):
        return print(help_text(command, values))
    _parse(command, values, argv, others)
    given = types.SimpleNamespace(
        **{name: values[name].value for name in command.flags},
        named={name for name in values if values[name].present},
    )
    result = command.main(given)
    if isinstance(result, int):
        return result
    if getattr(given, "json", False):
        print(json_line(result), flush=True)


def keep_programs():
    """Has JAX keep what it compiles in the user's cache, for the next start; before it is imported.

    `HMRNN_CACHE` says where, or `off`, see `files.cache_folder`; JAX_COMPILATION_CACHE_DIR goes
    before. A folder belongs to one kind of processor: what XLA compiles for one need not run on
    another. Where nothing can be written nothing is kept.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or "jax" in sys.modules:
        return
    from hmrnn_jax import files

    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        lines = (line for line in file if line.startswith(("model name", "flags", "Features")))
        processor = "".join(sorted(set(lines)))
    digest = hashlib.sha256(processor.encode()).hexdigest()[:16]
    folder = files.cache_folder(os.path.join("programs", digest))
    if folder is None:
        return
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return
    if not os.access(folder, os.W_OK):
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    # XLA warns of features that it names otherwise when it compiles for a CPU than when it loads.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Of a disk that is full by now, or of an entry that another process is writing.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")


def _silence_libraries():
    """Orbax, asyncio and absl log their progress, and as errors also what they raise.

    Of a save that has failed TensorStore's threads print besides that nobody waits for the rest.
    """
    logging.use_absl_handler()
    logging.set_verbosity(logging.FATAL)
    warnings.filterwarnings("ignore", r"coroutine .* was never awaited", RuntimeWarning)
    sys.unraisablehook = _print_unless_nobody_waits


def _print_unless_nobody_waits(unraisable):
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def status(work):
    """Runs `work()`; returns what it returns if that is a number, and 0 otherwise.

    A fault of the user's, the operating system's refusal, or too little memory is reported in one
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
    except (MemoryError, RuntimeError) as error:
        reason = (str(error).strip() or "the machine has no more").splitlines()[0]
        if not isinstance(error, MemoryError) and not _is_memory(error, reason):
            raise
        return _told(
            f"There is too little memory ({reason}): ask for less at once, such as a smaller"
            " batch, window or model."
        )
    finally:
        _drop_what_nobody_takes()


def _is_memory(error, reason):
    import jax

    return isinstance(error, jax.errors.JaxRuntimeError) and reason.startswith("RESOURCE_EXHAUSTED")


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


def _values(command, argv):
    """The command's flags and those of the configuration's fields, together."""
    values = flags.FlagValues()
    for name, (default, field) in command.flags.items():
        fields.flag(values, name, default, field)
    if "config" not in command.flags:
        return values
    # Wherever it stands, before the fields are known.
    first = flags.FlagValues()
    first.set_gnu_getopt(True)
    fields.flag(first, "config", *command.flags["config"])
    try:
        first(argv, known_only=True)
    except flags.Error as error:
        raise UserError(f"{error}.") from None
    if first.config is not None:
        from hmrnn_jax.training import config_file, settings

        config = config_file.load(first.config)
        defaults = settings.flat(config.to_dict())
        for name, field in settings.fields(config).items():
            fields.flag(values, f"config.{name}", defaults[name], field)
        values["config"].value = config
    return values


def _parse(command, values, argv, others):
    """Sets the flags and the configuration's fields."""
    config = values["config"].value if "config" in values else None
    try:
        rest = values(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(_unknown(error.flagname, values, config, others)) from None
    except (flags.Error, ValueError) as error:
        raise UserError(f"{error}.") from None
    if len(rest) == 1 and command.word and os.path.isfile(rest[0]):
        if values[command.word].present:
            raise UserError(f"{rest[0]} and --{command.word} are given at once; give one of them.")
        values[command.word].parse(rest.pop())
        values[command.word].present = 1
    if any(word.startswith("-") for word in rest):
        raise UserError(
            f"{' '.join(rest)!r} is not a flag, nor a file: leave out a dash alone, and give flags"
            " before '--'."
        )
    if rest:
        likely = f"--{rest[0]}" if rest[0].partition("=")[0] in values else command.meant
        likely = f"; did you mean {likely.format(rest[-1])}?" if likely else "."
        known = "is not a flag, nor a file" if command.word else "is not a flag"
        raise UserError(f"{' '.join(rest)!r} {known}{likely}")
    for name in command.needs:
        if not values[name].present:
            raise UserError(f"--{name} is missing: {values[name].help}")
    if config is not None:
        names = [name for name in values if name.startswith("config.")]
        config.update_from_flattened_dict(
            {name.partition(".")[2]: values[name].value for name in names if values[name].present}
        )
        values["config"].value = config


def _unknown(name, values, config, others):
    if name.startswith("config.") and "config" in values and config is None:
        return f"--{name} is a field of a configuration: give its file too, --config=FILE."
    if name in others:
        return f"There is no flag --{name}; {name} is a sub-command, see hmrnn {name} --help."
    near = fields.nearest(name, values)
    return f"There is no flag --{name}{f'; did you mean --{near}?' if near else '.'}"


def help_text(command, values):
    """What a command does, and each flag with its default, what it may be, and its meaning."""
    lines = [inspect.getdoc(command.main) or "", "", "Flags, with their defaults:", ""]
    for name in command.flags:
        lines += _flag_help(values[name])
    if further := sorted(set(values) - command.flags.keys()):
        lines += ["", "Fields of the configuration:", ""]
        for name in further:
            lines += _flag_help(values[name])
    return "\n".join(lines)


def _flag_help(flag):
    default = flag.default
    if isinstance(default, tuple | list):
        default = ",".join(map(str, default))
    if isinstance(default, str) and not default.isprintable():
        default = repr(default)
    text = f"{flag.help} ({flag.parser.syntactic_help or 'text'})"
    return [
        f"  --{flag.name}" + ("" if default is None else f"={default}"),
        textwrap.fill(text, 96, initial_indent="      ", subsequent_indent="      "),
    ]


def json_line(data):
    """Data as one line of JSON: arrays are lists, and numbers that are not finite are null.

    Characters are escaped where stdout could not show all of them.
    """
    unicode = (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")
    return json.dumps(_plain(data), ensure_ascii=not unicode, allow_nan=False)


def _plain(data):
    if isinstance(data, Mapping):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, np.ndarray | np.generic):
        return _plain(data.tolist())
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    if isinstance(data, float) and not np.isfinite(data):
        return None
    return data
