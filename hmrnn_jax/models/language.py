"""The language model: embedding, a recurrence, an output module, softmax (Flax linen)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax

from hmrnn_jax import ops, recurrence
from hmrnn_jax.cells.base import exportable, widths
from hmrnn_jax.errors import UserError, require
from hmrnn_jax.models import stack
from hmrnn_jax.models.dropout import Dropout, Masks, drop_connect, recurrent, sample_masks


@exportable("language.Output")
class Output(NamedTuple):
    """What a model returns.

    Attributes:
      logits: `[T, B, V]`.
      carry: the states after the window, one for each cell.
      states, aux: for each cell, its states and by-products at every step, `[T, B, ...]`.
      top: what the decoder reads, before and after dropout, `[T, B, H]` each.
    """

    logits: jax.Array
    carry: tuple
    states: tuple
    aux: tuple
    top: tuple


HEADS = ("gated", "plain", "tied")


class LanguageModel(stack.CellStack, nn.Module):
    """Next-symbol model: embedding, cells, output module, softmax.

    Attributes:
      vocabulary: number of symbols.
      embedding: width of the symbol embedding (no non-linearity).
      cells: configurations of the cells, lowest first; each runs over the whole window
        before the next, so an HM-LSTM of three layers is one cell, an LSTM stack three.
      output: width of the gated output module, which needs 1 or more; not used by the other heads.
      head: what the softmax reads. `gated`, the HM-LSTM's output module over all layers;
        `plain`, h of the last layer; `tied`, the same with the embedding as the matrix.
      embedding_scale: standard deviation of the embedding's initial values. The HM-LSTM's
        paper is silent; at 1 symbols differ enough for the detectors to tell them apart from
        the start, at 0.1 they all fall silent together.
      embedding_uniform: whether they are uniform in +-embedding_scale instead.
      dropout: see `dropout.Dropout`.
      policy: how the recurrence runs, see `recurrence.Policy`.
    """

    vocabulary: int
    embedding: int
    cells: tuple[Any, ...]
    output: int = 0
    head: str = "gated"
    embedding_scale: float = 1.0
    embedding_uniform: bool = False
    dropout: Dropout = Dropout()
    policy: recurrence.Policy = recurrence.Policy()

    @property
    def width(self):
        """Width of what the softmax reads."""
        return self.output if self.head == "gated" else widths(self.cells[-1])[-1]

    @nn.nowrap
    def masks(self, params, key, rows, first_row):
        """Dropout's masks for one window, see `dropout.sample_masks`; None without dropout."""
        if not any(self.dropout[:-1]):
            return None
        cells = [params[f"cell{number + 1}"] for number in range(len(self.cells))]
        kernels = [[k.shape for k in recurrent(cell)] for cell in cells]
        hidden = tuple(widths(config)[-1] for config in self.cells[:-1])
        read = (self.embedding, hidden, self.width)
        return sample_masks(self.dropout, key, rows, first_row, self.vocabulary, read, kernels)

    @nn.nowrap
    def read(self, table, ids, masks=None):
        """What the first layer reads, `[T, B, embedding]`, of the embedding's `table`."""
        drop = masks or Masks()
        return stack.masked(stack.masked(table, drop.embedding)[ids], drop.input)

    @nn.compact
    def __call__(self, ids, carry, *, resets=None, slope=1.0, noise=None, masks=None):
        """Logits of the symbol after each of `ids`.

        Args:
          ids: int `[T, B]`.
          carry: of `initial_carry` or of the window before.
          resets, slope, noise: see `run_cells`.
          masks: of `masks`, in training; None in evaluation.
        """
        initial = ops.symmetric_uniform if self.embedding_uniform else nn.initializers.normal
        table = self.param(
            "embedding", initial(self.embedding_scale), (self.vocabulary, self.embedding)
        )
        drop = masks or Masks()
        # With fewer symbols than steps in the window, the products of the whole table
        # are fewer than those of the window.
        folded = self.vocabulary < ids.size and drop.input is None
        if folded:
            x, table_ids = stack.masked(table, drop.embedding), ids
        else:
            x, table_ids = self.read(table, ids, masks), None

        def prepare(number, params):
            connected = drop.weights[number] if drop.weights else None
            if masks is None or connected is not None:
                return drop_connect(params, self.dropout, connected)
            return params

        hidden, final, states, aux = self.run_cells(
            x,
            carry,
            resets=resets,
            slope=slope,
            noise=noise,
            table_ids=table_ids,
            prepare=prepare,
            between=drop.hidden,
        )
        if self.head == "gated":
            top = stack.GatedOutput(self.output, self.policy.precision, name="output")(hidden)
        else:
            top = hidden[-1]
        dropped = stack.masked(top, drop.output)
        if self.head == "tied":
            kernel = table.T
        else:
            glorot = nn.initializers.glorot_uniform()
            kernel = self.param("softmax_kernel", glorot, (self.width, self.vocabulary))
        bias = self.param("softmax_bias", nn.initializers.zeros, (self.vocabulary,))
        logits = stack.dense(dropped, kernel, self.policy.precision, bias)
        return Output(logits, final, states, aux, (top, dropped))


def language_model(config, vocabulary):
    """The `LanguageModel` that a `config.model` describes, for `vocabulary` symbols."""
    require("model.head", config.head, HEADS)
    dropout = Dropout(**config.dropout)
    dropout.check()
    model = LanguageModel(
        vocabulary=vocabulary,
        embedding=config.embedding,
        cells=stack.cells_from(config, config.embedding),
        output=config.output,
        head=config.head,
        embedding_scale=config.embedding_scale,
        embedding_uniform=config.embedding_uniform,
        dropout=dropout,
        policy=stack.policy_from(config),
    )
    if model.head == "tied" and model.width != model.embedding:
        raise UserError(
            f"A tied decoder needs a last layer as wide as the embedding: {model.width} is not"
            f" {model.embedding}; change model.sizes or model.head."
        )
    if dropout.hidden and config.cell == "hm_lstm":
        raise UserError(
            "dropout.hidden acts between the layers of a stack; the HM-LSTM's layers read each"
            " other within a step. Use dropout.input and dropout.output."
        )
    return model
