"""How uncertain a language model is of what comes next: teachers of detectors, and readings."""

import jax
import jax.numpy as jnp
import optax


def of(kind, logits, targets=None, newline=None):
    """The uncertainty after each symbol, `[...]`.

    Args:
      kind: `entropy`, `line_end` or `surprise`.
      logits: `[..., V]`. targets: int `[...]`, what did come, for `surprise`.
      newline: id of the symbol that ends a line, for `line_end`.
    """
    if kind == "entropy":
        return entropy(logits)
    if kind == "line_end":
        return line_end(logits, newline)
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def entropy(logits):
    """Entropy of the predictions in nats, `[...]` for `[..., V]`."""
    log_p = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def line_end(logits, newline):
    """Log-probability that symbol `newline` comes next, `[...]`; it peaks where that does."""
    return jax.nn.log_softmax(logits)[..., newline]
