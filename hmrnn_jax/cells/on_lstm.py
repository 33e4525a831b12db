"""ON-LSTM: ordered neurons (Shen, Tan, Sordoni, Courville, ICLR 2019), one layer.

To the gates f, i, o and the proposal g of an LSTM come two master gates, of one value
for each chunk of C neighbouring units (section 4):

    f~ = cumax(W x + U h' + b)        rises to 1 along the chunks
    i~ = 1 - cumax(W x + U h' + b)    falls to 0
    w = f~ i~;   f^ = f w + (f~ - w);   i^ = i w + (i~ - w)
    c = f^ c' + i^ g;   h = o tanh(c)

Where f~ splits the chunks tells how much the next word erases: the distance
1 - mean(f~), high before a word that opens something new, gives a syntax tree
(`analysis.parsing`). The last chunk has f~ = 1 and i~ = 0, so its c never leaves the
initial value; so it is in the authors' code, to which this cell is numerically equal.

Stacks are made by the model, a layer at a time. Features lie along the first axis, `[d]`
or `[d, B]`. Order of rows: f, i, o, g (D each), f~, i~ (n = D / C each).
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hmrnn_jax import ops
from hmrnn_jax.cells.base import Products, cast_like, check_input, check_sizes, init_affine, is_size
from hmrnn_jax.errors import UserError, require

NAME = "ON-LSTM"


@dataclass(frozen=True)
class ONLSTM:
    """Sizes of an ON-LSTM layer.

    Attributes:
      input_size, size: width of x; width D of h and c.
      chunk: units C that share a master gate; divides `size`.
      forget_bias: added to the initial bias of f (the authors: 0).
      initialisation: `uniform`, PyTorch's default as in the authors' code, or
        `orthogonal`, see `base.init_affine`.
    """

    input_size: int
    size: int
    chunk: int = 10
    forget_bias: float = 0.0
    initialisation: str = "uniform"

    uses_slope = False
    replays = False
    uses_noise = 0

    def __post_init__(self):
        check_sizes(input_size=self.input_size, size=self.size)
        require("initialisation", self.initialisation, ("uniform", "orthogonal"))
        if not is_size(self.chunk) or self.size % self.chunk:
            raise UserError(
                f"An ON-LSTM layer of {self.size} units cannot be cut in chunks of {self.chunk};"
                " choose a size that the chunk divides."
            )

    @property
    def chunks(self):
        """Number n of chunks."""
        return self.size // self.chunk

    @property
    def blocks(self):
        """Widths of the gates, in the order of the rows."""
        return (self.size,) * 4 + (self.chunks,) * 2


Config = ONLSTM


class State(NamedTuple):
    """h and c, `[size, ...]` each."""

    h: jax.Array
    c: jax.Array


class Aux(NamedTuple):
    """Split distances in [0, 1], scalars of an example: `1 - mean(f~)` and `mean(i~)`."""

    forget: jax.Array
    input: jax.Array


def init(key, config, dtype=jnp.float32):
    """Parameters `{U [4D+2n, D], W [4D+2n, input_size], b_U, b_W [4D+2n]}`.

    Two biases, which are added, as in the authors' code: counts and optimisers see both.
    """
    return init_affine(key, config, dtype)


def initial_state(config, batch=(), dtype=jnp.float32):
    """Zeros, `[size, *batch]`."""
    zeros = jnp.zeros((config.size, *batch), dtype)
    return State(zeros, zeros)


def products(config, params):
    """Kernels of the products in `step`: the recurrent one, `{name: (kernel, bias)}`."""
    return {"recurrent": (params["U"], None)}


def inputs(config, params, x, precision="float32"):
    """The input products, which need no state: `{name: [4D+2n, ...]}`; x is `[input_size, ...]`."""
    check_input(config, x)
    value = ops.product(params["W"], x, precision)
    return {"recurrent": value + ops.column(params["b_W"] + params["b_U"], value)}


def vectors(config, params):
    """The parameters that `step` uses outside its products: none."""
    return ()


def step(config, params, state, x=None, *, linear=None, masters=None) -> tuple[State, Aux]:
    """One time step; arguments as in `hm_lstm.step`.

    `masters`, a pair of arrays that broadcast to `[n, ...]`, stands in for (f~, i~): with
    ones for both the cell is an LSTM. Returns the new `State` and the distances.
    """
    if linear is None:
        linear = Products(products(config, params), inputs(config, params, x))
    s = linear("recurrent", state.h)
    size, batch = config.size, s.shape[1:]
    chunked = (config.chunks, config.chunk, *batch)
    f, i, o = jax.nn.sigmoid(s[: 3 * size]).reshape(3, *chunked)
    g = jnp.tanh(s[3 * size : 4 * size]).reshape(chunked)
    if masters is None:
        rising = ops.cumax(s[4 * size :].reshape(2, config.chunks, *batch))
        masters = rising[0], 1 - rising[1]
    master_f, master_i = (jnp.broadcast_to(m, (config.chunks, *batch)) for m in masters)
    mf, mi = master_f[:, None], master_i[:, None]
    # f^ and i^ of the paper with the overlap w = f~ i~ factored out.
    c = mf * (f * mi + (1 - mi)) * state.c.reshape(chunked) + mi * (i * mf + (1 - mf)) * g
    h = o * jnp.tanh(c)
    new = State(h.reshape(size, *batch), c.reshape(size, *batch))
    return cast_like(state, new), Aux(1 - jnp.mean(master_f, axis=0), jnp.mean(master_i, axis=0))
