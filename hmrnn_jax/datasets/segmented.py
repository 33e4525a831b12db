"""Chinese text with gold words, and the same text as it is written: without spaces."""

import hashlib
import os

import numpy as np
from etils import epath

from hmrnn_jax.datasets.text import SPLITS, Corpus, find_file, make_corpus, read_file
from hmrnn_jax.errors import UserError

FOLDER = "zh-segmentation"
# split -> file -> md5. Universal Dependencies' Chinese GSD 1.3 (its column of tokens, a sentence
# a line) in its own three parts, and the gold test texts of two corpora of the SIGHAN 2005
# bakeoff, all in traditional characters.
FILES = {
    "train": {
        "ud-zh-gsd-v1.3.train.txt": "82968d401ae1880726f9f5aa9f0f4cb0",
        "as_testing_gold.utf8": "7f621f0ecace4935c08bb183fbba0a80",
        "cityu_test_gold.utf8": "d7536c6c47789a9801662c458339a983",
    },
    "valid": {"ud-zh-gsd-v1.3.dev.txt": "bf88cdc8437919b427474ef886581206"},
    "test": {"ud-zh-gsd-v1.3.test.txt": "7714d2e3f6a9a19e9c3aed769ff594b3"},
}


def chinese(root=None) -> Corpus:
    """Traditional Chinese without spaces, for a model that is to find its words by itself.

    Training is the UD Chinese GSD treebank's training part and the gold texts of Academia
    Sinica (AS) and the City University of Hong Kong (CityU), validation and test are the
    treebank's. No split keeps a trace of the words: these are for scoring boundaries, with
    `read_words` and `unspaced`. A line end follows each sentence. Everything else stands as the
    files have it: the treebank writes its commas and full stops in ASCII, the two others in
    full width. Characters that training has not are unknown, and counted.

    Args:
      root: the data folder, by default the environment variable HMRNN_DATA; the five files
        are in its folder zh-segmentation, each plain or `.gz`.

    Returns:
      The corpus `chinese_unsegmented`, or `chinese_unsegmented-modified` if the md5 of a file
      is another one.

    Raises:
      UserError: no data folder, a missing file, or as `read_words`.
    """
    root = root or os.environ.get("HMRNN_DATA")
    folder = epath.Path(root or "$HMRNN_DATA") / FOLDER
    names = [name for split in SPLITS for name in FILES[split]]
    found = {name: find_file(folder, name) if root else None for name in names}
    missing = [name for name, file in found.items() if file is None]
    if missing:
        hint = "" if root else ", with HMRNN_DATA set to your data folder"
        raise UserError(
            f"chinese_unsegmented needs {', '.join(missing)} (plain or .gz): put them into "
            f"{folder}{hint}."
        )
    texts, genuine = {}, True
    for split in SPLITS:
        parts = []
        for name, md5 in FILES[split].items():
            content = read_file(found[name])
            genuine &= hashlib.md5(content, usedforsecurity=False).hexdigest() == md5
            parts.append(unspaced(_words(content, found[name]))[0])
        texts[split] = "".join(parts)
    source = (
        f"{folder}, spaces removed: train {' + '.join(FILES['train'])}, "
        f"valid {', '.join(FILES['valid'])}, test {', '.join(FILES['test'])}; "
        "the gold words are not used"
    )
    name = "chinese_unsegmented" if genuine else "chinese_unsegmented-modified"
    return make_corpus(name, texts, "characters", source, unknown=True)


def read_words(path) -> list[list[str]]:
    """The sentences of a segmented text, each a list of its words.

    Args:
      path: a file in UTF-8, with or without byte order mark, plain or `.gz`: a sentence a line,
        words separated by spaces, ideographic ones (U+3000) included; line ends of any system.
        Empty lines are left out.

    Raises:
      UserError: an unreadable file, text that is not UTF-8 (the line is named), no words.
    """
    return _words(read_file(path), path)


def unspaced(sentences) -> tuple[str, np.ndarray]:
    """Sentences of words as they would be read, and where the words end.

    A newline follows each sentence. It belongs to no word and is not the end of one, so keep it
    out of a score: `mask = np.array(list(text)) != "\\n"`, see `analysis.scores.score_against`.

    Args:
      sentences: sequences of words, of `read_words`.

    Returns:
      The text of T characters, and bool [T], True at the last character of each word.
    """
    text = "".join("".join(words) + "\n" for words in sentences)
    word_ends = np.zeros(len(text), bool)
    # One length for each word, and a step of 1 over the newline.
    lengths, is_word = [], []
    for words in sentences:
        lengths += [len(word) for word in words] + [1]
        is_word += [True] * len(words) + [False]
    last = np.cumsum(lengths, dtype=int) - 1
    word_ends[last[np.array(is_word, bool)]] = True
    return text, word_ends


def lines_of(content: bytes, path) -> list[tuple[int, str]]:
    """The lines of a UTF-8 text that are not blank, each with its number from 1.

    A byte order mark is no part of the text; what ends a line is still on it if it is not "\\n".

    Args:
      content: what the file holds. path: what to call it in a message.

    Raises:
      UserError: the text is not UTF-8; the line is named.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}, is not UTF-8 text: convert the file.") from error
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _words(content, path):
    sentences = [line.split() for _, line in lines_of(content, path)]
    if not sentences:
        raise UserError(f"{path} holds no words: give a text, a sentence a line.")
    return sentences
