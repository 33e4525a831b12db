"""Mixture densities over real-valued steps (Bishop 1994; Graves 2013, section 4.1).

A step is a vector of D values and, where the sequence has one, an event of 0 or 1 such as
the end of a pen stroke. Given the outputs of a network, its likelihood is

    p(values, event) = sum_k pi_k N(values; mu_k, Sigma_k) * P(event),

with `pi = softmax(pi_logits)` and `sigma = exp(log_sigma)`. For D = 2 the Gaussians have the
correlation `rho = tanh(rho_hat)`, as Graves' have; for any other D they are diagonal. He prints
`1 / (1 + exp(e_hat))` for the event; here P(event = 1) is the sigmoid, without his change of sign.

Axes: `...` stands for any leading axes (`[T, B]`, `[B]` or none), K for components, D for
dimensions. Densities are in nats and in the units of the values: of standardised data, they
are densities of standardised values.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hmrnn_jax.cells.base import exportable

# Data on a grid, such as tablet units, repeat values exactly: a component that shrinks onto one
# of them, or onto a line through several, gains likelihood without limit and overflows float32.
# So |log_sigma| and |rho_hat| are taken as they are up to these bounds, and bent beyond them,
# where they grow by less than 1 however large the output (`_bend`). For standardised data,
# e^-7 is a thousandth of a standard deviation, e^7 a thousand of them, and tanh(5) = 0.9999.
LOG_SIGMA_BOUND = 7.0
RHO_HAT_BOUND = 5.0


@exportable("Mixture")
class Mixture(NamedTuple):
    """The outputs of a network that describe one step's density; any real numbers will do.

    Attributes:
      pi_logits: [..., K], logits of the components' weights.
      mu: [..., K, D], means.
      log_sigma: [..., K, D], logarithms of the standard deviations.
      rho_hat: [..., K], arguments of the correlations tanh(rho_hat); None unless D = 2.
      event_logit: [...], logit of P(event = 1); None if the sequences have no events.
    """

    pi_logits: jax.Array
    mu: jax.Array
    log_sigma: jax.Array
    rho_hat: jax.Array | None
    event_logit: jax.Array | None


def _sizes(components, dimensions, event):
    """Outputs of each field of `Mixture`, in their order."""
    correlated = dimensions == 2
    pairs = components * dimensions
    return components, pairs, pairs, components * correlated, int(bool(event))


def width(components, dimensions, event) -> int:
    """How many numbers the last affine layer of a network gives for one step.

    Args:
      components: K. dimensions: D. event: whether the sequences have events.

    Graves' 20 bivariate Gaussians and the pen bit make 121.
    """
    return sum(_sizes(components, dimensions, event))


def split(outputs, components, dimensions, event) -> Mixture:
    """The outputs of a network by their meaning, in the order of the fields of `Mixture`.

    Args:
      outputs: [..., width(components, dimensions, event)]; less than float32 becomes float32.

    Raises:
      ValueError: another number of outputs.
    """
    sizes = _sizes(components, dimensions, event)
    if outputs.shape[-1] != sum(sizes):
        raise ValueError(f"{outputs.shape[-1]} outputs, but the mixture takes {sum(sizes)}.")
    outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
    ends = [sum(sizes[:k]) for k in range(1, len(sizes))]
    pi_logits, mu, log_sigma, rho_hat, event_logit = jnp.split(outputs, ends, axis=-1)
    grid = (*outputs.shape[:-1], components, dimensions)
    return Mixture(
        pi_logits,
        mu.reshape(grid),
        log_sigma.reshape(grid),
        rho_hat if rho_hat.shape[-1] else None,
        event_logit[..., 0] if event else None,
    )


def negative_log_likelihood(mixture: Mixture, values, events=None):
    """`-log p(values, event)` of each step (Graves 2013, eq. 26), in nats.

    Args:
      values: [..., D]. events: [...] of 0 and 1, any dtype; None if there are none.

    Returns [...]. Finite in float32, and so are its gradients, for outputs and values up to
    1,000. Padded steps have a likelihood too: the caller's mask removes them.

    Raises:
      ValueError: events without an `event_logit`, or the other way round.
    """
    if (events is None) != (mixture.event_logit is None):
        raise ValueError("events and mixture.event_logit must both be given, or neither.")
    log_sigma, rho_hat = _spread(mixture)
    z = (values[..., None, :] - mixture.mu) * jnp.exp(-log_sigma)
    log_volume = jnp.sum(log_sigma + 0.5 * math.log(2 * math.pi), axis=-1)
    if rho_hat is None:
        squares = jnp.sum(jnp.square(z), axis=-1)
    else:
        # (zx^2 - 2 rho zx zy + zy^2) / (1 - rho^2) along the ellipse's axes, where nothing
        # cancels as |rho| -> 1: (zx - zy)^2 / 2(1 - rho) + (zx + zy)^2 / 2(1 + rho).
        minor, major = z[..., 0] - z[..., 1], z[..., 0] + z[..., 1]
        squares = 0.25 * (
            jnp.square(minor) * (1 + jnp.exp(2 * rho_hat))
            + jnp.square(major) * (1 + jnp.exp(-2 * rho_hat))
        )
        log_volume += 0.5 * _log_uncorrelated(rho_hat)
    log_pi = jax.nn.log_softmax(mixture.pi_logits)
    nll = -jax.nn.logsumexp(log_pi - log_volume - 0.5 * squares, axis=-1)
    if events is not None:
        # -log sigmoid(logit) or -log(1 - sigmoid(logit)), each without a subtraction.
        logit = mixture.event_logit
        nll += jax.nn.softplus(jnp.where(events > 0, -logit, logit))
    return nll


def sample(key, mixture: Mixture, temperature=1.0, bias=0.0):
    """Draws one step from each mixture.

    Args:
      key: used up by this call.
      temperature: >= 0, may be traced; multiplies variances and divides `pi_logits` and
        `event_logit`. At 0 the step is the mean of the likeliest component, and the
        likelier event.
      bias: >= 0, may be traced or infinite; Graves' b (2013, section 5.4): sigma becomes
        `exp(log_sigma - b)`, pi proportional to `exp(pi_logits (1 + b))`. Events and
        correlations stay.

    Returns:
      Values [..., D], and events [...], 0 or 1 in the dtype of the values, ready to be the
      next input; None without `event_logit`.
    """
    component_key, noise_key, event_key = jax.random.split(key, 3)
    logits, dtype = mixture.pi_logits, mixture.mu.dtype
    # The largest of logits + Gumbel noise is a draw from their softmax (and so below, for two
    # classes, with logistic noise). Scaling the noise, not the logits, lets temperature reach 0
    # and bias infinity.
    gumbel = jax.random.gumbel(component_key, logits.shape, dtype)
    component = jnp.argmax(logits + gumbel * (temperature / (1 + bias)), axis=-1)

    def chosen(field):
        index = component.reshape(component.shape + (1,) * (field.ndim - component.ndim))
        return jnp.take_along_axis(field, index, component.ndim).squeeze(component.ndim)

    log_sigma, rho_hat = _spread(mixture)
    mu = chosen(mixture.mu)
    noise = jax.random.normal(noise_key, mu.shape, dtype)
    if rho_hat is not None:
        rho_hat = chosen(rho_hat)
        own = jnp.exp(0.5 * _log_uncorrelated(rho_hat))
        along = jnp.tanh(rho_hat) * noise[..., 0] + own * noise[..., 1]
        noise = jnp.stack([noise[..., 0], along], axis=-1)
    values = mu + jnp.exp(chosen(log_sigma) - bias) * jnp.sqrt(temperature) * noise
    if mixture.event_logit is None:
        return values, None
    logistic = jax.random.logistic(event_key, mixture.event_logit.shape, dtype)
    return values, (mixture.event_logit + temperature * logistic > 0).astype(dtype)


def _spread(mixture):
    """`log_sigma` and `rho_hat` within their bounds."""
    rho_hat = mixture.rho_hat
    return (
        _bend(mixture.log_sigma, LOG_SIGMA_BOUND),
        None if rho_hat is None else _bend(rho_hat, RHO_HAT_BOUND),
    )


def _bend(x, bound):
    """`x` up to +-bound, exactly; d beyond it, bound + d / (1 + d), which stays below bound + 1.

    The derivative falls as 1 / (1 + d)^2 from 1 at the bound and is never 0: an output that
    strayed is still drawn back by the likelihood, where clipping would leave it for ever.
    """
    inside = jnp.clip(x, -bound, bound)
    beyond = x - inside
    return inside + beyond / (1 + jnp.abs(beyond))


def _log_uncorrelated(rho_hat):
    """`log(1 - tanh(rho_hat)^2)`, that is -2 log cosh(rho_hat), which needs no 1 - rho^2."""
    return 2 * (math.log(2) - jnp.logaddexp(rho_hat, -rho_hat))
