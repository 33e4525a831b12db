"""What tasks share of losses and metrics: sums and counts, so that masks and devices add up."""

import math

import jax.numpy as jnp
import numpy as np
import optax

from hmrnn_jax import ops
from hmrnn_jax.cells import hm_lstm_window

BITS = 1 / math.log(2)


def cross_entropy(logits, targets, mask):
    """Negative log-likelihood of the next symbol, summed over the steps that count.

    Args:
      logits: `[T, B, V]`. targets: int `[T, B]`. mask: `[T, B]`, 1 where a step counts.

    Returns a scalar in nats. Bits per character are `BITS * sum / count`, perplexity
    `exp(sum / count)`.
    """
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return jnp.sum(nll * mask)


def diagnostics(model, carry, out, batch, slope):
    """Sums over unmasked steps of what the detectors and layers do, `{name: [layers]}`.

    `fired` (z), `alive` (the straight-through derivative at x over that at 0: with the hard
    sigmoid's the share where |a x| < 1) for each detector; `update`, `copy`, `flush` for each
    layer of an HM-LSTM. Empty for cells without detectors. Divide by `count` for rates.
    """
    sums = {}
    for config, before, states, aux in zip(model.cells, carry, out.states, out.aux, strict=True):
        if not config.uses_slope:
            continue
        own = hm_lstm_window.before_each_step(config, before, states, batch.resets).z
        update, copy, flush = hm_lstm_window.operations(own, states.z, config.flush)
        alive = [ops.surrogate_derivative(x, slope, config.derivative) * 2 / slope for x in aux.x]
        rows = {"fired": states.z, "alive": alive, "update": update, "copy": copy, "flush": flush}
        for name, values in rows.items():
            if values:
                sums[name] = jnp.stack([jnp.sum(v * batch.mask) for v in values])
    return sums


def perplexity(nats):
    """exp of nats a symbol, bounded: a model that diverged may have more than a float holds."""
    return math.exp(min(nats, 700))


# `rate` is what the literature calls the firing rate of a boundary detector.
RATE_NAMES = {
    "fired": "rate",
    "alive": "live",
    "update": "update",
    "copy": "copy",
    "flush": "flush",
}


def rates(sums):
    """`{word/layerN: rate}` from the sums of `diagnostics`, as plain numbers."""
    return {
        f"{word}/layer{layer}": float(value) / float(sums["count"])
        for name, word in RATE_NAMES.items()
        for layer, value in enumerate(np.atleast_1d(sums.get(name, ())), start=1)
    } | _taught(sums)


def _taught(sums):
    """`{teacher/layerN: nats a step, target/layerN: share of steps}`, where there is a teacher."""
    columns = (np.atleast_1d(sums.get(name, ())) for name in ("taught", "targets", "teachable"))
    found = {}
    for layer, (cost, targets, steps) in enumerate(zip(*columns, strict=True), start=1):
        found[f"teacher/layer{layer}"] = float(cost) / max(float(steps), 1)
        found[f"target/layer{layer}"] = float(targets) / max(float(steps), 1)
    return found


def collapsed(result, low=0.01, high=0.99):
    """Warnings, a sentence each, for detectors that hardly ever or nearly always fire, or
    whose straight-through gradient is nearly always zero."""
    warnings = []
    for name, value in result.items():
        kind, _, layer = name.rpartition("/")
        if kind.endswith("rate") and not low <= value <= high:
            shown = f"{value:.1%}"
            if shown in ("0.0%", "100.0%"):
                state = "never" if value < low else "always"
                warnings.append(f"the detector of {layer} has collapsed: it {state} fires")
            else:
                state = "hardly" if value < low else "nearly always"
                warnings.append(f"the detector of {layer} {state} fires, at {shown} of the steps")
        elif kind.endswith("live") and value < low:
            warnings.append(
                f"the detector of {layer} no longer learns: {value:.1%} of its inputs are live"
            )
    return warnings
