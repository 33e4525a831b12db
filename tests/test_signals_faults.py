"""Faults of a user's own sequences: one sentence for each, before anything is taken of them."""

import zipfile

import numpy as np
import pytest
from test_signals import table, three_each, write_csv, write_npz

from hmrnn_jax import files
from hmrnn_jax.datasets import signals
from hmrnn_jax.errors import UserError


@pytest.fixture
def folder(tmp_path):
    return three_each(tmp_path)


def test_path_errors(tmp_path, folder):
    with pytest.raises(UserError, match="no file or folder .*nowhere"):
        signals.load(tmp_path / "nowhere")
    (tmp_path / "log.txt").write_text("1,2")
    with pytest.raises(UserError, match=r"log\.txt is neither a \.csv nor an \.npz file"):
        signals.load(tmp_path / "log.txt")
    write_csv(folder / "more.csv", table(0))
    with pytest.raises(UserError, match=r"more\.csv lies beside the folder train"):
        signals.load(folder)
    (folder / "more.csv").unlink()
    write_npz(folder / "valid" / "more.npz", table(0))
    with pytest.raises(UserError, match=r"run0\.csv and .*more\.npz are of two kinds"):
        signals.load(folder)
    (folder / "valid" / "more.npz").unlink()
    for i in range(3):
        (folder / "valid" / f"run{i}.csv").unlink()
    with pytest.raises(UserError, match=r"valid holds no \.csv and no \.npz file"):
        signals.load(folder)
    (folder / "valid").rmdir()
    with pytest.raises(UserError, match="has no folder valid: add it"):
        signals.load(folder)


def test_too_few_files(tmp_path):
    with pytest.raises(UserError, match=r"holds 0 \.csv or \.npz files, but train, valid"):
        signals.load(tmp_path)
    write_csv(tmp_path / "a.csv", table(0))
    write_npz(tmp_path / "b.npz", table(0))
    with pytest.raises(UserError, match="holds 2 .* a single file"):
        signals.load(tmp_path)
    write_csv(tmp_path / "c.csv", table(0))
    with pytest.raises(UserError, match=r"a\.csv and .*b\.npz are of two kinds"):
        signals.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"run1\.csv is empty"),
        (b"\n \n", r"run1\.csv is empty"),
        (b"time,speed,brake\n", r"train/run1\.csv .*shorter than two steps"),
        (b"time,speed,brake\n1,2,0\n", r"train/run1\.csv .*shorter than two steps"),
        (b"time,speed,brake\n1,2,0\n1,,0\n", r"run1\.csv, line 3, column speed is blank"),
        (b"time,speed,brake\n1,2,0\n1, ,0\n", r"run1\.csv, line 3, column speed is blank"),
        (b"time,speed,brake\n1,2,0\n1,fast,0\n", r"line 3, column speed is 'fast', not a number"),
        (b"time,speed,brake\n1,2,0\n\n1,2,0\n", r"run1\.csv, line 3 has 0 cells for 3 columns"),
        (b"time,speed,brake\n1,2,0\n1,2,0,5\n", r"run1\.csv, line 3 has 4 cells for 3 columns"),
        (b"time,speed,brake\n1,2,0\n1,nan,0\n", r"run1\.csv, line 3, column speed is nan"),
        (b"time,speed,brake\n1,2,0\n1,-inf,0\n", r"run1\.csv, line 3, column speed is -inf"),
        (b"time,speed,brake\n1,2,0\n1,2,0.5\n", r"step 1 of train/run1\.csv has brake = 0\.5"),
        (b"time,speed,speed\n1,2,0\n", r"run1\.csv has two columns called 'speed'"),
        (b"time,speed,\n1,2,0\n", r"run1\.csv, line 1: column 3 has no name"),
        (b"time,brake\n1,0\n", r"run1\.csv has no column 'speed', which .*run0\.csv has"),
        (b"time,speed,brake,x\n1,2,0,1\n", r"run1\.csv has a column 'x', but not .*run0\.csv:"),
        (b"1,2,0\n1,2,0\n", r"run1\.csv has no column 'time', which .*run0\.csv has"),
        (b"time,sp\xe9ed,brake\n1,2,0\n", r"run1\.csv, line 1, is not UTF-8"),
        ("time,speed,brake\n1,2,0\n".encode("utf-16-le"), r"run1\.csv looks like UTF-16"),
        (b"time,speed,brake\n1,2,0\n1," + b"x" * 200_000 + b",0", r"'x{40}', not a number: mend"),
        (b"x" * 200_000, r"run1\.csv has no column 'time'"),
        (b'time,speed,brake\n1,2,0\n1,"2,0\n1,2,0\n1,2,0', r"run1\.csv, line 5: unexpected end"),
        (b'time,speed,brake\n1,"2"3,0\n1,2,0', r"run1\.csv, line 2: .*mend its quotation marks"),
        (b"time,speed,brake\n1,2,0\n1,1e300,0\n", r"speed is '1e300', beyond float32 \(3\.4e\+38"),
        (b"time,speed,brake\n1,2,0\n1,-1e999,0\n", r"speed is '-1e999', beyond float32"),
    ],
)
def test_faulty_csv(folder, content, message):
    (folder / "train" / "run1.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        signals.load(folder, event="brake")


def test_a_run_reads_other_files_by_its_header(folder, tmp_path):
    scale = signals.load(folder).scale._replace(columns=("0", "1", "2"))
    write_csv(tmp_path / "new.csv", table(5), "0,1,2")
    for header in ("guess", "yes"):
        assert signals.read(tmp_path / "new.csv", scale, header=header).lengths.tolist() == [20]
    with pytest.raises(UserError, match="new.csv has no column '0'"):
        signals.read(tmp_path / "new.csv", scale, header="no")
    scale = scale._replace(columns=("column1", "column2", "column3"))
    for header in ("guess", "no"):
        assert signals.read(tmp_path / "new.csv", scale, header=header).lengths.tolist() == [21]


def test_first_line_of_numbers_with_a_blank_is_no_header(tmp_path):
    (tmp_path / "log.csv").write_text("1,,3\n" * 50)
    with pytest.raises(UserError, match=r"log\.csv, line 1, column column2 is blank"):
        signals.load(tmp_path / "log.csv")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, r"a\.npz is empty"),
        ({"x": np.zeros(9), "y": np.zeros(8)}, r"a\.npz has 9 steps of x and 8 of y"),
        ({"x": np.zeros((9, 2, 2))}, r"x of .*a\.npz is an array of float64 of shape \(9, 2, 2\)"),
        ({"x": np.zeros(9, complex)}, r"x of .*a\.npz is an array of complex128"),
        ({"x": np.array([{}] * 9)}, r"a\.npz cannot be read as an \.npz file of numbers"),
        ({"x1": np.zeros(9), "x": np.zeros((9, 1))}, r"a\.npz has two columns called 'x1'"),
        ({"x": np.r_[np.arange(98.0), np.nan, 1]}, r"a\.npz\[95:100\] .* has x = nan"),
        ({"x": np.arange(90.0), "changes": np.arange(90)}, r"a\.npz\[0:81\] has changes = 2"),
        ({"changes": np.zeros(90)}, r"a\.npz has no column of values"),
        ({"x": np.arange(90), "rate": np.full(90, 16)}, r"column rate of signals has one value"),
        ({"x": np.arange(90), "rate": np.full(90, 0.1)}, r"column rate of signals has one value"),
        ({"x": np.r_[np.arange(89.0), 1e300]}, r"x = 1e\+300, no number that float32 holds"),
    ],
)
def test_faulty_npz(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=message):
        signals.load(tmp_path / "a.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a zip", b"\x93NUMPY and no more"])
def test_damaged_npz(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.npz cannot be read as an \.npz file"):
        signals.load(tmp_path / "a.npz")
    with open(tmp_path / "a.npz", "wb") as file:
        np.save(file, np.zeros(9))
    with pytest.raises(UserError, match=r"a\.npz cannot be read .*a single array without a name"):
        signals.load(tmp_path / "a.npz")


def test_an_archive_of_other_things(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("notes.txt", "no array")
    with pytest.raises(UserError, match=r"notes\.txt of .*a\.npz is an array of \|S8 of shape"):
        signals.load(tmp_path / "a.npz")


def test_wrong_names(folder):
    with pytest.raises(UserError, match="no column 'pen': choose from time, speed, brake"):
        signals.load(folder, event="pen")
    with pytest.raises(UserError, match="no column 'height': choose from time, speed, brake"):
        signals.load(folder, columns=("time", "height"))
    with pytest.raises(UserError, match="column brake is asked for twice"):
        signals.load(folder, event="brake", columns=("time", "brake"))
    with pytest.raises(UserError, match="column time is asked for twice"):
        signals.load(folder, columns=("time", "time"))
    with pytest.raises(UserError, match="column changes .* no model may see"):
        signals.load(folder, columns=("time", "changes"))


def test_all_or_none_have_changes(folder):
    rows = np.concatenate([table(1), np.zeros((20, 1))], axis=1)
    write_csv(folder / "train" / "run1.csv", rows, "time,speed,brake,changes")
    for columns in ((), ("time",)):
        with pytest.raises(UserError, match=r"run1\.csv has a column 'changes', but not .*run0"):
            signals.load(folder, columns=columns)
    for file in ("run0", "run2"):
        (folder / "train" / f"{file}.csv").unlink()
    with pytest.raises(UserError, match=r"valid/run0\.csv has no column 'changes', which .*run1"):
        signals.load(folder, columns=("time",))


@pytest.mark.parametrize("steps", [0, 1, 39])
def test_a_short_file_cannot_be_cut(tmp_path, steps):
    write_csv(tmp_path / "log.csv", table(0, steps))
    with pytest.raises(UserError, match=rf"log\.csv has {steps} steps.*give 40 or more"):
        signals.load(tmp_path / "log.csv")
    write_csv(tmp_path / "log.csv", table(0, 40))
    assert signals.load(tmp_path / "log.csv").splits["test"].lengths.tolist() == [2]


def test_more_than_the_memory_is_good_for_is_refused(tmp_path, monkeypatch):
    """Of one file as it lies there, of its numbers, and of all files together."""
    for i in range(3):
        np.savez(tmp_path / f"{i}.npz", x=np.arange(100, dtype=np.int8))
    monkeypatch.setattr(files, "room", lambda: 2000)
    with pytest.raises(UserError, match="the whole of .* holds more than 2,000 bytes"):
        signals.load(tmp_path)
    monkeypatch.setattr(files, "room", lambda: 700)
    with pytest.raises(UserError, match=r"the table of .*0\.npz holds more than 700 bytes"):
        signals.load(tmp_path)
    (tmp_path / "log.csv").write_text("1\n" * 300)
    with pytest.raises(UserError, match=r"the table of .*log\.csv holds more than 700 bytes"):
        signals.load(tmp_path / "log.csv")
    (tmp_path / "log.csv").write_text("1\n" * 400)
    with pytest.raises(UserError, match=r"/log\.csv holds more than 700 bytes"):
        signals.load(tmp_path / "log.csv")
