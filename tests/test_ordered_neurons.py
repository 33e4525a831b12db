"""Weights of the authors' ON-LSTM programs: layout, numbering, files, faults."""

import functools
import os
import sys

import jax
import numpy as np
import pytest
from oracles import sigmoid

from hmrnn_jax.cells import lstm, on_lstm
from hmrnn_jax.datasets.text import Corpus
from hmrnn_jax.datasets.vocabulary import Vocabulary
from hmrnn_jax.errors import UserError
from hmrnn_jax.models import ordered_neurons
from hmrnn_jax.models.dropout import Dropout
from hmrnn_jax.models.language import LanguageModel
from hmrnn_jax.tasks import language

SIZES, CHUNK, WORDS, DROP = (4, 6, 4), 2, 7, 0.45
NAMES = {
    "encoder.weight", "decoder.weight", "decoder.bias",
    "rnn.cells.0.ih.0.weight", "rnn.cells.0.ih.0.bias", "rnn.cells.0.hh.weight",
    "rnn.cells.0.hh.bias", "rnn.cells.1.ih.0.weight", "rnn.cells.1.ih.0.bias",
    "rnn.cells.1.hh.weight", "rnn.cells.1.hh.bias",
}  # fmt: skip


def model_of(head="tied", cells=None, inverted=False):
    stack = tuple(
        on_lstm.Config(n, size, CHUNK) for n, size in zip(SIZES[:-1], SIZES[1:], strict=True)
    )
    dropout = Dropout(weight=DROP, weight_inverted=inverted)
    return LanguageModel(WORDS, SIZES[0], cells or stack, head=head, dropout=dropout)


def official_tensors(seed=0):
    """A state dict as the authors' program saves it, made without the library."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: (0.5 * rng.normal(size=shape)).astype("float32")  # noqa: E731
    embedding = draw(WORDS, SIZES[0])
    tensors = {
        "encoder.weight": embedding,
        "decoder.weight": embedding,
        "decoder.bias": draw(WORDS),
    }
    for layer, (width, size) in enumerate(zip(SIZES[:-1], SIZES[1:], strict=True)):
        rows = 4 * size + 2 * (size // CHUNK)
        tensors[f"rnn.cells.{layer}.ih.0.weight"] = draw(rows, width)
        tensors[f"rnn.cells.{layer}.ih.0.bias"] = draw(rows)
        tensors[f"rnn.cells.{layer}.hh.weight"] = draw(rows, size)
        tensors[f"rnn.cells.{layer}.hh.bias"] = draw(rows)
    return tensors


def cumax(v):
    e = np.exp(v - v.max())
    return np.cumsum(e / e.sum())


def official_logits(tensors, words):
    """The authors' evaluation from their tensors: rows i~ f~ (n), o g i f (D); c is [n, C]."""
    outputs = tensors["encoder.weight"][words].astype(np.float64)
    for layer, size in enumerate(SIZES[1:]):
        n = size // CHUNK
        prefix = f"rnn.cells.{layer}."
        cell = {k: v.astype(np.float64) for k, v in tensors.items() if k.startswith(prefix)}
        cell = {name.removeprefix(prefix): v for name, v in cell.items()}
        h, c, inputs, outputs = np.zeros(size), np.zeros((n, CHUNK)), outputs, []
        for x in inputs:
            s = cell["ih.0.weight"] @ x + cell["ih.0.bias"]
            s += (1 - DROP) * cell["hh.weight"] @ h + cell["hh.bias"]
            master_in, master_forget = 1 - cumax(s[:n]), cumax(s[n : 2 * n])
            o, g, i, f = s[2 * n :].reshape(4, n, CHUNK)
            overlap = (master_forget * master_in)[:, None]
            forget = sigmoid(f) * overlap + (master_forget[:, None] - overlap)
            given = sigmoid(i) * overlap + (master_in[:, None] - overlap)
            c = forget * c + given * np.tanh(g)
            h = (sigmoid(o) * np.tanh(c)).ravel()
            outputs.append(h)
        outputs = np.array(outputs)
    return outputs @ tensors["decoder.weight"].T + tensors["decoder.bias"]


@pytest.fixture
def corpus():
    """Ours number words in alphabetical order, theirs as train, valid and test bring them up."""
    symbols = ("<eos>", "a", "b", "c", "d", "e", "f")
    splits = {
        "train": np.array([3, 1, 3, 0, 6, 0], np.int32),
        "valid": np.array([6, 5, 0], np.int32),
        "test": np.array([2, 4, 4, 0], np.int32),
    }
    return Corpus("words", splits, Vocabulary("words", symbols), "made up", {})


ORDER = [3, 1, 0, 6, 5, 2, 4]


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


# Layout


def test_words_in_the_order_of_their_first_appearance(corpus):
    assert ordered_neurons.word_order(corpus).tolist() == ORDER


def test_words_that_no_split_uses_come_last(corpus):
    gone = corpus.splits["test"][0]
    corpus.splits["test"] = corpus.splits["test"][1:]
    order = ordered_neurons.word_order(corpus).tolist()
    assert sorted(order) == sorted(ORDER)
    if gone not in np.concatenate(list(corpus.splits.values())):
        assert order[-1] == gone


def test_rows_of_a_layer():
    """i~, f~ (n), o, g, i, f (D) of theirs are f, i, o, g (D), f~, i~ (n) of ours."""
    size, chunk = 4, 2
    names = ["i~"] * 2 + ["f~"] * 2 + [gate for gate in "ogif" for _ in range(4)]
    theirs = np.array([f"{name}{k}" for k, name in enumerate(names)])
    ours = ordered_neurons.rows_to_ours(theirs, size, chunk)
    kinds = [name.rstrip("0123456789") for name in ours]
    assert kinds == ["f"] * 4 + ["i"] * 4 + ["o"] * 4 + ["g"] * 4 + ["f~"] * 2 + ["i~"] * 2
    assert ours[:4].tolist() == theirs[16:].tolist()  # units stay in their order
    np.testing.assert_array_equal(ordered_neurons.rows_to_official(ours, size, chunk), theirs)


@pytest.mark.parametrize("order", [None, ORDER])
def test_there_and_back_again(order):
    model, order = model_of(), order and np.array(order)
    init = functools.partial(language.init_params, model)
    shapes = jax.eval_shape(init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda v: rng.normal(size=v.shape).astype("float32"), shapes)
    tensors = ordered_neurons.to_official(params, model, order)
    assert set(tensors) == NAMES
    assert_equal(ordered_neurons.to_ours(tensors, model, order), params)
    theirs = official_tensors()
    assert_equal(
        ordered_neurons.to_official(ordered_neurons.to_ours(theirs, model, order), model, order),
        theirs,
    )
    ours = ordered_neurons.to_ours(theirs, model, order)
    assert jax.tree.map(np.shape, ours) == jax.tree.map(lambda v: v.shape, shapes)
    for number, word in enumerate(range(WORDS) if order is None else order):
        np.testing.assert_array_equal(ours["embedding"][word], theirs["encoder.weight"][number])
        assert ours["softmax_bias"][word] == theirs["decoder.bias"][number]


@pytest.mark.parametrize("inverted", [False, True])
def test_loaded_weights_score_as_the_authors_program(inverted):
    """Logits of evaluation, DropConnect's scale included, word by word of either numbering."""
    model, tensors, order = model_of(inverted=inverted), official_tensors(), np.array(ORDER)
    words = np.random.default_rng(1).integers(0, WORDS, (12, 2))  # of theirs
    params = ordered_neurons.to_ours(tensors, model, order)
    out = jax.jit(model.apply)({"params": params}, order[words], model.initial_carry(2))
    for row in range(2):
        expected = official_logits(tensors, words[:, row])
        np.testing.assert_allclose(out.logits[:, row][:, order], expected, rtol=0, atol=1e-5)
    again = ordered_neurons.to_official(params, model, order)
    for name in NAMES:
        np.testing.assert_allclose(again[name], tensors[name], rtol=1e-6)


# Files


@pytest.mark.parametrize("suffix", ["npz", "pt"])
def test_files(tmp_path, suffix):
    if suffix == "pt":
        pytest.importorskip("torch")
    path, tensors = tmp_path / f"weights.{suffix}", official_tensors()
    ordered_neurons.write(path, tensors)
    read = ordered_neurons.read(str(path))
    assert_equal(read, tensors)
    assert all(v.dtype == np.float32 for v in read.values())
    params = ordered_neurons.to_ours(read, model_of(), None)
    assert_equal(params, ordered_neurons.to_ours(tensors, model_of(), None))


def test_a_state_dict_of_pytorch(tmp_path):
    """As `torch.save(model.state_dict())` writes it: an OrderedDict of tensors."""
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(3, 2)
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    read = ordered_neurons.read(tmp_path / "layer.pt")
    assert set(read) == {"weight", "bias"}
    np.testing.assert_array_equal(read["weight"], layer.weight.detach().numpy())


class Trap:
    """What a pickle may hold: a call to make, here of `os.mkdir`."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_whole_model_is_not_unpickled(tmp_path):
    """The authors save `[model, criterion, optimizer]`, code included, which is never run."""
    torch = pytest.importorskip("torch")
    for name, content in (
        ("whole", [torch.nn.Linear(2, 2), torch.nn.CrossEntropyLoss()]),
        ("list", [torch.zeros(2)]),
        ("trap", {"encoder.weight": torch.zeros(2), "run": Trap(tmp_path / "sprung")}),
        ("words", {"encoder.weight": "none"}),
    ):
        torch.save(content, tmp_path / f"{name}.pt")
        with pytest.raises(UserError, match=f"{name}.pt is not a PyTorch state dict"):
            ordered_neurons.read(tmp_path / f"{name}.pt")
    assert not (tmp_path / "sprung").exists()
    (tmp_path / "text.pt").write_text("not a file of weights")
    with pytest.raises(UserError, match="text.pt is not a PyTorch state dict"):
        ordered_neurons.read(tmp_path / "text.pt")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="There are no weights .*none.pt; give a .pt or .npz"):
        ordered_neurons.read(tmp_path / "none.pt")
    ordered_neurons.write(tmp_path / "cut.npz", official_tensors())
    content = (tmp_path / "cut.npz").read_bytes()
    for cut in (0, 10, len(content) // 2):
        (tmp_path / "cut.npz").write_bytes(content[:cut])
        with pytest.raises(UserError, match="cut.npz cannot be read as an .npz file"):
            ordered_neurons.read(tmp_path / "cut.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(UserError, match="one.npz cannot be read as an .npz file"):
        ordered_neurons.read(tmp_path / "one.npz")
    np.savez(tmp_path / "objects.npz", a=np.array([{}, None]))
    with pytest.raises(UserError, match="objects.npz cannot be read as an .npz file"):
        ordered_neurons.read(tmp_path / "objects.npz")


def test_pt_files_need_pytorch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="weights.pt: .pt files need PyTorch; install it, or"):
        ordered_neurons.write(tmp_path / "weights.pt", official_tensors())
    assert not (tmp_path / "weights.pt").exists()


# Faults


def test_every_faulty_tensor_is_named():
    tensors = official_tensors()
    del tensors["rnn.cells.1.hh.bias"]
    tensors["rnn.cells.2.hh.bias"] = np.zeros(3, "float32")
    tensors["rnn.cells.0.hh.weight"] = np.zeros((30, 5), "float32")
    with pytest.raises(UserError) as raised:
        ordered_neurons.to_ours(tensors, model_of(), None)
    for fault in (
        "rnn.cells.1.hh.bias is missing",
        "rnn.cells.2.hh.bias is not known",
        "rnn.cells.0.hh.weight has shape [30, 5] and not [30, 6]",
    ):
        assert fault in str(raised.value)
    assert "ih" not in str(raised.value) and "encoder" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda a: a * np.nan, "numbers that are not finite"),
        (lambda a: a.astype(np.float64) + 1e300, "numbers that are not finite"),
        (lambda a: a + 1j, "no real numbers but complex64"),
        (lambda a: a.astype(str), "no real numbers but <U"),
        (lambda a: a > 0, "no real numbers but bool"),
    ],
)
def test_weights_are_finite_real_numbers(change, fault):
    tensors = official_tensors()
    for name in ("rnn.cells.0.hh.weight", "decoder.bias"):
        with pytest.raises(UserError, match=f"{name} holds {fault}"):
            ordered_neurons.to_ours(tensors | {name: change(tensors[name])}, model_of(), None)


def test_another_vocabulary_is_a_fault_of_shape():
    model = model_of().clone(vocabulary=WORDS + 1)
    with pytest.raises(UserError, match=r"encoder.weight has shape \[7, 4\] and not \[8, 4\]"):
        ordered_neurons.to_ours(official_tensors(), model, None)


def test_decoder_and_encoder_are_one_matrix():
    tensors = official_tensors()
    tensors["decoder.weight"] = tensors["decoder.weight"] + 1
    with pytest.raises(UserError, match="encoder.weight and decoder.weight differ; the model ties"):
        ordered_neurons.to_ours(tensors, model_of(), None)
    alone = {name: v for name, v in official_tensors().items() if name != "decoder.weight"}
    params = ordered_neurons.to_ours(alone, model_of(), None)
    assert_equal(params, ordered_neurons.to_ours(official_tensors(), model_of(), None))


@pytest.mark.parametrize(
    "model", [model_of(head="plain"), model_of(cells=(lstm.Config(4, 6), lstm.Config(6, 4)))]
)
def test_other_models_have_no_official_weights(model):
    for convert in (ordered_neurons.to_ours, ordered_neurons.to_official):
        with pytest.raises(UserError, match="ON-LSTM with tied embeddings alone"):
            convert(official_tensors(), model, None)
