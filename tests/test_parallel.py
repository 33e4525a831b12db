"""Data parallelism: the same training on one device and on many, and the same as `jax.pmap`."""

import collections
import dataclasses
import functools
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.mesh_utils import create_device_mesh

from hmrnn_jax import parallel
from hmrnn_jax.batches.text import Batch
from hmrnn_jax.cells import hm_lstm
from hmrnn_jax.errors import UserError
from hmrnn_jax.models.language import LanguageModel
from hmrnn_jax.tasks import language
from hmrnn_jax.tasks.metrics import cross_entropy
from hmrnn_jax.training import hlo, optim
from hmrnn_jax.training import state as train_state

STEPS, ROWS, SYMBOLS, UPDATES = 6, 16, 5, 5
SCALARS = {"learning_rate": np.float32(0.01), "slope": np.float32(1.5)}
OPTIMIZER = optim.optimizer(clip=1.0)


@functools.cache
def model_of(boundary="step"):
    cell = hm_lstm.Config(4, (6, 5), boundary=boundary, layer_norm="none")
    return LanguageModel(SYMBOLS, 4, (cell,), 7)


def init_of(model):
    return functools.partial(language.init_params, model)


def step_of(model):
    loss = functools.partial(language.loss, model, language.Penalties())
    return functools.partial(train_state.train_step, loss, OPTIMIZER)


def batches():
    """Ragged masks: devices differ in how many of their steps count."""
    rng = np.random.default_rng(0)
    for step in range(UPDATES):
        symbols = rng.integers(0, SYMBOLS, (STEPS + 1, ROWS)).astype(np.int32)
        lengths = rng.integers(1, STEPS + 1, ROWS)
        lengths[:2] = STEPS
        mask = (np.arange(STEPS)[:, None] < lengths).astype(np.float32)
        resets = rng.uniform(size=(STEPS, ROWS)) < (1 if step == 0 else 0.1)
        yield Batch(symbols[:-1], symbols[1:], mask, resets)


def start(model, devices, rows=ROWS):
    mesh = parallel.make_mesh(jax.devices()[:devices])
    state = parallel.replicate(train_state.create(init_of(model), OPTIMIZER, seed=0), mesh)
    carry = parallel.shard_rows(jax.tree.map(np.asarray, model.initial_carry(rows)), mesh)
    step = step_of(model)
    return mesh, parallel.pmapped(step, mesh), state, carry


@functools.cache
def train(devices, boundary="step"):
    """Parameters, carry and metrics after `UPDATES` updates on so many devices."""
    mesh, step, state, carry = start(model_of(boundary), devices)
    history = []
    for batch in batches():
        batch = parallel.shard_batch(batch, mesh)
        state, carry, metrics = step(state, carry, batch, parallel.replicate(SCALARS, mesh))
        history.append(jax.device_get(metrics))
    assert int(state.step) == UPDATES
    return jax.device_get((state.params, carry)), history


def assert_trees_close(actual, expected, tolerance=1e-6):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance),
        actual,
        expected,
    )


@pytest.mark.parametrize("devices", [2, 8])
def test_many_devices_train_like_one(devices):
    """Sums over all devices' counted steps, not means of means."""
    assert_trees_close(train(devices)[0], train(1)[0])
    for many, one in zip(train(devices)[1], train(1)[1], strict=True):
        assert_trees_close(many, one, 1e-5)
        assert many["count"] == one["count"]


def test_the_first_update_is_a_plain_gradient_step():
    """Against `jax.grad` of the mean over counted steps, without mesh: not 8 times too large."""
    model = model_of()
    state, batch = train_state.create(init_of(model), OPTIMIZER, seed=0), next(batches())

    @jax.jit
    @jax.value_and_grad
    def gradient(params):
        carry = model.initial_carry(ROWS)
        out = model.apply({"params": params}, batch.inputs, carry, resets=batch.resets, slope=1.5)
        nats = cross_entropy(out.logits, batch.targets, batch.mask)
        return nats / batch.mask.sum()

    loss, expected = gradient(state.params)
    norm = np.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(expected)))
    for devices in (1, 8):
        metrics = train(devices)[1][0]
        np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-5)
        np.testing.assert_allclose(metrics["nats"], loss * batch.mask.sum(), rtol=1e-5)
    # Adam hides a gradient's scale, so its first moment is looked at too: 0.1 g, clipped.
    mesh, step, state, carry = start(model, 8)
    batch = parallel.shard_batch(batch, mesh)
    state, _, _ = step(state, carry, batch, parallel.replicate(SCALARS, mesh))
    moments = [s for s in state.optimizer if hasattr(s, "mu")][0].mu
    assert_trees_close(moments, jax.tree.map(lambda g: 0.1 * g / max(1, norm), expected))


def test_pmapped_is_pmap_bit_for_bit():
    """The same step under `jax.pmap` on 8 devices: every bit of parameters, carry, metrics.

    Every bit as users compile, `XLA_FLAGS= pytest`. Compiled as quickly as tests otherwise are, the
    two programs may be fused differently, which moves the last digit.
    """
    quick = "backend_optimization_level=0" in os.environ["XLA_FLAGS"]
    tolerance = 1e-6 if quick else 0
    model, devices = model_of(), 8
    step = step_of(model)
    mapped = jax.pmap(
        step, axis_name=parallel.AXIS, in_axes=(None, 0, 0, None), out_axes=(None, 0, None)
    )
    state = train_state.create(init_of(model), OPTIMIZER, seed=0)
    carry = jax.tree.map(lambda v: v.reshape(devices, -1, *v.shape[1:]), model.initial_carry(ROWS))
    history = []
    for batch in batches():
        batch = jax.tree.map(lambda v: v.reshape(STEPS, devices, -1).swapaxes(0, 1), batch)
        state, carry, metrics = mapped(state, carry, Batch(*batch), SCALARS)
        history.append(metrics)
    carry = jax.tree.map(lambda v: v.reshape(ROWS, *v.shape[2:]), carry)
    same = functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance)
    jax.tree.map(same, ((state.params, carry), history), train(8))


@functools.cache
def program_of(devices, rows, boundary="step"):
    """The compiled train step of a device, `{computation: instructions}`."""
    mesh, step, state, carry = start(model_of(boundary), devices, rows)
    batch = jax.tree.map(lambda x: x[:, :rows], next(batches()))
    batch = parallel.shard_batch(batch, mesh)
    with pytest.MonkeyPatch.context() as patch:
        # One device makes no sum, and its program is fused otherwise where the sums were.
        patch.setattr(parallel, "total", lambda tree: jax.lax.psum(tree, parallel.AXIS))
        lowered = step.lower(state, carry, batch, parallel.replicate(SCALARS, mesh))
    return hlo.computations(lowered.compile().as_text())


def test_devices_talk_once_a_step_and_never_inside_the_time_loop():
    program = program_of(8, ROWS)
    bodies = hlo.loop_bodies(program)
    assert len(bodies) >= 2  # forwards and backwards
    everything = [line for lines in program.values() for line in lines]
    talking = [line for line in everything if hlo._is_reduction(line)]
    # The count that the loss is divided by; then the gradients and the sums together.
    assert 1 <= len(talking) <= 2
    assert not set(talking) & {line for body in bodies for line in hlo.reached(program, body)}


def operations(program):
    """How often each kind of operation on arrays of those shapes is in a program."""
    entry = next(name for name in program if name.startswith("main"))
    kinds = []
    for line in hlo.reached(program, entry):
        if not hlo._is_free(line):
            shapes = re.findall(
                r"(\w+)\[([\d,]*)\]", re.search(r" = (\(.*?\)|\S+) ", line).group(1)
            )
            # Neither axes of one element nor the variables that a loop carries are work.
            sizes = [(kind, *(n for n in size.split(",") if n != "1")) for kind, size in shapes]
            name = hlo._operation(line)
            kinds.append((name, tuple(sorted(set(sizes) if name == "while" else sizes))))
    return collections.Counter(kinds)


@pytest.mark.parametrize("boundary", ["step", "sample"])
def test_each_of_eight_devices_does_what_one_does_with_an_eighth_of_the_rows(boundary):
    """Weak scaling: the same operations on arrays of the same shapes, and the reductions."""
    one, eight = (operations(program_of(n, n * ROWS // 8, boundary)) for n in (1, 8))
    assert sum(one.values()) > 100 and not one - eight
    for name, shapes in eight - one:
        # Those that sample find out which rows are theirs, two whole numbers.
        numbering = boundary == "sample" and shapes in {
            (("u32", ""),),
            (("s32", ""),),
            (("s32", "2"),),
        }
        assert name in ("all-reduce", "copy") or numbering, (name, shapes)


# Noise


def draws(devices, key):
    mesh = parallel.make_mesh(jax.devices()[:devices])

    def step(state, carry, batch, scalars):
        noise = parallel.row_noise(scalars["key"], 2, 50, ROWS // devices)
        return state, noise.swapaxes(0, 1), {}

    nothing = np.zeros((1, ROWS), np.float32)
    return np.asarray(parallel.pmapped(step, mesh)({}, nothing[0], nothing, {"key": key})[1])


def test_a_rows_noise_is_the_same_on_any_number_of_devices():
    """And differs by step, row, detector and key."""
    key = jax.random.key(0)
    one = draws(1, key)
    assert one.shape == (ROWS, 50, 2)
    np.testing.assert_array_equal(one, draws(8, key))
    assert len(np.unique(one)) > 0.99 * one.size
    assert (one != draws(1, jax.random.key(1))).mean() > 0.99


def test_sampled_boundaries_train_alike_on_1_and_8_devices():
    assert_trees_close(train(8, "sample")[0], train(1, "sample")[0])
    assert (train(1, "sample")[1][0]["fired"] != train(1)[1][0]["fired"]).any()


# Batches and meshes


def test_a_batch_that_does_not_divide_is_refused():
    mesh = parallel.make_mesh()
    parallel.check_batch(16, mesh)
    with pytest.raises(UserError, match="batch of 12 rows cannot be divided over 8 devices"):
        parallel.check_batch(12, mesh)


def test_one_process_owns_all_rows():
    assert parallel.local_rows(16, parallel.make_mesh()) == slice(0, 16)


@dataclasses.dataclass(frozen=True)
class Chip:
    """What JAX looks at when it orders the chips of a TPU."""

    id: int
    process_index: int
    coords: tuple
    core_on_chip: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v4"


def chips(*shape):
    """The chips of a slice of v4, of which each host has four in a square."""
    x, y, z = np.meshgrid(*map(np.arange, shape), indexing="ij")
    places = np.stack([x, y, z], -1).transpose(2, 1, 0, 3).reshape(-1, 3)
    hosts = places // (2, 2, 1)
    numbers = {host: number for number, host in enumerate(dict.fromkeys(map(tuple, hosts)))}
    return [
        Chip(number, numbers[tuple(host)], tuple(map(int, place)))
        for number, (place, host) in enumerate(zip(places, hosts, strict=True))
    ]


@pytest.mark.parametrize("shape", [(2, 2, 2), (4, 4, 1), (2, 2, 4)])
@pytest.mark.parametrize("order", ["listed", "torus", "reversed"])
def test_the_hosts_of_a_slice_own_every_row_once(monkeypatch, shape, order):
    devices = chips(*shape)
    ordered = list(create_device_mesh((len(devices),), devices))
    owners = [device.process_index for device in ordered]
    assert owners != sorted(owners)
    given = {"listed": devices, "torus": ordered, "reversed": devices[::-1]}[order]
    mesh, rows = parallel.make_mesh(given), []
    assert set(mesh.devices.flat) == set(devices)
    for process in range(len(devices) // 4):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        mine = parallel.local_rows(64, mesh)
        assert mine.stop - mine.start == 64 * 4 // len(devices)
        rows += range(64)[mine]
    assert rows == list(range(64))


def test_a_process_with_fewer_devices_than_another_is_refused():
    with pytest.raises(UserError, match="Process 0 has 4 devices and process 1 has 3; give"):
        parallel.make_mesh(chips(2, 2, 2)[:7])


def test_processes_that_have_different_data_are_refused(monkeypatch):
    parallel.check_same("whatever", "Data")  # one process agrees with itself
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    gather = parallel.multihost_utils, "process_allgather"
    monkeypatch.setattr(*gather, lambda own: np.stack([own, own, own]))
    parallel.check_same("a", "Data")
    monkeypatch.setattr(*gather, lambda own: np.stack([own, own, own + 1]))
    with pytest.raises(UserError, match="Data of process 2 are not those of process 0: give every"):
        parallel.check_same("a", "Data")


def test_a_mesh_in_another_order_has_no_rows_in_one_piece():
    devices = np.array(chips(2, 2, 2))[[0, 4, 1, 5, 2, 6, 3, 7]]
    with pytest.raises(UserError, match="not neighbours"):
        parallel.local_rows(64, jax.sharding.Mesh(devices, (parallel.AXIS,)))


# Sums of an evaluation


def counting():
    """An evaluation step that adds up its batch, compiled for two devices, and their mesh."""
    mesh = parallel.make_mesh(jax.devices()[:2])

    def step(params, carry, batch, scalars):
        return carry, parallel.total({"count": batch.sum()})

    return parallel.pmapped_evaluation(step, mesh), mesh


def test_an_evaluation_counts_what_float32_cannot():
    """From 2^24 on float32 has no odd numbers; here the sums of each batch are odd, below it."""
    step, mesh = counting()
    batches = [np.array([2**22 + 1, 2**22], np.float32)] * 43
    sums = parallel.accumulate(step, {}, (), batches, mesh)
    assert sums["count"] == 43 * (2**23 + 1) and sums["count"].dtype == np.float64


def test_an_evaluation_always_has_steps_before_the_devices(monkeypatch):
    """No sums are waited for but those of a step that many more were given after."""
    given, fetched, device_get = [], [], jax.device_get

    def step(params, carry, batch, scalars):
        given.append(int(scalars["number"]))
        return carry, {"number": scalars["number"]}

    def fetch(tree):
        if isinstance(tree, dict):
            fetched.append((int(tree["number"]), len(given)))
        return device_get(tree)

    monkeypatch.setattr(jax, "device_get", fetch)
    mesh = parallel.make_mesh(jax.devices()[:1])
    sums = parallel.accumulate(step, {}, (), [np.zeros(1, np.float32)] * 40, mesh)
    assert given == list(range(40)) and sums["number"] == sum(given)
    assert [number for number, _ in fetched] == given
    assert all(begun - number > 8 for number, begun in fetched if begun < 40)
    # Nor are they kept on the devices until the end.
    assert fetched[0][1] < 30


def test_parameters_go_to_the_devices_once_for_an_evaluation():
    step, mesh = counting()
    batches = [np.ones(2, np.float32)] * 3
    parallel.accumulate(step, {}, (), batches, mesh)
    with jax.transfer_guard("disallow"):
        parallel.accumulate(step, {"kernel": np.ones((3, 3))}, (), batches, mesh, 1.5, seed=3)
