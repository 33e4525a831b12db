"""A text that comes in pieces, as str or bytes: each piece as whole characters, or whole words."""

import codecs
from typing import NamedTuple

from hmrnn_jax.datasets.vocabulary import as_unit
from hmrnn_jax.errors import UserError

# What does not end must not take the memory: of a word, or a segment, so many symbols are kept.
LONGEST = 1 << 20


class Held(NamedTuple):
    """How far a text was taken, and what of it waits for its rest.

    Attributes:
      half: the first bytes of a character that is not whole yet.
      word: the last word, until whitespace ends it; of a model of words.
      read: how many bytes were taken. begun: whether any text came, as bytes or as str.
    """

    half: bytes = b""
    word: str = ""
    read: int = 0
    begun: bool = False


def taken(held, piece, unit):
    """`(text, Held)`: what of a piece can be read now, and what is held after it.

    Args:
      held: `Held` before it. piece: str or bytes, see `Stream.push`. unit: of a `Vocabulary`.

    Raises:
      UserError: it is neither, or not UTF-8; a str follows half a character; or a word is too long.
    """
    if not isinstance(piece, str | bytes):
        raise UserError(f"A stream reads str or bytes, not {type(piece).__name__}.")
    if unit == "bytes":
        return as_unit(piece, unit), held
    text, held = _decoded(held, piece)
    if unit != "words":
        return text, held
    text, begun = held.word + text, ""
    if text.endswith("\r"):  # of which "\n" may be a part
        begun = "\r"
    elif text and not text[-1].isspace():
        begun = text.rsplit(None, 1)[-1]
    if len(begun) > LONGEST:
        raise UserError(
            f"A word of the stream has more than {LONGEST:,} characters: this model reads words"
            " with whitespace between them."
        )
    return text[: len(text) - len(begun)], held._replace(word=begun)


def _decoded(held, piece):
    """A piece as str, less what is half a character at its end, and `Held` after it."""
    half, read = held.half, held.read
    if isinstance(piece, str):
        if half and piece:
            raise UserError(
                f"A str follows bytes that begin a character ({half.hex(' ')}): push the rest of"
                " it first."
            )
        text = piece
    else:
        decoder = codecs.getincrementaldecoder("utf-8")()
        decoder.setstate((half, 0))
        try:
            text = decoder.decode(piece)
        except UnicodeDecodeError as error:
            place = read - len(half) + error.start
            raise UserError(
                f"The text is not UTF-8: byte {place:,} cannot be read; convert it."
            ) from None
        half, read = decoder.getstate()[0], read + len(piece)
    after = held._replace(half=half, read=read, begun=held.begun or bool(text))
    return text if held.begun else text.removeprefix("\ufeff"), after


def rest(held):
    """What is left when the text ends: its last word. Raises `UserError` within a character."""
    if held.half:
        raise UserError(
            f"The text is not UTF-8: it ends within a character ({held.half.hex(' ')}); push its"
            " rest, or convert it."
        )
    return held.word
