"""`jax.lax.scan` as a single TPU kernel, whose weights and state never leave the chip's VMEM.

A compiled `lax.scan` starts dozens of operations at every time step and reads all weights from
HBM again. Here the time steps are the grid of one Pallas kernel: the weights are brought to
VMEM once, the carry stays there from step to step, and while a step computes, the next one's
inputs are fetched. The body is the same function, so the same cells run in both.
"""

import contextlib
import contextvars
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

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
# What the compiler takes beside the buffers, for values that do not fit in registers. Where it was
# a quarter, text8's size in bfloat16 with 72 MiB of buffers did not compile for 128 MiB.
_SPARE = 0.5


def vmem_bytes(chip):
    """VMEM of one core of a chip, by its `device_kind`; 0 if it is not known."""
    return VMEM.get(chip, 0) * MIB


def resident_bytes(resident, carry, xs, ys):
    """VMEM that a window takes: the weights, the carry, and two buffers for each step's arrays.

    Args: trees of arrays or shapes; `xs` and `ys` have the time first.
    """

    def total(tree, leading):
        return sum(
            _padded(_Form.of(leaf, leading).shape(leaf.shape[leading:]), leaf.dtype)
            for leaf in jax.tree.leaves(tree)
        )

    return total(resident, 0) + 2 * total(carry, 0) + 2 * total((xs, ys), 1)


def _padded(shape, dtype):
    """Bytes of an array in VMEM's tiles of 8 x 128 words."""
    rows, columns = (1, 1, *shape)[-2:]
    size = np.dtype(dtype).itemsize
    sublanes = 8 * max(1, 4 // size)
    leading = math.prod(shape[:-2])
    return leading * -(-rows // sublanes) * sublanes * -(-columns // 128) * 128 * size


_NOTES = contextvars.ContextVar("notes", default=None)


@contextlib.contextmanager
def noted() -> Iterator[list]:
    """Collects what is traced meanwhile says of its choices, a line each, none twice."""
    token = _NOTES.set([])
    try:
        yield _NOTES.get()
    finally:
        _NOTES.reset(token)


def note(line):
    """A line for `noted`."""
    notes = _NOTES.get()
    if notes is not None and line not in notes:
        notes.append(line)


class _Form(NamedTuple):
    """How a leaf lies in the kernel: booleans as float32, `[B]` as `[1, B]`, `[]` in SMEM.

    Those of a step that are narrower than a tile's 128 lanes, `[d, B]` with the few rows of a
    batch, are `[B, d]` outside the body, in HBM above all: they would take 128 / B times the room.
    So are single columns. The carry, which every step reads and writes, stays as it is.
    """

    rank: int
    boolean: bool
    turned: bool

    @classmethod
    def of(cls, leaf, leading=0):
        shape = leaf.shape[leading:]
        narrow = len(shape) == 2 and shape[1] < min(128, shape[0])
        turned = narrow and (leading > 0 or shape[1] == 1)
        return cls(len(shape), leaf.dtype == jnp.bool_, turned)

    def shape(self, shape):
        """The kernel's shape of a leaf without its leading axis."""
        shape = (1,) * (2 - self.rank) + tuple(shape)
        return shape[::-1] if self.turned else shape

    def given(self, leaf, leading=0):
        """A leaf as the kernel takes it."""
        leaf = leaf.astype(jnp.float32) if self.boolean else leaf
        if self.turned:
            return leaf.swapaxes(-1, -2)
        return leaf.reshape(leaf.shape[:leading] + self.shape(leaf.shape[leading:]))

    def taken(self, leaf, shape):
        """A leaf of the given shape from what the kernel gave."""
        return leaf.swapaxes(-1, -2) if self.turned else leaf.reshape(shape)

    def read(self, ref, *index):
        if self.rank == 0:
            return ref[(*index, 0, 0)]
        value = ref[(*index, 0)] if self.rank == 1 else ref[index or ...]
        value = value.T if self.turned else value
        return value != 0 if self.boolean else value

    def write(self, ref, value, *index):
        if self.rank == 1:
            ref[(*index, 0)] = value
        else:
            ref[index or ...] = value.T if self.turned else value


def scan(body, resident, carry, xs, reverse=False, chip=""):
    """`lax.scan` of `body(resident, carry, x) -> (carry, y)`, as one kernel.

    Args:
      resident: a tree of arrays that all steps read, kept in VMEM.
      carry: a tree of arrays `[B]` or `[d, B]`.
      xs: a tree of arrays `[T, B]` or `[T, d, ..., B]`.
      reverse: from the last step to the first.
      chip: `device_kind` of the TPU; anything else interprets the kernel, slowly.

    Returns `(carry, ys)`. Nothing is differentiated: see `recurrence`.
    """
    steps = jax.tree.leaves(xs)[0].shape[0]
    first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)
    _, ys = jax.eval_shape(body, resident, carry, first)
    trees = {"resident": resident, "carry": carry, "xs": xs, "ys": ys}
    leaves, structures = {}, {}
    for name, tree in trees.items():
        leaves[name], structures[name] = jax.tree.flatten(tree)
    forms = {
        name: [_Form.of(leaf, name == "xs") for leaf in leaves[name]]
        for name in ("resident", "carry", "xs")
    }
    forms["ys"] = [_Form.of(_stacked(y, steps), 1) for y in leaves["ys"]]

    def kernel(*refs):
        refs = iter(refs)
        given = {name: [next(refs) for _ in leaves[name]] for name in ("resident", "carry", "xs")}
        y_refs = [next(refs) for _ in leaves["ys"]]
        carry_refs = list(refs)

        @pl.when(pl.program_id(0) == 0)
        def _():
            for to, origin in zip(carry_refs, given["carry"], strict=True):
                to[...] = origin[...]

        def read(name, references, *index):
            values = [f.read(r, *index) for f, r in zip(forms[name], references, strict=True)]
            return jax.tree.unflatten(structures[name], values)

        def write(name, references, tree, *index):
            for form, ref, value in zip(
                forms[name], references, jax.tree.leaves(tree), strict=True
            ):
                form.write(ref, value, *index)

        new, y = body(
            read("resident", given["resident"]),
            read("carry", carry_refs),
            read("xs", given["xs"], 0),
        )
        write("ys", y_refs, y, 0)
        write("carry", carry_refs, new)

    def at(t):
        return steps - 1 - t if reverse else t

    def of_step(shape):
        return pl.BlockSpec((1, *shape), lambda t: (at(t), *(0,) * len(shape)))

    whole = pl.BlockSpec(memory_space=pltpu.VMEM)
    scalar = pl.BlockSpec(memory_space=pltpu.SMEM)
    arguments = [
        *(f.given(x) for f, x in zip(forms["resident"], leaves["resident"], strict=True)),
        *(f.given(x) for f, x in zip(forms["carry"], leaves["carry"], strict=True)),
        *(f.given(x, 1) for f, x in zip(forms["xs"], leaves["xs"], strict=True)),
    ]
    y_shapes = [f.shape(y.shape) for f, y in zip(forms["ys"], leaves["ys"], strict=True)]
    c_shapes = [f.shape(c.shape) for f, c in zip(forms["carry"], leaves["carry"], strict=True)]
    vmem = vmem_bytes(chip)
    results = pl.pallas_call(
        kernel,
        grid=(steps,),
        in_specs=[
            *(whole if form.rank else scalar for form in forms["resident"]),
            *(whole for _ in forms["carry"]),
            *(of_step(x.shape[1:]) for x in arguments[-len(leaves["xs"]) :]),
        ],
        out_specs=[*(of_step(shape) for shape in y_shapes), *(whole for _ in c_shapes)],
        out_shape=[
            *(
                jax.ShapeDtypeStruct((steps, *shape), y.dtype)
                for shape, y in zip(y_shapes, leaves["ys"], strict=True)
            ),
            *(
                jax.ShapeDtypeStruct(shape, c.dtype)
                for shape, c in zip(c_shapes, leaves["carry"], strict=True)
            ),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",), vmem_limit_bytes=vmem or None
        ),
        interpret=not vmem,
    )(*arguments)
    of_ys, of_carry = results[: len(y_shapes)], results[len(y_shapes) :]
    ys = [
        form.taken(y, (steps, *s.shape))
        for form, y, s in zip(forms["ys"], of_ys, leaves["ys"], strict=True)
    ]
    carry = [
        form.taken(c, s.shape)
        for form, c, s in zip(forms["carry"], of_carry, leaves["carry"], strict=True)
    ]
    return jax.tree.unflatten(structures["carry"], carry), jax.tree.unflatten(structures["ys"], ys)


def _stacked(leaf, steps):
    return jax.ShapeDtypeStruct((steps, *leaf.shape), leaf.dtype)


def needs(chip, body, resident, carry, xs):
    """`(needed, available)` bytes of VMEM for `scan` with these arguments on a chip."""
    first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)
    steps = jax.tree.leaves(xs)[0].shape[0]
    _, y = jax.eval_shape(body, resident, carry, first)
    ys = jax.tree.map(lambda leaf: _stacked(leaf, steps), y)
    available = int(vmem_bytes(chip) * (1 - _SPARE))
    return resident_bytes(resident, carry, xs, ys), available
