"""A user's own real-valued sequences, from `.csv` or `.npz` files: sensor logs, speech features.

A file is one sequence, a table of T steps and named columns:

* `.csv`: UTF-8, one step a line, columns divided by tabs, semicolons or commas (the first of these
  that the first line has), numbers in plain notation such as -1.5e-3. The first line holds the
  names of the columns; without it, they are called column1, column2, ... Which it is can be set,
  or is guessed where that is safe: names if no cell of the first line is a number, a step if all
  are. A line of both is refused until it is set, and one of whole numbers that may be names:
  0, 1, 2, ... or 1, 2, ..., as programs number columns, or rising ones above a line without any.
  Names of columns to take tell it too: those of the first line, or column1 and the like.
* `.npz`: arrays of one length T; `[T]` is a column of the array's name, `[T, D]` the columns
  name1, ..., nameD.

A column `changes` holds 1 at the last step of each true segment and 0 elsewhere; it is kept to
score boundaries and never given to a model.
"""

import dataclasses
import hashlib

import numpy as np

from hmrnn_jax.datasets.sequences import Scale, SequenceCorpus, Sequences, make_corpus, standardise
from hmrnn_jax.datasets.splits import SPLITS, bounds
from hmrnn_jax.datasets.tables import SUFFIXES, open_table
from hmrnn_jax.errors import UserError
from hmrnn_jax.files import check_size, place

CHANGES = "changes"
SHORTEST_FILE = 40  # steps; 5 % of them are two, the shortest sequence there is


def load(
    path, event: str = "", clip: float = 0.0, columns=(), header: str = "guess"
) -> SequenceCorpus:
    """The sequences of a folder or of one file, standardised by the mean of training.

    Args:
      path: a folder with the folders train, valid and test; or a folder of files, of which 90, 5
        and 5 % are drawn by a hash of the name, so that a file stays in its split when others are
        added (where that leaves a split empty, the sorted names are cut in order instead); or
        one file, whose steps are cut in order into 90, 5 and 5 %. Files whose names begin with a
        dot or end in anything but `.csv` and `.npz` are passed over.
      event: the name of a 0/1 column that becomes the events, not one of the values.
      clip: see `make_corpus`.
      columns: the names of the columns to take, in this order; all that are neither the event
        nor `changes` if there are none. Where they are given, the others may lack a name or hold
        anything.
      header: of `.csv` files, 'yes', 'no' or 'guess', see above.

    Returns:
      A corpus called `signals`. The names of the sequences are those of the files, or
      `file[start:stop]` with the steps of a file that was cut.

    Raises:
      UserError: no such path, no or too few files, both kinds of them, a file that cannot be read
        or differs in its columns, a cell without a number, a column that does not exist, and
        whatever `make_corpus` refuses.
    """
    path = place(path)
    if not path.exists():
        raise UserError(f"there is no file or folder {path}: check the path of your sequences.")
    if path.is_dir():
        files, notes = _split_files(path)
    elif path.suffix.lower() in SUFFIXES:
        files, notes = {"train": [path]}, []
    else:
        raise UserError(f"{path} is neither a .csv nor an .npz file: convert it to one.")
    known = tuple(filter(None, [*columns, event]))
    first = open_table(files["train"][0], header, known)
    chosen = _choose(first, event, tuple(columns))
    wanted = (*chosen, *([event] if event else []), *([CHANGES] if CHANGES in first.names else []))
    read = _Reader(path, first, wanted, header, all_names=not columns)

    if path.is_dir():
        splits = {}
        for split, part in files.items():
            names = [str(file.relative_to(path)) for file in part]
            splits[split] = _sequences([read(file) for file in part], names)
    else:
        splits = _cut(path, read(path))
    splits = {split: _parts(part, len(chosen), event, first) for split, part in splits.items()}
    return make_corpus("signals", str(path), splits, chosen, event, clip, notes)


def read(path, scale: Scale, clip: float = 0.0, header: str = "guess") -> Sequences:
    """The sequences of one file, or of a folder's files, standardised as `scale` says.

    Args:
      clip, header: see `load`.

    Raises:
      UserError: as `load`; columns of the scale that a file has not.
    """
    path = place(path)
    files = _files(path) if path.is_dir() else [path]
    if not files or not path.exists() or files[0].suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} is no .csv or .npz file, and no folder of them: check the path.")
    _one_kind(files)
    first = open_table(files[0], header, tuple(filter(None, [*scale.columns, scale.event])))
    chosen = _choose(first, scale.event, tuple(scale.columns))
    wanted = (*chosen, *filter(None, [scale.event]), *({CHANGES} & set(first.names)))
    read = _Reader(path, first, wanted, header, all_names=False)
    part = _sequences([read(file) for file in files], [file.name for file in files])
    part = _parts(part, len(chosen), scale.event, first)
    return standardise(part, scale, "the sequences", clip)[0]


# Which file belongs where


def _split_files(folder):
    """The files of each split, and notes."""
    inside = {split: folder / split for split in SPLITS if (folder / split).is_dir()}
    loose = _files(folder)
    if not inside:
        return _draw(folder, loose)
    for split in SPLITS:
        if split not in inside:
            raise UserError(f"{folder} has no folder {split}: add it.")
    if loose:
        raise UserError(f"{loose[0]} lies beside the folder train: move it into a split.")
    files = {split: _files(sub) for split, sub in inside.items()}
    for split, sub in inside.items():
        if not files[split]:
            raise UserError(f"{sub} holds no .csv and no .npz file: put some sequences there.")
    _one_kind(sum(files.values(), []))
    return files, []


def _files(folder):
    """The sequences in a folder, sorted by name."""
    files = [f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.is_dir()]
    return sorted((f for f in files if not f.name.startswith(".")), key=lambda f: f.name)


def _one_kind(files):
    for file in files:
        if file.suffix.lower() != files[0].suffix.lower():
            raise UserError(
                f"{files[0]} and {file} are of two kinds: keep .csv or .npz files only."
            )


def _draw(folder, files):
    """90, 5 and 5 % of the files."""
    if len(files) < len(SPLITS):
        raise UserError(
            f"{folder} holds {len(files)} .csv or .npz files, but train, valid and test need one"
            " each: add more, or give the path of a single file."
        )
    _one_kind(files)
    drawn = {split: [] for split in SPLITS}
    for file in files:
        share = int(hashlib.sha256(file.name.encode()).hexdigest(), 16) % 100
        drawn["train" if share < 90 else "valid" if share < 95 else "test"].append(file)
    if all(drawn.values()):
        return drawn, []
    held = max(1, len(files) * 5 // 100)
    note = (
        f"{len(files)} files are too few to be drawn by a hash of their names; the last {2 * held}"
        " of the sorted names are valid and test, which may change when files are added"
    )
    cuts = {"train": files[: -2 * held], "valid": files[-2 * held : -held], "test": files[-held:]}
    return cuts, [note]


def _cut(path, values):
    """The first 90 %, the next 5 % and the last 5 % of the steps of one file."""
    steps = len(values)
    if steps < SHORTEST_FILE:
        raise UserError(
            f"{path} has {steps} steps, of which 5 % are no sequence: give {SHORTEST_FILE} or"
            " more, or a folder of files."
        )
    cuts = bounds(steps)
    return {
        split: _sequences([values[start:stop]], [f"{path.name}[{start}:{stop}]"])
        for split, start, stop in zip(SPLITS, cuts[:-1], cuts[1:], strict=True)
    }


# Which columns are what


def _choose(table, event, columns):
    """The names of the values' columns, judged by the first file."""
    if CHANGES in (event, *columns):
        raise UserError(
            f"the column {CHANGES} holds the true segment ends, which no model may see: leave it"
            " out of data.event and data.columns, or give it another name in the files."
        )
    asked = (event, *columns) if event else columns
    for name in asked:
        if name not in table.names:
            raise UserError(
                f"{table.path} has no column {name!r}: choose from {', '.join(table.names)}."
            )
        if asked.count(name) > 1:
            raise UserError(f"the column {name} is asked for twice: name it once.")
    chosen = columns or tuple(name for name in table.names if name not in (event, CHANGES))
    if not chosen:
        raise UserError(f"{table.path} has no column of values: add at least one.")
    return chosen


class _Reader:
    """Reads the `wanted` columns of one file after the other, as long as there is room for them.

    Args:
      path: of all files. first: the table of the first. header: see `open_table`.
      all_names: whether the columns are all that there are, and not some that were chosen.
    """

    def __init__(self, path, first, wanted, header, all_names):
        self._path, self._first, self._wanted = path, first, wanted
        self._header, self._all_names, self._bytes = header, all_names, 0

    def __call__(self, file):
        table = open_table(file, self._header, self._wanted)
        _check_names(table, self._wanted, self._all_names)
        _compare(table, self._first, self._wanted, self._all_names)
        values = table.read(self._wanted)
        self._bytes += values.nbytes
        check_size(self._bytes, f"the whole of {self._path}")
        return values


def _check_names(table, wanted, all_names):
    """Columns without a name, and two of one name, are refused where they are to be read."""
    names = table.names if all_names else [name for name in table.names if name in wanted]
    if "" in names:
        raise UserError(
            f"{table.path}, line 1: column {names.index('') + 1} has no name: name every column,"
            " or those to take in data.columns."
        )
    double = [name for name in names if names.count(name) > 1]
    if double:
        raise UserError(f"{table.path} has two columns called {double[0]!r}: rename one of them.")


def _compare(table, first, wanted, all_names):
    """Every file must have the columns of the first, or, if some were chosen, those."""
    absent = [name for name in first.names if name in wanted and name not in table.names]
    extra = [name for name in table.names if name not in first.names]
    if not all_names:
        extra = [name for name in extra if name == CHANGES]
    if absent or extra:
        differs = f"no column {absent[0]!r}, which" if absent else f"a column {extra[0]!r}, but not"
        has = " has" if absent else ""
        raise UserError(
            f"{table.path} has {differs} {first.path}{has}: give every sequence the same columns."
        )


def _sequences(tables, names):
    lengths = np.array([len(table) for table in tables], np.int64)
    return Sequences(np.concatenate(tables), None, lengths, tuple(names))


def _parts(part, dimensions, event, first):
    """Moves the event and the changes out of the last columns of `values`."""
    rest = iter(range(dimensions, part.values.shape[1]))
    return dataclasses.replace(
        part,
        values=part.values[:, :dimensions],
        events=_bits(part, next(rest), event).astype(np.uint8) if event else None,
        changes=_bits(part, next(rest), CHANGES) if CHANGES in first.names else None,
    )


def _bits(part, column, name):
    """A column of zeros and ones as bool [N]."""
    bits = part.values[:, column]
    wrong = np.flatnonzero((bits != 0) & (bits != 1))
    if len(wrong):
        number = int(np.searchsorted(part.offsets, wrong[0], side="right")) - 1
        raise UserError(
            f"step {wrong[0] - part.offsets[number]} of {part.names[number]} has {name} ="
            f" {bits[wrong[0]]:g}: this column must hold 0 or 1."
        )
    return bits.astype(bool)
