"""What the cells share: their products in plain form, normalisation's parameters, checks."""

import jax.numpy as jnp

from hmrnn_jax import ops
from hmrnn_jax.errors import UserError


class Products:
    """`linear(name, operand)`: kernel @ operand + addend, the plain form.

    Args:
      kernels: `{name: (kernel [N, K], bias [N] or None)}`, a cell's `products`.
      inputs: `{name: [N, ...]}`, a cell's `inputs`, which stand in for the bias.
      precision: see `ops.product`.
    """

    def __init__(self, kernels, inputs, precision="float32"):
        self.kernels = kernels
        self.inputs = inputs
        self.precision = precision

    def __call__(self, name, operand):
        if name not in self.kernels:
            return self.inputs[name]
        kernel, bias = self.kernels[name]
        addend = self.inputs.get(name, bias)
        value = ops.product(kernel, operand, self.precision)
        return value if addend is None else value + ops.column(addend, value)


def require(field, value, allowed):
    """Raises `UserError` unless `value` is one of `allowed`."""
    if value not in allowed:
        raise UserError(f"{field} is {value!r}; it must be one of {', '.join(map(str, allowed))}.")


def init_norms(names, size, dtype):
    """Gains and biases: four gates wide for each of `names`, and one gate wide for `c`."""
    return {
        name: {"gain": jnp.ones(width, dtype), "bias": jnp.zeros(width, dtype)}
        for name, width in [(name, 4 * size) for name in names] + [("c", size)]
    }
