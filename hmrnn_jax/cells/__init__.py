"""The papers' cells, a module each, of which `base.Cell` is the contract.

A further cell is one such file and its line in `MODULES`; every configuration can then choose it,
`model.cell=NAME`, and its choices with it, `model.NAME.CHOICE`.
"""

import dataclasses
import sys
from typing import Any

from hmrnn_jax.cells import gru, hm_lstm, lstm, nested_lstm, on_lstm
from hmrnn_jax.cells.base import Cell, CellConfig, exportable

MODULES: dict[str, Cell] = {
    "hm_lstm": hm_lstm,
    "lstm": lstm,
    "nested_lstm": nested_lstm,
    "on_lstm": on_lstm,
    "gru": gru,
}

for _cell, _module in MODULES.items():
    for _name in {"State", "Aux"} & set(vars(_module)):
        exportable(f"{_cell}.{_name}")(getattr(_module, _name))


def of(config: CellConfig) -> Any:
    """The cell module that defines `config`'s class."""
    return sys.modules[type(config).__module__]


def choices(module: Cell) -> dict[str, Any]:
    """The fields of a cell's `Config` beside its sizes, with their defaults."""
    fields = dataclasses.fields(module.Config)
    return {f.name: f.default for f in fields if f.name not in ("input_size", "size", "sizes")}
