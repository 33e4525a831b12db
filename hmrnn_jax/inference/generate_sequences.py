"""Drawing real-valued sequences from a density model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from hmrnn_jax.models import mixture


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
      temperature, bias: see `models.mixture.sample`; the bias is that of Graves (2013, 5.4).

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
