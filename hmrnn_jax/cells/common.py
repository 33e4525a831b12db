"""What the cells share: their products in plain form, initial parameters."""

import jax
import jax.numpy as jnp

from hmrnn_jax import ops


class Products:
    """`linear(name, operand)`: kernel @ operand + addend, the plain form; operand as in `joined`.

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
        value = ops.product(kernel, joined(name, operand), self.precision)
        return value if addend is None else value + ops.column(addend, value)


def joined(name, operand):
    """The operand of the product `name`, given whole or as a list of its parts, first row first."""
    return jnp.concatenate(operand) if isinstance(operand, list) else operand


def init_norms(names, size, dtype):
    """Gains and biases: four gates wide for each of `names`, and one gate wide for `c`."""
    return {
        name: {"gain": jnp.ones(width, dtype), "bias": jnp.zeros(width, dtype)}
        for name, width in [(name, 4 * size) for name in names] + [("c", size)]
    }


def init_affine(key, config, dtype, input_size=None, biases=("b_W", "b_U"), fan_in=None):
    """Parameters of an affine pre-activation, `{U [N, H], W [N, input_size], biases [N]}`.

    N sums `config.blocks`, of which the first is f. `config.initialisation` is

    * `orthogonal`: a (semi-)orthogonal recurrent matrix for each gate, Glorot-uniform input
      blocks, zero biases;
    * `uniform`: everything uniform in +-1/sqrt(fan-in), PyTorch's default for a linear map
      (`b_W`, `b` belong to the input's, `b_U` to the recurrent one), or with one `fan_in`
      for all.

    `config.forget_bias` is added to f's part of the first bias.
    """
    width = config.input_size if input_size is None else input_size
    size, rows = config.size, sum(config.blocks)
    keys = jax.random.split(key, 2 + len(biases))
    if config.initialisation == "uniform":

        def uniform(key, shape, fan_in):
            limit = fan_in**-0.5
            return jax.random.uniform(key, shape, dtype, -limit, limit)

        fans = {"U": size, "b_U": size} if fan_in is None else dict.fromkeys(("U", "b_U"), fan_in)
        shapes = {"U": (rows, size), "W": (rows, width)} | dict.fromkeys(biases, (rows,))
        other = width if fan_in is None else fan_in
        params = {
            name: uniform(k, shape, fans.get(name, other))
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
    else:
        params = {
            "U": _blocks(ops.orthogonal_blocks, keys[0], config.blocks, size, dtype),
            "W": _blocks(ops.glorot_blocks, keys[1], config.blocks, width, dtype),
        } | {name: jnp.zeros(rows, dtype) for name in biases}
    first = biases[0]
    params[first] = params[first].at[:size].add(config.forget_bias)
    return params


def _blocks(make, key, heights, width, dtype):
    keys = jax.random.split(key, len(heights))
    blocks = [make(k, rows, width, 1, dtype) for k, rows in zip(keys, heights, strict=True)]
    return jnp.concatenate(blocks)
