"""Models of one number of parameters, for comparisons in which only the cell differs."""

import functools
import math
from typing import NamedTuple

import jax
import numpy as np

from hmrnn_jax.errors import UserError
from hmrnn_jax.models.language import language_model
from hmrnn_jax.tasks import language

TOLERANCE = 0.01  # of the budget
CHUNKS = (8, 7, 9, 6, 10, 5, 11, 4, 12)  # of the ON-LSTM, the most wanted first


class Kind(NamedTuple):
    """A model but for its width. `choices`: fields of the cell's own section."""

    label: str
    cell: str
    layers: int
    choices: dict = {}


KINDS = {
    "lstm": Kind("LSTM", "lstm", 1),
    "stack2": Kind("LSTM, 2 layers", "lstm", 2),
    "nested2": Kind("Nested LSTM, depth 2", "nested_lstm", 1, {"depth": 2}),
    "nested3": Kind("Nested LSTM, depth 3", "nested_lstm", 1, {"depth": 3}),
    "hm_lstm": Kind("HM-LSTM, 3 layers", "hm_lstm", 3),
    "on_lstm": Kind("ON-LSTM, 2 layers", "on_lstm", 2),
}


def widths(units, layers):
    """`units` dealt out to the layers as equally as can be, lower layers first."""
    return tuple(units // layers + (layer < units % layers) for layer in range(layers))


def alike(config, forget_bias):
    """Gives all cells in `config` the same initialisation and no layer normalisation."""
    same = {"initialisation": "orthogonal", "forget_bias": forget_bias, "layer_norm": "none"}
    for cell in {kind.cell for kind in KINDS.values()}:
        section = config.model[cell]
        section.update({field: value for field, value in same.items() if field in section})


def sized(base, name, units, chunk=1):
    """`base` with the model `name`, whose layers share `units` chunks of `chunk` units."""
    kind, config = KINDS[name], base.copy_and_resolve_references()
    config.model.cell = kind.cell
    config.model.sizes = tuple(chunk * n for n in widths(units, kind.layers))
    config.model[kind.cell].update(kind.choices)
    if "chunk" in config.model[kind.cell]:
        config.model[kind.cell].chunk = chunk
    return config


def parameters(config, vocabulary):
    """`(of the whole model, of its cells alone)`, counted without making any."""
    shapes = _shapes(config, vocabulary)

    def count(tree):
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))

    return count(shapes), count({k: v for k, v in shapes.items() if k.startswith("cell")})


def _shapes(config, vocabulary):
    model = language_model(config.model, vocabulary)
    return jax.eval_shape(functools.partial(language.init_params, model), jax.random.key(0))


class Moves(NamedTuple):
    """Shares of symbols, 0 to 1, of an HM-LSTM's layers, lowest first.

    Attributes:
      fires: a layer's detector fires, of all layers but the last.
      active: a layer UPDATEs or FLUSHes, that is does not COPY.
    """

    fires: tuple[float, ...]
    active: tuple[float, ...]

    @classmethod
    def asked(cls, lengths):
        """Those of nested segments of these mean lengths, each in segments of the layer below,
        none of one symbol: a layer moves where the one below fires, and after it fired itself."""
        fires = tuple(1 / math.prod(lengths[: n + 1]) for n in range(len(lengths)))
        own = (*fires[1:], 0.0)  # the last layer has no detector
        return cls(fires, (1.0, *map(sum, zip(fires, own, strict=True))))

    @classmethod
    def measured(cls, metrics, prefix=""):
        """Those in the metrics of a text; None if there are none, as of another cell."""
        layers = range(1, 1 + sum(key.startswith(f"{prefix}copy/layer") for key in metrics))
        if not layers:
            return None
        return cls(
            tuple(metrics[f"{prefix}rate/layer{n}"] for n in layers[:-1]),
            tuple(1 - metrics[f"{prefix}copy/layer{n}"] for n in layers),
        )


def multiplications(config, vocabulary, moves=None):
    """Multiplications a symbol, of the matrix products of the whole model, forwards.

    Args:
      moves: of an HM-LSTM, `Moves`: products whose result nobody reads are left out (Chung, Ahn,
        Bengio 2017, section 2.2.1): all of a layer that COPYs but its detector's row, the output
        module's too; from above unless the layer fired last; from below unless the layer below
        fires. None counts all.

    The embedding is read by its row: no product.
    """
    total, sizes = 0.0, config.model.sizes
    for path, leaf in jax.tree_util.tree_leaves_with_path(_shapes(config, vocabulary)):
        names = [part.key for part in path]
        if len(leaf.shape) < 2 or names == ["embedding"]:
            continue
        if moves is None:
            total += math.prod(leaf.shape)
        elif names[-1] == "gate":  # a row for each unit of all layers
            active = sum(n * share for n, share in zip(sizes, moves.active, strict=True))
            total += leaf.shape[1] * active
        else:
            total += math.prod(leaf.shape) * _share(names, moves)
    if config.model.head == "tied":
        total += vocabulary * config.model.embedding
    return total


def _share(names, moves):
    """The share of symbols at which the product of a matrix of that name is read."""
    section, name = names[0], names[-1]
    if section == "output":
        return moves.active[int(name.removeprefix("embed")) - 1]
    if section != "cell1":
        return 1.0
    layer = int(names[1].removeprefix("layer")) - 1
    if names[-2] == "detector" and name in ("U_rec", "V"):
        return 1.0  # it may fire while its layer COPYs
    if name == "U_td":
        return moves.fires[layer]
    if name == "W_bu":
        return moves.fires[layer - 1] if layer else 1.0
    return moves.active[layer]


def fit(base, name, vocabulary, budget):
    """`base` with the model `name` in the width that comes closest to `budget` parameters.

    The whole model is counted, embedding and softmax included. Layers are equally wide; where
    that does not come out even, lower ones have one unit more (one chunk in the ON-LSTM,
    whose chunk is the first of `CHUNKS` that comes within 1 %).

    Raises `UserError` if no width is within 1 %: small budgets fall between two widths.
    """
    kind, nearest = KINDS[name], []
    for chunk in CHUNKS if kind.cell == "on_lstm" else (1,):

        @functools.cache
        def off(units, chunk=chunk):
            return parameters(sized(base, name, units, chunk), vocabulary)[0] - budget

        units = _nearest(off, kind.layers)
        if abs(off(units)) <= TOLERANCE * budget:
            return sized(base, name, units, chunk)
        nearest.append(off(units))
    count = budget + min(nearest, key=abs)
    raise UserError(
        f"No width of {name} has {budget:,} parameters within 1 %: the nearest has {count:,};"
        " choose that budget, or a larger one."
    )


def fit_multiplications(config, vocabulary, ratio, target, moves=None):
    """`config` with layers in the proportions `ratio` that come closest to `target` a symbol.

    Args:
      config: of an HM-LSTM. ratio: of the layers' units, such as (1, 2, 4).
      target: of `multiplications`, given `moves`.
    """

    def sized(units):
        found = config.copy_and_resolve_references()
        found.model.sizes = tuple(units * part for part in ratio)
        return found

    @functools.cache
    def off(units):
        return multiplications(sized(units), vocabulary, moves) - target

    return sized(_nearest(off, 1))


def _nearest(off, layers):
    """The number of units, of one a layer or more, at which `off`, which grows as a square, is
    nearest to 0. Each value takes a model's shapes, so few are asked for."""
    known = [layers, 8 * layers, 64 * layers]
    square = np.polyfit(known, [off(units) for units in known], 2)
    units = max(layers, round(max(np.roots(square).real)))
    while True:  # layers that share unevenly are a little off that square
        near = range(max(layers, units - 1), units + 2)
        best = min(near, key=lambda units: abs(off(units)))
        if best == units:
            return units
        units = best
