"""GRU: gated recurrent unit (Cho et al. 2014, eq. 5-8), one layer.

    z, r = sigmoid of  W x + U h' + b
    n = tanh(W_n x + b_n + r (U_n h' + b_Un))
    h = z h' + (1 - z) n

The reset gate r is where PyTorch and cuDNN have it, on the recurrent product; the paper has it
on h', which takes a second product at every step. Features lie along the first axis, `[d]` or
`[d, B]`. Order of the rows: z, r, n.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hmrnn_jax import ops
from hmrnn_jax.cells.base import Products, cast_like, check_input, check_sizes, init_affine
from hmrnn_jax.errors import require

NAME = "GRU"


@dataclass(frozen=True)
class GRU:
    """Sizes of a GRU layer.

    Attributes:
      input_size, size: width of x; width of h.
      forget_bias: added to the initial bias of z, which keeps h' as a forget gate does.
      initialisation: `orthogonal` or `uniform`, see `base.init_affine`.
    """

    input_size: int
    size: int
    forget_bias: float = 0.0
    initialisation: str = "orthogonal"

    uses_slope = False
    replays = False
    uses_noise = 0

    def __post_init__(self):
        check_sizes(input_size=self.input_size, size=self.size)
        require("initialisation", self.initialisation, ("uniform", "orthogonal"))

    @property
    def blocks(self):
        """Widths of the gates, in the order of the rows."""
        return (self.size,) * 3


Config = GRU


class State(NamedTuple):
    """h, `[size, ...]`."""

    h: jax.Array


def init(key, config, dtype=jnp.float32):
    """Parameters `{U [3H, H], W [3H, input_size], b_U, b_W [3H]}`, as PyTorch and cuDNN count."""
    return init_affine(key, config, dtype, fan_in=config.size)


def initial_state(config, batch=(), dtype=jnp.float32):
    """Zeros, `[size, *batch]`."""
    return State(jnp.zeros((config.size, *batch), dtype))


def products(config, params):
    """Kernels of the products in `step`: the recurrent one, `{name: (kernel, bias)}`."""
    return {"recurrent": (params["U"], params["b_U"])}


def inputs(config, params, x, precision="float32"):
    """The input products, which need no state: `{name: [3H, ...]}`; x is `[input_size, ...]`."""
    check_input(config, x)
    value = ops.product(params["W"], x, precision)
    return {"input": value + ops.column(params["b_W"], value)}


def vectors(config, params):
    """The parameters that `step` uses outside its products: none."""
    return ()


def step(config, params, state, x=None, *, linear=None) -> tuple[State, tuple]:
    """One time step; arguments as in `hm_lstm.step`. Returns the new `State` and `()`."""
    if linear is None:
        linear = Products(products(config, params), inputs(config, params, x))
    shape = (3, *state.h.shape)
    recurrent = linear("recurrent", state.h).reshape(shape)
    given = linear("input", None).reshape(shape)
    z, r = jax.nn.sigmoid(recurrent[:2] + given[:2])
    n = jnp.tanh(given[2] + r * recurrent[2])
    return cast_like(state, State(z * state.h + (1 - z) * n)), ()
