"""What every cell owes to programs that it is a guest in: JAX's modes, dtypes and exports."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import assert_close

from hmrnn_jax import cells, recurrence
from hmrnn_jax.cells import gru, hm_lstm, lstm, nested_lstm, on_lstm
from hmrnn_jax.errors import UserError
from hmrnn_jax.models.language import LanguageModel
from hmrnn_jax.recurrence import Policy

STEPS, BATCH, WIDTH = 4, 2, 3
HM_LSTM = functools.partial(hm_lstm.Config, WIDTH, (3, 2))
CONFIGS = {
    "hm_lstm": HM_LSTM(),
    "lstm": lstm.Config(WIDTH, 3, layer_norm="sum"),
    "nested_lstm": nested_lstm.Config(WIDTH, 3),
    "on_lstm": on_lstm.Config(WIDTH, 4, chunk=2),
    "gru": gru.Config(WIDTH, 3),
}
VARIANTS = {
    "ba": HM_LSTM(layer_norm="ba", boundary="soft"),
    "choices": hm_lstm.Config(
        WIDTH, (3, 2, 2), layer_norm="none", boundary="sample", gradient="select",
        surrogate="logistic", nested=True, detector_reads_h=True, reset_recurrent=True,
    ),
}  # fmt: skip
AUTODIFF = Policy(gradient="autodiff")
POLICIES = {
    "deferred": Policy(),
    "autodiff": AUTODIFF,
    "remat": Policy(remat=2),
    "rounded": Policy(precision="bfloat16"),
    "skipping": Policy(skip_copies=True),
}


def test_every_cell_is_here():
    assert set(CONFIGS) == set(cells.MODULES)


def problem(config, params=np.float64, carry=np.float64, batch=BATCH, steps=STEPS):
    """Parameters, state, inputs and the keywords of `unroll`; fixed random numbers."""
    rng = np.random.default_rng(0)

    def drawn(tree, dtype):
        return jax.tree.map(lambda v: (0.6 * rng.normal(size=v.shape)).astype(dtype), tree)

    shapes = jax.eval_shape(lambda: cells.of(config).init(jax.random.key(0), config))
    params = drawn(shapes, params)
    state = drawn(jax.eval_shape(lambda: recurrence.initial_state(config, batch)), carry)
    if config.uses_slope:
        state = state._replace(z=tuple((z > 0).astype(carry) for z in state.z))
    keywords = {"constants": {"slope": 0.5}} if config.uses_slope else {}
    if config.uses_noise:
        noise = rng.uniform(size=(steps, batch, config.uses_noise)).astype(carry)
        keywords["per_step"] = {"noise": noise}
    return params, state, rng.normal(size=(steps, batch, WIDTH)).astype(carry), keywords


def loss_of(config, policy, state, x, keywords):
    """A function of the parameters alone."""

    def loss(params):
        out = recurrence.unroll(config, params, state, x, policy=policy, **keywords)
        return sum(jnp.sum(jnp.sin(k + v)) for k, v in enumerate(jax.tree.leaves(out)))

    return loss


def columns(state):
    """A state as the cells themselves have it, features first."""
    return jax.tree.map(lambda v: np.moveaxis(v, 0, -1), state)


def along(tree, seed=1):
    """A direction."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda v: rng.normal(size=v.shape).astype(v.dtype), tree)


def dot(a, b):
    return sum(jnp.vdot(u, v) for u, v in zip(*map(jax.tree.leaves, (a, b)), strict=True))


# Derivatives


@pytest.mark.parametrize("name", [*CONFIGS, "choices"])
def test_forward_mode_is_the_transpose_of_reverse_mode(name, x64):
    config = (CONFIGS | VARIANTS)[name]
    params, state, x, keywords = problem(config)

    def run(params, state, x):
        out = recurrence.unroll(config, params, state, x, policy=AUTODIFF, **keywords)
        return jax.tree.leaves(out)

    @jax.jit
    def both(primals, tangents):
        out, pushed = jax.jvp(run, primals, tangents)
        weights = along(out, 2)
        return dot(pushed, weights), dot(jax.vjp(run, *primals)[1](weights), tangents)

    arguments = params, state, x
    forward, reverse = both(arguments, along(arguments))
    assert abs(reverse) > 0.1
    np.testing.assert_allclose(forward, reverse, rtol=1e-10)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_by_itself_is_linearised(name, x64):
    config = CONFIGS[name]
    params, state, x, _ = problem(config)

    def step(params, state, x):
        return cells.of(config).step(config, params, state, x)[0]

    @jax.jit
    def both(arguments, tangents):
        out, push = jax.linearize(step, *arguments)
        return out, push(*tangents), jax.jvp(step, arguments, tangents)[1]

    arguments = params, columns(state), x[0].T
    out, actual, expected = both(arguments, along(arguments))
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-12), actual, expected)
    assert jax.tree.structure(out) == jax.tree.structure(arguments[1])


def forward_over_reverse(loss, direction, params):
    return jax.jvp(jax.grad(loss), (params,), (direction,))[1]


def reverse_over_reverse(loss, direction, params):
    return jax.grad(lambda params: dot(jax.grad(loss)(params), direction))(params)


@pytest.mark.parametrize(
    "name, way",
    [
        ("hm_lstm", forward_over_reverse),
        ("choices", forward_over_reverse),
        ("nested_lstm", reverse_over_reverse),
    ],
    ids=["hm_lstm", "choices", "nested_lstm"],
)
def test_second_derivatives_over_deferred_gradients_are_those_over_plain_ones(name, way, x64):
    config = (CONFIGS | VARIANTS)[name]
    params, *rest = problem(config)
    direction = along(params)

    def run(way, policy):
        return jax.jit(functools.partial(way, loss_of(config, policy, *rest), direction))(params)

    expected, actual = run(forward_over_reverse, AUTODIFF), run(way, Policy())
    assert max(float(jnp.abs(v).max()) for v in jax.tree.leaves(expected)) > 0.1
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-10), actual, expected)


def test_second_derivatives_of_soft_boundaries_are_those_of_the_gradient(x64):
    """Where nothing is discretised they are finite differences."""
    config = VARIANTS["ba"]
    params, *rest = problem(config)
    direction, step = along(params), 1e-6

    @jax.jit
    def both(params):
        return jax.jvp(jax.grad(loss_of(config, Policy(), *rest)), (params,), (direction,))

    up, down = (
        both(jax.tree.map(lambda p, d, s=s: p + s * d, params, direction))[0] for s in (step, -step)
    )
    expected = jax.tree.map(lambda a, b: (a - b) / (2 * step), up, down)
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-7), both(params)[1], expected)


# Shapes and dtypes


def traced(config, policy, params, state, x, keywords):
    """The gradient and what `unroll` gives, as shapes; no rank may be promoted on the way."""
    keywords = keywords | {"resets": np.zeros(x.shape[:2], bool)}

    def loss(params):
        out = recurrence.unroll(config, params, state, x, policy=POLICIES[policy], **keywords)
        return sum(map(jnp.sum, jax.tree.leaves(out))), out

    with jax.numpy_rank_promotion("raise"):
        return jax.eval_shape(jax.grad(loss, has_aux=True), params)


def test_a_models_loss_relies_on_no_promoted_ranks():
    model = LanguageModel(5, WIDTH, (CONFIGS["hm_lstm"],), output=4)
    ids = np.zeros((STEPS, BATCH), np.int32)

    def loss(params):
        out = model.apply({"params": params}, ids, model.initial_carry(BATCH))
        return jnp.mean(out.logits)

    with jax.numpy_rank_promotion("raise"):
        carry = jax.eval_shape(lambda: model.initial_carry(BATCH))
        variables = jax.eval_shape(model.init, jax.random.key(0), ids, carry)
        jax.eval_shape(jax.grad(loss), variables["params"])


@pytest.mark.parametrize(
    "name, batch, steps, policy",
    [(name, 0, STEPS, "remat") for name in (*CONFIGS, "choices")]
    + [("hm_lstm", 0, STEPS, "autodiff"), ("hm_lstm", BATCH, 0, "remat")],
)
def test_a_batch_of_no_rows_and_a_window_of_no_steps(name, batch, steps, policy):
    config = (CONFIGS | VARIANTS)[name]
    params, state, x, keywords = problem(config, np.float32, np.float32, batch, steps)
    _, out = traced(config, policy, params, state, x, keywords)
    assert jax.tree.leaves(out.states)[0].shape[:2] == (steps, batch)
    assert jax.tree.map(jnp.shape, out.final) == jax.tree.map(jnp.shape, state)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_of_no_rows_runs(name):
    config = CONFIGS[name]
    params, state, x, _ = problem(config, np.float32, np.float32, batch=0)
    state = columns(state)
    new, _ = jax.jit(functools.partial(cells.of(config).step, config))(params, state, x[0].T)
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)


@pytest.mark.parametrize(
    "name, dtype, carry, policy",
    [(name, "float32", "bfloat16", "autodiff") for name in CONFIGS]
    + [(name, "bfloat16", "float32", "deferred") for name in ("hm_lstm", "nested_lstm", *VARIANTS)]
    + [("hm_lstm", "float32", "float32", "skipping")]
    + [("hm_lstm", "float64", "float16", "rounded"), ("on_lstm", "float16", "float64", "deferred")],
)
def test_dtypes_stay_what_they_are_and_ranks_are_not_promoted(name, dtype, carry, policy, x64):
    """States keep that of the states, gradients that of the parameters."""
    config = (CONFIGS | VARIANTS)[name]
    params, state, x, keywords = problem(config, jnp.dtype(dtype), jnp.dtype(carry))
    gradient, out = traced(config, policy, params, state, x, keywords)
    assert {v.dtype for v in jax.tree.leaves(gradient)} == {jnp.dtype(dtype)}
    assert {v.dtype for v in jax.tree.leaves((out.final, out.states))} == {jnp.dtype(carry)}
    noise = {"noise": keywords["per_step"]["noise"][0].T} if config.uses_noise else {}
    step = functools.partial(cells.of(config).step, config, **noise)
    with jax.numpy_rank_promotion("raise"):
        new, _ = jax.eval_shape(step, params, columns(state), x[0].T)
    assert {v.dtype for v in jax.tree.leaves(new)} == {jnp.dtype(carry)}


@pytest.mark.parametrize("name", ["hm_lstm", "lstm", "on_lstm"])  # each initialisation
def test_parameters_of_half_precision_are_those_of_float32_rounded(name):
    """JAX has no QR of a half precision, and its uniform draws there are coarse."""
    config, key = CONFIGS[name], jax.random.key(0)
    draw = functools.partial(cells.of(config).init, key, config)
    drawn = jax.jit(lambda: (draw(jnp.bfloat16), draw(jnp.float32)))()
    for half, single in zip(*map(jax.tree.leaves, drawn), strict=True):
        assert half.dtype == jnp.bfloat16
        np.testing.assert_allclose(half.astype("float32"), single, rtol=0.02, atol=1e-3)
    halves = jax.eval_shape(lambda: draw(jnp.float16))
    assert {v.dtype for v in jax.tree.leaves(halves)} == {jnp.dtype("float16")}


# Exports


@pytest.mark.parametrize("name", CONFIGS)
def test_an_exported_step_is_read_back(name):
    config = CONFIGS[name]
    params, state, x, _ = problem(config, np.float32, np.float32)
    arguments = params, columns(state), x[0].T
    step = jax.jit(functools.partial(cells.of(config).step, config))
    blob = jax.export.export(step)(*arguments).serialize()
    actual, expected = jax.export.deserialize(blob).call(*arguments), step(*arguments)
    assert isinstance(actual[0], cells.of(config).State)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


# What is refused


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: hm_lstm.Config(64, 128), "sizes is 128; it must be a tuple of the layers' widths"),
        (lambda: hm_lstm.Config(64, [8, 8]), r"sizes is \[8, 8\]; it must be a tuple"),
        (lambda: hm_lstm.Config(64, ()), r"sizes is \(\); it must be a tuple"),
        (lambda: hm_lstm.Config(64, (8, 8.5)), r"sizes is \(8, 8.5\); .* positive whole numbers"),
        (lambda: hm_lstm.Config(64, (8, 0)), r"sizes is \(8, 0\); .* positive whole numbers"),
        (lambda: hm_lstm.Config("64", (8,)), "input_size is '64'; .* a positive whole number"),
        (lambda: lstm.Config(0, 8), "input_size is 0; it must be a positive whole number"),
        (lambda: lstm.Config(4, 8.0), "size is 8.0; it must be a positive whole number"),
        (lambda: lstm.Config(4, True), "size is True; it must be a positive whole number"),
        (lambda: lstm.Config(4, (8,)), r"size is \(8,\); it must be a positive whole number"),
        (lambda: nested_lstm.Config(4, -8), "size is -8; it must be a positive whole number"),
        (lambda: nested_lstm.Config(4, 8, 0), "depth is 0; it must be a positive whole number"),
        (lambda: nested_lstm.Config(4, 8, 1.5), "depth is 1.5; it must be"),
        (lambda: on_lstm.Config(4, None), "size is None; it must be a positive whole number"),
        (lambda: on_lstm.Config(4, 8, 2.0), "8 units cannot be cut in chunks of 2.0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_sizes_may_be_numpys():
    assert lstm.Config(np.int64(3), np.int32(4)).size == 4


@pytest.mark.parametrize("name", CONFIGS)
def test_an_input_of_another_width_is_refused(name):
    config = CONFIGS[name]
    params, state, x, _ = problem(config)
    wide = np.concatenate([x, x], axis=-1)
    message = "The input is 6 wide, but the cell's config says input_size=3"
    with pytest.raises(UserError, match=message):
        recurrence.unroll(config, params, state, wide)
    with pytest.raises(UserError, match=message):
        cells.of(config).step(config, params, columns(state), wide[0].T)
