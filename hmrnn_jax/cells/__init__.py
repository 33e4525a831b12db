"""The papers' cells, a module each, of which `base.Cell` is the contract.

A further cell is one such file and its line in `MODULES`; every configuration can then choose it,
`model.cell=NAME`, and its choices with it, `model.NAME.CHOICE`.
"""

import contextlib
import dataclasses
import sys
from typing import Any

import jax.export

from hmrnn_jax.cells import gru, hm_lstm, lstm, nested_lstm, on_lstm
from hmrnn_jax.cells.base import Cell, CellConfig

MODULES: dict[str, Cell] = {
    "hm_lstm": hm_lstm,
    "lstm": lstm,
    "nested_lstm": nested_lstm,
    "on_lstm": on_lstm,
    "gru": gru,
}


for _name, _module in MODULES.items():
    for _kind in (_module.State, getattr(_module, "Aux", None)):
        # So that `jax.export` can serialise a program that takes or gives states.
        with contextlib.suppress(ValueError):  # registered before: this module is reloaded
            if _kind:
                jax.export.register_namedtuple_serialization(
                    _kind, serialized_name=f"hmrnn_jax.{_name}.{_kind.__name__}"
                )


def of(config: CellConfig) -> Any:
    """The cell module that defines `config`'s class."""
    return sys.modules[type(config).__module__]


def choices(module: Cell) -> dict[str, Any]:
    """The fields of a cell's `Config` beside its sizes, with their defaults."""
    fields = dataclasses.fields(module.Config)
    return {f.name: f.default for f in fields if f.name not in ("input_size", "size", "sizes")}
