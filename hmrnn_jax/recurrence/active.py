"""Work on the active columns of a batch alone, where a layer of an HM-LSTM would COPY the others.

The active columns are gathered into a block of fixed capacity, the least of `tiers` that holds
them, computed and put back: all in one `lax.switch`, so that nothing else is done. On CPUs a
product with a matrix of zeros and ones gathers columns faster than a gather does.
"""

import functools

import jax
import jax.numpy as jnp

from hmrnn_jax import ops

# On CPUs a product of fewer columns takes nearly as long: reading the kernel is the cost.
_LEAST_CAPACITY = 8
# Rows of a block of `outer_products`, as a part of all.
_BLOCKS = 16


def tiers(batch):
    """Capacities: for how many columns a layer is computed, the least that holds all active.

    None, an eighth, a quarter or half of the rows (unless these are too few to save time), or all.
    """
    parts = (-(-batch // 8), -(-batch // 4), -(-batch // 2))
    return (0, *(part for part in parts if _LEAST_CAPACITY <= part < batch), batch)


def where(active, function, columns, otherwise, add=False):
    """`function(columns)` where `active [B]`, else `otherwise`; trees of `[..., B]`.

    With `add`, `otherwise` plus that.
    """

    def alone(columns, _):
        return function(columns), (), ()

    return packed_where(active, alone, columns, (), otherwise, add=add)[0]


def packed_where(active, function, columns, packed, otherwise, axis=-1, add=False):
    """`where` that also keeps what a column needs only if it is active.

    Args:
      function: `(columns, packed) -> (new, kept, summed)`; new is like `otherwise`, `kept` a tree
        with its columns along `axis`, `summed` one of sums over columns. It is given columns of
        zeros, too.
      columns: tree of `[..., B]`, of which the active columns are gathered.
      packed: tree of `[..., B]` as an earlier call with the same `active` kept it.
      add: see `where`.

    Returns `(new, kept, summed)`; kept has the length B along `axis`. Its first columns are the
    active ones, in order, as long as a capacity below B holds them; else each is at its own place.
    See `is_packed`. What the others hold is any finite number.
    """
    batch = len(active)
    capacities = tiers(batch)
    nothing = jax.eval_shape(function, columns, packed)[1:]

    def run(capacity, columns, packed, otherwise):
        if not capacity:
            return otherwise, *jax.tree.map(lambda k: jnp.zeros(k.shape, k.dtype), nothing)
        if capacity == batch:
            new, *others = function(columns, packed)
            return combined(new, otherwise), *others
        place = jnp.cumsum(active) - 1
        matrix = active[:, None] & (place[:, None] == jnp.arange(capacity))
        first = jax.tree.map(lambda v: v[..., :capacity], packed)
        new, kept, summed = function(_times(columns, matrix), first)
        new = combined(_times(new, matrix.T), otherwise)
        return new, jax.tree.map(padded, kept), summed

    def combined(new, otherwise):
        def combine(new, old):
            return old + jnp.where(active, new, 0) if add else jnp.where(active, new, old)

        return jax.tree.map(combine, new, otherwise)

    def padded(part):
        widths = [(0, 0)] * part.ndim
        widths[axis] = (0, batch - part.shape[axis])
        return jnp.pad(part, widths)

    tier = jnp.sum(jnp.sum(active) > jnp.array(capacities[:-1]))
    branches = [functools.partial(run, capacity) for capacity in capacities]
    return jax.lax.switch(tier, branches, columns, packed, otherwise)


def is_packed(active):
    """Which columns of `packed_where`'s `kept` are those of active ones, bool `[..., B]`."""
    batch = active.shape[-1]
    count = active.sum(-1, keepdims=True)
    *_, last, _ = tiers(batch)
    first = jnp.broadcast_to(jnp.arange(batch), active.shape) < count
    return jnp.where(count > last, active, first)


def _times(tree, matrix):
    """Each leaf `[..., B]` times a matrix of zeros and ones `[B, K]`."""
    return jax.tree.map(lambda v: _product(v, matrix.astype(v.dtype)), tree)


def _product(array, matrix):
    # Not several as one: bringing them together takes longer.
    return jnp.matmul(array, matrix, precision="highest")


def outer_products(to_values, operands, chosen, precision, dtype):
    """The sum of outer products `to_values[m] operands[m]^T` over the `chosen` m, `[N, K]`.

    Args:
      to_values: `[M, N]`. operands: `[M, K]`. chosen: bool `[M]`.
      precision: of the products, see `ops.product`. dtype: of the result.
    """
    count = len(chosen)
    block = -(-count // _BLOCKS)
    (place,) = jnp.nonzero(chosen, size=block * _BLOCKS, fill_value=count)

    def add(number, total):
        rows = jax.lax.dynamic_slice(place, (number * block,), (block,))
        part = [v.at[rows].get(mode="fill", fill_value=0) for v in (to_values, operands)]
        return total + ops.outer_products(*part, ((0,), (0,)), precision, dtype)

    zeros = jnp.zeros((to_values.shape[1], operands.shape[1]), dtype)
    return jax.lax.fori_loop(0, -(-chosen.sum() // block), add, zeros)
