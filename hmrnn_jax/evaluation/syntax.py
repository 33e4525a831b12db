"""Models of words: trees of treebanks and of plain sentences, and which of two sentences they
take for the grammatical one."""

import functools

from hmrnn_jax import files
from hmrnn_jax.analysis import parsing, syneval
from hmrnn_jax.analysis.figures.trees import MOST_WORDS, tree_figure
from hmrnn_jax.datasets import treebank
from hmrnn_jax.errors import UserError
from hmrnn_jax.evaluation.report import Report
from hmrnn_jax.inference import activations, sentences


def read_treebank(path, sections=None, longest=None):
    """The sentences to parse: `nltk` or a path, of some sections, of at most `longest` words."""
    trees = treebank.nltk_sample() if path == "nltk" else treebank.read_trees(path)
    return treebank.select(trees, sections and [int(s) for s in sections], longest)


def trees(run, bank, control=None):
    """Parsing figures of every layer, by both tree rules, above the trivial trees.

    Args:
      bank: `treebank.Treebank`. control: a second run, parsed the same way.
    """
    runs = {"": run}
    if control:
        runs[f"control {control.config.model.cell}, "] = control
    for one in runs.values():  # before any of them is read
        activations.check_distances(one.model, one.encoding)
    words = [sentence.words for sentence in bank.sentences]
    found = {}
    for prefix, one in runs.items():
        distances = activations.distances(one.model, one.plain, one.encoding, words)
        for layer in range(len(one.model.cells)):
            for rule in ("biased", "unbiased"):
                found[f"{prefix}layer {layer + 1}, {rule}"] = [
                    parsing.tree_from_distances(w, d[:, layer], rule == "biased")
                    for w, d in zip(words, distances, strict=True)
                ]
    rows = parsing.compare(bank.sentences, found)
    table = parsing.format_table(rows)
    lines = [bank.describe(), *_unknown(run, words), table]
    return Report("\n".join(lines), {row["name"]: row for row in rows})


def read_sentences(path):
    """The lines of a text file as tuples of words, those of a blank line empty."""
    words = [tuple(line.split()) for line in files.read_lines(path)]
    if not any(words):
        raise UserError(f"{path} holds no sentence; give one a line.")
    return words


def _unknown(run, sentences_of_words):
    """A list of one sentence on the words that the model does not know, or of none."""
    known = set(run.encoding.symbols)
    words = [word for words in sentences_of_words for word in words]
    unknown = sum(w not in known and treebank.normalise(w) not in known for w in words)
    note = run.encoding.unknown_note("the sentences", unknown, len(words))
    return [note] if note else []


def parse(run, words, layer, biased, draw, picture):
    """Trees of plain sentences, as brackets, a line each; one of them is drawn.

    A blank line stays one, so that the lines are those of the file; see `bracket_string`.

    Args:
      words: of `read_sentences`. layer: whose distances are read, from 1.
      biased: the tree rule. draw: the sentence, from 1, for the file `picture`.
    """
    activations.check_distances(run.model, run.encoding)
    lines, words = words, [line for line in words if line]
    depth = len(run.model.cells)
    if not 1 <= layer <= depth:
        raise UserError(f"--layer is {layer}; this model has {depth} layers.")
    if not 1 <= draw <= len(words):
        raise UserError(f"--draw is {draw}; there are {len(words)} sentences.")
    found = activations.distances(run.model, run.plain, run.encoding, words)
    distances = [d[:, layer - 1] for d in found]
    parsed = [
        parsing.tree_from_distances(w, d, biased) for w, d in zip(words, distances, strict=True)
    ]
    trees, chosen = iter(parsed), draw - 1
    brackets = [parsing.bracket_string(next(trees)) if line else "" for line in lines]
    data = {"trees": brackets, "figure": None}
    if len(words[chosen]) > MOST_WORDS:
        drawn = (
            f"no figure: sentence {draw} has {len(words[chosen])} words, of which at most"
            f" {MOST_WORDS} are drawn; --draw chooses another one"
        )
    else:
        tree_figure(picture, words[chosen], distances[chosen], parsed[chosen])
        drawn, data["figure"] = f"figure: {picture}", str(picture)
    return Report("\n".join([*brackets, *_unknown(run, words), drawn]), data)


def pairs(run, items, seed=0):
    """Accuracy by construction; each sentence is read from the initial state after `<eos>`.

    Args:
      items: of `datasets.syneval.read_items`.
    """
    (end,), _ = run.encoding.encode_sentence("\n")
    score = functools.partial(
        sentences.log_probabilities, run.model, run.plain, before=end, slope=run.slope, seed=seed
    )
    rows = syneval.evaluate(items, run.encoding, score)
    return Report(syneval.format_table(syneval.pooled(rows)), {"constructions": rows})
