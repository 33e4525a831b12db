"""Chinese text with gold words, and the same text as it is written: without spaces."""

import os

import numpy as np
from etils import epath

from hmrnn_jax import files
from hmrnn_jax.datasets.text import SPLITS, Corpus, find_file, make_corpus
from hmrnn_jax.errors import UserError

FOLDER = "zh-segmentation"
# split -> file -> sha256. Universal Dependencies' Chinese GSD 1.3 (its column of tokens, a sentence
# a line) in its own three parts, and the gold test texts of two corpora of the SIGHAN 2005
# bakeoff, all in traditional characters.
_UD = "ud-zh-gsd-v1.3"
FILES = {
    "train": {
        f"{_UD}.train.txt": "61791a4d92fcf19f46c880e2afa0c6246b716530d5c963b43c3188619bac8ddd",
        "as_testing_gold.utf8": "75acac0f0d457187d4b5dbc66227fb887ad172bca617125054db10f56c72bc20",
        "cityu_test_gold.utf8": "2785b66a6f7c0e72f34e35859da383a81d721deb1c673a85786f0152e014935a",
    },
    "valid": {f"{_UD}.dev.txt": "1e9bdf8a465e57039ab7c2284d43c33b0dad71af696bc8ed41af5828a48856b6"},
    "test": {f"{_UD}.test.txt": "1c569d189e8bbe471f6fb74eaca770f572319937744419377099afb30f0c3c93"},
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
      The corpus `chinese_unsegmented`, or `chinese_unsegmented-modified` if the sha256 of a file
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
        for name, digest in FILES[split].items():
            content = files.read_bytes(found[name], files.room() // 4)
            genuine &= files.same_content(content, digest)
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
    return _words(files.read_bytes(path, files.room() // 4), path)


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

    Args:
      content: what the file holds. path: what to call it in a message.

    Raises:
      UserError: the text is not UTF-8; the line is named.
    """
    lines = enumerate(files.each_line(files.decode(content, path)), 1)
    return [(number, line) for number, line in lines if line.strip()]


def _words(content, path):
    sentences = [line.split() for _, line in lines_of(content, path)]
    if not sentences:
        raise UserError(f"{path} holds no words: give a text, a sentence a line.")
    return sentences
