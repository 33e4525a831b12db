"""The page of `hmrnn explore`: what it holds is what the run found, and nothing else gets in."""

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from explored import (
    SENTENCES,
    UNSPACED,
    bits,
    content,
    make_up,
    run_of_letters,
    run_of_words,
    unpacked,
)  # fmt: skip
from stroke_models import config_of, data, make, mesh_of

from hmrnn_jax import cli, commands, explorer
from hmrnn_jax import run as runs
from hmrnn_jax.analysis.segmenters import heights_of, within_lines
from hmrnn_jax.batches.sequences import columns
from hmrnn_jax.datasets.sequences import Scale
from hmrnn_jax.errors import UserError
from hmrnn_jax.explorer import page, text, watch
from hmrnn_jax.inference import activations, reading, readings
from hmrnn_jax.tasks import language

FOLDER = Path(explorer.__file__).parent


@pytest.fixture(scope="module")
def letters():
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield run_of_letters(monkeypatch)


def test_a_page_of_text_has_the_readings_norms_and_predictions_of_the_run(letters, tmp_path):
    ends = np.arange(len(UNSPACED)) % 3 == 0
    letters.explore(UNSPACED, tmp_path / "a.html", name="mine", words=ends)
    found = content((tmp_path / "a.html").read_text(encoding="utf-8"))
    ids, newline = letters.encoding.encode(UNSPACED)[0], letters.encoding.line_end
    assert "".join(found["symbols"]).replace("⏎", "\n") == UNSPACED
    lines = ids == newline
    assert (bits(found["lines"], len(ids)) == lines).all()
    assert found["against"] == "words" and (bits(found["gold"], len(ids)) == ends).all()
    of_page = {one["name"]: one for one in found["readings"]}
    assert tuple(of_page) == readings.available(letters.model, newline)
    z = bits(of_page.pop("detectors")["z"], len(ids))
    np.testing.assert_array_equal(z, letters.boundaries(UNSPACED))
    valid = language.corpus_of(letters).splits["valid"]
    inner = within_lines(valid == newline)
    sizes = {"on": "the run's validation text", "symbols": 180}
    assert found["calibrated"] == sizes | {"inner": inner.sum(), "lines": (valid == newline).sum()}
    own, of_valid = (
        reading.curves(letters.model, letters.plain, of, ["line_break"], newline)["line_break"]
        for of in (ids, valid)
    )
    np.testing.assert_array_equal(unpacked(of_page["line_break"]["curves"]), own)
    heights = heights_of(of_valid[0], "peaks", inner)
    np.testing.assert_array_equal(unpacked(of_page["line_break"]["heights"][0]), heights)

    carry = letters.model.initial_carry(1)
    out = letters.model.apply({"params": letters.plain}, ids[:, None], carry)
    log_p = np.asarray(jax.nn.log_softmax(out.logits[:, 0]), np.float64)
    surprise = np.append(-log_p[np.arange(len(ids) - 1), ids[1:]], 0)
    expected = {"entropy": -np.sum(np.exp(log_p) * log_p, axis=1), "surprise": surprise}
    expected["line_end"] = log_p[:, newline]
    for name, curve in expected.items():
        told = unpacked(of_page[name]["curves"])[0]
        np.testing.assert_allclose(told, curve, rtol=1e-3, atol=1e-4)

    symbols = {symbol.replace("\n", "⏎"): i for i, symbol in enumerate(letters.encoding.symbols)}
    of_known = np.array([symbols[symbol] for symbol in found["known"]])
    likeliest, told = of_known[unpacked(found["likeliest"])], unpacked(found["chances"]) / 65535
    chances = np.exp(log_p)
    np.testing.assert_allclose(told, np.take_along_axis(chances, likeliest, 1), atol=0.003)
    highest = -np.sort(-chances, axis=1)[:, : text.PREDICTED]
    np.testing.assert_allclose(told, highest, atol=0.003)
    norms = [np.linalg.norm(h, axis=-1)[:, 0] for h in out.states[0].h]
    np.testing.assert_allclose(unpacked(found["norms"]), norms, atol=np.max(norms) / 200)


def test_spaces_are_the_truth_where_no_words_are_given(letters, monkeypatch):
    ids = np.arange(5)
    found = text.look(letters, ids, ["a", "b", " ", "\t", "b"], "mine")
    assert found["against"] == "spaces" and bits(found["gold"], 5).tolist() == [0, 0, 1, 0, 0]
    assert bits(found["blank"], 5).tolist() == [0, 0, 0, 1, 0]
    assert found["symbols"] == ["⏎", "b", " ", "⇥", "b"]  # the first id is the line end's
    # Ends of lines alone are no spaces to score against.
    found = text.look(letters, np.array([1, 0, 2, 0]), ["a", "\n", "b", "\n"], "mine")
    assert found["gold"] is None
    assert text.look(letters, ids, list("abcde"), "mine")["gold"] is None

    def gone(run):
        raise UserError("it is gone")

    monkeypatch.setattr(language, "corpus_of", gone)
    assert text.look(letters, ids, list("abcde"), "mine")["calibrated"]["on"].startswith(
        "this text"
    )


def test_what_a_text_holds_is_never_markup(letters, tmp_path):
    letters.explore(UNSPACED, tmp_path / "a.html", name="<img src=x>&'\u2028")
    written = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert written.count("</script>") == written.count("<script") == 2
    assert "<img" not in written and "<b>&" not in written
    assert content(written)["name"] == "<img src=x>&'\u2028"
    assert "</script>" in "".join(content(written)["symbols"])


def test_a_page_asks_nothing_of_any_network():
    for path in FOLDER.glob("*.*"):
        if path.suffix != ".py":
            assert not re.search(r"\w+://|\b(src|href)=\"(?!#)|@import|url\(", path.read_text())
    assert "default-src 'none'" in (FOLDER / "explorer.html").read_text()


def test_twenty_thousand_symbols_take_less_than_three_megabytes(letters, monkeypatch):
    make_up(monkeypatch)
    count = text.SHOWN
    ids = np.random.default_rng(0).integers(0, letters.encoding.size, 2 * count)
    found = text.look(letters, ids, letters.encoding.symbol_strings(ids), "mine")
    assert len(found["symbols"]) == count
    assert 10**6 < len(page.html(found)) < 3 * 10**6


def test_distances_are_those_that_sentences_are_parsed_by(tmp_path):
    run = run_of_words()
    run.explore(SENTENCES, tmp_path / "a.html")
    found = content((tmp_path / "a.html").read_text(encoding="utf-8"))
    lines = [line.split() for line in SENTENCES.splitlines()]
    expected = activations.distances(run.model, run.plain, run.encoding, lines)
    expected = np.concatenate([np.pad(one, [(0, 1), (0, 0)]) for one in expected]).T
    np.testing.assert_allclose(unpacked(found["distances"]), expected, rtol=1e-5)
    assert found["gold"] is None and found["unit"] == "words"
    assert found["symbols"][6] == "⏎" and "<cat> " in found["symbols"]


def test_a_page_of_strokes_has_each_sequence_as_it_is_read_alone(tmp_path):
    model, params = make("hm_lstm")
    scale = Scale(("x", "y"), "pen", (1.0, -2.0), (0.5, 3.0))
    run = runs.Run("run", config_of(), scale, model, params, 1.0, mesh_of())
    sequences = data((40, 7, 30))
    run.explore(sequences, tmp_path / "a.html", shown=50)
    found = content((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert found["against"] == "pen" and [one["name"] for one in found["sequences"]] == [
        "sequence 0", "sequence 1",
    ]  # fmt: skip
    for number, one in enumerate(found["sequences"]):
        place = sequences.place(number)
        alone = columns(sequences)[place][:, None]
        z, norms, surprise = activations.with_surprise(model, params, alone)
        np.testing.assert_array_equal(bits(one["z"], len(alone)), np.array(z)[..., 0] > 0.5)
        np.testing.assert_allclose(unpacked(one["surprise"]), surprise[:, 0], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(unpacked(one["norms"]), norms[..., 0], atol=norms.max() / 200)
        raw = scale.restore(sequences.values[place]).T
        np.testing.assert_allclose(unpacked(one["values"]), raw, rtol=1e-5)
        for kind in ("events", "gold"):
            np.testing.assert_array_equal(bits(one[kind], len(alone)), sequences.events[place])
    run.explore(sequences, tmp_path / "b.html", shown=13)  # of the first one its beginning
    (one,) = content((tmp_path / "b.html").read_text(encoding="utf-8"))["sequences"]
    assert unpacked(one["values"]).shape == (2, 13) and len(unpacked(one["surprise"])) == 13
    # Where one of the sequences has changes, the others are not scored against something else.
    changes = np.arange(77) == 43
    known = dataclasses.replace(sequences, changes=changes)
    run.explore(known, tmp_path / "c.html", shown=50)
    changing = content((tmp_path / "c.html").read_text(encoding="utf-8"))
    assert changing["against"] == "changes"
    of_each = [bits(one["gold"], n) for one, n in zip(changing["sequences"], (40, 7), strict=True)]
    np.testing.assert_array_equal(np.concatenate(of_each), changes[:47])
    with pytest.raises(UserError, match="words are of texts"):
        run.explore(sequences, tmp_path / "d.html", words=np.ones(77, bool))
    # Both end a segment, as lines do.
    sizes = {"symbols": 47, "inner": 45, "lines": 2}
    assert sizes.items() <= found["calibrated"].items()


def test_a_watched_training_keeps_its_validations(letters, tmp_path, monkeypatch):
    """All of them at first, then fewer and fewer; a resumed one goes on where it was."""
    make_up(monkeypatch)
    corpus = language.corpus_of(letters)
    task = SimpleNamespace(encoding=letters.encoding, model=letters.model, corpus=corpus)

    def watched():
        return watch.Watch(task, letters.config, "HM-LSTM", tmp_path)

    def kept():
        found = page.read(tmp_path / watch.NAME)
        updates = [one["update"] for one in [*found["earlier"], found]]
        assert all(set(text.OF_PARAMETERS) < set(one) for one in [*found["earlier"], found])
        assert len(found["symbols"]) == 180 and found["calibrated"]["on"] == "this text"
        assert not {"line_break"} & {one["name"] for one in found["readings"]}
        return updates

    first = watched()
    for update in (10, 20, 30):
        first(update, {}, 1.0)
    assert kept() == [10, 20, 30]
    again = watched()  # resumed from update 15
    again(20, {}, 1.0)
    assert kept() == [10, 20]
    for update in range(30, 500, 10):
        again(update, {}, 1.0)
    many = kept()
    assert len(many) <= watch.MOST_KEPT + 1 and many[0] == 10 and many[-1] == 490
    letters.explore(UNSPACED, tmp_path / watch.NAME)  # another page, then none at all
    watched()(500, {}, 1.0)
    assert kept() == [500]
    (tmp_path / watch.NAME).write_text("something else")
    watched()(600, {}, 1.0)
    assert kept() == [600]
    # Of another text nothing is kept, nor of a page that lacks something.
    corpus.splits["valid"] = corpus.splits["valid"][5:]
    watched()(700, {}, 1.0)
    assert page.read(tmp_path / watch.NAME)["earlier"] == []
    data = page.read(tmp_path / watch.NAME)
    del data["norms"], data["earlier"]
    page.write(tmp_path / watch.NAME, data)
    watched()(800, {}, 1.0)
    assert page.read(tmp_path / watch.NAME)["earlier"] == []
    (tmp_path / watch.NAME).unlink()
    (tmp_path / watch.NAME).mkdir()
    with pytest.raises(UserError, match="is a folder: give the name of a file"):
        watched()
    with pytest.raises(UserError, match="task language; this is one of strokes"):
        watch.Watch(task, config_of(), "HM-LSTM", tmp_path)


def test_what_cannot_be_shown_is_one_sentence_and_writes_nothing(letters, tmp_path, capsys):
    path = tmp_path / "a.html"
    path.write_text("as it was")
    with pytest.raises(UserError, match="This text has 1 symbols: give 2 or more"):
        letters.explore("t", path)
    for shown in (-5, 1, 10**6):
        with pytest.raises(UserError, match=f"shows 2 to 200,000 symbols; {shown:,} are asked"):
            letters.explore(UNSPACED, path, shown=shown)
    with pytest.raises(UserError, match=r"not among the \d+ known characters"):
        letters.explore("Q", path)
    with pytest.raises(UserError, match="The ends of words have shape .3,., the symbols are 276"):
        letters.explore(UNSPACED, path, words=[True] * 3)
    strokes = dataclasses.replace(letters, config=config_of())
    with pytest.raises(UserError, match="mine is a run on real-valued sequences"):
        strokes.explore(UNSPACED, path)
    with pytest.raises(UserError, match="does not exist"):
        letters.explore(UNSPACED, tmp_path / "absent" / "a.html")
    assert path.read_text() == "as it was" and len(list(tmp_path.iterdir())) == 1
    for flags, sentence in {
        "--text=a --split=test": "--text and --split are asked at once",
        "--shown=1": "--shown",
        f"--workdir={tmp_path}": "is not a run",
    }.items():
        assert cli.status(lambda: commands.execute(["hmrnn", "explore", *flags.split()])) == 2  # noqa: B023
        said = capsys.readouterr().err
        assert said.count("\n") == 1, said
        assert sentence in said
