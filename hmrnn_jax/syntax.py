"""What a model of words has learnt of syntax: trees of treebanks and of plain sentences, and
which of two sentences it takes for the grammatical one. What `eval.py` prints."""

import functools
from typing import Any, NamedTuple

from etils import epath

from hmrnn_jax import evaluate, sentences
from hmrnn_jax.analysis import parsing, syneval, tree_plots
from hmrnn_jax.datasets import treebank
from hmrnn_jax.datasets.text import read_file
from hmrnn_jax.errors import UserError


class Trained(NamedTuple):
    """A language model: `model`, its `params`, its `vocabulary` and its detectors' `slope`."""

    model: Any
    params: Any
    vocabulary: Any
    slope: float = 1.0


def read_treebank(path, sections=None, longest=None):
    """The sentences to parse: `nltk` or a path, of some sections, of at most `longest` words."""
    trees = treebank.nltk_sample() if path == "nltk" else treebank.read_trees(path)
    return treebank.select(trees, sections and [int(s) for s in sections], longest)


def compare(bank, runs):
    """Figures of every layer of several runs, by both tree rules, above the trivial trees.

    Args:
      bank: `treebank.Treebank`. runs: `{name: Trained}`; the name begins the rows' names.

    Returns the rows of `parsing.compare`.
    """
    words = [sentence.words for sentence in bank.sentences]
    trees = {}
    for prefix, (model, params, vocabulary, _) in runs.items():
        distances = evaluate.distances(model, params, vocabulary, words)
        for layer in range(len(model.cells)):
            for rule in ("biased", "unbiased"):
                trees[f"{prefix}layer {layer + 1}, {rule}"] = [
                    parsing.tree_from_distances(w, d[:, layer], rule == "biased")
                    for w, d in zip(words, distances, strict=True)
                ]
    return parsing.compare(bank.sentences, trees)


def read_sentences(path):
    """The sentences of a text file, one a line, as tuples of words."""
    try:
        text = read_file(epath.Path(path)).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: byte {error.start} cannot be read.") from None
    words = [tuple(line.split()) for line in text.splitlines() if line.strip()]
    if not words:
        raise UserError(f"{path} holds no sentence; give one a line.")
    return words


def parse(trained, words, layer, biased, draw, picture):
    """Trees of plain sentences, as brackets, a line each; one of them is drawn.

    Args:
      words: of `read_sentences`. layer: whose distances are read, from 1.
      biased: the tree rule. draw: the sentence, from 1, for the file `picture`.
    """
    depth = len(trained.model.cells)
    if not 1 <= layer <= depth:
        raise UserError(f"--layer is {layer}; this model has {depth} layers.")
    if not 1 <= draw <= len(words):
        raise UserError(f"--draw is {draw}; there are {len(words)} sentences.")
    found = evaluate.distances(trained.model, trained.params, trained.vocabulary, words)
    distances = [d[:, layer - 1] for d in found]
    trees = [
        parsing.tree_from_distances(w, d, biased) for w, d in zip(words, distances, strict=True)
    ]
    chosen = draw - 1
    tree_plots.tree_figure(picture, words[chosen], distances[chosen], trees[chosen])
    return "\n".join(map(parsing.bracket_string, trees))


def pairs(trained, items, seed=0):
    """Rows of `syneval.evaluate`: each sentence is read from the initial state after `<eos>`."""
    model, params, vocabulary, slope = trained
    (end,), _ = vocabulary.encode_sentence("\n")
    score = functools.partial(
        sentences.log_probabilities, model, params, before=end, slope=slope, seed=seed
    )
    return syneval.evaluate(items, vocabulary, score)
