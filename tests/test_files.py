"""Files: one reader of UTF-8, one rule for lines, and a writer that writes whole or not at all."""

import gzip

import pytest

from hmrnn_jax import files
from hmrnn_jax.errors import UserError


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


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / "bom.txt").write_bytes("\ufeffcafé\r\n".encode())
    assert files.read_text(tmp_path / "bom.txt") == "café\r\n"


@pytest.mark.parametrize(
    "content", ["text".encode("utf-16"), "a text".encode("utf-16-le"), b"\xff"]
)
def test_other_encodings_are_refused(tmp_path, content):
    (tmp_path / "other.txt").write_bytes(content)
    with pytest.raises(UserError, match="UTF-8"):
        files.read_text(tmp_path / "other.txt")


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path):
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(1 << 20)))
    with pytest.raises(UserError, match="more than 1,000 bytes"):
        files.read_bytes(tmp_path / "bomb.gz", largest=1000)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"text" * 1000)[:-9])
    with pytest.raises(UserError, match="cut.gz cannot be read"):
        files.read_bytes(tmp_path / "cut.gz")
    with pytest.raises(UserError, match="no such.txt cannot be read"):
        files.read_bytes(tmp_path / "no such.txt")
