"""Tables of numbers with named columns, from `.csv` and `.npz` files."""

import array
import contextlib
import csv
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from etils import epath

from hmrnn_jax import archives, files
from hmrnn_jax.errors import UserError, require

SUFFIXES = (".csv", ".npz")
HEADERS = ("guess", "yes", "no")
# What `float` reads of these alone is a number in plain notation.
_PLAIN = re.compile(r"[-+.0-9eE \t]*")
_WHOLE = re.compile(r"[ \t]*[0-9]{1,18}[ \t]*")
_MISSING = frozenset(["na", "n/a", "#n/a", "null", "none", "-", "?"])
_FINITE = float(np.finfo(np.float32).max)
_QUOTED = re.compile('"[^"]*"')


class Table(NamedTuple):
    """A file whose columns are known: `read(names)` gives float64 [T, len(names)].

    A column without a name is called ''.
    """

    path: epath.Path
    names: tuple
    read: Callable


def open_table(path, header: str = "guess", known=()) -> Table:
    """A `.csv` or `.npz` file; see `datasets.signals` for their form.

    Args:
      header: whether the first line of a `.csv` file names the columns: 'yes', 'no' or 'guess'.
      known: names of some columns, by which to guess.

    Raises:
      UserError: the file cannot be read, or its first line may be names as well as numbers.
    """
    require("data.header", header, HEADERS)
    return _open_csv(path, header, known) if path.suffix.lower() == ".csv" else _open_npz(path)


# CSV


def _open_csv(path, header, known):
    text = files.universal_newlines(files.read_text(path))
    end = len(text.rstrip())  # blank lines at the end are none
    if not end:
        raise UserError(f"{path} is empty: remove it, or write one step on each line.")
    text = text[:end] + text[end:].partition("\n")[0]
    first = next(files.each_line(text))
    delimiter = next((mark for mark in "\t;," if mark in _QUOTED.sub("", first)), ",")
    with _rows(path, text, delimiter) as rows:
        head = [cell.strip() for cell in next(rows)]
        second = next(rows, [])
    names = tuple(f"column{i}" for i in range(1, len(head) + 1))
    if header == "guess" and known and any(set(known) <= set(found) for found in (head, names)):
        named = set(known) <= set(head)
    else:
        named = header == "yes" or header == "guess" and _is_header(path, head, second)
    names = tuple(head) if named else names
    return Table(path, names, lambda wanted: _csv(path, text, delimiter, named, names, wanted))


@contextlib.contextmanager
def _rows(path, text, delimiter):
    """The rows of a text, lists of cells of any length; a message names the line that is wrong."""
    before = csv.field_size_limit(max(len(text), csv.field_size_limit()))
    # Strict, for a quotation mark out of place would hide the steps up to the next one.
    rows = csv.reader(files.each_line(text), delimiter=delimiter, strict=True)
    try:
        yield rows
    except csv.Error as error:
        raise UserError(
            f"{path}, line {rows.line_num}: {error}: mend its quotation marks."
        ) from error
    finally:
        csv.field_size_limit(before)


def _is_header(path, head, second):
    """Whether a first line holds names, where that is clear.

    It does if none of its cells is a number, and does not if all are, blank ones aside. Unless
    these numbers may be names themselves, as programs write them for columns without: whole ones
    that count from 0 or 1, or that rise above a line without whole ones.
    """
    cells = [cell for cell in head if cell]
    numbers = [cell for cell in cells if _looks_numeric(cell)]
    if not numbers:
        return bool(cells)
    if len(numbers) < len(cells):
        doubt = f"the name {next(cell for cell in cells if cell not in numbers)[:40]!r} and numbers"
    elif all(map(_WHOLE.fullmatch, cells)) and _may_be_names(list(map(int, cells)), second):
        doubt = "whole numbers, which may be the names of columns"
    else:
        return False
    raise UserError(
        f"{path}, line 1 holds {doubt}: say with data.header=yes that it names the columns, or with"
        " data.header=no that it is the first step."
    )


def _may_be_names(values, second):
    count = len(values)
    if count > 1 and values[0] in (0, 1) and values == list(range(values[0], values[0] + count)):
        return True
    rise = all(a < b for a, b in zip(values, values[1:], strict=False))
    return rise and (count > 1 or values == [0]) and not any(map(_WHOLE.fullmatch, second))


def _looks_numeric(cell):
    """Of a first line: a number of any notation, or what stands for a missing one."""
    try:
        float(cell)
    except ValueError:
        return cell.lower() in _MISSING
    return True


def _csv(path, text, delimiter, named, names, wanted):
    """Not by `np.loadtxt`: it skips blank lines, each a lost step, and names no column."""
    places = [names.index(name) for name in wanted]
    fewest = max((i for i, name in enumerate(names, 1) if name), default=0)
    numbers, most = array.array("d"), files.room() // 8
    with _rows(path, text, delimiter) as rows:
        if named:
            next(rows)
        for row in rows:
            # A mark behind the last cell, of this line or of the first, makes no column.
            if len(row) < fewest or (
                len(row) > len(names) and any(map(str.strip, row[len(names) :]))
            ):
                raise UserError(
                    f"{path}, line {rows.line_num} has {len(row)} cells for {len(names)} columns:"
                    " mend the line (decimals are written with a point)."
                )
            cells = [row[place] for place in places]
            try:
                values = [float(cell) for cell in cells]
                plain = _PLAIN.fullmatch("".join(cells)) and max(map(abs, values)) <= _FINITE
            except ValueError:
                plain = False
            if not plain:
                name, cell = next((n, c) for n, c in zip(wanted, cells, strict=True) if _fault(c))
                where = f"{path}, line {rows.line_num}, column {name}"
                raise UserError(f"{where} is {_fault(cell)}")
            numbers.extend(values)
            if len(numbers) > most:
                files.check_size(8 * len(numbers), f"the table of {path}")
    return np.array(numbers).reshape(-1, len(places))


def _fault(cell):
    """What is wrong with a cell, and what to do; '' if it is a number."""
    mend = ": mend it, or name the columns to take in data.columns."
    try:
        value = float(cell)
    except ValueError:
        return (f"{cell[:40]!r}, not a number" if cell.strip() else "blank") + mend
    if not math.isfinite(value) and "e" not in cell.lower():
        return f"{value}: mend it or remove the sequence."
    if not _PLAIN.fullmatch(cell):
        return f"{cell[:40]!r}, not a number in plain notation, such as -1.5e-3{mend}"
    if abs(value) > _FINITE:
        return f"{cell[:40]!r}, beyond float32 ({_FINITE:.3g}): mend it or remove the sequence."
    return ""


# NPZ


def _open_npz(path):
    columns = []
    for name, values in archives.read_npz(path).items():
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
    files.check_size(8 * len(wanted) * len(found[wanted[0]]), f"the table of {path}")
    return np.stack([found[name].astype(np.float64) for name in wanted], axis=1)
