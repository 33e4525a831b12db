"""Files: one reader of UTF-8, one rule for lines, and a writer that writes whole or not at all."""

import errno
import gzip
import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pytest

from hmrnn_jax import files
from hmrnn_jax.analysis import boundaries
from hmrnn_jax.analysis.figures import curves
from hmrnn_jax.analysis.figures.handwriting import handwriting_sheet
from hmrnn_jax.analysis.figures.signals import signal_figure
from hmrnn_jax.analysis.figures.trees import tree_figure
from hmrnn_jax.errors import UserError
from hmrnn_jax.models import ordered_neurons


def test_what_interrupts_a_write_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "figure.png"
    files.write_text(path, "before")
    with pytest.raises(KeyboardInterrupt), files.writing(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_first_write_leaves_nothing(tmp_path):
    with pytest.raises(OSError), files.writing(tmp_path / "figure.png"):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_only_line_ends_end_lines():
    text = "a\u2028b\x85c\x0cd\r\ne\rf\n\ng\n"
    assert files.lines(text) == ["a\u2028b\x85c\x0cd", "e", "f", "", "g"]
    assert files.lines("") == [] and files.lines("\n") == [""] and files.lines("a") == ["a"]


def test_what_lies_in_a_folder_or_is_a_file_is_held_by_it(tmp_path):
    (tmp_path / "data/test").mkdir(parents=True)
    (tmp_path / "log.csv").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert files.holds(tmp_path / "data", tmp_path / "link/test/a.png")
    assert files.holds(tmp_path / "log.csv", tmp_path / "data/../log.csv")
    assert not files.holds(tmp_path / "data", tmp_path / "data.png")
    assert not files.holds("/dev/null", "/dev/null") and not files.holds("", tmp_path / "a")
    assert not files.holds(tmp_path / "gone", tmp_path / "gone")


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / "bom.txt").write_bytes("\ufeffcafé\r\n".encode())
    assert files.read_text(tmp_path / "bom.txt") == "café\r\n"


@pytest.mark.parametrize(
    "content",
    [
        "text".encode("utf-16"),
        b"\xff",
        "a text".encode("utf-16-le"),
        "a text".encode("utf-16-be"),
        "Привет, мир".encode("utf-16-le"),  # as UTF-8 no NUL but for the space
        "γειά".encode("utf-16-be"),
        "สวัสดีชาวโลก".encode("utf-16-le"),
        "a text".encode("utf-32-le"),
    ],
)
def test_other_encodings_are_refused(tmp_path, content):
    (tmp_path / "other.txt").write_bytes(content)
    with pytest.raises(UserError, match="UTF-8"):
        files.read_text(tmp_path / "other.txt")


def test_a_stray_control_character_is_text():
    for text in ("\x1b[32mOK\x1b[0m\n" * 9, "a\x1fb\x1e\x1c" * 9):
        assert files.decode(text.encode(), "it") == text
    assert files.decode(b"a text with a NUL\0 in it", "it") == "a text with a NUL\0 in it"


def test_bytes_that_are_no_text_are_named_with_line_and_offset():
    with pytest.raises(
        UserError, match=r"it, line 3, is not UTF-8 \(byte 0xe9 at offset 11\): conv"
    ):
        files.decode("\ufeff\u00e9a\r\nb\rc".encode() + b"\xe9", "it")


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path):
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(1 << 20)))
    with pytest.raises(UserError, match="more than 1,000 bytes"):
        files.read_bytes(tmp_path / "bomb.gz", largest=1000)
    with pytest.raises(UserError, match="it holds more than 1,000 bytes"):
        files.gunzip((tmp_path / "bomb.gz").read_bytes(), "it", largest=1000)


def test_a_file_may_be_as_large_as_the_memory_is_good_for(tmp_path, monkeypatch):
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < files.room() <= memory // 16
    # That of the container, where it has less.
    for name, text in (("new", "max"), ("old", "1600")):
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(files, "_CONTAINER", (tmp_path / "new", tmp_path / "old", tmp_path / "no"))
    monkeypatch.setattr(files, "room", files.room.__wrapped__)
    assert files.room() == 100
    (tmp_path / "text").write_bytes(bytes(100))
    assert len(files.read_bytes(tmp_path / "text")) == 100
    (tmp_path / "text").write_bytes(bytes(101))
    with pytest.raises(UserError, match="text holds more than 100 bytes"):
        files.read_bytes(tmp_path / "text")


def test_contents_are_known_by_sha256_and_by_older_md5():
    digests = [getattr(hashlib, kind)(b"text").hexdigest() for kind in ("sha256", "md5")]
    for digest in digests:
        assert files.same_content(b"text", digest) and not files.same_content(b"test", digest)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"text" * 1000)[:-9])
    with pytest.raises(UserError, match="cut.gz cannot be read"):
        files.read_bytes(tmp_path / "cut.gz")
    with pytest.raises(UserError, match="no such.txt cannot be read"):
        files.read_bytes(tmp_path / "no such.txt")


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


LINE = (np.ones((5, 2)), np.array([0, 0, 1, 0, 1]))
WRITERS = {
    "curves.png": lambda path: curves.training_curves(path, [{"step": 1, "train/bpc": 2.0}]),
    "signal.svg": lambda path: signal_figure(path, np.ones((5, 1)), ["a"]),
    "lines.png": lambda path: handwriting_sheet(path, [LINE]),
    "lines.svg": lambda path: handwriting_sheet(path, [LINE]),
    "tree.png": lambda path: tree_figure(path, ("a", "b"), np.ones(2), ("a", "b")),
    "segments.jsonl": lambda path: boundaries.write_segments(path, [{"start": 0}]),
    "weights.npz": lambda path: ordered_neurons.write(path, {"a": np.ones(2)}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_what_was_there_and_names_the_file(tmp_path, monkeypatch, name):
    path = tmp_path / name
    WRITERS[name](path)
    before = path.read_bytes()
    assert before and list(tmp_path.iterdir()) == [path]
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as error:
        WRITERS[name](path)
    assert error.value.filename == str(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "weights.npz"])
def test_a_missing_folder_is_one_sentence(tmp_path, name):
    with pytest.raises(UserError, match="missing does not exist: create it or choose another"):
        WRITERS[name](tmp_path / "missing" / name)


def test_nothing_is_written_but_through_the_one_writer():
    """Figures, weights, samples, segments, tables: what a program makes is whole or not there."""
    root = Path(__file__).parent.parent
    # Each has a writer of its own: of metrics, line by line; of the lock, which is held open or is
    # an object of a bucket; of what is fetched or converted; of a campaign that damages files.
    own = {"metrics_log.py", "lock.py", "files.py", "mnist.py", "iam_ondb_convert.py"}
    own |= {"faults.py", "fault_runs.py", "fault_damage.py"}
    sources = [*root.glob("*.py"), *root.glob("hmrnn_jax/**/*.py"), *root.glob("benchmarks/*.py")]
    pattern = re.compile(
        r"\.write_(?:text|bytes)\(|savefig\((?!file\b)|np\.savez\w*\((?!file\b)"
        r"|torch\.save\((?!.*\bfile\))|open\([^)\n]*[\"'][wax]"
    )
    for source in sources:
        for line in source.read_text().splitlines():
            found = pattern.search(line.replace("files.write_", "").replace('open("wb") as', ""))
            assert not found or source.name in own, f"{source}: {line}"


def test_a_link_goes_on_pointing_to_its_file(tmp_path):
    (tmp_path / "file").write_text("before")
    (tmp_path / "link").symlink_to("file")
    files.write_text(tmp_path / "link", "after")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "after"


def test_a_device_is_written_to_and_not_replaced(tmp_path):
    files.check_writable(os.devnull)
    files.write_text(os.devnull, "text")
    assert Path(os.devnull).is_char_device()
    with pytest.raises(OSError) as error:
        files.write_text("/dev/full", "text")
    assert error.value.filename == "/dev/full" and error.value.errno == errno.ENOSPC
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    files.write_text(tmp_path / "pipe", "text")
    assert os.read(reader, 10) == b"text" and (tmp_path / "pipe").is_fifo()
    os.close(reader)


def test_a_name_may_be_as_long_as_the_disk_allows(tmp_path):
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    files.check_writable(tmp_path / ("x" * longest))
    files.write_text(tmp_path / ("x" * longest), "text")
    with pytest.raises(UserError, match="is too long for the name of a file"):
        files.check_writable(tmp_path / ("x" * (longest + 1)))
    with pytest.raises(OSError) as error:
        files.write_text(tmp_path / ("x" * (longest + 1)), "text")
    assert error.value.filename == str(tmp_path / ("x" * (longest + 1)))


@pytest.mark.parametrize("change", [0o444, 0o555])
def test_what_is_protected_is_refused(tmp_path, monkeypatch, change):
    """A file that is not to be written, and a folder; root may do all, so the answer is given."""
    path = tmp_path / "file"
    path.write_text("before")
    protected = path if change == 0o444 else tmp_path
    monkeypatch.setattr(os, "access", lambda place, _: Path(place) != protected)
    with pytest.raises(UserError, match="file cannot be written: choose another"):
        files.check_writable(path)
