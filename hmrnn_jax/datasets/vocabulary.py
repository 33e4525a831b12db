"""Symbols of a text and their ids: characters, bytes or words."""

import dataclasses
import functools
import json

import numpy as np

from hmrnn_jax.errors import UserError

UNITS = ("characters", "bytes", "words")
LINE_END = "<eos>"
UNKNOWN = {"characters": "\ufffd", "bytes": -1, "words": "<unk>"}
_CODES = {"characters": 0x110000, "bytes": 0x100}
_CHUNK = 1 << 22  # symbols looked up at once: numpy widens an index array to 8 bytes a symbol


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The symbols of a text; a symbol's id is its place in `symbols`.

    Attributes:
      unit: 'characters', 'bytes' or 'words'. Words are what whitespace separates, and each
        line end is the word '<eos>' (the convention of Penn Treebank and WikiText).
      symbols: strings, or integers 0-255 for bytes.
      unknown: whether id 0 stands for every symbol not listed. It is written '\\ufffd' for
        characters, '<unk>' for words, -1 for bytes.

    Raises:
      UserError: an unknown unit, a repeated symbol, or an `unknown` without its symbol.
    """

    unit: str
    symbols: tuple
    unknown: bool = False

    def __post_init__(self):
        check_unit(self.unit)
        if len(set(self.symbols)) != len(self.symbols):
            raise UserError("a vocabulary holds a symbol twice: list each symbol once.")
        if self.unknown and self.symbols[:1] != (UNKNOWN[self.unit],):
            raise UserError("a vocabulary with an unknown symbol must have it at id 0.")

    @classmethod
    def of(cls, text, unit: str, unknown: bool = False) -> "Vocabulary":
        """The sorted symbols of `text` (str or bytes), after the unknown symbol if wanted."""
        check_unit(unit)
        if unit == "words":
            found = set(split_words(as_unit(text, unit)))
        else:
            codes = _codes(as_unit(text, unit))
            seen = np.zeros(_CODES[unit], bool)
            seen[codes] = True
            found = np.flatnonzero(seen).tolist()
            found = set(map(chr, found)) if unit == "characters" else set(found)
        first = (UNKNOWN[unit],) if unknown else ()
        return cls(unit, first + tuple(sorted(found.difference(first))), unknown)

    @property
    def size(self) -> int:
        """Number of symbols, the unknown symbol included."""
        return len(self.symbols)

    def describe(self) -> str:
        """A few words for messages."""
        return f"a vocabulary of {self.size:,} {self.unit}"

    @functools.cached_property
    def _ids(self) -> dict:
        return {symbol: i for i, symbol in enumerate(self.symbols)}

    @functools.cached_property
    def _table(self) -> np.ndarray:
        table = np.full(_CODES[self.unit], -1, np.int32)
        for i, symbol in enumerate(self.symbols):
            code = ord(symbol) if self.unit == "characters" else symbol
            if code >= 0:
                table[code] = i
        return table

    def encode(self, text) -> tuple[np.ndarray, int]:
        """Text (str, or bytes of UTF-8) to ids.

        Returns:
          ids int32 [N], and how many symbols were unknown (they have id 0).

        Raises:
          UserError: a symbol is missing and the vocabulary has no unknown symbol, or bytes
            that are not UTF-8 where characters or words are wanted.
        """
        text = as_unit(text, self.unit)
        if self.unit == "words":
            text = split_words(text)
            ids = np.fromiter((self._ids.get(w, -1) for w in text), np.int32, len(text))
        else:
            codes = _codes(text)
            ids = np.empty(len(codes), np.int32)
            for i in range(0, len(codes), _CHUNK):
                ids[i : i + _CHUNK] = self._table[codes[i : i + _CHUNK]]
        missing = np.flatnonzero(ids < 0)
        if len(missing) and not self.unknown:
            offset = int(missing[0])
            raise UserError(
                f"the symbol {text[offset]!r} at offset {offset:,} (counted in {self.unit}) is "
                f"not among the {self.size} known {self.unit}: remove it, or train on a text "
                "that has it."
            )
        ids[missing] = 0
        return ids, len(missing)

    def encode_sentence(self, sentence: str) -> tuple[np.ndarray, int]:
        """One sentence to ids int32 [n], and how many of its symbols are unknown.

        As `encode`, but a word vocabulary that holds '<unk>' as one of its words, as Penn
        Treebank's does, takes that for the symbols it lacks.

        Raises:
          UserError: a symbol is missing and there is nothing to stand for it.
        """
        text = as_unit(sentence, self.unit)
        symbols = split_words(text) if self.unit == "words" else list(text)
        unknown = self._ids.get(UNKNOWN[self.unit])
        ids = [self._ids.get(symbol, unknown) for symbol in symbols]
        if None in ids:
            raise UserError(
                f"the symbol {symbols[ids.index(None)]!r} of the sentence {sentence!r} is not in "
                "the vocabulary, which has no unknown symbol: remove the sentence, or train a "
                "model with one."
            )
        return np.array(ids, np.int32), sum(symbol not in self._ids for symbol in symbols)

    def decode(self, ids) -> str:
        """Ids to text; bytes that are no UTF-8 become '\\ufffd', '<eos>' a line end."""
        symbols = [self.symbols[i] for i in np.asarray(ids).tolist()]
        if self.unit == "characters":
            return "".join(symbols)
        if self.unit == "bytes":
            mark = "\ufffd".encode()
            raw = b"".join(mark if s < 0 else bytes((s,)) for s in symbols)
            return raw.decode("utf-8", errors="replace")
        lines = [[]]
        for word in symbols:
            if word == LINE_END:
                lines.append([])
            else:
                lines[-1].append(word)
        return "\n".join(" ".join(line) for line in lines)

    def to_json(self) -> str:
        """One JSON object, read back by `from_json`."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Vocabulary":
        """The vocabulary that `to_json` wrote. Raises UserError for anything else."""
        try:
            fields = json.loads(text)
            symbols, unit = tuple(fields["symbols"]), fields["unit"]
            for symbol in symbols:
                if not _is_symbol(symbol, unit):
                    raise TypeError(f"{symbol!r} is not one of the {unit}")
            return cls(unit, symbols, bool(fields["unknown"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"this is not a stored vocabulary ({error}).") from error


def split_words(text: str) -> list[str]:
    """The words of a text, with '<eos>' for each line end."""
    *lines, last = text.split("\n")
    words = []
    for line in lines:
        words += line.split()
        words.append(LINE_END)
    return words + last.split()


def _is_symbol(symbol, unit: str) -> bool:
    if unit == "bytes":
        return isinstance(symbol, int) and -1 <= symbol <= 255
    return isinstance(symbol, str) and (unit == "words" or len(symbol) == 1)


def check_unit(unit: str) -> None:
    """Raises UserError unless `unit` is one of `UNITS`."""
    if unit not in UNITS:
        raise UserError(f"there is no unit {unit!r}: choose one of {', '.join(UNITS)}.")


def as_unit(text, unit: str):
    """Text (str or bytes) as what `unit` is made from: bytes for bytes, else str.

    Raises UserError, with the place of the first wrong byte, for bytes that are not UTF-8.
    """
    if unit == "bytes":
        return text.encode("utf-8") if isinstance(text, str) else bytes(text)
    if isinstance(text, str):
        return text
    try:
        return bytes(text).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"the byte {text[error.start]:#04x} at offset {error.start:,} is not UTF-8: convert "
            "the text to UTF-8, or read it with unit=bytes."
        ) from error


def _codes(text) -> np.ndarray:
    """One integer per character (its code point) or byte, without a Python loop."""
    if isinstance(text, bytes):
        return np.frombuffer(text, np.uint8)
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
