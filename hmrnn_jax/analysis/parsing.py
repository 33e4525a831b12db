"""How well trees match gold trees without labels: ON-LSTM's figures, and what to hold beside them.

Everything follows the published program of Shen, Tan, Sordoni and Courville (2019), whose
headline figure is the mean of the sentences' F1 ("unlabelled F1"). Sentences of one and two
words count there (as 1), which some later evaluators leave out; punctuation does not. Trees
and spans are defined in `trees`, whose functions are here as well.
"""

import re

import numpy as np

from hmrnn_jax.analysis.trees import (  # noqa: F401 (a parser's trees and scores in one place)
    balanced_tree,
    bracket_string,
    gold_tree,
    inner_spans,
    leaves,
    left_tree,
    random_tree,
    right_tree,
    spans,
    tree_from_brackets,
    tree_from_distances,
    tree_from_spans,
    walk,
)
from hmrnn_jax.errors import UserError

LABELS = ("ADJP", "NP", "PP", "INTJ")
_TINY = 1e-8  # the published program's guard against 0/0
_FUNCTION = re.compile("[-=].*")  # the rest of a label: NP-SBJ is an NP


def mean_depth(trees):
    """The mean over trees of the mean depth of a tree's words (a single word has depth 0)."""
    return float(np.mean([np.mean(walk(tree)[1]) for tree in trees]))


def precision_recall_f1(found, gold):
    """One sentence's scores, the published program's way.

    `P = |both| / (|found| + 1e-8)`, `R = |both| / (|gold| + 1e-8)` and
    `F1 = 2PR / (P + R + 1e-8)`; but R = 1 if there are no gold spans, and then P = 1 if there
    are no found ones either.

    Args:
      found, gold: sets of spans, as `spans` returns them.

    Returns:
      Three floats: precision, recall, F1.
    """
    both = len(found & gold)
    precision, recall = both / (len(found) + _TINY), both / (len(gold) + _TINY)
    if not gold:
        recall = 1.0
        if not found:
            precision = 1.0
    return precision, recall, 2 * precision * recall / (precision + recall + _TINY)


def label_counts(sentences, trees, labels=LABELS):
    """How many gold constituents of each label the trees have a node for.

    As in the published program, a label is cut at its first `-` or `=`, constituents of two or
    more words count, those of one label over the same words once, and the whole sentence is a
    node too.

    Args:
      sentences: `treebank.Sentence`s.
      trees: one tree for each, over its words.

    Returns:
      A dict from label to `(found, total)`.

    Raises:
      UserError: as `evaluate`.
    """
    counts = {label: [0, 0] for label in labels}
    for sentence, (_, _, nodes) in _pairs(sentences, trees):
        nodes = set(nodes)
        bare = {(_FUNCTION.sub("", label), *span) for label, *span in sentence.constituents}
        for label, start, end in bare:
            if label in counts and end - start > 1:
                counts[label][0] += (start, end) in nodes
                counts[label][1] += 1
    return {label: tuple(pair) for label, pair in counts.items()}


def _pairs(sentences, trees):
    """Each sentence with what `walk` read of its tree, checked against each other."""
    sentences, trees = list(sentences), list(trees)
    if len(sentences) != len(trees) or not sentences:
        raise UserError(
            f"There are {len(trees)} trees for {len(sentences)} sentences: give one tree for "
            "each of one or more sentences."
        )
    for sentence, tree in zip(sentences, trees, strict=True):
        read = walk(tree)
        if tuple(read[0]) != tuple(sentence.words):
            raise UserError(
                f"The tree of {sentence.name} reads {_shown(read[0])} but the sentence "
                f"{_shown(sentence.words)}: build each tree over its sentence's own words."
            )
        yield sentence, read


def _shown(words):
    return repr(" ".join(words[:8]) + (" ..." if len(words) > 8 else ""))


def evaluate(sentences, trees, labels=LABELS):
    """All figures of one parser over some sentences, as fractions of 1.

    Args:
      sentences: `treebank.Sentence`s.
      trees: one tree for each, over its words (not over `<unk>`).
      labels: whose recall is wanted, `label_counts`.

    Returns:
      A dict of floats with
      `sentences`, `words`: their numbers (ints);
      `precision`, `recall`, `f1`: means over the sentences of `precision_recall_f1`; `f1` is
        the published figure;
      `corpus_precision`, `corpus_recall`, `corpus_f1`: of the spans of all sentences taken
        together, so that long sentences weigh more and sentences of two words nothing; 0/0 is 0.
        (It is not what EVALB prints, which also counts whole sentences.);
      `depth`: `mean_depth`;
      `recall_NP` ...: found / total of each label, None where it does not occur, and
      `count_NP` ...: the totals (ints).

    Raises:
      UserError: another number of trees than of sentences, none at all, something that is not a
        tree, or a tree over other words than its sentence's.
    """
    sentences, trees = list(sentences), list(trees)
    scores, both, found, gold = [], 0, 0, 0
    for sentence, (words, _, nodes) in _pairs(sentences, trees):
        ours = inner_spans(nodes, len(words))
        true = inner_spans([(start, end) for _, start, end in sentence.constituents], len(words))
        scores.append(precision_recall_f1(ours, true))
        both, found, gold = both + len(ours & true), found + len(ours), gold + len(true)
    precision, recall, f1 = np.mean(scores, axis=0).tolist()
    figures = {
        "sentences": len(sentences),
        "words": sum(len(sentence.words) for sentence in sentences),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "corpus_precision": both / found if found else 0.0,
        "corpus_recall": both / gold if gold else 0.0,
        "corpus_f1": 2 * both / (found + gold) if found + gold else 0.0,
        "depth": mean_depth(trees),
    }
    for label, (hits, total) in label_counts(sentences, trees, labels).items():
        figures[f"recall_{label}"] = hits / total if total else None
        figures[f"count_{label}"] = total
    return figures


def baselines(sentences, seeds=range(5), labels=LABELS):
    """The rows that stand beside every parser: trees that have not read the words.

    Args:
      sentences: `treebank.Sentence`s.
      seeds: one set of random trees is drawn from each; the same seeds give the same figures.

    Returns:
      Dicts as in `compare`, of right-branching, left-branching, balanced and random trees; the
      last one's figures are means over the seeds and stand beside their sample standard
      deviations (`f1_std` ...).

    Raises:
      UserError: as `evaluate`, or no seeds.
    """
    sentences, seeds = list(sentences), list(seeds)
    if not seeds:
        raise UserError("Random trees need a seed: give one or more.")
    rows = []
    for name, build in (("right", right_tree), ("left", left_tree), ("balanced", balanced_tree)):
        trees = [build(sentence.words) for sentence in sentences]
        rows.append({"name": name, **evaluate(sentences, trees, labels)})
    runs = []
    for seed in seeds:
        generator = np.random.default_rng(seed)
        trees = [random_tree(sentence.words, generator) for sentence in sentences]
        runs.append(evaluate(sentences, trees, labels))
    rows.append({"name": f"random ({len(seeds)} seeds)", **mean_and_std(runs)})
    return rows


def mean_and_std(runs):
    """Figures of several runs over the same sentences, for example of several seeds, as one.

    Args:
      runs: dicts as `evaluate` returns them.

    Returns:
      The same keys with the means, and for every float `f1` also `f1_std`, the sample standard
      deviation (0 for a single run); numbers of things and None stay as they are.

    Raises:
      UserError: no runs.
    """
    runs, merged = list(runs), {}
    if not runs:
        raise UserError("There are no runs to take the mean of: give the figures of one or more.")
    for key, first in runs[0].items():
        if isinstance(first, float):
            values = [run[key] for run in runs]
            merged[key] = float(np.mean(values))
            merged[f"{key}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        else:
            merged[key] = first
    return merged


def compare(sentences, parsers, seeds=range(5), labels=LABELS):
    """Figures of several parsers over the same sentences, with the baselines beneath.

    A right-branching tree alone scores 39.8 on section 23, so no figure goes without them.

    Args:
      sentences: `treebank.Sentence`s.
      parsers: dict from a parser's name to its trees, one per sentence.
      seeds: of the random baseline.

    Returns:
      Dicts with `name` and what `evaluate` returns, the parsers in their order and then
      `baselines`.

    Raises:
      UserError: as `evaluate`.
    """
    sentences = list(sentences)
    rows = [{"name": n, **evaluate(sentences, t, labels)} for n, t in parsers.items()]
    return rows + baselines(sentences, seeds, labels)


def format_table(rows):
    """The rows of `compare` as a text table (percent, but for the depth)."""
    labels = [key.removeprefix("count_") for key in rows[0] if key.startswith("count_")]
    columns = {"F1": "f1", "corpus F1": "corpus_f1", "P": "precision", "R": "recall"}
    columns |= {"depth": "depth"} | {label: f"recall_{label}" for label in labels}
    lines = ["", *(row["name"] for row in rows)]
    lines = [line.ljust(max(map(len, lines))) for line in lines]
    for head, key in columns.items():
        means, spreads = zip(*(_cell(row, key) for row in rows), strict=True)
        wide = max(map(len, means)), max(map(len, spreads))
        cells = [m.rjust(wide[0]) + s.ljust(wide[1]) for m, s in zip(means, spreads, strict=True)]
        column = [head.rjust(wide[0]), *cells]
        wide = max(map(len, column))
        for number, cell in enumerate(column):
            lines[number] += "  " + (cell.ljust(wide) if number == 0 else cell.rjust(wide))
    lines = [line.rstrip() for line in lines]
    lines += [
        f"{rows[0]['sentences']:,} sentences, {rows[0]['words']:,} words without punctuation",
        "F1, P, R: means over sentences, whole sentences not counted; corpus F1: of all spans",
    ]
    if labels:
        totals = ", ".join(f"{label} {rows[0][f'count_{label}']:,}" for label in labels)
        lines.append(f"last columns: recall of gold constituents by label, of {totals}")
    return "\n".join(lines)


def _cell(row, key):
    """A figure and its spread, as texts."""
    if row[key] is None:
        return "-", ""
    scale = 1 if key == "depth" else 100
    spread = row.get(f"{key}_std")
    return f"{scale * row[key]:.1f}", "" if spread is None else f" ±{scale * spread:.1f}"
