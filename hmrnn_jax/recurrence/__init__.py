"""A cell over a window: `unroll`, and the `Policy` that says how it runs."""

from hmrnn_jax.recurrence.execution import Policy
from hmrnn_jax.recurrence.unroll import DEFAULT_POLICY, Unrolled, initial_state, unroll

__all__ = [
    "DEFAULT_POLICY",
    "Policy",
    "Unrolled",
    "initial_state",
    "unroll",
]
