"""The cells as Flax NNX cells, for `flax.nnx.RNN`, `flax.nnx.Bidirectional` and user code.

The cells of `linen` for the other of Flax's two interfaces: the same parameters at the same
places, the same numbers. Axes are Flax's: batch first, features last.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from hmrnn_jax import cells
from hmrnn_jax.cells import linen


class RNNCell(nnx.RNNCellBase):
    """Any cell of `hmrnn_jax.cells` as an NNX cell.

    Example, an HM-LSTM of two layers over `x [batch, time, 16]`:

        config = hm_lstm.Config(input_size=16, sizes=(32, 32))
        rnn = nnx.RNN(RNNCell(config, output="state", rngs=nnx.Rngs(0)))
        states = rnn(x)
        boundaries = states.z[0]  # [batch, time]

    Attributes:
      cell: the cell's parameters, `nnx.Param` in the tree of its `init`.
      slope: slope of the detectors, an `nnx.Variable`: `cell.slope[...] = 2.0` anneals it
        without compiling again. In float32 at least, so that small increments add up; a step
        rounds it as the parameters are. Cells without detectors have it and do not use it.

    Args:
      config: the cell's `Config`.
      slope: the slope to begin with, above 0.
      output: `h`, each step's output is h of the top layer, `[..., H]`; `state`, it is
        the whole `State`, boundaries included.
      param_dtype: dtype of the parameters and the initial state.
      rngs: `params` draws the parameters; of a cell in `sample` mode `boundary` draws the
        boundaries, anew at every step.
    """

    def __init__(self, config, *, slope=1.0, output="h", param_dtype=jnp.float32, rngs):
        linen.check(config, slope, output)
        self.config, self.output, self.param_dtype = config, output, param_dtype
        params = cells.of(config).init(rngs.params(), config, param_dtype)
        self.cell = nnx.data(jax.tree.map(nnx.Param, params))
        held = jnp.promote_types(param_dtype, jnp.float32)
        self.slope = nnx.Variable(jnp.asarray(slope, held))
        self.rngs = rngs.boundary.fork() if config.uses_noise else None

    def __call__(self, carry, inputs):
        """One time step: `carry` is a `State`, `[..., d]`, inputs are `[..., input_size]`."""
        params = nnx.to_pure_dict(nnx.state(self.cell))
        key = self.rngs() if self.rngs else None
        return linen.step(self.config, params, carry, inputs, self.slope[...], key, self.output)

    def initialize_carry(self, input_shape, rngs=None, carry_init=None):
        """The cell's initial state for inputs of `input_shape`, `[..., input_size]`.

        The other arguments are Flax's and not used: initial states are constants.
        """
        return linen.initial_carry(self.config, input_shape, self.param_dtype)

    @property
    def num_feature_axes(self):
        return 1
