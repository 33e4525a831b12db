"""Batches of sequences of different lengths: coverage, order, purity, padding, processes."""

import itertools

import numpy as np
import pytest

from hmrnn_jax.batches.sequences import (
    BucketStream,
    EvaluationSequences,
    SequenceBatch,
    best_ends,
    columns,
)
from hmrnn_jax.datasets.sequences import Sequences
from hmrnn_jax.errors import UserError

FEW = (5, 2, 9)
MANY = tuple(np.random.default_rng(3).integers(2, 70, 75).tolist())


def make(lengths) -> Sequences:
    """Step n of all has the value n + 1, so that a batch tells where each number is from."""
    steps = sum(lengths)
    return Sequences(
        values=np.arange(1, steps + 1, dtype=np.float32)[:, None],
        events=np.random.default_rng(0).integers(0, 2, steps).astype(np.uint8),
        lengths=np.array(lengths, np.int64),
        names=tuple(f"sequence {i}" for i in range(len(lengths))),
    )


def read(batches, sequences) -> list:
    """What the rows read between resets, `(steps, shape)`: lists of steps of `sequences`.

    Each batch must predict the step after each that it reads, and hold zeros elsewhere.
    """
    table, found, rows = columns(sequences), [], None
    for batch in batches:
        mask = batch.mask == 1
        assert (mask | (batch.mask == 0)).all()
        assert not batch.inputs[~mask].any() and not batch.targets[~mask].any()
        place = batch.inputs[..., 0].astype(int) - 1
        np.testing.assert_array_equal(batch.inputs[mask], table[place[mask]])
        np.testing.assert_array_equal(batch.targets[mask], table[place[mask] + 1])
        # A sequence begins in the first step of a window, then in all rows.
        assert not batch.resets[1:].any() and len(set(batch.resets[0])) == 1
        if batch.resets[0, 0]:
            rows = [[] for _ in batch.mask[0]]
            found.append(rows)
        for row, steps in enumerate(rows):
            steps += place[mask[:, row], row].tolist()
            assert (np.diff(batch.mask[:, row]) <= 0).all()  # the padding is at the end
    return found


def epoch(stream, number=0):
    first = number * stream.steps_per_epoch
    return [stream(step) for step in range(first, first + stream.steps_per_epoch)]


def pieces(sequences, longest=0) -> list:
    """All that is read: each sequence's steps but its last, in lists of `longest`."""
    result = []
    for i in range(len(sequences)):
        place = sequences.place(i)
        steps = list(range(place.start, place.stop - 1))
        size = longest or len(steps)
        result += [steps[k : k + size] for k in range(0, len(steps), size)]
    return sorted(result)


def equal(one, other) -> bool:
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(one, other, strict=True))


# BucketStream


def test_a_batch_by_hand():
    sequences = make((4, 2))
    stream = BucketStream(sequences, 3, seed=0, window=2)
    assert stream.steps_per_epoch == 2 and stream.ends.tolist() == [2, 4]
    first, second = stream(0), stream(1)
    order = np.argsort(first.inputs[0, :, 0])[[1, 2, 0]]  # the filler, which reads 0, is last
    first, second = (SequenceBatch(*(a[:, order] for a in batch)) for batch in (first, second))
    assert first.inputs[..., 0].T.tolist() == [[1, 2], [5, 0], [0, 0]]
    assert first.targets[..., 0].T.tolist() == [[2, 3], [6, 0], [0, 0]]
    assert first.mask.T.tolist() == [[1, 1], [1, 0], [0, 0]]
    assert first.resets.T.tolist() == [[True, False]] * 3
    assert second.inputs[..., 0].T.tolist() == [[3, 0], [0, 0], [0, 0]]
    assert second.targets[..., 0].T.tolist() == [[4, 0], [0, 0], [0, 0]]
    assert not second.resets.any()
    assert [a.dtype for a in first] == [np.float32] * 3 + [bool]
    assert stream.padding == pytest.approx(1 - 4 / 12)


@pytest.mark.parametrize("lengths", [(7,), FEW, MANY])
@pytest.mark.parametrize("batch", [1, 4, 16])
@pytest.mark.parametrize("window, longest", [(5, 0), (5, 23), (5, 5), (0, 0), (0, 23)])
def test_every_prediction_once_an_epoch_with_the_state_carried(lengths, batch, window, longest):
    """A row reads one piece from its first step to its last, window after window."""
    sequences = make(lengths)
    expected = pieces(sequences, longest)
    stream = BucketStream(sequences, batch, 1, window=window, buckets=3, longest=longest, quantum=4)
    assert not (stream.ends % (window or 4)).any() and (window or len(stream.ends) <= 3)
    for number in range(2):
        batches = epoch(stream, number)
        assert all(len(b.mask) in ({window} if window else stream.ends) for b in batches)
        assert all(b.inputs.shape == b.targets.shape == (*b.mask.shape, 2) for b in batches)
        rows = read(batches, sequences)
        assert all(len(row) == batch for row in rows)
        assert sorted(filter(None, sum(rows, []))) == expected
        begun = [bool(b.resets[0, 0]) for b in batches]
        assert begun[0] and (window or all(begun))
        # A mean over the steps that count needs one.
        assert all(b.mask.any() for b in batches)
        # The share of padding that is claimed is the one that is read.
        counted, steps = (sum(f(b.mask) for b in batches) for f in (np.sum, np.size))
        assert stream.padding == pytest.approx(1 - counted / steps)


@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("batch", [4, 16, 100])
def test_leftovers_move_up_and_only_the_longest_bucket_has_fillers(window, batch):
    sequences = make(MANY)
    stream = BucketStream(sequences, batch, 2, window=window, buckets=4, quantum=5)
    assert len(stream.ends) == (14 if window else 4)
    for number in range(3):
        batches = epoch(stream, number)
        begins = [n for n, b in enumerate(batches) if b.resets[0, 0]] + [len(batches)]
        ends = [
            sum(len(b.mask) for b in batches[one:next_])
            for one, next_ in itertools.pairwise(begins)
        ]
        rows = read(batches, sequences)
        fillers = [sum(not steps for steps in row) for row in rows]
        assert sum(fillers) == -len(MANY) % batch < batch
        assert {end for end, n in zip(ends, fillers, strict=True) if n} <= {stream.ends[-1]}
        assert sum(n > 0 for n in fillers) <= 1
        # A bucket reads its own pieces and fewer than a batch of shorter ones.
        for shorter, end in itertools.pairwise(stream.ends):
            mine = [
                len(steps) for e, row in zip(ends, rows, strict=True) if e == end for steps in row
            ]
            assert sum(0 < steps <= shorter for steps in mine) < batch
        assert all(max(map(len, row)) <= end for end, row in zip(ends, rows, strict=True))


def test_a_batch_is_a_pure_function_of_the_step():
    sequences = make(MANY)

    def new(seed=5):
        return BucketStream(sequences, 4, seed, window=7, buckets=3)

    stream, again, used = new(), new(), new()
    per_epoch = stream.steps_per_epoch
    forward = [stream(step) for step in range(3 * per_epoch)]
    used(3 * per_epoch - 1)
    for step in np.random.default_rng(0).permutation(len(forward)):
        assert equal(again(step), forward[step])
    for step in (0, 2 * per_epoch, 1, per_epoch - 1, per_epoch, 0):  # to and fro
        assert equal(used(step), forward[step])
    assert [stream.epoch(k) for k in (0, per_epoch - 1, per_epoch)] == [0, 0, 1]
    orders = [read(forward[k * per_epoch :][:per_epoch], sequences) for k in range(3)]
    orders.append(read(epoch(new(6)), sequences))
    orders.append(read(epoch(new(6), 1), sequences))
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])
    kept = [a.copy() for a in forward[3]]
    for array in stream(3):  # what a caller does to a batch stays its own
        array[:] = 1
    assert equal(stream(3), kept)


def test_batches_of_all_lengths_come_in_random_order_with_random_neighbours():
    sequences = make(np.random.default_rng(0).integers(2, 100, 400).tolist())
    stream = BucketStream(sequences, 4, 0, window=0, buckets=8)
    lengths = [len(batch.mask) for batch in epoch(stream)]
    rises, falls = (np.count_nonzero(sign * np.diff(lengths) > 0) for sign in (1, -1))
    assert min(rises, falls) > 30  # of 99 steps; sorted, one of them would be 0
    beside = [{frozenset(s[0] for s in row if s) for row in read(epoch(stream, k), sequences)}
              for k in range(2)]  # fmt: skip
    assert len(beside[0] & beside[1]) < 3


@pytest.mark.parametrize("window", [0, 7])
def test_processes_together_have_the_whole_batch(window):
    sequences = make(MANY)
    settings = {"window": window, "buckets": 3, "longest": 30}
    whole = BucketStream(sequences, 12, 2, **settings)
    cuts = (slice(0, 4), slice(4, 10), slice(10, 12))
    parts = [BucketStream(sequences, 12, 2, rows, **settings) for rows in cuts]
    for step in range(2 * whole.steps_per_epoch):
        owned = zip(*(part(step) for part in parts), strict=True)
        assert equal([np.concatenate(arrays, axis=1) for arrays in owned], whole(step))


def test_sequences_without_events_have_their_values_alone():
    values = np.random.default_rng(0).normal(size=(9, 3))
    sequences = Sequences(values, None, np.array([4, 5]), ("a", "b"))
    batch = BucketStream(sequences, 2, 0, window=0, quantum=1)(0)
    assert batch.inputs.shape == (4, 2, 3) and columns(sequences).dtype == np.float32
    rows = np.argsort(batch.mask.sum(axis=0))  # of 3 and of 4 predictions
    np.testing.assert_array_equal(batch.inputs[:3, rows[0]], values[:3].astype(np.float32))
    np.testing.assert_array_equal(batch.targets[:, rows[1]], values[5:].astype(np.float32))


def test_faulty_numbers():
    sequences = make(FEW)
    for name in ("batch", "buckets", "quantum"):
        with pytest.raises(UserError, match=f"{name} 0 .*1 or more|{name} 0.* 1 or more"):
            BucketStream(sequences, **{"batch": 4, "seed": 0, name: 0})
    for name in ("window", "longest", "seed"):
        with pytest.raises(UserError, match=f"{name} -1"):
            BucketStream(sequences, **{"batch": 4, "seed": 0, name: -1})


# best_ends


def cost(steps, ends):
    """What padding `steps` to the next of `ends` comes to, in all."""
    return sum(min(end for end in ends if end >= length) for length in steps)


@pytest.mark.parametrize("seed", range(20))
def test_ends_are_those_with_the_least_padding(seed):
    """Against every choice of ends among the lengths: no other ends could be better."""
    random = np.random.default_rng(seed)
    steps = random.choice([3, 4, 5, 9, 10, 17, 30, 31, 32], random.integers(1, 30)).tolist()
    lengths = sorted(set(steps))
    for buckets in range(1, 6):
        ends = best_ends(np.array(steps), buckets).tolist()
        assert ends == sorted(set(ends)) and ends[-1] == max(steps) and len(ends) <= buckets
        rest = [itertools.combinations(lengths[:-1], n) for n in range(buckets)]
        least = min(cost(steps, [*some, lengths[-1]]) for some in itertools.chain(*rest))
        assert cost(steps, ends) == least
    assert best_ends(steps, 100).tolist() == lengths


# EvaluationSequences


@pytest.mark.parametrize("lengths", [(2,), FEW, MANY])
@pytest.mark.parametrize("batch", [1, 4, 16])
@pytest.mark.parametrize("window", [1, 7, 200])
def test_evaluation_has_every_prediction_once_from_the_initial_state(lengths, batch, window):
    sequences = make(lengths)
    stream = EvaluationSequences(sequences, batch, window)
    batches = list(stream)
    assert len(batches) == len(stream)
    assert all(b.inputs.shape == (window, batch, 2) for b in batches)
    assert all(b.mask.any() for b in batches)
    assert [a.dtype for a in batches[0]] == [np.float32] * 3 + [bool]
    rows = read(batches, sequences)
    assert all(len(row) == batch for row in rows)
    read_pieces = sum(rows, [])
    assert sorted(filter(None, read_pieces)) == pieces(sequences)
    # By length, so that the rows of a batch are padded little; fillers come last.
    counts = [len(steps) for steps in read_pieces if steps]
    assert counts == sorted(counts) and not any(read_pieces[len(counts) :])
    assert all(map(equal, batches, stream))  # it can be iterated again


def test_evaluation_refuses_faulty_numbers():
    for batch, window in ((0, 5), (5, 0)):
        with pytest.raises(UserError, match=f"batch {batch} and window {window}"):
            EvaluationSequences(make(FEW), batch, window)
