"""`jax.lax.scan` as a single TPU kernel, whose weights and state never leave the chip's VMEM.

A compiled `lax.scan` starts dozens of operations at every time step and reads all weights from
HBM again. Here the time steps are the grid of one Pallas kernel: the weights are brought to
VMEM once, the carry stays there from step to step, and while a step computes, the next one's
inputs are fetched. The cell's step is the same function, so the same cells run in both; but here
it is of one row of the batch, and `vmap` puts the rows first. A tile of VMEM is 8 x 128 words: the
few rows that a chip has of a batch fill 8 sublanes, where as the last axis they would leave most of
128 lanes empty.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

MIB = 2**20
# VMEM of one core, in MiB, by `Device.device_kind`.
VMEM = {
    "TPU v4": 16,
    "TPU v5 lite": 128,
    "TPU v5": 64,
    "TPU v5p": 64,
    "TPU v6 lite": 128,
    "TPU7x": 64,
}
# The part of its VMEM that a kernel leaves to the compiler, for what does not fit in registers:
# beside 32 MiB of buffers in float32 it took 12. The rest of VMEM it uses for arrays around
# the kernel, which are then no temporaries in HBM: so a kernel's limit is not the whole of it.
_SPARE = 1 / 3
_LEAST = 16 * MIB  # the limit of kernels that need little


def vmem_bytes(device_kind):
    """VMEM of one core of a chip of that kind; 0 if it is not known."""
    return VMEM.get(device_kind, 0) * MIB


def resident_bytes(resident, carry, xs, ys):
    """VMEM that a window takes: the weights, two of the carry, and two buffers for a step's arrays.

    Args: trees of arrays or shapes; `xs` and `ys` have the time first.
    """

    def total(name, tree):
        leading = name not in ("resident", "carry")
        given = (
            jax.eval_shape(functools.partial(_Form.of(leaf, name).given, leading=leading), leaf)
            for leaf in jax.tree.leaves(tree)
        )
        return sum(_padded(leaf.shape[leading:], leaf.dtype) for leaf in given)

    return total("resident", resident) + 2 * (
        total("carry", carry) + total("xs", xs) + total("ys", ys)
    )


def _padded(shape, dtype):
    """Bytes of an array in VMEM's tiles of 8 x 128 words."""
    rows, columns = (1, 1, *shape)[-2:]
    size = np.dtype(dtype).itemsize
    sublanes = 8 * max(1, 4 // size)
    leading = math.prod(shape[:-2])
    return leading * -(-rows // sublanes) * sublanes * -(-columns // 128) * 128 * size


class _Form(NamedTuple):
    """How a leaf of one row lies in the kernel, where rows come first.

    `[d]` of a row is `[B, d]`, a scalar `[B, 1]`, a boolean a float32, in `xs` alone. What all rows
    share is `[1, d]`; a scalar is in SMEM.
    """

    rank: int
    boolean: bool
    shared: bool

    @classmethod
    def of(cls, leaf, name):
        axes = {"resident": 0, "carry": 1, "first": 1}.get(name, 2)
        return cls(len(leaf.shape) - axes, leaf.dtype == jnp.bool_, name == "resident")

    def given(self, leaf, leading=0):
        """A leaf as the kernel takes it; `[d, ..., B]` after the leading axes."""
        leaf = leaf.astype(jnp.float32) if self.boolean else leaf
        if self.shared:
            return leaf.reshape((1,) * (2 - self.rank) + leaf.shape)
        leaf = jnp.moveaxis(leaf, -1, leading)
        return leaf if self.rank else leaf[..., None]

    def taken(self, leaf, leading=0):
        """What `given` was given, but for booleans."""
        leaf = leaf if self.rank else leaf[..., 0]
        return jnp.moveaxis(leaf, leading, -1)

    def read(self, ref, *index):
        if self.shared and self.rank < 2:
            return ref[0] if self.rank else ref[0, 0]
        value = ref[index or ...]
        value = value if self.rank or self.shared else value[:, 0]
        return value != 0 if self.boolean else value

    def write(self, ref, value, *index):
        ref[index or ...] = value if self.rank else value[:, None]


@jax.tree_util.register_pytree_node_class
class Held:
    """An array of `resident` that a body reads itself, where it needs it: `array()`.

    What is read outside of a branch, a kernel reads always.
    """

    def __init__(self, source):
        self.source = source

    @property
    def in_kernel(self):
        """Whether it lies in VMEM; elsewhere, where shapes are worked out, it is the array."""
        return callable(self.source)

    def array(self):
        return self.source() if self.in_kernel else self.source

    def tree_flatten(self):
        return (self.source,), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def _are_held(tree):
    """Of each leaf whether it is `Held`."""
    nodes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, Held))
    return [isinstance(node, Held) for node in nodes]


def scan(body, resident, carry, xs, reverse=False, device_kind="", ends=()):
    """`lax.scan` of `body(resident, carry, x) -> (carry, y)`, as one kernel.

    Args:
      body: of one row: without the axis B.
      resident: a tree of arrays, or of `Held`, that all steps and rows read, kept in VMEM.
      carry: a tree of arrays `[B]` or `[d, B]`.
      xs: a tree of arrays `[T, B]` or `[T, d, ..., B]`.
      reverse: from the last step to the first.
      device_kind: of the TPU; anything else interprets the kernel, slowly.
      ends: empty, or `(first, after)`, a tree like a carry before the first step and after each,
        `[T, ...]`: x is then `(before, after, x)`, both read from the one array.

    Returns `(carry, ys)`. Nothing is differentiated: see `recurrence`.
    """
    # Here, as they take longer to import than all of `cells`.
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    steps = jax.tree.leaves(xs)[0].shape[0]
    ys = results(body, resident, carry, xs, ends)
    first, after = ends or ((), ())
    trees = {"resident": resident, "carry": carry, "first": first, "before": after}
    trees |= {"xs": (after, xs), "ys": ys}
    leaves, structures, forms = {}, {}, {}
    for name, tree in trees.items():
        leaves[name], structures[name] = jax.tree.flatten(tree)
        forms[name] = [_Form.of(leaf, name) for leaf in leaves[name]]
    given = {
        name: [
            f.given(x, name in ("before", "xs"))
            for f, x in zip(forms[name], leaves[name], strict=True)
        ]
        for name in trees
        if name != "ys"
    }
    held = _are_held(resident)

    def kernel(*refs):
        refs = iter(refs)
        origin = {name: [next(refs) for _ in of] for name, of in given.items()}
        y_refs = [next(refs) for _ in leaves["ys"]]
        carry_refs = list(refs)

        @pl.when(pl.program_id(0) == 0)
        def _():
            for to, beginning in zip(carry_refs, origin["carry"], strict=True):
                to[...] = beginning[...]

        def read(name, references, *index):
            values = [f.read(r, *index) for f, r in zip(forms[name], references, strict=True)]
            return jax.tree.unflatten(structures[name], values)

        def write(name, references, tree, *index):
            for form, ref, value in zip(
                forms[name], references, jax.tree.leaves(tree), strict=True
            ):
                form.write(ref, value, *index)

        new_state, x = read("xs", origin["xs"], 0)
        if ends:
            is_first = at(pl.program_id(0)) == 0
            before = jax.tree.map(
                functools.partial(jnp.where, is_first),
                read("first", origin["first"]),
                read("before", origin["before"], 0),
            )
            x = (before, new_state, x)
        sources = [
            functools.partial(form.read, ref) if later else form.read(ref)
            for form, ref, later in zip(forms["resident"], origin["resident"], held, strict=True)
        ]
        rows = jax.vmap(functools.partial(body, structures["resident"].unflatten(sources)))
        new, y = rows(read("carry", carry_refs), x)
        write("ys", y_refs, y, 0)
        write("carry", carry_refs, new)

    def at(t):
        return steps - 1 - t if reverse else t

    def of_step(shape, earlier=0):
        return pl.BlockSpec(
            (1, *shape), lambda t: (jnp.maximum(at(t) - earlier, 0), *(0,) * len(shape))
        )

    whole = pl.BlockSpec(memory_space=pltpu.VMEM)
    scalar = pl.BlockSpec(memory_space=pltpu.SMEM)
    y_like = [
        jax.eval_shape(functools.partial(f.given, leading=1), y)
        for f, y in zip(forms["ys"], leaves["ys"], strict=True)
    ]
    vmem = vmem_bytes(device_kind)
    needed = resident_bytes(resident, (carry, first), (after, after, xs), ys)
    limit = min(vmem, max(_LEAST, int(needed / (1 - _SPARE))))
    outputs = pl.pallas_call(
        kernel,
        grid=(steps,),
        in_specs=[
            *(whole if form.rank else scalar for form in forms["resident"]),
            *(whole for _ in forms["carry"] + forms["first"]),
            *(of_step(x.shape[1:], earlier=1) for x in given["before"]),
            *(of_step(x.shape[1:]) for x in given["xs"]),
        ],
        out_specs=[*(of_step(y.shape[1:]) for y in y_like), *(whole for _ in given["carry"])],
        out_shape=[
            *y_like,
            *(jax.ShapeDtypeStruct(c.shape, c.dtype) for c in given["carry"]),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",), vmem_limit_bytes=limit or None
        ),
        interpret=not vmem,
    )(*(leaf for of in given.values() for leaf in of))
    of_ys, of_carry = outputs[: len(y_like)], outputs[len(y_like) :]

    def taken(name, values, leading):
        values = [f.taken(v, leading) for f, v in zip(forms[name], values, strict=True)]
        return jax.tree.unflatten(structures[name], values)

    return taken("carry", of_carry, 0), taken("ys", of_ys, 1)


def results(body, resident, carry, xs, ends=()):
    """Shapes of the `ys` of `scan`."""
    x = (ends[1], ends[1], xs) if ends else xs
    rows = jax.vmap(body, (None, -1, -1), -1)
    return jax.eval_shape(jax.vmap(rows, (None, None, 0), 0), resident, carry, x)[1]


def needs(device_kind, body, resident, carry, xs, ends=()):
    """`(needed, available)` bytes of VMEM for `scan` with these arguments on such a chip."""
    first, after = ends or ((), ())
    ys = results(body, resident, carry, xs, ends)
    needed = resident_bytes(resident, (carry, first), (after, after, xs), ys)
    return needed, int(vmem_bytes(device_kind) * (1 - _SPARE))
