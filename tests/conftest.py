"""Before JAX starts: eight virtual CPU devices, and a cache for programs compiled twice."""

import tempfile

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp())
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
