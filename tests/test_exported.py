"""A run as one file: what is read back is what was written, and nothing else is taken for it."""

import dataclasses
import functools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from command_lines import hmrnn, is_one_sentence

import hmrnn_jax as hm
from hmrnn_jax import defaults, parallel, pretrained
from hmrnn_jax.datasets.sequences import Scale
from hmrnn_jax.datasets.vocabulary import Vocabulary
from hmrnn_jax.errors import UserError
from hmrnn_jax.evaluation import text as evaluation
from hmrnn_jax.opening import describe
from hmrnn_jax.run import Run
from hmrnn_jax.tasks import language, sequences
from hmrnn_jax.training import exported

TEXT = "the cat sat on a mat\nthe dog sat on the cat\n"
CELLS = ("hm_lstm", "on_lstm", "nested_lstm", "lstm", "gru")


def _run(task, config, encoding, seed=0):
    """A run whose parameters are drawn."""
    config.model.sizes, config.model.output = (8, 8), 8
    config.model.on_lstm.chunk = 2
    model = task.model_of(config.model, encoding)
    shapes = jax.eval_shape(functools.partial(task.init_params, model), jax.random.key(0))
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype("f4"), shapes)
    mesh, card = parallel.make_mesh(jax.devices()[:1]), {"updates": 4}
    return Run("mine", config, encoding, model, params, 1.5, mesh, card=card)


def of_text(cell="hm_lstm", unit="characters"):
    config = defaults.text()
    config.model.cell, config.data.unit, config.model.embedding = cell, unit, 8
    config.data.name, config.data.path = "text", "gone.txt"
    if cell not in ("hm_lstm", "lstm"):
        config.model.head = "plain"
    config.evaluation.update(batch=2, window=10, warmup=10)
    return _run(language, config, Vocabulary.of(TEXT, unit))


def of_strokes():
    scale = Scale(("dx", "dy"), "pen_up", (0.5, 1.5), (1.0, 2.0))
    return _run(sequences, defaults.strokes(), scale)


def the_same(found, run, dtype=np.float32):
    rounded = jax.tree.map(lambda leaf: leaf.astype(dtype).astype("f4"), run.params)
    jax.tree.map(np.testing.assert_array_equal, found.plain, rounded)
    assert found.encoding == run.encoding and found.slope == run.slope
    assert json.dumps(found.config.to_dict()) == json.dumps(run.config.to_dict())
    assert found.model == run.model


@pytest.mark.parametrize("make", [*(functools.partial(of_text, c) for c in CELLS), of_strokes])
def test_a_run_comes_back_as_it_was(make, tmp_path):
    run = make()
    run.export(tmp_path / "mine.safetensors")
    the_same(hm.load(tmp_path / "mine.safetensors"), run)


@pytest.mark.parametrize("dtype", exported.DTYPES)
def test_weights_are_rounded_as_asked_and_the_card_says_what_they_are(tmp_path, dtype):
    run, path = of_text(), tmp_path / "mine.safetensors"
    card = run.export(path, dtype=dtype)
    found = hm.load(path)
    the_same(found, run, jnp.dtype(dtype))
    size = sum(leaf.size for leaf in jax.tree.leaves(run.params))
    wanted = {"title": run.title, "updates": 4, "parameters": size, "dtype": dtype}
    assert wanted.items() <= found.card.items() and found.card == card
    width = jnp.dtype(dtype).itemsize
    assert size * width < path.stat().st_size < size * width + 12_000
    assert found.name == "mine" and dtype in found.notes[0]
    # Once more, from the file: nothing is rounded twice, nothing of the card is lost.
    assert found.export(tmp_path / "again.safetensors", dtype=dtype) == card
    the_same(hm.load(tmp_path / "again.safetensors"), found)


def test_a_loaded_file_reads_draws_and_shows_as_the_run_does(tmp_path):
    run = of_text()
    run.export(tmp_path / "mine.safetensors")
    found = hm.load(tmp_path / "mine.safetensors")
    segments = run.segment(TEXT)
    assert found.segment(TEXT) == segments and found.boundaries(TEXT).shape == (1, len(TEXT))
    assert found.score(TEXT, batch=1)["bpc"] > 0 and len(found.sample("the ", 5)["text"]) == 5
    assert "".join(found.stream().push("the cat").symbols) == "the cat"
    found.explore(TEXT, tmp_path / "page.html")
    assert "the cat" in "".join(json.loads(_data(tmp_path / "page.html"))["symbols"])
    words = of_text("on_lstm", "words")
    words.export(tmp_path / "words.safetensors")
    sentences = ["the cat sat on a mat"]
    assert hm.load(tmp_path / "words.safetensors").parse(sentences) == words.parse(sentences)


def test_the_text_of_a_file_is_the_one_that_the_run_was_trained_on(tmp_path):
    """Cut at its end, a text of the same symbols has a test part that was trained on."""
    (tmp_path / "mine.txt").write_text(TEXT * 20)
    config = of_text().config
    config.data.path = str(tmp_path / "mine.txt")
    corpus = language.corpus(config)
    run = _run(language, config, corpus.vocabulary)
    run = dataclasses.replace(run, data=corpus.fingerprint())
    run.export(tmp_path / "mine.safetensors")
    found = hm.load(tmp_path / "mine.safetensors")
    found.export(tmp_path / "again.safetensors")
    again = hm.load(tmp_path / "again.safetensors")
    assert found.data == again.data == run.data and language.corpus_of(found).splits["test"].size
    (tmp_path / "mine.txt").write_text(TEXT * 18)
    for one in (run, found, again):
        with pytest.raises(UserError, match="another text than the run's"):
            language.corpus_of(one)


def test_empty_poems_do_not_stand_in_the_training_text(monkeypatch):
    run = of_text()
    run.config.data.name = "quatrains"
    ids = run.encoding.encode(TEXT.rstrip("\n") + "\n")[0]
    known = types.SimpleNamespace(splits={"train": ids})
    monkeypatch.setattr(language, "corpus_of", lambda run: known)
    for drawn, repeated in (("\n\n", 0), (TEXT.split("\n")[0] + "\n\n", 1)):
        monkeypatch.setattr(Run, "sample", lambda *_, drawn=drawn, **__: {"text": drawn})
        assert evaluation.poems(run, 2).data["repeat_training"] == repeated


def test_poems_need_no_training_text(monkeypatch):
    def gone(config):
        raise UserError("quatrains needs a file of poems.")

    run = of_text()
    run.config.data.name = "quatrains"
    monkeypatch.setattr(language, "corpus", gone)
    drawn = {"text": "甲乙，\n"}
    monkeypatch.setattr(Run, "sample", lambda *arguments, **options: drawn)
    said = evaluation.poems(run, 1)
    assert said.data["repeat_training"] is None and "0 of 1 poems" in said
    assert said.endswith("is not known: quatrains needs a file of poems.")


def _data(page):
    text = page.read_text(encoding="utf-8")
    return text.partition('id="data">')[2].partition("</script>")[0]


def test_the_score_of_the_metrics_is_on_the_card(tmp_path):
    rows = [
        {"step": 4, "valid/bpc": 3.0, "valid/rate/layer1": 0.1}, {"step": 4, "train/bpc": 1.0},
        {"step": 8, "valid/bpc": 3.5}, {"step": 8, "test/bpc": 3.25, "test/update": 4},
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = {"valid/bpc": 3.0, "test/bpc": 3.25, "test/update": 4}
    assert exported.score(tmp_path, 4) == expected
    assert exported.score(tmp_path, 8) == {"valid/bpc": 3.5}
    assert exported.score(tmp_path / "none", 4) == {}


def test_a_weight_too_large_for_the_dtype_is_told_and_nothing_is_written(tmp_path):
    run, path = of_text(), tmp_path / "mine.safetensors"
    run.params["softmax_bias"][0] = 1e5
    with pytest.raises(UserError, match="softmax_bias is too large for float16"):
        run.export(path, dtype="float16")
    with pytest.raises(UserError, match="dtype is int8; give one of float32, "):
        run.export(path, dtype="int8")
    assert not list(tmp_path.iterdir())


# Damaged and hostile files


def _with(change):
    """A function that changes what a file holds: its metadata and tensors."""

    def apply(content):
        tensors = safetensors.numpy.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata = header["__metadata__"]
        change(metadata, tensors)
        return safetensors.numpy.save(tensors, metadata)

    return apply


def _config(**fields):
    def change(metadata, tensors):
        config = json.loads(metadata["config"])
        for name, value in fields.items():
            config["model"][name] = value
        metadata["config"] = json.dumps(config)

    return _with(change)


WRONG = {
    "empty": (lambda content: b"", "is not an exported run, or is damaged"),
    "cut short": (lambda content: content[:-7], "is not an exported run, or is damaged"),
    "another kind": (lambda content: b"PK\3\4" * 99, "is not an exported run, or is damaged"),
    "a header of terabytes": (lambda content: b"\xff" * 7 + b"\0" + content[8:], "is damaged"),
    "somebody's": (_with(lambda m, t: m.clear()), "was not written by hmrnn export"),
    "of tomorrow": (_with(lambda m, t: m.update(format="hmrnn_jax 2")), "is of format 2, which"),
    "no vocabulary": (_with(lambda m, t: m.pop("vocabulary")), "is damaged .*vocabulary"),
    "half a vocabulary": (
        _with(lambda m, t: m.update(vocabulary=m["vocabulary"][:-9])), "is not a stored vocabulary"
    ),
    "another vocabulary": (
        _with(lambda m, t: m.update(vocabulary=Vocabulary.of("ab", "characters").to_json())),
        "is not of the model that the run's configuration and vocabulary describe: embedding has",
    ),
    "no configuration": (_with(lambda m, t: m.update(config="[" * 9999)), "is damaged"),
    "a slope that is none": (_with(lambda m, t: m.update(slope="NaN")), "its card or its slope"),
    "a card that is none": (_with(lambda m, t: m.update(card="7")), "its card or its slope"),
    "a layer too many": (_config(sizes=[8, 8, 8]), "is not of the model that .* shape None there"),
    "very wide layers": (_config(sizes=[1 << 40]), "model.sizes is .*it must be 1 to 64 whole"),
    "a cell that is none": (_config(cell="os.system"), "model.cell is 'os.system'; it must be"),
    "a weight that is nan": (
        _with(lambda m, t: t.update(softmax_bias=t["softmax_bias"] * np.nan)),
        "softmax_bias is not finite",
    ),
    "a weight of integers": (
        _with(lambda m, t: t.update(softmax_bias=t["softmax_bias"].astype("i4"))),
        "softmax_bias is of the type I32",
    ),
    "a weight less": (
        _with(lambda m, t: t.pop("softmax_bias")), "softmax_bias has the shape None there"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "mine.safetensors"
    of_text().export(path)
    return path.read_bytes()


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_no_run_is_told_in_a_sentence(name, content, tmp_path, hmrnn_says):
    spoil, part = WRONG[name]
    path = tmp_path / "mine.safetensors"
    path.write_bytes(spoil(content))
    with pytest.raises(UserError, match=part):
        hm.load(path)
    assert is_one_sentence(hmrnn_says("sample", f"--workdir={path}", "--length=1"), str(path))


def test_whatever_byte_of_the_header_is_lost_nothing_but_a_sentence_comes(content, tmp_path):
    path = tmp_path / "mine.safetensors"
    size = int.from_bytes(content[:8], "little")
    for place in range(0, size, size // 150):
        path.write_bytes(content[:place] + b"\x7f" + content[place + 1 :])
        try:
            config, _ = describe(path)
        except UserError:
            continue
        assert config.task == "language"


# The command line


def test_commands_take_a_file_for_a_folder_and_write_beside_oneself(
    content, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.safetensors").write_bytes(content)
    (tmp_path / "my.txt").write_text(TEXT)
    arguments = ["segment", "my.txt", "--workdir=mine.safetensors", "--json"]
    assert hmrnn(*arguments) == 0
    assert (tmp_path / "my.txt.segments.jsonl").exists()
    half = ["export", "--workdir=mine.safetensors", "--output=half.safetensors"]
    assert hmrnn(*half, "--dtype=bfloat16", "--json") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["card"]["dtype"] == "bfloat16" and told["bytes"] < len(content)
    assert exported.read("half.safetensors").dtype == "bfloat16"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("score gone.txt --pretrained", "'gone.txt' is not a flag, nor a file; did you mean"),
        ("score {here} --text=a", "are given at once; give one of them"),
        ("score --pretrained --workdir=a", "--pretrained and --workdir are asked at once"),
        ("score --workdir=gone.safetensors", "gone.safetensors cannot be read"),
        ("export --output=a.pt --dtype=float16", "--dtype is for a file that ends in .safet"),
        ("curves --workdir={here}", "is not a run"),
    ],
)
def test_what_does_not_go_together_is_told(hmrnn_says, arguments, part):
    assert is_one_sentence(hmrnn_says(*arguments.format(here=__file__).split()), part)


# The model that comes with the program


def test_the_pretrained_model_is_small_and_cuts_words(tmp_path, monkeypatch, capsys):
    run = hm.load("quickstart")
    assert pretrained.path("quickstart").stat().st_size <= 3 << 20
    assert run.card["score"]["test/bpc"] < 1.74 and run.card["dtype"] == "float16"
    text = "The cat sat on the mat, and the dog looked at it.\n"
    words = "".join(row["text"] + "|" for row in run.segment(text) if row["layer"] == 1)
    assert words == text.replace(" ", " |").replace("\n", "\n|")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.txt").write_text(text)
    assert hmrnn("segment", "my.txt", "--pretrained") == 0
    assert "read as unknown" not in capsys.readouterr().out
    rows = (tmp_path / "my.txt.segments.jsonl").read_text().splitlines()
    assert json.loads(rows[0]) == {"start": 0, "end": 4, "text": "The ", "layer": 1}
