"""Losses, as sums and counts, so that masks and devices add up exactly."""

import math

import jax.numpy as jnp
import optax

BITS = 1 / math.log(2)


def cross_entropy(logits, targets, mask):
    """Negative log-likelihood of the next symbol, summed over the steps that count.

    Args:
      logits: `[T, B, V]`. targets: int `[T, B]`. mask: `[T, B]`, 1 where a step counts.

    Returns a scalar in nats. Bits per character are `BITS * sum / count`, perplexity
    `exp(sum / count)`.
    """
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return jnp.sum(nll * mask)
