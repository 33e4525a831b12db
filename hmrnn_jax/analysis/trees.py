"""Binary trees over the words of a sentence: from ON-LSTM's distances, and the trivial ones.

A tree is a word (str) or a tuple of two or more trees. Its spans are the pairs (start, end) of
the words start..end-1 under each of its nodes, without single words and without the whole
sentence.

Walks over trees use a list and no recursion, so a right-branching sentence may be of any length.
"""

import dataclasses

import numpy as np

from hmrnn_jax.datasets import treebank
from hmrnn_jax.errors import UserError

_OPEN, _CLOSED = "-LRB-", "-RRB-"


def tree_from_distances(words, distances, biased=True):
    """The binary tree that a greedy, top-down reading of the distances gives.

    A span is split at its largest distance, the first one if several are equal. The paper's
    parser is biased (Dyer, Melis and Blunsom 2019): it searches all words of the span and makes
    `(left, (word, right))` around the word found, empty parts dropped, so that a maximum inside a
    span attaches all that follows to the right. The unbiased one searches all but the first word
    and makes `(left, right)`, the word found being the first of `right`.

    Args:
      words: n words, n > 0.
      distances: `[n]`, one per word: how far the word stands from the one before it, that is
        1 minus the mean of the master forget gate (paper, section 5.2) where the word is read. Only
        their order matters.
      biased: True is the paper's parser.

    Returns:
      A tree over `words`; of one word, the word.

    Raises:
      UserError: no words, another number of distances, or a distance that is not finite.
    """
    words = _checked(words)
    distances = np.asarray(distances, float)
    if distances.shape != (len(words),) or not np.all(np.isfinite(distances)):
        raise UserError(
            f"The distances have shape {distances.shape} beside {len(words)} words: "
            "give one finite number per word."
        )
    found, open_spans = [], [(0, len(words))]
    while open_spans:
        start, end = open_spans.pop()
        if end - start < 2:
            continue
        if biased:
            split = start + int(np.argmax(distances[start:end]))
            halves = (start, split), (split + 1, end)
        else:
            split = start + 1 + int(np.argmax(distances[start + 1 : end]))
            halves = (start, split), (split, end)
        found += [(start, end), (split, end)]
        open_spans.extend(halves)
    return tree_from_spans(words, found)


def tree_from_spans(words, spans):
    """The tree whose nodes are these spans and the whole sentence; equal and short ones merge.

    Args:
      words: n words, n > 0.
      spans: pairs (start, end) of word positions, end exclusive; those of fewer than two words
        change nothing.

    Raises:
      UserError: no words, a span outside the sentence, or two spans that cross.
    """
    words = _checked(words)
    nodes = {(start, end) for start, end in spans if end - start > 1}
    if any(start < 0 or end > len(words) for start, end in nodes):
        raise UserError(f"A span reaches outside the sentence of {len(words)} words: mend it.")
    if len(words) == 1:
        return words[0]
    # Outer spans before inner ones, so that what is open always encloses what opens next.
    ordered = sorted(nodes | {(0, len(words))}, key=lambda span: (-span[0], span[1]))
    opened = []
    for position, word in enumerate(words):
        while ordered and ordered[-1][0] == position:
            _, end = ordered.pop()
            if opened and end > opened[-1][0]:
                raise UserError(f"The span {(position, end)} crosses another: give nested spans.")
            opened.append((end, []))
        opened[-1][1].append(word)
        while len(opened) > 1 and opened[-1][0] == position + 1:
            _, children = opened.pop()
            opened[-1][1].append(tuple(children))
    return tuple(opened[0][1])


def gold_tree(sentence):
    """A `treebank.Sentence`'s tree without labels; a node of one child is that child."""
    spans = [(start, end) for _, start, end in sentence.constituents]
    return tree_from_spans(sentence.words, spans)


def right_tree(words):
    """The right-branching tree, `(a, (b, (c, d)))`."""
    return tree_from_spans(words, [(start, len(words)) for start in range(len(words))])


def left_tree(words):
    """The left-branching tree, `(((a, b), c), d)`."""
    return tree_from_spans(words, [(0, end) for end in range(len(words))])


def balanced_tree(words):
    """Every span split in the middle; of an odd number of words the right half has one more.

    The paper does not say which half; the other choice scores some 3 points of F1 less on WSJ
    and 7 less on its short sentences, far below the published 24.5 and 43.4.
    """
    return _split_tree(words, lambda length: length // 2)


def random_tree(words, seed):
    """Every span split at a place chosen evenly from all that leave no half empty.

    Args:
      seed: a number, or a `numpy.random.Generator` to draw from.
    """
    generator = np.random.default_rng(seed)
    return _split_tree(words, lambda length: int(generator.integers(1, length)))


def _split_tree(words, size_of_left):
    found, open_spans = [], [(0, len(words))]
    while open_spans:
        start, end = open_spans.pop()
        if end - start > 1:
            split = start + size_of_left(end - start)
            found.append((start, end))
            open_spans += [(start, split), (split, end)]
    return tree_from_spans(words, found)


def _checked(words):
    words = list(words)
    if not words or not all(isinstance(word, str) for word in words):
        raise UserError("A tree needs a sequence of one or more words, each of them a str.")
    return words


@dataclasses.dataclass(frozen=True)
class _EndOf:
    """The end of the node that began at a word."""

    start: int


def walk(tree):
    """Reads a tree once.

    Returns:
      Three lists: its words in order, their depths, and (start, end) of every node that is not
      a word, children before their parents.

    Raises:
      UserError: a part of it is neither a word nor a tuple or list of parts.
    """
    words, depths, nodes = [], [], []
    ahead = [(tree, 0)]
    while ahead:
        item, depth = ahead.pop()
        if isinstance(item, str):
            words.append(item)
            depths.append(depth)
        elif isinstance(item, _EndOf):
            nodes.append((item.start, len(words)))
        elif isinstance(item, tuple | list) and item:
            ahead.append((_EndOf(len(words)), depth))
            ahead.extend((child, depth + 1) for child in reversed(item))
        else:
            raise UserError(f"A tree holds {item!r}: its parts must be words or trees, in tuples.")
    return words, depths, nodes


def leaves(tree):
    """The words of a tree, in order."""
    return walk(tree)[0]


def bracket_string(tree):
    """A tree as `( a ( b c ) )`, one space between all tokens; a single word is itself.

    Round brackets in words are written -LRB- and -RRB-, as treebanks do; `tree_from_brackets`
    reads the tree back, and these as brackets though the words themselves were so written.
    """
    tokens, ahead = [], [tree]
    while ahead:
        item = ahead.pop()
        if item is None:  # the end of a node
            tokens.append(")")
        elif isinstance(item, str):
            tokens.append(item.replace("(", _OPEN).replace(")", _CLOSED))
        else:
            tokens.append("(")
            ahead.append(None)
            ahead.extend(reversed(item))
    return " ".join(tokens)


def tree_from_brackets(text):
    """The tree that `bracket_string` wrote, -LRB- and -RRB- round brackets again.

    Raises:
      UserError: no tree or more than one, an empty node, brackets that do not balance.
    """
    opened = [[]]
    for token in treebank.tokens(text):
        if token == "(":
            opened.append([])
        elif token != ")":
            opened[-1].append(token.replace(_OPEN, "(").replace(_CLOSED, ")"))
        elif len(opened) > 1 and opened[-1]:
            node = tuple(opened.pop())
            opened[-1].append(node)
        else:
            raise UserError(f"{text[:80]!r} closes a bracket that is empty or not open: mend it.")
    if len(opened) > 1 or len(opened[0]) != 1:
        raise UserError(f"{text[:80]!r} is not one tree in brackets: give one a line.")
    return opened[0][0]


def spans(tree):
    """The set of (start, end) of a tree's nodes, without single words and the whole sentence."""
    words, _, nodes = walk(tree)
    return inner_spans(nodes, len(words))


def inner_spans(nodes, length):
    """The set of those (start, end) that are neither a single word nor the whole of `length`."""
    return {(start, end) for start, end in nodes if 1 < end - start < length}
