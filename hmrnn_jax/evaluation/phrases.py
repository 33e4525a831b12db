"""Whether a model's upper layers find more than words: phrases, sentences, utterances.

Steps that do not end a word do not count here: a layer that fires at ends of words alone, at
random, has as its precision the share of these that end something larger, the row `every`.
"""

import numpy as np

from hmrnn_jax import run as runs
from hmrnn_jax.analysis import comparison
from hmrnn_jax.errors import UserError
from hmrnn_jax.evaluation.report import Report
from hmrnn_jax.inference import reading, readings
from hmrnn_jax.tasks import calibration, language


def of_treebank(run, bank, seed=0):
    """Boundaries of each layer against ends of constituents of two words or more, and of sentences.

    The model, of characters, reads the sentences as lines of words between spaces, in the form of
    Mikolov's Penn Treebank, without the characters that it does not know. A word ends at the space
    or newline after it. A sentence's last word ends constituents too, and is left to the score
    against sentences.

    Args:
      bank: `datasets.treebank.Treebank`.

    Returns a `Report`; each of its `rows` says `against` what, `constituents` or `sentences`.
    """
    _check(run)
    text, words, phrases = text_of(bank.sentences, run.encoding)
    lines = np.array([symbol == "\n" for symbol in text])
    ids, _ = run.encoding.encode(text)
    truths = {"constituents": (phrases, words & ~lines), "sentences": (lines, words)}
    shown = _show(run, ids, truths, seed)
    return Report(f"{bank.describe()}\n{shown}", shown.data)


def of_utterances(run, split, seed=0, most=20_000):
    """Boundaries of each layer against ends of utterances in a text without its newlines.

    Args:
      split: of the run's own corpus, one whose words are known. most: symbols that are read.

    Returns as `of_treebank`, against `utterances`.

    Raises:
      UserError: the model has no detectors, or the corpus shows its words, or has no lines.
    """
    _check(run)
    corpus = language.corpus_of(run)
    newline = run.encoding.line_end
    if split not in corpus.ends or newline is None:
        raise UserError(
            f"The corpus {corpus.name} is none of lines whose words are known: take Brent's."
        )
    ids, words = corpus.splits[split][:most], corpus.ends[split][:most]
    lines = ids == newline
    ends = np.append(lines[1:], False)
    kept = ~lines
    return _show(run, ids[kept], {"utterances": (ends[kept], words[kept])}, seed)


def text_of(sentences, vocabulary):
    """`(text, words, phrases)` of a treebank's sentences, a line each.

    Returns the text as a str of N symbols that the vocabulary has, and bool `[N]`: the space or
    newline after each word, and after each word but the last that ends a constituent of two words
    or more.
    """
    known = set(vocabulary.symbols)
    parts, words, phrases = [], [], []
    for sentence in sentences:
        ends = {end for _, start, end in sentence.constituents if end - start > 1}
        last = len(sentence.words)
        for number, word in enumerate(sentence.words, start=1):
            word = "".join(c for c in word if c in known)
            parts.append(word + (" " if number < last else "\n"))
            silent = [False] * len(word)
            words += [*silent, True]
            phrases += [*silent, number < last and number in ends]
    return "".join(parts), np.array(words, bool), np.array(phrases, bool)


def _check(run):
    reading.check(run.model)
    if run.encoding.unit != "characters":
        raise UserError("Phrases are looked for by a model of characters; this one reads others.")


def _show(run, ids, truths, seed):
    """The detectors' boundaries against `{name: (true ends, steps that count)}`."""

    def read(one):
        asked = calibration.of_text(one, readings.Cut())
        return readings.read(one.model, one.plain, ids, asked, None, one.slope, seed)["detectors"]

    own, fresh = read(run), [read(one) for one in runs.untrained(run)]
    found = [
        comparison.Found("detectors", layer + 1, z, tuple(other[layer] for other in fresh))
        for layer, z in enumerate(own)
    ]
    lines, rows = [], []
    for name, (gold, mask) in truths.items():
        part = comparison.compare(found, gold, mask)
        lines += [
            f"boundaries against {name}, {int(mask.sum()):,} ends of words",
            comparison.table(part, f"the end of a word that ends one of the {name}"),
        ]
        rows += [{"against": name} | row for row in part]
    return Report("\n".join(lines), {"rows": rows})
