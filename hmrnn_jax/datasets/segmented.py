"""Texts whose words are known, and the same texts as a model reads them: without the spaces."""

import json
import os

import numpy as np

from hmrnn_jax import files
from hmrnn_jax.datasets.splits import SPLITS, in_order
from hmrnn_jax.datasets.text import Corpus, find_file, make_corpus
from hmrnn_jax.errors import UserError


def make(name, parts, source) -> Corpus:
    """The corpus of unspaced sentences, with the true ends of words in `Corpus.ends`.

    Characters that training has not are unknown, and counted.

    Args:
      parts: split -> sentences of words, as of `read_words`.
    """
    unspaced_parts = {split: unspaced(parts[split]) for split in SPLITS}
    texts = {split: text for split, (text, _) in unspaced_parts.items()}
    corpus = make_corpus(name, texts, "characters", source, unknown=True)
    corpus.ends.update({split: ends for split, (_, ends) in unspaced_parts.items()})
    return corpus


def read_published(name, folder, parts, root=None):
    """`(sentences, folder, genuine)` of a published text.

    Args:
      name: of the corpus, for messages. folder: its name within the data folder.
      parts: split -> file -> sha256 of the file unpacked; None where that is not known.
      root: the data folder, by default the environment variable HMRNN_DATA.

    Returns split -> sentences, the whole path of the folder, and whether all files are those of
    the checksums.

    Raises:
      UserError: no data folder, a missing file, or as `read_words`.
    """
    root = root or os.environ.get("HMRNN_DATA")
    folder = files.place(root or "$HMRNN_DATA") / folder
    names = [file for split in SPLITS for file in parts[split]]
    found = {file: find_file(folder, file) if root else None for file in names}
    missing = [file for file in found if found[file] is None]
    if missing:
        hint = "" if root else ", with HMRNN_DATA set to your data folder"
        raise UserError(
            f"{name} needs {', '.join(missing)} (plain or .gz): put them into {folder}{hint}."
        )
    sentences, genuine = {split: [] for split in SPLITS}, True
    for split in SPLITS:
        for file, digest in parts[split].items():
            content = files.read_bytes(found[file], files.room() // 4)
            genuine &= digest is None or files.same_content(content, digest)
            sentences[split] += words_of(content, found[file])
    return sentences, folder, genuine


def own(path) -> Corpus:
    """The corpus `text` of a user's own lines of words separated by spaces.

    Args:
      path: one file, whose first 90 % of the lines are for training, the next 5 % for validation,
        the last for the test; or a folder with train.txt, valid.txt and test.txt. Each plain
        or `.gz`, see `read_words`.

    Raises:
      UserError: no such path, a missing or empty split, or as `read_words`.
    """
    path = files.place(path)
    if path.is_dir():
        found = {split: find_file(path, f"{split}.txt", split) for split in SPLITS}
        if absent := [f"{split}.txt" for split in SPLITS if found[split] is None]:
            raise UserError(
                f"the folder {path} has no {' and no '.join(absent)}: put train.txt, valid.txt and"
                " test.txt there, or give the path of a single file."
            )
        parts = {split: read_words(file) for split, file in found.items()}
    else:
        parts = in_order(read_words(path))
    return make("text", parts, f"{path}, spaces removed; the words are not used")


def read_words(path) -> list[list[str]]:
    """The sentences of a segmented text, each a list of its words.

    Args:
      path: a file in UTF-8, with or without byte order mark, plain or `.gz`: a sentence a line,
        words separated by spaces, ideographic ones (U+3000) included; line ends of any system.
        Empty lines are left out.

    Raises:
      UserError: an unreadable file, text that is not UTF-8 (the line is named), no words.
    """
    return words_of(files.read_bytes(path, files.room() // 4), path)


def read_segments(path, symbols, layers) -> tuple[np.ndarray, list[int]]:
    """Where the segments of a file end in the text that they are of.

    Args:
      path: JSON lines, each with `layer`, from 1, `start`, `end` and `text` of a segment, as
        `hmrnn segment` writes them; plain or `.gz`. A layer's are in order from the beginning of
        the text, and may stop before its end.
      symbols: the text, a str or a sequence of N symbols. layers: that are read.

    Returns bool `[layers, N]`, True where a segment ends with a symbol; and to how many symbols
    each layer's segments reach.

    Raises:
      UserError: an unreadable file, or one that is not of this text, or has no segment of layer 1.
    """
    found, reached = np.zeros((layers, len(symbols)), bool), [0] * layers
    for number, line in lines_of(files.read_bytes(path, files.room() // 4), path):
        try:
            row = json.loads(line)
            layer, start, end, text = (row[name] for name in ("layer", "start", "end", "text"))
            if layer > layers:
                continue
            if layer < 1:
                raise ValueError
            fits = start == reached[layer - 1] and start < end <= len(symbols)
            fits = fits and text == "".join(symbols[start:end])
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            raise UserError(
                f"{path}, line {number}: it must be a segment with layer, start, end and text, as"
                " hmrnn segment writes it."
            ) from None
        if not fits:
            raise UserError(
                f"{path}, line {number}: this is not the training text's next segment of layer"
                f" {layer}; cut this very text, hmrnn segment --split=train."
            )
        found[layer - 1, end - 1] = True
        reached[layer - 1] = end
    if not reached[0]:
        raise UserError(f"{path} has no segment of layer 1: give one as hmrnn segment writes it.")
    return found, reached


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


def words_of(content: bytes, path) -> list[list[str]]:
    """As `read_words`, of what a file called `path` holds."""
    sentences = [line.split() for _, line in lines_of(content, path)]
    if not sentences:
        raise UserError(f"{path} holds no words: give a text, a sentence a line.")
    return sentences
