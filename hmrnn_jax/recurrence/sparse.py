"""The HM-LSTM read sparsely: what a layer COPYs is not computed. For inference.

Equations, parameters and states are those of `cells.hm_lstm`. A row of a layer above the
first is active when its own z_{t-1} or the z_t below is 1; else it COPYs (Chung, Ahn, Bengio
2017, section 2.2.1) and needs nothing but its detector, one row of the products. Nor is the
top-down product of use where the own z_{t-1} is 0, or the bottom-up one where the z_t below
is. What is left equals the dense cell to rounding.

A single row skips layers and products with branches. Of many rows the active ones of a layer
are gathered into a block of fixed capacity, computed and put back, see `active`. Features come
first, `[d, B]`, as in the cell.
"""

import functools

import jax
import jax.numpy as jnp

from hmrnn_jax import ops, recurrence
from hmrnn_jax.cells import hm_lstm, hm_lstm_pointwise
from hmrnn_jax.recurrence import active


def applies(config):
    """Whether the boundaries of a cell are all 0 or 1, so that it has COPYs to skip."""
    return (
        isinstance(config, hm_lstm.Config) and config.boundary != "soft" and config.z_init in (0, 1)
    )


def prepare(config, params, precision="float32"):
    """The cell's parameters as `step` wants them; once, outside the loop.

    Kernels stay apart by operand, for part of a joined one would be copied before each
    product, and are rounded to the operands of `precision`, see `ops.product`.
    """

    def rounded(part):
        # The bias is added and V read one unit at a time: neither is a product's operand.
        return {n: v if n in ("b", "V") else ops.operand(v, precision) for n, v in part.items()}

    return {
        name: {part: v if part == "norm" else rounded(v) for part, v in entry.items()}
        for name, entry in params.items()
    }


def inputs(config, params, x, precision="float32"):
    """The first layer's bottom-up products with columns `x [input_size, ...]`, `[4H + 1, ...]`."""
    (value,) = hm_lstm.inputs(config, params, x, precision).values()
    return value


def step(config, weights, state, given, *, readouts=(), slope=1.0, noise=None, precision="float32"):
    """One time step, for a `config` to which this `applies`.

    Args:
      config: `hm_lstm.Config`.
      weights: of `prepare`; each layer may have a further kernel `readout [R, H]`.
      state: `hm_lstm.State` of step t - 1, `[d, B]`.
      given: `inputs` of step t, `[4H + 1, B]`.
      readouts: with such kernels, `readout @ h [R, B]` of each layer at step t - 1; these
        too are computed for active rows alone.
      slope, noise: see `hm_lstm.step`. precision: that of `prepare`.

    Returns `(State, readouts, Aux)`.
    """
    h, c, z, read, detectors = [], [], [], [], []
    for layer, size in enumerate(config.sizes):
        entry, last = weights[f"layer{layer + 1}"], layer == config.depth - 1
        columns = {"h": state.h[layer], "c": state.c[layer]}
        if not last:
            columns["p"] = state.z[layer]
        if config.top_down and not last:
            columns["above"] = state.h[layer + 1]
        compute = functools.partial(_compute, config, entry, precision)
        if layer:
            columns |= {"q": z[-1], "below": h[-1]}
            moves = columns["q"] == 1
            if config.flush and not last:
                moves |= columns["p"] == 1
            old = (columns["h"], columns["c"], *readouts[layer : layer + 1])
            new = active.where(moves, compute, columns, old, capacities=active.finer_tiers)
        else:
            new = compute(columns | {"given": given[: 4 * size]})
        h.append(new[0])
        c.append(new[1])
        read += new[2:]
        if not last:
            x = _detector(config, entry, precision, columns, given[4 * size], new[0])
            detectors.append(x)
            draw = noise[layer] if config.uses_noise else None
            fired = ops.fired(x, slope, config.boundary, draw)
            z.append(columns["q"] * fired if config.nested and layer else fired)
    return hm_lstm.State(tuple(h), tuple(c), tuple(z)), tuple(read), hm_lstm.Aux(tuple(detectors))


def _compute(config, entry, precision, columns):
    """h, c and the readout, if there is one, of columns that UPDATE or FLUSH (eq. 2-7)."""
    norm = entry.get("norm")

    def normalised(term, value):
        each = config.layer_norm == "ba"
        return ops.layer_norm(value, **norm[term], groups=4) if each else value

    def product(term, vector):
        return normalised(term, ops.product(entry["gates"][term], vector, precision))

    s = product("U_rec", columns["h"])
    gate = hm_lstm.recurrent_gate(config, columns.get("p"))
    s = s if gate is None else gate * s
    if "given" in columns:
        s += normalised("W_bu", columns["given"])
    for term, gate, operand in (("U_td", "p", "above"), ("W_bu", "q", "below")):
        if operand in columns:
            there, make = columns[gate] == 1, functools.partial(product, term)
            if operand == "below" and len(there) > 1:
                # Of many active rows most have a boundary below; one of their own, few.
                s += jnp.where(there, make(columns[operand]), 0)
            else:
                capacities = active.tiers_within if "below" in columns else active.finer_tiers
                s = active.where(there, make, columns[operand], s, add=True, capacities=capacities)
    if _biased(config, columns):
        s += ops.column(entry["gates"]["b"], s)
    # Where nothing COPYs there is no choice but that of FLUSH, as in a first layer.
    h, c, *_ = hm_lstm_pointwise.advance(
        config,
        hm_lstm_pointwise.Operands(
            gates=s, detector=None, p=columns.get("p"), q=None, h=columns["h"], c=columns["c"],
            norm=norm, slope=None, noise=None,
        ),
    )  # fmt: skip
    read = (ops.product(entry["readout"], h, precision),) if "readout" in entry else ()
    return h, c, *read


def _biased(config, columns):
    """Whether the bias is still to be added: the first layer's may be in its input product."""
    return config.layer_norm == "ba" or "below" in columns


def _detector(config, entry, precision, columns, given, h):
    """The detector's pre-activation `[B]`, of all columns, COPYs too; `h` is the new one."""
    rows = entry["detector"]
    x = ops.product(rows["U_rec"], columns["h"], precision)[0]
    gate = hm_lstm.recurrent_gate(config, columns["p"])
    x = x if gate is None else gate * x
    for term, gate, operand in (("U_td", "p", "above"), ("W_bu", "q", "below")):
        if operand in columns:
            x += columns[gate] * ops.product(rows[term], columns[operand], precision)[0]
    x = x if "below" in columns else x + given
    x = x + rows["b"] if _biased(config, columns) else x
    return x + jnp.sum(rows["V"][0][:, None] * h, axis=0) if "V" in rows else x


def scan(config, weights, carry, xs, given, slope, precision):
    """`step` over `xs`, `(x, resets, noise)`; `given(x)` are a step's `inputs`.

    The carry is `(State, readouts)`; returns it and `(states, readouts, aux)` of all steps.
    """
    first = hm_lstm.initial_state(config, (1,))

    def body(carry, xs):
        x, reset, noise = xs
        if reset is not None:
            start = (first, jax.tree.map(lambda v: jnp.zeros((len(v), 1)), carry[1]))
            carry = jax.tree.map(lambda new, old: jnp.where(reset, new, old), start, carry)
        state, readouts, aux = step(
            config, weights, carry[0], given(x), readouts=carry[1], slope=slope, noise=noise,
            precision=precision,
        )  # fmt: skip
        return (state, readouts), (state, readouts, aux)

    return jax.lax.scan(body, carry, xs)


def of_table(table, ids):
    """A step's `inputs` `[4H + 1, B]`, rows of the `table [V, 4H + 1]` of those of all symbols."""
    return table[ids].T


def batch_last(tree, axis):
    return jax.tree.map(lambda v: jnp.moveaxis(v, axis, -1), tree)


def batch_at(tree, axis):
    return jax.tree.map(lambda v: jnp.moveaxis(v, -1, axis), tree)


def unroll(
    config, params, state, x, *, resets=None, constants=None, per_step=None,
    policy=recurrence.DEFAULT_POLICY, table_ids=None,
):  # fmt: skip
    """`recurrence.unroll` read sparsely, its gradient undefined; dense where it does not apply.

    Args and result: those of `recurrence.unroll`; of the policy only the precision counts.
    """
    if not applies(config):
        return recurrence.unroll(
            config, params, state, x, resets=resets, constants=constants, per_step=per_step,
            policy=policy, table_ids=table_ids,
        )  # fmt: skip
    precision = policy.precision
    columns = inputs(config, params, x.reshape(-1, x.shape[-1]).T, precision)
    if table_ids is None:
        xs, given = columns.reshape(-1, *x.shape[:2]).swapaxes(0, 1), lambda column: column
    else:
        xs, given = table_ids, functools.partial(of_table, columns.T)
    noise = batch_last((per_step or {}).get("noise"), 1)
    (final, _), (states, _, aux) = scan(
        config, prepare(config, params, precision), (batch_last(state, 0), ()),
        (xs, resets, noise), given, (constants or {}).get("slope", 1.0), precision,
    )  # fmt: skip
    return recurrence.Unrolled(batch_at(final, 0), batch_at(states, 1), batch_at(aux, 1))
