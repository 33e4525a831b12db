"""How uncertain a language model is of what comes next: teachers of detectors, and readings."""

import jax
import jax.numpy as jnp
import optax


def of(kind, logits, targets=None, newline=None):
    """The uncertainty after each symbol, `[...]`.

    Args:
      kind: `entropy`; `entropy_within`, that of the next symbol given that the line goes on;
        `line_end` or `surprise`.
      logits: `[..., V]`. targets: int `[...]`, what did come, for `surprise`.
      newline: id of the symbol that ends a line.
    """
    if kind == "entropy":
        return entropy(logits)
    if kind == "entropy_within":
        return entropy(logits.at[..., newline].set(jnp.finfo(logits.dtype).min / 2))
    if kind == "line_end":
        return line_end(logits, newline)
    return -log_probability(logits, targets)


def entropy(logits):
    """Entropy of the predictions in nats, `[...]` for `[..., V]`."""
    log_p = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def line_end(logits, newline):
    """Log-probability that symbol `newline` comes next, `[...]`; it peaks where that does."""
    return jax.nn.log_softmax(logits)[..., newline]


def log_probability(logits, targets):
    """Log-probability of `targets`, int `[...]`, under `logits [..., V]`."""
    return -optax.softmax_cross_entropy_with_integer_labels(logits, targets)
