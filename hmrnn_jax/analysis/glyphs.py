"""Symbols of a text as glyphs of known width, so that marks can stand under them."""

import unicodedata

_NAMED = {"\n": "⏎", "\r": "␍", "\t": "⇥"}


def glyph(symbol):
    """A symbol as something visible in one line, one glyph for each of its characters.

    Newlines, tabs and other controls get a sign of their own, a combining mark
    a dotted circle to sit on, and an invisible or undecodable character "�".
    The space stays a space.
    """
    return "".join(map(_of_character, symbol))


def _of_character(character):
    category = unicodedata.category(character)
    if character in _NAMED:
        return _NAMED[character]
    if character < " ":
        return chr(0x2400 + ord(character))
    if category in ("Mn", "Me"):
        return "◌" + character
    if category in ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp"):
        return "�"
    return character


def columns(text):
    """Columns that a glyph takes in a terminal: 2 for wide (East Asian), 0 for combining marks."""
    return sum(
        0
        if unicodedata.category(character) in ("Mn", "Me")
        else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )


def wrap(widths, width):
    """Ranges `(start, end)` of symbols that fill lines of at most `width` columns, in order.

    A symbol wider than a whole line gets a line to itself.
    """
    start, filled = 0, 0
    for position, taken in enumerate(widths):
        if filled + taken > width and position > start:
            yield start, position
            start, filled = position, 0
        filled += taken
    if start < len(widths):
        yield start, len(widths)
