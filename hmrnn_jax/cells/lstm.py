"""LSTM (Hochreiter, Schmidhuber 1997; forget gate Gers et al. 2000), one layer.

    f, i, o = sigmoid, g = tanh of  W x + U h' + b;   c = f c' + i g;   h = o tanh(c)

The baseline of all three papers; stacks are made by the model, a layer at a time.
Layer normalisation as in the HM-LSTM's `sum` and `ba` placement, so that the authors'
own LN LSTM baseline differs from it in nothing else. Features lie along the first axis,
`[d]` or `[d, B]`. Gate order: f, i, o, g.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hmrnn_jax import ops
from hmrnn_jax.cells.base import (
    Products,
    cast_like,
    check_input,
    check_sizes,
    init_affine,
    init_norms,
)
from hmrnn_jax.errors import require

NAME = "LSTM"


@dataclass(frozen=True)
class LSTM:
    """Sizes of an LSTM layer.

    Attributes:
      input_size, size: width of x; width of h and c.
      layer_norm: `none`; `sum`, each gate of the summed pre-activation, and c before
        the output tanh; `ba`, input and recurrent term apart, and c (Ba et al. 2016).
      forget_bias: added to the initial bias of f.
      initialisation: `orthogonal`; `uniform` in +-1/sqrt(size), as PyTorch's LSTM; or `linear`,
        the input's kernel and bias in +-1/sqrt(input_size), as in the ON-LSTM authors' LSTM,
        whose kernels are PyTorch's linear maps.
      recurrent_bias: a second bias, which is added to the first, as in PyTorch's and cuDNN's
        LSTM: counts and optimisers see both.
    """

    input_size: int
    size: int
    layer_norm: str = "none"
    forget_bias: float = 0.0
    initialisation: str = "orthogonal"
    recurrent_bias: bool = False

    uses_slope = False
    replays = False
    uses_noise = 0

    def __post_init__(self):
        check_sizes(input_size=self.input_size, size=self.size)
        require("layer_norm", self.layer_norm, ("none", "sum", "ba"))
        require("initialisation", self.initialisation, ("uniform", "linear", "orthogonal"))

    @property
    def blocks(self):
        """Widths of the gates, in the order of the rows."""
        return (self.size,) * 4


Config = LSTM


class State(NamedTuple):
    """h and c, `[size, ...]` each."""

    h: jax.Array
    c: jax.Array


class Aux(NamedTuple):
    """A scalar of an example: `1 - mean(f)`, what the ON-LSTM's distance is to its master gate."""

    forget: jax.Array


def init(key, config, dtype=jnp.float32):
    """Parameters `{U [4H, H], W [4H, input_size], b [4H], b_U?, norm?}`."""
    biases = ("b", "b_U") if config.recurrent_bias else ("b",)
    fan_in = config.size if config.initialisation == "uniform" else None
    params = init_affine(key, config, dtype, biases=biases, fan_in=fan_in)
    if config.layer_norm != "none":
        names = ["s"] if config.layer_norm == "sum" else ["U", "W"]
        params["norm"] = init_norms(names, config.size, dtype)
    return params


def initial_state(config, batch=(), dtype=jnp.float32):
    """Zeros, `[size, *batch]`."""
    zeros = jnp.zeros((config.size, *batch), dtype)
    return State(zeros, zeros)


def products(config, params):
    """Kernels of the products in `step`: the recurrent one, `{name: (kernel, bias)}`."""
    return {"recurrent": (params["U"], None)}


def inputs(config, params, x, precision="float32"):
    """The input products, which need no state: `{name: [4H, ...]}`, x is `[input_size, ...]`."""
    check_input(config, x)
    value = ops.product(params["W"], x, precision)
    bias = params["b"] + params["b_U"] if config.recurrent_bias else params["b"]
    if config.layer_norm == "ba":
        return {
            "input": ops.layer_norm(value, **params["norm"]["W"], groups=4)
            + ops.column(bias, value)
        }
    return {"recurrent": value + ops.column(bias, value)}


def vectors(config, params):
    """The parameters that `step` uses outside its products."""
    return {"norm": params.get("norm")}


def step(config, params, state, x=None, *, linear=None) -> tuple[State, Aux]:
    """One time step; arguments as in `hm_lstm.step`. Returns the new `State` and `Aux`."""
    if linear is None:
        linear = Products(products(config, params), inputs(config, params, x))
        params = vectors(config, params)
    norm = params["norm"]
    s = linear("recurrent", state.h)
    if config.layer_norm == "ba":
        s = ops.layer_norm(s, **norm["U"], groups=4) + linear("input", None)
    elif config.layer_norm == "sum":
        s = ops.layer_norm(s, **norm["s"], groups=4)
    s = s.reshape(4, *state.c.shape)
    f, i, o = jax.nn.sigmoid(s[:3])
    c = f * state.c + i * jnp.tanh(s[3])
    h = o * jnp.tanh(ops.layer_norm(c, **norm["c"]) if norm else c)
    return cast_like(state, State(h, c)), Aux(1 - jnp.mean(f, axis=0))
