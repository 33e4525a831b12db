"""The three parts of a corpus, and where one that comes in one piece is cut."""

import zlib

import numpy as np

SPLITS = ("train", "valid", "test")


def bounds(length: int) -> tuple[int, int, int, int]:
    """Where train, valid and test begin and end: the first 90 %, the next 5 % and the last 5 %.

    Of `length` things in order, the splits are [0, b), [b, c) and [c, length) of the returned
    (0, b, c, length).
    """
    return 0, length * 90 // 100, length * 95 // 100, length


def checksum(*arrays) -> int:
    """Of the bytes of arrays, by which other data are told from these; None counts as none."""
    found = 0
    for array in arrays:
        if array is not None and array.size:
            found = zlib.crc32(np.ascontiguousarray(array), found)
    return found


def in_order(sequence) -> dict:
    """Split -> its part of a sequence (text, bytes, a list), cut at `bounds`."""
    cuts = bounds(len(sequence))
    return {s: sequence[a:b] for s, a, b in zip(SPLITS, cuts, cuts[1:], strict=False)}
