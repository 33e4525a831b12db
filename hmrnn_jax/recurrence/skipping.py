"""Training that leaves out what a layer of an HM-LSTM COPYs: deferred gradients, on CPUs.

A layer above the first does nothing in a row unless its own z_{t-1} or the z_t below is 1 (Chung,
Ahn, Bengio 2017, section 2.2.1). Here its products are made of such active columns alone, forwards,
in the reverse scan and in the gradients of the kernels; the first layer's top-down product of the
columns that FLUSH. Values and gradients are those of `deferred`, to rounding.

Where a layer COPYs, no gradient reaches its gates, but its gates give one to z: what UPDATE or
FLUSH would have made of c and h (`gradient="blend"`). As the layer's h and c, and so its gates, do
not change from one active step to the next, the reverse scan works these out once for each such
stretch, at the active step that ends it, see `Stretch`, and makes inner products at every step.

Detectors are read at every step, COPY included. Above the first layer theirs are single rows, apart
from the gates'. Features come first, `[d, B]`, as in the cell.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hmrnn_jax import ops
from hmrnn_jax.cells import hm_lstm, hm_lstm_pointwise
from hmrnn_jax.recurrence import active, forward
from hmrnn_jax.recurrence.execution import skips_copies


def applies(config, policy):
    """Whether a cell has COPYs to leave out, and the policy is to leave them out.

    Without FLUSH a layer may COPY while its own boundary is 1, its gates then follow the layer
    above. And an initial boundary between 0 and 1 blends the operations.
    """
    return (
        skips_copies(policy)
        and isinstance(config, hm_lstm.Config)
        and config.depth > 1
        and config.flush
        and config.boundary != "soft"
        and config.layer_norm != "ba"
        and config.z_init in (0, 1)
    )


# What the products that are left take, and leaving out by itself, always and over the units of a
# layer, as narrow products take little time; in times of the dense step. Fitted to train steps of
# 3 x 128, 256 and 512 units.
_PRODUCTS, _COST, _COST_A_UNIT = 1.2, 0.08, 64


def expected(config, moves):
    """The time of a train step without COPYs, in times of the dense one's; an estimate.

    Args:
      config: of an HM-LSTM. moves: of each layer the share of steps in which it does not COPY.
    """
    widths = [sum(config.stepwise_terms(number).values()) for number in range(config.depth)]
    products = np.multiply(widths, config.sizes)
    left = np.dot(products, [1, *moves[1:]]) / np.sum(products)
    return float(_PRODUCTS * left + _COST + _COST_A_UNIT / np.mean(config.sizes))


class Layer(NamedTuple):
    """A layer's weights, apart by what they multiply.

    Attributes:
      recurrent: `[N, H]`. others: `[N, K - H]`, top-down and bottom-up, or None. N is 4H; in the
        first layer the detector's row is below, elsewhere in `rows`, see `Rows`, or None.
      bias: `[4H]`; None in the first layer, whose inputs have it.
      norm: gains and biases of layer normalisation, or None.
    """

    recurrent: jax.Array
    others: Any
    bias: Any
    norm: Any
    rows: Any


class Rows(NamedTuple):
    """A detector's: its row of each product `[1, K]` by name, its bias, and `reads` or None."""

    kernels: Any
    bias: Any
    reads: Any


class Inputs(NamedTuple):
    """What a layer's step takes, columns: own h, c of the step before, boundaries p and q, h of the
    layer above before the step, and of the one below after it; None where there is none."""

    h: jax.Array
    c: jax.Array
    p: Any = None
    q: Any = None
    above: Any = None
    below: Any = None

    def gated(self):
        """`others` multiply this: top-down and bottom-up operand, one below the other."""
        pairs = [(self.p, self.above), (self.q, self.below)]
        return jnp.concatenate([ops.row(z) * v for z, v in pairs if v is not None])

    def recurrent(self, config):
        gate = hm_lstm.recurrent_gate(config, self.p)
        return self.h if gate is None else ops.row(gate) * self.h


class Stretch(NamedTuple):
    """Of COPYs between two active steps: by what z's gradient is made there, `[H, B]`.

    `kept` is f c, and `copied` c - i g and h - o tanh(c), as in `hm_lstm_pointwise`; None where
    the choice of operation has no gradient. `top_down [N, B]` is what the first layer would be told
    by the second at a FLUSH, None of other layers.
    """

    kept: Any
    copied_c: Any
    copied_h: Any
    top_down: Any


def layers(config, weights, precision):
    """The `Layer`s of the joint products' `(kernels, biases, vectors, tables)`.

    Kernels of gates are rounded to the operands of `precision`, once for the window.
    """
    kernels, biases, vectors, _ = weights
    found = []
    for number, size in enumerate(config.sizes):
        name = f"layer{number + 1}"
        kernel, entry = kernels[name], vectors[name]
        if not number:
            rows, bias = Rows(None, None, entry.get("reads")), None
            gates = kernel
        else:
            rows, bias, gates = None, biases[name], kernel[: 4 * size]
        if number and number < config.depth - 1:
            row = kernel[4 * size :]
            parts = zip(
                config.stepwise_terms(number), hm_lstm.by_term(config, number, row), strict=True
            )
            rows = Rows(dict(parts), bias[4 * size], entry.get("reads"))
            bias = bias[: 4 * size]
        gates = ops.operand(gates, precision)
        others = gates[:, size:] if gates.shape[1] > size else None
        found.append(Layer(gates[:, :size], others, bias, entry["norm"], rows))
    return tuple(found)


def inputs_of(config, number, state, below):
    """The `Inputs` of a layer: `state` of the step before, `below` the `(h, z)` of this step."""
    last = number == config.depth - 1
    p = None if last else state.z[number]
    above = state.h[number + 1] if config.top_down and not last else None
    h, q = below if number else (None, None)
    return Inputs(state.h[number], state.c[number], p, q, above, h)


def is_active(inputs):
    """The columns `[B]` in which a layer above the first does not COPY."""
    found = inputs.q == 1
    return found if inputs.p is None else found | (inputs.p == 1)


def operands_of(layer, inputs, gates, **more):
    """`hm_lstm_pointwise.Operands` of a layer without its detector."""
    return hm_lstm_pointwise.Operands(
        gates=gates, detector=None, p=inputs.p, q=inputs.q, h=inputs.h, c=inputs.c,
        norm=layer.norm, slope=None, noise=None,
    )._replace(**more)  # fmt: skip


def detected(config, precision, slope, noise, rows, inputs, new_h, z=None):
    """`(z, x)` of a detector above the first layer; `z` where the result is known."""
    x = ops.product(rows.kernels["U_rec"], inputs.recurrent(config), precision)[0] + rows.bias
    for term, gate, operand in (("U_td", "p", "above"), ("W_bu", "q", "below")):
        if term in rows.kernels:
            value = ops.product(rows.kernels[term], getattr(inputs, operand), precision)[0]
            x += getattr(inputs, gate) * value
    operands = operands_of(
        Layer(*(None,) * 5), inputs, None, detector=x, slope=slope, noise=noise, reads=rows.reads
    )
    return hm_lstm_pointwise.detect(config, operands, hm_lstm_pointwise.read(operands, new_h), z)


def _first_gates(precision, layer, given, inputs):
    """The first layer's pre-activation `[4H + 1, B]`, top-down where it FLUSHes alone."""
    s = ops.product(layer.recurrent, inputs.h, precision)
    if layer.others is not None:
        top_down = functools.partial(ops.product, layer.others, precision=precision)
        s = active.where(inputs.p == 1, top_down, inputs.above, s, add=True)
    return given + s


def noise_of(config, per_step, number):
    return per_step["noise"][number] if config.uses_noise and number < config.depth - 1 else None


def room(config, steps, state):
    """`active.Rows` for what `forward_step` keeps of each layer above the first."""
    dtype, batch = state.h[0].dtype, state.h[0].shape[-1]
    return tuple(
        active.room(steps, batch, (4 * size, 4 * size), dtype, 2 * number)
        for number, size in enumerate(config.sizes[1:])
    )


def forward_step(config, precision, resident, carry, xs):
    """Body of the forward scan, which carries the state and the `room` of what it keeps.

    Of active columns above the first layer it keeps pre-activations, and the recurrent product in
    them; the first layer's pre-activations are the last of its `ys`.
    """
    found, constants, tables = resident
    hoisted, (per_step, reset) = xs
    given = forward.looked_up(tables, hoisted)["layer1"]
    slope = constants.get("slope", 1.0)
    state, rows = carry
    state, rows = forward.restarted(config, state, reset), list(rows)
    h, c, z, x, below = [], [], [], [], None
    for number, layer in enumerate(found):
        inputs, noise = inputs_of(config, number, state, below), noise_of(config, per_step, number)
        if not number:
            first = _first_gates(
                precision, layer, given, inputs._replace(h=inputs.recurrent(config))
            )
            size = 4 * config.sizes[0]
            new = hm_lstm_pointwise.advance(
                config,
                operands_of(
                    layer, inputs, first[:size], detector=first[size], slope=slope, noise=noise,
                    reads=layer.rows.reads,
                ),
            )  # fmt: skip
            new_h, new_c, new_z, new_x = new
        else:

            def advanced(inputs, _, layer=layer):
                recurrent = ops.product(layer.recurrent, inputs.h, precision)
                gate = hm_lstm.recurrent_gate(config, inputs.p)
                s = recurrent if gate is None else ops.row(gate) * recurrent
                s += ops.product(layer.others, inputs.gated(), precision)
                s += ops.column(layer.bias, s)
                # Where nothing COPYs there is no choice but that of FLUSH.
                operands = operands_of(layer, inputs._replace(q=None), s)
                new = hm_lstm_pointwise.advance(config, operands)
                return (new.h, new.c), [s.T, recurrent.T], ()

            (new_h, new_c), rows[number - 1], _ = active.where_kept(
                is_active(inputs), advanced, inputs, (inputs.h, inputs.c), kept=rows[number - 1]
            )
            if layer.rows:
                new_z, new_x = detected(config, precision, slope, noise, layer.rows, inputs, new_h)
        h.append(new_h)
        c.append(new_c)
        if number < config.depth - 1:
            z.append(new_z.astype(state.z[number].dtype))
            x.append(new_x)
            below = new_h, z[-1]
    state = hm_lstm.State(tuple(h), tuple(c), tuple(z))
    return (state, tuple(rows)), (state, hm_lstm.Aux(tuple(x)), first)


def stretch(config, precision, found, number, inputs, recurrent=None):
    """The `Stretch` of a layer's COPYs that end before a step with these `inputs`.

    Args:
      found: of `layers`. recurrent: if known, the product with the h of `inputs`, all that the
        pre-activation of a COPY has but the bias.
    """
    layer, of_choice, top_down = found[number], (None,) * 3, None
    if config.gradient == "blend":
        if recurrent is None:
            recurrent = ops.product(layer.recurrent, inputs.h, precision)
        gates = recurrent + ops.column(layer.bias, recurrent)
        of_choice = hm_lstm_pointwise.of_copies(config, operands_of(layer, inputs, gates))
    if number == 1 and config.top_down:
        top_down = ops.product(found[0].others, inputs.h, precision)
    return Stretch(*of_choice, top_down)
