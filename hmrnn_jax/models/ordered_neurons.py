"""Weights of the authors' ON-LSTM programs, read and written (yikangshen/Ordered-Neurons).

Their state dict holds `encoder.weight`, `decoder.weight` (tied to it), `decoder.bias` and,
for each layer, `rnn.cells.{l}.ih.0.weight|bias` and `rnn.cells.{l}.hh.weight|bias`. Rows
of a layer: i~ (n), f~ (n), o, g, i, f (D each); ours: f, i, o, g, f~, i~. Their words are
numbered in the order in which train, valid and test bring them up.
"""

import numpy as np
from etils import epath

from hmrnn_jax import archives, files
from hmrnn_jax.datasets.splits import SPLITS
from hmrnn_jax.errors import UserError


def rows_to_ours(array, size, chunk):
    """Puts the first axis, `[4D+2n, ...]`, from the authors' order into ours."""
    master_i, master_f, o, g, i, f = np.split(array, _bounds(size, chunk, official=True))
    return np.concatenate([f, i, o, g, master_f, master_i])


def rows_to_official(array, size, chunk):
    """The inverse of `rows_to_ours`."""
    f, i, o, g, master_f, master_i = np.split(array, _bounds(size, chunk, official=False))
    return np.concatenate([master_i, master_f, o, g, i, f])


def _bounds(size, chunk, official):
    masters, gates = [size // chunk] * 2, [size] * 4
    return np.cumsum(masters + gates if official else gates + masters)[:-1]


def _layer(number):
    """Names of a layer's tensors, from ours to theirs."""
    prefix = f"rnn.cells.{number}"
    return {
        "W": f"{prefix}.ih.0.weight",
        "b_W": f"{prefix}.ih.0.bias",
        "U": f"{prefix}.hh.weight",
        "b_U": f"{prefix}.hh.bias",
    }


def word_order(corpus):
    """The authors' numbering of a word corpus: our id of each of their ids, `[V]`.

    Words of the vocabulary that no split uses, such as the unknown word of a user's text,
    come last.
    """
    ids = np.concatenate([corpus.splits[split] for split in SPLITS])
    found, first = np.unique(ids, return_index=True)
    unused = np.setdiff1d(np.arange(corpus.vocabulary.size), found)
    return np.concatenate([found[np.argsort(first)], unused])


def to_ours(state_dict, model, order):
    """Parameters of `model` from the authors' tensors.

    Args:
      state_dict: `{name: array}`, see `read`.
      model: a `LanguageModel` of ON-LSTM cells with a tied decoder.
      order: `word_order` of the corpus, or None where both number words alike.

    Returns the tree of `model.init`. Raises `UserError` that names every tensor which is
    missing, superfluous, of another shape, or of what are no finite real numbers.
    """
    expected = _shapes(model)
    tensors = dict(state_dict)
    tensors.setdefault("decoder.weight", tensors.get("encoder.weight"))
    faults = [f"{name} is missing" for name in expected if tensors.get(name) is None]
    faults += [f"{name} is not known" for name in tensors if name not in expected]
    faults += [
        f"{name} has shape {list(tensors[name].shape)} and not {list(shape)}"
        for name, shape in expected.items()
        if tensors.get(name) is not None and tensors[name].shape != shape
    ]
    faults += [
        f"{name} holds {fault}"
        for name in expected
        if tensors.get(name) is not None and (fault := _unusable(tensors[name]))
    ]
    if faults:
        raise UserError(f"The weights do not fit the model: {'; '.join(faults)}.")
    if not np.array_equal(tensors["encoder.weight"], tensors["decoder.weight"]):
        raise UserError("encoder.weight and decoder.weight differ; the model ties them.")
    place = np.arange(model.vocabulary) if order is None else np.argsort(order)
    params = {
        "embedding": np.asarray(tensors["encoder.weight"], np.float32)[place],
        "softmax_bias": np.asarray(tensors["decoder.bias"], np.float32)[place],
    }
    for number, config in enumerate(model.cells):
        params[f"cell{number + 1}"] = cell = {
            ours: rows_to_ours(np.asarray(tensors[theirs], np.float32), config.size, config.chunk)
            for ours, theirs in _layer(number).items()
        }
        cell["U"] = cell["U"] * _kept(model)
    return params


def _kept(model):
    """What the authors' program multiplies U by as it evaluates, and `model` does not."""
    dropout = model.dropout
    return np.float32(1 - dropout.weight if dropout.weight_inverted else 1)


def _unusable(array):
    """What an array holds instead of finite numbers; empty if it holds those."""
    if array.dtype.kind not in "fiu":
        return f"no real numbers but {array.dtype}"
    with np.errstate(over="ignore"):
        return "" if np.isfinite(array.astype(np.float32)).all() else "numbers that are not finite"


def to_official(params, model, order):
    """The authors' state dict, as numpy arrays, of `model`'s parameters; see `to_ours`."""
    _check(model)
    order = np.arange(model.vocabulary) if order is None else order
    embedding = np.asarray(params["embedding"])[order]
    tensors = {"encoder.weight": embedding, "decoder.weight": embedding}
    tensors["decoder.bias"] = np.asarray(params["softmax_bias"])[order]
    for number, config in enumerate(model.cells):
        for ours, theirs in _layer(number).items():
            array = np.asarray(params[f"cell{number + 1}"][ours])
            if ours == "U":
                array = array / _kept(model)
            tensors[theirs] = rows_to_official(array, config.size, config.chunk)
    return tensors


def _check(model):
    tied = model.head == "tied"
    if not tied or not all(hasattr(config, "chunk") for config in model.cells):
        raise UserError("Official weights are those of an ON-LSTM with tied embeddings alone.")


def _shapes(model):
    _check(model)
    shapes = {
        "encoder.weight": (model.vocabulary, model.embedding),
        "decoder.weight": (model.vocabulary, model.embedding),
        "decoder.bias": (model.vocabulary,),
    }
    for number, config in enumerate(model.cells):
        rows = sum(config.blocks)
        widths = {"W": (config.input_size,), "U": (config.size,), "b_W": (), "b_U": ()}
        for ours, theirs in _layer(number).items():
            shapes[theirs] = (rows, *widths[ours])
    return shapes


def read(path):
    """`{name: array}` of a state dict: a `.pt` file, which needs PyTorch, or an `.npz`."""
    path = epath.Path(path)
    if not path.exists():
        raise UserError(f"There are no weights {path}; give a .pt or .npz file.")
    if path.suffix == ".npz":
        return archives.read_npz(path)
    torch = _torch(path)
    archives.check_unpacked(path)
    try:
        with path.open("rb") as file:
            tensors = torch.load(file, map_location="cpu", weights_only=True)
        return {name: tensor.numpy() for name, tensor in tensors.items()}
    except MemoryError:
        raise
    except Exception as error:  # PyTorch raises what its unpickler meets
        raise UserError(
            f"{path} is not a PyTorch state dict; where the whole model was saved, load it with"
            " the authors' program and save model.state_dict()."
        ) from error


def write(path, tensors):
    """Writes a state dict: `.npz`, or `.pt`, which needs PyTorch."""
    path = epath.Path(path)
    torch = None if path.suffix == ".npz" else _torch(path)
    with files.writing(path) as file:
        if torch is None:
            np.savez(file, **tensors)
        else:
            torch.save({name: torch.from_numpy(a.copy()) for name, a in tensors.items()}, file)


def _torch(path):
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path}: .pt files need PyTorch; install it, or use an .npz of the same names."
        ) from None
    return torch
