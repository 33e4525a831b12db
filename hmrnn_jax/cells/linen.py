"""The cells as Flax cells, for `flax.linen.RNN`, `flax.linen.Bidirectional` and user code.

For Flax NNX see `nnx`. The rest of the library does not go this way: `recurrence.unroll`
makes the same numbers faster. Axes here are Flax's: batch first, features last, any number of
batch axes.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hmrnn_jax import cells, ops
from hmrnn_jax.cells.base import check_slope, check_state, layers
from hmrnn_jax.errors import require

OUTPUTS = ("h", "state")


def step(config, params, carry, x, slope, key, output):
    """One step of a cell with Flax's axes; arguments as in `RNNCell`.

    Returns the new carry and the output. Raises `UserError` for an x of another width, a carry that
    is not floating-point, or a slope that is not above 0.
    """
    check_state(carry)
    cell, batch, arguments = cells.of(config), x.shape[:-1], {}
    if config.uses_slope:
        check_slope(slope)
        # Flax NNX holds an array, linen a number: rounded alike, they give the same numbers.
        arguments["slope"] = jnp.asarray(slope, jnp.result_type(*jax.tree.leaves(params)))
    state, column = _to_columns((carry, x), batch)
    if config.uses_noise:
        shape = (config.uses_noise, column.shape[-1])
        arguments["noise"] = ops.uniform(key, shape, x.dtype)
    state, _ = cell.step(config, params, state, column, **arguments)
    state = _from_columns(state, batch)
    if output == "state":
        return state, state
    return state, layers(state)[-1]


def check(config, slope, output):
    """Raises `UserError` for a slope or an output that cannot be."""
    require("output", output, OUTPUTS)
    if config.uses_slope:
        check_slope(slope)


def initial_carry(config, input_shape, dtype):
    """A cell's initial state for inputs of `input_shape`, `[..., input_size]`."""
    state = cells.of(config).initial_state(config, (1,), dtype)
    batch = tuple(input_shape[:-1])
    return jax.tree.map(lambda v: jnp.broadcast_to(v[..., 0], batch + v.shape[:-1]), state)


class RNNCell(nn.RNNCellBase):
    """Any cell of `hmrnn_jax.cells` as a Flax cell.

    Example, an HM-LSTM of two layers over `x [batch, time, 16]`:

        cell = RNNCell(hm_lstm.Config(input_size=16, sizes=(32, 32)), output="state")
        rnn = nn.RNN(cell)
        variables = rnn.init(jax.random.key(0), x)
        states = rnn.apply(variables, x)
        boundaries = states.z[0]  # [batch, time]

    A cell in `sample` mode draws from the stream `boundary`, which `nn.RNN` has to be
    given, or there are no draws, and has to split, or all time steps share one:
    `nn.RNN(cell, split_rngs={"params": False, "boundary": True})`, then
    `rnn.apply(variables, x, rngs={"boundary": key})`.

    Attributes:
      config: the cell's `Config`.
      slope: slope of the detectors, above 0, for cells that have them. To anneal it without
        compiling again, make the module within the compiled function.
      output: `h`, each step's output is h of the top layer, `[..., H]`; `state`, it is
        the whole `State`, boundaries included.
      param_dtype: dtype of the parameters and the initial state.
    """

    config: Any
    slope: float = 1.0
    output: str = "h"
    param_dtype: Any = jnp.float32

    def __post_init__(self):
        check(self.config, self.slope, self.output)
        super().__post_init__()

    @nn.compact
    def __call__(self, carry, x):
        """One time step: `carry` is a `State`, `[..., d]`, x is `[..., input_size]`."""
        init = cells.of(self.config).init
        params = self.param("cell", init, self.config, self.param_dtype)
        key = self.make_rng("boundary") if self.config.uses_noise else None
        return step(self.config, params, carry, x, self.slope, key, self.output)

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        """The cell's initial state for inputs of `input_shape`, `[..., input_size]`.

        `rng` is not used: initial states are constants.
        """
        return initial_carry(self.config, input_shape, self.param_dtype)

    @property
    def num_feature_axes(self):
        return 1


def _to_columns(tree, batch):
    """`[*batch, d]` to `[d, B]`, scalars `[*batch]` to `[B]`; B is 1 without batch axes."""
    return jax.tree.map(lambda v: jnp.moveaxis(v.reshape(-1, *v.shape[len(batch) :]), 0, -1), tree)


def _from_columns(tree, batch):
    """The inverse of `_to_columns`."""
    return jax.tree.map(lambda v: jnp.moveaxis(v, -1, 0).reshape(*batch, *v.shape[:-1]), tree)
