"""Streams of text and their windows, against computations done another way."""

import functools
import time

import jax
import numpy as np
import pytest

from hmrnn_jax.batches.text import EvaluationStream, Stream, VariableStream
from hmrnn_jax.errors import UserError


def collect(batches):
    """Arrays [steps, B] of a list of batches laid end to end."""
    return [np.concatenate(field) for field in zip(*map(jax.tree.leaves, batches), strict=True)]


# Stream


@pytest.mark.parametrize("n, batch, window", [(101, 4, 5), (100, 4, 5), (23, 1, 7), (9, 2, 4)])
def test_an_epoch_reads_every_row_once_in_order(n, batch, window):
    ids = np.random.default_rng(0).permutation(n).astype(np.int32)
    stream, length = Stream(ids, batch, window), (n - 1) // batch
    assert stream.steps_per_epoch == int(np.ceil(length / window))
    inputs, targets, mask, resets = collect([stream(k) for k in range(stream.steps_per_epoch)])
    assert mask.sum() == batch * length and mask[:length].all()
    for row in range(batch):
        assert inputs[:length, row].tolist() == ids[row * length :][:length].tolist()
        assert targets[:length, row].tolist() == ids[row * length + 1 :][:length].tolist()
    assert resets[0].all() and not resets[1:].any()


def test_a_batch_is_a_pure_function_of_the_step():
    ids = np.random.default_rng(1).integers(0, 50, 1000)
    stream, other = Stream(ids, 8, 20), Stream(ids, 8, 20)
    order = np.random.default_rng(2).permutation(30)
    forward = [stream(k) for k in range(30)]
    for k in order:
        assert all(map(np.array_equal, other(int(k)), forward[k]))
    n = stream.steps_per_epoch
    assert all(map(np.array_equal, forward[n], forward[0]))
    assert [stream.epoch(k) for k in (0, n - 1, n, 2 * n)] == [0, 0, 1, 2]
    batch = forward[0]
    assert [a.dtype for a in jax.tree.leaves(batch)] == [np.int32, np.int32, np.float32, bool]
    assert all(a.shape == (20, 8) for a in jax.tree.leaves(batch))


def test_rows_of_a_process_are_the_rows_of_the_whole():
    ids = np.arange(500)
    whole = Stream(ids, 6, 10)
    for rows in (slice(0, 2), slice(2, 6)):
        part = Stream(ids, 6, 10, rows)
        assert part.steps_per_epoch == whole.steps_per_epoch
        for k in (0, 3, whole.steps_per_epoch - 1):
            for owned, all_rows in zip(*map(jax.tree.leaves, (part(k), whole(k))), strict=True):
                assert np.array_equal(owned, all_rows[:, rows])


@pytest.mark.parametrize("kind", [Stream, functools.partial(VariableStream, quantum=1, padding=5)])
def test_what_is_taught_of_a_symbol_comes_with_it(kind):
    ids = np.arange(1, 124)
    taught = (ids * 7 % 4).astype(np.uint8)
    stream, plain = kind(ids, 3, 10, slice(1, 3), taught=taught), kind(ids, 3, 10, slice(1, 3))
    for step in range(2 * stream.steps_in(1)):
        batch, other = stream(step), plain(step)
        np.testing.assert_array_equal(batch.inputs, other.inputs)
        np.testing.assert_array_equal(batch.taught, batch.inputs * 7 % 4 * (batch.mask > 0))
        assert batch.taught.dtype == np.uint8 and other.taught is None


def test_a_text_too_short_tells_how_much_is_needed():
    Stream(np.arange(4 * 5 + 1), 4, 5)
    with pytest.raises(UserError, match="at least 21"):
        Stream(np.arange(4 * 5), 4, 5)
    with pytest.raises(UserError, match="1 or more"):
        Stream(np.arange(100), 0, 5)


def test_a_batch_costs_microseconds():
    stream = Stream(np.zeros(20_000_000, np.int32), 128, 100)
    stream(0)
    begin = time.perf_counter()
    for k in range(100):
        stream(k * 13)
    assert (time.perf_counter() - begin) / 100 < 2e-3


# VariableStream


def lengths_of(stream, epoch):
    """Counted steps of the windows of an epoch."""
    steps = range(stream.steps_in(epoch), stream.steps_in(epoch + 1))
    return np.array([int(stream(k).mask[:, 0].sum()) for k in steps])


def test_lengths_are_70_or_seldom_35_with_noise():
    """70 with probability 0.95, else 35; Gaussian noise of 5 steps; 5 steps at least."""
    lengths = lengths_of(VariableStream(np.zeros(400_001, np.int32), 2, 70, quantum=1), 0)[:-1]
    n = len(lengths)
    assert n > 2800
    # Truncation of the noisy length takes half a step off.
    assert lengths.mean() == pytest.approx(0.95 * 70 + 0.05 * 35 - 0.5, abs=4 * 9.1 / n**0.5)
    short = lengths < 52
    assert short.mean() == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / n) ** 0.5)
    assert lengths[short].mean() == pytest.approx(34.5, abs=2.5)
    assert lengths[~short].std() == pytest.approx(5, abs=0.4)
    assert lengths[~short].mean() == pytest.approx(69.5, abs=0.5)


@pytest.mark.parametrize("quantum", [1, 2, 3, 4, 5, 7, 16])
@pytest.mark.parametrize("window", [4, 10, 70])
def test_windows_are_never_shorter_than_5_steps_but_the_last(window, quantum):
    stream = VariableStream(np.zeros(8_003, np.int32), 2, window, quantum=quantum)
    for epoch in range(3):
        lengths = lengths_of(stream, epoch)
        assert (lengths[:-1] >= 5).all() and lengths[-1] >= 1
        assert not (lengths[:-1] % quantum).any()
        assert lengths.sum() == 4_001
        assert lengths.max() < window + 30 + quantum


def test_quantum_limits_the_number_of_shapes():
    """The mean length stays about what it is without, as rounding goes both ways."""
    ids = np.zeros(200_001, np.int32)
    fine, coarse = (VariableStream(ids, 2, 70, quantum=q) for q in (1, 5))
    means, shapes = [], []
    for stream in (fine, coarse):
        steps = stream.steps_in(2)
        shapes.append({stream(k).inputs.shape for k in range(steps)})
        means.append(2 * 100_000 / steps)
    assert len(shapes[0]) > 40 > 20 > len(shapes[1])
    assert all(steps % 5 == 0 and rows == 2 for steps, rows in shapes[1])
    assert means[0] == pytest.approx(means[1], rel=0.02)


def test_padding_limits_the_number_of_shapes_and_keeps_the_lengths():
    ids = np.random.default_rng(0).integers(0, 50, 200_001)
    exact, padded = (VariableStream(ids, 2, 70, quantum=1, padding=n) for n in (1, 5))
    shapes = set()
    for step in range(exact.steps_in(1)):
        own, longer = exact(step), padded(step)
        length = len(own.mask)
        shapes.add(len(longer.mask))
        assert longer.mask[:length].all() and not longer.mask[length:].any()
        np.testing.assert_array_equal(longer.inputs[:length], own.inputs)
        assert padded.scale(step) == exact.scale(step) == length / 70
    assert len(shapes) <= 20 and not any(steps % 5 for steps in shapes)


def test_scale_is_the_share_of_the_window():
    """The learning rate of a step is multiplied by length / 70."""
    stream = VariableStream(np.arange(6_001), 3, 70)
    scales = [stream.scale(k) for k in range(stream.steps_in(2))]
    lengths = np.concatenate([lengths_of(stream, epoch) for epoch in range(2)])
    np.testing.assert_allclose(scales, lengths / 70, rtol=1e-12)
    assert len(set(scales)) > 3
    assert Stream(np.arange(6_001), 3, 70).scale(0) == 1


def test_every_symbol_of_an_epoch_comes_once_in_order():
    """Rows go on from window to window, so the carried state fits; an epoch begins with a reset."""
    ids = np.random.default_rng(0).permutation(10_007).astype(np.int32)
    stream = VariableStream(ids, 3, 20)
    length = (len(ids) - 1) // 3
    cuts = set()
    for epoch in range(3):
        steps = range(stream.steps_in(epoch), stream.steps_in(epoch + 1))
        batches = [stream(k) for k in steps]
        inputs, targets, mask, resets = collect(batches)
        counted = mask[:, 0] == 1
        assert (mask == mask[:, :1]).all()
        for row in range(3):
            text = ids[row * length :]
            assert inputs[counted, row].tolist() == text[:length].tolist()
            assert targets[counted, row].tolist() == text[1 : length + 1].tolist()
        assert resets[0].all() and not resets[1:].any()
        assert [stream.epoch(k) for k in steps] == [epoch] * len(steps)
        # Padding follows the counted steps of the last window alone.
        assert all(batch.mask.all() for batch in batches[:-1])
        assert (np.diff(batches[-1].mask[:, 0]) <= 0).all()
        assert len(batches[-1].mask) - batches[-1].mask[:, 0].sum() < 5
        cuts.add(tuple(len(batch.mask) for batch in batches))
    assert len(cuts) == 3  # epochs are cut in different places


def test_variable_windows_do_not_depend_on_the_order_of_calls():
    """So a run resumes from its step number alone."""
    ids = np.random.default_rng(0).integers(0, 50, 2_001)

    def make(**changes):
        return VariableStream(ids, 2, 20, **changes)

    stream = make(seed=3)
    steps = range(stream.steps_in(3))
    forward = [stream(k) for k in steps]
    for fresh, order in (
        (make(seed=3), reversed(steps)),
        (make(seed=3), np.random.default_rng(1).permutation(len(steps))),
    ):
        for k in order:
            assert all(map(np.array_equal, fresh(k), forward[k]))
    lone = make(seed=3)
    assert lone.scale(len(steps) - 1) == stream.scale(len(steps) - 1)
    assert make(seed=3).epoch(len(steps) - 1) == 2 and make(seed=3).epoch(len(steps)) == 3
    assert make(seed=3).steps_in(3) == stream.steps_in(3) and stream.steps_in(0) == 0
    batch = forward[0]
    assert [a.dtype for a in jax.tree.leaves(batch)] == [np.int32, np.int32, np.float32, bool]
    others = [make(seed=4)(k).inputs.shape for k in range(20)]
    assert others != [batch.inputs.shape for batch in forward[:20]]


def test_processes_cut_variable_windows_alike():
    ids = np.arange(3_000)
    whole = VariableStream(ids, 6, 20, seed=1)
    for rows in (slice(0, 2), slice(2, 6)):
        part = VariableStream(ids, 6, 20, rows, seed=1)
        assert part.steps_in(2) == whole.steps_in(2)
        for k in range(whole.steps_in(2)):
            for owned, all_rows in zip(*map(jax.tree.leaves, (part(k), whole(k))), strict=True):
                assert np.array_equal(owned, all_rows[:, rows])


def test_a_quantum_below_1_is_refused():
    with pytest.raises(UserError, match="window_quantum is 0; it must be 1 or more"):
        VariableStream(np.arange(100), 2, 10, quantum=0)


# EvaluationStream


@pytest.mark.parametrize("n", [2, 3, 17, 100])
@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("window, warmup", [(1, 0), (7, 0), (7, 5), (4, 30), (200, 200)])
def test_each_symbol_is_predicted_once_after_its_own_past(n, batch, window, warmup):
    ids = np.random.default_rng(n).permutation(n).astype(np.int32) + 1
    place = {symbol: i for i, symbol in enumerate(ids.tolist())}
    stream = EvaluationStream(ids, batch, window, warmup)
    batches = list(stream)
    assert len(batches) == len(stream)
    assert all(a.shape == (window, batch) for a in jax.tree.leaves(batches))
    inputs, targets, mask, resets = collect(batches)
    predicted = targets[mask == 1].tolist()
    assert sorted(predicted) == sorted(ids[1:].tolist())
    assert stream.predictions == n - 1 == mask.sum()
    counts = mask.sum(axis=0)
    assert counts.max() - counts.min() <= 1
    assert resets[0].all()
    for row in range(batch):
        steps = np.flatnonzero(mask[:, row])
        if not len(steps):
            continue
        first, last = steps[0], steps[-1]
        assert len(steps) == last - first + 1
        begin = place[int(inputs[first, row])]
        past = min(warmup, begin)
        read = inputs[first - past : last + 1, row].tolist()
        assert read == ids[begin - past :][: len(read)].tolist()
        assert targets[first : last + 1, row].tolist() == ids[begin + 1 :][: len(steps)].tolist()
        # The last reset before the row's first prediction is where its past begins.
        assert np.flatnonzero(resets[: first + 1, row])[-1] == first - past
        assert not resets[first + 1 :, row].any()


def test_batch_1_is_one_pass_without_padding_before_the_text():
    ids = np.arange(30)
    inputs, targets, mask, _ = collect(list(EvaluationStream(ids, 1, 10, warmup=12)))
    assert inputs[:29, 0].tolist() == ids[:-1].tolist()
    assert targets[:29, 0].tolist() == ids[1:].tolist()
    assert mask[:, 0].tolist() == [1] * 29 + [0]


def test_evaluation_needs_two_symbols():
    with pytest.raises(UserError, match="two symbols"):
        EvaluationStream([1], 1, 1)
