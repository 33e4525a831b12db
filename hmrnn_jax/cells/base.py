"""What the cells share: their contract, their products in plain form, initial parameters."""

import contextlib
from typing import Any, Protocol

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from hmrnn_jax import ops
from hmrnn_jax.errors import UserError


class CellConfig(Protocol):
    """A cell's sizes and choices: a frozen dataclass, so that it can be a static argument.

    Attributes:
      input_size: width of x. Beside it `size`, the width of a layer, or of a cell that is a stack
        of layers by itself `sizes`, one for each, lowest first; then choices, which have defaults.
      uses_slope: whether `step` takes the slope of boundary detectors. Such a cell's `State` has
        their boundaries z, its parameters of detectors lie under the name `detector`, which learns
        at a rate of its own, and its config has `depth` and `nested`.
      uses_noise: how many uniform draws a step takes.
      replays: whether `step` takes `after`, the new state where it is known and only the derivative
        is wanted, and `pointwise`, see `hm_lstm`.
    """

    input_size: Any
    uses_slope: Any
    replays: Any

    @property
    def uses_noise(self) -> int: ...


class Cell(Protocol):
    """What the module of a cell exports. Features lie along the first axis, `[d]` or `[d, B]`.

    Attributes:
      NAME: what headings call the cell.
      Config: class of the cell's configurations, see `CellConfig`.
      State: NamedTuple of what is carried over time: h, and whatever else, arrays or tuples with
        an array for each layer. `Aux`, where a module has it, is the NamedTuple of what else a
        step tells.

    A recurrent matrix is called `U` or `U_rec` among the parameters: those are what DropConnect
    drops from.
    """

    NAME: str
    Config: Any
    State: Any

    def init(self, key: jax.Array, config: Any, dtype: Any = ...) -> Any:
        """Parameters: arrays in nested dictionaries."""

    def initial_state(self, config: Any, batch: tuple[int, ...] = ..., dtype: Any = ...) -> Any:
        """`State` before the first step, `[size, *batch]`."""

    def products(self, config: Any, params: Any) -> dict[str, tuple[jax.Array, jax.Array | None]]:
        """`{name: (kernel [N, K], bias [N] or None)}` of the products that `step` makes."""

    def inputs(
        self, config: Any, params: Any, x: jax.Array, precision: str = ...
    ) -> dict[str, jax.Array]:
        """`{name: [N, ...]}`: the products with x `[input_size, ...]`, which need no state.

        One of a name that `products` has stands in for its bias. Raises `UserError` for an x of
        another width.
        """

    def vectors(self, config: Any, params: Any) -> Any:
        """The parameters that `step` uses outside its products."""

    def step(
        self, config: Any, params: Any, state: Any, x: jax.Array | None = ..., *, linear: Any = ...
    ) -> tuple[Any, Any]:
        """The new `State`, of the dtype of the old, and `Aux` or `()`.

        Either with params of `init` and x; or with params of `vectors` and `linear(name, operand)`,
        which gives each product of `products` and `inputs` by name; cells that use a slope or
        noise take `slope` and `noise` too. `hm_lstm.step` tells of all arguments.
        """


def widths(config: Any) -> tuple[int, ...]:
    """Widths of a cell's layers, lowest first."""
    return config.sizes if is_stack(type(config)) else (config.size,)


def layers(state: Any) -> tuple[jax.Array, ...]:
    """h of each layer of a cell's `State`, lowest first."""
    return state.h if isinstance(state.h, tuple) else (state.h,)


def is_stack(kind: Any) -> bool:
    """Whether the cells of a `Config` class are a stack of layers by themselves."""
    return "sizes" in kind.__dataclass_fields__


def check_sizes(**sizes):
    """Raises `UserError` unless each is a positive int, or for `sizes` a tuple of such."""
    for field, value in sizes.items():
        many = field == "sizes"
        if many and not (isinstance(value, tuple) and value):
            raise UserError(
                f"sizes is {value!r}; it must be a tuple of the layers' widths, such as (128, 128)."
            )
        if not all(map(is_size, value if many else (value,))):
            kind = "hold positive whole numbers" if many else "be a positive whole number"
            raise UserError(f"{field} is {value!r}; it must {kind}.")


def is_size(value):
    """Whether `value` is a positive whole number."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and value > 0


def check_input(config, x):
    """Raises `UserError` unless x is as wide as a cell's `config` says, `[input_size, ...]`."""
    if len(x) != config.input_size:
        raise UserError(
            f"The input is {len(x)} wide, but the cell's config says input_size="
            f"{config.input_size}; make the two agree."
        )


def check_state(state):
    """Raises `UserError` unless all of a cell's state is floating-point.

    By `cast_like` integers would cut each new state to zeros.
    """
    for leaf in jax.tree.leaves(state):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise UserError(
                f"The state holds {leaf.dtype}; give it in a floating-point dtype, such as float32."
            )


def check_slope(slope):
    """Raises `UserError` unless a detector's slope is above 0, where it is known: not a tracer.

    Below 0 `ops.surrogate_derivative` has the wrong sign, and what it trains learns uphill.
    """
    # In NumPy, for within a program that is traced jax.numpy would not know the answer.
    if not isinstance(slope, jax.core.Tracer) and not np.all(np.asarray(slope) > 0):
        raise UserError(f"slope is {slope}; the detectors need one above 0, such as 1.")


def cast_like(old, new):
    """The tree `new` in the dtypes of `old`: a state keeps its own, whatever the parameters'."""
    return jax.tree.map(lambda like, value: value.astype(like.dtype), old, new)


def exportable(name):
    """Decorates a NamedTuple, so that `jax.export` can serialise programs that take or give it.

    The name is in what is serialised, so it is never to change.
    """

    def register(kind):
        with contextlib.suppress(ValueError):  # it is there already: its module was reloaded
            jax.export.register_namedtuple_serialization(kind, serialized_name=f"hmrnn_jax.{name}")
        return kind

    return register


class Products:
    """`linear(name, operand)`: kernel @ operand + addend, the plain form; operand as in `joined`.

    Args:
      kernels: `{name: (kernel [N, K], bias [N] or None)}`, a cell's `products`.
      inputs: `{name: [N, ...]}`, a cell's `inputs`, which stand in for the bias.
      precision: see `ops.product`.
    """

    def __init__(self, kernels, inputs, precision="float32"):
        self.kernels = kernels
        self.inputs = inputs
        self.precision = precision

    def __call__(self, name, operand):
        if name not in self.kernels:
            return self.inputs[name]
        kernel, bias = self.kernels[name]
        addend = self.inputs.get(name, bias)
        value = ops.product(kernel, joined(name, operand), self.precision)
        return value if addend is None else value + ops.column(addend, value)


def joined(name, operand):
    """The operand of the product `name`, given whole or as a list of its parts, first row first."""
    return jnp.concatenate(operand) if isinstance(operand, list) else operand


def init_norms(names, size, dtype):
    """Gains and biases: four gates wide for each of `names`, and one gate wide for `c`."""
    return {
        name: {"gain": jnp.ones(width, dtype), "bias": jnp.zeros(width, dtype)}
        for name, width in [(name, 4 * size) for name in names] + [("c", size)]
    }


def init_affine(key, config, dtype, input_size=None, biases=("b_W", "b_U"), fan_in=None):
    """Parameters of an affine pre-activation, `{U [N, H], W [N, input_size], biases [N]}`.

    N sums `config.blocks`, of which the first is f. `config.initialisation` is

    * `orthogonal`: a (semi-)orthogonal recurrent matrix for each gate, Glorot-uniform input
      blocks, zero biases;
    * `uniform` or `linear`: everything uniform in +-1/sqrt(fan-in), PyTorch's default for a linear
      map (`b_W`, `b` belong to the input's, `b_U` to the recurrent one), or with one `fan_in`
      for all.

    `config.forget_bias` is added to f's part of the first bias.
    """
    width = config.input_size if input_size is None else input_size
    size, rows = config.size, sum(config.blocks)
    keys = jax.random.split(key, 2 + len(biases))
    if config.initialisation in ("uniform", "linear"):

        def uniform(key, shape, fan_in):
            return ops.drawn(ops.symmetric_uniform(fan_in**-0.5), key, shape, dtype)

        fans = {"U": size, "b_U": size} if fan_in is None else dict.fromkeys(("U", "b_U"), fan_in)
        shapes = {"U": (rows, size), "W": (rows, width)} | dict.fromkeys(biases, (rows,))
        other = width if fan_in is None else fan_in
        params = {
            name: uniform(k, shape, fans.get(name, other))
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
    else:
        params = {
            "U": _blocks(ops.ORTHOGONAL, keys[0], config.blocks, size, dtype),
            "W": _blocks(ops.GLOROT, keys[1], config.blocks, width, dtype),
        } | {name: jnp.zeros(rows, dtype) for name in biases}
    first = biases[0]
    params[first] = params[first].at[:size].add(config.forget_bias)
    return params


def _blocks(make, key, heights, width, dtype):
    keys = jax.random.split(key, len(heights))
    asked = [ops.Blocks(make, k, rows, width) for k, rows in zip(keys, heights, strict=True)]
    return jnp.concatenate(list(ops.draw_blocks(dict(enumerate(asked)), dtype).values()))
