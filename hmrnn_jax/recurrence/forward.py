"""The scan over a window, forwards; differentiated by JAX it is the oracle, `autodiff`."""

import functools

import jax
import jax.numpy as jnp

from hmrnn_jax import cells, ops
from hmrnn_jax.cells.base import Products, joined
from hmrnn_jax.recurrence import cpu_loop, rare_products, tpu_kernel
from hmrnn_jax.recurrence.execution import choose_backend, cpu_loops, gpu_arguments, report


def batch_first(tree, leading=0):
    """`[..., d, B]` to `[..., B, d]` after `leading` axes; scalars of rows stay `[..., B]`."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, -1, leading), tree)


def features_first(tree, leading=0):
    """The inverse of `batch_first`."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, leading, -1), tree)


def step(config, linear, vectors, constants, state, per_step, reset):
    """The cell's step, before it the rows of `reset [B]` put back to the initial state."""
    state = restarted(config, state, reset)
    return cells.of(config).step(config, vectors, state, linear=linear, **constants, **per_step)


def restarted(config, state, reset):
    """The state with the rows of `reset [B]` put back to the initial one."""
    dtype = jax.tree.leaves(state)[0].dtype
    first = cells.of(config).initial_state(config, (1,) * reset.ndim, dtype)
    return jax.tree.map(lambda new, old: jnp.where(reset, new, old), first, state)


# Rows of a table of inputs up to which a product with ones and zeros looks them up.
_LARGEST_TABLE = 128


def looks_up_by_product(policy, rows):
    """Whether the inputs of a step are looked up in their table, of so many rows, at that step.

    By a product with ones and zeros, on CPUs: gathering those of all steps at once, and adding up
    their gradients, moves an array of the size of the pre-activations several times.
    """
    return rows <= _LARGEST_TABLE and cpu_loops(policy)


def looked_up(tables, hoisted):
    """What a step's inputs add to each product: `hoisted`, or the columns of `tables` of its ids.

    Args:
      tables: `{name: [N, V]}`, of some names of `hoisted`.
    """
    return {
        name: ops.product(tables[name], one_hot(tables[name], value)) if name in tables else value
        for name, value in hoisted.items()
    }


def one_hot(table, ids, axis=0):
    """Ones and zeros that choose columns of a table, `[V, B]`, or with V along another axis."""
    return jax.nn.one_hot(ids, table.shape[1], dtype=table.dtype, axis=axis)


def _forward_step(config, precision, gpu, resident, state, xs, join=joined, make=Products):
    """Body of the forward scan; its `ys` hold also the value of every product."""
    (kernels, biases, vectors, tables), constants = resident
    hoisted, (per_step, reset) = xs
    addends = looked_up(tables, hoisted)
    bound = {name: (kernel, biases.get(name)) for name, kernel in kernels.items()}
    product, values = make(bound, addends, precision), {}

    def linear(name, operand):
        values[name] = product(name, join(name, operand))
        return values[name]

    state, aux = step(config, linear, vectors, constants, state, per_step | gpu, reset)
    return state, (state, aux, values)


def scan_forward(config, policy, weights, state, window, constants):
    """The scan over the window: `(final, (states, aux, values))`."""
    kernels, biases, vectors, tables = weights
    rare = rare_products.applies(config, policy, (kernels, state))
    if policy.gradient == "deferred":  # autodiff would add the kernels' gradients up as rounded
        # Cast once for the window rather than at every step.
        kernels = jax.tree.map(lambda k: ops.operand(k, policy.precision), kernels)
    body = functools.partial(_forward_step, config, policy.precision, gpu_arguments(config, policy))
    resident = ((kernels, biases, vectors, tables), constants)
    in_kernel = body, resident, state
    if rare:
        in_kernel = rare_products.remembering(config, *in_kernel)
    chosen = choose_backend(config, policy, "forwards", *in_kernel, window)
    if rare:
        report(
            "what layers COPY in all rows of a chip is"
            + (" left out" if chosen == "pallas" else " computed, as there is no kernel")
        )
    if chosen == "pallas":
        carry, ys = scan(chosen, policy, *in_kernel, window)
        return (carry[0] if rare else carry), ys
    if not cpu_loops(policy):
        return scan(chosen, policy, body, resident, state, window)
    like = jax.tree.leaves(state)[0]
    scratch = {
        name: jnp.zeros((kernel.shape[1], like.shape[-1]), like.dtype)
        for name, kernel in kernels.items()
    }
    body = cpu_loop.with_scratch(body)
    (state, _), ys = scan(chosen, policy, body, resident, (state, scratch), window)
    return state, ys


@jax.named_scope("recurrence")  # for profiles
def scan(chosen, policy, body, resident, carry, xs, ends=(), reverse=False):
    """`body(resident, carry, x) -> (carry, y)` over the window; `ends` are for a TPU's kernel."""
    if chosen == "pallas":
        return tpu_kernel.scan(body, resident, carry, xs, reverse, policy.device, ends)
    body = functools.partial(body, resident)
    run = cpu_loop.scan if cpu_loops(policy) else jax.lax.scan
    return run(body, carry, xs, reverse=reverse, unroll=policy.unroll)


def autodiff(config, policy, weights, state, window, constants):
    final, (states, aux, _) = scan_forward(config, policy, weights, state, window, constants)
    return final, states, aux
