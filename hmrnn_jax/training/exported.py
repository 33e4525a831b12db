"""A run as one file of safetensors: its weights, and all that is needed to use them.

The metadata hold the format's number, the configuration, the vocabulary or scale, the fingerprint
of the data, the detectors' slope, and a card: what the run is, its data, score, size and updates,
all as JSON.
"""

import contextlib
import importlib.metadata
import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from ml_collections import ConfigDict

from hmrnn_jax import files
from hmrnn_jax.errors import UserError
from hmrnn_jax.training import metrics_log, stored
from hmrnn_jax.training.workdir import DATA, ENCODINGS, NO_ENCODING, config_of, data_of

SUFFIX = ".safetensors"
DTYPES = ("float32", "float16", "bfloat16")
_FORMAT, _VERSION = "hmrnn_jax", 1
_STORED = {"F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}


class Exported(NamedTuple):
    """What such a file holds.

    Attributes:
      config, encoding: as of `workdir.load_run`. slope: of the detectors.
      card: what the run is, a dict. dtype: that the weights are stored in.
      weights: `{name: array}`, names of the parameters with `/` between their parts.
      data: the fingerprint of the run's data; None of an older file.
    """

    config: ConfigDict
    encoding: Any
    slope: float
    card: dict[str, Any]
    dtype: str
    weights: dict[str, np.ndarray]
    data: dict[str, list[int]] | None


def is_file(path):
    """Whether a path is meant to be such a file, and no run's folder."""
    return str(path).endswith(SUFFIX) or files.place(path).is_file()


def write(path, config, encoding, params, slope, card, dtype="float32", data=None):
    """Writes a run to a file, whole or not at all; returns its card, completed.

    Args:
      params: the tree of parameters, in memory. card: what is known of the run; the rest, its
        `parameters`, `dtype` and `program`, is added. dtype: one of `DTYPES`. data: as
        `workdir.load_data` has it.

    Raises:
      UserError: the file cannot be written, or a weight is too large for `dtype`.
    """
    wanted = jnp.dtype(dtype)
    weights = {}
    for name, leaf in _named(params).items():
        with np.errstate(over="ignore"):
            weights[name] = np.asarray(leaf).astype(wanted, order="C")
        if not np.isfinite(weights[name].astype(np.float32)).all():
            raise UserError(f"{name} is too large for {dtype}: choose another --dtype.")
    card = card | {
        "parameters": sum(leaf.size for leaf in weights.values()),
        "dtype": dtype,
    }
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # a bare checkout
        card["program"] = f"hmrnn_jax {importlib.metadata.version('hmrnn-jax')}"
    metadata = {
        "format": f"{_FORMAT} {_VERSION}",
        "config": json.dumps(config.to_dict(), sort_keys=True),
        "slope": json.dumps(float(slope)),
        "card": json.dumps(card, ensure_ascii=False),
    }
    if data:
        metadata[_key(DATA)] = json.dumps(data)
    for name, kind in ENCODINGS.items():
        if isinstance(encoding, kind):
            metadata[_key(name)] = encoding.to_json()
    files.write_bytes(path, safetensors.numpy.save(weights, metadata))
    return card


def read(path):
    """The `Exported` of a file, of which nothing is executed.

    Raises:
      UserError: the file cannot be read, is damaged, or is not one that `write` wrote.
    """
    content = files.read_bytes(path)
    try:
        tensors = dict(safetensors.deserialize(content))
        # The library has checked the header, and does not give what it says of the whole.
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not an exported run, or is damaged ({stored.reason(error)}): write it anew"
            " with hmrnn export."
        ) from None
    metadata = header.get("__metadata__") or {}
    made_by, _, version = metadata.get("format", "").partition(" ")
    if made_by != _FORMAT:
        raise UserError(f"{path} was not written by hmrnn export: give such a file, or a run.")
    if version != str(_VERSION):
        raise UserError(
            f"{path} is of format {version}, which this version does not know: update hmrnn_jax."
        )
    try:
        return _described(metadata, tensors)
    except UserError as error:
        raise UserError(f"{path} is damaged: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({stored.reason(error)}): export it anew.") from None


def _described(metadata, tensors):
    config = config_of(metadata["config"])
    encoding = next(
        (kind.from_json(metadata[_key(name)]) for name, kind in ENCODINGS.items()
         if _key(name) in metadata), None,
    )  # fmt: skip
    if encoding is None and config.task not in NO_ENCODING:
        raise KeyError(" or ".join(map(_key, ENCODINGS)))
    card, slope = json.loads(metadata["card"]), json.loads(metadata["slope"])
    if not isinstance(card, dict) or not isinstance(slope, float) or not np.isfinite(slope):
        raise TypeError("its card or its slope is none")
    weights = {name: _array(name, tensor) for name, tensor in tensors.items()}
    kinds = {str(leaf.dtype) for leaf in weights.values()}
    data = data_of(metadata[_key(DATA)]) if _key(DATA) in metadata else None
    return Exported(config, encoding, slope, card, ", ".join(sorted(kinds)), weights, data)


def _array(name, tensor):
    if tensor["dtype"] not in _STORED:
        raise TypeError(f"{name} is of the type {tensor['dtype']}")
    values = np.frombuffer(tensor["data"], _STORED[tensor["dtype"]]).reshape(tensor["shape"])
    if not np.isfinite(values.astype(np.float32)).all():
        raise ValueError(f"{name} is not finite")
    return values


def tree(path, found, shapes):
    """The parameters of an `Exported` as the tree of `shapes`, in its dtypes.

    Raises:
      UserError: they are not of the model that its configuration and encoding describe.
    """
    stored.check_fit(found.weights, shapes, path)
    names = list(_named(shapes))
    leaves, shape = jax.tree.flatten(shapes)
    return jax.tree.unflatten(
        shape,
        [found.weights[name].astype(leaf.dtype) for name, leaf in zip(names, leaves, strict=True)],
    )


def _named(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


def _key(name):
    return name.removesuffix(".json")


def score(workdir, update):
    """What a run's metrics say of its parameters of `update`: `{"test/bpc": 1.7, ...}`.

    Of the validation, and of the test if it has been; empty where the metrics are gone.
    """
    try:
        rows = metrics_log.read_metrics(epath.Path(workdir) / metrics_log.NAME)
    except UserError:
        return {}
    found = {}
    for row in rows:
        for split, its in (("valid/", row.get("step")), ("test/", row.get("test/update"))):
            if its == update:
                found |= {k: v for k, v in row.items() if k.startswith(split)}
    return {name: value for name, value in found.items() if name.count("/") == 1}
