"""A text in pieces gives what the whole text gives; streams are saved, restored and refused."""

import contextlib
import functools
import io
import itertools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from hmrnn_jax.analysis import boundaries
from hmrnn_jax.cells import hm_lstm, lstm
from hmrnn_jax.datasets.vocabulary import Vocabulary
from hmrnn_jax.errors import UserError
from hmrnn_jax.evaluation import text as evaluation
from hmrnn_jax.inference import pieces as pieces_of
from hmrnn_jax.inference import sparse_model, stream
from hmrnn_jax.inference.readings import Reading
from hmrnn_jax.inference.stream import Stream
from hmrnn_jax.models.language import LanguageModel
from hmrnn_jax.tasks import language

TEXT = "the cat sat on the mat; then that hat sat on the cat. " * 12  # over two chunks of 256
VOCABULARY = Vocabulary.of(TEXT, "characters", unknown=True)


def trained(boundary="step", vocabulary=VOCABULARY):
    """A model whose detectors fire now and then, as `Stream` takes it."""
    config = hm_lstm.Config(4, (6, 5, 4), boundary=boundary)
    model = LanguageModel(vocabulary.size, 4, (config,), 8)
    shapes = jax.eval_shape(functools.partial(language.init_params, model), jax.random.key(0))
    draw = np.random.default_rng(1).normal
    return model, jax.tree.map(lambda s: draw(0, 0.7, s.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def reading():
    """The whole text at once, and what finishing it gave."""
    whole = Stream(*trained(), VOCABULARY)
    return whole.push(TEXT), whole.finish()


def pushed(reader, text, lengths):
    """The readings of pieces of these lengths, over and over, joined; and finishing's."""
    parts, start = [], 0
    for length in itertools.cycle(lengths):
        if start >= len(text):
            break
        parts.append(reader.push(text[start : start + length]))
        start += length
    return joined(parts), reader.finish()


def joined(parts):
    symbols, z, scores, segments, unknown = zip(*parts, strict=True)
    return stream.Reading(
        sum(symbols, []), np.concatenate(z, axis=1), np.concatenate(scores), sum(segments, []),
        sum(unknown),
    )  # fmt: skip


def same(ours, theirs):
    assert ours.symbols == theirs.symbols and ours.unknown == theirs.unknown
    np.testing.assert_array_equal(ours.z, theirs.z)
    np.testing.assert_array_equal(ours.log_probabilities, theirs.log_probabilities)
    assert ours.segments == theirs.segments


@pytest.mark.parametrize("lengths", ((1, 0, 7), (300, 1)))
def test_pieces_are_the_whole(lengths, reading):
    before = stream._read._cache_size()
    for ours, theirs in zip(
        pushed(Stream(*trained(), VOCABULARY), TEXT, lengths), reading, strict=True
    ):
        same(ours, theirs)
    assert stream._read._cache_size() == before  # nothing was compiled


def test_a_stream_reads_as_the_dense_model_does(reading):
    model, params = trained()
    ids, _ = VOCABULARY.encode(TEXT)
    out = model.apply({"params": params}, ids[:, None], model.initial_carry(1))
    whole, last = reading
    assert 0.02 < whole.z.mean() < 0.98 and whole.z.dtype == np.int8
    np.testing.assert_array_equal(whole.z, np.stack(out.states[0].z)[..., 0])
    expected = jax.nn.log_softmax(out.logits[:-1, 0])[jnp.arange(len(ids) - 1), ids[1:]]
    np.testing.assert_allclose(whole.log_probabilities[1:], expected, atol=1e-5)
    assert np.isnan(whole.log_probabilities[0])
    rows = [r for k in (1, 2) for r in boundaries.segments(TEXT, whole.z[k - 1], k)]
    assert sorted(whole.segments + last.segments, key=lambda r: (r["layer"], r["start"])) == rows
    assert whole.segments == sorted(whole.segments, key=lambda r: (r["end"], r["layer"]))
    assert all(r["end"] == len(TEXT) for r in last.segments)


def test_saved_and_restored(reading, tmp_path):
    first = Stream(*trained(), VOCABULARY)
    parts = [first.push(TEXT[:301])]
    first.save(tmp_path / "a.npz")
    first.push("something else")
    second = Stream(*trained(), VOCABULARY)
    second.load(tmp_path / "a.npz")
    parts.append(second.push(TEXT[301:]))
    same(joined(parts), reading[0])
    same(second.finish(), reading[1])
    # Finished, it begins again.
    same(second.push(TEXT), reading[0])
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert json.loads(str(file["notes"]))["read"] == 301
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_soft_and_sampling_detectors_are_read_too():
    """Soft ones densely; sampling ones with draws that depend on the place, not on the piece."""
    for boundary, kind in (("soft", LanguageModel), ("sample", sparse_model.SparseModel)):
        whole, pieces = (Stream(*trained(boundary), VOCABULARY, seed=3) for _ in range(2))
        assert isinstance(whole._model, kind)
        expected = whole.push(TEXT[:40])
        actual, _ = pushed(pieces, TEXT[:40], (9,))
        same(actual, expected)
    other = Stream(*trained("sample"), VOCABULARY, seed=4).push(TEXT[:40])
    assert (other.z != expected.z).any()


def test_words_are_held_back_until_they_end():
    text = "a cat sat\non a mat\na cat"
    vocabulary = Vocabulary.of(text, "words")
    reader = Stream(*trained(vocabulary=vocabulary), vocabulary)
    assert reader.push("a c").symbols == ["a "]
    assert reader.push("at").symbols == []
    assert reader.push(" sat\non a ").symbols == ["cat ", "sat ", "<eos> ", "on ", "a "]
    assert reader.push("mat").symbols == []
    assert reader.finish().symbols == ["mat "]
    with pytest.raises(UserError, match="'dog'"):
        reader.push("a dog ")
    assert reader.push("").symbols == [] and reader._read == 0


def run_of(vocabulary, task="language"):
    model, params = trained(vocabulary=vocabulary)
    config = ConfigDict({"task": task})
    return types.SimpleNamespace(
        name="mine", config=config, model=model, plain=params, encoding=vocabulary, slope=1.0
    )


def streamed(raw, vocabulary=VOCABULARY, **more):
    stream = Stream(*trained(vocabulary=vocabulary), vocabulary)
    return evaluation.stream_segments(stream, Trickle(raw), **more)


CUT = "naïve 漢字\r\n\U0001f600 a\rb\r\n\ufeff"
CUT_WORDS = "naïve 漢字 <eos> \U0001f600 a <eos> b <eos> \ufeff".split()


@pytest.mark.parametrize("unit", ["characters", "words", "bytes"])
def test_characters_and_line_ends_may_be_cut_anywhere(unit):
    """Bytes in pieces of any length, and str, are what the whole file is to `hmrnn segment`."""
    raw = f"\ufeff{CUT}".encode()
    vocabulary = Vocabulary.of(raw if unit == "bytes" else CUT, unit)
    model = trained(vocabulary=vocabulary)
    whole, last = pushed(Stream(*model, vocabulary), raw, (len(raw),))
    symbols = {"characters": CUT, "bytes": raw.decode("latin-1")}.get(unit)
    symbols = list(symbols) if symbols else [word + " " for word in CUT_WORDS]
    assert whole.symbols + last.symbols == symbols
    for text, lengths in ((raw, (1,)), (raw, (2, 3)), (raw.decode(), (1, 4))):
        if isinstance(text, bytes) or unit != "bytes":
            reading, end = pushed(Stream(*model, vocabulary), text, lengths)
            same(reading, whole)
            same(end, last)


def test_half_a_character_is_held_back_saved_and_reported(tmp_path):
    reader = Stream(*trained(), VOCABULARY)
    assert reader.push(b"the \xe6\xbc").symbols == list("the ")
    with pytest.raises(UserError, match=r"not UTF-8: it ends within a character \(e6 bc\)"):
        reader.finish()
    with pytest.raises(UserError, match=r"A str follows bytes that begin a character \(e6 bc\)"):
        reader.push("cat")
    with pytest.raises(UserError, match="not UTF-8: byte 4 cannot be read"):
        reader.push(b"cat")
    reader.save(tmp_path / "half.npz")
    other = Stream(*trained(), VOCABULARY)
    other.load(tmp_path / "half.npz")
    for stream_ in (reader, other):
        reading = stream_.push(b"\xa2 cat")
        assert (reading.symbols, reading.unknown) == (list("漢 cat"), 1)
        stream_.finish()
    # A state of a version that knew nothing of bytes; it stands where text has been read.
    reader.push("the")
    reader.save(tmp_path / "new.npz")
    with np.load(tmp_path / "new.npz") as file:
        stored = dict(file)
    notes = json.loads(str(stored["notes"]))
    del notes["bytes"]
    np.savez(tmp_path / "old.npz", **stored | {"notes": np.array(json.dumps(notes))})
    other.load(tmp_path / "old.npz")
    assert other.push("\ufeff").symbols == ["\ufeff"] and other._read == 4


class Trickle(io.BytesIO):
    """Gives its bytes a few at a time, as a pipe does."""

    def read1(self, size=-1):
        return self.read(3)


@pytest.mark.parametrize("lengths", ((1, 5, 3), (100,)))
def test_a_segment_that_does_not_end_is_cut_before_it_takes_the_memory(
    lengths, reading, monkeypatch
):
    """Wherever the pieces are cut; a segment of just that length is no other."""
    whole = [row for part in reading for row in part.segments if row["layer"] == 2]
    monkeypatch.setattr(pieces_of, "LONGEST", 2)
    parts = pushed(Stream(*trained(), VOCABULARY), TEXT, lengths)
    found = [row for part in parts for row in part.segments if row["layer"] == 2]
    ends = {row["end"] for row in whole}
    for row in whole:
        ends |= set(range(row["start"] + 2, row["end"], 2))
    assert sorted(ends) == [row["end"] for row in found] and len(found) > len(whole)
    assert "".join(row["text"] for row in found) == TEXT


def test_a_word_that_does_not_end_is_refused(monkeypatch):
    monkeypatch.setattr(pieces_of, "LONGEST", 7)
    words = Vocabulary.of("a b", "words", unknown=True)
    reader = Stream(*trained(vocabulary=words), words)
    reader.push("a bbbb")
    with pytest.raises(UserError, match="A word of the stream has more than 7 characters"):
        reader.push("bbbb")
    assert reader.push(" a ").symbols == ["<unk> ", "a "]


def test_standard_input_to_json_lines(reading):
    text = "the cät sat on the hat"  # the letter of two bytes is cut, and unknown
    raw = text.encode()
    rows = list(streamed(raw))
    whole = Stream(*trained(), VOCABULARY)
    expected = whole.push(text)
    assert expected.unknown == 1
    assert rows == expected.segments + whole.finish().segments
    assert "".join(row["text"] for row in rows if row["layer"] == 1) == text
    with pytest.raises(UserError, match="not UTF-8: byte 7 cannot be read"):
        list(streamed(b"the cat\xff sat"))
    of_bytes = Vocabulary.of(raw, "bytes")
    rows = list(streamed(raw, of_bytes))
    assert "".join(row["text"] for row in rows if row["layer"] == 2) == raw.decode("latin-1")


def test_unknown_symbols_of_standard_input_are_told_at_its_end():
    told = []
    for raw in (b"the cat", "the cät sät, ok?".encode(), b"the \xc3\xa4\xff"):
        with contextlib.suppress(UserError):
            list(streamed(raw, tell=told.append))
    assert told == [
        "standard input: 5 of 16 symbols were never seen in training, read as unknown",
        "standard input: 1 of 5 symbols were never seen in training, read as unknown",
    ]
    # One who stops listening is told too, of what was read until then.
    lines = streamed("ä ".encode() * 99, tell=told.append)
    next(lines)
    lines.close()
    assert len(told) == 3


def test_bytes_that_were_never_seen_are_symbols_too():
    vocabulary = Vocabulary.of(b"the cat sat ", "bytes", unknown=True)
    reading = Stream(*trained(vocabulary=vocabulary), vocabulary).push(b"the c\xe4t\0")
    assert reading.symbols == list("the c\xe4t\0") and reading.unknown == 2


def test_bad_input_is_one_sentence_and_reads_nothing(tmp_path):
    model, params = trained()
    reader = Stream(model, params, VOCABULARY)
    for text, message in ((3, "str or bytes, not int"), (b"a\xff", "not UTF-8")):
        with pytest.raises(UserError, match=message):
            reader.push(text)
    assert reader._read == 0
    with pytest.raises(UserError, match="does not exist"):
        reader.save(tmp_path / "missing" / "a.npz")
    with pytest.raises(UserError, match="no stream at"):
        reader.load(tmp_path / "a.npz")
    for content in (b"", b"text", b"PK\x03\x04broken"):
        (tmp_path / "b.npz").write_bytes(content)
        with pytest.raises(UserError, match="not the state of a stream"):
            reader.load(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", leaf0=np.zeros(3))
    with pytest.raises(UserError, match="not the state of a stream"):
        reader.load(tmp_path / "c.npz")
    reader.save(tmp_path / "d.npz")
    other = jax.tree.map(lambda leaf: leaf + 1, params)
    for stranger in (
        Stream(model, other, VOCABULARY),
        Stream(model, params, VOCABULARY, slope=2.0),
        Stream(model, params, VOCABULARY, seed=1),
        Stream(model, params, VOCABULARY, by=Reading.of("entropy")),
    ):
        with pytest.raises(UserError, match="another model, slope, seed or reading"):
            stranger.load(tmp_path / "d.npz")
    plain = LanguageModel(VOCABULARY.size, 4, (lstm.Config(4, 6),), head="plain")
    with pytest.raises(UserError, match="no boundary detectors"):
        Stream(plain, params, VOCABULARY)
    with pytest.raises(UserError, match="task strokes"):
        Stream.of(run_of(VOCABULARY, task="strokes"))
