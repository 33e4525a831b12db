"""Vocabularies: symbols to numbers and back, and what is none."""

import time

import numpy as np
import pytest

from hmrnn_jax.datasets import vocabulary as vocabulary_module
from hmrnn_jax.datasets.vocabulary import Vocabulary
from hmrnn_jax.errors import UserError


@pytest.mark.parametrize("text", ["abca\nb", "naïve café 漢字 \U0001f600", "a"])
@pytest.mark.parametrize("unit", ["characters", "bytes"])
def test_text_survives_encode_and_decode(text, unit):
    vocabulary = Vocabulary.of(text, unit)
    ids, unknown = vocabulary.encode(text)
    symbols = list(text) if unit == "characters" else list(text.encode())
    assert vocabulary.symbols == tuple(sorted(set(symbols)))
    assert [vocabulary.symbols[i] for i in ids] == symbols
    assert (ids.dtype, unknown) == (np.int32, 0)
    assert vocabulary.decode(ids) == text
    assert vocabulary.encode(text.encode())[0].tolist() == ids.tolist()


def test_words_end_lines_with_eos():
    text = " the cat \n\n a  dog\n the"
    vocabulary = Vocabulary.of(text, "words")
    ids, _ = vocabulary.encode(text)
    words = ["the", "cat", "<eos>", "<eos>", "a", "dog", "<eos>", "the"]
    assert [vocabulary.symbols[i] for i in ids] == words
    assert vocabulary.decode(ids) == "the cat\n\na dog\nthe"


def test_lines_of_words_end_as_universal_newlines_do():
    text = "a\u2028b\r\nc\x85d\re\x0cf\n"
    words = ["a", "b", "<eos>", "c", "d", "<eos>", "e", "f", "<eos>"]
    vocabulary = Vocabulary.of(text, "words")
    assert vocabulary.symbol_strings(vocabulary.encode(text)[0]) == [word + " " for word in words]


def test_bytes_are_spelled_as_code_points_and_unknown_ones_too():
    vocabulary = Vocabulary.of(b"ab\xe9", "bytes", unknown=True)
    ids, unknown = vocabulary.encode(b"a\xe9z")
    assert (vocabulary.symbol_strings(ids), unknown) == (["a", "\xe9", "\ufffd"], 1)
    assert vocabulary.as_written(b"a\xe9z", ids) == "a\xe9z"


def test_long_texts_are_taken_in_parts(monkeypatch):
    whole = {
        unit: Vocabulary.of("naïve 漢字 a b", unit) for unit in ("characters", "bytes", "words")
    }
    monkeypatch.setattr(vocabulary_module, "_CHUNK", 3)
    monkeypatch.setattr(vocabulary_module, "_PIECE", 3)
    for unit, vocabulary in whole.items():
        assert Vocabulary.of("naïve 漢字 a b", unit) == vocabulary
        assert vocabulary.decode(vocabulary.encode("naïve a 漢字 b")[0]) == "naïve a 漢字 b"
    monkeypatch.setattr(vocabulary_module, "_MOST_WORDS", 3)
    with pytest.raises(UserError, match="more than 3 different words"):
        Vocabulary.of("naïve 漢字 a b", "words")


@pytest.mark.parametrize(
    "unit, text, unseen, decoded",
    [
        ("characters", "abc", "xay", "\ufffda\ufffd"),
        ("bytes", b"abc", b"\xffa\xfe", "\ufffda\ufffd"),
        ("words", "a b c <unk>", "x a y", "<unk> a <unk>"),
    ],
)
def test_unknown_symbols_have_id_0_and_are_counted(unit, text, unseen, decoded):
    vocabulary = Vocabulary.of(text, unit, unknown=True)
    assert vocabulary.size == 4  # a, b, c and the unknown symbol, once
    ids, count = vocabulary.encode(unseen)
    assert ids.tolist() == [0, 1, 0] and count == 2
    assert vocabulary.decode(ids) == decoded


def test_a_word_for_the_unknown_ones_stands_for_them_in_a_closed_vocabulary():
    """As Penn Treebank has it; the replacement character of a text stands for nothing."""
    closed = Vocabulary.of("the <unk> cat", "words")
    ids, count = closed.encode("the dog cat <unk>")
    assert closed.decode(ids) == "the <unk> cat <unk>" and count == 1
    np.testing.assert_array_equal(closed.ids("the dog"), closed.encode_sentence("the dog")[0])
    with pytest.raises(UserError, match="'z' at offset 1"):
        Vocabulary.of("a\ufffd", "characters").encode("az")


def test_missing_symbol_is_named_with_its_offset():
    with pytest.raises(UserError, match="'é' at offset 3"):
        Vocabulary.of("abc", "characters").encode("abcé")
    with pytest.raises(UserError, match="'dog' at offset 1"):
        Vocabulary.of("a cat", "words").encode("a dog")
    with pytest.raises(UserError, match="255 at offset 1"):
        Vocabulary.of(b"abc", "bytes").encode(b"a\xff")


def test_bytes_that_are_no_utf8_decode_to_the_replacement_character():
    vocabulary = Vocabulary.of(b"a\xc3", "bytes")
    assert vocabulary.decode(vocabulary.encode(b"a\xc3a")[0]) == "a\ufffda"


@pytest.mark.parametrize("unit", ["characters", "bytes", "words"])
@pytest.mark.parametrize("unknown", [False, True])
def test_json_gives_the_same_vocabulary(unit, unknown):
    vocabulary = Vocabulary.of('é "q" \\ 漢\n', unit, unknown)
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary


def test_faulty_vocabularies_are_refused():
    for text in ("nonsense", "{}", '{"unit": "letters", "symbols": [], "unknown": false}'):
        with pytest.raises(UserError):
            Vocabulary.from_json(text)
    with pytest.raises(UserError, match="twice"):
        Vocabulary("characters", ("a", "a"))
    with pytest.raises(UserError, match="id 0"):
        Vocabulary("characters", ("a", "b"), unknown=True)


def test_encoding_is_no_python_loop():
    text = "abcdefgé" * 500_000
    vocabulary = Vocabulary.of(text, "characters")
    begin = time.perf_counter()
    ids, _ = vocabulary.encode(text)
    assert time.perf_counter() - begin < 0.4  # a loop over 4 million characters takes longer
    assert ids[-9:].tolist() == [7, 0, 1, 2, 3, 4, 5, 6, 7]


def test_a_replacement_character_of_a_text_stands_for_no_other():
    vocabulary = Vocabulary.of("ab\ufffd", "characters")
    for encode in (vocabulary.encode, vocabulary.encode_sentence):
        with pytest.raises(UserError, match="'z'"):
            encode("abz")
