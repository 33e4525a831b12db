"""Models of one number of parameters, for comparisons in which only the cell differs."""

import functools
import math
from typing import NamedTuple

import jax

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
    model = language_model(config.model, vocabulary)
    shapes = jax.eval_shape(functools.partial(language.init_params, model), jax.random.key(0))

    def count(tree):
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))

    return count(shapes), count({k: v for k, v in shapes.items() if k.startswith("cell")})


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

        # A layer of n units has more than 4 n^2 parameters in its recurrent matrices.
        low = kind.layers
        high = low + math.ceil(math.sqrt(budget * kind.layers) / (2 * chunk))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if off(middle) <= 0 else (low, middle)
        units = min(low, high, key=lambda n: abs(off(n)))
        if abs(off(units)) <= TOLERANCE * budget:
            return sized(base, name, units, chunk)
        nearest.append(off(units))
    count = budget + min(nearest, key=abs)
    raise UserError(
        f"No width of {name} has {budget:,} parameters within 1 %: the nearest has {count:,};"
        " choose that budget, or a larger one."
    )
