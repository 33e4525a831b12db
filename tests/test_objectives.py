"""What is asked of detectors beside the likelihood: lengths, and the model's uncertainty."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from hmrnn_jax import parallel, recurrence
from hmrnn_jax.batches.text import Batch
from hmrnn_jax.cells import hm_lstm, hm_lstm_window
from hmrnn_jax.errors import UserError
from hmrnn_jax.models.dropout import Dropout
from hmrnn_jax.models.language import LanguageModel
from hmrnn_jax.tasks import language, objectives
from hmrnn_jax.tasks.objectives import Boundaries


def on_axis(function, *arguments, devices=1):
    """`function` of rows spread over so many devices; its results are summed over them."""
    mesh = parallel.make_mesh(jax.devices()[:devices])

    def summed(*rows):
        return jax.lax.psum(function(*rows), parallel.AXIS)

    spec = jax.tree.map(lambda v: P(None, parallel.AXIS), arguments)
    mapped = jax.shard_map(summed, mesh=mesh, in_specs=spec, out_specs=P(), check_vma=False)
    return jax.jit(mapped)(*arguments)


def peaks(values, allowed, length, ahead):
    """`tasks.objectives.peaks` of one device."""
    return on_axis(
        lambda v, a: jax.tree.map(
            lambda x: x.astype(int), objectives.peaks(v, a, length, ahead)
        ),
        jnp.asarray(values), jnp.asarray(allowed),
    )  # fmt: skip


def expected_peaks(values, allowed, length, ahead):
    """The same in loops: peaks among the allowed steps of each row, the highest of all."""
    targets, known = np.zeros(values.shape, bool), np.zeros(values.shape, bool)
    high = np.sort(values[allowed])[::-1][int(allowed.sum() / length) - 1]
    for b in range(values.shape[1]):
        steps = np.flatnonzero(allowed[:, b])
        u = values[steps, b]
        for k, t in enumerate(steps):
            if ahead and 1 <= k < len(steps) - 1:
                known[t, b] = True
                targets[t, b] = u[k] > u[k - 1] and u[k] >= u[k + 1] and u[k] >= high
            if not ahead and k >= 2:
                known[t, b] = True
                targets[t, b] = u[k] > u[k - 1] and u[k] > u[k - 2] and u[k] >= high
    return targets, known


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("share", [1.0, 0.4])
def test_peaks_are_those_among_the_steps_where_the_layer_below_ends_a_segment(share, ahead):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 6)).round(1).astype("float32")
    allowed = rng.uniform(size=values.shape) < share
    expected = expected_peaks(values, allowed, 3, ahead)
    actual = peaks(values, allowed, 3, ahead)
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert 5 < expected[0].sum() < expected[1].sum()


def test_targets_closer_than_peaks_can_lie_are_the_highest_values():
    rng = np.random.default_rng(0)
    values, allowed = rng.normal(size=(30, 4)).astype("float32"), rng.random((30, 4)) < 0.8
    targets, known = peaks(values, allowed, 1.5, True)
    np.testing.assert_array_equal(known, allowed)
    count = targets.sum()
    assert count == pytest.approx(allowed.sum() / 1.5, abs=1) and not targets[~allowed].any()
    assert values[targets > 0].min() > values[allowed & ~(targets > 0)].max()


def test_no_allowed_step_gives_no_peak():
    targets, known = peaks(np.ones((5, 2), "float32"), np.zeros((5, 2), bool), 3, True)
    assert not targets.any() and not known.any()


def rows(seed=0, steps=20, batch=8):
    rng = np.random.default_rng(seed)
    u = jnp.asarray(rng.normal(size=(steps, batch)), "float32")
    x = tuple(jnp.asarray(rng.normal(size=(steps, batch)), "float32") for _ in range(2))
    z1 = (x[0] > 0).astype("float32")
    mask = jnp.asarray(rng.uniform(size=(steps, batch)) < 0.8, "float32")
    return u, x, (z1, z1 * (x[1] > 0)), mask


ALL = Boundaries((3, 4), "line_end", 0.5, "ratio", 0.2)


@pytest.mark.parametrize("rate", objectives.RATES)
def test_the_losses_are_those_of_the_formulas(rate):
    """Cross-entropy with the peaks, and the rate's loss, over the steps that count, by layer."""
    asked, slope = ALL._replace(rate=rate), 1.5
    u, x, z, mask = rows()
    value, sums = on_axis(lambda *a: objectives.loss(asked, *a, slope), u, x, z, mask)
    allowed, expected = np.asarray(mask) > 0, 0.0
    for layer, length in enumerate(asked.lengths):
        p = 1 / (1 + np.exp(-2 * slope * np.asarray(x[layer], "float64")))
        targets, known = expected_peaks(np.asarray(u), allowed, length, True)
        costs = -np.where(targets, np.log(p), np.log(1 - p))
        expected += 0.5 * costs[known].mean()
        assert sums["targets"][layer] == targets.sum() and sums["teachable"][layer] == known.sum()
        f, g, n = np.asarray(z[layer])[allowed].mean(), p[allowed].mean(), length
        if rate == "ratio":
            expected += 0.2 * n / (n - 1) * ((n - 1) * f * g + (1 - f) * (1 - g))
        elif rate == "hinge":
            expected += 0.2 * n * (max(0, g - 1.5 / n) + max(0, 1 / n / 1.5 - g))
        allowed &= np.asarray(z[layer]) > 0
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_steps_with_a_boundary_weigh_more_and_so_a_likely_one_is_enough():
    """The least loss of a chance P of a boundary is at a logit of log(w P / (1 - P))."""
    asked = ALL._replace(rate="none", lengths=(3,))
    u, x, z, mask = rows()
    plain, sums = on_axis(lambda *a: objectives.loss(asked, *a, 1.0), u, x, z, mask)
    weighted, same = on_axis(
        lambda *a: objectives.loss(asked._replace(positive_weight=4.0), *a, 1.0), u, x, z, mask
    )
    targets, known = expected_peaks(np.asarray(u), np.asarray(mask) > 0, 3, True)
    more = 3 * np.log1p(np.exp(-2 * np.asarray(x[0], "float64")))[targets].sum() / known.sum()
    np.testing.assert_allclose(weighted, plain + 0.5 * more, rtol=1e-5)
    np.testing.assert_array_equal(same["targets"], sums["targets"])

    share = targets.sum() / known.sum()

    def slope_at(weight, logit):
        def loss(level, u, x, mask):
            chosen = asked._replace(positive_weight=weight)
            return objectives.loss(chosen, u, (level + 0 * x,), (x,), mask, 1.0)[0]

        return on_axis(lambda *a: jax.grad(loss)(logit / 2, *a), u, x[0], mask)

    for weight in (1.0, 4.0):
        best = np.log(weight * share / (1 - share))
        np.testing.assert_allclose(slope_at(weight, best), 0, atol=1e-6)


@pytest.mark.parametrize("delay", [1, 2])
def test_a_delay_teaches_the_same_peaks_later(delay):
    """Steps whose detectors have read `delay` symbols more, of a curve that ends so much sooner."""
    u, x, _, mask = rows()
    mask = jnp.ones_like(mask)
    later, sums = on_axis(
        lambda u, x: objectives.loss(
            Boundaries((3,), "line_end", delay=delay), u, (x,), (x,), mask, 1.0
        ),
        u, x[0],
    )  # fmt: skip
    sooner, same = on_axis(
        lambda u, x: objectives.loss(
            Boundaries((3,), "line_end"), u, (x,), (x,), mask[delay:], 1.0
        ),
        u[:-delay], x[0][delay:],
    )  # fmt: skip
    np.testing.assert_allclose(later, sooner, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, sums["targets"], same["targets"])


def test_given_segments_are_taught_to_the_layers_that_their_bits_name():
    """At every such step that counts; to the second layer, where the first ends a segment."""
    asked, slope = Boundaries((3, 4), "segments", 0.5, segments="mine.jsonl"), 1.5
    _, x, z, mask = rows()
    targets, known = np.random.default_rng(1).uniform(size=(2, 2, *mask.shape)) < 0.5
    taught = sum(objectives.given(layer, targets[layer]) * known[layer] for layer in range(2))
    value, sums = on_axis(lambda *a: objectives.loss(asked, *a, slope), taught, x, z, mask)
    allowed, expected = np.asarray(mask) > 0, 0.0
    for layer in range(2):
        p = 1 / (1 + np.exp(-2 * slope * np.asarray(x[layer], "float64")))
        where = allowed & known[layer]
        expected += 0.5 * -np.where(targets[layer], np.log(p), np.log(1 - p))[where].mean()
        assert sums["targets"][layer] == (targets[layer] & where).sum()
        assert sums["teachable"][layer] == where.sum()
        allowed &= np.asarray(z[layer]) > 0
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("rate", ["ratio", "hinge"])
def test_the_number_of_devices_changes_nothing(rate):
    asked = ALL._replace(rate=rate)
    u, x, z, mask = rows()

    def gradient(u, x, z, mask):
        (value, _), to_x = jax.value_and_grad(
            lambda x: objectives.loss(asked, u, x, z, mask, 1.0), has_aux=True
        )(x)
        return value, jax.tree.map(lambda g: jnp.sum(g**2, axis=1), to_x)

    one, four = (on_axis(gradient, u, x, z, mask, devices=n) for n in (1, 4))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-9), one, four)


def test_outside_a_mapped_step_the_loss_is_that_of_the_rows_at_hand():
    inside = on_axis(lambda *rows: objectives.loss(ALL, *rows, 1.0), *rows(), devices=4)
    outside = jax.jit(lambda *rows: objectives.loss(ALL, *rows, 1.0))(*rows())
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), outside, inside)


def test_the_rate_pulls_towards_the_wanted_length():
    """The ratio loss falls with p where detectors fire too seldom, rises where too often."""
    for fired, sign in ((0.05, -1), (0.6, 1)):
        z = (jnp.asarray(np.random.default_rng(1).uniform(size=(40, 8)) < fired, "float32"),)
        asked = Boundaries((5,), rate="ratio", rate_weight=1.0)

        def value(shift, z=z, asked=asked):
            x = (z[0] * 2 - 1 + shift,)
            return on_axis(
                lambda x, z, m: objectives.loss(asked, None, x, z, m, 1.0)[0],
                x,
                z,
                jnp.ones((40, 8)),
            )

        assert np.sign(value(0.01) - value(-0.01)) == sign


CONFIG = hm_lstm.Config(
    4, (5, 6, 4), nested=True, detector_reads_h=True, reset_recurrent=True, layer_norm="ba"
)


@pytest.mark.parametrize("top_down", [True, False])
def test_detectors_from_known_states_are_those_of_the_recurrence(top_down):
    config = hm_lstm.Config(4, (5, 6, 4), top_down=top_down) if not top_down else CONFIG
    params = hm_lstm.init(jax.random.key(0), config)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 3, 4)).astype("float32")
    resets = rng.uniform(size=(12, 3)) < 0.2
    first = recurrence.initial_state(config, 3)
    first = first._replace(
        h=tuple(jnp.asarray(rng.normal(size=h.shape), "float32") for h in first.h)
    )
    out = recurrence.unroll(config, params, first, x, resets=resets)
    before = hm_lstm_window.before_each_step(config, first, out.states, resets)
    found = hm_lstm_window.detectors(config, params, x, before, out.states)
    for ours, theirs in zip(found, out.aux.x, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


MODEL = LanguageModel(vocabulary=6, embedding=4, cells=(CONFIG,), output=5)


@functools.partial(jax.jit, static_argnums=0)
def gradient(asked, params, factor):
    """Of `tasks.language.loss`, of one device."""
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 6, (16, 4)))
    batch = Batch(ids, jnp.roll(ids, -1, 0), jnp.ones(ids.shape), jnp.zeros(ids.shape, bool))
    carry, scalars = MODEL.initial_carry(4), {"slope": 1.0, "objectives": factor}

    def value(params):
        return language.loss(
            MODEL, language.Penalties(), params, carry, batch, scalars, jax.random.key(1),
            boundaries=asked, newline=2,
        )  # fmt: skip

    mesh = parallel.make_mesh(jax.devices()[:1])
    mapped = jax.shard_map(
        jax.grad(value, has_aux=True), mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False
    )
    return mapped(params)[0]


def gradients(asked, factor=1.0):
    """Of the loss with what is `asked`, less that without it."""
    params = language.init_params(MODEL, jax.random.key(0))
    with_it, without = (gradient(a, params, jnp.float32(factor)) for a in (asked, Boundaries()))
    return jax.tree.map(jnp.subtract, with_it, without)


def reached(tree):
    return {
        "/".join(k.key for k in path)
        for path, v in jax.tree_util.tree_leaves_with_path(tree)
        if np.abs(v).max() > 1e-7
    }


DETECTORS = {f"cell1/layer{n}/detector/{k}" for n in (1, 2) for k in ("U_rec", "W_bu", "V", "b")}


def test_a_gradient_that_does_not_reach_below_moves_the_detectors_alone():
    asked = Boundaries((2.5, 2), "surprise", rate="ratio", reaches_below=False)
    found = reached(gradients(asked))
    assert DETECTORS - {"cell1/layer2/detector/U_td"} <= found
    assert all("/detector/" in name for name in found)
    below = reached(gradients(Boundaries((2.5, 2), "entropy", rate="ratio")))
    assert {"embedding", "cell1/layer1/gates/W_bu", "cell1/layer1/detector/b"} <= below
    # The uncertainty has no gradient of its own, so nothing reaches what reads the states.
    assert not any(name.startswith(("softmax", "output")) for name in below)


@pytest.mark.parametrize(
    "dropout", [{"input": 0.4}, {"embedding": 0.3}, {"embedding": 0.3, "input": 0.4}]
)
def test_what_does_not_reach_below_is_of_the_inputs_that_dropout_left(dropout):
    """The same loss: only its gradient ends at the detectors."""
    model = MODEL.clone(dropout=Dropout(**dropout))
    params = language.init_params(model, jax.random.key(0))
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 6, (16, 4)))
    batch = Batch(ids, jnp.roll(ids, -1, 0), jnp.ones(ids.shape), jnp.zeros(ids.shape, bool))
    scalars = {"slope": 1.0, "objectives": 1.0}

    def value(below):
        asked = Boundaries((2.5, 2), "entropy", rate="ratio", reaches_below=below)
        return on_axis(
            lambda: language.loss(
                model, language.Penalties(), params, model.initial_carry(4), batch, scalars,
                jax.random.key(1), boundaries=asked, newline=2,
            )[0]
        )  # fmt: skip

    np.testing.assert_allclose(value(False), value(True), atol=1e-5)


def test_a_factor_of_0_is_no_objective():
    # As the test above has compiled it.
    assert not reached(gradients(Boundaries((2.5, 2), "entropy", rate="ratio"), 0.0))


def test_weights_set_in_and_grow():
    asked = Boundaries((6,), "entropy", start=10, ramp=4)
    assert [asked.weight(done) for done in (0, 9, 10, 11, 13, 500)] == [0, 0, 0.25, 0.5, 1, 1]
    assert Boundaries((6,), "entropy").weight(0) == 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Boundaries((), "entropy"), "boundaries.lengths is empty"),
        (Boundaries((), rate="hinge"), "boundaries.lengths is empty"),
        (Boundaries((1,), "entropy"), "each must be more than 1"),
        (Boundaries((6, float("nan")), "entropy"), "each must be more than 1"),
        (Boundaries((6,), "line_end"), "needs a text with lines"),
        (Boundaries((6,), "line_break"), "needs a text with lines"),
        (Boundaries((6,), "entropie"), "must be one of none, entropy"),
        (Boundaries((6,), rate="loss"), "must be one of none, ratio"),
        (Boundaries((6,) * 5, "segments", segments="a"), "has 4 layers at most"),
        (Boundaries((6,), "segments"), "the teacher segments, and no other, reads a file"),
        (Boundaries((6,), "entropy", segments="a.jsonl"), "hmrnn segment --split=train"),
    ],
)
def test_what_cannot_be_asked_is_refused(asked, message):
    with pytest.raises(UserError, match=message):
        asked.of_model(2, newline=False)


def test_of_layers_without_a_detector_nothing_is_asked_and_that_is_said():
    wanted = Boundaries((6, 5, 4), "entropy")
    asked = wanted.of_model(2)
    assert asked.lengths == (6, 5) and asked.active
    said = asked.describe(wanted.lengths)
    assert "about 6, then 5 are asked" in said and "1 of the wanted lengths" in said
    none = wanted.of_model(0)
    assert not none.active and "nothing is asked" in none.describe(wanted.lengths)
    assert Boundaries().of_model(2).describe(()) == ""
    # A teacher of the lowest layer alone asks nothing of the others; a rate does.
    taught = Boundaries((6, 5), "line_break").of_model(2)
    assert taught.describe((6, 5)) == "\ndetectors: segments of about 6 are asked for"
    assert "about 6, then 5 are" in taught._replace(rate="ratio").describe((6, 5))
    # Lengths alone teach nothing.
    assert "nothing teaches them" in Boundaries((6, 5)).of_model(2).describe((6, 5))
