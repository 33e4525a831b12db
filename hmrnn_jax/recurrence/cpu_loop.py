"""`lax.scan` as XLA's CPU compiler runs it fastest; nothing here is to be differentiated.

Two of that compiler's habits take up to a sixth of a train step. The arrays that a scan stacks
begin as zeros: those of one shape are found to be the same zeros, and each is copied from them.
And a fused loop that concatenates what it computes is several times slower than one that does not.
"""

import jax
import jax.numpy as jnp


def scan(body, carry, xs, reverse=False, unroll=1):
    """`lax.scan`, whose stacked arrays begin with different numbers, which are never read."""
    steps = len(jax.tree.leaves(xs)[0])
    if not steps:
        return jax.lax.scan(body, carry, xs)
    first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)
    like, structure = jax.tree.flatten(jax.eval_shape(body, carry, first)[1])
    stacked = [jnp.full((steps, *y.shape), number, y.dtype) for number, y in enumerate(like)]

    def step(state, x):
        t, carry, stacked = state
        carry, y = body(carry, x)
        stacked = [
            jax.lax.dynamic_update_index_in_dim(whole, part, t, 0)
            for whole, part in zip(stacked, jax.tree.leaves(y), strict=True)
        ]
        return (t + (-1 if reverse else 1), carry, stacked), None

    start = (jnp.int32(steps - 1 if reverse else 0), carry, stacked)
    (_, carry, stacked), _ = jax.lax.scan(step, start, xs, reverse=reverse, unroll=unroll)
    return carry, jax.tree.unflatten(structure, stacked)


def with_scratch(body):
    """`body(resident, carry, x, join)` for a scan whose carry is `(carry, scratch)`.

    `scratch` is `{name: array [K, B]}`; `join(name, parts)` writes the parts into it one below the
    other, and is their concatenation.
    """

    def scratched(resident, both, x):
        carry, scratch = both
        scratch = dict(scratch)

        def join(name, operand):
            if not isinstance(operand, list):
                return operand
            if any(part.dtype != scratch[name].dtype for part in operand):
                return jnp.concatenate(operand)
            row = 0
            for part in operand:
                scratch[name] = jax.lax.dynamic_update_slice(scratch[name], part, (row, 0))
                row += len(part)
            return scratch[name]

        carry, y = body(resident, carry, x, join)
        return (carry, scratch), y

    return scratched
