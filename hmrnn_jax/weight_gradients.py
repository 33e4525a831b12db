"""The gradients of a window's kernels: one large product each, over all columns or some.

Where a layer of an HM-LSTM COPYs, its gates have no gradient, and the column adds nothing but a
row for the detector. `product` can leave such columns out.
"""

import jax
import jax.numpy as jnp

from hmrnn_jax import ops

# The columns that count are gathered into a block of the first of these capacities that holds
# them, as parts of all; with more than the last, all are multiplied.
TIERS = (0.25, 0.5, 0.75)
_FIRST_AXES = ((0,), (0,))


def product(to_values, operands, layout, precision, dtype, active=None):
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
        return _product(to_values, operands, time_rows, precision, dtype)
    columns, rows = active
    to_values = to_values.swapaxes(1, 2)
    operands = operands if layout == "tbk" else operands.swapaxes(1, 2)
    to_values, operands = (v.reshape(-1, v.shape[-1]) for v in (to_values, operands))
    count = len(operands)

    def gathered(capacity):
        def run(to_gates, operands):
            (place,) = jnp.nonzero(columns.reshape(-1), size=capacity, fill_value=count)
            chosen = (v.at[place].get(mode="fill", fill_value=0) for v in (to_gates, operands))
            return _product(*chosen, _FIRST_AXES, precision, dtype)

        return run

    def whole(to_gates, operands):
        return _product(to_gates, operands, _FIRST_AXES, precision, dtype)

    capacities = [int(count * part) for part in TIERS]
    tier = jnp.sum(jnp.sum(columns) > jnp.array(capacities))
    gates = jax.lax.switch(tier, [*map(gathered, capacities), whole], to_values[:, :rows], operands)
    if rows == to_values.shape[1]:
        return gates
    rest = _product(to_values[:, rows:], operands, _FIRST_AXES, precision, dtype)
    return jnp.concatenate([gates, rest])


def _product(to_values, operands, summed, precision, dtype):
    """The sum over the axes `summed` of outer products, `[N, K]`."""
    return jax.lax.dot_general(
        ops.operand(to_values, precision),
        ops.operand(operands, precision),
        (summed, ((), ())),
        precision="highest" if precision == "float32" else "default",
        preferred_element_type=dtype,
    )
