"""The papers' cells. Each module exports the same names:

`Config`, `State`, `init`, `initial_state`, `step`, and, for the recurrence,
`products`, `inputs`, `vectors`: the step's linear products apart from its pointwise
part. A cell's configuration tells its module, `cells.of(config)`, and what its step takes:
`uses_slope`, `uses_noise`, and `replays`, the new state where it is known already and only the
derivative is wanted.
"""

import contextlib
import sys

import jax.export

from hmrnn_jax.cells import hm_lstm, lstm, nested_lstm, on_lstm

MODULES = {"hm_lstm": hm_lstm, "lstm": lstm, "nested_lstm": nested_lstm, "on_lstm": on_lstm}


for _name, _module in MODULES.items():
    for _kind in (_module.State, getattr(_module, "Aux", None)):
        # So that `jax.export` can serialise a program that takes or gives states.
        with contextlib.suppress(ValueError):  # registered before: this module is reloaded
            if _kind:
                jax.export.register_namedtuple_serialization(
                    _kind, serialized_name=f"hmrnn_jax.{_name}.{_kind.__name__}"
                )


def of(config):
    """The cell module that defines `config`'s class."""
    return sys.modules[type(config).__module__]
