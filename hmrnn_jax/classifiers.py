"""Classifiers on a recurrence's last state, and what they are trained and scored by."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from hmrnn_jax import cells, models, recurrence
from hmrnn_jax.parallel import AXIS


class PairClassifier(nn.Module):
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
        """Logits `[B, labels]` of a `pairs.PairBatch`; `masks` of `masks`, in training."""
        uniform = models.symmetric_uniform
        table = self.param("embedding", uniform(0.1), (self.vocabulary, self.embedding))
        ids = jnp.concatenate([batch.left, batch.right], axis=1)
        resets = jnp.concatenate([batch.left_resets, batch.right_resets], axis=1)
        rows = ids.shape[1]
        x, table_ids = table, ids  # there are fewer symbols than steps
        for number, config in enumerate(self.cells):
            cell = cells.of(config)
            out = recurrence.unroll(
                config,
                self.param(f"cell{number + 1}", cell.init, config),
                recurrence.initial_state(config, rows),
                x,
                resets=resets,
                constants={"slope": slope} if config.uses_slope else None,
                policy=self.policy,
                table_ids=table_ids,
            )
            last, every = (
                s.h[-1] if isinstance(s.h, tuple) else s.h for s in (out.final, out.states)
            )
            x, table_ids = every, None
        u, v = jnp.split(last, 2)
        features = jnp.concatenate([u, v, u * v, jnp.abs(u - v)], axis=1)
        if masks is not None:
            features = features * masks[0]
        hidden = nn.elu(self._affine("hidden", features, self.hidden))
        if masks is not None:
            hidden = hidden * masks[1]
        return self._affine("labels", hidden, self.labels)

    def _affine(self, name, x, width):
        """PyTorch's default for a linear layer, as in the authors' program."""
        uniform = models.symmetric_uniform(x.shape[-1] ** -0.5)
        kernel = self.param(f"{name}_kernel", uniform, (x.shape[-1], width))
        bias = self.param(f"{name}_bias", uniform, (width,))
        return models.dense(x, kernel, self.policy.precision) + bias

    @nn.nowrap
    def masks(self, key, rows, first_row):
        """Dropout's factors for this device's rows, by their place in the whole batch."""
        if not self.dropout:
            return None
        last = self.cells[-1]
        size = last.sizes[-1] if hasattr(last, "sizes") else last.size
        widths = (4 * size, self.hidden)

        def row(number):
            keys = jax.random.split(jax.random.fold_in(key, number))
            return tuple(
                jax.random.bernoulli(k, 1 - self.dropout, (width,)) / (1 - self.dropout)
                for k, width in zip(keys, widths, strict=True)
            )

        return jax.vmap(row)(first_row + jnp.arange(rows))


def loss(model, params, carry, batch, knobs, key):
    """Mean cross-entropy of the counted rows; see `train_state.train_step`."""
    rows = batch.labels.shape[0]
    masks = model.masks(key, rows, jax.lax.axis_index(AXIS) * rows)
    logits = model.apply({"params": params}, batch, slope=knobs["slope"], masks=masks)
    sums = scores(logits, batch)
    return sums["nats"] / jax.lax.psum(batch.mask.sum(), AXIS), (carry, sums)


def eval_step(model, params, carry, batch, knobs):
    """Scores a batch: the carry as it came, and the sums of `scores`."""
    logits = model.apply({"params": params}, batch, slope=knobs["slope"])
    return carry, jax.lax.psum(scores(logits, batch), AXIS)


def scores(logits, batch):
    """Sums over the counted rows: `nats`, `count`, `correct`."""
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
    correct = jnp.argmax(logits, axis=-1) == batch.labels
    return {
        "nats": jnp.sum(nll * batch.mask),
        "count": batch.mask.sum(),
        "correct": jnp.sum(correct * batch.mask),
    }


def summary(sums):
    """Means, as plain numbers."""
    count = float(np.sum(sums["count"]))
    return {
        "examples": int(count),
        "nats": float(sums["nats"]) / count,
        "accuracy": float(sums["correct"]) / count,
    }
