"""An interpolated character n-gram model: the number a recurrent network must beat.

Witten and Bell's interpolation (1991; Chen and Goodman 1999, section 2.5): with
c(u) occurrences of the context u in the training text, T(u) distinct symbols
after it, and u' the context without its oldest symbol,

    p(w | u) = (c(u w) + T(u) p(w | u')) / (c(u) + T(u)),

down to the empty context, below which lies the uniform distribution. A context
never seen falls through to the shorter one. No parameter is tuned.
"""

import numpy as np

from hmrnn_jax.errors import UserError

_PIECE = 1 << 16  # symbols after which breaks are tried at once, for the memory of their pasts


class InterpolatedNgram:
    """Witten-Bell interpolation over the contexts of 0 to `order` preceding symbols.

    An n-gram is known by its rank among the distinct n-grams of the training
    text. Its code is `rank of its first n - 1 symbols * vocabulary_size + last
    symbol`, which stays below 2^63 for every order, and the sorted codes of one
    length answer both "how often" and "which rank" by binary search.

    Args:
      vocabulary_size: V; symbols are ints in [0, V).
      order: number of preceding symbols looked at; 0 is a unigram model.
    """

    def __init__(self, vocabulary_size, order=4):
        if vocabulary_size < 1 or order < 0:
            raise UserError("An n-gram model needs a vocabulary of 1 or more and an order >= 0.")
        self.vocabulary_size = int(vocabulary_size)
        self.order = int(order)

    def fit(self, ids):
        """Counts the training text `ids`, a `[N]` int array. Returns self.

        Raises:
          UserError: `ids` is empty, not one-dimensional or outside the vocabulary.
        """
        ids = self._checked(ids)
        if not ids.size:
            raise UserError("The training text is empty: an n-gram model needs symbols to count.")
        self._codes = []  # per length n = 1..order+1: sorted codes of the distinct n-grams
        self._counts = []  # how often each occurred
        self._totals = []  # c(u) of the contexts u of length n - 1, by rank
        self._distinct = []  # T(u)
        ranks, contexts = np.zeros(ids.size + 1, np.int64), 1
        for length in range(1, self.order + 2):
            # ranks[i] is the (length-1)-gram before symbol i + length - 1.
            codes = ranks[:-1] * self.vocabulary_size + ids[length - 1 :]
            codes, ranks, counts = np.unique(codes, return_inverse=True, return_counts=True)
            owner = codes // self.vocabulary_size
            self._codes.append(codes)
            self._counts.append(counts)
            self._totals.append(np.bincount(owner, counts, contexts))
            self._distinct.append(np.bincount(owner, minlength=contexts).astype(float))
            contexts = codes.size
            if ranks.size < 2:
                break  # the text has no longer n-gram
        return self

    def probabilities(self, context):
        """The distribution over the next symbol, a `[V]` float64 array that sums to 1.

        Args:
          context: the preceding symbols, oldest first; only the last `order` count.
        """
        context = self._checked(context)
        context = context[max(context.size - self.order, 0) :]
        following = np.arange(self.vocabulary_size)
        p = np.full(self.vocabulary_size, 1 / self.vocabulary_size)
        for level in range(min(context.size + 1, len(self._codes))):
            rank = np.zeros(1, np.int64)
            for length, symbol in enumerate(context[context.size - level :]):
                rank, _ = self._find(length, rank, symbol[None])
            ranks = np.repeat(rank, self.vocabulary_size)
            p = self._interpolated(level, ranks, self._find(level, ranks, following)[1], p)
        return p

    def predictions(self, ids, rows=1024):
        """The distributions after each symbol of a text, in arrays `[n, V]`, n <= `rows`, in order.

        The contexts at the start are as long as the text before them.
        """
        ids, size = self._checked(ids), self.vocabulary_size
        for start in range(0, ids.size, rows):
            stop = min(start + rows, ids.size)
            p = np.full((stop - start, size), 1 / size)
            for level in range(len(self._codes)):
                # Ranks of the `level` symbols up to each; -1 where unseen or cut off by the start.
                rank = np.where(np.arange(start + 1, stop + 1) >= level, 0, -1)
                for length in range(level):
                    places = np.arange(start, stop) - level + 1 + length
                    rank, _ = self._find(length, rank, ids[np.maximum(places, 0)])
                self._interpolate_rows(level, rank, p)
            yield p

    def _interpolate_rows(self, level, rank, p):
        """`_interpolated` for all followers of the contexts at once, in place; p is `[n, V]`."""
        codes = self._codes[level]
        (rows,) = np.nonzero(rank >= 0)
        first = np.searchsorted(codes, rank[rows] * self.vocabulary_size)
        after = np.searchsorted(codes, (rank[rows] + 1) * self.vocabulary_size)
        distinct, total = self._distinct[level][rank[rows]], self._totals[level][rank[rows]]
        seen = total > 0
        rows, first, after = rows[seen], first[seen], after[seen]
        distinct, total = distinct[seen], (total + distinct)[seen]
        p[rows] *= (distinct / total)[:, None]
        count = after - first
        places = np.arange(count.sum()) + np.repeat(first - np.cumsum(count) + count, count)
        share = self._counts[level][places] / np.repeat(total, count)
        p[np.repeat(rows, count), codes[places] % self.vocabulary_size] += share

    def bits(self, ids):
        """The cost in bits of every symbol but the first, a `[N - 1]` float64 array.

        The contexts at the start are as long as the text before them.

        Raises:
          UserError: `ids` has fewer than two symbols or leaves the vocabulary.
        """
        ids = self._checked(ids)
        if ids.size < 2:
            raise UserError("The test text needs two symbols or more: the first is not predicted.")
        p = np.full(ids.size, 1 / self.vocabulary_size)
        # before[i]: rank of the `level` symbols before i; -1 where unseen or cut off by the start.
        before = np.zeros(ids.size, np.int64)
        for level in range(len(self._codes)):
            ranks, counts = self._find(level, before, ids)
            seen_from = min(level, ids.size)
            p[seen_from:] = self._interpolated(
                level, before[seen_from:], counts[seen_from:], p[seen_from:]
            )
            before = np.concatenate([[-1], ranks[:-1]])
        return -np.log2(p[1:])

    def curves(self, ids, names, newline=None, ahead=1):
        """What an n-gram model has to say after each symbol of a text: `{name: [1, N]}`.

        A control for the same readings of a network, see `inference.reading.curves`; its numbers
        are in nats.

        Args:
          ids: int `[N]`. names: of `entropy`, `entropy_within`, `surprise`, `pmi`, `line_end` and
            `line_break`. newline: id of the symbol that ends a line, for those that speak of
            lines. ahead: symbols after a line break that count.
        """
        ids = self._checked(ids)
        found = {name: [] for name in names}
        distributions = {"entropy", "entropy_within", "line_end", "line_break"} & found.keys()
        for p in self.predictions(ids) if distributions else ():
            end = np.log(p[:, newline]) if newline is not None else None
            for name in distributions - {"entropy", "entropy_within"}:
                found[name].append(end)
            if "entropy" in found:
                found["entropy"].append(-np.sum(p * np.log(p), axis=1))
            if "entropy_within" in found:
                p[:, newline] = 0
                p /= p.sum(axis=1, keepdims=True)
                found["entropy_within"].append(-np.sum(p * np.log(np.where(p > 0, p, 1)), axis=1))
        found = {name: np.concatenate(parts) for name, parts in found.items() if parts}
        if {"surprise", "pmi", "line_break"} & set(names):
            surprise = np.log(2) * np.append(self.bits(ids), 0)
            if "surprise" in names:
                found["surprise"] = surprise
            if "pmi" in names:
                alone = np.log(self.probabilities(ids[:0]))
                found["pmi"] = surprise + np.append(alone[ids[1:]], 0)
            if "line_break" in names:
                found["line_break"] += self._gain_of_break(ids, newline, ahead, surprise)
        return {name: found[name][None] for name in names}

    def _gain_of_break(self, ids, newline, ahead, surprise):
        """How much likelier the `ahead` symbols after each are if a newline comes before them."""
        found = []
        for first in range(0, ids.size, _PIECE):
            place = np.arange(first, min(first + _PIECE, ids.size))[:, None]
            before, after = place + np.arange(1 - self.order, 1), place + np.arange(1, 1 + ahead)
            # The text before its first symbol is none; a newline is as near as can be.
            past = np.where(before < 0, newline, ids[np.maximum(before, 0)])
            breaks = np.full((len(place), 1), newline)
            pieces = np.concatenate([past, breaks, ids[np.minimum(after, ids.size - 1)]], axis=1)
            costs = np.append(0, np.log(2) * self.bits(pieces.ravel())).reshape(pieces.shape)
            costs = costs[:, -ahead:] - surprise[np.minimum(after - 1, ids.size - 1)]
            found.append(-np.sum(costs * (after < ids.size), axis=1))
        return np.concatenate(found)

    def _find(self, level, contexts, symbols):
        """Ranks and counts of the n-grams "context, symbol" (n = level + 1); -1 and 0 if unseen."""
        codes = contexts * self.vocabulary_size + symbols
        known = self._codes[level]
        places = np.minimum(np.searchsorted(known, codes), known.size - 1)
        found = (contexts >= 0) & (known[places] == codes)
        return np.where(found, places, -1), np.where(found, self._counts[level][places], 0)

    def _interpolated(self, level, contexts, counts, lower):
        """p(w | u) from the counts of "u w" and p(w | u'); `lower` itself where u is unseen."""
        # The last n-gram of the training text may be known and yet have no follower: T = c = 0.
        distinct = np.where(contexts >= 0, self._distinct[level][contexts], 0)
        total = np.where(contexts >= 0, self._totals[level][contexts], 0) + distinct
        seen = total > 0
        return np.where(seen, (counts + distinct * lower) / np.where(seen, total, 1), lower)

    def _checked(self, ids):
        ids = np.asarray(ids)
        if ids.size == 0:
            return np.zeros(0, np.int64)
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise UserError("The symbols of an n-gram model must be one row of whole numbers.")
        if ids.min() < 0 or ids.max() >= self.vocabulary_size:
            raise UserError(
                f"Symbols from {ids.min()} to {ids.max()} do not fit a vocabulary of "
                f"{self.vocabulary_size}: encode both texts with one vocabulary."
            )
        return ids.astype(np.int64)


def interpolated_ngram_bpc(train_ids, test_ids, vocabulary_size, order=4):
    """Bits per character of an interpolated n-gram model on a test text.

    Args:
      train_ids, test_ids: `[N]` int arrays over one vocabulary.
      vocabulary_size: V.
      order: number of preceding symbols that the prediction looks at.

    Returns:
      The mean over all but the first symbol of the test text, a float.

    Raises:
      UserError: as in `InterpolatedNgram.fit` and `.bits`.
    """
    model = InterpolatedNgram(vocabulary_size, order).fit(train_ids)
    return float(model.bits(test_ids).mean())
