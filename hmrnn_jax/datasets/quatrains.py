"""Chinese quatrains as text: four verses of five characters, a poem a line."""

import hashlib
import os
import re

from hmrnn_jax import files
from hmrnn_jax.datasets.segmented import lines_of
from hmrnn_jax.datasets.splits import in_order
from hmrnn_jax.datasets.text import Corpus, find_file, make_corpus
from hmrnn_jax.errors import UserError

FOLDER, FILE = "zh-poetry", "quatrains-5char.txt"
# The 16,394 quatrains, from the collection of Zhang and Lapata (2014), that the papers on
# generating text with adversarial networks use since Yu et al. (2017).
_SHA256 = "ac03c5fbb07776f0e43cb1ccfc74732f5313ab3d832df81c8e0db327df35e666"
COMMA, STOP = "\uff0c", "\u3002"  # both of full width
MARKS = (COMMA, STOP, COMMA, STOP)  # what ends each verse
CHARACTERS = 5  # of a verse


def quatrains(root=None, path=None, seed: int = 0) -> Corpus:
    """Quatrains of five-character verses, a poem and a newline after the other (25 symbols).

    The Nested LSTM paper (Moniz, Krueger 2017) generates Chinese poetry; its data and split are
    not known, and this collection has no official split. Poems that repeat an earlier one
    are removed, so that none stands in two splits. The order of the poems is drawn by `seed`,
    and the first 90 % are for training, the next 5 % for validation, the last for the test.
    Characters that training has not are unknown, and counted.

    Args:
      root: the data folder, by default the environment variable HMRNN_DATA; the file
        quatrains-5char.txt (plain or `.gz`) is in its folder zh-poetry.
      path: a file of your own in place of that one: UTF-8, one poem a line, spaces anywhere.
      seed: of the order. The same poems come in the same order on any machine.

    Returns:
      The corpus `quatrains`, or `quatrains-modified` if the file's sha256 is another one.

    Raises:
      UserError: no such file, text that is not UTF-8, a poem of another shape (file and line
        are named), or too few poems for three splits.
    """
    file = files.place(path) if path else _find(root or os.environ.get("HMRNN_DATA"))
    content = files.read_bytes(file, files.room() // 4)
    poems = []
    for number, line in lines_of(content, file):
        poem = "".join(line.split())
        wrong = fault(poem)
        if wrong:
            raise UserError(f"{file}, line {number}: {wrong}: mend the poem or remove it.")
        poems.append(poem)
    distinct = sorted(set(poems), key=lambda poem: _draw(poem, seed))
    parts = in_order(distinct)
    sizes = ", ".join(f"{split} {len(part):,}" for split, part in parts.items())
    source = (
        f"five-character quatrains, from {file}: {len(poems):,} poems, "
        f"{len(poems) - len(distinct):,} repeated ones removed, split by seed {seed} ({sizes})"
    )
    name = "quatrains" if files.same_content(content, _SHA256) else "quatrains-modified"
    texts = {split: "".join(f"{poem}\n" for poem in part) for split, part in parts.items()}
    return make_corpus(name, texts, "characters", source, unknown=True)


def fault(poem: str) -> str | None:
    """What is wrong with the shape of a quatrain, in one phrase; None if nothing is.

    Looked at are the number of verses, their length, and that they end in comma, stop, comma,
    stop; not which symbols the verses are made of.
    """
    verses = [verse for verse in re.split(f"(?<=[{COMMA}{STOP}])", poem) if verse]
    if len(verses) != len(MARKS):
        return f"{len(verses)} in place of {len(MARKS)} verses"
    for number, (verse, mark) in enumerate(zip(verses, MARKS, strict=True), 1):
        length = len(verse.rstrip(COMMA + STOP))
        if length != CHARACTERS:
            return f"verse {number} has {length} in place of {CHARACTERS} characters"
        if not verse.endswith(mark):
            return f"verse {number} does not end in {mark}"
    return None


def _find(root):
    if not root:
        raise UserError(
            f"quatrains needs a file of poems: put {FILE} into $HMRNN_DATA/{FOLDER}, with "
            "HMRNN_DATA set to your data folder, or give the path of your own."
        )
    folder = files.place(root) / FOLDER
    file = find_file(folder, FILE)
    if file is None:
        raise UserError(
            f"quatrains needs a file of poems: put {FILE} (plain or .gz) into {folder}, or give "
            "the path of your own."
        )
    return file


def _draw(poem, seed):
    # A checksum, and not a generator of numpy, whose draws may change between versions.
    return hashlib.md5(f"{seed} {poem}".encode(), usedforsecurity=False).digest()
