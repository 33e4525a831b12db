"""The pointwise part of an HM-LSTM layer's step as one GPU kernel; the products stay a library's.

Compiled from a `lax.scan`, the layer's normalisations, UPDATE, COPY, FLUSH and boundary are
several kernels a time step, each of microseconds, as every reduction ends one. Here they are
one, and their derivative is another: Pallas by way of Triton, on tiles of a few columns, the
examples, with all their rows. `advance` and `replay` stand in for those of
`cells.hm_lstm_pointwise`, with its equations. On CPUs the kernels are interpreted, slowly.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from hmrnn_jax import ops
from hmrnn_jax.cells import hm_lstm_pointwise
from hmrnn_jax.cells.hm_lstm_pointwise import Advanced, Operands

# Columns and warps of a tile.
_COLUMNS = 2
_WARPS = 8


def advance(config, operands):
    """`cells.hm_lstm_pointwise.advance` as one kernel; not differentiable, see `replay`."""
    last = operands.detector is None
    detector = None if last else operands.detector
    like = Advanced(operands.h, operands.c, detector, detector)

    def kernel(tile, given):
        return _advance(config, tile, given, differentiable=False)

    return _call(kernel, _with_columns(operands), like)


def _with_columns(operands):
    """Gains and biases `[H, 1]`, as `[H]` may be mistaken for a scalar of each of H examples."""
    vectors = operands.norm, operands.reads
    norm, reads = jax.tree.map(lambda v: v[:, None], vectors)
    return operands._replace(norm=norm, reads=reads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def replay(config, new, operands):
    """`cells.hm_lstm_pointwise.replay`: `new` is the known result, the derivative is one kernel."""
    return new


def _replay_backward(config, operands, gradients):
    fixed = {"slope": None, "noise": None}

    def kernel(tile, given):
        operands, gradients = given

        def varied(those):
            kept = {name: getattr(operands, name) for name in fixed}
            return _advance(config, tile, those._replace(**kept), differentiable=True)

        return jax.vjp(varied, operands._replace(**fixed))[1](gradients)[0]

    operands = _with_columns(operands)
    result = _call(kernel, (operands, gradients), operands._replace(**fixed))
    norm, reads = jax.tree.map(lambda g: g[:, 0], (result.norm, result.reads))
    return None, result._replace(norm=norm, reads=reads)


replay.defvjp(lambda config, new, operands: (new, operands), _replay_backward)


def _advance(config, tile, given, differentiable):
    """`cells.hm_lstm_pointwise.advance` of a tile, where the four gates are apart."""

    def normalised(x, gain, bias):
        centred = x - tile.mean(x)
        centred -= jax.lax.stop_gradient(tile.mean(centred))  # as in `ops.layer_norm`
        centred = jnp.where(tile.rows, centred, 0)
        return centred * jax.lax.rsqrt(tile.mean(centred**2) + ops.EPSILON) * gain + bias

    gates, norm = given.gates, given.norm
    if config.layer_norm == "sum":
        of_gates = zip(gates, norm["s"]["gain"], norm["s"]["bias"], strict=True)
        gates = [normalised(*each) for each in of_gates]
    squashed = (*(0.5 + 0.5 * jnp.tanh(0.5 * gate) for gate in gates[:3]), jnp.tanh(gates[3]))
    h, c = hm_lstm_pointwise.combine(
        config, given.p, given.q, given.h, given.c, squashed,
        lambda c: normalised(c, **norm["c"]) if norm else c,
    )  # fmt: skip
    x = given.detector
    if x is None:
        return Advanced(h, c, None, None)
    if given.reads is not None:
        x = x + jnp.sum(jnp.where(tile.rows, given.reads * h, 0), axis=0)[None]
    z = ops.fired(x, given.slope, config.boundary, given.noise)
    if differentiable:  # a forward kernel has no room for the rule
        z = ops.straight_through(z, x, given.slope, config.derivative)
    if config.nested and given.q is not None:
        z = given.q * z
    return Advanced(h, c, z, x)


class _Tile:
    """Which rows and columns of a tile `[R, C]` are the array's: R is a power of two."""

    def __init__(self, rows, padded, columns, of_batch):
        self._count = rows
        self.rows = jax.lax.broadcasted_iota(jnp.int32, (padded, 1), 0) < rows
        place = jax.lax.broadcasted_iota(jnp.int32, (1, of_batch), 1)
        self.columns = pl.program_id(0) * of_batch + place < columns

    def mean(self, x):
        """Of each column's rows, `[1, C]`."""
        return jnp.sum(jnp.where(self.rows, x, 0), axis=0)[None] / self._count

    def mask(self, shape):
        """Which elements of a block, `[..., R or 1, C or 1]`, there are."""
        mask = jnp.ones(shape[-2:], bool)
        mask &= self.rows if shape[-2] > 1 else True
        return mask & (self.columns if shape[-1] > 1 else True)


def _call(function, given, like):
    """`function(tile, given)` as a kernel over tiles of columns.

    Args:
      function: of a `_Tile` and the tree `given` of tiles: `[R, C]` for an array `[H, B]`,
        `[1, C]` for `[B]`, `[R, 1]` for `[H, 1]`, `[1, 1]` for `[]`, and a list of four for
        one of 4 H rows.
      given: a tree of arrays, with one `h` of H rows at least.
      like: a tree of arrays of which the result has the form; for those `[H, 1]` the sum
        over the tiles.
    """
    first = given[0] if isinstance(given[0], Operands) else given
    size, batch = first.h.shape
    padded, tiles = pl.next_power_of_2(size), pl.cdiv(batch, _COLUMNS)
    leaves, structure = jax.tree.flatten(given)
    result_leaves, result_structure = jax.tree.flatten(like)
    arrays = [_matrix(jnp.asarray(leaf, first.h.dtype), size) for leaf in leaves]
    shapes = [_matrix(leaf, size).shape for leaf in result_leaves]
    summed = [len(leaf.shape) == 2 and leaf.shape[1] != batch for leaf in result_leaves]
    # A tile's part of a sum is a column of its own.
    whole = [(*shape[:-1], tiles) if s else shape for shape, s in zip(shapes, summed, strict=True)]

    def spec(shape, columns):
        rows = padded if shape[-2] == size else 1
        block = (*shape[:-2], rows, columns)
        return pl.BlockSpec(block, lambda i: (*(0,) * (len(block) - 1), i if shape[-1] > 1 else 0))

    def kernel(*refs):
        tile = _Tile(size, padded, batch, _COLUMNS)
        values = [_read(tile, ref) for ref in refs[: len(arrays)]]
        results = function(tile, jax.tree.unflatten(structure, values))
        parts = jax.tree.leaves(results, is_leaf=lambda part: isinstance(part, list))
        for ref, part in zip(refs[len(arrays) :], parts, strict=True):
            _write(tile, ref, part)

    def run(interpret, *arrays):
        return pl.pallas_call(
            kernel,
            grid=(tiles,),
            in_specs=[spec(a.shape, _COLUMNS if a.shape[-1] == batch else 1) for a in arrays],
            out_specs=[
                spec(shape, 1 if sums else _COLUMNS)
                for shape, sums in zip(whole, summed, strict=True)
            ],
            out_shape=[jax.ShapeDtypeStruct(shape, first.h.dtype) for shape in whole],
            compiler_params=triton.CompilerParams(num_warps=_WARPS),
            interpret=interpret,
        )(*arrays)

    results = jax.lax.platform_dependent(
        *arrays, cuda=functools.partial(run, False), default=functools.partial(run, True)
    )
    results = [
        (value.sum(-1, keepdims=True) if sums else value).reshape(leaf.shape)
        for value, sums, leaf in zip(results, summed, result_leaves, strict=True)
    ]
    return jax.tree.unflatten(result_structure, results)


def _matrix(leaf, size):
    """An array or shape as the kernel takes it: `[1, 1]`, `[1, B]`, `[H, .]` or `[4, H, .]`."""
    shape = (1,) * (2 - len(leaf.shape)) + tuple(leaf.shape)
    if len(leaf.shape) == 2 and shape[0] == 4 * size:
        shape = (4, size, shape[1])
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(shape, leaf.dtype)
    return leaf.reshape(shape)


def _read(tile, ref):
    """The tile of a block, zeros where there is no element; one of four parts as a list."""

    def part(ref):
        return triton.load(ref, mask=tile.mask(ref.shape), other=0)

    return (
        [part(ref.at[jnp.int32(k)]) for k in range(4)] if len(ref.shape) == 3 else part(ref.at[...])
    )


def _write(tile, ref, value):
    """Writes what `_read` read."""
    if not isinstance(value, list):
        ref, value = [ref.at[...]], [value]
    else:
        ref = [ref.at[jnp.int32(k)] for k in range(len(value))]
    for where, part in zip(ref, value, strict=True):
        triton.store(where, part, mask=tile.mask(part.shape))
