"""Dropout of recurrent language models: masks drawn once for a window.

The recipe of AWD-LSTM (Merity, Keskar, Socher 2018) as the ON-LSTM's authors use it.
Masks are explicit arrays, so that a step is a pure function, and a row's masks depend on
its place in the whole batch, not on the number of devices.
"""

from typing import Any, NamedTuple

import jax

from hmrnn_jax import parallel
from hmrnn_jax.errors import UserError


class Dropout(NamedTuple):
    """Probabilities of being dropped.

    Attributes:
      embedding: whole rows of the embedding table (words), the rest scaled by 1 / (1 - p).
      input, hidden, output: units of the embedded input, between two cells, and before the
        decoder; one mask for all steps of a window ("locked"), inverted scaling.
      weight: entries of the recurrent kernels ("DropConnect"), one mask a window.
      weight_inverted: how DropConnect keeps its scale. False, as in the ON-LSTM's code: kept
        entries stay as they are in training, and evaluation multiplies by 1 - p. True, as in
        AWD-LSTM's: kept entries are divided by 1 - p, and evaluation uses the kernel itself.
    """

    embedding: float = 0.0
    input: float = 0.0
    hidden: float = 0.0
    output: float = 0.0
    weight: float = 0.0
    weight_inverted: bool = False

    def check(self):
        """Raises `UserError` unless every probability lies in [0, 1)."""
        for name, p in zip(self._fields[:-1], self[:-1], strict=True):
            if not 0 <= p < 1:
                raise UserError(f"dropout.{name} is {p}; a probability below 1 is needed.")


class Masks(NamedTuple):
    """Factors for one window; None where nothing is dropped.

    Attributes:
      embedding: `[V, 1]`. input: `[B, E]`. hidden: one `[B, H]` for each cell but the last.
      output: `[B, width]` of what the decoder reads.
      weights: for each cell, factors of its recurrent kernels in the order of `recurrent`.
    """

    embedding: Any = None
    input: Any = None
    hidden: tuple = ()
    output: Any = None
    weights: tuple = ()


def sample_masks(dropout, key, rows, first_row, vocabulary, widths, kernels):
    """The `Masks` of one window.

    Args:
      dropout: `Dropout`. key: of the update.
      rows, first_row: this device's rows, `first_row` the place of the first in the batch.
      vocabulary: number of words.
      widths: `(input, (hidden, ...), output)`.
      kernels: for each cell, the shapes of its recurrent kernels.
    """
    keys = jax.random.split(key, 4 + len(kernels))

    def locked(key, p, width):
        if not p:
            return None
        own = parallel.row_keys(key, first_row, rows)
        kept = jax.vmap(lambda k: jax.random.bernoulli(k, 1 - p, (width,)))(own)
        return kept / (1 - p)

    embedding = None
    if dropout.embedding:
        kept = jax.random.bernoulli(keys[0], 1 - dropout.embedding, (vocabulary, 1))
        embedding = kept / (1 - dropout.embedding)
    hidden_keys = jax.random.split(keys[2], max(1, len(widths[1])))
    weights = ()
    if dropout.weight:
        scale = 1 / (1 - dropout.weight) if dropout.weight_inverted else 1.0
        weights = tuple(
            tuple(
                scale * jax.random.bernoulli(k, 1 - dropout.weight, shape)
                for k, shape in zip(jax.random.split(key, len(shapes)), shapes, strict=True)
            )
            for key, shapes in zip(keys[4:], kernels, strict=True)
        )
    return Masks(
        embedding=embedding,
        input=locked(keys[1], dropout.input, widths[0]),
        hidden=tuple(
            locked(k, dropout.hidden, width)
            for k, width in zip(hidden_keys, widths[1], strict=False)
        ),
        output=locked(keys[3], dropout.output, widths[2]),
        weights=weights,
    )


def recurrent(params):
    """The kernels of a cell that read its own past h: every leaf called `U` or `U_rec`."""
    found = jax.tree_util.tree_leaves_with_path(params)
    return [leaf for path, leaf in found if _is_recurrent(path)]


def _is_recurrent(path):
    names = [getattr(part, "key", None) for part in path]
    return names[-1] in ("U", "U_rec") and "norm" not in names and "detector" not in names


def drop_connect(params, dropout, masks):
    """A cell's parameters with DropConnect on its recurrent kernels.

    `masks`: factors in the order of `recurrent`, in training; None in evaluation, where the
    kernels are scaled if `dropout` says so.
    """
    if masks is None:
        if not dropout.weight or dropout.weight_inverted:
            return params
        masks = [1 - dropout.weight] * len(recurrent(params))
    masks = iter(masks)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * next(masks) if _is_recurrent(path) else leaf, params
    )
