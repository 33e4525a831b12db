"""A recurrence's window as one kernel: `resident.scan` in the place of `jax.lax.scan`."""
