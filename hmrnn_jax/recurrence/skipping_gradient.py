"""The gradient of `skipping`: the reverse scan over active columns, then the kernels' products.

A custom VJP with the arguments and results of `deferred.deferred`; see `skipping` for what it rests
on. In reverse mode alone, and not of second order.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hmrnn_jax import ops
from hmrnn_jax.cells import hm_lstm, hm_lstm_pointwise
from hmrnn_jax.recurrence import active, deferred, forward, skipping
from hmrnn_jax.recurrence.skipping import Inputs


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def skipping_copies(config, policy, weights, state, window, constants):
    """`(final, states, aux)` of a window, as of `deferred.deferred`."""
    return _forwards(config, policy, weights, state, window, constants)[0]


def _forwards(config, policy, weights, state, window, constants):
    layers = skipping.layers(config, weights, policy.precision)
    body = functools.partial(skipping.forward_step, config, policy.precision)
    resident = (layers, constants, weights[-1])
    carry = state, skipping.room(config, len(window[1][1]), state)
    (final, rows), (*known, first) = forward.scan("scan", policy, body, resident, carry, window)
    return (final, *known), (first, rows)


def _skipping_forward(config, policy, *primals):
    weights, state, window, constants = jax.tree.map(lambda primal: primal.value, primals)
    results, kept = _forwards(config, policy, weights, state, window, constants)
    window = (deferred.ids_alone(weights[-1], window[0]), window[1])
    return results, (weights, state, window, constants, results[1], kept)


class Learned(NamedTuple):
    """Sums over the steps of the gradients of what a layer has beside its kernels."""

    norm: Any
    bias: Any
    rows: Any


def _skipping_backward(config, policy, residuals, cotangents):
    weights, state, (hoisted, extras), constants, states, (first, values) = residuals
    precision, resets = policy.precision, extras[1]
    layers = skipping.layers(config, weights, precision)
    final_gradient, *gradients = map(deferred.or_none, cotangents)
    final_gradient = jax.tree.map(
        deferred.plus, jax.tree.map(jnp.zeros_like, state), final_gradient
    )
    # Transposed once for the window rather than at every step.
    transposed = [
        [None if kernel is None else kernel.T for kernel in (layer.recurrent, layer.others)]
        for layer in layers
    ]
    # States before the first step and after each: one array for both ends of a step.
    around = jax.tree.map(lambda first, s: jnp.concatenate([first[None], s]), state, states)
    stretches = _stretches(config, precision, layers, jax.tree.map(lambda e: e[-1], around))
    sums = [jax.tree.map(jnp.zeros_like, Learned(v.norm, v.bias, v.rows)) for v in layers]

    def body(resident, carry, xs):
        step, xs = xs
        pair = (jax.tree.map(lambda e, k=k: e[step + k], around) for k in (0, 1))
        return _reverse_step(config, precision, resident, carry, (*pair, xs))

    xs = (np.arange(len(resets), dtype=np.uint32), (first, extras, *gradients))
    rows = _room(config, layers, len(resets), state)
    used = tuple(kept.used for kept in values)
    arrays = [kept.arrays for kept in values]
    (state_gradient, sums, _, _, rows), first = forward.scan(
        "scan", policy, body, (layers, transposed, constants, arrays),
        (final_gradient, sums, stretches, used, rows), xs, reverse=True,
    )  # fmt: skip
    dtype = weights[0]["layer1"].dtype
    with jax.named_scope("weight_gradients"):
        found = [kept and active.outer_products(kept, precision, dtype) for kept in rows]
        first_kernel = [ops.outer_products(*first, ((0, 2), (0, 1)), precision, dtype)]
        found[0] = jnp.concatenate(first_kernel + found[:1] * config.top_down, axis=1)
    biases_gradient, vectors_gradient = {}, {}
    for number, learned in enumerate(sums):
        name, rows = f"layer{number + 1}", learned.rows
        vectors_gradient[name] = {"norm": learned.norm}
        if rows and rows.reads is not None:
            vectors_gradient[name]["reads"] = rows.reads
        if number:
            biases_gradient[name] = learned.bias
        if rows and rows.kernels:
            joint = jnp.concatenate(list(rows.kernels.values()), axis=1)
            found[number] = jnp.concatenate([found[number], joint])
            biases_gradient[name] = jnp.append(learned.bias, rows.bias)
    kernels_gradient = {f"layer{number + 1}": kernel for number, kernel in enumerate(found)}
    to_tables, to_hoisted = deferred.to_inputs(weights[-1], hoisted, {"layer1": first[0]})
    learned = (kernels_gradient, biases_gradient, vectors_gradient, to_tables)
    return learned, state_gradient, (to_hoisted, None), None


skipping_copies.defvjp(_skipping_forward, _skipping_backward, symbolic_zeros=True)


def _room(config, layers, steps, state):
    """`active.Rows` of each layer, for gradients of its gates and what their kernels multiplied; of
    the first layer for its top-down product alone, None if it has none."""
    dtype, batch = state.h[0].dtype, state.h[0].shape[-1]

    def room(number, layer):
        width = layer.others.shape[1] + (layer.recurrent.shape[1] if number else 0)
        pair = len(layer.recurrent), width
        return active.room(steps, batch, pair, dtype, 2 * (config.depth + number))

    found = [room(number, layer) for number, layer in enumerate(layers) if number]
    return (room(0, layers[0]) if config.top_down else None, *found)


def _stretches(config, precision, layers, state):
    """The `Stretch` of each layer above the first that ends with `state`, computed for all rows."""
    return tuple(
        skipping.stretch(
            config, precision, layers, number, Inputs(state.h[number], state.c[number])
        )
        for number in range(1, config.depth)
    )


def _reverse_step(config, precision, resident, carry, xs):
    """Body of the reverse scan: the pullback of `skipping.forward_step`, its products known."""
    layers, transposed, constants, arrays = resident
    gradient, sums, stretches, used, rows = carry
    raw, after, (first, (per_step, reset), step_gradient, aux_gradient) = xs
    slope = constants.get("slope", 1.0)
    state = forward.restarted(config, raw, reset)
    to_new = jax.tree.map(deferred.plus, gradient, step_gradient)
    h, c, z = map(list, to_new)
    old = jax.tree.map(jnp.zeros_like, to_new)
    old_h, old_c, old_z = map(list, old)
    sums, stretches, used, rows = map(list, (sums, stretches, used, rows))
    for number in reversed(range(config.depth)):
        layer, last = layers[number], number == config.depth - 1
        below = (after.h[number - 1], after.z[number - 1]) if number else None
        inputs = skipping.inputs_of(config, number, state, below)
        known = hm_lstm_pointwise.Advanced(
            after.h[number], after.c[number], None if last else after.z[number], None
        )
        noise = skipping.noise_of(config, per_step, number)
        to_x = None if last or aux_gradient.x[number] is None else aux_gradient.x[number]
        to_x = jnp.zeros_like(z[number]) if not last and to_x is None else to_x
        if number and layer.rows:
            found, to_inputs, to_h = _of_detector(
                config, precision, (slope, noise), layer.rows, inputs, known, (z[number], to_x)
            )
            h[number] += to_h
            sums[number] = sums[number]._replace(
                rows=jax.tree.map(jnp.add, sums[number].rows, found)
            )
            _add(number, to_inputs, h, z, old_h, old_c, old_z)
        if number:
            moves = skipping.is_active(inputs)
            used[number - 1] -= jnp.sum(moves, dtype=jnp.int32)
            values = active.Rows(arrays[number - 1], used[number - 1])
            (to_inputs, stretches[number - 1]), rows[number], found = _of_active(
                config, precision, layers, number, transposed[number], moves, inputs, known,
                (values, rows[number]), (h[number], c[number]), stretches[number - 1],
            )  # fmt: skip
            sums[number] = sums[number]._replace(
                norm=jax.tree.map(jnp.add, sums[number].norm, found[0]),
                bias=sums[number].bias + found[1],
            )
        else:
            to_inputs, first, rows[0], found = _of_first(
                config, precision, (slope, noise), layer, transposed[0], inputs, known,
                (first, rows[0]), (h[0], c[0], z[0], to_x), stretches[0].top_down,
            )  # fmt: skip
            sums[0] = jax.tree.map(jnp.add, sums[0], found)
        _add(number, to_inputs, h, z, old_h, old_c, old_z)
    old = hm_lstm.State(tuple(old_h), tuple(old_c), tuple(old_z))
    old = jax.tree.map(lambda g: jnp.where(reset, 0, g), old)
    stretches = jax.lax.cond(
        jnp.any(reset),
        lambda raw, _: _stretches(config, precision, layers, raw),
        lambda _, stretches: stretches,
        raw,
        tuple(stretches),
    )
    return (old, sums, stretches, tuple(used), tuple(rows)), first


def _add(number, to_inputs, h, z, old_h, old_c, old_z):
    """Adds the gradient of a layer's `Inputs` to where they come from."""
    old_h[number] += to_inputs.h
    if to_inputs.c is not None:
        old_c[number] += to_inputs.c
    if to_inputs.p is not None:
        old_z[number] += to_inputs.p
    if to_inputs.above is not None:
        old_h[number + 1] += to_inputs.above
    if to_inputs.below is not None:
        h[number - 1] += to_inputs.below
        z[number - 1] += to_inputs.q


def _of_detector(config, precision, drawn, rows, inputs, known, gradients):
    """Gradients of a detector above the first layer: of its `Rows`, its `Inputs`, the new h."""

    def detected(rows, inputs, new_h):
        return skipping.detected(config, precision, *drawn, rows, inputs, new_h, known.z)

    _, pull = jax.vjp(detected, rows, inputs._replace(c=None), known.h)
    return pull(gradients)


def _of_active(
    config, precision, layers, number, transposed, moves, inputs, known, rows, gradients, stretch
):
    """Gradients of a layer above the first, its detector left out; COPYs pass theirs on.

    Args:
      moves: columns that do not COPY. known: the result of the step.
      rows: `active.Rows` with the forward scan's pre-activations, and those for what the kernels'
        gradients are made of.
      stretch: the `Stretch` after the step.

    Returns `((Inputs, Stretch), kept, summed)`, see `active.where_kept`.
    """
    layer = layers[number]

    def reverse(columns, values):
        inputs, new, gradients = columns
        gates, recurrent = (v.T for v in values)
        new = hm_lstm_pointwise.Advanced(*new, None, None)

        def operate(norm, inputs, gates):
            operands = skipping.operands_of(layer._replace(norm=norm), inputs, gates)
            return hm_lstm_pointwise.replay(config, new, operands)[:2]

        own = inputs._replace(above=None, below=None)
        _, pull = jax.vjp(operate, layer.norm, own, gates)
        to_norm, to_own, to_gates = pull(gradients)
        multiplied, pull = jax.vjp(lambda i: (i.recurrent(config), i.gated()), inputs)
        (to_inputs,) = pull(tuple(ops.product(t, to_gates, precision) for t in transposed))
        to_inputs = to_inputs._replace(
            **{name: getattr(to_inputs, name) + g for name, g in to_own._asdict().items()
               if g is not None}
        )  # fmt: skip
        ended = skipping.stretch(config, precision, layers, number, inputs, recurrent)
        rows = [to_gates.T, jnp.concatenate([v.T for v in multiplied], axis=1)]
        return (to_inputs, ended), rows, (to_norm, to_gates.sum(-1))

    to_h, to_c = gradients
    zeros = jnp.zeros_like(inputs.q)
    to_p = to_q = zeros
    if config.gradient == "blend":
        to_p = -jnp.sum(stretch.copied_c * to_c + stretch.copied_h * to_h, axis=0)
        to_q = to_p + jnp.sum(stretch.kept * to_c, axis=0)
    copied = Inputs(
        to_h, to_c, None if inputs.p is None else to_p, to_q,
        *(None if v is None else jnp.zeros_like(v) for v in (inputs.above, inputs.below)),
    )  # fmt: skip
    return active.where_kept(
        moves, reverse, (inputs, known[:2], gradients), (copied, stretch), *rows
    )


def _of_first(
    config, precision, drawn, layer, transposed, inputs, known, kept, gradients, top_down
):
    """Gradients of the first layer, which never COPYs.

    Args:
      drawn: slope and noise of the detector. known: the result of the step.
      kept: the pre-activations, and `active.Rows` for what the top-down kernel's gradient is made
        of, or None. top_down: that product, see `skipping.Stretch`.

    Returns those of its `Inputs`; what its recurrent kernel's gradient is made of; the `Rows`; and
    those of its `Learned`.
    """
    size, (values, rows) = 4 * config.sizes[0], kept

    def advance(norm, rows, inputs, gates):
        # Not two slices: the gradient of a split is one concatenation.
        gates, (detector,) = jnp.split(gates, [size])
        operands = skipping.operands_of(
            layer._replace(norm=norm), inputs, gates, detector=detector, slope=drawn[0],
            noise=drawn[1], reads=rows.reads,
        )  # fmt: skip
        return hm_lstm_pointwise.replay(config, known._replace(x=detector), operands)

    own = inputs._replace(above=None)
    _, pull = jax.vjp(advance, layer.norm, layer.rows, own, values)
    to_norm, to_rows, to_own, to_gates = pull(hm_lstm_pointwise.Advanced(*gradients))
    multiplied, pull = jax.vjp(lambda i: i.recurrent(config), own)
    (more,) = pull(ops.product(transposed[0], to_gates, precision))
    to_inputs = jax.tree.map(jnp.add, to_own, more)
    if config.top_down:

        def reverse(columns, _):
            to_gates, above = columns
            return ops.product(transposed[1], to_gates, precision), [to_gates.T, above.T], ()

        to_above, rows, _ = active.where_kept(
            inputs.p == 1, reverse, (to_gates, inputs.above), jnp.zeros_like(inputs.above),
            kept=rows,
        )  # fmt: skip
        to_p = to_inputs.p + jnp.sum(top_down * to_gates, axis=0)
        to_inputs = to_inputs._replace(above=to_above, p=to_p)
    return to_inputs, (to_gates, multiplied.T), rows, Learned(to_norm, None, to_rows)
