"""Texts larger than memory: ids kept in a file are those held, whatever befalls the file."""

import contextlib
import errno
import gzip
import itertools
import os
import threading

import numpy as np
import pytest

from hmrnn_jax import files
from hmrnn_jax.batches.text import EvaluationStream, Stream, VariableStream
from hmrnn_jax.datasets import encoded, text
from hmrnn_jax.datasets.splits import SPLITS
from hmrnn_jax.datasets.text import user_text
from hmrnn_jax.datasets.vocabulary import Vocabulary
from hmrnn_jax.errors import UserError

TEXT = "\ufeffnaïve  漢字\r\na b\u2003\n\n\x1fwords, <eos> \U0001f600 <unk>\r" * 9 + "ém z end"


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    folder = tmp_path / "cache"
    monkeypatch.setenv("HMRNN_CACHE", str(folder))
    monkeypatch.setattr(files, "_CHUNK", 7)
    return folder / "texts"


@contextlib.contextmanager
def streamed():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "_LARGE", 1)
        yield patch


def both(path, unit="characters"):
    """The corpus as it is held, and as it is kept."""
    held = user_text(path, unit)
    with streamed():
        return held, user_text(path, unit)


def assert_same(held, kept):
    assert (kept.vocabulary, kept.unknown) == (held.vocabulary, held.unknown)
    assert all(isinstance(ids, encoded.Ids) for ids in kept.splits.values())
    for split, ids in held.splits.items():
        np.testing.assert_array_equal(kept.splits[split], ids)
        assert kept.splits[split][:].dtype == ids[:].dtype == np.int32


@pytest.mark.parametrize("unit", ["characters", "bytes", "words"])
def test_a_kept_text_equals_a_held_one(tmp_path, unit, monkeypatch):
    path, folder = tmp_path / "a.txt.gz", tmp_path / "parts"
    folder.mkdir()
    for number, (size, chunk) in enumerate(itertools.product((20, 61, 200, len(TEXT)), (3, 8, 50))):
        monkeypatch.setattr(files, "_CHUNK", chunk)
        whole = f"{number} {TEXT}"[-size - 40 :]
        path.write_bytes(gzip.compress(whole.encode()))
        assert_same(*both(path, unit))
    for split, part in (("train", TEXT), ("valid", "é other\r\n"), ("test", "漢 z")):
        (folder / f"{split}.txt").write_bytes(part.encode())
    assert_same(*both(folder, unit))


@pytest.mark.parametrize("symbols, stored", [(200, 1), (300, 2), (70_000, 4)])
def test_ids_take_as_few_bytes_as_will_do(tmp_path, cache, symbols, stored, monkeypatch):
    monkeypatch.setattr(files, "_CHUNK", 1 << 20)
    words = " ".join(map(str, range(symbols))) + " 1" * (symbols // 2)
    (tmp_path / "a").write_text(words)
    with streamed():
        corpus = user_text(tmp_path / "a", "words")
    (file,) = cache.iterdir()
    assert 0 < file.stat().st_size - stored * len(words.split()) < 20 * symbols + 500
    train = corpus.vocabulary.symbol_strings(corpus.splits["train"])
    assert "".join(train).split() == words.split()[: len(train)]


def test_batches_are_the_same_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(encoded, "_DROPPED", 40)
    (tmp_path / "a").write_text("".join(map(chr, np.random.default_rng(0).integers(60, 990, 999))))
    held, kept = (corpus.splits["train"] for corpus in both(tmp_path / "a"))
    for make in (
        lambda ids: map(Stream(ids, 4, 10, slice(1, 3)), range(30)),
        lambda ids: map(VariableStream(ids, 3, 10, seed=1), range(40)),
        lambda ids: EvaluationStream(ids, 3, 7, 5),
    ):
        for ours, theirs in zip(make(kept), make(held), strict=True):
            for a, b in zip(ours[:4], theirs[:4], strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)


def test_a_text_is_encoded_once(tmp_path, monkeypatch):
    (tmp_path / "a").write_text(TEXT)
    with streamed():
        first = user_text(tmp_path / "a")
        (tmp_path / "a").rename(tmp_path / "b")
        monkeypatch.setattr(Vocabulary, "encode", None)
        again = user_text(tmp_path / "b")
        assert "now kept" in first.describe() and "ids kept in" in again.describe()
        assert_same(first, again)
        (tmp_path / "b").write_text(TEXT + "!")
        with pytest.raises(TypeError):
            user_text(tmp_path / "b")


def test_n_gram_models_count_the_beginning_of_a_kept_text(tmp_path, monkeypatch):
    (tmp_path / "a").write_text(TEXT)
    held, kept = both(tmp_path / "a")
    monkeypatch.setattr(text, "_COUNTED", 50)
    assert held.counted()[0] is held.splits["train"]
    ids, called = kept.counted()
    np.testing.assert_array_equal(ids, held.splits["train"][:50])
    assert called == "first 50 characters of the training text"


@pytest.mark.parametrize("place", [0, -2, -50, -200, None])
def test_a_damaged_file_is_made_anew(tmp_path, cache, place):
    (tmp_path / "a").write_text(TEXT)
    held, _ = both(tmp_path / "a")
    (file,) = cache.iterdir()
    content = bytearray(file.read_bytes())
    if place is None:
        file.write_bytes(content[: len(content) // 2])
    else:
        content[place] ^= 1
        file.write_bytes(content)
    _, kept = both(tmp_path / "a")
    assert "now kept" in kept.note
    assert_same(held, kept)


def test_without_a_cache_a_text_is_held_in_few_bytes(tmp_path, cache, monkeypatch):
    (tmp_path / "a").write_text(TEXT)
    cache.parent.write_text("a file where the folder is wanted")
    held, kept = both(tmp_path / "a")
    assert "held in memory" in kept.note and str(cache.parent) in kept.describe()
    assert_same(held, kept)
    monkeypatch.setenv("HMRNN_CACHE", "off")
    held, kept = both(tmp_path / "a")
    assert kept.note.endswith("HMRNN_CACHE is off")
    assert_same(held, kept)
    monkeypatch.setattr(files, "room", lambda: len(TEXT) // 8)
    with streamed(), pytest.raises(UserError, match="/a holds more than .* bytes, too many"):
        user_text(tmp_path / "a")


def test_a_full_disk_leaves_nothing_half_written(tmp_path, cache, monkeypatch):
    (tmp_path / "a").write_text(TEXT)
    writing = files.writing

    @contextlib.contextmanager
    def full(path):
        with writing(path) as file:
            yield file
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "writing", full)
    held, kept = both(tmp_path / "a")
    assert "No space left on device" in kept.note and not list(cache.iterdir())
    assert_same(held, kept)


def test_what_killed_processes_were_writing_is_removed(tmp_path, cache):
    (tmp_path / "a").write_text(TEXT)
    cache.mkdir(parents=True)
    for name, age in (("living", 0), ("killed", 3600)):
        (cache / f".{name}.writing").write_bytes(b"half")
        since = (cache / f".{name}.writing").stat().st_mtime - age
        os.utime(cache / f".{name}.writing", (since, since))
    assert_same(*both(tmp_path / "a"))
    assert sorted(file.suffix for file in cache.iterdir()) == [".ids", ".writing"]
    assert (cache / ".living.writing").exists()


def test_no_file_is_begun_while_the_vocabulary_is_made(tmp_path, cache, monkeypatch):
    """It would seem abandoned to another process, if that takes long."""
    (tmp_path / "a").write_text(TEXT)
    made, seen = Vocabulary.of_parts, []

    def of_parts(*arguments, **more):
        seen.append([*cache.glob(".*.writing")])
        return made(*arguments, **more)

    monkeypatch.setattr(Vocabulary, "of_parts", of_parts)
    with streamed():
        assert "are now kept in" in user_text(tmp_path / "a").note
    assert seen == [[]]


def test_several_that_encode_at_once_do_not_disturb_each_other(tmp_path, cache, monkeypatch):
    (tmp_path / "a").write_text(TEXT)
    together, write, found = threading.Barrier(3, timeout=20), encoded._write, []

    def at_once(*arguments):
        together.wait()
        write(*arguments)
        together.wait()

    monkeypatch.setattr(encoded, "_write", at_once)
    with streamed():
        threads = [
            threading.Thread(target=lambda: found.append(user_text(tmp_path / "a")))
            for _ in range(3)
        ]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert len(found) == 3 and [file.suffix for file in cache.iterdir()] == [".ids"]
    for kept in found:
        assert_same(user_text(tmp_path / "a"), kept)


def test_a_text_in_a_bucket_is_kept_here(bucket, cache, monkeypatch):
    monkeypatch.setattr(files, "_CHUNK", 64)
    (bucket / "a.txt").write_text(TEXT)
    assert_same(*both(bucket / "a.txt", "words"))
    assert len(list(cache.iterdir())) == 1


def test_faults_are_told_as_of_a_text_that_is_held(tmp_path, cache, monkeypatch):
    def told(path, unit="characters"):
        with pytest.raises(UserError) as error:
            user_text(path, unit)
        return str(error.value)

    (tmp_path / "bad").write_bytes(("é\r\nb\r" * 9 + "漢").encode() + b"\xff\xfe and more")
    (tmp_path / "utf16").write_bytes(("a text " * 50).encode("utf-16-le"))
    (tmp_path / "blank").write_text("word " * 90 + " \n" * 90)
    folder = tmp_path / "folder"
    folder.mkdir()
    for split in SPLITS:
        (folder / f"{split}.txt").write_text("" if split == "valid" else "a b")
    for name, unit in (
        ("bad", "words"),
        ("utf16", "words"),
        ("blank", "words"),
        ("folder", "bytes"),
    ):
        held = told(tmp_path / name, unit)
        with streamed():
            assert told(tmp_path / name, unit) == held
    assert not [file for file in cache.glob("*")]

    (tmp_path / "a").write_text(TEXT)
    write = encoded._write

    def changes(*arguments):
        (tmp_path / "a").write_text(TEXT.replace("naïve", "naive"))
        write(*arguments)

    monkeypatch.setattr(encoded, "_write", changes)
    with streamed():
        assert "/a was changed while it was read: start again." in told(tmp_path / "a")
    assert not list(cache.iterdir())
