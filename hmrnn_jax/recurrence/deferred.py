"""Deferred gradients: a custom VJP of the scan over a window.

The forward scan keeps the value of every product; the reverse scan replays the cell's pointwise
part around them, so it multiplies by each transposed kernel once and by nothing else, and yields
the gradients of the products' values. The gradients of the kernels are then one large product
each, over all T B columns or some: where a layer of an HM-LSTM COPYs, its gates have no gradient,
and the column adds nothing but a row for the detector. `weight_gradient` can leave such columns
out.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from hmrnn_jax import cells, ops
from hmrnn_jax.cells.base import joined
from hmrnn_jax.recurrence import forward
from hmrnn_jax.recurrence.execution import choose_backend, gpu_arguments


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def deferred(config, policy, weights, state, window, constants):
    return forward.autodiff(config, policy, weights, state, window, constants)


def _deferred_forward(config, policy, *primals):
    weights, state, window, constants = jax.tree.map(lambda primal: primal.value, primals)
    final, (states, aux, values) = forward.scan_forward(
        config, policy, weights, state, window, constants
    )
    hoisted = dict.fromkeys(window[0])  # names alone: the values are in `values`
    return (final, states, aux), (weights, state, hoisted, window[1], constants, states, values)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _replay(pull, value, operand, kernel):
    """A product whose value is known: `value` forwards, `pull(kernel, g)` backwards."""
    return value


def _replay_forward(pull, value, operand, kernel):
    return value, (kernel, operand)


def _replay_backward(pull, residuals, gradient):
    kernel, operand = residuals
    return gradient, pull(kernel, gradient).astype(operand.dtype), None


_replay.defvjp(_replay_forward, _replay_backward)


def _backward_step(config, precision, gpu, product, resident, carry, xs):
    """Body of the reverse scan: the pullback of the step, its products replayed.

    `product` multiplies a gradient by what `resident` has of a kernel: `ops.product` by its
    transpose, or `ops.transposed_product` by itself.
    """
    kernels, vectors, constants = resident
    state_gradient, vectors_gradient = carry
    state, after, (values, (per_step, reset), step_gradient, aux_gradient) = xs
    per_step = per_step | gpu
    if config.replays:  # the cell's step makes use of knowing its own result
        per_step = per_step | {"after": after}
    pull = functools.partial(product, precision=precision)

    def replayed(vectors, state, values):
        operands = {}

        def linear(name, operand):
            if name not in kernels:
                return values[name]
            operands[name] = joined(name, operand)
            return _replay(pull, values[name], operands[name], kernels[name])

        return forward.step(config, linear, vectors, constants, state, per_step, reset), operands

    (_, aux), pullback, operands = jax.vjp(replayed, vectors, state, values, has_aux=True)
    state_gradient = jax.tree.map(_plus, state_gradient, step_gradient)
    aux_gradient = jax.tree.map(_plus, jax.tree.map(jnp.zeros_like, aux), aux_gradient)
    more, state_gradient, values_gradient = pullback((state_gradient, aux_gradient))
    vectors_gradient = jax.tree.map(jnp.add, vectors_gradient, more)
    return (state_gradient, vectors_gradient), (values_gradient, operands)


def _plus(a, b):
    return a if b is None else a + b


def _or_none(tree):
    """A tree of cotangents, None where they are zero for good: a window's zeros take memory."""
    return jax.tree.map(lambda leaf: None if isinstance(leaf, SymbolicZero) else leaf, tree)


def _deferred_backward(config, policy, residuals, cotangents):
    weights, state, hoisted, extras, constants, states, values = residuals
    kernels, biases, vectors = weights
    final_gradient, states_gradient, aux_gradient = map(_or_none, cotangents)
    final_gradient = jax.tree.map(_plus, jax.tree.map(jnp.zeros_like, state), final_gradient)
    resets, active = extras[1], {}
    rounded = jax.tree.map(lambda k: ops.operand(k, policy.precision), kernels)
    plain = functools.partial(
        _backward_step, config, policy.precision, gpu_arguments(config, policy)
    )

    def body(resident, carry, xs):
        carry, (values_gradient, operands) = plain(ops.transposed_product, resident, carry, xs)
        # In the precision in which the products below take them. On CPUs this is slower here.
        operands = jax.tree.map(lambda o: ops.operand(o, policy.precision), operands)
        return carry, (values_gradient, operands)

    resident = (rounded, vectors, constants)
    # The kernel is of one row, and so are its gradients of the vectors.
    rows = jax.tree.map(lambda v: jnp.zeros((*v.shape, resets.shape[1]), v.dtype), vectors)
    start = (final_gradient, rows)
    xs, ends = (values, extras, states_gradient, aux_gradient), (state, states)
    chosen = choose_backend(config, policy, "backwards", body, resident, start, xs, ends)
    # States before the first step and after each: one array for both ends of a step.
    around = jax.tree.map(lambda first, s: jnp.concatenate([first[None], s]), state, states)

    def batch_major(resident, carry, xs):
        # The layout in which the products below read the operands fastest on CPUs.
        step, xs = xs
        pair = (jax.tree.map(lambda e, k=k: e[step + k], around) for k in (0, 1))
        carry, (values_gradient, operands) = plain(ops.product, resident, carry, (*pair, xs))
        return carry, (values_gradient, forward.batch_first(operands))

    columns = "tkb"
    if chosen != "pallas":
        body, columns, xs = batch_major, "tbk", (jnp.arange(len(resets), dtype=np.uint32), xs)
        # Transposed once for the window rather than at every step.
        resident = (jax.tree.map(jnp.transpose, rounded), vectors, constants)
        start = (final_gradient, jax.tree.map(jnp.zeros_like, vectors))
    (state_gradient, vectors_gradient), (values_gradient, operands) = forward.scan(
        chosen, policy, body, resident, start, xs, ends, reverse=True
    )
    if chosen == "pallas":
        vectors_gradient = jax.tree.map(lambda g: g.sum(-1), vectors_gradient)
    if policy.skip_copies and config.replays:
        before = jax.tree.map(lambda e: e[:-1], around)
        active = cells.of(config).active(config, before, states, resets)
    with jax.named_scope("weight_gradients"):
        kernels_gradient = {
            name: weight_gradient(
                values_gradient[name], operands[name], columns, policy.precision,
                kernels[name].dtype, active.get(name),
            )
            for name in kernels
        }  # fmt: skip
    biases_gradient = {
        name: values_gradient[name].sum((0, 2)).astype(b.dtype) for name, b in biases.items()
    }
    hoisted_gradient = {name: values_gradient[name] for name in hoisted}
    return (
        (kernels_gradient, biases_gradient, vectors_gradient),
        state_gradient,
        (hoisted_gradient, None),
        None,
    )


deferred.defvjp(_deferred_forward, _deferred_backward, symbolic_zeros=True)

# The columns that count are gathered into a block of the first of these capacities that holds
# them, as parts of all; with more than the last, all are multiplied.
TIERS = (0.25, 0.5, 0.75)
_FIRST_AXES = ((0,), (0,))


def weight_gradient(to_values, operands, layout, precision, dtype, active=None):
    """The gradient `[N, K]` of a kernel whose product was made at every step.

    Args:
      to_values: `[T, N, B]`, gradient of the products' values.
      operands: what the kernel was multiplied by; `layout` says how it lies, `tkb` or `tbk`.
      precision: of the products, see `ops.product`. dtype: of the result.
      active: None, or `(columns [T, B], rows)`: where columns are False, the first so many rows
        of `to_values` are zero.
    """
    if active is None:
        # As dot_general, for einsum would sum over B first, and copy both to bring it there.
        time_rows = ((0, 2), (0, layout.index("b")))
        return _outer_products(to_values, operands, time_rows, precision, dtype)
    columns, rows = active
    to_values = to_values.swapaxes(1, 2)
    operands = operands if layout == "tbk" else operands.swapaxes(1, 2)
    to_values, operands = (v.reshape(-1, v.shape[-1]) for v in (to_values, operands))
    count = len(operands)

    def gathered(capacity):
        def run(to_gates, operands):
            (place,) = jnp.nonzero(columns.reshape(-1), size=capacity, fill_value=count)
            chosen = (v.at[place].get(mode="fill", fill_value=0) for v in (to_gates, operands))
            return _outer_products(*chosen, _FIRST_AXES, precision, dtype)

        return run

    def whole(to_gates, operands):
        return _outer_products(to_gates, operands, _FIRST_AXES, precision, dtype)

    capacities = [int(count * part) for part in TIERS]
    tier = jnp.sum(jnp.sum(columns) > jnp.array(capacities))
    gates = jax.lax.switch(tier, [*map(gathered, capacities), whole], to_values[:, :rows], operands)
    if rows == to_values.shape[1]:
        return gates
    rest = _outer_products(to_values[:, rows:], operands, _FIRST_AXES, precision, dtype)
    return jnp.concatenate([gates, rest])


def _outer_products(to_values, operands, summed, precision, dtype):
    """The sum over the axes `summed` of outer products, `[N, K]`."""
    return jax.lax.dot_general(
        ops.operand(to_values, precision),
        ops.operand(operands, precision),
        (summed, ((), ())),
        precision=ops.of_jax(precision),
        preferred_element_type=dtype,
    )
