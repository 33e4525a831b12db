"""Scoring a text, looking into a model while it reads one, and generating."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from hmrnn_jax import cells, language, parallel, sentences
from hmrnn_jax.data import EvaluationStream
from hmrnn_jax.datasets import treebank
from hmrnn_jax.errors import UserError


class Evaluator:
    """Scores splits with one compiled step.

    Args:
      model: a `LanguageModel`. mesh: of `parallel.make_mesh`.
      batch: rows that a split is divided in, a multiple of the devices. 1 carries the
        state from the first symbol to the last; with more, each row first reads the
        `warmup` symbols before its part, unscored, so that its state is nearly the same.
      window: steps for each call. warmup: symbols.
    """

    def __init__(self, model, mesh, batch, window, warmup):
        self.mesh, self.batch, self.window, self.warmup = mesh, batch, window, warmup
        self._rows = parallel.local_rows(batch, mesh)
        carry = model.initial_carry(self._rows.stop - self._rows.start)
        self._carry = jax.device_get(carry)
        step = functools.partial(language.eval_step, model.inference.on(mesh))
        self._step = parallel.pmapped_evaluation(step, mesh)

    def check(self, ids, name):
        """Raises `UserError` if a text, called `name` in the message, cannot be scored."""
        try:
            EvaluationStream(ids, self.batch, self.window, self.warmup)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None

    def __call__(self, params, ids, slope=1.0, seed=0):
        """Scores `ids [N]`: every symbol but the first is predicted once.

        Returns `{symbols, nats, bpc, ...}`: nats is the mean, and the rates of
        `language.summary` follow. `slope` matters to `soft` and `sample` detectors only.
        """
        stream = EvaluationStream(ids, self.batch, self.window, self.warmup)
        batches = (jax.tree.map(lambda x: x[:, self._rows], batch) for batch in stream)
        sums = parallel.accumulate(self._step, params, self._carry, batches, self.mesh, slope, seed)
        return language.summary(sums)


def collapsed(result, low=0.01, high=0.99):
    """Warnings, a sentence each, for detectors that hardly ever or nearly always fire, or
    whose straight-through gradient is nearly always zero."""
    warnings = []
    for name, value in result.items():
        kind, _, layer = name.rpartition("/")
        if kind.endswith("rate") and not low <= value <= high:
            state = "never" if value < low else "always"
            warnings.append(
                f"the detector of {layer} has collapsed: it {state} fires ({value:.1%})"
            )
        elif kind.endswith("live") and value < low:
            warnings.append(
                f"the detector of {layer} no longer learns: {value:.1%} of its inputs are live"
            )
    return warnings


@functools.partial(jax.jit, static_argnums=0)
def _look(model, params, inputs, carry, slope, key):
    noise = jax.random.uniform(key, (*inputs.shape[:2], model.noise_width))
    out = model.apply({"params": params}, inputs, carry, slope=slope, noise=noise)
    norms, boundaries = [], []
    for states in out.states:
        layers = states.h if isinstance(states.h, tuple) else (states.h,)
        norms += [jnp.linalg.norm(h, axis=-1) for h in layers]
        boundaries += getattr(states, "z", ())
    return out.carry, jnp.stack(norms), boundaries


def look(model, params, inputs, slope=1.0, seed=0, window=256):
    """What the model does while it reads from the initial state.

    Args:
      inputs: ids `[N]` of one text, or the steps `[N, B, C]` of B real-valued sequences.

    Returns `(boundaries, norms)`: z of each detector, a list of `[N]` or `[N, B]` arrays,
    and the norms of each layer's h, `[L, N]` or `[L, N, B]`.
    """
    model, inputs = model.inference, np.asarray(inputs)
    params = jax.device_put(params)  # once, not at every window
    alone, length = inputs.ndim == 1, len(inputs)
    inputs = inputs.astype(np.int32)[:, None] if alone else inputs.astype(np.float32)
    carry, key = model.initial_carry(inputs.shape[1]), jax.random.key(seed)
    inputs = np.pad(inputs, [(0, -length % window)] + [(0, 0)] * (inputs.ndim - 1))
    norms, boundaries = [], []
    for number in range(len(inputs) // window):
        part = inputs[number * window : (number + 1) * window]
        carry, n, z = _look(model, params, part, carry, slope, jax.random.fold_in(key, number))
        norms.append(np.asarray(n))
        boundaries.append([np.asarray(layer) for layer in z])
    layers = [np.concatenate(parts)[:length] for parts in zip(*boundaries, strict=True)]
    norms = np.concatenate(norms, axis=1)[:, :length]
    return ([z[:, 0] for z in layers], norms[..., 0]) if alone else (layers, norms)


def distances(model, params, vocabulary, sentences_of_words):
    """Split distances of every layer for each word of sentences (Shen et al. 2019, section 4.2).

    `1 - mean(f~)` of an ON-LSTM's layers; of an LSTM's, as a control, `1 - mean(f)` (Dyer,
    Melis, Blunsom 2019). A sentence is read from the initial state after `<eos>`.

    Args:
      sentences_of_words: sequences of words. One that the vocabulary lacks is looked for in
        lower case with digits as N, and is unknown otherwise.

    Returns a list of arrays `[words, layers]`.

    Raises:
      UserError: the model is not of words, or its cells have no such gates.
    """
    if vocabulary.unit != "words":
        raise UserError("Trees are read from a model of words; train one, for example"
                        " configs/on_lstm_ptb_word.py.")  # fmt: skip
    if model.cells[0].uses_slope or not hasattr(cells.of(model.cells[0]), "Aux"):
        raise UserError("Distances are those of an ON-LSTM or an LSTM; this run has other cells.")
    known = set(vocabulary.symbols)
    ids = []
    for words in sentences_of_words:
        words = [w if w in known else treebank.normalise(w) for w in words]
        ids.append(vocabulary.encode_symbols(words)[0])
    (end,), _ = vocabulary.encode_sentence("\n")
    return sentences.outputs(model, params, ids, before=end, extract=_forget_distances)


def _forget_distances(out):
    return jnp.stack([aux.forget for aux in out.aux], axis=-1)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _generate(model, params, prompt, knobs, length):
    """One compiled scan: reads the prompt, then feeds back what it draws."""
    start = jnp.concatenate([prompt, jnp.zeros(length, prompt.dtype)])

    def step(carry, xs):
        states, previous = carry
        position, given = xs
        symbol = jnp.where(position < prompt.shape[0], given, previous)
        key = jax.random.fold_in(knobs["key"], position)
        noise = jax.random.uniform(key, (1, 1, model.noise_width)) if model.noise_width else None
        out = model.apply(
            {"params": params}, symbol[None, None], states, slope=knobs["slope"], noise=noise
        )
        log_probabilities = jax.nn.log_softmax(out.logits[0, 0])
        drawn = jax.random.categorical(
            jax.random.fold_in(key, 1), log_probabilities / jnp.maximum(knobs["temperature"], 1e-6)
        )
        greedy = jnp.argmax(log_probabilities)
        following = jnp.where(knobs["temperature"] > 0, drawn, greedy).astype(symbol.dtype)
        return (out.carry, following), (following, log_probabilities[following])

    positions = jnp.arange(start.shape[0])
    first = (model.initial_carry(1), prompt[0])
    _, (symbols, log_probabilities) = jax.lax.scan(step, first, (positions, start))
    return symbols[prompt.shape[0] - 1 : -1], log_probabilities[prompt.shape[0] - 1 : -1]


def generate(model, params, prompt, length, temperature=1.0, seed=0, slope=1.0):
    """Continues `prompt [P]`, P >= 1, by `length` symbols.

    They are drawn at `temperature`; 0 takes the likeliest.

    Returns `(symbols [length], log_probabilities [length])`; the latter, in nats, are the
    model's own at temperature 1.
    """
    knobs = {
        "key": jax.random.key(seed),
        "slope": jnp.float32(slope),
        "temperature": jnp.float32(temperature),
    }
    prompt = jnp.asarray(prompt, jnp.int32)
    return jax.tree.map(np.asarray, _generate(model.inference, params, prompt, knobs, length))
