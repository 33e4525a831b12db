"""Training that leaves out COPYs has the values and the gradients of training that does not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmrnn_jax import recurrence
from hmrnn_jax.cells import hm_lstm
from hmrnn_jax.recurrence import Policy, active, skipping

STEPS, BATCH = 12, 40  # capacities 0, 10, 20 and all
DETECTORS = {
    "surrogate": "logistic", "nested": True, "detector_reads_h": True, "reset_recurrent": True,
}  # fmt: skip
CASES = {
    "rarely": ({}, -1.5),
    "at times": ({}, 0.0),
    "nearly always": ({}, 1.5),
    "no gradient of the choice": ({"gradient": "select"}, 0.0),
    "no layer norm": ({"layer_norm": "none"}, -0.5),
    "detectors": (DETECTORS, -0.5),
    "sample": ({"boundary": "sample"}, -0.5),
}
MORE = {
    "no top-down": ({"top_down": False}, -0.5),
    "boundary before the text": ({"z_init": 1.0}, -0.5),
    "detectors that fire rarely": (DETECTORS, -1.0),
}


def problem(changes, bias, batch=BATCH, sizes=(4, 6, 5)):
    """A cell, its parameters with detectors of that bias, a state and a window with resets."""
    config = hm_lstm.Config(3, sizes, **changes)
    keys = iter(jax.random.split(jax.random.key(3), 60))

    def normal(shape):
        return jax.random.normal(next(keys), shape, jnp.float64)

    params = jax.tree.map(
        lambda v: v + 0.3 * normal(v.shape), hm_lstm.init(next(keys), config, jnp.float64)
    )
    for layer in range(1, config.depth):
        params[f"layer{layer}"]["detector"]["b"] = jnp.full(1, bias)
    state = recurrence.initial_state(config, batch, jnp.float64)
    state = state._replace(
        h=tuple(normal(h.shape) for h in state.h), c=tuple(normal(c.shape) for c in state.c)
    )
    rows = jnp.arange(STEPS)[:, None] % 4 == 2  # most steps reset no row
    keywords = {"resets": rows & jax.random.bernoulli(next(keys), 0.2, (STEPS, batch))}
    if config.uses_noise:
        draws = jax.random.uniform(next(keys), (STEPS, batch, config.depth - 1), jnp.float64)
        keywords["per_step"] = {"noise": draws}
    return config, params, state, normal((STEPS, batch, 3)), keywords


def both(config, params, state, x, keywords, **policy):
    """What training gives, dense and skipping: all that comes out, and the gradients of it."""

    def loss(skip_copies, params, state, x):
        chosen = Policy(skip_copies=skip_copies, **policy)
        slope = {"slope": jnp.asarray(1.3, x.dtype)}
        out = recurrence.unroll(
            config, params, state, x, policy=chosen, constants=slope, **keywords
        )
        return sum(jnp.sum(jnp.sin(k + v)) for k, v in enumerate(jax.tree.leaves(out))), out

    return [
        jax.jit(jax.value_and_grad(functools.partial(loss, skip), (0, 1, 2), has_aux=True))(
            params, state, x
        )
        for skip in (False, True)
    ]


@pytest.mark.parametrize(
    "name", [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)]
)
def test_values_and_gradients_are_those_of_all_columns(name):
    """To parameters, first state and inputs, the gradient of the choice of operation among them."""
    with jax.enable_x64(True):
        given = problem(*(CASES | MORE)[name])
        assert skipping.applies(given[0], Policy(skip_copies=True))
        dense, skipped = both(*given)
        for a, b in zip(jax.tree.leaves(dense), jax.tree.leaves(skipped), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-10, atol=1e-10)
    z = dense[0][1].states.z
    assert all(0 < float(layer.mean()) < 1 for layer in z)


def test_inputs_may_be_rows_of_a_table():
    with jax.enable_x64(True):
        config, params, state, x, keywords = problem({}, 0.0)
        ids = jax.random.randint(jax.random.key(0), (STEPS, BATCH), 0, 7)
        dense, skipped = both(config, params, state, x[0, :7], keywords | {"table_ids": ids})
        gathered, _ = both(config, params, state, x[0, :7][ids], keywords)
    expected, actual, plain = (v[1][2] for v in (dense, skipped, gathered))
    np.testing.assert_allclose(actual, expected, rtol=1e-10)
    by_row = [np.asarray(plain)[np.asarray(ids) == row].sum(0) for row in range(7)]
    np.testing.assert_allclose(actual, by_row, rtol=1e-9)


def test_what_is_kept_is_written_in_place():
    """XLA copies it whole at every step where its writing is not in place: six times the time."""
    with jax.enable_x64(True):
        config, *arrays, keywords = problem({}, -0.5)
    params, state, x = jax.tree.map(lambda v: v.astype(jnp.float32), tuple(arrays))
    policy = Policy(skip_copies=True)

    def loss(params):
        states = recurrence.unroll(config, params, state, x, policy=policy, **keywords).states
        return sum(jnp.sum(jnp.sin(h)) for h in states.h)

    text = jax.jit(jax.grad(loss)).lower(params).compile().as_text()
    (kept,) = active.room(STEPS, BATCH, [1], jnp.float32, 0).arrays
    shape = f"f32[{len(kept)},"
    lines = [line for line in text.splitlines() if shape in line]
    assert any("dynamic-update-slice" in line for line in lines)
    assert not [line for line in lines if " copy(" in line]


def test_bfloat16_rounds_the_same_operands():
    with jax.enable_x64(True):
        config, *given = problem(DETECTORS, -0.5, sizes=(8, 8, 8))
    given = jax.tree.map(lambda v: jnp.asarray(v, np.float32 if v.dtype == float else None), given)
    dense, skipped = both(config, *given, precision="bfloat16")
    for a, b in zip(jax.tree.leaves(dense), jax.tree.leaves(skipped), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(b, a, rtol=0, atol=0.03 * max(1, float(jnp.abs(a).max())))


@pytest.mark.parametrize(
    "changes, policy",
    [
        ({"boundary": "soft"}, {}),
        ({"layer_norm": "ba"}, {}),
        ({"flush": False}, {}),
        ({"z_init": 0.5}, {}),
        ({}, {"skip_copies": False}),
        ({}, {"device_kind": "TPU v4"}),
        ({"sizes": (4,)}, {}),
    ],
    ids=[
        "soft boundaries",
        "norm of each term",
        "no flush",
        "a blend at first",
        "not asked for",
        "an accelerator",
        "one layer",
    ],
)
def test_where_nothing_can_be_left_out_it_is_not_tried(changes, policy):
    config = hm_lstm.Config(3, **({"sizes": (4, 6)} | changes))
    assert not skipping.applies(config, Policy(**({"skip_copies": True} | policy)))


def test_a_state_of_half_precision_takes_the_dense_path():
    config = hm_lstm.Config(3, (4, 6))
    params, x = hm_lstm.init(jax.random.key(0), config), jnp.ones((3, 40, 3))
    state = recurrence.initial_state(config, 40, jnp.bfloat16)
    dense, skipped = (
        recurrence.unroll(config, params, state, x, policy=Policy(skip_copies=skip)).states.h[1]
        for skip in (False, True)
    )
    assert skipped.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(skipped, np.float32), np.asarray(dense, np.float32))


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_products_of_another_dtype_than_the_state_take_the_dense_path(dtype, x64):
    """Those of bfloat16 operands are float32."""
    config = hm_lstm.Config(3, (4, 6))
    params = hm_lstm.init(jax.random.key(0), config, dtype)
    state, x = recurrence.initial_state(config, 40, dtype), jnp.ones((3, 40, 3), dtype)
    dense, skipped = (
        recurrence.unroll(
            config, params, state, x, policy=Policy(skip_copies=skip, precision="bfloat16")
        ).states.h[1]
        for skip in (False, True)
    )
    np.testing.assert_array_equal(np.asarray(skipped, float), np.asarray(dense, float))


@pytest.mark.parametrize("count", (0, 1, 10, 11, 20, 21, 40))
def test_what_is_kept_lies_where_it_is_said_to(count):
    """Whatever the capacity: the rows in use are the active columns, and are read as written."""
    random = np.random.default_rng(count)
    moves = np.zeros(40, bool)
    moves[random.permutation(40)[:count]] = True
    values = random.normal(size=(3, 40)).astype(np.float32)

    def square(columns, _):
        return columns**2, [columns.T, 2 * columns.T], columns.sum(-1)

    def times(columns, read):
        return columns * read[1].T, [], ()

    kept = active.room(2, 40, (3, 3), jnp.float32, 7)
    for used in (count, 2 * count):
        new, kept, summed = active.where_kept(moves, square, values, values, kept=kept)
        assert int(kept.used) == used
        np.testing.assert_allclose(new, np.where(moves, values**2, values), rtol=1e-6)
        np.testing.assert_allclose(summed, values[:, moves].sum(-1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(kept.arrays[0][: 2 * count], np.tile(values.T[moves], (2, 1)))
    found = active.outer_products(kept, "float32", jnp.float32)
    expected = 4 * values[:, moves] @ values[:, moves].T
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    read = kept._replace(used=kept.used - count)
    new, *_ = active.where_kept(moves, times, values, values, read=read)
    np.testing.assert_allclose(new, np.where(moves, 2 * values**2, values), rtol=1e-6)
