"""What a model does while it reads: boundaries, norms of its states, split distances."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from hmrnn_jax import cells
from hmrnn_jax.batches.sequences import columns
from hmrnn_jax.cells.base import layers
from hmrnn_jax.datasets import treebank
from hmrnn_jax.errors import UserError
from hmrnn_jax.inference import sentences
from hmrnn_jax.models import mixture


@functools.partial(jax.jit, static_argnums=0)
def _one_window(model, params, inputs, following, carry, slope, key):
    noise = jax.random.uniform(key, (*inputs.shape[:2], model.noise_width))
    out = model.apply({"params": params}, inputs, carry, slope=slope, noise=noise)
    boundaries, surprise = [z for states in out.states for z in getattr(states, "z", ())], None
    if following is not None:
        values, event = following[..., : model.dimensions], None
        if model.event:
            event = following[..., model.dimensions]
        surprise = mixture.negative_log_likelihood(out.mixture, values, event)
    return out.carry, _norms(out), boundaries, surprise


def _norms(out):
    """Of each layer's h, `[L, T, B]`."""
    of_each = (h for states in out.states for h in layers(states))
    return jnp.stack([jnp.linalg.norm(h, axis=-1) for h in of_each])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _predict(model, count, params, ids, carry, slope, key):
    noise = jax.random.uniform(key, (*ids.shape, model.noise_width))
    out = model.apply({"params": params}, ids, carry, slope=slope, noise=noise)
    return out.carry, _norms(out), *jax.lax.top_k(jax.nn.softmax(out.logits), count)


def predictions(model, params, ids, count=5, slope=1.0, seed=0, window=256):
    """What a language model expects after each symbol of one text, read from the initial state.

    Args:
      ids: int `[N]`. count: how many of the likeliest next symbols are returned.

    Returns `(norms, probabilities, symbols)`: the norms of each layer's h, `[L, N]`, and of the
    likeliest next symbols the probabilities, the highest first, and ids, `[N, count]` both.
    """
    model, ids = model.inference, np.asarray(ids, np.int32)[:, None]
    params, carry, key = jax.device_put(params), model.initial_carry(1), jax.random.key(seed)
    found = []
    for number, start in enumerate(range(0, len(ids), window)):
        part, draw = _padded(ids[start : start + window], window), jax.random.fold_in(key, number)
        carry, *values = _predict(model, count, params, part, carry, slope, draw)
        found.append(jax.device_get(values))
    norms, probabilities, symbols = zip(*found, strict=True)
    norms = np.concatenate(norms, axis=1)[:, : len(ids), 0]
    likeliest = (np.concatenate(part)[: len(ids), 0] for part in (probabilities, symbols))
    return norms, *likeliest


def of(model, params, inputs, slope=1.0, seed=0, window=256):
    """What the model does while it reads from the initial state.

    Args:
      inputs: ids `[N]` of one text, or the steps `[N, B, C]` of B real-valued sequences.

    Returns `(boundaries, norms)`: z of each detector, a list of `[N]` or `[N, B]` arrays, int8,
    and the norms of each layer's h, `[L, N]` or `[L, N, B]`.
    """
    inputs = np.asarray(inputs)
    if inputs.ndim > 1:
        return with_surprise(model, params, inputs, slope, seed, window)[:2]
    ids = inputs.astype(np.int32)[:, None]
    layers, norms, _ = _windows(model, params, ids, None, slope, seed, window)
    return [z[:, 0] for z in layers], norms[..., 0]


def counted(model):
    """What the operations of a model's layers are counted by, besides its boundaries; see
    `boundaries.operations`: `{}` without detectors."""
    found = [config for config in model.cells if config.uses_slope]
    if not found:
        return {}
    initial = [config.z_init for config in found for _ in range(config.depth - 1)]
    return {"z_initial": initial, "flush": all(config.flush for config in found)}


def with_surprise(model, params, inputs, slope=1.0, seed=0, window=256):
    """As `of` for the steps `[N, B, C]` of B real-valued sequences, and their surprise.

    Returns `(boundaries, norms, surprise)`: surprise `[N, B]` is the negative log-density of the
    step after each, in nats. After the last nothing comes: there it is the lowest of its sequence,
    so that it neither is a peak nor hides one.
    """
    inputs = np.asarray(inputs, np.float32)
    following = np.concatenate([inputs[1:], inputs[-1:]])
    layers, norms, surprise = _windows(model, params, inputs, following, slope, seed, window)
    surprise[-1] = surprise[:-1].min(axis=0) if len(surprise) > 1 else 0
    return layers, norms, surprise


def of_sequences(
    model, params, sequences, slope=1.0, seed=0, batch=64, progress=lambda done: None
):  # fmt: skip
    """Of each of real-valued `Sequences` what `with_surprise` finds, as if it were read alone.

    Args:
      batch: sequences that are read side by side, those of like length together.
      progress: called after each batch with the number of steps read so far.

    Returns a list of `(z, norms, surprise)`: int8 `[L - 1, T]`, `[L, T]`, `[T]`.
    """
    table, order = columns(sequences), np.argsort(sequences.lengths, kind="stable")
    found = [None] * len(sequences)
    for first in range(0, len(order), batch):
        chosen = order[first : first + batch]
        steps = int(sequences.lengths[chosen].max())
        inputs = np.zeros((steps, len(chosen), table.shape[1]), np.float32)
        for row, number in enumerate(chosen):
            inputs[: sequences.lengths[number], row] = table[sequences.place(number)]
        z, norms, surprise = with_surprise(model, params, inputs, slope, seed)
        z = np.array(z, np.int8).reshape(-1, *surprise.shape)
        for row, number in enumerate(chosen):
            length = int(sequences.lengths[number])
            own = surprise[:length, row].copy()
            own[-1] = own[:-1].min() if length > 1 else 0  # as there
            found[number] = z[:, :length, row], norms[:, :length, row], own
        progress(int(sequences.lengths[order[: first + batch]].sum()))
    return found


def _windows(model, params, inputs, following, slope, seed, window):
    """`with_surprise` of `[N, B, ...]`; without what follows there is no surprise."""
    model, length = model.inference, len(inputs)
    params = jax.device_put(params)  # once, not at every window
    carry, key = model.initial_carry(inputs.shape[1]), jax.random.key(seed)
    found = []
    for number, start in enumerate(range(0, length, window)):
        part, after = (
            None if x is None else _padded(x[start : start + window], window)
            for x in (inputs, following)
        )
        draw = jax.random.fold_in(key, number)
        carry, *values = _one_window(model, params, part, after, carry, slope, draw)
        found.append(jax.device_get(values))
    norms, boundaries, surprise = zip(*found, strict=True)
    # Of soft detectors a boundary is where a step's would be.
    layers = [np.concatenate(parts)[:length] > 0.5 for parts in zip(*boundaries, strict=True)]
    layers = [fired.astype(np.int8) for fired in layers]
    norms = np.concatenate(norms, axis=1)[:, :length]
    if following is not None:
        surprise = np.concatenate(surprise)[:length]
    return layers, norms, surprise


def _padded(part, length):
    return np.pad(part, [(0, length - len(part))] + [(0, 0)] * (part.ndim - 1))


def check_distances(model, vocabulary):
    """Raises `UserError` unless a model has the `distances` of sentences."""
    if vocabulary.unit != "words":
        raise UserError(
            "Trees are read from a model of words; train one, for example"
            " configs/on_lstm_ptb_word.py."
        )
    if model.cells[0].uses_slope or not hasattr(cells.of(model.cells[0]), "Aux"):
        raise UserError("Distances are those of an ON-LSTM or an LSTM; this run has other cells.")


def distances(model, params, vocabulary, sentences_of_words):
    """Split distances of every layer for each word of sentences (Shen et al. 2019, section 4.2).

    `1 - mean(f~)` of an ON-LSTM's layers; of an LSTM's, as a control, `1 - mean(f)` (Dyer,
    Melis, Blunsom 2019). A sentence is read from the initial state after `<eos>`.

    Args:
      sentences_of_words: sequences of words. One that the vocabulary lacks is looked for in
        lower case with digits as N, and is unknown otherwise.

    Returns a list of arrays `[words, layers]`.

    Raises:
      UserError: as `check_distances`.
    """
    check_distances(model, vocabulary)
    known = set(vocabulary.symbols)
    ids = []
    for words in sentences_of_words:
        words = [w if w in known else treebank.normalise(w) for w in words]
        ids.append(vocabulary.encode_symbols(words)[0])
    (end,), _ = vocabulary.encode_sentence("\n")
    return sentences.outputs(model, params, ids, before=end, extract=_forget_distances)


def _forget_distances(out):
    return jnp.stack([aux.forget for aux in out.aux], axis=-1)
