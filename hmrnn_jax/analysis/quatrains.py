"""Whether generated quatrains keep their form, and whether they are new."""

import unicodedata

from hmrnn_jax.datasets.quatrains import CHARACTERS, MARKS, fault
from hmrnn_jax.errors import UserError


def keeps_form(poem: str) -> str | None:
    """None for a quatrain in due form, else what is wrong with it, in one phrase.

    Due form are four verses of five Chinese characters that end in comma, stop, comma, stop
    of full width, and nothing else. Rhyme and tone are not looked at.
    """
    odd = (s for s in poem if s not in MARKS and not _is_chinese(s))
    wrong = fault(poem)
    if wrong is None:
        wrong = next((f"the symbol {symbol!r} is no Chinese character" for symbol in odd), None)
    return wrong


def poems(text: str) -> list[str]:
    """The poems of a generated text: what stands before each newline.

    What follows the last newline is unfinished and left out. An empty line is a poem too, one
    without verses, so let the text begin where a poem begins, behind a newline that prompted it.
    """
    return text.split("\n")[:-1]


def repeats(generated, known) -> int:
    """How many generated poems stand in `known`, a set of poems, symbol for symbol."""
    return sum(poem in known for poem in generated)


def form_report(generated, known=None) -> tuple[float, str]:
    """The share of poems that keep their form, and lines of text.

    Args:
      generated: poems, of `poems`.
      known: the set of training poems, to tell how many are repeated; not counted when None.

    Returns:
      The share, in [0, 1], and one line for each poem with what is wrong with it, then a line of
      totals.

    Raises:
      UserError: there are no poems.
    """
    if not generated:
        raise UserError("No poem was finished: generate more symbols.")
    faults = [keeps_form(poem) for poem in generated]
    kept = faults.count(None)
    share = kept / len(generated)
    lines = [
        poem if wrong is None else f"{poem}  <- {wrong}"
        for poem, wrong in zip(generated, faults, strict=True)
    ]
    total = (
        f"{kept} of {len(generated)} poems ({share:.1%}) keep the form, {len(MARKS)} verses of "
        f"{CHARACTERS} characters"
    )
    if known is not None:
        total += f"; {repeats(generated, known)} stand in the training text"
    return share, "\n".join([*lines, total])


def _is_chinese(symbol):
    # The zero of dates stands apart from the ideographs in Unicode.
    name = unicodedata.name(symbol, "")
    return symbol == "\u3007" or name.startswith(("CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH"))
