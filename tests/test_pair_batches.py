"""Batches of sentence pairs: purity, coverage, packing, resets, processes, devices, shapes."""

import os

import jax
import numpy as np
import pytest

from hmrnn_jax import recurrence
from hmrnn_jax.batches.pairs import EvaluationPairs, PairBatch, PairStream, packed, padding
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


def longer(pairs: Pairs) -> np.ndarray:
    """The length of the longer sentence of each pair."""
    return np.maximum(pairs.left.lengths, pairs.right.lengths)


def ends(batch: PairBatch, side: str, devices: int = 1) -> list:
    """Step and row, of the whole batch, of the last symbol of each pair's sentence."""
    own = len(batch.mask) // devices
    steps, rows = getattr(batch, side)
    return [
        (int(t), int(row) + b // own * own)
        for b, (t, row) in enumerate(zip(steps, rows, strict=True))
    ]


def which(batch: PairBatch, devices: int = 1) -> list[int]:
    """The pairs of a batch in their order, -1 for a filler."""
    found = []
    both = zip(ends(batch, "left", devices), ends(batch, "right", devices), strict=True)
    for real, (left, right) in zip(batch.mask, both, strict=True):
        if real:
            found.append(-int(batch.ids[left]) - 1000)
            assert batch.ids[right] == -5000 - found[-1]
        else:
            found.append(-1)
    return found


def assert_rows_hold(batch: PairBatch, pairs: Pairs, devices: int = 1) -> None:
    """Each sentence lies in one row, up to its end; every other step is padding."""
    seen, number = np.zeros(batch.ids.shape, int), 0
    for side in ("left", "right"):
        places = ends(batch, side, devices)
        for i, (t, row) in zip(which(batch, devices), places, strict=True):
            if i < 0:
                continue
            sentence = getattr(pairs, side)[i].tolist()
            span = slice(t + 1 - len(sentence), t + 1), row
            assert batch.ids[span].tolist() == sentence
            assert batch.resets[span].tolist() == [True] + [False] * (len(sentence) - 1)
            assert batch.numbers[span].tolist() == [*range(number, number + len(sentence))]
            number += len(sentence)
            seen[span] += 1
    assert seen.max() <= 1
    padded = seen == 0
    assert batch.resets[padded].all() and not batch.ids[padded].any()
    assert (batch.numbers[padded] == -1).all()
    labels = [0 if i < 0 else pairs.labels[i] for i in which(batch, devices)]
    assert batch.labels.tolist() == labels


def equal(one, other) -> bool:
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(one, other, strict=True))


# PairStream


def test_a_batch_by_hand():
    pairs = Pairs.of([[7, 8, 9], [3]], [[5], [4, 6]], [2, 5])
    (batch,) = EvaluationPairs(pairs, batch=3, quantum=4)
    # The longest has a row of its own, then that of two, then those of one.
    assert batch.ids.T.tolist() == [[7, 8, 9, 0], [4, 6, 0, 0], [3, 5, 0, 0]]
    assert batch.numbers.T.tolist() == [[0, 1, 2, -1], [5, 6, -1, -1], [3, 4, -1, -1]]
    assert batch.resets.T.tolist() == [
        [True, False, False, True], [True, False, True, True], [True, True, True, True],
    ]  # fmt: skip
    assert batch.left.T.tolist() == [[2, 0], [0, 2], [0, 0]]
    assert batch.right.T.tolist() == [[1, 2], [1, 1], [0, 0]]
    assert batch.labels.tolist() == [2, 5, 0] and batch.mask.tolist() == [1, 1, 0]
    dtypes = [np.int32, np.int32, bool, np.int32, np.int32, np.int32, np.float32]
    assert [a.dtype for a in batch] == dtypes
    assert padding([batch]) == pytest.approx(1 - 7 / 12)


@pytest.mark.parametrize("n", [1, 31, 32, 33, 400])
@pytest.mark.parametrize("devices, quantum", [(1, 1), (2, 4), (8, 8)])
def test_every_pair_once_an_epoch(n, devices, quantum):
    pairs = make(n)
    stream = PairStream(pairs, 8, seed=3, devices=devices, quantum=quantum)
    assert stream.steps_per_epoch == -(-n // 8)
    for epoch in range(3):
        begin = epoch * stream.steps_per_epoch
        seen = []
        for step in range(begin, begin + stream.steps_per_epoch):
            assert stream.epoch(step) == epoch
            batch = stream(step)
            assert_rows_hold(batch, pairs, devices)
            here = [i for i in which(batch, devices) if i >= 0]
            filled = np.flatnonzero((batch.numbers >= 0).any(axis=1))[-1] + 1
            assert len(batch.ids) == -(-filled // quantum) * quantum
            assert filled >= longer(pairs)[here].max()
            assert len(batch.mask) == 8
            seen += here
        assert sorted(seen) == list(range(n))


def test_a_batch_is_a_pure_function_of_the_step():
    pairs = make(300)
    stream = PairStream(pairs, 16, seed=5)
    forward = [stream(step) for step in range(60)]  # more than three epochs
    again, used = PairStream(pairs, 16, seed=5), PairStream(pairs, 16, seed=5)
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


def test_neighbours_and_padding_leave_no_trace_in_the_recurrence():
    # The state after each sentence of a batch is that of the sentence read alone.
    random = np.random.default_rng(0)
    lists = [[random.integers(1, 6, length) for length in lengths] for lengths in ((1, 6), (6, 1))]
    pairs = Pairs.of(*lists, [0, 1])
    config = lstm.Config(3, 4, forget_bias=1.0)
    params = lstm.init(jax.random.key(0), config)
    table = random.normal(size=(6, 3)).astype(np.float32)

    def hidden(ids, resets=None):
        state = recurrence.initial_state(config, ids.shape[1])
        out = recurrence.unroll(config, params, state, table, table_ids=ids, resets=resets)
        return out.states.h

    stream = EvaluationPairs(pairs, 3, quantum=8)
    (batch,) = stream
    together = hidden(batch.ids, batch.resets)
    for side in ("left", "right"):
        for place, i in zip(ends(batch, side), stream.order[0][:2], strict=False):
            alone = hidden(getattr(pairs, side)[i][:, None])[-1, 0]
            np.testing.assert_allclose(together[place], alone, rtol=1e-5, atol=1e-6)


def test_what_a_caller_does_to_a_batch_stays_its_own():
    stream = PairStream(make(40), 8, seed=0)
    kept = PairBatch(*(a.copy() for a in stream(2)))
    for array in stream(2):
        array[:] = 1
    assert equal(stream(2), kept)


def test_processes_together_have_the_whole_batch():
    pairs = make(205)
    whole = PairStream(pairs, 12, seed=2, devices=6)
    parts = [PairStream(pairs, 12, 2, rows, devices=6) for rows in
             (slice(0, 4), slice(4, 10), slice(10, 12))]  # fmt: skip
    for step in range(2 * whole.steps_per_epoch):
        batches = [part(step) for part in parts]
        joined = PairBatch(*(np.concatenate(a, axis=-1) for a in zip(*batches, strict=True)))
        assert equal(joined, whole(step))


def test_the_same_pairs_and_numbers_on_any_number_of_devices():
    pairs = make(200)
    streams = {n: PairStream(pairs, 12, seed=2, devices=n) for n in (1, 2, 6)}
    for step in range(20):
        batches = {n: stream(step) for n, stream in streams.items()}
        assert len({tuple(which(batch, n)) for n, batch in batches.items()}) == 1
        by_number = [
            batch.ids[batch.numbers >= 0][np.argsort(batch.numbers[batch.numbers >= 0])].tolist()
            for batch in batches.values()
        ]
        assert by_number[0] == by_number[1] == by_number[2]
        for n, batch in batches.items():
            assert_rows_hold(batch, pairs, n)


def test_batches_are_random_draws_whatever_the_lengths():
    """As in the ON-LSTM authors' program: long and short pairs lie in the same batch."""
    pairs = make(64 * 16, longest=60)
    stream = PairStream(pairs, 16, seed=0)
    lengths = longer(pairs)
    spreads = [np.std(lengths[which(stream(step))]) for step in range(64)]
    assert np.mean(spreads) == pytest.approx(np.std(lengths), rel=0.1)


def test_sentences_are_packed_the_longest_first():
    starts, rows = packed(np.array([[5, 1, 2], [4, 3, 0]]))
    # 5, 4, 3 begin rows 0, 1, 2; then 2 follows 3, and 1 the 4, the first of two rows as full.
    assert starts.tolist() == [[0, 4, 3], [0, 0, 5]]
    assert rows.tolist() == [[0, 1, 2], [1, 2, 0]]


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
    for quantum, bound in ((8, 5), (16, 3), (80, 1)):
        stream = PairStream(pairs, 16, seed=0, quantum=quantum)
        shapes = {stream(step).ids.shape for step in range(2 * stream.steps_per_epoch)}
        assert len(shapes) <= bound
        assert all(steps % quantum == 0 and rows == 16 for steps, rows in shapes)


def test_faulty_numbers():
    pairs = make(10)
    for kwargs in ({"batch": 0}, {"quantum": 0}, {"seed": -1}):
        with pytest.raises(UserError, match=f"{next(iter(kwargs))} -?[01]"):
            PairStream(pairs, **{"batch": 4, "seed": 0, **kwargs})
    with pytest.raises(UserError, match="batch 4 .* multiple of its 3 devices"):
        PairStream(pairs, 4, 0, devices=3)
    with pytest.raises(UserError, match="batch 0"):
        EvaluationPairs(pairs, 0)
    for stream in (lambda p: PairStream(p, 4, 0), lambda p: EvaluationPairs(p, 4)):
        with pytest.raises(UserError, match="no pairs"):
            stream(make(0))


# EvaluationPairs


@pytest.mark.parametrize("n, batch", [(1, 4), (100, 7), (64, 16)])
def test_evaluation_has_every_pair_once_in_order(n, batch):
    pairs = make(n)
    stream = EvaluationPairs(pairs, batch, quantum=4)
    batches = list(stream)
    assert len(batches) == len(stream) == -(-n // batch)
    rows = [which(b) for b in batches]
    assert stream.order.tolist() == rows
    flat = sum(rows, [])
    assert flat[:n] == list(range(n)) and set(flat[n:]) <= {-1}
    for b in batches:
        assert_rows_hold(b, pairs)
    assert all(map(equal, batches, stream))  # it can be iterated again
    parts = [EvaluationPairs(pairs, batch, r, quantum=4) for r in (slice(0, 3), slice(3, None))]
    for *owned, whole in zip(*parts, batches, strict=True):
        joined = (np.concatenate(a, axis=-1) for a in zip(*owned, strict=True))
        assert equal(tuple(joined), whole)


# The published data


def test_published_logic_is_padded_little():
    root = os.environ.get("HMRNN_DATA")
    if not root or not os.path.isdir(os.path.join(root, "propositional-logic")):
        pytest.skip("set HMRNN_DATA to a data folder with propositional-logic")
    data = logic.load(root)
    pairs = data.train
    stream = PairStream(pairs, 128, seed=1111)
    assert stream.steps_per_epoch == 953
    batches = [stream(step) for step in range(953)]

    symbols = len(pairs.left.ids) + len(pairs.right.ids)
    steps = sum(batch.ids.size for batch in batches)
    assert padding(batches) == pytest.approx(1 - symbols / steps)
    assert sum(batch.mask.sum() for batch in batches) == len(pairs)
    # Padded to the longest of its batch, 62 % of what is read would be padding; even with the
    # longer sentence of its own pair alone, 38 %.
    assert 1 - symbols / (2 * longer(pairs).sum()) == pytest.approx(0.382, abs=5e-4)
    assert padding(batches) < 0.25
    assert len({batch.ids.shape for batch in batches}) <= 4
    shapes = {b.ids.shape for test in data.test.values() for b in EvaluationPairs(test, 128)}
    assert len(shapes) <= 20
