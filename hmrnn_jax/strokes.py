"""Real-valued sequences: the model of the next step's density, its score, and drawing from it.

Pen strokes gave the name; anything measured over time is meant.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hmrnn_jax import language, mixture, models, objectives, recurrence
from hmrnn_jax.parallel import AXIS


class StrokeOutput(NamedTuple):
    """What `StrokeModel` returns: `mixture.Mixture`, and the rest as in `models.Output`."""

    mixture: mixture.Mixture
    carry: tuple
    states: tuple
    aux: tuple


class StrokeModel(models.CellStack, nn.Module):
    """The density of the next step: cells, output module, mixture density.

    The cells read the standardised step as it is. The mixture is that of Graves (2013,
    section 4.1), bivariate Gaussians with correlation and a Bernoulli event, for two columns;
    Gaussians with a diagonal covariance for any other number.

    Attributes:
      dimensions: D, columns of values. event: whether a 0/1 column follows them.
      cells: configurations of the cells, lowest first.
      output: width of the gated output module; not used by the head `plain`.
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
            top = models.GatedOutput(self.output, precision, name="output")(hidden)
        else:
            top = hidden[-1]
        width = mixture.width(self.components, self.dimensions, self.event)
        glorot = nn.initializers.glorot_uniform()
        kernel = self.param("mixture_kernel", glorot, (top.shape[-1], width))
        bias = self.param("mixture_bias", nn.initializers.zeros, (width,))
        outputs = models.dense(top, kernel, precision) + bias
        density = mixture.split(outputs, self.components, self.dimensions, self.event)
        return StrokeOutput(density, final, states, aux)

    @property
    def columns(self):
        """C, what is read at each step."""
        return self.dimensions + self.event


def init_params(model, key):
    """The model's parameters, drawn with `key`; shapes do not depend on batch or length."""
    inputs = jnp.zeros((1, 1, model.columns))
    noise = jnp.zeros((1, 1, model.noise_width))
    return model.init(key, inputs, model.initial_carry(1), noise=noise)["params"]


def _score(model, params, carry, batch, knobs, key):
    """`(output, nats [T, B], sums)`: nats, predictions and begun sequences of the rows, rates."""
    out = model.apply(
        {"params": params},
        batch.inputs,
        carry,
        resets=batch.resets,
        slope=knobs["slope"],
        noise=language.row_noise(key, model.noise_width, *batch.mask.shape),
    )
    targets = batch.targets
    values, events = targets[..., : model.dimensions], None
    if model.event:
        events = targets[..., model.dimensions]
    nll = mixture.negative_log_likelihood(out.mixture, values, events)
    sums = {
        "nats": jnp.sum(nll * batch.mask),
        "count": batch.mask.sum(),
        "sequences": jnp.sum(batch.resets * batch.mask),
    }
    return out, nll, sums | language.diagnostics(model, carry, out, batch, knobs["slope"])


def loss(model, params, carry, batch, knobs, key, *, boundaries=objectives.NOTHING):
    """The mean negative log-likelihood of the counted steps, in nats; see `train_state`.

    The papers sum over a sequence; a mean makes long and short batches weigh alike, so that
    the clipping of the gradient has one meaning. `boundaries`: what is asked of the detectors,
    with `knobs` as in `language.loss`; their teacher is `surprise`.
    """
    out, nll, sums = _score(model, params, carry, batch, knobs, key)
    value = sums["nats"] / jax.lax.psum(sums["count"], AXIS)
    if boundaries.active:
        share, more = objectives.of_model(
            boundaries, model, params, batch.inputs, carry, out, batch, knobs["slope"], nll
        )
        value += knobs["objectives"] * share
        sums |= more
    return value, (out.carry, sums)


def eval_step(model, params, carry, batch, knobs):
    """Scores a window: the carry after it, and the sums; knobs as `language.eval_step`."""
    key = jax.random.fold_in(jax.random.key(knobs["seed"]), knobs["number"])
    out, _, sums = _score(model, params, carry, batch, knobs, key)
    return out.carry, jax.lax.psum(sums, AXIS)


def summary(sums):
    """Means and rates from the sums of `loss` or `eval_step`, as plain numbers.

    `nats` is the mean negative log-likelihood of a step.
    """
    nats = float(sums["nats"]) / float(sums["count"])
    return {"steps": int(sums["count"]), "nats": nats} | language.rates(sums)


def whole_summary(sums):
    """As `summary`, of whole sequences, of which some windows of training are not made.

    `log_likelihood` is the sum over a sequence, averaged over sequences, in nats of
    standardised values (Chung et al. 2017, Table 3).
    """
    sequences = float(sums["sequences"])
    whole = {"sequences": int(sequences), "log_likelihood": -float(sums["nats"]) / sequences}
    return whole | summary(sums)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _generate(model, params, prompt, knobs, length):
    """One compiled scan over all rows: reads the prompt, then feeds back what it draws."""
    steps, rows, width = prompt.shape
    given = jnp.concatenate([prompt, jnp.zeros((length, rows, width), prompt.dtype)])

    def step(carry, xs):
        states, previous = carry
        position, now = xs
        x = jnp.where(position < steps, now, previous)
        draw, noise = jax.random.split(jax.random.fold_in(knobs["key"], position))
        out = model.apply(
            {"params": params},
            x[None],
            states,
            slope=knobs["slope"],
            noise=jax.random.uniform(noise, (1, rows, model.noise_width)),
        )
        density = jax.tree.map(lambda leaf: leaf[0], out.mixture)
        values, events = mixture.sample(draw, density, knobs["temperature"], knobs["bias"])
        parts = [values] if events is None else [values, events[:, None]]
        following = jnp.concatenate(parts, axis=1).astype(x.dtype)
        return (out.carry, following), following

    first = (model.initial_carry(rows), prompt[0])
    _, drawn = jax.lax.scan(step, first, (jnp.arange(len(given)), given))
    return drawn[steps - 1 : -1]


def generate(model, params, prompt, length, temperature=1.0, bias=0.0, seed=0, slope=1.0):
    """Continues each row of `prompt [P, B, C]`, P >= 1, by `length` steps.

    Args:
      temperature, bias: see `mixture.sample`; the bias is that of Graves (2013, 5.4).

    Returns `[length, B, C]`, standardised.
    """
    knobs = {
        "key": jax.random.key(seed),
        "slope": jnp.float32(slope),
        "temperature": jnp.float32(temperature),
        "bias": jnp.float32(bias),
    }
    prompt = jnp.asarray(prompt, jnp.float32)
    return np.asarray(_generate(model.inference, params, prompt, knobs, length))


def headline(result):
    """The figure of the field, the log-likelihood of a sequence, if there is one; of a step."""
    step = f"{-result['nats']:.4f} a step"
    if "log_likelihood" not in result:
        return f"log-likelihood {step}"
    return f"log-likelihood {result['log_likelihood']:.2f} a sequence, {step}"
