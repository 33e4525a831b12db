"""A TPU's kernel that leaves out the products of an HM-LSTM's layers that COPY.

A chip has some eight rows of a batch, whose products are one and are made whole or not at all. A
step needs none of a term whose operands are zero in all rows, as those that a boundary gates are
where none fires, nor of one whose operands are those of the step before, as h is where all rows
COPY: its value is known. In the reverse scan nothing is to be pulled back through a product whose
value has no gradient in any row: that of a layer that COPYs in all, if its detector is nested.

What decides are the operands, not the cell's equations, so that it is exact whatever the mode.
"""

import functools

import jax
import jax.numpy as jnp

from hmrnn_jax import ops
from hmrnn_jax.cells import hm_lstm
from hmrnn_jax.cells.base import Products
from hmrnn_jax.recurrence.execution import skips_in_kernels
from hmrnn_jax.recurrence.tpu_kernel import Held


def one_dtype(dtypes, policy):
    """Whether the products of arrays of these dtypes have theirs: of bfloat16 operands float32."""
    products = {jnp.dtype("float32")} if policy.precision == "bfloat16" else dtypes
    return len(dtypes) < 2 and dtypes <= products


def applies(config, policy, arrays=()):
    """Whether a cell has products to leave out, and the policy is to leave them out.

    Args:
      arrays: the kernels and the state. What is remembered of a product is of the state's dtype,
        so the product has to be, too.
    """
    dtypes = {array.dtype for array in jax.tree.leaves(arrays)}
    return (
        skips_in_kernels(policy)
        and one_dtype(dtypes, policy)
        and isinstance(config, hm_lstm.Config)
        and config.depth > 1
        and config.boundary != "soft"
    )


def _product(kernel, precision, vector, before, known):
    """The product with a kernel that is `Held`, `known` being that with `before`.

    Of a row; under `vmap`, as in the TPU's kernel, made if any row needs it.
    """
    if not kernel.in_kernel:
        return ops.product(kernel.array(), vector, precision)

    @jax.custom_batching.custom_vmap
    def product(vector, before, known):
        return known

    @product.def_vmap
    def _(size, batched, *rows):
        vector, before, known = _all_rows(size, batched, rows)
        something = jnp.any(vector != 0)
        value = jax.lax.cond(
            something & jnp.any(vector != before),
            lambda: _of_rows(ops.product, kernel, vector, precision),
            lambda: jnp.where(something, known, 0),
        )
        return value, True

    return product(vector, before, known)


def pullback(kernel, gradient, precision="float32"):
    """`ops.transposed_product` of a kernel that is `Held`, made if any row has a gradient."""
    if not kernel.in_kernel:
        return ops.transposed_product(kernel.array(), gradient, precision)
    made = functools.partial(_of_rows, ops.transposed_product, kernel, precision=precision)

    @jax.custom_batching.custom_vmap
    def pull(gradient):
        return made(gradient[None])[0]

    @pull.def_vmap
    def _(size, batched, *rows):
        (gradient,) = _all_rows(size, batched, rows)
        none = jax.eval_shape(made, gradient)
        value = jax.lax.cond(
            jnp.any(gradient != 0),
            lambda: made(gradient),
            lambda: jnp.zeros(none.shape, none.dtype),
        )
        return value, True

    return pull(gradient)


def _all_rows(size, batched, arrays):
    """`arrays` with an axis of rows first."""
    return [
        array if has else jnp.broadcast_to(array, (size, *array.shape))
        for array, has in zip(arrays, batched, strict=True)
    ]


def _of_rows(product, kernel, rows, precision):
    array = kernel.array()
    return jax.vmap(lambda row: product(array, row, precision))(rows)


class Remembering(Products):
    """`Products` of kernels split by term, which remember each term's operand and value.

    Args:
      memory: `{name: [(operand, value), ...]}` of the step before.
      new: a dictionary that gets those of this step.
    """

    def __init__(self, memory, new, *arguments):
        super().__init__(*arguments)
        self.memory, self.new = memory, new

    def __call__(self, name, operand):
        if name not in self.kernels:
            return self.inputs[name]
        kernels, bias = self.kernels[name]
        vectors = operand if isinstance(operand, list) else [operand]
        terms = [
            _product(kernel, self.precision, vector, *known)
            for kernel, vector, known in zip(kernels, vectors, self.memory[name], strict=True)
        ]
        self.new[name] = list(zip(vectors, terms, strict=True))
        value = functools.reduce(jnp.add, terms)
        addend = self.inputs.get(name, bias)
        return value if addend is None else value + ops.column(addend, value)


def remembering(config, body, resident, carry):
    """`body`, `resident` and `carry` of a scan that remembers; its carry is `(carry, memory)`.

    Args:
      body: `body(resident, carry, x, join=, make=)`, which makes its products by `make`.
      resident: `((kernels, ...), ...)`. carry: a cell's `State`, `[d, B]`.
    """
    (kernels, *others), *constants = resident
    kernels = _by_term(config, kernels)
    like = jax.tree.leaves(carry)[0]

    def remembered(resident, both, x):
        carry, memory = both
        new = {}
        make = functools.partial(Remembering, memory, new)
        carry, y = body(resident, carry, x, join=lambda name, parts: parts, make=make)
        return (carry, new), y

    def nothing(length):
        return jnp.zeros((length, like.shape[-1]), like.dtype)

    # Of operands that are zero.
    memory = {
        name: [(nothing(part.shape[1]), nothing(len(part))) for part in parts]
        for name, parts in kernels.items()
    }
    held = jax.tree.map(Held, kernels)
    return remembered, ((held, *others), *constants), (carry, memory)


def _by_term(config, kernels):
    """`kernels`, `{name: [N, K]}`, each as a list of those of its terms."""
    if config.layer_norm == "ba":
        return {name: [kernel] for name, kernel in kernels.items()}
    return {
        name: hm_lstm.by_term(config, int(name.removeprefix("layer")) - 1, kernel)
        for name, kernel in kernels.items()
    }


def expected(config, moves, rows):
    """The share of the kernels' multiplications that is left; an estimate.

    As if rows moved by themselves, and each detector fired as often as the layer above moves.

    Args:
      config: of an HM-LSTM. moves: of each layer the share of steps in which it does not COPY.
      rows: of the batch on a chip.
    """
    some = [1.0, *(1 - (1 - share) ** rows for share in moves[1:]), 0.0]
    left = total = 0.0
    for number, size in enumerate(config.sizes):
        backwards = some[number] if config.nested or number == config.depth - 1 else 1.0
        for term, width in config.stepwise_terms(number).items():
            forwards = some[number + 1] if term == "U_td" else some[number]
            left += (forwards + backwards) * size * width
            total += 2 * size * width
    return left / total
