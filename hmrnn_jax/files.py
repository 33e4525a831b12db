"""Files, local or in a bucket: one reader of UTF-8, one rule for lines, one atomic writer.

What is read is checked against the memory of this machine before it is held there.
"""

import codecs
import contextlib
import functools
import gzip
import hashlib
import io
import itertools
import os
import pathlib
import uuid
import zlib

import fsspec
from etils import epath

from hmrnn_jax.errors import UserError

# Reading a text takes up to ten times its bytes: as text, as ids, and as parts of both.
_SHARE = 16
_CONTAINER = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_CHUNK = 1 << 24

# What others write to a bucket, TensorStore among them, must be seen: no listing is remembered.
fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)


def cache_folder(name):
    """`$HMRNN_CACHE`/`name`, by default in ~/.cache/hmrnn_jax; None if HMRNN_CACHE is `off`."""
    place = os.environ.get("HMRNN_CACHE") or os.path.join("~", ".cache", "hmrnn_jax")
    return None if place == "off" else os.path.join(os.path.expanduser(place), name)


def holds(source, path):
    """Whether to write to `path` would write into the file or folder `source`."""
    inside, whole = os.path.realpath(path), os.path.realpath(source)
    if not (os.path.isfile(whole) or os.path.isdir(whole)):
        return False  # such as a terminal, or nothing
    return inside == whole or inside.startswith(os.path.join(whole, ""))


def place(path):
    """The path of a file or folder of the user's, local or in a bucket.

    Raises:
      UserError: it is elsewhere, or in a bucket for which a package is missing.
    """
    scheme, elsewhere, rest = str(path).partition("://")
    if elsewhere and (why := _why_not(f"{scheme}://{rest.partition('/')[0]}")):
        raise UserError(f"{path} {why}.")
    return epath.Path(path)


@functools.cache
def _why_not(bucket):
    """Why nothing of a bucket can be read, as the end of a sentence; None if it can be tried."""
    try:
        epath.Path(bucket).exists()
    except KeyError:
        return "is neither a local path nor one in a bucket, gs://"
    except ImportError as error:
        return f"cannot be reached ({error}): pip install that"
    except Exception:  # of the network or of permissions, which are told where it is read
        return None


# Writing

# What Linux has for a process's open files; not /dev/shm, whose files are as others.
_STREAMS = ("/dev/std", "/dev/fd/", "/proc/")


@contextlib.contextmanager
def writing(path):
    """A binary file to write, which is at `path` whole when the block ends, or not at all.

    The bytes go to a hidden file beside it first; whatever ends the block early, a full disk
    or an interrupt, removes that and leaves what was at `path` before. A device or a pipe, such
    as /dev/stdout, is written to as it is, and a link's own file is replaced, not the link.

    Raises:
      OSError: the folder is missing, or cannot be written; `filename` is `path`.
    """
    name = os.fspath(path)
    try:
        with _aside(place(path)) as file:
            yield file
    except OSError as error:
        if error.filename is None or ".writing" in os.fsdecode(error.filename):
            error.filename, error.filename2 = name, None
        raise


@contextlib.contextmanager
def _aside(path):
    remote = "://" in str(path)
    if not remote:
        if str(path).startswith(_STREAMS) or _is_special(path):
            with path.open("wb") as file:
                yield file
            return
        path = epath.Path(os.path.realpath(path))
    temporary = path.parent / f".{uuid.uuid4().hex[:12]}.writing"
    try:
        with temporary.open("wb") as file:
            yield file
            if not remote:  # a bucket's object appears whole by itself
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _is_special(path):
    """Whether something is at a local path that is no file: a device, a pipe, a folder."""
    return os.path.exists(path) and not os.path.isfile(path)


def check_writable(path):
    """Raises `UserError` if a file cannot be written at `path`, as far as can be known before."""
    name, path = str(path), place(path)
    if "://" in name:
        return
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(folder):
        raise UserError(f"The folder {path.parent} does not exist: create it or choose another.")
    if name.endswith("/") or os.path.isdir(path):
        raise UserError(f"{path} is a folder: give the name of a file.")
    if len(os.fsencode(path.name)) > os.pathconf(folder, "PC_NAME_MAX"):
        raise UserError(f"{path.name} is too long for the name of a file: choose a shorter one.")
    writable = os.access(folder, os.W_OK) or _is_special(path)
    if not writable or (os.path.exists(path) and not os.access(path, os.W_OK)):
        raise UserError(f"{path} cannot be written: choose another, or change its permissions.")


def write_bytes(path, content):
    """Writes a file whole or not at all."""
    with writing(path) as file:
        file.write(content)


def write_text(path, text):
    """Writes a file of UTF-8 whole or not at all; lone surrogates are escaped."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


# Reading


@functools.cache
def room():
    """Most bytes of one input: a sixteenth of the memory of this machine or its container."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in _CONTAINER:
        with contextlib.suppress(OSError, ValueError):
            memory = min(memory, int(pathlib.Path(limit).read_text()))
    return memory // _SHARE


def check_size(size, name, largest=None):
    """Raises `UserError` if `name` has more than `largest` bytes, by default `room()`."""
    largest = room() if largest is None else largest
    if size > largest:
        raise UserError(
            f"{name} holds more than {largest:,} bytes, too many for this machine's memory: give a"
            " part of it."
        )


def read_bytes(path, largest=None):
    """The content of a file, unpacked if its name ends in `.gz`.

    Raises:
      UserError: it cannot be read, is damaged, or holds more than `largest` bytes, by default
        `room()`.
    """
    return _joined(read_parts(path), path, largest)


def read_parts(path, digest=None):
    """Yields the content of a file in parts of 16 MB at most, unpacked if its name ends in `.gz`.

    Args:
      digest: a hash of `hashlib`, updated with each part.

    Raises:
      UserError: it cannot be read, or is damaged.
    """
    path = place(path)
    try:
        with contextlib.ExitStack() as opened:
            file = opened.enter_context(path.open("rb"))
            if path.name.endswith(".gz"):
                file = opened.enter_context(gzip.open(file))
            while part := file.read(_CHUNK):
                if digest is not None:
                    digest.update(part)
                yield part
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read ({reason}): replace the file.") from error


def gunzip(content, name, largest=None):
    """Unpacks bytes of gzip. Raises `UserError` as `read_bytes`."""
    try:
        with gzip.open(io.BytesIO(content)) as unpacked:
            return _joined(iter(lambda: unpacked.read(_CHUNK), b""), name, largest)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{name} cannot be unpacked ({error}): fetch it anew.") from error


def _joined(parts, name, largest):
    kept, size = [], 0
    for part in parts:
        kept.append(part)
        size += len(part)
        check_size(size, name, largest)
    return b"".join(kept)


def same_content(content, digest):
    """Whether bytes have this sha256, or, by its length, this md5, in hexadecimal."""
    kind = "md5" if len(digest) == 32 else "sha256"
    return hashlib.new(kind, content, usedforsecurity=False).hexdigest() == digest


# Text


def decode(content, name, advice="convert it to UTF-8"):
    """Bytes of UTF-8 as text, without a byte order mark.

    Args:
      name: what the bytes are, for the message. advice: what to do, for the message.

    Raises:
      UserError: they are not UTF-8, or by their control characters those of UTF-16.
    """
    return "".join(_decoded([content], name, advice))


def text_parts(path, advice="convert it to UTF-8", digest=None):
    """Yields the text of a UTF-8 file in parts, none of which ends between `\\r` and `\\n`.

    Args, errors: as `read_parts` and `decode`; that it looks like UTF-16 shows at its end.
    """
    return _decoded(read_parts(path, digest), path, advice)


# Without blanks, and what separates fields or begins a colour.
_CONTROLS = [chr(n) for n in (*range(9), *range(14, 27))]


def _decoded(parts, name, advice):
    """Yields the text of bytes, without a byte order mark. Raises as `decode`."""
    rest, held, read, ended, controls, length = b"", "", 0, 0, 0, 0
    for part in itertools.chain(parts, [None]):
        content = rest + (part or b"")
        try:
            text, used = codecs.utf_8_decode(content, "strict", part is None)
        except UnicodeDecodeError as error:
            before = universal_newlines(held + content[: error.start].decode())
            line = 1 + ended + before.count("\n")
            raise UserError(
                f"{name}, line {line:,}, is not UTF-8 (byte {content[error.start]:#04x} at offset"
                f" {read + error.start:,}): {advice}."
            ) from error
        rest = content[used:]
        if not read:
            text = text.removeprefix("\ufeff")
        read += used
        text = held + text
        held = "\r" if text.endswith("\r") and part is not None else ""
        text = text[: len(text) - len(held)]
        ended += universal_newlines(text).count("\n")
        controls += sum(map(text.count, _CONTROLS))
        length += len(text)
        if text:
            yield text
    # Every second byte of UTF-16 is the number of an alphabet: 0 Latin, 3 Greek, 14 Thai.
    if 8 * controls > length:
        raise UserError(f"{name} looks like UTF-16 without a byte order mark: {advice}.")


def read_text(path, largest=None, advice="convert it to UTF-8"):
    """The text of a UTF-8 file, without a byte order mark; unpacked if it ends in `.gz`.

    Raises:
      UserError: as `read_bytes` and `decode`.
    """
    return decode(read_bytes(path, largest), path, advice)


def universal_newlines(text):
    """`\\r\\n` and `\\r` as `\\n`."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def each_line(text):
    """Yields the lines of a text: what `\\n`, `\\r\\n` or `\\r` end, and nothing else.

    Not `str.splitlines`, which also splits at form feeds, U+0085, U+2028 and others.
    """
    text, start = universal_newlines(text), 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield text[start:end]
        start = end + 1


def lines(text):
    """The lines of a text as a list, see `each_line`."""
    return list(each_line(text))


def read_lines(path):
    """Yields the lines of a UTF-8 file, see `read_text` and `each_line`.

    The file may have a quarter of `room()`: what is made of lines takes more than a text.
    """
    return each_line(read_text(path, room() // 4))
