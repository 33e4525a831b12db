"""The papers' cells. Each module exports the same names:

`Config`, `State`, `init`, `initial_state`, `step`, and, for the recurrence,
`products`, `inputs`, `vectors`: the step's linear products apart from its pointwise
part. A cell's configuration tells its module, `cells.of(config)`, and what its step takes:
`uses_slope`, `uses_noise`, and `replays`, the new state where it is known already and only the
derivative is wanted.
"""

import sys

from hmrnn_jax.cells import hm_lstm, lstm, nested_lstm, on_lstm
from hmrnn_jax.cells.base import exportable

MODULES = {"hm_lstm": hm_lstm, "lstm": lstm, "nested_lstm": nested_lstm, "on_lstm": on_lstm}

for _cell, _module in MODULES.items():
    for _name in {"State", "Aux"} & set(vars(_module)):
        exportable(f"{_cell}.{_name}")(getattr(_module, _name))


def of(config):
    """The cell module that defines `config`'s class."""
    return sys.modules[type(config).__module__]
