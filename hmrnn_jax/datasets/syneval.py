"""Sentence pairs of Marvin and Linzen (EMNLP 2018): grammatical or not, by construction.

An item is a grammatical sentence and an ungrammatical one that differ in a word. Items of
negative polarity (NPI) have a third, intrusive sentence: ungrammatical too, but with a word that
would license the item elsewhere ("the authors that no guards like have ever ...").

The sentences are all lower-case and without a full stop.
"""

import os
from typing import NamedTuple

from hmrnn_jax import files
from hmrnn_jax.datasets.text import find_file
from hmrnn_jax.errors import UserError

FOLDER, FILE = "lm-syneval", "emnlp2018.tsv"

# The roles in the order of a line's sentences.
PAIR = ("grammatical", "ungrammatical")
TRIPLE = ("grammatical", "intrusive", "ungrammatical")


class Item(NamedTuple):
    """One line of the file.

    Attributes:
      construction: such as `obj_rel_across_anim`.
      condition: such as `sing_MS_MV_plur_ES_EV`, the numbers of its nouns and verbs.
      sentences: two or three strings, in the order of `PAIR` or `TRIPLE`.
    """

    construction: str
    condition: str
    sentences: tuple[str, ...]


def find(data_dir=None):
    """Path of `lm-syneval/emnlp2018.tsv` (or `.tsv.gz`) in the data folder.

    Args:
      data_dir: the data folder, by default the environment variable HMRNN_DATA.

    Raises:
      UserError: there is no such file, or no data folder is named.
    """
    root = data_dir or os.environ.get("HMRNN_DATA")
    path = find_file(os.path.join(root, FOLDER), FILE) if root else None
    if path is None:
        raise UserError(
            f"there is no {FOLDER}/{FILE} (plain or .gz) in "
            f"{root or 'a data folder, for HMRNN_DATA is not set'}: write Marvin and Linzen's "
            "EMNLP2018 templates there, one item a line, as construction, condition and "
            "sentences, separated by tabs."
        )
    return path


def read_items(path):
    """The items of a tab-separated file, gzipped if its name ends in `.gz`.

    A line is construction, condition, grammatical sentence, for an NPI the intrusive
    sentence, ungrammatical sentence.

    Returns a list of `Item`s.

    Raises:
      UserError: the file is unreadable, empty, or a line is not an item; all lines of a
        construction must have the same number of sentences.
    """
    items, counts = [], {}
    for number, line in enumerate(files.read_lines(path), start=1):
        fields = line.split("\t")
        construction, *rest = (field.strip() for field in fields)
        expected = counts.setdefault(construction, len(fields))
        fault = None
        if len(fields) not in (4, 5):
            fault = f"has {len(fields)} fields separated by tabs, not 4 (5 for an NPI)"
        elif len(fields) != expected:
            fault = (
                f"has {len(fields)} fields, but {construction} began with {expected} in this file"
            )
        elif not (construction and all(rest)):
            fault = "has an empty field"
        elif len(set(rest[1:])) < len(rest) - 1:
            fault = "holds the same sentence twice, so that none can be the likelier"
        if fault:
            raise UserError(f"line {number} of {path} {fault}: correct or remove the line.")
        items.append(Item(construction, rest[0], tuple(rest[1:])))
    if not items:
        raise UserError(f"{path} is empty: it must hold one item a line.")
    return items
