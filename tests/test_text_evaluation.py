"""What is shown of language models: whatever stands in the text, and what comes of it."""

import json

import jax
import numpy as np
import pytest

from hmrnn_jax import datasets, defaults, parallel
from hmrnn_jax.analysis import parsing, scores
from hmrnn_jax.analysis.segmenters import within_lines, word_scores
from hmrnn_jax.cells import hm_lstm, on_lstm
from hmrnn_jax.datasets.text import Corpus
from hmrnn_jax.datasets.vocabulary import Vocabulary
from hmrnn_jax.errors import UserError
from hmrnn_jax.evaluation import syntax, text
from hmrnn_jax.inference import activations, generate_text
from hmrnn_jax.models.language import LanguageModel
from hmrnn_jax.run import Run
from hmrnn_jax.tasks import language, sequences
from hmrnn_jax.training import titles

SENTENCES = "the cat sat on a mat\nthe dog <unk> ( a cat )\n"


def run_of(vocabulary, cells=None):
    cells = cells or (hm_lstm.Config(4, (6, 5), layer_norm="none"),)
    head = "plain" if len(cells) > 1 else "gated"
    model = LanguageModel(vocabulary.size, 4, cells, 8, head)
    params = language.init_params(model, jax.random.key(0))
    config = defaults.text()
    config.data.name = "text"
    mesh = parallel.make_mesh(jax.devices()[:1])
    return Run("mine", config, vocabulary, model, params, 1.0, mesh)


def on_lstms():
    return (on_lstm.Config(4, 6, chunk=2), on_lstm.Config(6, 6, chunk=2))


@pytest.fixture(scope="module")
def of_words():
    return run_of(Vocabulary.of(SENTENCES, "words"), on_lstms())


# Titles


def test_a_run_is_called_by_its_model_and_data_not_its_folder():
    ptb, own, logic = defaults.text(), defaults.text(), defaults.logic()
    ptb.data.name = "ptb_char"
    own.data.name, own.data.path = "text", "my/poems.txt"
    own.model.cell, own.model.sizes = "nested_lstm", (600,)
    logic.model.sizes = (400, 300)
    assert titles.title(ptb) == "HM-LSTM 3 x 512 on Penn Treebank characters"
    assert titles.title(own) == "Nested LSTM 600 on poems.txt"
    assert titles.title(logic) == "ON-LSTM 400 + 300 on logical inference"
    named = set(datasets.NAMES) | set(sequences.NAMES) | {"logic", "images"}
    assert set(titles.DATA) == named - {"text", "signals"}
    assert titles.titles({"a": ptb, "b": own}) == {"a": titles.title(ptb), "b": titles.title(own)}
    other = defaults.text()
    other.data.name, other.clip, other.detector_rate = "ptb_char", 1.0, 1.0
    assert titles.titles({"a": ptb, "b": other}) == {
        "a": "HM-LSTM 3 x 512 on Penn Treebank characters, clip 0.25, detector_rate 0.1",
        "b": "HM-LSTM 3 x 512 on Penn Treebank characters, clip 1.0, detector_rate 1.0",
    }
    # Nothing or much differs: then the folders tell them apart.
    again = titles.titles({"runs/a": ptb, "runs/b": ptb.copy_and_resolve_references()})
    assert list(again.values()) == [f"{titles.title(ptb)}, {folder}" for folder in "ab"]
    again = titles.titles({"a/hm": ptb, "b/hm": ptb.copy_and_resolve_references()})
    assert list(again.values()) == [f"{titles.title(ptb)}, {folder}/hm" for folder in "ab"]


# Texts


def test_the_score_of_a_model_that_diverged_is_told():
    told = text.score_table({"symbols": 1, "nats": 800.0, "bpc": 1154.0})
    assert "nats 800.0000" in told and "bpc 1154" in told


def test_the_score_of_a_model_of_words_is_not_called_one_of_characters():
    told = text.score_table({"symbols": 1, "nats": 4.0, "bpc": 5.77}, "words")
    assert "bits per word 5.77" in told and "bpc" not in told


def test_bytes_never_seen_are_shown_scored_and_cut(tmp_path):
    """As they stand in a text, and as one sign in a split, which knows only ids."""
    run = run_of(Vocabulary.of(b"the cat sat on a mat. ", "bytes", unknown=True))
    raw = "the cät sat\0 on\xa0a mat. ".encode()
    (tmp_path / "mine.txt").write_bytes(raw)
    ids, symbols, note = text.read(tmp_path / "mine.txt", run.encoding)
    assert symbols == raw.decode("latin-1") and note.endswith(
        f"5 of {len(raw)} symbols were never seen in training, read as unknown"
    )
    for shown in (symbols, run.encoding.symbol_strings(ids)):
        said = text.show_boundaries(run, "mine", (ids, shown), None, tmp_path / "figure.png")
        assert "boundaries against spaces" in said
    text.segment(run, (ids, symbols), tmp_path / "segments.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "segments.jsonl").open(encoding="utf-8")]
    assert "".join(row["text"] for row in rows) == raw.decode("latin-1")


@pytest.mark.parametrize("words", [False, True])
def test_boundaries_are_scored_beside_untrained_models_of_the_same_configuration(tmp_path, words):
    """Those that train.py begins with, given the seeds 0 to 4; spaces or words."""
    run = run_of(Vocabulary.of(SENTENCES, "characters"))
    ids, _ = run.encoding.encode(SENTENCES * 9)
    ends = np.array([symbol == "a" for symbol in SENTENCES * 9]) if words else None
    inputs = ids, SENTENCES * 9
    shown = text.show_boundaries(run, "mine", inputs, ends, tmp_path / "figure.png")
    rows = {(row["reading"], row["layer"], row["control"]): row for row in shown.data["rows"]}
    gold = ends if words else np.array([symbol == " " for symbol in inputs[1]])
    newline = np.array([symbol == "\n" for symbol in inputs[1]])
    mask = within_lines(newline)
    f1, words_f1 = [], []
    for seed in range(5):
        key, _ = jax.random.split(jax.random.key(seed))
        params = language.init_params(run.model, key)
        z, _ = activations.of(run.model, params, ids)
        f1.append(scores.precision_recall_f1(z[0], gold, 0, mask)[2])
        words_f1.append(word_scores(z[0], gold, newline)[0][2])
    row = rows["detectors", 1, "untrained"]
    assert row["f1"] == pytest.approx(np.mean(f1)) and row["seeds"] == 5
    assert row["f1_std"] == pytest.approx(np.std(f1, ddof=1))
    assert row["word_f1"] == pytest.approx(np.mean(words_f1))
    own = rows["detectors", 1, None]
    z, _ = activations.of(run.model, run.plain, ids)
    assert own["f1"] == pytest.approx(scores.precision_recall_f1(z[0], gold, 0, mask)[2])
    assert own["rate"] == pytest.approx(z[0][mask].mean())
    assert ("f1_later" in own) == (not words)
    assert "untrained: 5 freshly initialised" in shown and "no n-gram model" in shown
    names = ("detectors", "entropy", "entropy_within", "surprise", "pmi", "line_end")
    assert {key[0] for key in rows} == {*names, None}
    assert rows[None, None, "every"]["precision"] == pytest.approx(gold[mask].mean())


def test_a_space_of_bytes_is_one_of_ascii(tmp_path):
    """Bytes 0x85 and 0xa0 are parts of characters, not the spaces of that number."""
    run = run_of(Vocabulary.of("à la carte ", "bytes"))
    ids, _ = run.encoding.encode("à la carte ")
    inputs = ids, run.encoding.symbol_strings(ids)
    with pytest.raises(UserError, match="--scored is 1"):
        text.show_boundaries(run, "mine", inputs, None, tmp_path / "figure.png", scored=1)
    shown = text.show_boundaries(run, "mine", inputs, None, tmp_path / "figure.png")
    # Two of eleven: the last symbol of the text ends its line anyway.
    assert shown.data["rows"][-1]["precision"] == pytest.approx(2 / 11)


@pytest.mark.parametrize("unit", ["characters", "bytes", "words"])
def test_the_view_at_the_end_of_training_has_a_mark_for_each_symbol(unit):
    content = "naïve café, the cät sat on a mat\n" * 9
    vocabulary = Vocabulary.of(content, unit, unknown=True)
    ids, _ = vocabulary.encode(content + "new ü\n")
    run = run_of(vocabulary)
    corpus = Corpus("text", {"train": ids, "test": ids}, vocabulary, "", {})
    said = language.view(run.model, run.plain, corpus, 2.0)
    assert f"in the first {len(ids)} {unit} of the test text" in said
    assert f"over {len(ids)} symbols" in said


def test_soft_detectors_are_shown_where_they_are_above_one_half():
    vocabulary = Vocabulary.of(SENTENCES, "characters")
    ids, _ = vocabulary.encode(SENTENCES)
    cells = hm_lstm.Config(4, (6, 5), layer_norm="none", boundary="soft", detector_scale=5.0)
    run = run_of(vocabulary, (cells,))
    corpus = Corpus("text", {"train": ids, "test": ids}, vocabulary, "", {})
    said = language.view(run.model, run.plain, corpus, 2.0, slope=2.0)
    (z,), _ = activations.of(run.model, run.plain, ids, 2.0)
    assert 0 < z.sum() < len(z) and said.count("|") == z.sum()
    np.testing.assert_array_equal(z, run.boundaries(SENTENCES)[0])


def test_a_model_without_lines_begins_with_a_space_and_reads_words(tmp_path):
    vocabulary = Vocabulary.of("the cat sat on a mat", "characters")
    run = run_of(vocabulary)
    assert run.sample(length=5)["log_probabilities"].shape == (5,)
    assert run.sample(length=5)["text"] == run.sample(" ", 5)["text"]
    (tmp_path / "gold.txt").write_text("the cat\nsat\n")
    ids, symbols, _, ends = text.read_words(tmp_path / "gold.txt", vocabulary)
    assert "".join(symbols) == "thecatsat" and np.flatnonzero(ends).tolist() == [2, 5, 8]
    assert (
        Vocabulary.of("ab", "characters").beginning == "b"
        and Vocabulary.of(b"a b", "bytes").beginning == " "
    )


def test_a_byte_order_mark_and_blanks_are_no_words(tmp_path, of_words):
    path = tmp_path / "mine.txt"
    path.write_bytes("\ufeffthe cat\r\nsat".encode())
    _, symbols, note = text.read(path, of_words.encoding)
    assert list(symbols) == ["the ", "cat ", "<eos> ", "sat "] and note == ""
    path.write_text(" \n \n\n")
    with pytest.raises(UserError, match="mine.txt holds no word"):
        text.read(path, of_words.encoding)
    path.write_bytes("\ufeff the cat".encode())
    characters = Vocabulary.of(SENTENCES, "characters")
    assert text.read_words(path, characters)[1] == "thecat\n"
    assert text.read(path, characters)[1] == " the cat"


# Samples


def test_unknown_symbols_of_a_prompt_are_told(of_words):
    said = text.sample(of_words, "the zebra ate the cat", 3)
    assert said.splitlines()[-1] == (
        "--prompt: 2 of 5 words were never seen in training, read as unknown"
    )
    run = run_of(Vocabulary.of(b"the cat", "bytes", unknown=True))
    for prompt, count in (("the", None), ("thé", 2), ("th\udce9", 1)):  # not UTF-8: a surrogate
        last = text.sample(run, prompt, 3).splitlines()[-1]
        assert last.startswith(f"--prompt: {count} of") if count else "under the model" in last


def test_a_prompt_of_words_is_set_apart_from_what_follows(of_words, monkeypatch):
    drawn = iter([["cat", "sat"], ["<eos>", "the"], ["cat"], ["cat"]])

    def draw(*arguments):
        ids = [of_words.encoding.symbols.index(word) for word in next(drawn)]
        return np.array(ids), np.zeros(len(ids))

    monkeypatch.setattr(generate_text, "generate", draw)
    said = [text.sample(of_words, prompt, 2) for prompt in ("the", "the", "the ", "the\n")]
    begins = ["the cat sat\n", "the\nthe\n", "the cat\n", "the\ncat\n"]
    assert all(map(str.startswith, said, begins))


# Sentences


@pytest.fixture
def parsed(tmp_path, of_words):
    """A function of a text: the lines on its trees."""

    def parse(content, **changes):
        (tmp_path / "sentences.txt").write_bytes(content.encode())
        words = syntax.read_sentences(tmp_path / "sentences.txt")
        options = {"layer": 2, "biased": True, "draw": 1} | changes
        said = syntax.parse(of_words, words, picture=tmp_path / "tree.png", **options)
        assert (tmp_path / "tree.png").read_bytes().startswith(b"\x89PNG")
        return said.split("\n")

    return parse


def test_trees_are_read_back_a_line_for_each_line_of_the_text(parsed):
    sentences = ["the cat", "", "a dog ( the mat ) sat", " ", "f(x) \u2028 on\x85 a mat", "cat", ""]
    lines = parsed("\ufeff" + "\r\n".join(sentences) + "\r\n")
    assert lines[-1].startswith("figure: ")
    trees = lines[: len(sentences)]
    assert "-LRB-" in trees[2] and "f-LRB-x-RRB-" in trees[4]
    for sentence, tree in zip(sentences, trees, strict=True):
        words = parsing.leaves(parsing.tree_from_brackets(tree)) if tree else []
        assert words == sentence.split()
        assert not tree or parsing.bracket_string(parsing.tree_from_brackets(tree)) == tree


def test_a_sentence_too_long_to_draw_has_its_tree_all_the_same(of_words, tmp_path):
    long, picture = ("the",) * 301, tmp_path / "tree.png"
    options = {"layer": 2, "biased": True, "picture": picture}
    said = syntax.parse(of_words, [long, ("the", "cat")], draw=1, **options)
    first, second, told = said.split("\n")
    assert first.count("the") == 301 and second == "( the cat )" and not picture.exists()
    assert told.startswith("no figure: sentence 1 has 301 words") and said.data["figure"] is None
    assert syntax.parse(of_words, [long, ("the", "cat")], draw=2, **options).data["figure"]


def test_unknown_words_of_sentences_are_counted(parsed):
    assert len(parsed("the cat sat\nThe CAT\n")) == 3  # known in lower case
    lines = parsed("the zebra sat\n\nzebras\n")
    assert lines[3] == "the sentences: 2 of 4 words were never seen in training, read as unknown"
    with pytest.raises(UserError, match="--draw is 3; there are 2 sentences"):
        parsed("the zebra sat\n\nzebras\n", draw=3)


def test_a_word_with_a_space_of_unicode_in_it_is_one(of_words, tmp_path):
    (tmp_path / "a.mrg").write_text(
        "(S (NP (CD 1\u00a01/2) (NNS cat)) (VP (VBP sat)))\n(())", encoding="utf-8"
    )
    report = syntax.trees(of_words, syntax.read_treebank(tmp_path / "a.mrg"))
    said = report.split("\n")
    assert "1 trees with faulty brackets were skipped" in said[0]
    assert said[1] == "the sentences: 1 of 3 words were never seen in training, read as unknown"
    assert report.data["layer 2, biased"]["sentences"] == 1
