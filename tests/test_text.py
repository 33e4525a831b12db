"""The user's own text: files, folders, splits, and what cannot be read."""

import gzip

import numpy as np
import pytest

from hmrnn_jax import files
from hmrnn_jax.datasets.text import user_text
from hmrnn_jax.errors import UserError


def test_one_file_is_split_in_order(tmp_path):
    text = "".join(chr(97 + i % 7) for i in range(201))
    for name, content in (("a.txt", text.encode()), ("a.txt.gz", gzip.compress(text.encode()))):
        (tmp_path / name).write_bytes(content)
        corpus = user_text(tmp_path / name)
        assert [len(corpus.splits[s]) for s in ("train", "valid", "test")] == [180, 10, 11]
        assert "".join(map(corpus.vocabulary.decode, corpus.splits.values())) == text
        assert not any(corpus.unknown.values())


def test_words_are_not_cut(tmp_path):
    words = [f"word{i:03d}" for i in range(100)]
    (tmp_path / "a").write_text(" ".join(words))
    corpus = user_text(tmp_path / "a", "words")
    assert len(corpus.splits["train"]) + sum(corpus.unknown.values()) == 100
    assert sum(map(len, corpus.splits.values())) == 100


def test_a_folder_of_three_files(tmp_path):
    (tmp_path / "train.txt").write_text("\ufeffabcab", encoding="utf-8")
    (tmp_path / "valid").write_text("abé", encoding="utf-8")
    (tmp_path / "test.txt.gz").write_bytes(gzip.compress(b"zzc"))
    corpus = user_text(tmp_path)
    assert corpus.vocabulary.symbols == ("\ufffd", "a", "b", "c")
    assert corpus.unknown == {"train": 0, "valid": 1, "test": 2}
    assert corpus.splits["test"].tolist() == [0, 0, 3]
    text = corpus.describe()
    assert "train 5, valid 3, test 3" in text and "valid 1, test 2" in text
    (tmp_path / "valid").unlink()
    with pytest.raises(UserError, match="no valid.txt"):
        user_text(tmp_path)


def test_faults_of_the_users_text(tmp_path):
    with pytest.raises(UserError, match="no file or folder"):
        user_text(tmp_path / "nothing")
    (tmp_path / "bad").write_bytes(b"x" * 40 + b"\xff" + b"x" * 40)
    for unit in ("characters", "words"):
        with pytest.raises(UserError, match="0xff at offset 40.*unit=bytes"):
            user_text(tmp_path / "bad", unit)
    assert len(user_text(tmp_path / "bad", "bytes").splits["train"]) == 72
    with pytest.raises(UserError, match="characters, bytes, words"):
        user_text(tmp_path / "bad", "letters")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(UserError, match="empty"):
        user_text(tmp_path / "empty")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"abc" * 100)[:-9])
    with pytest.raises(UserError, match="cannot be read"):
        user_text(tmp_path / "cut.gz")


def test_a_byte_order_mark_is_a_symbol_of_bytes_only(tmp_path):
    (tmp_path / "a").write_bytes("\ufeffa b c d e f ".encode() * 20)
    for unit, first in (("characters", "a"), ("words", "a"), ("bytes", 0xEF)):
        corpus = user_text(tmp_path / "a", unit)
        assert corpus.vocabulary.symbols[corpus.splits["train"][0]] == first


@pytest.mark.parametrize("text", ["a text ", "текст "])
def test_text_of_two_byte_characters_is_refused_but_as_bytes(tmp_path, text):
    (tmp_path / "a").write_bytes((text * 50).encode("utf-16-le"))
    for unit in ("characters", "words"):
        with pytest.raises(UserError, match="/a looks like UTF-16 .*unit=bytes"):
            user_text(tmp_path / "a", unit)
    assert len(user_text(tmp_path / "a", "bytes").splits["test"]) > 0


def test_words_that_are_none_are_refused(tmp_path):
    (tmp_path / "a").write_text(" \n\u3000\t" * 100, encoding="utf-8")
    with pytest.raises(UserError, match="the train part of .*/a holds no word"):
        user_text(tmp_path / "a", "words")
    (tmp_path / "a").write_text("word " * 90 + " \n" * 90)
    with pytest.raises(UserError, match="the valid part of .*/a holds no word"):
        user_text(tmp_path / "a", "words")


def test_a_line_end_at_a_cut_is_one(tmp_path):
    (tmp_path / "a").write_bytes(b"one two\r\n" * 40)
    corpus = user_text(tmp_path / "a", "words")
    ends = [np.sum(ids == corpus.vocabulary.encode("\n")[0]) for ids in corpus.splits.values()]
    assert sum(ends) == 40


def test_texts_that_are_too_many_together_are_refused(tmp_path, monkeypatch):
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text("a text of 20 symbols")
    monkeypatch.setattr(files, "room", lambda: 60)
    assert len(user_text(tmp_path).splits["test"]) == 20
    (tmp_path / "test.txt").write_text("a text of 21 symbols.")
    with pytest.raises(UserError, match=f"{tmp_path} holds more than 60 bytes"):
        user_text(tmp_path)
