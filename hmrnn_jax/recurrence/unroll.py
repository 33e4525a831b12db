"""A cell over time: the one front door, `unroll`.

Arrays are time-major, `[T, B, ...]`, here and everywhere else. Two ways to
differentiate give the same numbers:

* `autodiff`: plain `lax.scan`, differentiated by JAX. The oracle, and what forward mode
  (`jax.jvp`, `jax.linearize`) asks for, with products in float32.
* `deferred`: a custom VJP. The forward scan keeps the value of every product; the
  reverse scan replays the cell's pointwise part around them, so it multiplies by each
  transposed kernel once and by nothing else, and yields the gradients of the products'
  values. The weight gradients are then one large product each, over all T B columns,
  instead of a matrix accumulated T times. In reverse mode alone; second derivatives, as the
  products of Hessians and vectors that `jax.jvp` of `jax.grad` makes, may go over it where
  `backend` is `scan`, which is to be given on a GPU.

Either way the products with the inputs of all time steps are made at once before the
scan (`cell.inputs`). Inside the scan features come first, `[d, B]` (see `ops`), in a TPU's
kernel rows; the arrays that go in and out of `unroll` have the batch first, as the rest of
the world.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hmrnn_jax import cells
from hmrnn_jax.cells.base import exportable
from hmrnn_jax.recurrence import deferred, forward, rare_products, skipping, skipping_gradient
from hmrnn_jax.recurrence.execution import Policy


@exportable("Unrolled")
class Unrolled(NamedTuple):
    """`final`: state after the last step, `[B, ...]`; `states`, `aux`: all steps, `[T, B, ...]`."""

    final: tuple
    states: tuple
    aux: tuple


def initial_state(config, batch, dtype=jnp.float32):
    """The cell's initial state for `batch` rows, `[batch, ...]`."""
    return forward.batch_first(cells.of(config).initial_state(config, (batch,), dtype))


DEFAULT_POLICY = Policy()


def unroll(
    config,
    params,
    state,
    x,
    *,
    resets=None,
    constants=None,
    per_step=None,
    policy=DEFAULT_POLICY,
    table_ids=None,
):
    """Runs a cell over a window.

    Args:
      config: a cell's `Config`.
      params: its parameters.
      state: its `State`, `[B, ...]`.
      x: inputs `[T, B, input_size]`; with `table_ids` a table `[V, input_size]`.
      resets: optional bool `[T, B]`: rows put back to the initial state before step t.
      constants: keyword arguments of the cell's `step` for all steps (slope).
      per_step: keyword arguments of the cell's `step` by step, `[T, B, ...]` (noise).
      policy: see `Policy`.
      table_ids: optional ids `[T, B]`: the inputs are rows of the table `x`, whose
        product with the input kernel is made once a row rather than once a step.

    Returns `Unrolled`. Gradients reach params, state and x, not the other arguments; under
    `jax.shard_map` they are for compiled programs only, inside `jax.jit`.
    Raises `UserError`, see `Policy`.
    """
    cell = cells.of(config)
    steps, batch = x.shape[:2] if table_ids is None else table_ids.shape
    policy.check(steps)
    columns, tables = (
        cell.inputs(config, params, x.reshape(-1, x.shape[-1]).T, policy.precision),
        {},
    )
    if table_ids is None:
        hoisted = {
            name: v.reshape(len(v), steps, batch).swapaxes(0, 1) for name, v in columns.items()
        }
    elif forward.looks_up_by_product(policy, len(x)):
        hoisted, tables = dict.fromkeys(columns, table_ids), columns
    else:
        hoisted = {name: v.T[table_ids].swapaxes(1, 2) for name, v in columns.items()}
    if resets is None:
        resets = jnp.zeros((steps, batch), bool)
    products = cell.products(config, params)
    kernels = {name: kernel for name, (kernel, _) in products.items()}
    biases = {name: b for name, (_, b) in products.items() if b is not None and name not in hoisted}
    weights = (kernels, biases, cell.vectors(config, params), tables)
    window = (hoisted, (forward.features_first(per_step or {}, 1), resets))
    way = _RUN[policy.gradient]
    # A state of another dtype than the parameters is rounded at every step: the dense path does so.
    dtypes = {v.dtype for v in jax.tree.leaves((kernels, state, x))}
    one_dtype = rare_products.one_dtype(dtypes, policy)
    if way is deferred.deferred and one_dtype and skipping.applies(config, policy):
        way = skipping_gradient.skipping_copies
    run = functools.partial(way, config, policy)
    if policy.remat:
        run = functools.partial(_in_chunks, run, policy.remat)
    final, states, aux = run(weights, forward.features_first(state), window, constants or {})
    return Unrolled(
        forward.batch_first(final), forward.batch_first(states, 1), forward.batch_first(aux, 1)
    )


def _in_chunks(run, length, weights, state, window, constants):
    """The window as a scan over rematerialised chunks of `length` steps."""
    window = jax.tree.map(lambda v: v.reshape(len(v) // length, length, *v.shape[1:]), window)

    @jax.checkpoint
    def chunk(state, window):
        final, states, aux = run(weights, state, window, constants)
        return final, (states, aux)

    final, ys = jax.lax.scan(chunk, state, window)
    return final, *jax.tree.map(lambda v: v.reshape(len(v) * length, *v.shape[2:]), ys)


_RUN = {"deferred": deferred.deferred, "autodiff": forward.autodiff}
