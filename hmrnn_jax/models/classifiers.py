"""Classifiers on the states that a recurrence ends its sequences with (Flax linen)."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from hmrnn_jax import ops, parallel, recurrence
from hmrnn_jax.cells.base import exportable, layers, widths
from hmrnn_jax.errors import UserError
from hmrnn_jax.models import stack as cell_stack


@exportable("classifiers.Output")
class Output(NamedTuple):
    """What a classifier returns; R rows were read, T steps each.

    Attributes:
      logits: `[B, labels]`.
      states, aux: as `language.Output` has them.
      mask: `[T, R]`, 1 at the steps of sequences that count, 0 in padding and filler rows.
      resets: bool `[T, R]`, True where the state was put back.
    """

    logits: jax.Array
    states: tuple
    aux: tuple
    mask: jax.Array
    resets: jax.Array


class _Reader(cell_stack.CellStack):
    """What classifiers have in common; they have `dropout` as well as `cells` and `policy`."""

    @property
    def sizes(self):
        """Widths of all layers, lowest first."""
        return [width for config in self.cells for width in widths(config)]

    def affine(self, name, x, width):
        """PyTorch's default for a linear layer, as in the ON-LSTM authors' program."""
        uniform = ops.symmetric_uniform(x.shape[-1] ** -0.5)
        kernel = self.param(f"{name}_kernel", uniform, (x.shape[-1], width))
        bias = self.param(f"{name}_bias", uniform, (width,))
        return cell_stack.dense(x, kernel, self.policy.precision, bias)

    def masks(self, key, batch):
        """Dropout's factors `[B, width]` for each of `dropped`; None without dropout.

        An example's belong to its place in the whole batch, whatever devices it is divided over.
        """
        if not self.dropout:
            return None
        widths, examples = self.dropped, batch.labels.shape[0]

        def row(key):
            keys = jax.random.split(key, len(widths))
            return tuple(
                _factors(k, self.dropout, width) for k, width in zip(keys, widths, strict=True)
            )

        return jax.vmap(row)(parallel.row_keys(key, parallel.first_row(examples), examples))


def _factors(key, p, width):
    """`[width]`: 0 with probability p, else 1 / (1 - p)."""
    return jax.random.bernoulli(key, 1 - p, (width,)) / (1 - p)


class PairClassifier(_Reader, nn.Module):
    """The relation of two sentences (Bowman, Manning, Potts 2015; Shen et al. 2019, 5.4).

    One encoder reads both; of the last layer's states u, v after them the features
    [u, v, u * v, |u - v|] pass dropout, a layer of ELUs, dropout, and a softmax. As in the
    ON-LSTM authors' program, embedded symbols have a dropout of their own, drawn anew for each
    unit of each symbol.

    Attributes:
      vocabulary, embedding: number of symbols, width of their embedding.
      cells: configurations of the encoder's cells, lowest first.
      hidden: width of the ELU layer. labels: number of relations.
      dropout: probability, of the dropouts before and after the ELU layer.
      input_dropout: of the units of embedded symbols.
      policy: how the recurrence runs.
    """

    vocabulary: int
    embedding: int
    cells: tuple[Any, ...]
    hidden: int
    labels: int
    dropout: float = 0.0
    input_dropout: float = 0.0
    policy: recurrence.Policy = recurrence.Policy()

    @nn.compact
    def __call__(self, batch, *, slope=1.0, masks=None):
        """`Output` of a `batches.pairs.PairBatch`; `masks` of `masks`, in training."""
        symbols, features_kept, hidden_kept = masks or (None, None, None)
        uniform = ops.symmetric_uniform
        table = self.param("embedding", uniform(0.1), (self.vocabulary, self.embedding))
        # There are fewer symbols than steps, hence the table.
        x, ids = (table, batch.ids) if symbols is None else (table[batch.ids] * symbols, None)
        hidden, _, states, aux = self.run_cells(
            x, self.initial_carry(batch.ids.shape[1]), slope=slope, resets=batch.resets,
            table_ids=ids,
        )  # fmt: skip
        u, v = (hidden[-1][step, row] for step, row in (batch.left, batch.right))
        features = jnp.concatenate([u, v, u * v, jnp.abs(u - v)], axis=1)
        features = cell_stack.masked(features, features_kept)
        hidden = nn.elu(self.affine("hidden", features, self.hidden))
        logits = self.affine("labels", cell_stack.masked(hidden, hidden_kept), self.labels)
        mask = (batch.numbers >= 0).astype(jnp.float32)
        return Output(logits, states, aux, mask, batch.resets)

    @property
    def dropped(self):
        """Widths of what dropout acts on, but for the symbols."""
        return (4 * self.sizes[-1], self.hidden)

    def masks(self, key, batch):
        """`(symbols [T, B, embedding], features, hidden)`, None where nothing is dropped."""
        symbols_key, key = jax.random.split(key)
        symbols = None
        if self.input_dropout:
            keys = jax.vmap(lambda n: jax.random.fold_in(symbols_key, n))(batch.numbers.ravel())
            draw = functools.partial(_factors, p=self.input_dropout, width=self.embedding)
            symbols = jax.vmap(draw)(keys).reshape(*batch.numbers.shape, self.embedding)
        return symbols, *(super().masks(key, batch) or (None, None))


class Classifier(_Reader, nn.Module):
    """The class of a sequence of vectors: cells, their final state, dropout, softmax.

    The softmax reads the final h of every layer, concatenated, for every cell alike. The last
    layer's alone would be unfair to the HM-LSTM: unless a segment happens to end with the
    sequence, that layer still COPYs what it knew at the last boundary below it, and only the
    layers below have read the rest.

    Attributes:
      cells: configurations of the cells, lowest first.
      labels: number of classes.
      dropout: probability, of the final state's.
      policy: how the recurrence runs.
    """

    cells: tuple[Any, ...]
    labels: int
    dropout: float = 0.0
    policy: recurrence.Policy = recurrence.Policy()

    @nn.compact
    def __call__(self, batch, *, slope=1.0, masks=None):
        """`Output` for `batch.inputs [T, B, D]`; `masks` of `masks`, in training."""
        carry = self.initial_carry(batch.inputs.shape[1])
        _, final, states, aux = self.run_cells(batch.inputs, carry, slope=slope)
        features = jnp.concatenate([h for state in final for h in layers(state)], axis=1)
        if masks is not None:
            features = features * masks[0]
        logits = self.affine("labels", features, self.labels)
        mask = jnp.broadcast_to(batch.mask, batch.inputs.shape[:2])
        return Output(logits, states, aux, mask, jnp.zeros_like(mask, bool))

    @property
    def dropped(self):
        """Widths of what dropout acts on."""
        return (sum(self.sizes),)


def cells_from(config, input_size):
    """As `stack.cells_from`, for a `config.model` with the field `dropout`.

    Raises:
      UserError: also for a dropout that is no probability below 1, and for cells that draw
        their boundaries.
    """
    for name in ("dropout", "input_dropout"):
        if not 0 <= (p := config.get(name, 0.0)) < 1:
            raise UserError(f"model.{name} is {p}; a probability below 1 is needed.")
    stack = cell_stack.cells_from(config, input_size)
    if any(cell.uses_noise for cell in stack):
        raise UserError(
            "model.hm_lstm.boundary is 'sample', but classifiers draw no boundaries; choose step"
            " or soft."
        )
    return stack
