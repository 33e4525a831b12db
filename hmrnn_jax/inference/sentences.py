"""A language model over many short sentences, each read on its own.

A sentence is an int array of symbols. The model reads it from the initial state, after one
symbol `before` (as a rule the end of the sentence before it).

Probabilities come from the tree of the sentences' prefixes: a prefix that many sentences
share is read once, and its state goes on to all of its continuations. Sentences made from
templates share most of what they are: the 2,242,248 words of Marvin and Linzen's (2018)
279,252 distinct sentences need 156,161 steps of the model.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hmrnn_jax.errors import UserError

# Sentences read at the same time, in batches: bounds the states kept, at most one for each.
_BATCHES_HELD = 32
_MOST_SYMBOLS = 1 << 17  # of a batch of whole sentences, for each of which activations are kept


class PaddedBatch(NamedTuple):
    """Sentences side by side.

    Attributes:
      symbols: int32 `[T, B]`, 0 after the end of each sentence.
      lengths: int `[B]`, 0 for the empty rows of a last batch.
      places: int `[n]`, n <= B: which of the sentences the first n rows hold.
    """

    symbols: np.ndarray
    lengths: np.ndarray
    places: np.ndarray


def batches(sentences, batch, quantum):
    """Every sentence once, in `PaddedBatch`es of similar length, the shortest first.

    Args:
      sentences: sequence of int arrays.
      batch: rows B of every batch; those that a last batch has left over are empty. Of long
        sentences fewer, a power of two.
      quantum: T is a multiple of it, so that there are few shapes to compile for.

    Raises:
      UserError: `batch` or `quantum` is below 1.
    """
    if quantum < 1:
        raise UserError(f"quantum is {quantum}; it must be 1 step or more.")
    _check_batch(batch)
    all_lengths = np.array([len(sentence) for sentence in sentences], np.int64)
    order = np.argsort(all_lengths, kind="stable")
    start, rows = 0, batch
    while start < len(order):
        longest = all_lengths[order[min(start + rows, len(order)) - 1]]
        if rows > 1 and rows * longest > _MOST_SYMBOLS:
            rows = 1 << ((rows - 1).bit_length() - 1)
            continue
        places = order[start : start + rows]
        start += rows
        lengths = np.zeros(rows, np.int64)
        lengths[: len(places)] = all_lengths[places]
        steps = max(1, -(-int(lengths.max()) // quantum)) * quantum
        symbols = np.zeros((steps, rows), np.int32)
        for row, place in enumerate(places):
            symbols[: lengths[row], row] = sentences[place]
        yield PaddedBatch(symbols, lengths, places)


def log_probabilities(
    model, params, sentences, *, before, after=None, batch=512, slope=1.0, seed=0
):
    """Log probability of each of N sentences in nats, float64 `[N]`.

    Args:
      model: a `LanguageModel`. params: its parameters.
      sentences: sequence of N int arrays, none of them empty.
      before: the symbol that the model has read before each sentence.
      after: a symbol that must follow each sentence and counts too; None for none.
      batch: prefixes read by one call, whatever N: there is one compilation.
      slope, seed: matter to `soft` and `sample` detectors, and to `sample` detectors, only.
        Sentences that begin alike share the draws of what they share.

    Raises:
      UserError: an empty sentence, a symbol that is not in the vocabulary, `batch` below 1.
    """
    parts = per_symbol(
        model, params, sentences, before=before, after=after, batch=batch, slope=slope, seed=seed
    )
    return np.array([part.sum(dtype=np.float64) for part in parts], np.float64)


def per_symbol(model, params, sentences, *, before, after=None, batch=512, slope=1.0, seed=0):
    """Log probability of each symbol given those before it, in nats.

    Returns a list of N arrays, float32 `[n]` for a sentence of n symbols, `[n + 1]` with
    `after`. Arguments and errors as in `log_probabilities`.
    """
    _check_batch(batch)
    extra = [before] if after is None else [before, after]
    sentences = _checked(sentences, extra, model.vocabulary)
    if after is not None:
        sentences = [np.append(sentence, np.int32(after)) for sentence in sentences]
    results = [None] * len(sentences)
    reader = _Reader(model, params, batch, slope, seed)
    # In this order the sentences that begin alike are neighbours.
    order = sorted(range(len(sentences)), key=lambda place: sentences[place].tobytes())
    for start in range(0, len(order), _BATCHES_HELD * batch):
        places = order[start : start + _BATCHES_HELD * batch]
        values = _read_tree(reader, before, [sentences[place] for place in places])
        for place, row in zip(places, values, strict=True):
            results[place] = row[: len(sentences[place])]
    return results


def outputs(model, params, sentences, *, before, extract, batch=128, quantum=8, slope=1.0, seed=0):
    """Something that the model computes at every step, for the words of each sentence.

    Args:
      extract: `models.language.Output` of a batch -> an array `[T, B, ...]` of it. Pass the same
        function object to every call: another one is compiled anew.
      batch, quantum: see `batches`.
      model, params, sentences, before, slope, seed: as in `log_probabilities`.

    Returns a list of N arrays `[n, ...]`: entry i belongs to the step that reads word i.
    Nothing that follows a sentence could change them.

    Raises:
      UserError: as `log_probabilities` and `batches`.
    """
    sentences = _checked(sentences, [before], model.vocabulary)
    whole = [np.insert(sentence, 0, before) for sentence in sentences]
    params, key = jax.tree.map(jnp.asarray, params), jax.random.key(seed)
    results = [None] * len(whole)
    for number, part in enumerate(batches(whole, batch, quantum)):
        draws = jax.random.fold_in(key, number)
        values = _extracted(
            model.inference, extract, params, part.symbols, np.float32(slope), draws
        )
        values = np.asarray(values)
        for row, place in enumerate(part.places):
            results[place] = values[1 : part.lengths[row], row]
    return results


def _check_batch(batch):
    if batch < 1:
        raise UserError(f"batch is {batch}; it must be 1 row or more.")


def _checked(sentences, extra, vocabulary):
    """The sentences as int32 arrays; they and the symbols `extra` lie in the vocabulary."""
    arrays = [np.asarray(sentence) for sentence in sentences]
    for number, array in enumerate(arrays, start=1):
        if array.ndim != 1 or not array.size:
            raise UserError(
                f"sentence {number} has the shape {array.shape}: give each sentence as one array "
                "of one symbol or more."
            )
    flat = np.concatenate([*arrays, np.asarray(extra)])
    wrong = flat[(flat < 0) | (flat >= vocabulary)]
    if wrong.size:
        raise UserError(
            f"the symbol {wrong[0]} is none of the model's {vocabulary:,}: encode the sentences "
            "with the vocabulary that the model was trained with."
        )
    return [array.astype(np.int32) for array in arrays]


def _apply(model, params, symbols, carry, slope, key):
    noise = None
    if model.noise_width:
        noise = jax.random.uniform(key, (*symbols.shape, model.noise_width))
    return model.apply({"params": params}, symbols, carry, slope=slope, noise=noise)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _extracted(model, extract, params, symbols, slope, key):
    carry = model.initial_carry(symbols.shape[1])
    return extract(_apply(model, params, symbols, carry, slope, key))


@functools.partial(jax.jit, static_argnums=0)
def _step(model, params, symbols, carry, slope, key):
    """One step of `symbols [B]`: log probabilities of the next `[B, V]`, and the carry."""
    out = _apply(model, params, symbols[None], carry, slope, key)
    return jax.nn.log_softmax(out.logits[0]), out.carry


class _Reader:
    """Single steps of the model for any number of rows, in batches of one shape."""

    def __init__(self, model, params, batch, slope, seed):
        self.vocabulary, self.batch = model.vocabulary, batch
        self.first = jax.tree.map(np.asarray, model.initial_carry(1))
        params = jax.tree.map(jnp.asarray, params)
        self._step = functools.partial(_step, model.inference, params)
        self._slope, self._key, self._calls = np.float32(slope), jax.random.key(seed), 0

    def __call__(self, symbols, states, parents):
        """Row i reads `symbols[i]` after the state `parents[i]` of `states`.

        Yields for each batch its rows (a slice), the log probabilities of what follows, `[n, V]`,
        and the new states, `[n, ...]`.
        """
        for start in range(0, len(symbols), self.batch):
            rows = slice(start, min(start + self.batch, len(symbols)))
            count = rows.stop - start
            # Rows left over repeat the first and are thrown away.
            index = np.zeros(self.batch, np.int64)
            index[:count] = np.arange(count)
            chosen = parents[rows][index]
            carry = jax.tree.map(lambda state, chosen=chosen: state[chosen], states)
            draws = jax.random.fold_in(self._key, self._calls)
            self._calls += 1
            results = self._step(symbols[rows][index], carry, self._slope, draws)
            yield rows, *jax.tree.map(lambda x, n=count: np.asarray(x)[:n], results)


def _read_tree(reader, before, sentences):
    """Log probability of each symbol of the sentences, `[N, longest]`, 0 after their ends.

    Level t of the tree holds the distinct beginnings of t symbols; its nodes read the last of
    these (`before` at the root) and predict the symbol at t.
    """
    lengths = np.array([len(sentence) for sentence in sentences])
    symbols = np.zeros((len(sentences), lengths.max()), np.int64)
    symbols[np.arange(symbols.shape[1]) < lengths[:, None]] = np.concatenate(sentences)
    values = np.zeros(symbols.shape, np.float32)
    node = np.zeros(len(sentences), np.int64)  # of each sentence, at the present level
    alive = np.arange(len(sentences))  # those with a symbol at the present level
    states, reads, parents = reader.first, np.array([before], np.int32), np.zeros(1, np.int64)
    for level in range(symbols.shape[1]):
        branches, branch = np.unique(
            node * reader.vocabulary + symbols[alive, level], return_inverse=True
        )
        source, following = np.divmod(branches, reader.vocabulary)
        predicted, parts = np.empty(len(branches), np.float32), []
        for rows, log_p, new in reader(reads, states, parents):
            own = slice(*np.searchsorted(source, (rows.start, rows.stop)))
            predicted[own] = log_p[source[own] - rows.start, following[own]]
            parts.append(new)
        values[alive, level] = predicted[branch]
        # A branch becomes a node of the next level if a sentence goes on from there.
        going = lengths[alive] > level + 1
        alive = alive[going]
        kept, node = np.unique(branch[going], return_inverse=True)
        reads, parents = following[kept].astype(np.int32), source[kept]
        states = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    return values
