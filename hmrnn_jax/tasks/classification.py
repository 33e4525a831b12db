"""What classifiers are trained and scored by."""

import jax.numpy as jnp
import numpy as np
import optax

from hmrnn_jax import parallel
from hmrnn_jax.tasks import metrics


def loss(model, params, carry, batch, scalars, key):
    """Mean cross-entropy of the unmasked rows; see `training.state.train_step`."""
    masks = model.masks(key, batch)
    out = model.apply({"params": params}, batch, slope=scalars["slope"], masks=masks)
    sums = scores(model, out, batch, scalars["slope"])
    return parallel.share(sums["nats"], sums["count"]), (carry, sums)


def eval_step(model, params, carry, batch, scalars):
    """Scores a batch: the carry as it came, and the sums of `scores`."""
    out = model.apply({"params": params}, batch, slope=scalars["slope"])
    return carry, parallel.total(scores(model, out, batch, scalars["slope"]))


def scores(model, out, batch, slope):
    """Sums over the unmasked rows: `nats`, `count`, `correct`; over their steps: `steps` and
    those of `metrics.diagnostics`."""
    nll = optax.softmax_cross_entropy_with_integer_labels(out.logits, batch.labels)
    correct = jnp.argmax(out.logits, axis=-1) == batch.labels
    sums = {
        "nats": jnp.sum(nll * batch.mask),
        "count": batch.mask.sum(),
        "correct": jnp.sum(correct * batch.mask),
        "steps": out.mask.sum(),
    }
    carry = model.initial_carry(out.mask.shape[1])
    return sums | metrics.diagnostics(model, carry, out, out, slope)


def summary(sums):
    """Means, as plain numbers, `error` in %; and the rates of detectors, if there are any."""
    count = float(np.sum(sums["count"]))
    accuracy = float(sums["correct"]) / count
    return {
        "examples": int(count),
        "nats": float(sums["nats"]) / count,
        "accuracy": accuracy,
        "error": 100 * (1 - accuracy),
    } | metrics.rates(sums | {"count": sums["steps"]})
