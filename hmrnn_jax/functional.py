"""The cells as functions: parameters and a state go in, states come out.

    cell = HMLSTM(input_size=64, sizes=(128, 128, 128))
    params = init(jax.random.key(0), cell)
    final, states, aux = unroll(cell, params, initial_state(cell, batch=16), x)  # x [T, 16, 64]

A cell is the configuration of one: a frozen dataclass, to be a static argument of `jax.jit`. All
functions are pure, and `jax.grad`, `jax.jit` and `jax.vmap` go over them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hmrnn_jax import cells, ops, recurrence
from hmrnn_jax.cells.base import CellConfig, check_slope, check_state
from hmrnn_jax.errors import UserError
from hmrnn_jax.recurrence import DEFAULT_POLICY, Policy, Unrolled


def init(key: jax.Array, cell: CellConfig, dtype: Any = jnp.float32) -> Any:
    """Draws a cell's parameters: arrays in nested dictionaries, which the cell's module describes.

    Args:
      key: of `jax.random.key`.
      cell: `HMLSTM`, `ONLSTM`, `NestedLSTM`, `LSTM` or `GRU`.
      dtype: of the parameters.
    """
    return cells.of(cell).init(key, cell, dtype)


def initial_state(cell: CellConfig, batch: int, dtype: Any = jnp.float32) -> Any:
    """A cell's state before the first step, for `batch` rows: its module's `State`, `[batch, ...]`.

    h and c are zeros; the boundaries z of an HM-LSTM are its choice `z_init`.
    """
    return recurrence.initial_state(cell, batch, dtype)


def unroll(
    cell: CellConfig,
    params: Any,
    state: Any,
    x: jax.Array,
    *,
    lengths: jax.Array | None = None,
    reverse: bool = False,
    resets: jax.Array | None = None,
    slope: float | jax.Array = 1.0,
    key: jax.Array | None = None,
    policy: Policy = DEFAULT_POLICY,
) -> Unrolled:
    """Runs a cell over a window of T steps, B rows side by side.

    Args:
      cell: the cell. params: of `init`.
      state: the rows' state before the window, `[B, ...]`: of `initial_state`, or `final` of the
        window before.
      x: inputs `[T, B, input_size]`.
      lengths: integers `[B]`, 0 to T: steps of each row; what comes after is padding, which has no
        influence on anything. All T if None.
      reverse: whether each row is read from its last step to its first.
      resets: bool `[T, B]`: where true, the row is put back to the initial state before it reads
        step t.
      slope: a of the detectors' hard sigmoid (Chung et al. 2017, section 2.2), a scalar above 0;
        cells without detectors have no use for it.
      key: draws the boundaries of an HM-LSTM that samples; others have no use for it.
      policy: how it is computed, see `recurrence.Policy`; never what.

    Returns `(final, states, aux)`: the state after each row's last step, `[B, ...]`; the states
    after each step, `[T, B, ...]`, at the places of their inputs, and zeros in the padding; and
    what else the cell tells of each step, its module's `Aux`, or `()`.

    Raises:
      UserError: shapes do not match, the state is not floating-point, lengths are no integers or
        not from 0 to T, the slope is not above 0, or there is no key for a cell that samples.
    """
    x = jnp.asarray(x)
    lengths, resets = (v if v is None else jnp.asarray(v) for v in (lengths, resets))
    _check(cell, state, x, lengths, resets)
    if cell.uses_slope:
        check_slope(slope)
    steps, batch = x.shape[:2]
    if lengths is not None:
        within = jnp.arange(steps)[:, None] < lengths[None]
        x = jnp.where(within[..., None], x, 0)
    if reverse:
        turn = _turn(steps, batch, lengths)
        x, resets = turn(x), resets if resets is None else turn(resets)
    noise = None
    if cell.uses_noise:
        if key is None:
            raise UserError("This cell draws its boundaries: give a key, jax.random.key(0).")
        noise = {"noise": ops.uniform(key, (steps, batch, cell.uses_noise), x.dtype)}
    out = recurrence.unroll(
        cell, params, state, x, resets=resets, per_step=noise, policy=policy,
        constants={"slope": slope} if cell.uses_slope else None,
    )  # fmt: skip
    if lengths is not None and steps:
        out = _cut(out, state, lengths, within)
    if reverse:
        out = out._replace(states=turn(out.states), aux=turn(out.aux))
    return out


def _check(cell, state, x, lengths, resets):
    if x.ndim != 3:
        raise UserError(f"x has shape {x.shape}; it must be [T, B, input_size], time first.")
    steps, batch = x.shape[:2]
    wanted = recurrence.initial_state(cell, batch)
    if jax.tree.map(jnp.shape, state) != jax.tree.map(jnp.shape, wanted):
        raise UserError(
            f"The state does not fit x, which has {batch} rows: make it with"
            f" initial_state(cell, {batch})."
        )
    check_state(state)
    for name, array, shape in (("lengths", lengths, (batch,)), ("resets", resets, (steps, batch))):
        if array is not None and array.shape != shape:
            raise UserError(f"{name} has shape {array.shape}; with this x it must be {shape}.")
    if batch and lengths is not None and not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise UserError(f"lengths are of {lengths.dtype}; they must be integers.")
    if lengths is None or isinstance(lengths, jax.core.Tracer) or not batch:
        return
    lengths = np.asarray(lengths)  # known, in a program that is traced too
    if lengths.min() < 0 or lengths.max() > steps:
        raise UserError(
            f"lengths are from {lengths.min()} to {lengths.max()}; with this x they must be from 0"
            f" to {steps}."
        )


def _turn(steps, batch, lengths):
    """A function that turns each row of arrays `[T, B, ...]` round within its length."""
    if lengths is None:
        return lambda tree: jax.tree.map(lambda v: v[::-1], tree)
    step, row = jnp.arange(steps)[:, None], jnp.arange(batch)
    place = jnp.where(step < lengths[None], lengths[None] - 1 - step, step)
    return lambda tree: jax.tree.map(lambda v: v[place, row[None]], tree)


def _cut(out, state, lengths, within):
    """`Unrolled` of rows of these lengths: final states after them, zeros in the padding."""
    row, last = jnp.arange(len(lengths)), lengths - 1

    def final(first, states):
        shape = (-1,) + (1,) * (first.ndim - 1)
        return jnp.where((lengths > 0).reshape(shape), states[last, row], first)

    def cut(v):
        return jnp.where(within.reshape(within.shape + (1,) * (v.ndim - 2)), v, 0)

    final = jax.tree.map(final, state, out.states)
    return Unrolled(final, jax.tree.map(cut, out.states), jax.tree.map(cut, out.aux))
