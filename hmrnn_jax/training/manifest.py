"""What vouches for the files of a folder: their sizes and SHA-256 sums, in `manifest.json`.

    {"check": "...", "facts": {...}, "files": {"default/_METADATA": [8279, "..."], ...}}

`check` is the SHA-256 of the rest, as the manifest itself can be damaged too. A folder without
a manifest was written by an earlier version.
"""

import hashlib
import json

from hmrnn_jax import files

NAME = "manifest.json"
_CHUNK = 1 << 24


class Damaged(Exception):
    """A folder does not hold what was written; the text says what is wrong."""


def write(folder, part, **facts):
    """Writes the manifest of `folder`: of the files in its folder `part`, and `facts` for JSON."""
    names = {f"{part}/{name}": _measure(folder / part / name) for name in _names(folder / part)}
    content = {"facts": facts, "files": names}
    text = json.dumps({"check": _check(content)} | content, indent=1)
    files.write_text(folder / NAME, text + "\n")


def read(folder):
    """The manifest of a folder, for `verify`; None if it has none.

    Raises:
      Damaged: it is not what was written.
      OSError: it cannot be read.
    """
    try:
        content = json.loads((folder / NAME).read_bytes())
        check = content.pop("check")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, IsADirectoryError):
        raise Damaged(f"{NAME} is not what was written") from None
    if check != _check(content):
        raise Damaged(f"{NAME} is not what was written")
    return content


def verify(folder, manifest):
    """Compares a folder's files with its manifest.

    Raises:
      Damaged: a file is missing, or is not what was written.
      OSError: a file cannot be read.
    """
    for name, written in manifest["files"].items():
        try:
            found = _measure(folder / name)
        except (FileNotFoundError, NotADirectoryError):
            raise Damaged(f"{name} is missing") from None
        except IsADirectoryError:
            raise Damaged(f"{name} is a folder") from None
        if found != written:
            raise Damaged(f"{name} is not what was written")


def _names(folder, prefix=""):
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _names(path, f"{prefix}{path.name}/")
        else:
            yield prefix + path.name


def _measure(path):
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while part := file.read(_CHUNK):
            digest.update(part)
            size += len(part)
    return [size, digest.hexdigest()]


def _check(content):
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
