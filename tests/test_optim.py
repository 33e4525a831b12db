"""Optimisers and schedules: clipping and decay, slope, plateaus, averaged SGD."""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from fixtures import load, names

from hmrnn_jax.batches.text import Stream, VariableStream
from hmrnn_jax.errors import UserError
from hmrnn_jax.parallel import AXIS
from hmrnn_jax.training import optim
from hmrnn_jax.training import state as train_state

# The sixth loss is the least, 5, and all but the last five hold it from the twelfth on.
LOSSES = (10, 9, 8, 7, 6, 5, 5.1, 5.2, 5.3, 5.4, 5.5, 5.6)
PATHS = (LOSSES, (5.0,), (1.0, 1.0, 0.5), tuple(np.random.default_rng(0).uniform(2, 3, 30)))


# Direction of an update


def test_weight_decay_follows_clipping():
    """The L2 term joins the clipped gradient, as PyTorch's SGD adds it after the clipping."""
    params = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([[2.0]])}
    gradient = {"a": jnp.array([6.0, 0.0]), "b": jnp.array([[8.0]])}  # of norm 10
    optimizer = optim.optimizer("sgd", clip=0.5, weight_decay=0.1)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(updates["a"], [0.3 + 0.3, 0.4], rtol=1e-6)
    np.testing.assert_allclose(updates["b"], [[0.4 + 0.2]], rtol=1e-6)
    small = jax.tree.map(lambda g: g / 100, gradient)  # of norm 0.1: stays as it is
    updates, _ = optimizer.update(small, optimizer.init(params), params)
    np.testing.assert_allclose(updates["a"], [0.06 + 0.3, 0.4], rtol=1e-6)


@pytest.mark.parametrize("epsilon", [1e-8, 1e-3])
def test_adam_divides_by_the_root_plus_epsilon(epsilon):
    """First update: g / (|g| + epsilon), which for tiny gradients tells epsilons apart."""
    gradient = np.array([1e-3, -1e-4, 1e-9])
    optimizer = optim.optimizer("adam", clip=1.0, epsilon=epsilon)
    params = jnp.zeros(3)
    updates, _ = optimizer.update(jnp.asarray(gradient, jnp.float32), optimizer.init(params))
    np.testing.assert_allclose(updates, gradient / (np.abs(gradient) + epsilon), rtol=1e-4)


def test_plain_sgd_is_the_clipped_gradient():
    optimizer = optim.optimizer("sgd", clip=1.0)
    gradient, params = jnp.array([3.0, 4.0]), jnp.zeros(2)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(updates, [0.6, 0.8], rtol=1e-6)


# Slope


def test_slope_schedule_reaches_the_papers_values():
    """PTB: 1, 2, 5 at epochs 0, 25, 100 and 5 after; handwriting: 3 at epoch 500."""
    ptb = dict(start=1.0, increment=0.04, maximum=5.0)
    values = [optim.slope_at(epoch, **ptb) for epoch in (0, 25, 100, 150)]
    assert values == pytest.approx([1, 2, 5, 5])
    pen = dict(start=1.0, increment=0.004, maximum=3.0)
    values = [optim.slope_at(epoch, **pen) for epoch in (0, 250, 500, 1000)]
    assert values == pytest.approx([1, 2, 3, 3])


@pytest.mark.skipif(not names("misc"), reason="the reference folder has no misc.npz")
@pytest.mark.parametrize(
    "corpus, increment, maximum", [("ptb", 0.04, 5), ("handwriting", 0.004, 3)]
)
def test_slope_fixture(corpus, increment, maximum):
    arrays, _ = load("misc")
    values = [optim.slope_at(int(e), 1.0, increment, maximum) for e in arrays["slope/epoch"]]
    np.testing.assert_allclose(values, arrays[f"slope/{corpus}"], rtol=1e-12)


# Plateau


def plateau():
    return optim.Plateau(learning_rate=1.0, factor=50.0, patience=2, drops=1)


def test_plateau_divides_by_fifty_and_then_ends():
    plan, rates = plateau(), []
    for loss in (3.0, 2.0, 2.1, 2.05, 1.9, 1.95, 1.92):
        assert not plan.finished
        plan.update(loss)
        rates.append(plan.rate(0))
    assert rates == pytest.approx([1, 1, 1, 1 / 50, 1 / 50, 1 / 50, 1 / 50])
    assert plan.finished and plan.best == pytest.approx(1.9)
    assert plan.averaged(10**6) == 0


def test_the_first_drop_comes_at_the_latest_where_it_is_asked():
    """Of 30 updates, by four fifths: at the first validation from update 24 on, and only once; a
    run that goes on from any validation decides alike."""
    plan, rates, saved = plan_of(drop_by=0.8), [], []
    for done, loss in enumerate((5, 4, 3, 2, 1.5, 1.25), start=1):
        assert plan.update(loss, 5 * done)
        rates.append(plan.rate(5 * done))
        saved.append(plan.progress())
    assert rates == pytest.approx([0.5] * 4 + [0.125] * 2) and not plan.finished
    for done, progress in enumerate(saved[:5], start=1):
        again = plan_of(drop_by=0.8)
        again.resume(progress)
        assert again.rate(5 * done) == rates[done - 1]
        again.update(1.75, 25)
        assert again.rate(25) == 0.125
    plan.update(1.5, 30), plan.update(1.5, 30)
    assert plan.finished
    # Validation that stalls before that drops the rate sooner, and no second drop follows.
    early = plan_of(drop_by=0.8)
    for done in (1, 2, 3, 4):
        early.update(3.0 - 0.5 * (done == 4), 5 * done)
    early.update(2.0, 25)
    assert early.schedule.dropped == 1 and early.rate(25) == 0.125


def test_a_cosine_is_not_ended_by_validations_that_stall():
    """Its course is fixed beforehand: neither a drop nor an end, only the best is kept."""
    plan = plan_of(schedule="cosine", patience=1, drops=0, steps=10)
    best = [plan.update(loss, 5) for loss in (3.0, 2.0, *[2.5] * 20, 1.0)]
    assert best == [True, True] + [False] * 20 + [True]
    assert not plan.finished and plan.rate(0) == 0.5 and plan.best == 1.0
    assert plan.rate(5) == pytest.approx(0.25)


def test_a_cosine_that_a_plateau_ended_goes_on():
    """The saved progress of a run that an earlier version cut short."""
    ended = optim.Plateau(0.5, 4.0, 2, 1)
    for loss in (1.0, *[2.0] * 4):
        ended.update(loss)
    assert ended.finished
    plan = plan_of(schedule="cosine")
    assert jax.tree.map(np.shape, plan.progress()) == jax.tree.map(np.shape, ended.progress())
    plan.resume(ended.progress())
    assert not plan.finished and plan.rate(0) == 0.5 and plan.best == 1.0
    assert plan.update(0.5, 1)


# Averaged SGD


def switch_epoch(losses, nonmono):
    """The epoch, from 1, whose loss makes averaging begin; -1 if none does."""
    plan = optim.NonMonotone(30.0, nonmono)
    for epoch, loss in enumerate(losses, start=1):
        plan.update(loss, done=100 * epoch, epoch=epoch)
        if plan.averaged(100 * epoch + 1):
            assert plan.averaged(100 * epoch + 1) == 1 and plan.averaged(100 * epoch) == 0
            return epoch
    return -1


@pytest.mark.skipif(not names("misc"), reason="the reference folder has no misc.npz")
def test_switch_fixture():
    arrays, meta = load("misc")
    rows = [row[~np.isnan(row)] for row in arrays["nt_asgd/losses"]]
    found = [switch_epoch(row, meta["nonmono"]) for row in rows]
    assert found == arrays["nt_asgd/switch_epoch"].tolist()


def test_switch_when_a_loss_exceeds_the_best_but_the_last_five():
    """A loss is tested before it is stored: 5.5 meets min(10..6, 5) = 6, and 5.6 meets 5."""
    assert switch_epoch(LOSSES, 5) == 12
    assert switch_epoch(LOSSES[:11], 5) == -1
    assert switch_epoch((3, 2, 2, 2.5), 1) == 4
    assert switch_epoch((3, 3, 3, 3, 3, 3), 1) == -1  # exceeds, not equals
    assert switch_epoch(sorted(LOSSES), 3) == 5


def quadratic(params, carry, batch, scalars, key):
    """A noisy bowl: the iterates of SGD wander about its bottom."""
    noise = jax.random.normal(key, params["w"].shape)
    value = jnp.sum((params["w"] - noise) ** 2)
    return value, (carry, {"nats": value})


OPTIMIZER = optim.optimizer("sgd", clip=1e3)
EPOCH = 3  # updates


@functools.partial(jax.jit, static_argnames="averages")
def update(state, averaged, averages=True):
    """One step of the training loop, alone on the axis."""
    scalars = {"learning_rate": jnp.float32(0.1), "averaged": averaged.astype(jnp.float32)}

    def one(batch):
        return train_state.train_step(quadratic, OPTIMIZER, state, (), batch, scalars)[0]

    return jax.tree.map(lambda v: v[0], jax.vmap(one, axis_name=AXIS)(jnp.zeros(1)))


def create(average=True):
    def init(key):
        return {"w": jax.random.normal(key, (4,))}

    return train_state.create(init, OPTIMIZER, 0, average)


def follow(plan, losses):
    """Raw iterates and averages of a training whose epochs end with `losses`."""
    state, iterates, averages = create(), [], []
    for epoch, loss in enumerate(losses, start=1):
        for done in range(EPOCH * (epoch - 1) + 1, EPOCH * epoch + 1):
            state = update(state, np.asarray(plan.averaged(done)))
            iterates.append(np.asarray(state.params["w"]))
            averages.append(np.asarray(state.average["w"]))
        plan.update(loss, done, epoch)
    return np.array(iterates), np.array(averages)


def test_average_is_the_mean_of_the_iterates_after_the_switch():
    """And training goes on from the raw parameters, as if nothing were averaged."""
    more = (4.0, 9.0, 3.0)
    iterates, averages = follow(optim.NonMonotone(30.0), LOSSES + more)
    switch = 12 * EPOCH
    for count in range(1, len(more) * EPOCH + 1):
        expected = iterates[switch : switch + count].mean(axis=0)
        np.testing.assert_allclose(averages[switch + count - 1], expected, rtol=1e-5, atol=1e-6)
    state = create(average=False)
    assert state.average == ()
    for k in range(len(iterates)):
        state = update(state, np.asarray(0), averages=False)
        np.testing.assert_array_equal(state.params["w"], iterates[k])
    assert (averages[-1] != iterates[-1]).all()


def test_finetuning_starts_the_average_afresh_once():
    """At the end of epoch `finetune`, from the raw parameters, only if averaging has begun."""
    losses = (*LOSSES, *range(8))
    plan = optim.NonMonotone(30.0, finetune=14)
    iterates, averages = follow(plan, losses)
    assert plan.since == 14 * EPOCH
    at = 14 * EPOCH
    np.testing.assert_allclose(averages[at - 1], iterates[12 * EPOCH : at].mean(0), atol=1e-6)
    np.testing.assert_allclose(averages[at], iterates[at], atol=1e-6)
    np.testing.assert_allclose(averages[-1], iterates[at:].mean(0), rtol=1e-5, atol=1e-6)
    without, _ = follow(optim.NonMonotone(30.0), losses)
    np.testing.assert_array_equal(iterates, without)


@pytest.mark.parametrize(
    "finetune, since",
    [(0, 12), (11, 12), (12, 12), (13, 13), (100, 12)],
    ids=["never", "before the switch", "at the switch", "after it", "not reached"],
)
def test_when_finetuning_happens(finetune, since):
    plan = optim.NonMonotone(30.0, finetune=finetune)
    for epoch, loss in enumerate((*LOSSES, 5.0, 5.0, 5.0), start=1):
        plan.update(loss, 10 * epoch, epoch)
    assert plan.since == 10 * since


@pytest.mark.parametrize("finetune, since", [(0, 3), (1, 5), (2, 9)])
def test_several_validations_an_epoch_make_one_fresh_average(finetune, since):
    """Validations 1 to 4 lie in the first epoch, 5 to 8 in the second; the switch is at 3."""
    plan = optim.NonMonotone(30.0, nonmono=1, finetune=finetune)
    for validation in range(1, 13):
        plan.update(float(validation), validation, (validation - 1) // 4)
    assert plan.since == since


def test_nonmonotone_never_ends_and_keeps_its_rate():
    plan = optim.NonMonotone(30.0)
    best = [plan.update(loss, epoch, epoch) for epoch, loss in enumerate(LOSSES, start=1)]
    assert best == [True] * 6 + [False] * 6
    assert not plan.finished and plan.rate(0) == 30 and plan.best == 5


# Saving


@pytest.mark.parametrize("losses", PATHS)
@pytest.mark.parametrize(
    "fresh",
    [
        plateau,
        functools.partial(optim.Plateau, 1.0, 2.0, 3, 1000),
        functools.partial(optim.Cosine, 1.0, 2.0, 1, 0, total=50),
        functools.partial(optim.NonMonotone, 30.0),
        functools.partial(optim.NonMonotone, 30.0, nonmono=1, finetune=3),
        functools.partial(optim.NonMonotone, 30.0, nonmono=7, finetune=13),
    ],
)
def test_a_resumed_schedule_decides_as_the_uninterrupted_one(fresh, losses):
    """Saved and taken up after every validation; shapes never change, or they could not be."""
    shapes = jax.tree.map(lambda v: (v.shape, v.dtype), fresh().progress())
    for cut in range(len(losses) + 1):
        whole, saved = fresh(), fresh()
        decisions = []
        for epoch, loss in enumerate(losses, start=1):
            decisions.append((whole.update(loss, 7 * epoch, epoch), whole.rate(9), whole.finished))
            if epoch <= cut:
                saved.update(loss, 7 * epoch, epoch)
        resumed, progress = fresh(), jax.tree.map(np.asarray, saved.progress())
        assert jax.tree.map(lambda v: (v.shape, v.dtype), progress) == shapes
        resumed.resume(progress)
        assert resumed == saved
        for epoch, loss in enumerate(losses[cut:], start=cut + 1):
            decision = resumed.update(loss, 7 * epoch, epoch), resumed.rate(9), resumed.finished
            assert decision == decisions[epoch - 1]
            assert resumed.averaged(7 * epoch + 3) >= 0
        assert resumed == whole


# From a configuration


def settings(**changes):
    config = ml_collections.ConfigDict(
        dict(
            schedule="plateau", optimizer="adam", learning_rate=0.5, clip=1.0, batch=4, window=5,
            report=1, patience=2, drops=1, drop_by=0.0, drop_factor=4.0, nonmono=3, finetune=8,
            steps=0, epochs=6, weight_decay=0.0, adam_epsilon=1e-8, detector_rate=1.0,
            slope=dict(start=1.0, increment=0.5, maximum=2.0),
        )
    )  # fmt: skip
    config.update(changes)
    return config


STREAM = Stream(np.arange(4 * 23 + 1), 4, 5)  # of 5 updates an epoch


def plan_of(**changes):
    return optim.Plan(settings(**changes), STREAM)


def test_schedule_of_a_configuration():
    assert plan_of().schedule == optim.Plateau(0.5, 4.0, 2, 1)
    nonmonotone = plan_of(schedule="nonmonotone")
    assert nonmonotone.schedule == optim.NonMonotone(0.5, 3, 8) and nonmonotone.averages
    cosine = plan_of(schedule="cosine")
    assert cosine.schedule == optim.Cosine(0.5, 4.0, 2, 1, total=30) and not cosine.averages


def test_length_of_a_run():
    assert plan_of().total == 30
    assert plan_of(steps=7).total == 7
    with pytest.raises(UserError, match="5,000,000,000 updates, of at most 2,147,483,647"):
        plan_of(epochs=10**9)


def test_rate_and_slope_of_an_update():
    plan = plan_of()
    assert [plan.slope(done) for done in (0, 4, 5, 10, 29)] == [1, 1, 1.5, 2, 2]
    for done in (1, 2, 3):
        assert plan.rate(done) == 0.5
        plan.update(2.0, done)
    assert plan.rate(3) == pytest.approx(0.5 / 4)
    cosine = plan_of(schedule="cosine", steps=10)
    assert [cosine.rate(done) for done in (0, 5, 10)] == pytest.approx([0.5, 0.25, 0])


def test_the_rate_goes_with_the_length_of_a_window():
    stream = VariableStream(np.arange(4 * 230 + 1), 4, 20, seed=1, quantum=1)
    plan = optim.Plan(settings(), stream)
    rates = [plan.rate(done) for done in range(9)]
    assert rates == [0.5 * len(stream(done).mask) / 20 for done in range(9)]
    assert len(set(rates)) > 2


def test_an_epoch_that_ends_counts_for_the_average():
    """The first update of an average is that after the validation at an epoch's end."""
    plan = plan_of(schedule="nonmonotone", nonmono=1, finetune=3)
    for epoch, loss in enumerate((1.0, 2.0, 3.0, 4.0, 5.0), start=1):
        plan.update(loss, 5 * epoch)
    assert plan.schedule.since == 15 and plan.averaged(16) == 1 and plan.averaged(15) == 0


def test_the_cosine_is_that_of_optax_and_gives_the_device_no_work():
    expected = jax.vmap(optax.cosine_decay_schedule(0.5, 97))(np.arange(98))
    with jax.transfer_guard("disallow"):
        plan = plan_of(schedule="cosine", steps=97)
        rates = [plan.rate(done) for done in range(98)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6, atol=1e-7)
