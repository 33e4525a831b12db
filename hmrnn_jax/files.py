"""Files, local or in a bucket: one reader of UTF-8, one rule for lines, one atomic writer."""

import contextlib
import gzip
import os
import uuid
import zlib

import fsspec
from etils import epath

from hmrnn_jax.errors import UserError

# Bytes that one text may have when unpacked: more than the corpora of the papers by far, and
# less than takes a machine down.
LARGEST = 8 << 30
_CHUNK = 1 << 24

# What others write to a bucket, TensorStore among them, must be seen: no listing is remembered.
fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)


@contextlib.contextmanager
def writing(path):
    """A binary file to write, which is at `path` whole when the block ends, or not at all.

    The bytes go to a hidden file beside it first; whatever ends the block early, a full disk
    or an interrupt, removes that and leaves what was at `path` before.

    Raises:
      OSError: the folder is missing, or cannot be written.
    """
    path = epath.Path(path)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.writing"
    try:
        with temporary.open("wb") as file:
            yield file
            if "://" not in str(path):  # a bucket's object appears whole by itself
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_bytes(path, content):
    """Writes a file whole or not at all."""
    with writing(path) as file:
        file.write(content)


def write_text(path, text):
    """Writes a file of UTF-8 whole or not at all; lone surrogates are escaped."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def read_bytes(path, largest=LARGEST):
    """The content of a file, unpacked if its name ends in `.gz`.

    Raises:
      UserError: it cannot be read, is damaged, or holds more than `largest` bytes.
    """
    path = epath.Path(path)
    try:
        with path.open("rb") as raw:
            if not path.name.endswith(".gz"):
                parts = _parts(raw, path, largest)
            else:
                with gzip.open(raw) as unpacked:
                    parts = _parts(unpacked, path, largest)
        return b"".join(parts)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read ({reason}): replace the file.") from error


def _parts(file, path, largest):
    parts, size = [], 0
    while part := file.read(_CHUNK):
        parts.append(part)
        size += len(part)
        if size > largest:
            raise UserError(f"{path} holds more than {largest:,} bytes: split it.")
    return parts


def decode(content, name):
    """Bytes of UTF-8 as text, without a byte order mark.

    Args:
      name: what the bytes are, for the message.

    Raises:
      UserError: they are not UTF-8, or are another encoding by their NULs.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not UTF-8 (byte {error.start:,}): convert it, or read it as bytes."
        ) from error
    if text.count("\0") * 4 > len(text):
        raise UserError(
            f"{name} looks like UTF-16 (every second byte is NUL): convert it to UTF-8."
        )
    return text


def universal_newlines(text):
    """`\\r\\n` and `\\r` as `\\n`."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def lines(text):
    """The lines of a text: what `\\n`, `\\r\\n` or `\\r` end, and nothing else.

    Not `str.splitlines`, which also splits at form feeds, U+0085, U+2028 and others.
    """
    parts = universal_newlines(text).split("\n")
    return parts[:-1] if parts[-1] == "" else parts


def read_text(path):
    """The text of a UTF-8 file, without a byte order mark; unpacked if it ends in `.gz`.

    Raises:
      UserError: the file cannot be read, or is not UTF-8.
    """
    return decode(read_bytes(path), str(path))
