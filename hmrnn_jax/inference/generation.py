"""The scan of all generation: a prompt is read, then what is drawn is fed back."""

import jax
import jax.numpy as jnp


def continued(step, states, prompt, length):
    """Continues `prompt [P, ...]`, P >= 1, by `length` steps.

    Args:
      step: `step(position, states, x) -> (states, drawn, more)`: reads x, that of the position
        counted from the prompt's start, and draws what follows it. more: what else is kept of it.

    Returns `(drawn, more)` of the `length` steps, each along a first axis.
    """
    steps = len(prompt)
    given = jnp.concatenate([prompt, jnp.zeros((length, *prompt.shape[1:]), prompt.dtype)])

    def body(carry, xs):
        states, previous = carry
        position, now = xs
        states, drawn, more = step(position, states, jnp.where(position < steps, now, previous))
        drawn = drawn.astype(prompt.dtype)
        return (states, drawn), (drawn, more)

    positions = jnp.arange(steps + length)
    _, drawn = jax.lax.scan(body, (states, prompt[0]), (positions, given))
    return jax.tree.map(lambda v: v[steps - 1 : -1], drawn)
