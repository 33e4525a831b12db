"""Deferred gradients: a custom VJP of the scan over a window.

The forward scan keeps the value of every product; the reverse scan replays the cell's pointwise
part around them, so it multiplies by each transposed kernel once and by nothing else, and yields
the gradients of the products' values. The gradients of the kernels are then one large product
each, over all T B columns.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from hmrnn_jax import ops
from hmrnn_jax.cells.base import joined
from hmrnn_jax.recurrence import forward, rare_products
from hmrnn_jax.recurrence.execution import choose_backend, gpu_arguments
from hmrnn_jax.recurrence.tpu_kernel import Held

_TIME_ROWS = ((0, 2), (0, 1))  # of `[T, N, B]` and `[T, B, K]`


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def deferred(config, policy, weights, state, window, constants):
    return forward.autodiff(config, policy, weights, state, window, constants)


def _deferred_forward(config, policy, *primals):
    weights, state, window, constants = jax.tree.map(lambda primal: primal.value, primals)
    final, (states, aux, values) = forward.scan_forward(
        config, policy, weights, state, window, constants
    )
    kept = (ids_alone(weights[-1], window[0]), window[1])
    return (final, states, aux), (weights, state, *kept, constants, states, values)


def ids_alone(tables, hoisted):
    """The ids of what is looked up; of others names alone, for the products' values hold theirs."""
    return {name: value if name in tables else None for name, value in hoisted.items()}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _replay(pull, value, operand):
    """A product whose value is known: `value` forwards, `pull(g)` backwards."""
    return value


_replay.defvjp(
    lambda pull, value, operand: (value, operand),
    lambda pull, operand, gradient: (gradient, pull(gradient).astype(operand.dtype)),
)


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

    def replayed(vectors, state, values):
        operands = {}

        def linear(name, operand):
            if name not in kernels:
                return values[name]
            operands[name] = joined(name, operand)
            pull = functools.partial(product, kernels[name], precision=precision)
            return _replay(pull, values[name], operands[name])

        return forward.step(config, linear, vectors, constants, state, per_step, reset), operands

    (_, aux), pullback, operands = jax.vjp(replayed, vectors, state, values, has_aux=True)
    state_gradient = jax.tree.map(plus, state_gradient, step_gradient)
    aux_gradient = jax.tree.map(plus, jax.tree.map(jnp.zeros_like, aux), aux_gradient)
    more, state_gradient, values_gradient = pullback((state_gradient, aux_gradient))
    vectors_gradient = jax.tree.map(jnp.add, vectors_gradient, more)
    return (state_gradient, vectors_gradient), (values_gradient, operands)


def plus(a, b):
    """The sum of a gradient and a further one, or None."""
    return a if b is None else a + b


def or_none(tree):
    """A tree of cotangents, None where they are zero for good: a window's zeros take memory."""
    return jax.tree.map(lambda leaf: None if isinstance(leaf, SymbolicZero) else leaf, tree)


def _deferred_backward(config, policy, residuals, cotangents):
    weights, state, hoisted, extras, constants, states, values = residuals
    kernels, biases, vectors, tables = weights
    final_gradient, states_gradient, aux_gradient = map(or_none, cotangents)
    final_gradient = jax.tree.map(plus, jax.tree.map(jnp.zeros_like, state), final_gradient)
    resets = extras[1]
    rounded = jax.tree.map(lambda k: ops.operand(k, policy.precision), kernels)
    plain = functools.partial(
        _backward_step, config, policy.precision, gpu_arguments(config, policy)
    )

    rare = rare_products.applies(config, policy, (kernels, state))
    by_transpose = rare_products.pullback if rare else ops.transposed_product

    def body(resident, carry, xs):
        carry, (values_gradient, operands) = plain(by_transpose, resident, carry, xs)
        # In the precision in which the products below take them. On CPUs this is slower here.
        operands = jax.tree.map(lambda o: ops.operand(o, policy.precision), operands)
        return carry, (values_gradient, operands)

    held = jax.tree.map(Held, rounded) if rare else rounded
    resident = (held, vectors, constants)
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
    # Not einsum, which would sum over B first, and copy both to bring it there.
    time_rows = _TIME_ROWS if columns == "tbk" else ((0, 2), (0, 2))
    with jax.named_scope("weight_gradients"):
        kernels_gradient = {
            name: ops.outer_products(
                values_gradient[name], operands[name], time_rows, policy.precision, kernel.dtype
            )
            for name, kernel in kernels.items()
        }
    biases_gradient = {
        name: values_gradient[name].sum((0, 2)).astype(b.dtype) for name, b in biases.items()
    }
    tables_gradient, hoisted_gradient = to_inputs(tables, hoisted, values_gradient)
    learned = (kernels_gradient, biases_gradient, vectors_gradient, tables_gradient)
    return learned, state_gradient, (hoisted_gradient, None), None


def to_inputs(tables, hoisted, values_gradient):
    """Gradients of tables and of hoisted inputs, from those of the products' values `[T, N, B]`."""
    tables_gradient = {
        name: ops.outer_products(
            values_gradient[name], forward.one_hot(table, hoisted[name], -1), _TIME_ROWS,
            "float32", table.dtype,
        )
        for name, table in tables.items()
    }  # fmt: skip
    return tables_gradient, {n: None if n in tables else values_gradient[n] for n in hoisted}


deferred.defvjp(_deferred_forward, _deferred_backward, symbolic_zeros=True)
