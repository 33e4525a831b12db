"""Nested LSTM (Moniz, Krueger, ACML 2017), one layer of any depth.

An LSTM whose memory is another LSTM. Level 1, the outermost, reads x and h':

    f, i, o = sigmoid, g = proposal of  W x + U h' + b
    c = memory(input i g, hidden f c');   h = o tanh(c)

and its memory is the next level, which reads i g as its x and f c' (not an output of
its own) as its h', and whose own h is the new c. The memory of the innermost level adds
the two, as an LSTM's does: c = f c' + i g. So depth 1 is an LSTM, of the
outermost proposal.

The outermost proposal is the identity, the inner ones tanh. Every c but the innermost is
an o tanh, hence |c| < 1 there and |h| < tanh(1). Features lie along the first axis, `[d]`
or `[d, B]`. Gate order: f, i, o, g.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hmrnn_jax import ops
from hmrnn_jax.cells.base import Products, cast_like, check_input, check_sizes, init_affine
from hmrnn_jax.errors import require

PROPOSALS = {"identity": lambda s: s, "tanh": jnp.tanh}


NAME = "Nested LSTM"


@dataclass(frozen=True)
class NestedLSTM:
    """Sizes of a Nested LSTM layer.

    Attributes:
      input_size, size: width of x; width of h and of c at every level.
      depth: number of levels, the outermost included.
      proposal: activation of the outermost proposal, `identity` or `tanh`. The paper's
        published abstract does not say; implementations take the identity to be its choice.
      forget_bias: initial bias of f at every level; not known from the paper.
      initialisation: `orthogonal` or `uniform`, see `base.init_affine`.
    """

    input_size: int
    size: int
    depth: int = 2
    proposal: str = "identity"
    forget_bias: float = 1.0
    initialisation: str = "orthogonal"

    uses_slope = False
    replays = False
    uses_noise = 0

    def __post_init__(self):
        check_sizes(input_size=self.input_size, size=self.size, depth=self.depth)
        require("proposal", self.proposal, tuple(PROPOSALS))
        require("initialisation", self.initialisation, ("uniform", "orthogonal"))

    @property
    def blocks(self):
        """Widths of the gates of a level, in the order of the rows."""
        return (self.size,) * 4


Config = NestedLSTM


class State(NamedTuple):
    """h, and c of every level, outermost first, `[size, ...]` each."""

    h: jax.Array
    c: tuple[jax.Array, ...]


def init(key, config, dtype=jnp.float32):
    """Parameters `{levelN: {U [4H, H], W [4H, n], b [4H]}}`, N from 1; n is H but at level 1."""
    params = {}
    for level, level_key in enumerate(jax.random.split(key, config.depth)):
        width = config.size if level else config.input_size
        params[_name(level)] = init_affine(level_key, config, dtype, width, biases=("b",))
    return params


def _name(level):
    return f"level{level + 1}"


def initial_state(config, batch=(), dtype=jnp.float32):
    """Zeros, `[size, *batch]`."""
    zeros = jnp.zeros((config.size, *batch), dtype)
    return State(zeros, (zeros,) * config.depth)


def products(config, params):
    """Kernels and biases of the products in `step`: `{name: (kernel [4H, K], bias)}`.

    At the inner levels both products in one, their operands concatenated.
    """
    kernels = {_name(0): (params[_name(0)]["U"], None)}
    for level in range(1, config.depth):
        entry = params[_name(level)]
        kernels[_name(level)] = (jnp.concatenate([entry["W"], entry["U"]], axis=1), entry["b"])
    return kernels


def inputs(config, params, x, precision="float32"):
    """The outermost input products, `{name: [4H, ...]}`; x is `[input_size, ...]`."""
    check_input(config, x)
    entry = params[_name(0)]
    value = ops.product(entry["W"], x, precision)
    return {_name(0): value + ops.column(entry["b"], value)}


def vectors(config, params):
    """The parameters that `step` uses outside its products: none."""
    return ()


def step(config, params, state, x=None, *, linear=None) -> tuple[State, tuple]:
    """One time step; arguments as in `hm_lstm.step`. Returns the new `State` and `()`."""
    if linear is None:
        linear = Products(products(config, params), inputs(config, params, x))
    outputs, memories, operand = [], [], state.h
    for level, c in enumerate(state.c):
        s = linear(_name(level), operand).reshape(4, *c.shape)
        f, i, o = jax.nn.sigmoid(s[:3])
        g = jnp.tanh(s[3]) if level else PROPOSALS[config.proposal](s[3])
        inner_input, inner_hidden = i * g, f * c
        operand = [inner_input, inner_hidden]
        outputs.append(o)
    value = inner_hidden + inner_input
    for o in reversed(outputs):
        memories.insert(0, value)
        value = o * jnp.tanh(value)
    return cast_like(state, State(value, tuple(memories))), ()
