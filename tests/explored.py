"""Small runs to explore, and what their pages hold."""

import base64
import functools
import json
import re

import jax
import numpy as np

from hmrnn_jax import defaults, parallel
from hmrnn_jax.cells import hm_lstm, on_lstm
from hmrnn_jax.datasets.text import Corpus
from hmrnn_jax.datasets.vocabulary import Vocabulary
from hmrnn_jax.inference import activations, reading, sparse_model
from hmrnn_jax.models.language import LanguageModel
from hmrnn_jax.run import Run
from hmrnn_jax.tasks import language

UNSPACED = "thecatsatonamat\nthedog<b>&acat</script>\nseeit\n" * 6
SENTENCES = "the cat sat on a mat\nthe dog ( a <cat> ) sat on the mat\n" * 3


# What the page draws, by a call: all letters, and how many dots.
DRAWN = """
    const texts = [], dots = [], pen = CanvasRenderingContext2D.prototype;
    const { fillText, arc } = pen;
    pen.fillText = function (...all) { texts.push(all[0]); fillText.call(this, ...all); };
    pen.arc = function (...all) { dots.push(all[0]); arc.call(this, ...all); };
    explorer.update();
    Object.assign(pen, { fillText, arc });
    return [texts.join(" "), dots.length];
"""


def run_of_letters(monkeypatch, trained=True):
    """An HM-LSTM with two detectors, and its validation text."""
    vocabulary = Vocabulary.of(UNSPACED, "characters")
    run = _run(vocabulary, (hm_lstm.Config(4, (8, 6, 5)),), "gated", trained)
    ids = run.encoding.encode(UNSPACED)[0]
    corpus = Corpus("text", {"train": ids, "valid": ids[20:200]}, run.encoding, "", {})
    monkeypatch.setattr(language, "corpus", lambda config: corpus)
    return run


def run_of_words(trained=True):
    """An ON-LSTM, without a validation text."""
    layers = (on_lstm.Config(4, 6, chunk=2), on_lstm.Config(6, 6, chunk=2))
    return _run(Vocabulary.of(SENTENCES, "words"), layers, "plain", trained)


def _run(vocabulary, cells, head, trained):
    model = LanguageModel(vocabulary.size, 4, cells, 8, head)
    params = {}
    if trained:
        rng, init = np.random.default_rng(0), functools.partial(language.init_params, model)
        shapes = jax.eval_shape(init, jax.random.key(0))
        params = jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype("f4"), shapes)
    config = defaults.text()
    config.data.name = "text"
    mesh = parallel.make_mesh(jax.devices()[:1])
    return Run("mine", config, vocabulary, model, params, 1.0, mesh)


def make_up(monkeypatch, layers=3):
    """What is read of texts is made up from now on, the same for the same text: a function."""

    def curves(model, params, ids, names, *_, **__):
        found = {}
        for number, name in enumerate(names):
            rng = np.random.default_rng([len(ids), number])
            if name == "detectors":
                found[name] = rng.integers(0, 2, (layers - 1, len(ids))).astype(np.int8)
                continue
            # Of few different values, so that some are equal.
            rows = layers if name == "distance" else 1
            found[name] = rng.integers(-9, 90, (rows, len(ids))).astype(np.float32) / 7
        return found

    def predictions(model, params, ids, count, *_):
        rng = np.random.default_rng(len(ids))
        chances = -np.sort(-rng.random((len(ids), count)))
        return rng.random((layers, len(ids))), chances, rng.integers(0, 10, chances.shape)

    def distances(model, params, vocabulary, sentences):
        rng = np.random.default_rng(len(sentences))
        return [rng.integers(1, 9, (len(one), layers)) / 9 for one in sentences]

    monkeypatch.setattr(reading, "curves", curves)
    monkeypatch.setattr(activations, "predictions", predictions)
    monkeypatch.setattr(activations, "distances", distances)
    monkeypatch.setattr(sparse_model, "inference", lambda *weights: weights)
    return curves


def content(page):
    """The data in a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(found[1])


def unpacked(packed):
    """The array that `explorer.page.packed` wrote."""
    flat = np.frombuffer(base64.b64decode(packed["data"]), packed["kind"])
    return flat.reshape(packed["shape"]) * packed.get("scale", 1)


def bits(packed, length):
    return np.unpackbits(unpacked(packed), axis=-1, bitorder="little")[..., :length]
