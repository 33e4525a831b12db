"""IAM-OnDB's official archives to the `.npz` files that `iam_ondb.load` reads.

    hmrnn convert --raw=RAW --output=OUT [--skip_broken]

RAW is a folder with
  lineStrokes-all.tar.gz, or the unpacked folder lineStrokes: one XML file for each line, as
    lineStrokes/a01/a01-020/a01-020x-01.xml, line 01 of the form a01-020x;
  ascii-all.tar.gz, or the unpacked folder ascii: one text file for each form, as
    ascii/a01/a01-020/a01-020x.txt, whose section CSR: holds the transcripts of its lines;
  the form lists of the task IAM-OnDB-t1, one form on each line: trainset.txt, testset_v.txt,
    testset_t.txt and testset_f.txt (or trainset.forms.txt and so on).
OUT gets one `.npz` for each list; for their layout see `iam_ondb.load`.
"""

import collections
import dataclasses
import os
import re
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

from hmrnn_jax import archives, files
from hmrnn_jax.datasets.iam_ondb import FILES, URL
from hmrnn_jax.errors import UserError

# What a file is called: the form, and of lines the number.
_NAMES = {
    "lineStrokes": re.compile(r"([^.].*)-([0-9]{1,9})\.xml"),
    "ascii": re.compile(r"([^.].*)\.txt"),
}
_LARGEST = 1 << 26  # bytes of a file; the trees of XML take many times as many
_OFFSETS, _POSITIONS = np.iinfo(np.int16), np.iinfo(np.int32)


@dataclasses.dataclass(frozen=True)
class Report:
    """What a conversion wrote and what it left out.

    Attributes:
      sizes: file -> (lines, forms, points, strokes).
      faults: sentences on the lines and forms that were left out.
      untranscribed: ids of the lines without a transcript; their text is empty.
      outside: XML files of forms that are in no list.
    """

    sizes: dict
    faults: tuple
    untranscribed: tuple
    outside: int

    def describe(self) -> str:
        """A small table, and a line for each thing that was left out."""
        heads = ("file", "lines", "forms", "points", "strokes")
        rows = [heads, *((n, *(f"{v:,}" for v in sizes)) for n, sizes in self.sizes.items())]
        text = [f"{r[0]:<10}" + "".join(f"{cell:>12}" for cell in r[1:]) for r in rows]
        if self.outside:
            text.append(f"{self.outside:,} files of forms in no list were left out")
        if self.untranscribed:
            first = self.untranscribed[0]
            text.append(f"{len(self.untranscribed):,} lines have no transcript, first {first}")
        text += [f"skipped: {fault}" for fault in self.faults]
        return "\n".join(text)


class _Fault(Exception):
    """What is wrong with one line; reported with its file, and skipped if the user allows it."""


def convert(raw, out, skip_broken: bool = False) -> Report:
    """Reads the archives once, without unpacking them to disk, and writes the four files.

    Files are written beside and moved into place when all four are whole, their lines sorted by
    id. `dx` and `dy` are differences of neighbouring points, across strokes too, as int16.

    Args:
      raw, out: folders, see above; `out` is made if it is not there.
      skip_broken: leaves out each line whose XML cannot be read, which has a stroke without
        points, less than two points or an offset beyond int16, and each listed form without any
        line. Without it these are errors. A line without a transcript never is: the official
        archives have one (a08-551z-09).

    Returns:
      what was written and left out.

    Raises:
      UserError: broken lines or forms without lines, how many and the first; a missing or
        damaged archive or list; a form in two lists; a line that occurs twice; a list of which
        no line is left; a folder that cannot be written.
    """
    _check_output(out)
    raw, out = Path(raw), Path(out)
    lists = _read_lists(raw)
    lines, faults, outside = {}, [], 0
    for where, match, content in _files(raw, "lineStrokes"):
        if match[1] not in lists:
            outside += 1
            continue
        line = match[0].removesuffix(".xml")
        if line in lines:
            raise UserError(f"{where}: line {line} is there for the second time: remove one.")
        try:
            lines[line] = _strokes(content)
        except _Fault as fault:
            lines[line] = None
            faults.append(f"{where} (line {line}) {fault}")
    forms = collections.Counter()  # to the number of its last line
    for line in lines:
        forms[_form(line)] = max(forms[_form(line)], _number(line))
    faults += [
        f"form {form} of the list {lists[form]} has no lines in lineStrokes"
        for form in lists
        if form not in forms
    ]
    if faults and not skip_broken:
        raise UserError(
            f"{raw} has {len(faults):,} broken lines or forms without lines; the first:"
            f" {faults[0]}: mend it, or leave all such out with --skip_broken."
        )
    lines = {line: strokes for line, strokes in sorted(lines.items()) if strokes}
    texts = _read_transcripts(raw, forms)
    contents = {}
    for file in FILES:
        own = [line for line in lines if lists[_form(line)] == file]
        if not own:
            raise UserError(f"{raw} has no line of any form in the list {file}: complete it.")
        contents[file] = _arrays(own, lines, texts)
    _write(out, contents)
    return Report(
        {
            file: (
                len(arrays["id"]),
                len(set(map(_form, arrays["id"]))),
                len(arrays["dx"]),
                int(arrays["pen_up"].sum()),
            )
            for file, arrays in contents.items()
        },
        tuple(faults),
        tuple(str(i) for a in contents.values() for i in a["id"][a["text"] == ""]),
        outside,
    )


def _check_output(out):
    """Archives take minutes to read: whether the files can be written is asked before."""
    if "://" in str(out):
        raise UserError(f"{out} is no folder of this machine: give one, and copy the files there.")
    out = Path(out)
    if out.is_dir():
        for file in FILES:
            files.check_writable(out / f"{file}.npz")
        return
    there = next(path for path in (out, *out.absolute().parents) if os.path.lexists(path))
    if not there.is_dir() or not os.access(there, os.W_OK):
        reason = "Permission denied" if there.is_dir() else "Not a directory"
        raise UserError(f"{out} cannot be written ({reason}): give another folder.")


def _form(line):
    return line.rpartition("-")[0]


def _number(line):
    return int(line.rpartition("-")[2])


def _read_lists(raw) -> dict:
    """form -> the list it is in."""
    found = {}
    for file in FILES:
        names = (f"{file}.txt", f"{file}.forms.txt")
        path = next((raw / name for name in names if (raw / name).is_file()), None)
        if path is None:
            raise UserError(
                f"{raw} has no form list {file}.txt: put the lists of the task IAM-OnDB-t1"
                f" there, from {URL}."
            )
        for form in files.read_text(path).split():
            if found.setdefault(form, file) != file:
                raise UserError(
                    f"{path}: form {form} is in the list {found[form]} too: strike it from one."
                )
    return found


def _files(raw, kind):
    """Yields `(path to show, match of the name, content)` of an archive or of its folder."""
    pattern, archive, folder = _NAMES[kind], raw / f"{kind}-all.tar.gz", raw / kind

    def match(path):
        return pattern.fullmatch(path.rpartition("/")[2])

    if archive.is_file():
        for name, content in archives.untar(archive, match, _LARGEST):
            yield f"{archive}: {name}", match(name), content
    elif folder.is_dir():
        for path in sorted(folder.rglob("*")):
            if path.is_file() and match(path.name):
                yield str(path), match(path.name), files.read_bytes(path, _LARGEST)
    else:
        raise UserError(
            f"{raw} has neither {archive.name} nor a folder {kind}: register at {URL} and"
            " put the archive there."
        )


def _strokes(content) -> dict:
    """The arrays of one line from its XML: `StrokeSet/Stroke/Point` with attributes x and y."""
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise _Fault(f"is not XML ({error})") from error
    points, pen_up = [], []
    for number, stroke in enumerate(root.iter("Stroke"), 1):
        own = [(point.get("x"), point.get("y")) for point in stroke.iter("Point")]
        if not own:
            raise _Fault(f"has no points in stroke {number}")
        points += own
        pen_up += [0] * (len(own) - 1) + [1]
    if len(points) < 2:
        raise _Fault(f"has {len(points)} points, and a line takes two or more")
    try:
        points = [(int(x), int(y)) for x, y in points]
    except (TypeError, ValueError) as error:
        raise _Fault(f"has a point whose x or y is no whole number ({error})") from error
    for x, y in points:
        if not all(_POSITIONS.min <= value <= _POSITIONS.max for value in (x, y)):
            raise _Fault(f"has a point at {x}, {y}, beyond int32")
    points = np.array(points, np.int64)
    offsets = np.diff(points, axis=0, prepend=points[:1])
    if offsets.min() < _OFFSETS.min or offsets.max() > _OFFSETS.max:
        worst = np.argmax(np.abs(offsets).max(axis=1))
        dx, dy = offsets[worst]
        raise _Fault(f"moves by {dx}, {dy} to point {worst + 1}, beyond int16")
    return {
        "dx": offsets[:, 0].astype(np.int16),
        "dy": offsets[:, 1].astype(np.int16),
        "pen_up": np.array(pen_up, np.uint8),
        "origin": points[0].astype(np.int32),
    }


def _read_transcripts(raw, forms) -> dict:
    """form -> the transcripts of its lines, in order; `forms` has the number of the last."""
    found = {}
    for _, match, content in _files(raw, "ascii"):
        if match[1] in forms:
            # A stray byte in a transcript is no reason to stop: no model ever reads it.
            text = content.decode("utf-8", "replace").removeprefix("\ufeff")
            rows = [row.strip() for row in files.lines(text)]
            start = rows.index("CSR:") + 1 if "CSR:" in rows else len(rows)
            rows = "\n".join(rows[start:]).strip("\n").split("\n")
            # A blank row sets rows apart, or, where these are too few, stands for a line.
            spaced = sum(map(bool, rows)) >= forms[match[1]]
            found[match[1]] = [row for row in rows if row] if spaced else rows
    return found


def _arrays(own, lines, texts) -> dict:
    """The arrays of one file from the ids of its lines."""

    def text(line):
        # By number, not by order: a line may have been skipped.
        rows, number = texts.get(_form(line), []), _number(line)
        return rows[number - 1] if 1 <= number <= len(rows) else ""

    chosen = [lines[line] for line in own]
    return {
        **{k: np.concatenate([line[k] for line in chosen]) for k in ("dx", "dy", "pen_up")},
        "length": np.array([len(line["dx"]) for line in chosen], np.int32),
        "origin": np.stack([line["origin"] for line in chosen]),
        "id": np.array(own),
        "text": np.array([text(line) for line in own]),
    }


def _write(out, contents):
    """All files or none: they are moved into place when the last is whole."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".writing-") as beside:
            for file, arrays in contents.items():
                np.savez_compressed(os.path.join(beside, f"{file}.npz"), **arrays)
            for file in contents:
                os.replace(os.path.join(beside, f"{file}.npz"), out / f"{file}.npz")
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error}): give another folder.") from error
