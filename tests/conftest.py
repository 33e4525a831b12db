"""Before JAX starts: eight virtual CPU devices, and a cache for programs compiled twice."""

import tempfile

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp())
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def pytest_collection_modifyitems(items):
    """Whole programs and notebooks first: the longest files must not run last, one at a time."""

    def is_short(item):
        return not (item.get_closest_marker("whole_program") or "notebooks" in item.nodeid)

    items.sort(key=is_short)
