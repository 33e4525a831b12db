"""A layer's step around its products in the HM-LSTM (Chung et al. 2017, eq. 2-3, 8-9): `advance`.

`replay` is the same with the result known, its derivative written by hand.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hmrnn_jax import ops
from hmrnn_jax.cells.base import cast_like


class Operands(NamedTuple):
    """What a layer's step takes; columns, of one example or of a batch.

    Attributes:
      gates: `[4H, ...]`, pre-activations of f, i, o, g, not yet normalised under `sum`.
      detector: pre-activation of the detector, a scalar of an example; None in the last layer.
      p, q: own boundary of the previous step, boundary below in this step, scalars of an
        example; p is None (that is 0) in the last layer, q is None (1) in the first.
      h, c: `[H, ...]` of the previous step.
      norm: `{s: {gain, bias}, c: {gain, bias}}` as `layer_norm` has them, or None.
      slope: of the detector. noise: uniform draws like `detector`, or None.
      reads: `[H]`, with which the detector reads the new h, or None.
    """

    gates: jax.Array
    detector: Any
    p: Any
    q: Any
    h: jax.Array
    c: jax.Array
    norm: Any
    slope: Any
    noise: Any
    reads: Any = None


class Advanced(NamedTuple):
    """What a layer's step gives: h, c `[H, ...]`; z, and x that made it, None in the last layer."""

    h: jax.Array
    c: jax.Array
    z: Any
    x: Any


def advance(config, operands):
    """One layer's new h, c and z."""
    pieces = _pieces(config, operands)
    h, c = operate(config, *pieces)
    return Advanced(h, c, *detect(config, operands, read(operands, h)))


def replay(config, new, operands):
    """`advance` where the result, `new`, is known and only the derivative is wanted."""
    h, c = replayed(config, (new.h, new.c), *_pieces(config, operands))
    return Advanced(h, c, *detect(config, operands, read(operands, h), new.z))


def read(operands, h):
    """The detector's pre-activation, with what it reads of the new h; None in the last layer."""
    x = operands.detector
    if operands.reads is not None:
        x = x + jnp.sum(ops.column(operands.reads, h) * h, axis=0)
    return x


def detect(config, operands, x, z=None):
    """`(z, x)` for a detector's pre-activation; `z` given is the known result."""
    if x is None:
        return None, None
    nested = config.nested and operands.q is not None
    if z is not None and not nested:
        return ops.straight_through(z, x, operands.slope, config.derivative), x
    fired = ops.fired(x, operands.slope, config.boundary, operands.noise)
    if z is not None:
        # Where the layer below has no boundary the known z does not tell what fired.
        fired = jnp.where(operands.q == 1, z, fired)
    z = ops.straight_through_both_ways(fired, x, operands.slope, config.derivative)
    return (operands.q * z if nested else z), x


def _pieces(config, operands):
    """The arguments of `operate`."""
    gates, norm = operands.gates, operands.norm
    if config.layer_norm == "sum":
        gates = ops.layer_norm(gates, **norm["s"], groups=4)
    p, q = (z if z is None else ops.row(z) for z in (operands.p, operands.q))
    return p, q, operands.h, operands.c, gates, norm["c"] if norm else None


def operate(config, p, q, h, c, gates, norm):
    """One layer's new h and c, exact for z in {0, 1}.

    c = p i g + (1-p)(1-q) c' + (1-p) q (f c' + i g), collected by operand.

    Args: of `config` its `gradient` and `flush` matter here; the others are as in `Operands`,
      but p and q rows, `[1, ...]`, `gates` normalised, `norm` the gain and bias that normalise c
      before its tanh, or None.
    """
    return combine(config, p, q, h, c, _squashed(gates, c)[0], lambda c: _normalised(c, norm))


def combine(config, p, q, h, c, squashed, normalise):
    """`operate` from `squashed`, that is f, i, o, g, and the function that normalises c."""
    f, i, o, g = squashed
    update = i * g
    if config.gradient == "select":
        p, q = jax.lax.stop_gradient((p, q))
    keep = 1 if p is None or not config.flush else 1 - p
    if q is None:
        new_c = keep * (f * c) + update
    else:
        copy = keep * (1 - q)
        new_c = copy * c + (1 - copy) * update + (keep * q) * (f * c)
    output = o * jnp.tanh(normalise(new_c))
    return (output if q is None else copy * h + (1 - copy) * output), new_c


def of_copies(config, operands):
    """What makes the gradient of z where a layer COPYs: f c, c - i g, h - o tanh(c), `[H, ...]`.

    The gates are those that it would have; `replayed` has what is made of these.
    """
    *_, h, c, gates, norm = _pieces(config, operands)
    (f, i, o, g), _ = _squashed(gates, c)
    return f * c, c - i * g, h - o * jnp.tanh(_normalised(c, norm))


def _squashed(gates, c):
    """f, i, o, g as `[4, H, ...]`, and their derivatives.

    sigmoid(x) = (1 + tanh(x / 2)) / 2, so all four are one pass of the same function: on CPUs a
    pass that puts unlike parts together is several times slower.
    """
    proposal = _numbers(c) == 3
    t = jnp.tanh(gates.reshape(4, *c.shape) * jnp.where(proposal, 1, 0.5).astype(c.dtype))
    squashed = jnp.where(proposal, t, 0.5 + 0.5 * t)
    return squashed, (1 - t**2) * jnp.where(proposal, 1, 0.25).astype(c.dtype)


def _numbers(c):
    """0 to 3 for f, i, o, g, to broadcast over `[4, H, ...]`."""
    return jax.lax.broadcasted_iota(jnp.int32, (4, *(1,) * c.ndim), 0)


def _normalised(c, norm):
    return ops.layer_norm(c, **norm) if norm else c


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def replayed(config, new, *operands):
    """`operate` where the result, `new`, is known and only the derivative is wanted."""
    return new


def _replayed_backward(config, residuals, gradients):
    """The derivative of `operate`, collected so that it is few passes and two sums.

    Automatic differentiation sums the gradient of p and q once for each of their uses.
    """
    (_, new_c), operands = residuals
    p, q, h, c, gates, norm = operands
    if config.gradient == "select":
        p, q = jax.lax.stop_gradient((p, q))  # of second derivatives as of the first
    to_h, to_c = gradients
    (f, i, o, g), slopes = _squashed(gates, c)
    keep = 1 if p is None or not config.flush else 1 - p
    copy = 0 if q is None else keep * (1 - q)
    forget = keep if q is None else keep * q
    write = 1 - copy
    normalised, pullback = jax.vjp(_normalised, new_c, norm)
    squashed = jnp.tanh(normalised)
    to_output = write * to_h
    to_normalised = to_output * o * (1 - squashed**2)
    to_new_c, to_norm = pullback(to_normalised.astype(normalised.dtype))
    to_new_c += to_c
    to_forgotten = forget * to_new_c
    number = _numbers(c)
    upstream = jnp.where(number == 2, to_output, write * to_new_c)
    upstream = jnp.where(number == 0, to_forgotten, upstream)
    to_gates = (slopes * upstream * jnp.stack([c, g, squashed, i])).reshape(gates.shape)
    to_p = to_q = None
    if config.gradient == "blend":
        kept = f * c * to_new_c
        copied = 0 if q is None else (c - i * g) * to_new_c + (h - o * squashed) * to_h
        if p is not None and config.flush:
            to_p = -_sum(kept if q is None else (1 - q) * copied + q * kept)
        if q is not None:
            to_q = keep * _sum(kept - copied)
    to_old_c = copy * to_new_c + f * to_forgotten
    results = to_p, to_q, copy * to_h, to_old_c, to_gates, to_norm
    pairs = zip(operands, results, strict=True)
    return None, *(g if g is None else cast_like(v, g) for v, g in pairs)


def _sum(x):
    """Over the features, as a row."""
    return jnp.sum(x, axis=0, keepdims=True)


replayed.defvjp(lambda config, new, *operands: (new, (new, operands)), _replayed_backward)
