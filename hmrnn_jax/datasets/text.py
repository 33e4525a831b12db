"""Corpora from text: three splits, their vocabulary, and a user's own files."""

import dataclasses
import zlib

import numpy as np

from hmrnn_jax import files
from hmrnn_jax.datasets import encoded
from hmrnn_jax.datasets.splits import SPLITS, bounds
from hmrnn_jax.datasets.vocabulary import AS_BYTES, Vocabulary, check_unit
from hmrnn_jax.errors import UserError, refusal

_LARGE = 1 << 25  # bytes from which a user's text is encoded in a stream, see `encoded`
_UNPACKED = 8  # bytes that one of a gzipped file may become
_COUNTED = 1 << 23  # symbols of such a text that n-gram models count
_ENDS = 1 << 18  # symbols at either end of a split that its checksum is of


@dataclasses.dataclass
class Corpus:
    """Three splits of one text as ids.

    Attributes:
      name: the published name, only ever for the published text itself.
      splits: 'train', 'valid', 'test' -> ids int32 [N]; of a large text `encoded.Ids`.
      vocabulary: what the ids mean; its symbols are those of the training split.
      source: where the text came from, for the log.
      unknown: split -> number of symbols that were mapped to the unknown symbol.
      ends: split -> bool [N], True at the last symbol of each word, where the words are known and
        the text does not show them.
      note: where the ids are kept, for the log.
    """

    name: str
    splits: dict
    vocabulary: Vocabulary
    source: str
    unknown: dict
    ends: dict = dataclasses.field(default_factory=dict)
    note: str = ""

    def counted(self):
        """The training text as n-gram models count it, int32 [N], and what to call it.

        They take hundreds of bytes a symbol, so of a text that is not held in memory it is the
        beginning.
        """
        ids = self.splits["train"]
        if isinstance(ids, np.ndarray) or len(ids) <= _COUNTED:
            return np.asarray(ids), "same training text"
        return ids[:_COUNTED], f"first {_COUNTED:,} {self.vocabulary.unit} of the training text"

    def fingerprint(self):
        """`{split: [symbols, checksum of its ends]}`, by which another text is told from this."""
        ends = {k: (ids[:_ENDS], ids[-_ENDS:]) for k, ids in self.splits.items()}
        return {
            split: [
                len(self.splits[split]),
                zlib.crc32(b"".join(np.asarray(end, "<i4").tobytes() for end in both)),
            ]
            for split, both in ends.items()
        }

    def describe(self) -> str:
        """A few lines for the log: name, source, sizes, unknown symbols."""
        unit = self.vocabulary.unit
        sizes = ", ".join(f"{split} {len(ids):,}" for split, ids in self.splits.items())
        lines = [
            f"corpus {self.name}: {self.source}",
            f"{unit}: {sizes}; vocabulary {self.vocabulary.size:,}",
        ]
        counts = ", ".join(f"{split} {n:,}" for split, n in self.unknown.items() if n)
        if counts:
            lines.append(f"{unit} never seen in training, read as unknown: {counts}")
        return "\n".join(lines + [self.note] * bool(self.note))


def user_text(path, unit: str = "characters") -> Corpus:
    """A user's own text.

    Args:
      path: one UTF-8 file, split in order into 90, 5 and 5 % of its characters or bytes (in
        words, each cut moves on to the end of the word); or a folder with the files train,
        valid and test, named with or without `.txt`. Any file may be gzipped (`.gz`).
      unit: 'characters', 'bytes' or 'words'.

    The vocabulary is the training split's and an unknown symbol, which stands for whatever
    else valid and test hold. A text of 32 MB or more is not held in memory, see `encoded`.

    Raises:
      UserError: no such path, a missing split, an empty split, words of which a split has
        none, bytes that are not UTF-8.
    """
    check_unit(unit)
    path = files.place(path)
    if path.is_dir():
        found = {split: find_file(path, f"{split}.txt", split) for split in SPLITS}
        absent = [split for split, file in found.items() if file is None]
        if absent:
            raise UserError(
                f"the folder {path} has no {' and no '.join(f'{s}.txt' for s in absent)}: put "
                "train.txt, valid.txt and test.txt there, or give the path of a single file."
            )
    elif path.exists():
        found = {"whole": path}
    else:
        raise UserError(f"there is no file or folder {path}: check the path of your text.")
    if sum(map(_size, found.values())) >= _LARGE:
        splits, vocabulary, unknown, note = encoded.encode(found, unit, str(path))
        return Corpus("text", splits, vocabulary, str(path), unknown, note=note)
    texts = {key: read(file, unit) for key, file in found.items()}
    if "whole" in texts:
        texts = split_in_order(texts["whole"], unit)
    files.check_size(sum(map(len, texts.values())), path)
    return make_corpus("text", texts, unit, str(path), unknown=True)


def _size(file):
    """Bytes of a text, of a gzipped one about."""
    try:
        return file.stat().length * (_UNPACKED if file.name.endswith(".gz") else 1)
    except OSError as error:
        raise UserError(refusal(error)) from error


def make_corpus(
    name: str, texts: dict, unit: str, source: str, unknown: bool | None = None, vocabulary=None
) -> Corpus:
    """Splits of text (str, or bytes) to a corpus; the vocabulary is the training split's.

    Args:
      unknown: True gives the vocabulary an unknown symbol, None only if valid or test need
        it, False never: then a symbol that training has not is an error.
      vocabulary: used in place of the training split's.

    Raises:
      UserError: an empty split, words of which a split has none, or an unseen symbol where
        `unknown` is False.
    """
    for split in SPLITS:
        if not texts[split]:
            raise UserError(f"the {split} part of {source} is empty: give a longer text.")
        if unit == "words" and not texts[split].strip():
            raise UserError(f"the {split} part of {source} holds no word: give a longer text.")
    if vocabulary is None:
        vocabulary = Vocabulary.of(texts["train"], unit, bool(unknown))
        if unknown is None:
            seen = set(vocabulary.symbols)
            if any(set(Vocabulary.of(texts[s], unit).symbols) - seen for s in SPLITS[1:]):
                vocabulary = Vocabulary.of(texts["train"], unit, True)
    splits, counts = {}, {}
    for split in SPLITS:
        try:
            splits[split], counts[split] = vocabulary.encode(texts[split])
        except UserError as error:
            raise UserError(f"in the {split} part of {source}, {error}") from error
    return Corpus(name, splits, vocabulary, source, counts)


def split_in_order(text, unit: str) -> dict:
    """The first 90 %, the next 5 % and the last 5 % of a text (str or bytes), in order."""
    _, *cuts, _ = bounds(len(text))
    if unit == "words":
        for i, cut in enumerate(cuts):
            while 0 < cut < len(text) and not text[cut - 1].isspace():
                cut += 1
            cuts[i] = cut
    return {"train": text[: cuts[0]], "valid": text[cuts[0] : cuts[1]], "test": text[cuts[1] :]}


def find_file(folder, *names):
    """The first file of these names in `folder`, plain or gzipped; None if there is none."""
    folder = files.place(folder)
    for name in names:
        for file in (folder / name, folder / f"{name}.gz"):
            if file.exists() and not file.is_dir():
                return file
    return None


def read(path, unit: str):
    """The text of a file as what `unit` is made from: bytes for bytes, else str.

    Words know line ends of one kind, characters those of the file. Raises `UserError` as
    `files.read_text`.
    """
    if unit == "bytes":
        return files.read_bytes(path)
    text = files.read_text(path, advice=AS_BYTES)
    return files.universal_newlines(text) if unit == "words" else text
