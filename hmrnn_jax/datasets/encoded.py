"""Texts larger than memory: encoded once, in a stream, into a file that is mapped, not read.

The file holds the ids of all splits one after the other, uint8, uint16 or uint32, little-endian,
then the vocabulary and the sizes as JSON, then sizes and checksums of both. Its name is the
checksum of the source; it is written aside and renamed, so that whoever finds it finds it whole.
"""

import collections
import contextlib
import functools
import hashlib
import io
import itertools
import json
import math
import mmap
import os
import struct
import time
import zlib

import numpy as np
from etils import epath

from hmrnn_jax import files
from hmrnn_jax.datasets.splits import SPLITS, bounds
from hmrnn_jax.datasets.vocabulary import AS_BYTES, Vocabulary
from hmrnn_jax.errors import UserError, refusal

FOLDER = "texts"  # in the cache
_FORMAT = 1
_END = struct.Struct("<QII8s")  # bytes of JSON; CRC-32 of the ids and of the JSON; _MAGIC
_MAGIC = b"hmrnnids"
_DROPPED = 1 << 22  # symbols after which pages that were read no longer count as this process's
_ABANDONED = 600.0  # seconds without a write after which a file's writer was killed
_MEMORY = 4  # `files.room()`s that ids may take where there is no cache


class Ids:
    """Ids of a split that stay in their file: slices and arrays of places are read as int32.

    `np.asarray` of it reads the whole split.
    """

    def __init__(self, buffer, stored, count, start):
        self._buffer = buffer
        self._is_mapped = isinstance(buffer, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED")
        self._stored = np.frombuffer(buffer, stored, count, start)
        self._read = 0

    def __len__(self):
        return len(self._stored)

    def __getitem__(self, places):
        found = self._stored[places].astype(np.int32)
        self._read += found.size
        if self._read > _DROPPED and self._is_mapped:
            self._read = 0
            self._buffer.madvise(mmap.MADV_DONTNEED)
        return found

    def __array__(self, dtype=None, copy=None):
        return self[:].astype(dtype or np.int32, copy=False)


def encode(found, unit, name):
    """`(splits, vocabulary, unknown, note)` of a text, as of `datasets.text.Corpus`.

    The first time the text is read four times: for its checksum, its length, its vocabulary and its
    ids; afterwards for its checksum alone.

    Args:
      found: `{split: file}`, or `{"whole": file}`, which is cut as `text.split_in_order` does it.
      unit: of the symbols. name: what the text is, for messages.

    Raises:
      UserError: as `datasets.text.user_text`; or the text changes while it is read, or its ids can
        be kept neither in the cache nor in memory.
    """
    digest, folder = _checksum(found, unit), files.cache_folder(FOLDER)
    path = None if folder is None else epath.Path(folder) / f"{digest[:32]}.ids"
    kept = path and _open(path)
    if kept:
        return (*kept, f"ids kept in {path}")
    lengths = {key: sum(map(len, _parts(file, unit))) for key, file in found.items()}
    for key, length in lengths.items():
        if not length:
            raise UserError(f"the {key} part of {name} is empty: give a longer text.")
    # Before a file is begun: it would be taken for abandoned if this takes long.
    training = itertools.takewhile(lambda piece: piece[0] == "train", _pieces(found, unit, lengths))
    vocabulary = Vocabulary.of_parts((text for _, text in training), unit, unknown=True)
    content = functools.partial(_write, found, unit, name, digest, lengths, vocabulary)
    reason = "HMRNN_CACHE is off"
    if path:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep(path.parent)
            with files.writing(path) as file:
                content(file)
            if kept := _open(path):
                return (*kept, f"ids are now kept in {path}")
            reason = f"{path} does not hold what was written"
        except OSError as error:
            reason = refusal(error).rstrip(".")
    file = io.BytesIO()
    content(file, _MEMORY * files.room())
    kept = _splits(file.getbuffer(), _about(file)[0])
    return (*kept, f"ids are held in memory, and made anew by the next run: {reason}")


def _checksum(found, unit, digests=None):
    """Of all that the ids depend on; digests: `{key: sha256}` of the files, if they are known."""
    whole = hashlib.sha256(f"{_FORMAT} {unit} {' '.join(found)}".encode())
    for key, file in found.items():
        digest = digests[key] if digests else hashlib.sha256()
        if not digests:
            collections.deque(files.read_parts(file, digest), maxlen=0)
        whole.update(digest.digest())
    return whole.hexdigest()


def _parts(file, unit, digest=None):
    """The text of a file in parts; words have line ends of one kind, and are in one part."""
    if unit == "bytes":
        yield from files.read_parts(file, digest)
        return
    parts = files.text_parts(file, AS_BYTES, digest)
    if unit == "characters":
        yield from parts
        return
    rest = ""
    for part in parts:
        text = rest + files.universal_newlines(part)
        end = len(text)
        while end and not text[end - 1].isspace():
            end -= 1
        rest = text[end:]
        files.check_size(len(rest), f"a word of {file}")
        if end:
            yield text[:end]
    if rest:
        yield rest


def _pieces(found, unit, lengths, digests=None):
    """Yields `(split, text)`, in order; a split may come in many pieces."""
    for key, file in found.items():
        parts = _parts(file, unit, digests and digests[key])
        if key == "whole":
            yield from _cut(parts, lengths[key], unit)
        else:
            yield from ((key, part) for part in parts)


def _cut(parts, length, unit):
    """As `text.split_in_order`."""
    cuts, start = dict(zip(SPLITS, bounds(length)[1:-1], strict=False)), 0
    for part in parts:
        begin = 0
        for split in list(cuts):
            end = cuts[split] - start
            if end >= len(part):
                break
            # A part of words begins where a word may, and ends with a space or with the text.
            while unit == "words" and 0 < end < len(part) and not part[end - 1].isspace():
                end += 1
            yield split, part[begin:end]
            begin = end
            del cuts[split]
        yield next(iter(cuts), "test"), part[begin:]
        start += len(part)


def _write(found, unit, name, digest, lengths, vocabulary, file, largest=math.inf):
    """Writes ids, vocabulary and sizes of a text. Raises `UserError` beyond `largest` bytes."""
    stored = next(t for t in ("<u1", "<u2", "<u4") if vocabulary.size - 1 <= np.iinfo(t).max)
    splits = {split: {"symbols": 0, "unknown": 0} for split in SPLITS}
    digests, checksum, holds = {key: hashlib.sha256() for key in found}, 0, set()
    for split, text in _pieces(found, unit, lengths, digests):
        ids, unknown = vocabulary.encode(text)
        if text.strip():
            holds.add(split)
        splits[split]["symbols"] += len(ids)
        splits[split]["unknown"] += unknown
        content = ids.astype(stored).tobytes()
        checksum = zlib.crc32(content, checksum)
        files.check_size(file.tell() + len(content), name, largest)
        file.write(content)
    if _checksum(found, unit, digests) != digest:
        raise UserError(f"{name} was changed while it was read: start again.")
    if unit == "words" and (none := [split for split in splits if split not in holds]):
        raise UserError(f"the {none[0]} part of {name} holds no word: give a longer text.")
    about = {"stored": stored, "splits": splits, "vocabulary": vocabulary.to_json()}
    about = json.dumps(about).encode()
    file.write(about + _END.pack(len(about), checksum, zlib.crc32(about), _MAGIC))


def _open(path):
    """`(splits, vocabulary, unknown)` of a file, which is mapped; None if it is not whole."""
    try:
        with path.open("rb") as file:
            about, checksum = _about(file)
            left = file.tell()
            file.seek(0)
            found = 0
            while left and (part := file.read(min(left, 1 << 24))):
                found, left = zlib.crc32(part, found), left - len(part)
            if left or found != checksum:
                return None
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _splits(mapped, about)
    except (OSError, ValueError, struct.error, KeyError):
        return None


def _about(file):
    """What the end of a file says, and the checksum of the ids, at whose end the file is then.

    Raises `ValueError`, `KeyError` or `struct.error` if it is damaged.
    """
    size = file.seek(-_END.size, os.SEEK_END)
    length, checksum, of_about, magic = _END.unpack(file.read(_END.size))
    start = file.seek(size - length)
    content = file.read(length)
    if magic != _MAGIC or zlib.crc32(content) != of_about:
        raise ValueError("not a file of ids")
    about = json.loads(content)
    count = sum(split["symbols"] for split in about["splits"].values())
    if count * np.dtype(about["stored"]).itemsize != start:
        raise ValueError("ids are missing")
    file.seek(start)
    return about, checksum


def _splits(buffer, about):
    splits, start, stored = {}, 0, np.dtype(about["stored"])
    for name, split in about["splits"].items():
        splits[name] = Ids(buffer, stored, split["symbols"], start)
        start += split["symbols"] * stored.itemsize
    unknown = {name: split["unknown"] for name, split in about["splits"].items()}
    return splits, Vocabulary.from_json(about["vocabulary"]), unknown


def _sweep(folder):
    """Removes what killed processes were writing."""
    for file in folder.glob(".*.writing"):
        with contextlib.suppress(OSError):
            if time.time() - os.stat(file).st_mtime > _ABANDONED:
                os.unlink(file)
