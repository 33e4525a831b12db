"""Drawing a text from a language model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from hmrnn_jax.inference import generation


@functools.partial(jax.jit, static_argnums=(0, 4))
def _generate(model, params, prompt, scalars, length):
    """One compiled scan, see `generation.continued`."""

    def step(position, states, symbol):
        key = jax.random.fold_in(scalars["key"], position)
        noise = jax.random.uniform(key, (1, 1, model.noise_width)) if model.noise_width else None
        out = model.apply(
            {"params": params}, symbol[None, None], states, slope=scalars["slope"], noise=noise
        )
        log_probabilities = jax.nn.log_softmax(out.logits[0, 0])
        drawn = jax.random.categorical(
            jax.random.fold_in(key, 1),
            log_probabilities / jnp.maximum(scalars["temperature"], 1e-6),
        )
        greedy = jnp.argmax(log_probabilities)
        following = jnp.where(scalars["temperature"] > 0, drawn, greedy)
        return out.carry, following, log_probabilities[following]

    return generation.continued(step, model.initial_carry(1), prompt, length)


def generate(model, params, prompt, length, temperature=1.0, seed=0, slope=1.0):
    """Continues `prompt [P]`, P >= 1, by `length` symbols.

    They are drawn at `temperature`; 0 takes the likeliest.

    Returns `(symbols [length], log_probabilities [length])`; the latter, in nats, are the
    model's own at temperature 1.
    """
    scalars = {
        "key": jax.random.key(seed),
        "slope": jnp.float32(slope),
        "temperature": jnp.float32(temperature),
    }
    prompt = jnp.asarray(prompt, jnp.int32)
    return jax.tree.map(np.asarray, _generate(model.inference, params, prompt, scalars, length))
