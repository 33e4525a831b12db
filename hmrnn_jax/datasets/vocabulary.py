"""Symbols of a text and their ids: characters, bytes or words."""

import dataclasses
import functools
import itertools
import json
import re
import string

import numpy as np

from hmrnn_jax import files
from hmrnn_jax.errors import UserError

UNITS = ("characters", "bytes", "words")
AS_BYTES = "convert it to UTF-8, or read it with unit=bytes"  # advice on other encodings
LINE_END = "<eos>"
UNKNOWN = {"characters": "\ufffd", "bytes": -1, "words": "<unk>"}
_CODES = {"characters": 0x110000, "bytes": 0x100}
_CHUNK = 1 << 22  # symbols looked up at once: numpy widens an index array to 8 bytes a symbol
_MOST_WORDS = 1 << 22  # different ones; the softmax of so many takes gigabytes
_PIECE = 1 << 16  # characters split into words at once
_SPACE = re.compile(r"\s")


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
        """The sorted symbols of `text` (str or bytes), after the unknown symbol if wanted.

        Raises:
          UserError: bytes that are not UTF-8, or more than 4 million different words.
        """
        return cls.of_parts([text], unit, unknown)

    @classmethod
    def of_parts(cls, parts, unit: str, unknown: bool = False) -> "Vocabulary":
        """As `of`, of a text in parts between which no word goes on."""
        check_unit(unit)
        parts, found = (as_unit(part, unit) for part in parts), set()
        if unit == "words":
            for words in itertools.chain.from_iterable(map(_word_lists, parts)):
                found.update(words)
                if len(found) > _MOST_WORDS:
                    raise UserError(
                        f"the text has more than {_MOST_WORDS:,} different words: read it as"
                        " characters, or write rare words as <unk>."
                    )
        else:
            seen = np.zeros(_CODES[unit], bool)
            for codes in itertools.chain.from_iterable(map(_codes, parts)):
                seen[codes] = True
            found = np.flatnonzero(seen).tolist()
            found = set(map(chr, found)) if unit == "characters" else set(found)
        first = (UNKNOWN[unit],) if unknown else ()
        return cls(unit, first + tuple(sorted(found.difference(first))), unknown)

    @property
    def size(self) -> int:
        """Number of symbols, the unknown symbol included."""
        return len(self.symbols)

    @property
    def line_end(self) -> int | None:
        """The id of the symbol that ends a line, or None."""
        symbol = {"characters": "\n", "bytes": ord("\n"), "words": LINE_END}[self.unit]
        return self.symbols.index(symbol) if symbol in self.symbols else None

    @property
    def beginning(self) -> str:
        """What comes before a text: a newline; a space, where there are no lines; or any symbol."""
        if self.line_end is not None:
            return "\n"
        return " " if {" ", ord(" ")} & set(self.symbols) else self.decode([self.size - 1])

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
          ids int32 [N], and how many symbols were unknown. They have id 0, or that of '<unk>' where
          this is one of the words, as in Penn Treebank.

        Raises:
          UserError: a symbol is missing and nothing stands for it, or bytes that are not UTF-8
            where characters or words are wanted.
        """
        text = as_unit(text, self.unit)
        if self.unit == "words":
            ids = [
                np.fromiter(map(self._ids.get, words, itertools.repeat(-1)), np.int32, len(words))
                for words in _word_lists(text)
            ]
            ids = np.concatenate([np.empty(0, np.int32), *ids])
        else:
            ids = np.empty(len(text), np.int32)
            for number, codes in enumerate(_codes(text)):
                ids[number * _CHUNK :][: len(codes)] = self._table[codes]
        missing = np.flatnonzero(ids < 0)
        stands_in = self._stands_in
        if len(missing) and stands_in is None:
            offset = int(missing[0])
            symbols = each_word(text) if self.unit == "words" else text
            symbol = next(itertools.islice(symbols, offset, None))
            raise UserError(
                f"the symbol {symbol!r} at offset {offset:,} (counted in {self.unit}) is "
                f"not among the {self.size} known {self.unit}: remove it, or train on a text "
                "that has it."
            )
        if len(missing):
            ids[missing] = stands_in
        return ids, len(missing)

    def ids(self, text) -> np.ndarray:
        """The ids `[N]` of a text: a str, bytes, or an array that has them already.

        Raises:
          UserError: as `encode`; it is something else; or these are the ids of no symbols.
        """
        if isinstance(text, str | bytes):
            return self.encode(text)[0]
        if not hasattr(text, "__array__"):
            raise UserError(
                f"A text is a str, bytes or an array of ids, not {type(text).__name__}: read a file"
                " first, and give a list as np.array."
            )
        ids = np.asarray(text)
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise UserError(
                f"Ids are a row of integers, [N]; these are {ids.dtype} of shape {list(ids.shape)}."
            )
        if len(ids) and not 0 <= ids.min() <= ids.max() < self.size:
            raise UserError(
                f"Ids are 0 to {self.size - 1:,} here; these are {ids.min():,} to {ids.max():,}."
            )
        return ids

    def encode_sentence(self, sentence: str) -> tuple[np.ndarray, int]:
        """As `encode`, of one sentence, which a refusal then quotes.

        Raises:
          UserError: a symbol is missing and nothing stands for it.
        """
        text = as_unit(sentence, self.unit)
        return self.encode_symbols(list(each_word(text) if self.unit == "words" else text))

    @property
    def _stands_in(self):
        """The id of what an unknown symbol is read as; None if there is none."""
        if self.unknown or self.unit == "words":  # U+FFFD may be a character like any other
            return self._ids.get(UNKNOWN[self.unit])
        return None

    def encode_symbols(self, symbols) -> tuple[np.ndarray, int]:
        """As `encode_sentence`, of a sentence whose symbols are apart already."""
        ids = [self._ids.get(symbol, self._stands_in) for symbol in symbols]
        if None in ids:
            sentence = (" " if self.unit == "words" else "").join(map(str, symbols))
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

    def symbol_strings(self, ids):
        """One string for each symbol, a list or a str.

        A byte is the code point of its number, a word has its space behind it, an unknown byte
        or character is '\\ufffd'.
        """
        if self.unit == "characters":
            return self.decode(ids)
        symbols = [self.symbols[i] for i in np.asarray(ids).tolist()]
        if self.unit == "words":
            return [word + " " for word in symbols]
        return ["\ufffd" if byte < 0 else chr(byte) for byte in symbols]

    def as_written(self, text, ids):
        """One string for each symbol of `text` (see `as_unit`), the unknown ones as they are.

        Words are as in `symbol_strings`, the unknown ones too.
        """
        if self.unit == "words":
            return self.symbol_strings(ids)
        return text.decode("latin-1") if isinstance(text, bytes) else text

    def spaces(self, symbols) -> np.ndarray:
        """Which symbols of a text, `symbol_strings` or `as_written`, are spaces: bool [N]."""
        # Some bytes of characters have the numbers of spaces beyond ASCII.
        known = string.whitespace if self.unit == "bytes" else None
        return np.array([s.isspace() if known is None else s in known for s in symbols], bool)

    def unknown_note(self, name, unknown: int, total: int) -> str:
        """A sentence on how many of the symbols of `name` are unknown; '' if none is."""
        if not unknown:
            return ""
        what = "words" if self.unit == "words" else "symbols"
        return (
            f"{name}: {unknown:,} of {total:,} {what} were never seen in training, read as unknown"
        )

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


def each_word(text: str):
    """Yields the words of a text, and '<eos>' for each line end (see `files.each_line`)."""
    return itertools.chain.from_iterable(_word_lists(text))


def _word_lists(text: str):
    """As `each_word`, in lists of few enough for the processor's cache."""
    text, start = files.universal_newlines(text), 0
    while start < len(text):
        space = _SPACE.search(text, start + _PIECE)
        end = space.start() if space else len(text)
        yield text[start:end].replace("\n", f" {LINE_END} ").split()
        start = end


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

    Raises `UserError` as `files.decode` for bytes that are not UTF-8.
    """
    if unit == "bytes":
        return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)
    return text if isinstance(text, str) else files.decode(bytes(text), "the text", AS_BYTES)


def _codes(text):
    """Yields one integer per character (its code point) or byte, as arrays of `_CHUNK`."""
    for start in range(0, len(text), _CHUNK):
        part = text[start : start + _CHUNK]
        if isinstance(part, str) and part.isascii():
            part = part.encode("ascii")
        if isinstance(part, str):
            yield np.frombuffer(part.encode("utf-32-le", "surrogatepass"), "<u4")
        else:
            yield np.frombuffer(part, np.uint8)
