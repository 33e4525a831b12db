"""What a language model is trained and scored by: loss, rates, figures."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hmrnn_jax import losses, objectives, ops, regularisation
from hmrnn_jax.cells import hm_lstm
from hmrnn_jax.parallel import AXIS


def init_params(model, key):
    """The model's parameters, drawn with `key`; shapes do not depend on batch or window."""
    ids = jnp.zeros((1, 1), jnp.int32)
    noise = jnp.zeros((1, 1, model.noise_width))
    return model.init(key, ids, model.initial_carry(1), noise=noise)["params"]


class Penalties(NamedTuple):
    """Weights of what is added to the loss (Merity, Keskar, Socher 2018).

    Attributes:
      activation: AR, of the mean square of the last layer's h.
      temporal: TAR, of the mean square of its change from step to step.
      after_dropout: whether AR reads the dropped output, as in AWD-LSTM's code, or the
        undropped one, as in the ON-LSTM's. TAR reads the undropped one in both.
    """

    activation: float = 0.0
    temporal: float = 0.0
    after_dropout: bool = False


def loss(
    model, penalties, params, carry, batch, knobs, key, *, padded=False,
    boundaries=objectives.NOTHING, newline=None,
):  # fmt: skip
    """The mean negative log-likelihood of the counted steps, in nats, and what is added to it.

    Args:
      model: a `LanguageModel`. penalties: `Penalties`. Both static.
      carry, batch: this device's rows. knobs: `{slope}`, and with boundary objectives
        `objectives`, the factor of their weights. key: of the update.
      padded: whether windows may end in steps that do not count and the next window goes on
        before these. boundaries: what is asked of the detectors. newline: id of the symbol that
        ends a line, for its teacher `line_end`. All static.

    Returns `(share, (carry, sums))`; `sums`: `nats`, `count` and those of `diagnostics`.
    """
    count = jax.lax.psum(batch.mask.sum(), AXIS)
    rows = batch.mask.shape[1]
    # Apart: a row's noise and the first mask would be the same draws otherwise.
    mask_key, noise_key = jax.random.split(key)
    masks = model.masks(params, mask_key, rows, jax.lax.axis_index(AXIS) * rows)
    out = model.apply(
        {"params": params},
        batch.inputs,
        carry,
        resets=batch.resets,
        slope=knobs["slope"],
        noise=row_noise(noise_key, model.noise_width, *batch.mask.shape),
        masks=masks,
    )
    nats = losses.cross_entropy(out.logits, batch.targets, batch.mask)
    value = nats / count
    plain, dropped = out.top
    for weight, function, h in (
        (penalties.activation, regularisation.activation_penalty,
         dropped if penalties.after_dropout else plain),
        (penalties.temporal, regularisation.temporal_penalty, plain),
    ):  # fmt: skip
        if weight:
            total, number = function(h, batch.mask)
            value += weight * total / jnp.maximum(jax.lax.psum(number, AXIS), 1)
    sums = {"nats": nats, "count": batch.mask.sum()}
    if boundaries.active:
        share, more = objectives.of_model(
            boundaries, model, params, params["embedding"][batch.inputs], carry, out, batch,
            knobs["slope"], uncertainty(boundaries.teacher, out.logits, batch.targets, newline),
        )  # fmt: skip
        value += knobs["objectives"] * share
        sums |= more
    sums |= diagnostics(model, carry, out, batch, knobs["slope"])
    after = out.carry
    if padded:
        last = batch.mask[:, 0].sum().astype(int) - 1
        after = jax.tree.map(lambda states: states[last], out.states)
    return value, (after, sums)


def uncertainty(kind, logits, targets, newline=None):
    """What a teacher or a reading takes the peaks of, `[T, B]`; a `kind` of `objectives.TEACHERS`.

    Args:
      logits: `[T, B, V]`. targets: int `[T, B]`. newline: id of the line end, for `line_end`.
    """
    if kind == "entropy":
        return objectives.entropy(logits)
    if kind == "line_end":
        return objectives.line_end(logits, newline)
    if kind == "surprise":
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return None


def eval_step(model, params, carry, batch, knobs):
    """Scores a window: returns the carry and the sums of `loss`'s metrics.

    `knobs` are `{slope, seed, number}`; detectors in `sample` mode draw from the last two,
    the seed of the evaluation and the window's number.
    """
    key = jax.random.fold_in(jax.random.key(knobs["seed"]), knobs["number"])
    out = model.apply(
        {"params": params},
        batch.inputs,
        carry,
        resets=batch.resets,
        slope=knobs["slope"],
        noise=row_noise(key, model.noise_width, *batch.mask.shape),
    )
    nats = losses.cross_entropy(out.logits, batch.targets, batch.mask)
    sums = diagnostics(model, carry, out, batch, knobs["slope"])
    metrics = {"nats": nats, "count": batch.mask.sum(), **sums}
    return out.carry, jax.lax.psum(metrics, AXIS)


def row_noise(key, width, steps, rows):
    """Uniform draws `[steps, rows, width]`, a function of each row's place in the whole batch.

    So a row's draws are the same on one device and on many.
    """
    if not width:
        return None
    first = jax.lax.axis_index(AXIS) * rows
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(first + jnp.arange(rows))
    return jax.vmap(lambda k: jax.random.uniform(k, (steps, width)), out_axes=1)(keys)


def diagnostics(model, carry, out, batch, slope):
    """Sums over counted steps of what the detectors and layers do, `{name: [layers]}`.

    `fired` (z), `alive` (the straight-through derivative at x over that at 0: with the hard
    sigmoid's the share where |a x| < 1) for each detector; `update`, `copy`, `flush` for each
    layer of an HM-LSTM. Empty for cells without detectors. Divide by `count` for rates.
    """
    sums = {}
    for config, before, states, aux in zip(model.cells, carry, out.states, out.aux, strict=True):
        if not config.uses_slope:
            continue
        one, zero = jnp.ones_like(batch.mask), jnp.zeros_like(batch.mask)
        own = [*hm_lstm.before_each_step(config, before, states, batch.resets).z, zero]
        below = [one, *states.z]
        flush = [p if config.flush else zero for p in own]
        update = [(1 - p) * q for p, q in zip(flush, below, strict=True)]
        copy = [(1 - p) * (1 - q) for p, q in zip(flush, below, strict=True)]
        alive = [ops.surrogate_derivative(x, slope, config.surrogate) * 2 / slope for x in aux.x]
        rows = {"fired": states.z, "alive": alive, "update": update, "copy": copy, "flush": flush}
        for name, values in rows.items():
            if values:
                sums[name] = jnp.stack([jnp.sum(v * batch.mask) for v in values])
    return sums


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


def summary(sums):
    """Means and rates from the sums of `loss` or `eval_step`, as plain numbers."""
    count = float(sums["count"])
    nats = float(sums["nats"]) / count
    return {"symbols": int(count), "nats": nats, "bpc": nats * losses.BITS} | rates(sums)


def headline(result, unit):
    """The figure of the field: bits per character (or byte), perplexity per word."""
    if unit == "words":
        return f"perplexity {math.exp(min(result['nats'], 700)):.2f}"
    return f"bpc {result['bpc']:.4f}"
