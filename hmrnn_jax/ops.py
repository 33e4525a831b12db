"""Elementary operations of the cells: detector, normalisation, products, initialisers.

Columns, as in the papers: features lie along the first axis, `[d]` for one example or
`[d, B]` for a batch, and scalars of an example are `[]` or `[B]`. On CPUs products in
this layout, `[N, K] @ [K, B]`, run up to 1.5 times as fast as `[B, K] @ [K, N]`.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


def hard_sigmoid(x, slope):
    """`max(0, min(1, (a x + 1) / 2))` with slope `a` (Chung et al. 2017, section 2.2)."""
    return jnp.clip((slope * x + 1) / 2, 0, 1)


SURROGATES = ("hard_sigmoid", "logistic")


def surrogate_derivative(x, slope, surrogate="hard_sigmoid"):
    """What stands in for the derivative of a detector's step, `[...]` like x.

    `hard_sigmoid`: `a / 2` where `|a x| < 1` and 0 elsewhere, the two kinks included, which
    automatic differentiation of a clip would split (Chung et al. 2017, straight-through
    estimator). `logistic`: `2 a p (1 - p)` with `p = sigmoid(2 a x)`, the same at 0 and nowhere
    0, so that a detector far from its threshold can come back; the detectors of Hwang, Wang,
    Gu 2025 (H-Net) have no dead zone either.
    """
    if surrogate == "logistic":
        p = jax.nn.sigmoid(2 * slope * x)
        return 2 * slope * p * (1 - p)
    return jnp.where(jnp.abs(slope * x) < 1, slope / 2, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def straight_through(value, x, slope, surrogate="hard_sigmoid"):
    """`value` forwards; backwards `surrogate_derivative` of x.

    Args:
      value: what the detector emits, any array of 0s and 1s (or `hard_sigmoid`).
      x: detector pre-activation, same shape as `value`.
      slope: scalar `a > 0`, traced, so that annealing never recompiles.
      surrogate: one of `SURROGATES`.

    Returns `value`. The gradient reaches `x` alone, in reverse mode alone, as of every
    `jax.custom_vjp`; see `straight_through_both_ways`.
    """
    del x, slope, surrogate
    return value


def _straight_through_forward(value, x, slope, surrogate):
    return value, (x, slope)


def _straight_through_backward(surrogate, residuals, gradient):
    to_x = gradient * surrogate_derivative(*residuals, surrogate)
    return None, to_x.astype(residuals[0].dtype), None


straight_through.defvjp(_straight_through_forward, _straight_through_backward)


def straight_through_both_ways(value, x, slope, surrogate="hard_sigmoid"):
    """`straight_through` in forward mode too, and of any order: `jax.jvp`, `jax.hessian`.

    Plain arithmetic, for JAX has no custom rule of both modes that holds within loops in every
    order: what is added to `value` is 0 to the last digit, and has the derivatives.
    """
    value, slope = jax.lax.stop_gradient((value, slope))
    if surrogate == "logistic":
        function = jax.nn.sigmoid(2 * slope * x)
    else:
        function = jnp.where(jnp.abs(slope * x) < 1, x, 0) * (slope / 2)
    return value + (function - jax.lax.stop_gradient(function)).astype(value.dtype)


BOUNDARY_MODES = ("step", "sample", "soft")


def fired(x, slope, mode, noise=None):
    """The boundary `z` of pre-activation `x` (Chung et al. 2017, eq. 9), without its derivative,
    which is that of `straight_through`.

    Modes: `step`, 1 iff the hard sigmoid exceeds 1/2; `sample`, Bernoulli with the
    hard sigmoid as probability, drawn with `noise` uniform in [0, 1); `soft`, the
    hard sigmoid itself. The step is written `x > 0`: through the hard sigmoid, f32
    rounding would swallow 0 < x < 6e-8 / a.
    """
    if mode == "step":
        return (x > 0).astype(x.dtype)
    if mode == "sample":
        return (noise < hard_sigmoid(x, slope)).astype(x.dtype)
    return hard_sigmoid(x, slope).astype(x.dtype)


def uniform(key, shape, dtype):
    """The `noise` of `fired` beside values of `dtype`: of a half precision's few numbers too many
    would lie below a small probability."""
    return jax.random.uniform(key, shape, jnp.promote_types(dtype, jnp.float32))


def column(vector, like):
    """`vector` with trailing axes of length 1, so that it broadcasts over `like`'s batch."""
    return vector.reshape(vector.shape + (1,) * (like.ndim - vector.ndim))


def row(scalars):
    """Scalars of the examples, `[]` or `[B]`, as a row that broadcasts over their features."""
    return scalars[None]


# Added to the variance that layer normalisation divides by.
EPSILON = 1e-5


def layer_norm(x, gain, bias, groups=1):
    """Layer normalisation over the features, population variance (Ba et al. 2016).

    Args:
      x: `[d]` or `[d, B]`. gain, bias: `[d]`.
      groups: number of equal slices of the features, each normalised by itself.
    """
    grouped = x.reshape(groups, len(x) // groups, *x.shape[1:])
    centred = grouped - jnp.mean(grouped, axis=1, keepdims=True)
    # The mean is rounded as x is. Where x varies little, the division makes that large, and the
    # gradient's sums, in which it should cancel, larger: what is left of the mean goes, too.
    centred -= jax.lax.stop_gradient(jnp.mean(centred, axis=1, keepdims=True))
    variance = jnp.mean(jnp.square(centred), axis=1, keepdims=True)
    scaled = (centred * jax.lax.rsqrt(variance + EPSILON)).reshape(x.shape)
    return scaled * column(gain, x) + column(bias, x)


def cumax(x):
    """`cumsum(softmax(x))` over the second axis, `[k, n, ...]` (Shen et al. 2019).

    In float32 at least, whatever the precision of products: in bfloat16 neighbouring sums
    tie, and the splits read from them with them. The sum is a product with a triangle of
    ones: n is small, and a scan's many short steps cost more.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    probabilities = jax.nn.softmax(x, axis=1)
    triangle = jnp.tril(jnp.ones((x.shape[1],) * 2, x.dtype))
    return jnp.einsum("mn,kn...->km...", triangle, probabilities, precision="highest")


# What they are to JAX, whatever jax.default_matmul_precision says.
_OF_JAX = {"float32": "highest", "high": "high", "bfloat16": "default"}
PRECISIONS = tuple(_OF_JAX)


def of_jax(precision):
    """The `precision` that JAX's products take under a precision policy."""
    return _OF_JAX[precision]


def operand(array, precision):
    """`array` as an operand of a matrix product under a precision policy."""
    return array.astype(jnp.bfloat16) if precision == "bfloat16" else array


def product(matrix, vector, precision="float32"):
    """`matrix @ vector`: the only place where the precision policy touches numbers.

    `float32` multiplies what it is given at the highest precision (float64 stays float64), `high`
    as `jax.lax.Precision.HIGH`: on a TPU in three products of bfloat16 parts where the highest
    takes six, on a GPU in TF32, on a CPU as `float32`. `bfloat16` rounds both operands to bfloat16
    and accumulates in float32, in the gradient's products too. State and gates never leave the
    dtype of `vector`.

    Args:
      matrix: `[N, K]`. vector: `[K]`, or `[K, B]`.
    """
    if precision != "bfloat16":
        return _multiply(matrix, vector, precision=of_jax(precision))
    return _rounded_product(matrix, vector)


def transposed_product(matrix, vector, precision="float32"):
    """`matrix.T @ vector`, `[K]`, as `product` multiplies; not differentiable."""
    if precision != "bfloat16":
        return _multiply(matrix, vector, 0, precision=of_jax(precision))
    return _accumulate(matrix, vector, 0)


def outer_products(columns, rows, summed, precision, dtype):
    """The sum over the axes `summed`, of the first and the second, of outer products `[N, K]`."""
    return jax.lax.dot_general(
        operand(columns, precision),
        operand(rows, precision),
        (summed, ((), ())),
        precision=of_jax(precision),
        preferred_element_type=dtype,
    )


def _multiply(matrix, vector, axis=-1, **kept):
    """The product over an axis of the matrix; `vmap` over vectors `[K]` transposes nothing."""
    axis %= matrix.ndim
    if vector.ndim == 1 < matrix.ndim:
        return jax.lax.dot_general(vector, matrix, (((0,), (axis,)), ((), ())), **kept)
    return jax.lax.dot_general(matrix, vector, (((axis,), (0,)), ((), ())), **kept)


@jax.custom_vjp
def _rounded_product(matrix, vector):
    return _accumulate(matrix, vector)


def _accumulate(a, b, axis=-1):
    return _multiply(
        a.astype(jnp.bfloat16),
        b.astype(jnp.bfloat16),
        axis,
        precision=of_jax("bfloat16"),
        preferred_element_type=jnp.float32,
    )


def _rounded_forward(matrix, vector):
    return _accumulate(matrix, vector), (matrix, vector)


def _rounded_backward(residuals, gradient):
    # Without this rule the cotangent would stay float32 and the products be mixed.
    matrix, vector = residuals
    columns = vector if vector.ndim == 2 else vector[:, None]
    rows = gradient if vector.ndim == 2 else gradient[:, None]
    to_matrix = _accumulate(rows, columns.T)
    return to_matrix.astype(matrix.dtype), _accumulate(matrix, gradient, 0).astype(vector.dtype)


_rounded_product.defvjp(_rounded_forward, _rounded_backward)


def drawn(make, key, shape, dtype):
    """`make(key, shape, dtype)` of a random initialiser, drawn in float32 at least and then cast.

    Half precisions have no QR decomposition, and few different uniform numbers. What is made of the
    draw is not fused with it, so that compiled and uncompiled it has the same bits.
    """
    value = make(key, shape, jnp.promote_types(dtype, jnp.float32)).astype(dtype)
    return jax.lax.optimization_barrier(value)


ORTHOGONAL, GLOROT = jax.nn.initializers.orthogonal(), jax.nn.initializers.glorot_uniform()


class Blocks(NamedTuple):
    """Matrices to be drawn, one below the other: `[blocks * rows, columns]`.

    Attributes:
      make: an initialiser, such as `ORTHOGONAL` or `GLOROT`, whose fans are those of one block.
    """

    make: Callable[..., jax.Array]
    key: jax.Array
    rows: int
    columns: int
    blocks: int = 1


def draw_blocks(asked, dtype=jnp.float32):
    """`{name: matrices}` of `{name: Blocks}`.

    Blocks of one shape are drawn in one loop, which is compiled once: a hundred draws, each by
    itself, make up the better part of the time that a small model takes to compile. Their bits are
    the same. (`vmap` is no loop: with it the QR decompositions of a CPU can hang.)
    """
    groups, found = {}, {}
    for name, one in asked.items():
        groups.setdefault(one._replace(key=None), []).append(name)
    for one, names in groups.items():
        keys = jnp.stack([asked[name].key for name in names])
        keys = jax.vmap(functools.partial(jax.random.split, num=one.blocks))(keys)
        draw = functools.partial(drawn, one.make, shape=(one.rows, one.columns), dtype=dtype)
        every = jax.lax.map(draw, keys.reshape(-1, *keys.shape[2:]))
        found |= zip(names, every.reshape(len(names), -1, one.columns), strict=True)
    return found


def symmetric_uniform(limit):
    """An initialiser, uniform in +-limit."""

    def make(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return make
