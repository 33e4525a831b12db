"""Drawing real-valued sequences from a density model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from hmrnn_jax.inference import generation
from hmrnn_jax.models import mixture


@functools.partial(jax.jit, static_argnums=(0, 4))
def _generate(model, params, prompt, scalars, length):
    """One compiled scan over all rows, see `generation.continued`."""
    rows = prompt.shape[1]

    def step(position, states, x):
        draw, noise = jax.random.split(jax.random.fold_in(scalars["key"], position))
        out = model.apply(
            {"params": params},
            x[None],
            states,
            slope=scalars["slope"],
            noise=jax.random.uniform(noise, (1, rows, model.noise_width)),
        )
        density = jax.tree.map(lambda leaf: leaf[0], out.mixture)
        values, events = mixture.sample(draw, density, scalars["temperature"], scalars["bias"])
        parts = [values] if events is None else [values, events[:, None]]
        return out.carry, jnp.concatenate(parts, axis=1), ()

    drawn, _ = generation.continued(step, model.initial_carry(rows), prompt, length)
    return drawn


def generate(model, params, prompt, length, temperature=1.0, bias=0.0, seed=0, slope=1.0):
    """Continues each row of `prompt [P, B, C]`, P >= 1, by `length` steps.

    Args:
      temperature, bias: see `models.mixture.sample`; the bias is that of Graves (2013, 5.4).

    Returns `[length, B, C]`, standardised.
    """
    scalars = {
        "key": jax.random.key(seed),
        "slope": jnp.float32(slope),
        "temperature": jnp.float32(temperature),
        "bias": jnp.float32(bias),
    }
    prompt = jnp.asarray(prompt, jnp.float32)
    return np.asarray(_generate(model.inference, params, prompt, scalars, length))
