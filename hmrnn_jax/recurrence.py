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
  products of Hessians and vectors that `jax.jvp` of `jax.grad` makes, may go over it.

Either way the products with the inputs of all time steps are made at once before the
scan (`cell.inputs`). Inside the scan features come first, `[d, B]` (see `ops`), in a TPU's
kernel rows; the arrays that go in and out of `unroll` have the batch first, as the rest of
the world.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from hmrnn_jax import cells, loops, ops, weight_gradients
from hmrnn_jax.cells.common import Products, joined
from hmrnn_jax.kernels import resident as resident_kernel
from hmrnn_jax.policy import Policy, choose_backend, cpu_loops, gpu_arguments


class Unrolled(NamedTuple):
    """`final`: state after the last step, `[B, ...]`; `states`, `aux`: all steps, `[T, B, ...]`."""

    final: tuple
    states: tuple
    aux: tuple


def initial_state(config, batch, dtype=jnp.float32):
    """The cell's initial state for `batch` rows, `[batch, ...]`."""
    return _batch_first(cells.of(config).initial_state(config, (batch,), dtype))


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
    columns = cell.inputs(config, params, x.reshape(-1, x.shape[-1]).T, policy.precision)
    if table_ids is None:
        hoisted = {
            name: v.reshape(len(v), steps, batch).swapaxes(0, 1) for name, v in columns.items()
        }
    else:
        hoisted = {name: v.T[table_ids].swapaxes(1, 2) for name, v in columns.items()}
    if resets is None:
        resets = jnp.zeros((steps, batch), bool)
    products = cell.products(config, params)
    kernels = {name: kernel for name, (kernel, _) in products.items()}
    biases = {name: b for name, (_, b) in products.items() if b is not None and name not in hoisted}
    weights = (kernels, biases, cell.vectors(config, params))
    window = (hoisted, (_features_first(per_step or {}, 1), resets))
    run = functools.partial(_RUN[policy.gradient], config, policy)
    if policy.remat:
        run = functools.partial(_in_chunks, run, policy.remat)
    final, states, aux = run(weights, _features_first(state), window, constants or {})
    return Unrolled(_batch_first(final), _batch_first(states, 1), _batch_first(aux, 1))


def _batch_first(tree, leading=0):
    """`[..., d, B]` to `[..., B, d]` after `leading` axes; scalars of rows stay `[..., B]`."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, -1, leading), tree)


def _features_first(tree, leading=0):
    """The inverse of `_batch_first`."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, leading, -1), tree)


def _in_chunks(run, length, weights, state, window, constants):
    """The window as a scan over rematerialised chunks of `length` steps."""
    window = jax.tree.map(lambda v: v.reshape(len(v) // length, length, *v.shape[1:]), window)

    @jax.checkpoint
    def chunk(state, window):
        final, states, aux = run(weights, state, window, constants)
        return final, (states, aux)

    final, ys = jax.lax.scan(chunk, state, window)
    return final, *jax.tree.map(lambda v: v.reshape(len(v) * length, *v.shape[2:]), ys)


def _step(config, linear, vectors, constants, state, per_step, reset):
    """The cell's step, before it the rows of `reset [B]` put back to the initial state."""
    cell = cells.of(config)
    first = cell.initial_state(config, (1,) * reset.ndim, jax.tree.leaves(state)[0].dtype)
    state = jax.tree.map(lambda new, old: jnp.where(reset, new, old), first, state)
    return cell.step(config, vectors, state, linear=linear, **constants, **per_step)


def _forward_step(config, precision, gpu, resident, state, xs, join=joined):
    """Body of the forward scan; its `ys` hold also the value of every product."""
    (kernels, biases, vectors), constants = resident
    addends, (per_step, reset) = xs
    bound = {name: (kernel, biases.get(name)) for name, kernel in kernels.items()}
    plain, values = Products(bound, addends, precision), {}

    def linear(name, operand):
        values[name] = plain(name, join(name, operand))
        return values[name]

    state, aux = _step(config, linear, vectors, constants, state, per_step | gpu, reset)
    return state, (state, aux, values)


def _forward(config, policy, weights, state, window, constants):
    """The scan over the window: `(final, (states, aux, values))`."""
    kernels, biases, vectors = weights
    # Cast once for the window rather than at every step.
    kernels = jax.tree.map(lambda k: ops.operand(k, policy.precision), kernels)
    body = functools.partial(_forward_step, config, policy.precision, gpu_arguments(config, policy))
    resident = ((kernels, biases, vectors), constants)
    chosen = choose_backend(config, policy, "forwards", body, resident, state, window)
    if chosen == "pallas" or not cpu_loops(policy):
        return _scan(chosen, policy, body, resident, state, window)
    like = jax.tree.leaves(state)[0]
    scratch = {
        name: jnp.zeros((kernel.shape[1], like.shape[-1]), like.dtype)
        for name, kernel in kernels.items()
    }
    body = loops.with_scratch(body)
    (state, _), ys = _scan(chosen, policy, body, resident, (state, scratch), window)
    return state, ys


@jax.named_scope("recurrence")  # for profiles
def _scan(chosen, policy, body, resident, carry, xs, ends=(), reverse=False):
    """`body(resident, carry, x) -> (carry, y)` over the window; `ends` are for a TPU's kernel."""
    if chosen == "pallas":
        return resident_kernel.scan(body, resident, carry, xs, reverse, policy.chip, ends)
    body = functools.partial(body, resident)
    run = loops.scan if cpu_loops(policy) else jax.lax.scan
    return run(body, carry, xs, reverse=reverse, unroll=policy.unroll)


def _autodiff(config, policy, weights, state, window, constants):
    final, (states, aux, _) = _forward(config, policy, weights, state, window, constants)
    return final, states, aux


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _deferred(config, policy, weights, state, window, constants):
    return _autodiff(config, policy, weights, state, window, constants)


def _deferred_forward(config, policy, *primals):
    weights, state, window, constants = jax.tree.map(lambda primal: primal.value, primals)
    final, (states, aux, values) = _forward(config, policy, weights, state, window, constants)
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

        return _step(config, linear, vectors, constants, state, per_step, reset), operands

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
        return carry, (values_gradient, _batch_first(operands))

    columns = "tkb"
    if chosen != "pallas":
        body, columns, xs = batch_major, "tbk", (jnp.arange(len(resets), dtype=np.uint32), xs)
        # Transposed once for the window rather than at every step.
        resident = (jax.tree.map(jnp.transpose, rounded), vectors, constants)
        start = (final_gradient, jax.tree.map(jnp.zeros_like, vectors))
    (state_gradient, vectors_gradient), (values_gradient, operands) = _scan(
        chosen, policy, body, resident, start, xs, ends, reverse=True
    )
    if chosen == "pallas":
        vectors_gradient = jax.tree.map(lambda g: g.sum(-1), vectors_gradient)
    if policy.skip_copies and config.replays:
        before = jax.tree.map(lambda e: e[:-1], around)
        active = cells.of(config).active(config, before, states, resets)
    with jax.named_scope("weight_gradients"):
        kernels_gradient = {
            name: weight_gradients.product(
                values_gradient[name], operands[name], columns, policy.precision,
                kernels[name].dtype, active.get(name),
            )
            for name in kernels
        }  # fmt: skip
    biases_gradient = {name: values_gradient[name].sum((0, 2)) for name in biases}
    hoisted_gradient = {name: values_gradient[name] for name in hoisted}
    return (
        (kernels_gradient, biases_gradient, vectors_gradient),
        state_gradient,
        (hoisted_gradient, None),
        None,
    )


_deferred.defvjp(_deferred_forward, _deferred_backward, symbolic_zeros=True)

_RUN = {"deferred": _deferred, "autodiff": _autodiff}
