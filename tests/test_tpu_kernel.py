"""The window as one kernel gives the scan's numbers, for every cell, mode and edge.

Here the kernels are interpreted; that they compile for TPUs and GPUs is tested elsewhere.
"""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmrnn_jax import cells, recurrence
from hmrnn_jax.cells import hm_lstm, lstm, nested_lstm, on_lstm
from hmrnn_jax.errors import UserError
from hmrnn_jax.recurrence import tpu_kernel
from hmrnn_jax.recurrence.execution import reported

# Compiling is all the time. The emitters are those that users have, with which a boundary that is
# not rounded to 0 or 1 has the same bits in kernel and scan.
COMPILER = {"xla_backend_optimization_level": 0}
if "xla_cpu_use_fusion_emitters" in os.environ["XLA_FLAGS"]:
    COMPILER["xla_cpu_use_fusion_emitters"] = True
HM = functools.partial(hm_lstm.Config, 4, (6, 5))


def run(config, backend, steps=3, batch=3, precision="float32", remat=0, resets=True, kind=""):
    """`unroll`'s output, and gradients of a random sum of it all, under a backend."""
    keys = jax.random.split(jax.random.key(0), 5)
    params = cells.of(config).init(keys[0], config)
    x = jax.random.normal(keys[1], (steps, batch, config.input_size))
    state = recurrence.initial_state(config, batch)
    state = jax.tree.map(
        lambda s: s + 0.3 * jax.random.normal(keys[4], s.shape) if s.ndim > 1 else s, state
    )
    kept = {
        "resets": jax.random.bernoulli(keys[2], 0.3, (steps, batch)) if resets else None,
        "constants": {"slope": jnp.float32(1.5)} if config.uses_slope else None,
        "policy": recurrence.Policy(
            precision=precision, remat=remat, backend=backend, device_kind=kind
        ),
    }
    if config.uses_noise:
        kept["per_step"] = {"noise": jax.random.uniform(keys[3], (steps, batch, config.uses_noise))}

    def loss(params, state, x):
        out = recurrence.unroll(config, params, state, x, **kept)
        leaves = jax.tree.leaves(out)
        weights = [jax.random.normal(jax.random.fold_in(keys[4], i), leaf.shape)
                   for i, leaf in enumerate(leaves)]  # fmt: skip
        return sum(jnp.sum(w * leaf) for w, leaf in zip(weights, leaves, strict=True)), out

    gradient = jax.jit(
        jax.grad(loss, argnums=(0, 1, 2), has_aux=True),
        compiler_options=COMPILER,
    )
    gradients, out = gradient(params, state, x)
    return out, gradients


CASES = {
    "three layers": (hm_lstm.Config(4, (6, 5, 7), layer_norm="none"), {}),
    "sum": (HM(layer_norm="sum"), {}),
    "ba": (HM(layer_norm="ba"), {}),
    "sample": (HM(boundary="sample"), {}),
    "soft": (HM(boundary="soft", layer_norm="none"), {}),
    "select": (HM(gradient="select", top_down=False, layer_norm="none"), {}),
    "one layer, one step": (hm_lstm.Config(4, (6,)), {"steps": 1}),
    "one row, no resets": (HM(flush=False, layer_norm="none"), {"batch": 1, "resets": False}),
    "one row, sum": (HM(), {"batch": 1}),
    "rematerialised": (hm_lstm.Config(4, (6,)), {"steps": 4, "remat": 2}),
    "bfloat16": (HM(layer_norm="none"), {"precision": "bfloat16"}),
    "every option of the detectors": (
        hm_lstm.Config(
            4,
            (6, 5, 7),
            surrogate="logistic",
            nested=True,
            detector_reads_h=True,
            reset_recurrent=True,
        ),
        {},
    ),
    "nested, soft": (HM(boundary="soft", nested=True, layer_norm="none"), {}),
    "lstm": (lstm.Config(4, 6), {}),
    "lstm, sum": (lstm.Config(4, 6, layer_norm="sum"), {}),
    "lstm, ba": (lstm.Config(4, 6, layer_norm="ba"), {"precision": "bfloat16"}),
    "nested": (nested_lstm.Config(4, 6, depth=3), {}),
    "on_lstm": (on_lstm.Config(4, 8, chunk=2), {}),
}


# Those that differ most from each other are always run.
FIRST = {
    "sum", "soft", "select", "one layer, one step", "rematerialised", "bfloat16", "lstm", "nested",
    "on_lstm",
}  # fmt: skip
CHIPS = {"TPU": "", "GPU": "GPU NVIDIA H200"}


def cases():
    """Every case on each kind of chip that has a kernel for its cell."""
    for name, (config, _) in CASES.items():
        for chip in CHIPS if isinstance(config, hm_lstm.Config) else ["TPU"]:
            yield pytest.param(name, chip, marks=() if name in FIRST else pytest.mark.slow)


@functools.cache
def of_scan(name):
    config, settings = CASES[name]
    return run(config, "scan", **settings)


@pytest.mark.parametrize(("name", "chip"), list(cases()))
def test_the_kernels_equal_the_scan(name, chip):
    """Values, boundaries and gradients."""
    config, settings = CASES[name]
    expected, gradients = of_scan(name)
    actual, kernel_gradients = run(config, "pallas", **settings, kind=CHIPS[chip])
    states = (getattr(out.states, "z", ()) for out in (actual, expected))
    for z, other in zip(*states, strict=True):
        np.testing.assert_array_equal(z, other)
    pairs = zip(
        jax.tree.leaves((actual, kernel_gradients)),
        jax.tree.leaves((expected, gradients)),
        strict=True,
    )
    for ours, theirs in pairs:
        scale = max(1.0, float(jnp.max(jnp.abs(theirs))))
        np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-5, rtol=0)


def test_scan_goes_both_ways_and_returns_the_carry():
    xs = {"a": jnp.arange(12.0).reshape(4, 3), "b": jnp.arange(4 * 2 * 3.0).reshape(4, 2, 3)}

    def body(resident, carry, x):
        carry = {"sum": carry["sum"] + resident * x["a"]}
        return carry, (carry["sum"] + x["b"][0], x["b"] * x["a"])

    start = {"sum": jnp.ones(3)}
    for reverse in (False, True):
        expected = jax.lax.scan(functools.partial(body, jnp.float32(2)), start, xs, reverse=reverse)
        actual = tpu_kernel.scan(body, jnp.float32(2), start, xs, reverse)
        jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_both_ends_of_a_step_are_read_from_one_array():
    first, after = jnp.full((2, 3), 9.0), jnp.arange(24.0).reshape(4, 2, 3)
    xs, start = jnp.arange(12.0).reshape(4, 3), jnp.zeros(3)

    def body(resident, carry, x):
        before, after, x = x
        carry = carry + before[0] - after[1] * x
        return carry, before * carry

    before = jnp.concatenate([first[None], after[:-1]])
    for reverse in (False, True):
        expected = jax.lax.scan(
            functools.partial(body, ()), start, (before, after, xs), reverse=reverse
        )
        actual = tpu_kernel.scan(body, (), start, xs, reverse, ends=(first, after))
        jax.tree.map(np.testing.assert_array_equal, actual, expected)


def chosen(chip, sizes=(512, 512, 512), batch=64, precision="bfloat16", **policy):
    """What is said of the choice for a window of Penn Treebank's model."""
    config = hm_lstm.Config(128, sizes)
    policy = recurrence.Policy(precision=precision, backend="auto", device_kind=chip, **policy)
    shapes = jax.eval_shape(lambda: hm_lstm.init(jax.random.key(0), config))

    def loss(params, x):
        state = recurrence.initial_state(config, batch)
        out = recurrence.unroll(config, params, state, x, policy=policy)
        return jnp.sum(out.states.h[-1])

    with reported() as notes:
        x = jax.ShapeDtypeStruct((100, batch, 128), jnp.float32)
        jaxpr = jax.make_jaxpr(jax.grad(loss))(shapes, x)
    return notes, str(jaxpr).count("pallas_call")


def test_why_autodiff_takes_the_scan():
    notes, kernels = chosen("TPU v5 lite", gradient="autodiff")
    assert kernels == 0 and all("kernels have deferred gradients only" in note for note in notes)


def test_auto_takes_the_kernel_where_it_fits():
    notes, kernels = chosen("TPU v5 lite")
    assert kernels == 2 and all("one kernel" in note for note in notes) and len(notes) == 2
    # A chip's share of text8's batch of 128.
    assert chosen("TPU v5 lite", sizes=(1024,) * 3, batch=16)[1] == 2
    for chip, size in (("TPU v4", 512), ("TPU v5 lite", 2048)):
        notes, kernels = chosen(chip, sizes=(size,) * 3)
        assert not kernels and all("scan, as a window takes" in note for note in notes)
    notes, kernels = chosen("cpu")
    assert not kernels and "cpu has no kernel" in notes[0]


def test_bytes_are_those_of_the_tiles():
    # 9 rows of float32 take 16, 130 columns 256; bfloat16 has 16 rows a tile.
    def shape(*dims, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(dims, dtype)

    weights = [shape(9, 130), shape(17, 128, dtype=jnp.bfloat16)]
    assert tpu_kernel.resident_bytes(weights, (), (), ()) == 16 * 256 * 4 + 32 * 128 * 2
    # The carry comes in and stays; each step's arrays have two buffers. The 8 rows of a batch, last
    # outside, are first: one tile for 128 features, and one for their scalars.
    assert tpu_kernel.resident_bytes((), shape(128, 8), (), ()) == 2 * 4096
    assert tpu_kernel.resident_bytes((), (), shape(100, 128, 8), shape(100, 8)) == 2 * 2 * 4096


def test_the_kernel_cannot_be_differentiated_plainly():
    with pytest.raises(UserError, match="deferred gradients only"):
        recurrence.Policy(gradient="autodiff", backend="pallas").check(4)
    with pytest.raises(UserError, match="backend"):
        recurrence.Policy(backend="cuda").check(4)
