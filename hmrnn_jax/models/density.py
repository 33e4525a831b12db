"""The model of the density of a real-valued sequence's next step (Flax linen)."""

from typing import Any, NamedTuple

import flax.linen as nn

from hmrnn_jax import recurrence
from hmrnn_jax.cells.base import exportable
from hmrnn_jax.models import mixture, stack


@exportable("StrokeOutput")
class StrokeOutput(NamedTuple):
    """What `StrokeModel` returns: `mixture.Mixture`, and the rest as in `language.Output`."""

    mixture: mixture.Mixture
    carry: tuple
    states: tuple
    aux: tuple


class StrokeModel(stack.CellStack, nn.Module):
    """The density of the next step: cells, output module, mixture density.

    The cells read the standardised step as it is. The mixture is that of Graves (2013,
    section 4.1), bivariate Gaussians with correlation and a Bernoulli event, for two columns;
    Gaussians with a diagonal covariance for any other number.

    Attributes:
      dimensions: D, columns of values. event: whether a 0/1 column follows them.
      cells: configurations of the cells, lowest first.
      output: width of the gated output module, which needs 1 or more; not used by the head `plain`.
      head: what the mixture's affine layer reads, `gated` or `plain`, see `LanguageModel`.
      components: Gaussians of the mixture. The HM-LSTM's paper is silent; Graves has 20.
      policy: how the recurrence runs.
    """

    dimensions: int
    event: bool
    cells: tuple[Any, ...]
    output: int = 0
    head: str = "gated"
    components: int = 20
    policy: recurrence.Policy = recurrence.Policy()

    @nn.compact
    def __call__(self, inputs, carry, *, resets=None, slope=1.0, noise=None):
        """Density of the step after each of `inputs [T, B, C]`; the rest as `LanguageModel`."""
        hidden, final, states, aux = self.run_cells(
            inputs, carry, resets=resets, slope=slope, noise=noise
        )
        precision = self.policy.precision
        if self.head == "gated":
            top = stack.GatedOutput(self.output, precision, name="output")(hidden)
        else:
            top = hidden[-1]
        width = mixture.width(self.components, self.dimensions, self.event)
        glorot = nn.initializers.glorot_uniform()
        kernel = self.param("mixture_kernel", glorot, (top.shape[-1], width))
        bias = self.param("mixture_bias", nn.initializers.zeros, (width,))
        outputs = stack.dense(top, kernel, precision, bias)
        density = mixture.split(outputs, self.components, self.dimensions, self.event)
        return StrokeOutput(density, final, states, aux)

    @property
    def columns(self):
        """C, what is read at each step."""
        return self.dimensions + self.event
