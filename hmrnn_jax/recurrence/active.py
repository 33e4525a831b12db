"""Work on the active columns of a batch alone, where a layer of an HM-LSTM would COPY the others.

The active columns are gathered into a block of fixed capacity, the least of some that holds
them, computed and put back: all in one `lax.switch`, so that nothing else is done. On CPUs a
product with a matrix of zeros and ones gathers columns faster than a gather does.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hmrnn_jax import ops

# On CPUs a product of fewer columns takes nearly as long: reading the kernel is the cost.
_LEAST_CAPACITY, _LEAST_FINER = 8, 4
# `outer_products` are summed in blocks, of this part of all rows.
_BLOCKS = 16


class Rows(NamedTuple):
    """What the active columns of each step have, as rows, one step's below the other's.

    Attributes:
      arrays: tree of `[M, N]`; what lies below the rows in use is any finite number.
      used: how many rows are in use.
    """

    arrays: Any
    used: jax.Array


def room(steps, batch, widths, dtype, number):
    """`Rows` of none, a list of arrays of these widths with room for all columns of all steps.

    Arrays of one shape should begin with different numbers, of which `number` is the first: see
    `cpu_loop`.
    """
    # Whole blocks, and what the last step writes below the rows in use.
    count = _BLOCKS * -(-steps * batch // _BLOCKS) + batch
    arrays = [jnp.full((count, n), number + k, dtype) for k, n in enumerate(widths)]
    return Rows(arrays, jnp.int32(0))


def tiers(batch):
    """Capacities: for how many columns a layer is computed, the least that holds all active.

    None, an eighth, a quarter or half of the rows (unless these are too few to save time), or all.
    """
    return _tiers(batch, (2, 4, 8), _LEAST_CAPACITY)


def finer_tiers(batch):
    """`tiers` with more capacities, where nothing but the columns themselves is kept.

    None, a sixteenth, an eighth, a quarter, three eighths or half of the rows, or all.
    """
    return _tiers(batch, (1, 2, 4, 6, 8), _LEAST_FINER)


def _tiers(batch, sixteenths, least):
    parts = (-(-batch * part // 16) for part in sixteenths)
    return (0, *(part for part in parts if least <= part < batch), batch)


def tiers_within(capacity):
    """Capacities for the few active columns of a block that holds so many."""
    return (0, _LEAST_CAPACITY, capacity) if capacity > _LEAST_CAPACITY else (0, capacity)


def where(active, function, columns, otherwise, add=False, capacities=tiers):
    """`function(columns)` where `active [B]`, else `otherwise`; trees of `[..., B]`.

    With `add`, `otherwise` plus that. The function is given columns of zeros, too. `capacities`
    is one of `tiers`, `finer_tiers` and `tiers_within`.
    """
    batch = len(active)

    def run(capacity, columns, otherwise):
        if not capacity:
            return otherwise
        if capacity == batch:
            return _combined(active, function(columns), otherwise, add)
        matrix = _gathering(active, capacity)
        new = _times(function(_times(columns, matrix)), matrix.T)
        return _combined(active, new, otherwise, add)

    branches = [functools.partial(run, capacity) for capacity in capacities(batch)]
    return jax.lax.switch(_tier(active, capacities), branches, columns, otherwise)


def where_kept(active, function, columns, otherwise, read=(), kept=()):
    """`where` that also keeps what a column needs only if it is active.

    Args:
      function: `(columns, read) -> (new, rows, summed)`; new is like `otherwise`, `rows` like
        `kept`'s arrays, with a row for each column, `summed` a tree of sums over columns. It is
        given columns of zeros, too, with any rows.
      columns: tree of `[..., B]`, of which the active columns are gathered.
      read: `Rows` below whose rows in use those lie which an earlier call with the same `active`
        kept; the function is given them.
      kept: `Rows` below which the function's are written.

    Returns `(new, kept, summed)`.
    """
    batch = len(active)
    *_, like = jax.eval_shape(lambda c, r: function(c, _taken(r, batch)), columns, read)

    def run(capacity, columns, read, otherwise, kept, _):
        matrix = _gathering(active, capacity)
        new, rows, summed = function(_times(columns, matrix), _taken(read, capacity))
        new = _combined(active, _times(new, matrix.T), otherwise)
        return new, _written(kept, rows), summed

    result = otherwise, kept, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), like)
    # Not one `lax.switch`: of more than two branches XLA copies what is written in place.
    for number, capacity in enumerate(tiers(batch)[1:], start=1):
        result = jax.lax.cond(
            _tier(active) == number,
            functools.partial(run, capacity),
            lambda columns, read, *result: result,
            columns,
            read,
            *result,
        )
    new, kept, summed = result
    return new, kept and kept._replace(used=kept.used + _count(active)), summed


def _count(active):
    return jnp.sum(active, dtype=jnp.int32)


def _tier(active, capacities=tiers):
    """The number of the least of the capacities that holds the active columns."""
    return jnp.sum(_count(active) > jnp.array(capacities(len(active))[:-1]))


def _gathering(active, capacity):
    """The matrix `[B, capacity]` of zeros and ones by which the active columns are gathered."""
    place = jnp.cumsum(active) - 1
    return active[:, None] & (place[:, None] == jnp.arange(capacity)[None])


def _combined(active, new, otherwise, add=False):
    def combine(new, old):
        return old + jnp.where(active, new, 0) if add else jnp.where(active, new, old)

    return jax.tree.map(combine, new, otherwise)


def _taken(rows, count):
    """The `count` rows below those in use."""
    if not rows:
        return ()
    return jax.tree.map(
        lambda array: jax.lax.dynamic_slice_in_dim(array, rows.used, count), rows.arrays
    )


def _written(rows, below):
    """`Rows` with these below those in use, not in use yet; in place, within a loop too."""
    if not rows:
        return ()

    def write(array, rows_below):
        return jax.lax.dynamic_update_slice_in_dim(array, rows_below, rows.used, 0)

    return rows._replace(arrays=jax.tree.map(write, rows.arrays, below))


def _times(tree, matrix):
    """Each leaf `[..., B]` times a matrix of zeros and ones `[B, K]`."""
    return jax.tree.map(lambda v: _product(v, matrix.astype(v.dtype)), tree)


def _product(array, matrix):
    # Not several as one: bringing them together takes longer.
    return jnp.matmul(array, matrix, precision="highest")


def outer_products(rows, precision, dtype):
    """The sum of the outer products `[N, K]` of the rows in use of two arrays.

    Args:
      rows: `Rows` of `[to_values [M, N], operands [M, K]]`.
      precision: of the products, see `ops.product`. dtype: of the result.
    """
    to_values, operands = rows.arrays
    block = len(to_values) // _BLOCKS

    def add(number, total):
        start = number * block
        parts = [jax.lax.dynamic_slice_in_dim(v, start, block) for v in (to_values, operands)]
        parts[0] = jnp.where(start + jnp.arange(block)[:, None] < rows.used, parts[0], 0)
        return total + ops.outer_products(*parts, ((0,), (0,)), precision, dtype)

    zeros = jnp.zeros((to_values.shape[1], operands.shape[1]), dtype)
    return jax.lax.fori_loop(0, -(-rows.used // block), add, zeros)
