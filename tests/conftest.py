"""Eight virtual CPU devices for the whole suite, before JAX starts."""

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "allow")
