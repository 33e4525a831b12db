"""Classifiers on a recurrence's last state (Flax linen)."""

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
    """What a classifier returns; R sequences were read, T steps each.

    Attributes:
      logits: `[B, labels]`.
      states, aux: as `language.Output` has them.
      mask: `[T, R]`, 1 at the steps of sequences that count, 0 in padding, padding rows included.
      resets: bool `[T, R]`, True where the state was put back.
    """

    logits: jax.Array
    states: tuple
    aux: tuple
    mask: jax.Array
    resets: jax.Array


class _Reader(cell_stack.CellStack):
    """What classifiers have in common; they have `dropout` as well as `cells` and `policy`."""

    def read(self, x, rows, slope, **inputs):
        """`(last, states, aux)` of cells that begin at their initial state.

        `last`: final h of each layer, `[rows, H]`. `x` and `inputs` are those of `run_cells`,
        states and aux what it returns.
        """
        carry = self.initial_carry(rows)
        _, final, states, aux = self.run_cells(x, carry, slope=slope, **inputs)
        return [h for state in final for h in layers(state)], states, aux

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

    def masks(self, key, rows, first_row):
        """Dropout's factors `[rows, width]` for each of `dropped`; None without dropout."""
        if not self.dropout:
            return None
        widths = self.dropped

        def row(key):
            keys = jax.random.split(key, len(widths))
            return tuple(
                jax.random.bernoulli(k, 1 - self.dropout, (width,)) / (1 - self.dropout)
                for k, width in zip(keys, widths, strict=True)
            )

        return jax.vmap(row)(parallel.row_keys(key, first_row, rows))


class PairClassifier(_Reader, nn.Module):
    """The relation of two sentences (Bowman, Manning, Potts 2015; Shen et al. 2019, 5.4).

    One encoder reads both; of the last layer's final states u, v the features
    [u, v, u * v, |u - v|] pass dropout, a layer of ELUs, dropout, and a softmax.

    Attributes:
      vocabulary, embedding: number of symbols, width of their embedding.
      cells: configurations of the encoder's cells, lowest first.
      hidden: width of the ELU layer. labels: number of relations.
      dropout: probability, of both dropouts.
      policy: how the recurrence runs.
    """

    vocabulary: int
    embedding: int
    cells: tuple[Any, ...]
    hidden: int
    labels: int
    dropout: float = 0.0
    policy: recurrence.Policy = recurrence.Policy()

    @nn.compact
    def __call__(self, batch, *, slope=1.0, masks=None):
        """`Output` of a `batches.pairs.PairBatch`; `masks` of `masks`, in training."""
        uniform = ops.symmetric_uniform
        table = self.param("embedding", uniform(0.1), (self.vocabulary, self.embedding))
        ids = jnp.concatenate([batch.left, batch.right], axis=1)
        resets = jnp.concatenate([batch.left_resets, batch.right_resets], axis=1)
        # There are fewer symbols than steps, hence the table.
        last, states, aux = self.read(table, ids.shape[1], slope, resets=resets, table_ids=ids)
        u, v = jnp.split(last[-1], 2)
        features = jnp.concatenate([u, v, u * v, jnp.abs(u - v)], axis=1)
        if masks is not None:
            features = features * masks[0]
        hidden = nn.elu(self.affine("hidden", features, self.hidden))
        if masks is not None:
            hidden = hidden * masks[1]
        logits = self.affine("labels", hidden, self.labels)
        # After padding, and only after it, comes another step that puts the state back.
        padding = jnp.zeros_like(resets).at[:-1].set(resets[:-1] & resets[1:])
        mask = jnp.where(padding, 0, jnp.tile(batch.mask, 2))
        return Output(logits, states, aux, mask, resets)

    @property
    def dropped(self):
        """Widths of what dropout acts on."""
        return (4 * self.sizes[-1], self.hidden)


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
        layers, states, aux = self.read(batch.inputs, batch.inputs.shape[1], slope)
        features = jnp.concatenate(layers, axis=1)
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
    if not 0 <= config.dropout < 1:
        raise UserError(f"model.dropout is {config.dropout}; a probability below 1 is needed.")
    stack = cell_stack.cells_from(config, input_size)
    if any(cell.uses_noise for cell in stack):
        raise UserError(
            "model.hm_lstm.boundary is 'sample', but classifiers draw no boundaries; choose step"
            " or soft."
        )
    return stack
