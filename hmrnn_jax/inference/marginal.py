"""How likely each symbol is by itself, in the text that a language model would write."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

ROWS, STEPS, LEFT_OUT = 64, 256, 64  # texts drawn, their symbols, and those not counted


@functools.partial(jax.jit, static_argnums=0)
def _drawn(model, params, slope, key):
    def step(carry, t):
        states, now, total = carry
        own = jax.random.fold_in(key, t)
        noise = jax.random.uniform(own, (1, ROWS, model.noise_width))
        out = model.apply({"params": params}, now[None], states, slope=slope, noise=noise)
        log_p = jax.nn.log_softmax(out.logits[0])
        after = jax.random.categorical(jax.random.fold_in(own, 1), log_p).astype(now.dtype)
        mean = jnp.logaddexp(total, jax.nn.logsumexp(log_p, axis=0))
        return (out.carry, after, jnp.where(t < LEFT_OUT, total, mean)), None

    first = jax.random.randint(jax.random.fold_in(key, STEPS), (ROWS,), 0, model.vocabulary)
    nothing = jnp.full(model.vocabulary, -jnp.inf)
    start = (model.initial_carry(ROWS), first, nothing)
    (_, _, total), _ = jax.lax.scan(step, start, jnp.arange(STEPS))
    return jax.nn.log_softmax(total)


def log_probabilities(model, params, slope=1.0):
    """Log-probability of each symbol whatever came before it, float32 `[V]`.

    The mean of the model's predictions along texts that it draws itself, always the same ones: so
    it needs no text, and a model that is all that is left of a run has it too.
    """
    return np.asarray(_drawn(model.inference, params, jnp.float32(slope), jax.random.key(0)))
