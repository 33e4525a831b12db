"""A long text read in rows: which boundaries are the single pass's, and what is written of them."""

import json
import os

import jax
import numpy as np
import pytest

from hmrnn_jax import defaults, parallel
from hmrnn_jax import run as runs
from hmrnn_jax.analysis import boundaries, glyphs
from hmrnn_jax.cells import hm_lstm, lstm
from hmrnn_jax.datasets.vocabulary import Vocabulary
from hmrnn_jax.errors import UserError
from hmrnn_jax.evaluation import text as evaluation
from hmrnn_jax.inference import activations, reading, sparse_model
from hmrnn_jax.models.language import LanguageModel
from hmrnn_jax.tasks import language

SYMBOLS = "abcdefgh \n京"


def make(**choices):
    config = hm_lstm.Config(6, (8, 7, 5), layer_norm="none", **choices)
    model = LanguageModel(len(SYMBOLS), 6, (config,), 9)
    params = language.init_params(model, jax.random.key(3))
    return model, jax.tree.map(lambda x: 1.5 * x, params)


@pytest.fixture(scope="module")
def setup():
    model, params = make()
    ids = np.random.default_rng(0).integers(0, len(SYMBOLS), 603).astype(np.int32)
    return model, params, ids


@pytest.fixture(scope="module")
def single(setup):
    """z of one pass over the whole text, by the dense cell."""
    model, params, ids = setup
    out = jax.jit(model.apply)({"params": params}, ids[:, None], model.initial_carry(1))
    z = np.stack([np.asarray(layer)[:, 0] for layer in out.states[0].z])
    assert 0.1 < z.mean() < 0.9
    return z


def test_one_row_is_the_single_pass(setup, single):
    z = reading.boundaries(*setup, rows=1)
    assert z.dtype == np.int8
    np.testing.assert_array_equal(z, single)
    model, params, ids = setup
    looked, _ = activations.of(*sparse_model.inference(model, params), ids)
    np.testing.assert_array_equal(z, looked)


def test_rows_that_read_their_whole_past_are_the_single_pass(setup, single):
    for rows in (2, 5):  # 603 is not a multiple of either
        z = reading.boundaries(*setup, rows=rows, warmup=len(single[0]))
        np.testing.assert_array_equal(z, single)


def test_each_boundary_is_of_the_row_whose_part_it_lies_in(setup, single):
    """A row's are those of a text that begins where its warm-up does."""
    model, params, ids = setup
    z = reading.boundaries(model, params, ids, rows=5, warmup=7)
    edges = np.arange(6) * len(ids) // 5
    np.testing.assert_array_equal(z[:, : edges[1]], single[:, : edges[1]])
    differs = False
    for start, end in zip(edges[1:-1], edges[2:], strict=True):
        alone = reading.boundaries(model, params, ids[start - 7 : end], rows=1)
        np.testing.assert_array_equal(z[:, start:end], alone[:, 7:])
        differs |= (z[:, start:end] != single[:, start:end]).any()
    assert differs  # so that the warm-up matters here


def test_short_texts_are_read_in_one_pass_and_long_ones_in_rows(setup, single, monkeypatch):
    monkeypatch.setattr(reading, "SINGLE_PASS", 600)
    monkeypatch.setattr(reading, "ROWS", 5)
    model, params, ids = setup
    z = reading.boundaries(model, params, ids, warmup=7)
    np.testing.assert_array_equal(z, reading.boundaries(model, params, ids, rows=5, warmup=7))
    np.testing.assert_array_equal(reading.boundaries(model, params, ids[:600]), single[:, :600])


def test_sampled_boundaries_follow_the_seed_and_the_rows():
    model, params = make(boundary="sample")
    ids = np.random.default_rng(0).integers(0, len(SYMBOLS), 603)
    z = {
        key: reading.boundaries(model, params, ids, seed=key[0], rows=key[1], warmup=7)
        for key in ((0, 1), (1, 1), (0, 5))
    }
    for key, found in z.items():
        again = reading.boundaries(model, params, ids, seed=key[0], rows=key[1], warmup=7)
        np.testing.assert_array_equal(found, again)
    assert (z[0, 1] != z[1, 1]).any() and (z[0, 1] != z[0, 5]).any()
    looked, _ = activations.of(*sparse_model.inference(model, params), ids, seed=1)
    np.testing.assert_array_equal(z[1, 1], looked)


def test_a_dense_model_reads_the_same(setup, single, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    for rows in (1, 5):
        z = reading.boundaries(*setup, rows=rows, warmup=len(single[0]))
        np.testing.assert_array_equal(z, single)


def test_what_cannot_be_read_is_refused(setup):
    model, params, ids = setup
    for keywords in ({"rows": 0}, {"warmup": -1}):
        with pytest.raises(UserError, match="row"):
            reading.boundaries(model, params, ids, **keywords)
    with pytest.raises(UserError, match="row"):
        reading.boundaries(model, params, ids[:0])
    for cell in (lstm.Config(6, 8), hm_lstm.Config(6, (8,))):
        with pytest.raises(UserError, match="no boundary detectors"):
            reading.boundaries(model.clone(cells=(cell,)), params, ids)


def test_speed_and_time_left_are_told_every_few_seconds(monkeypatch):
    now, told = [100.0], []
    monkeypatch.setattr(reading.time, "monotonic", lambda: now[0])
    pace = reading.Pace(1_000_000, told.append, every=5)
    for done in range(0, 900_000, 100_000):
        pace(done)
        now[0] += 2
    # The first call ends the compilation: what it read counts for nothing.
    assert told[0] == "300,000 of 1,000,000 symbols read, 50,000 a second, 0m14s left"
    assert len(told) == 2 and "600,000 of" in told[1]


class Recorded:
    """Symbols whose slices are counted."""

    def __init__(self, symbols):
        self.symbols, self.longest = symbols, 0

    def __len__(self):
        return len(self.symbols)

    def __getitem__(self, place):
        part = self.symbols[place]
        self.longest = max(self.longest, len(part))
        return part


@pytest.mark.parametrize("piece", [1, 7, 64, 1000])
def test_lines_are_those_of_the_segments_however_the_text_is_cut(piece):
    rng = np.random.default_rng(piece)
    text = "".join(rng.choice(list('ab "\\\n京\x07\ud800'), 200))
    z = (rng.random((3, 200)) < [[0.4], [0.05], [0]]).astype(np.int8)
    z[0, -1] = 1
    expected = [
        json.dumps(row, ensure_ascii=False) + "\n"
        for number, layer in enumerate(z, start=1)
        for row in boundaries.segments(text, layer, number)
    ]
    for symbols in (text, Recorded(list(text))):
        assert sum(boundaries.segment_lines(symbols, z, piece), []) == expected
    assert symbols.longest == min(piece, 200)
    with pytest.raises(UserError):
        list(boundaries.segment_lines(text[1:], z))


@pytest.fixture(scope="module")
def run(setup):
    model, params, _ = setup
    vocabulary = Vocabulary("characters", tuple(SYMBOLS))
    mesh = parallel.make_mesh(jax.devices()[:1])
    return runs.Run("run", defaults.text(), vocabulary, model, params, 1.0, mesh)


def test_segments_of_a_file_are_those_of_the_boundaries(run, setup, single, tmp_path):
    ids = setup[2]
    text = "".join(SYMBOLS[i] for i in ids)
    (tmp_path / "mine.txt").write_text(text, encoding="utf-8", newline="")
    *inputs, note = evaluation.read(tmp_path / "mine.txt", run.encoding)
    assert not note
    said, path = evaluation.segment(run, inputs, tmp_path / "whole.jsonl"), tmp_path / "whole.jsonl"
    expected = [
        row
        for number, layer in enumerate(single, start=1)
        for row in boundaries.segments(text, layer, number)
    ]
    assert [json.loads(line) for line in path.read_text("utf-8").splitlines()] == expected
    assert f"{len(expected)} segments of 2 layers: {path}" in said
    assert f"\nlayer 1: {glyphs.glyph(expected[0]['text'])}|" in said and "\nlayer 2: " in said
    assert "in one pass, exactly" in said and "need not be nested" in said
    said = evaluation.segment(run, inputs, tmp_path / "rows.jsonl", batch=5, warmup=603)
    assert (tmp_path / "rows.jsonl").read_text("utf-8") == path.read_text("utf-8")
    assert "5 rows, each after 603 symbols of its own past" in said and "--batch=1" in said
    assert sorted(os.listdir(tmp_path)) == ["mine.txt", "rows.jsonl", "whole.jsonl"]


def test_segments_of_two_layers_are_nested_where_the_cell_nests_them(setup, single):
    ends = [set(np.flatnonzero(layer)) for layer in single]
    assert ends[1] - ends[0]  # layer 2 ends segments within segments of layer 1
    assert "need not be nested" in reading.nesting(setup[0])
    model, params = make(nested=True)
    z = reading.boundaries(model, params, setup[2], rows=3, warmup=7)
    assert z[1].any() and not (z[1] > z[0]).any()
    assert "whole segments of the layer below" in reading.nesting(model)


def test_symbols_of_bytes_and_words_are_spelled_when_asked_for():
    for unit, text, symbols in (
        ("bytes", "né\n", ["n", "Ã", "©", "\n"]),
        ("words", "the end\n", ["the ", "end ", "<eos> "]),
    ):
        vocabulary = Vocabulary.of(text, unit)
        ids, _ = vocabulary.encode(text)
        spelled = evaluation.SymbolStrings(ids, vocabulary)
        assert len(spelled) == len(symbols) and list(spelled) == symbols
        assert spelled[1:] == symbols[1:] and spelled[-1] == symbols[-1]
