"""Recurrent networks that discover structure in sequences, in JAX and Flax.

    import hmrnn_jax as hm

    cell = hm.HMLSTM(input_size=64, sizes=(128, 128, 128))
    params = hm.init(jax.random.key(0), cell)
    final, states, aux = hm.unroll(cell, params, hm.initial_state(cell, 16), x)  # x [T, 16, 64]

    run = hm.load("runs/quickstart")
    run.boundaries("The cat sat on the mat.")

Cells: `HMLSTM` (Chung, Ahn, Bengio 2017), `ONLSTM` (Shen, Tan, Sordoni, Courville 2019),
`NestedLSTM` (Moniz, Krueger 2017), `LSTM`, `GRU`; as functions through `init`, `initial_state` and
`unroll`, as Flax modules through `linen.RNNCell` and `nnx.RNNCell`. Programs: `train`, then `load`,
which gives a `Run`. Each is imported when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hmrnn_jax import defaults as defaults
    from hmrnn_jax.cells import linen as linen
    from hmrnn_jax.cells import nnx as nnx
    from hmrnn_jax.cells.gru import GRU as GRU
    from hmrnn_jax.cells.hm_lstm import HMLSTM as HMLSTM
    from hmrnn_jax.cells.lstm import LSTM as LSTM
    from hmrnn_jax.cells.nested_lstm import NestedLSTM as NestedLSTM
    from hmrnn_jax.cells.on_lstm import ONLSTM as ONLSTM
    from hmrnn_jax.errors import UserError as UserError
    from hmrnn_jax.functional import init as init
    from hmrnn_jax.functional import initial_state as initial_state
    from hmrnn_jax.functional import unroll as unroll
    from hmrnn_jax.opening import load as load
    from hmrnn_jax.ops import straight_through as straight_through
    from hmrnn_jax.recurrence import Policy as Policy
    from hmrnn_jax.recurrence import Unrolled as Unrolled
    from hmrnn_jax.run import Run as Run
    from hmrnn_jax.training.loop import train as train

__version__ = "0.2.0"

# The module of each name; and the modules that are public themselves.
_HOMES = {
    "GRU": "cells.gru",
    "HMLSTM": "cells.hm_lstm",
    "LSTM": "cells.lstm",
    "NestedLSTM": "cells.nested_lstm",
    "ONLSTM": "cells.on_lstm",
    "Policy": "recurrence",
    "Run": "run",
    "Unrolled": "recurrence",
    "UserError": "errors",
    "init": "functional",
    "initial_state": "functional",
    "load": "opening",
    "straight_through": "ops",
    "train": "training.loop",
    "unroll": "functional",
}
_MODULES = {"defaults": "defaults", "linen": "cells.linen", "nnx": "cells.nnx"}
__all__ = [
    "GRU",
    "HMLSTM",
    "LSTM",
    "NestedLSTM",
    "ONLSTM",
    "Policy",
    "Run",
    "Unrolled",
    "UserError",
    "__version__",
    "defaults",
    "init",
    "initial_state",
    "linen",
    "load",
    "nnx",
    "straight_through",
    "train",
    "unroll",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value: Any = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    elif name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
