"""Tables of numbers with named columns, from `.csv` and `.npz` files."""

import array
import csv
import io
import zipfile
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from etils import epath

from hmrnn_jax.datasets.text import read_file
from hmrnn_jax.errors import UserError

SUFFIXES = (".csv", ".npz")


class Table(NamedTuple):
    """A file whose columns are known: `read(names)` gives float64 [T, len(names)]."""

    path: epath.Path
    names: tuple
    read: Callable


def open_table(path) -> Table:
    """A `.csv` or `.npz` file; see `datasets.signals` for their form. Raises UserError."""
    table = _open_csv(path) if path.suffix.lower() == ".csv" else _open_npz(path)
    double = [name for name in table.names if table.names.count(name) > 1]
    if double:
        raise UserError(f"{path} has two columns called {double[0]!r}: rename one of them.")
    return table


def _open_csv(path):
    try:
        text = read_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}): save it as UTF-8.") from error
    lines = text.splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise UserError(f"{path} is empty: remove it, or write one step on each line.")
    delimiter = next((mark for mark in "\t;," if mark in lines[0]), ",")
    try:
        head = [cell.strip() for cell in next(csv.reader(lines[:1], delimiter=delimiter))]
    except csv.Error as error:
        raise UserError(f"{path}, line 1: {error}: mend it.") from error
    header = any(cell and _number(cell) is None for cell in head)
    if header and "" in head:
        raise UserError(
            f"{path}, line 1: column {head.index('') + 1} has no name: name every column."
        )
    names = tuple(head) if header else tuple(f"column{i}" for i in range(1, len(head) + 1))
    return Table(path, names, lambda wanted: _csv(path, lines, delimiter, header, names, wanted))


def _csv(path, lines, delimiter, header, names, wanted):
    """Not by `np.loadtxt`: it skips blank lines, each a lost step, and names no column."""
    places = [names.index(name) for name in wanted]
    numbers = array.array("d")
    rows = csv.reader(lines[header:], delimiter=delimiter)
    try:
        for row in rows:
            if len(row) != len(names):
                raise UserError(
                    f"{path}, line {rows.line_num + header} has {len(row)} cells for"
                    f" {len(names)} columns: mend the line (decimals are written with a point)."
                )
            try:
                numbers.extend([float(row[place]) for place in places])
            except ValueError as error:
                place = next(place for place in places if _number(row[place]) is None)
                cell = f"{row[place]!r}, not a number" if row[place].strip() else "blank"
                raise UserError(
                    f"{path}, line {rows.line_num + header}, column {names[place]} is {cell}: mend"
                    " it, or name the columns to take in data.columns."
                ) from error
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num + header}: {error}: mend it.") from error
    values = np.array(numbers).reshape(-1, len(places))
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        line, place = bad[0]
        raise UserError(
            f"{path}, line {line + header + 1}, column {wanted[place]} is {values[line, place]}:"
            " mend it or remove the sequence."
        )
    return values


def _number(cell):
    try:
        return float(cell)
    except ValueError:
        return None


def _open_npz(path):
    try:
        file = np.load(io.BytesIO(read_file(path)), allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise ValueError("it is a single array without a name")
        # A file in the archive that is no array comes as bytes.
        arrays = {name: np.asarray(file[name]) for name in file.files}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path} cannot be read as an .npz file of numbers ({error}): write it with np.savez."
        ) from error
    columns = []
    for name, values in arrays.items():
        split = values.ndim == 2
        columns += (
            [(f"{name}{i}", v) for i, v in enumerate(values.T, 1)] if split else [(name, values)]
        )
    if not columns:
        raise UserError(f"{path} is empty: remove it, or put arrays there.")
    names = tuple(name for name, _ in columns)
    return Table(path, names, lambda wanted: _npz(path, dict(columns), wanted))


def _npz(path, found, wanted):
    for name in wanted:
        values = found[name]
        if values.ndim != 1 or values.dtype.kind not in "biuf":
            raise UserError(
                f"{name} of {path} is an array of {values.dtype} of shape {values.shape}: give"
                " numbers of shape [T] or [T, D], or name the columns to take in data.columns."
            )
        if len(values) != len(found[wanted[0]]):
            raise UserError(
                f"{path} has {len(found[wanted[0]])} steps of {wanted[0]} and {len(values)} of"
                f" {name}: give every column one value for each step."
            )
    return np.stack([found[name].astype(np.float64) for name in wanted], axis=1)
