"""Batches of sentence pairs: purity, coverage, front padding, resets, processes, shapes."""

import os
import time

import jax
import numpy as np
import pytest

from hmrnn_jax import recurrence
from hmrnn_jax.batches.pairs import EvaluationPairs, PairBatch, PairStream, padding
from hmrnn_jax.cells import lstm
from hmrnn_jax.datasets import logic
from hmrnn_jax.datasets.logic import Pairs
from hmrnn_jax.errors import UserError


def make(n: int, longest: int = 30, seed: int = 0) -> Pairs:
    """Random lengths and labels; the last symbols of pair i are -1000-i and -5000-i."""
    random = np.random.default_rng(seed)
    sides = random.integers(1, longest + 1, (2, n))
    left = [[1000 + i] * (length - 1) + [-1000 - i] for i, length in enumerate(sides[0])]
    right = [[5000 + i] * (length - 1) + [-5000 - i] for i, length in enumerate(sides[1])]
    return Pairs.of(left, right, random.integers(0, 7, n))


def which(batch: PairBatch) -> list[int]:
    """The pairs of a batch by row, -1 for a filler row."""
    found = []
    for b in range(len(batch.mask)):
        if batch.mask[b]:
            found.append(-int(batch.left[-1, b]) - 1000)
            assert batch.right[-1, b] == -5000 - found[-1]
        else:
            found.append(-1)
    return found


def assert_rows_hold(batch: PairBatch, pairs: Pairs) -> None:
    """Each row is front padding and then the sentence, with resets up to its first step."""
    steps = len(batch.left)
    for b, i in enumerate(which(batch)):
        for side in ("left", "right"):
            ids, resets = getattr(batch, side)[:, b], getattr(batch, f"{side}_resets")[:, b]
            sentence = [] if i < 0 else getattr(pairs, side)[i].tolist()
            front = steps - len(sentence)
            assert ids.tolist() == [0] * front + sentence
            assert resets.tolist() == [t <= front for t in range(steps)]
        assert batch.labels[b] == (0 if i < 0 else pairs.labels[i])


def equal(one, other) -> bool:
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(one, other, strict=True))


# PairStream


def test_a_batch_by_hand():
    pairs = Pairs.of([[7, 8, 9], [3]], [[5], [4, 6]], [2, 5])
    batch = PairStream(pairs, batch=3, seed=0, quantum=4)(0)
    order = [0, 1] if batch.labels[0] == 2 else [1, 0]
    by_pair = PairBatch(*(a[..., [*order, 2]] for a in batch))
    assert by_pair.left.T.tolist() == [[0, 7, 8, 9], [0, 0, 0, 3], [0] * 4]
    assert by_pair.right.T.tolist() == [[0, 0, 0, 5], [0, 0, 4, 6], [0] * 4]
    assert by_pair.left_resets.T.tolist() == [[True, True, False, False], [True] * 4, [True] * 4]
    assert by_pair.right_resets.T.tolist() == [[True] * 4, [True, True, True, False], [True] * 4]
    assert by_pair.labels.tolist() == [2, 5, 0] and by_pair.mask.tolist() == [1, 1, 0]
    dtypes = [np.int32, np.int32, bool, bool, np.int32, np.float32]
    assert [a.dtype for a in batch] == dtypes
    assert padding([batch]) == pytest.approx(1 - 7 / 24)


@pytest.mark.parametrize("n", [1, 31, 32, 33, 400])
@pytest.mark.parametrize("pool, quantum", [(1, 1), (3, 4), (50, 8)])
def test_every_pair_once_an_epoch_padded_at_the_front(n, pool, quantum):
    pairs = make(n)
    stream = PairStream(pairs, 8, seed=3, pool=pool, quantum=quantum)
    assert stream.steps_per_epoch == -(-n // 8)
    for epoch in range(3):
        begin = epoch * stream.steps_per_epoch
        seen = []
        for step in range(begin, begin + stream.steps_per_epoch):
            assert stream.epoch(step) == epoch
            batch = stream(step)
            assert_rows_hold(batch, pairs)
            here = [i for i in which(batch) if i >= 0]
            assert len(batch.left) == -(-pairs.lengths[here].max() // quantum) * quantum
            assert len(batch.mask) == 8
            seen += here
        assert sorted(seen) == list(range(n))


def test_a_batch_is_a_pure_function_of_the_step():
    pairs = make(300)
    stream = PairStream(pairs, 16, seed=5, pool=4)
    forward = [stream(step) for step in range(60)]  # more than three epochs
    again, used = PairStream(pairs, 16, seed=5, pool=4), PairStream(pairs, 16, seed=5, pool=4)
    used(59)
    for step in np.random.default_rng(0).permutation(60):
        assert equal(again(step), forward[step])
    for step in (0, 59, 1, 19, 18, 0):  # to and fro between epochs
        assert equal(used(step), forward[step])
    assert not any(equal(a, b) for a, b in zip(forward[:19], forward[19:38], strict=True))


def test_the_order_depends_on_seed_and_epoch_only():
    pairs = make(300)

    def order(seed, epoch=0):
        stream = PairStream(pairs, 16, seed)
        steps = range(stream.steps_per_epoch)
        return [which(stream(epoch * len(steps) + step)) for step in steps]

    assert order(1) == order(1)
    orders = [order(0), order(1), order(0, 1), order(1, 1), order(0, 2)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_padding_leaves_no_trace_in_the_recurrence():
    # Each final state of a padded batch is that of the sentence read alone.
    random = np.random.default_rng(0)
    lists = [[random.integers(1, 6, length) for length in lengths] for lengths in ((1, 6), (6, 1))]
    pairs = Pairs.of(*lists, [0, 1])
    config = lstm.Config(3, 4, forget_bias=1.0)
    params = lstm.init(jax.random.key(0), config)
    table = random.normal(size=(6, 3)).astype(np.float32)

    def final(ids, resets=None):
        state = recurrence.initial_state(config, ids.shape[1])
        return recurrence.unroll(config, params, state, table, table_ids=ids, resets=resets).final.h

    stream = EvaluationPairs(pairs, 3, quantum=8)
    (batch,) = stream
    both = (("left", batch.left, batch.left_resets), ("right", batch.right, batch.right_resets))
    for side, ids, resets in both:
        padded = final(ids, resets)
        for row, i in enumerate(stream.order[0]):
            alone = getattr(pairs, side)[i][:, None] if i >= 0 else np.zeros((1, 1), int)
            np.testing.assert_allclose(padded[row], final(alone)[0], rtol=1e-5, atol=1e-6)


def test_what_a_caller_does_to_a_batch_stays_its_own():
    stream = PairStream(make(40), 8, seed=0)
    kept = PairBatch(*(a.copy() for a in stream(2)))
    for array in stream(2):
        array[:] = 1
    assert equal(stream(2), kept)


def test_processes_together_have_the_whole_batch():
    pairs = make(205)
    whole = PairStream(pairs, 12, seed=2, pool=3)
    parts = [PairStream(pairs, 12, 2, rows, pool=3) for rows in
             (slice(0, 4), slice(4, 10), slice(10, 12))]  # fmt: skip
    for step in range(2 * whole.steps_per_epoch):
        batches = [part(step) for part in parts]
        joined = PairBatch(*(np.concatenate(a, axis=-1) for a in zip(*batches, strict=True)))
        assert equal(joined, whole(step))


def test_pools_make_batches_of_like_length_in_random_order():
    pairs = make(64 * 16, longest=60)

    def spread(pool):
        stream = PairStream(pairs, 16, seed=0, pool=pool, quantum=1)
        batches = [stream(step) for step in range(stream.steps_per_epoch)]
        longest = [len(batch.left) for batch in batches]
        shortest = [pairs.lengths[which(batch)].min() for batch in batches]
        return np.mean(np.subtract(longest, shortest)), longest

    apart, _ = spread(1)
    alike, longest = spread(64)
    assert alike < 3 < 30 < apart
    # Were the batches left in the order of their lengths, no length would fall.
    falls = np.count_nonzero(np.diff(longest) < 0)
    assert 20 < falls < 44
    assert alike < spread(8)[0] < apart  # a pool sorts its own pairs only


def test_the_pairs_of_the_short_batch_are_a_random_draw():
    # Long and short pairs are left over equally often, so neither counts for more.
    pairs = Pairs.of([[-1000 - i] if i < 50 else [0] * 19 + [-1000 - i] for i in range(101)],
                     [[-5000 - i] for i in range(101)], [0] * 101)  # fmt: skip
    stream = PairStream(pairs, 10, seed=0)
    over = []
    for step in range(200 * stream.steps_per_epoch):
        batch = stream(step)
        if batch.mask.sum() < 10:
            over += [i for i in which(batch) if i >= 0]
    assert len(over) == 200
    assert 70 < sum(i < 50 for i in over) < 130


def test_few_shapes():
    pairs = make(3000, longest=40)
    for quantum, bound in ((8, 5), (16, 3), (40, 1)):
        stream = PairStream(pairs, 16, seed=0, pool=20, quantum=quantum)
        shapes = {stream(step).left.shape for step in range(2 * stream.steps_per_epoch)}
        assert len(shapes) <= bound
        assert all(steps % quantum == 0 and rows == 16 for steps, rows in shapes)


def test_faulty_numbers():
    pairs = make(10)
    for kwargs in ({"batch": 0}, {"quantum": 0}, {"pool": 0}, {"seed": -1}):
        with pytest.raises(UserError, match=f"{next(iter(kwargs))} -?[01]"):
            PairStream(pairs, **{"batch": 4, "seed": 0, **kwargs})
    with pytest.raises(UserError, match="batch 0"):
        EvaluationPairs(pairs, 0)
    for stream in (lambda p: PairStream(p, 4, 0), lambda p: EvaluationPairs(p, 4)):
        with pytest.raises(UserError, match="no pairs"):
            stream(make(0))


# EvaluationPairs


@pytest.mark.parametrize("n, batch", [(1, 4), (100, 7), (64, 16)])
def test_evaluation_has_every_pair_once_by_length(n, batch):
    pairs = make(n)
    stream = EvaluationPairs(pairs, batch, quantum=4)
    batches = list(stream)
    assert len(batches) == len(stream) == -(-n // batch)
    rows = [which(b) for b in batches]
    assert stream.order.tolist() == rows
    flat = sum(rows, [])
    assert sorted(flat[:n]) == list(range(n)) and set(flat[n:]) <= {-1}
    assert np.all(np.diff(pairs.lengths[flat[:n]]) >= 0)
    for b in batches:
        assert_rows_hold(b, pairs)
    assert all(map(equal, batches, stream))  # it can be iterated again
    parts = [EvaluationPairs(pairs, batch, 4, rows) for rows in (slice(0, 3), slice(3, None))]
    for *owned, whole in zip(*parts, batches, strict=True):
        joined = (np.concatenate(a, axis=-1) for a in zip(*owned, strict=True))
        assert equal(tuple(joined), whole)


# The published data


def test_published_logic_is_padded_little_and_fast():
    root = os.environ.get("HMRNN_DATA")
    if not root or not os.path.isdir(os.path.join(root, "propositional-logic")):
        pytest.skip("set HMRNN_DATA to a data folder with propositional-logic")
    data = logic.load(root)
    pairs = data.train
    stream = PairStream(pairs, 128, seed=1111)
    assert stream.steps_per_epoch == 953
    stream(0)
    begin = time.perf_counter()
    batches = [stream(step) for step in range(953)]
    assert (time.perf_counter() - begin) / 953 < 2e-3  # measured: 0.1 ms

    symbols = len(pairs.left.ids) + len(pairs.right.ids)
    steps = sum(batch.left.size + batch.right.size for batch in batches)
    assert padding(batches) == pytest.approx(1 - symbols / steps)
    assert sum(batch.mask.sum() for batch in batches) == len(pairs)
    # The shorter sentence of each pair is padded to the longer one, whatever the batches:
    # 38 % of the steps. Batches and quantum may add a tenth to that, not more.
    longer = 2 * pairs.lengths.sum()
    assert 1 - symbols / longer == pytest.approx(0.382, abs=5e-4)
    assert steps / longer < 1.1
    assert padding(batches) < 0.44
    assert len({batch.left.shape for batch in batches}) <= 10
    shapes = {b.left.shape for test in data.test.values() for b in EvaluationPairs(test, 128)}
    assert len(shapes) <= 20
