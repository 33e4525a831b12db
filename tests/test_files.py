"""Files: one reader of UTF-8, one rule for lines, and a writer that writes whole or not at all."""

import gzip
import hashlib
import os

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
    "content",
    [
        "text".encode("utf-16"),
        b"\xff",
        "a text".encode("utf-16-le"),
        "a text".encode("utf-16-be"),
        "Привет, мир".encode("utf-16-le"),  # as UTF-8 no NUL but for the space
        "γειά".encode("utf-16-be"),
        "a text".encode("utf-32-le"),
    ],
)
def test_other_encodings_are_refused(tmp_path, content):
    (tmp_path / "other.txt").write_bytes(content)
    with pytest.raises(UserError, match="UTF-8"):
        files.read_text(tmp_path / "other.txt")


def test_a_stray_control_character_is_text():
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
