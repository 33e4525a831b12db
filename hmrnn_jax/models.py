"""Models: embeddings, a recurrence, and an output module (Flax linen)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from hmrnn_jax import cells, ops, recurrence
from hmrnn_jax.errors import UserError


class Output(NamedTuple):
    """What a model returns.

    Attributes:
      logits: `[T, B, V]`.
      carry: the states after the window, one for each cell.
      states, aux: for each cell, its states and by-products at every step, `[T, B, ...]`.
    """

    logits: jax.Array
    carry: tuple
    states: tuple
    aux: tuple


class GatedOutput(nn.Module):
    """The output module of the HM-LSTM (Chung et al. 2017, eq. 11-12).

    g^l = sigmoid(w^l . [h^1; ...; h^L]), one scalar a layer;  h^e = relu(sum_l g^l W_l h^l),
    a separate matrix a layer. No biases.

    Attributes:
      size: width of h^e.
      precision: see `ops.product`.
    """

    size: int
    precision: str = "float32"

    @nn.compact
    def __call__(self, hidden):
        """`hidden`: h of each layer, `[..., H_l]`. Returns `[..., size]`."""
        depth = len(hidden)
        glorot = nn.initializers.glorot_uniform()
        gate = self.param("gate", glorot, (sum(h.shape[-1] for h in hidden), depth))
        logits, embedded, start = 0.0, [], 0
        for layer, h in enumerate(hidden):
            width = h.shape[-1]
            kernel = self.param(f"embed{layer + 1}", glorot, (width, self.size))
            # The gates' share of this layer rides along as further columns.
            kernel = jnp.concatenate([kernel, gate[start : start + width]], axis=1)
            both = dense(h, kernel, self.precision)
            embedded.append(both[..., : self.size])
            logits += both[..., self.size :]
            start += width
        gates = nn.sigmoid(logits)
        return nn.relu(sum(gates[..., k, None] * e for k, e in enumerate(embedded)))


def dense(x, kernel, precision):
    """`x [..., K] @ kernel [K, N]` under a precision policy."""
    rows = x.reshape(-1, x.shape[-1])
    return ops.product(rows, kernel, precision).reshape(*x.shape[:-1], kernel.shape[1])


class LanguageModel(nn.Module):
    """Next-symbol model: embedding, cells, gated output module, softmax.

    Attributes:
      vocabulary: number of symbols.
      embedding: width of the symbol embedding (no non-linearity).
      cells: configurations of the cells, lowest first; each runs over the whole window
        before the next, so an HM-LSTM of three layers is one cell, an LSTM stack three.
      output: width of the output module.
      embedding_scale: standard deviation of the embedding's initial values. The paper is
        silent; at 1 symbols differ enough for the detectors to tell them apart from the
        start, at 0.1 they all fall silent together.
      policy: how the recurrence runs, see `recurrence.Policy`.
    """

    vocabulary: int
    embedding: int
    cells: tuple[Any, ...]
    output: int
    embedding_scale: float = 1.0
    policy: recurrence.Policy = recurrence.Policy()

    @property
    def inference(self):
        """The same model for windows of any length, nothing rematerialised."""
        return self.clone(policy=self.policy._replace(remat=0))

    @nn.nowrap
    def initial_carry(self, batch):
        """The states before the first step, `[batch, ...]`, one for each cell."""
        return tuple(recurrence.initial_state(config, batch) for config in self.cells)

    @nn.compact
    def __call__(self, ids, carry, *, resets=None, slope=1.0, noise=None):
        """Logits of the symbol after each of `ids`.

        Args:
          ids: int `[T, B]`.
          carry: of `initial_carry` or of the window before.
          resets: bool `[T, B]`, see `recurrence.unroll`.
          slope: slope of the detectors, a scalar; cells without detectors ignore it.
          noise: uniform `[T, B, n]` for cells that sample, see `noise_width`.
        """
        table = self.param(
            "embedding",
            nn.initializers.normal(self.embedding_scale),
            (self.vocabulary, self.embedding),
        )
        # With fewer symbols than steps in the window, the products of the whole table
        # are fewer than those of the window.
        folded = self.vocabulary < ids.size
        x, table_ids = (table, ids) if folded else (table[ids], None)
        hidden, final, states, aux = [], [], [], []
        for number, (config, state) in enumerate(zip(self.cells, carry, strict=True)):
            cell = cells.of(config)
            params = self.param(f"cell{number + 1}", cell.init, config)
            out = recurrence.unroll(
                config,
                params,
                state,
                x,
                resets=resets,
                constants={"slope": slope} if config.uses_slope else None,
                per_step={"noise": noise} if config.uses_noise else None,
                policy=self.policy,
                table_ids=table_ids,
            )
            layers = out.states.h if isinstance(out.states.h, tuple) else (out.states.h,)
            hidden += layers
            x, table_ids = layers[-1], None
            final.append(out.final)
            states.append(out.states)
            aux.append(out.aux)
        embedded = GatedOutput(self.output, self.policy.precision, name="output")(hidden)
        kernel = self.param(
            "softmax_kernel", nn.initializers.glorot_uniform(), (self.output, self.vocabulary)
        )
        bias = self.param("softmax_bias", nn.initializers.zeros, (self.vocabulary,))
        logits = dense(embedded, kernel, self.policy.precision) + bias
        return Output(logits, tuple(final), tuple(states), tuple(aux))

    @property
    def noise_width(self):
        """Uniform draws for each step and row: one a sampling detector, else 0."""
        return max(config.uses_noise for config in self.cells)


def cells_from(config):
    """The cells' configurations from a `config.model` (ml_collections).

    `config.cell` names the cell, `config.sizes` its layers' widths, and the section
    `config[config.cell]` the choices of that cell alone.
    """
    if config.cell not in cells.MODULES:
        raise UserError(
            f"model.cell is {config.cell!r}; it must be one of {', '.join(cells.MODULES)}."
        )
    module, sizes = cells.MODULES[config.cell], tuple(config.sizes)
    if not sizes or min(sizes) < 1:
        raise UserError(f"model.sizes is {sizes}; it must hold at least one positive width.")
    choices = {"layer_norm": config.layer_norm} | dict(config.get(config.cell, {}))
    if config.cell == "hm_lstm":
        return (module.Config(config.embedding, sizes, **choices),)
    widths = (config.embedding, *sizes)
    return tuple(module.Config(n, size, **choices) for n, size in zip(widths, sizes))  # noqa: B905


def language_model(config, vocabulary):
    """The `LanguageModel` that a `config.model` describes, for `vocabulary` symbols."""
    policy = recurrence.Policy(
        gradient=config.gradient,
        precision=config.precision,
        remat=config.remat,
        unroll=config.unroll,
    )
    return LanguageModel(
        vocabulary=vocabulary,
        embedding=config.embedding,
        cells=cells_from(config),
        output=config.output,
        embedding_scale=config.embedding_scale,
        policy=policy,
    )
