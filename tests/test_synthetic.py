"""Made-up sequences: regimes measured from the signal alone, strokes and words from the points."""

import dataclasses

import numpy as np
import pytest

from hmrnn_jax.datasets import synthetic
from hmrnn_jax.datasets.splits import SPLITS
from hmrnn_jax.errors import UserError


def raw(corpus, split):
    """The values of a split as they were before they were standardised."""
    return corpus.scale.restore(corpus.splits[split].values)


def same(a, b):
    """Whether two splits are equal in every field."""
    return all(
        np.array_equal(getattr(a, field.name), getattr(b, field.name))
        for field in dataclasses.fields(a)
    )


@pytest.mark.parametrize("make", [synthetic.oscillators, synthetic.scribbles])
def test_the_seed_decides_all(make):
    one, again, other = make(3, (6, 3, 2)), make(3, (6, 3, 2)), make(4, (6, 3, 2))
    for split in SPLITS:
        assert same(one.splits[split], again.splits[split])
        assert not same(one.splits[split], other.splits[split])
    assert one.scale == again.scale
    assert [len(one.splits[split]) for split in SPLITS] == [6, 3, 2]
    assert "seed 3" in one.source


@pytest.mark.parametrize("make", [synthetic.oscillators, synthetic.scribbles])
def test_splits_do_not_depend_on_each_other(make):
    few, many = make(0, (3, 4, 4)), make(0, (9, 4, 4))
    for split in SPLITS[1:]:
        np.testing.assert_allclose(raw(few, split), raw(many, split), atol=1e-3)
    # Nor are they copies: no sequence of the test split begins like one of the others.
    starts = {
        s: [tuple(raw(many, s)[i : i + 20].round(2).ravel()) for i in range(9)] for s in SPLITS
    }
    assert not set(starts["train"]) & set(starts["test"])
    assert not set(starts["valid"]) & set(starts["test"])
    assert not np.allclose(raw(make(1, (4, 4, 4)), "train")[:20], raw(few, "valid")[:20], atol=0.1)


@pytest.mark.parametrize("make", [synthetic.oscillators, synthetic.scribbles])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1,), "seed is -1"),
        ((0, (4, 0, 4)), r"\(4, 0, 4\).*three numbers from 1"),
        ((0, (4, 4)), "three numbers"),
    ],
)
def test_errors(make, arguments, message):
    with pytest.raises(UserError, match=message):
        make(*arguments)


def test_oscillator_errors():
    with pytest.raises(UserError, match="noise of the oscillators is -0.1"):
        synthetic.oscillators(noise=-0.1)
    with pytest.raises(UserError, match="shorter than two steps"):
        synthetic.oscillators(0, (4, 4, 4), steps=1)


# Oscillators


@pytest.fixture(scope="module")
def quiet():
    """Oscillators without noise."""
    return synthetic.oscillators(seed=1, sequences=(60, 5, 5), steps=400, noise=0.0)


def segments(part, i):
    """First and last step of each segment of sequence i; the last one is cut by its end."""
    ends = np.flatnonzero(part.changes[part.place(i)])
    starts = np.concatenate([[0], ends + 1])
    return list(zip(starts, [*ends, part.lengths[i] - 1], strict=True))


def period(signal):
    """The smallest lag after which a signal [T, 2] repeats itself; 0 if there is none."""
    for lag in range(1, len(signal) - 1):
        if np.abs(signal[lag:] - signal[:-lag]).max() < 1e-3:
            return lag
    return 0


def test_regimes_last_20_to_60_steps(quiet):
    part = quiet.splits["train"]
    cut = [segments(part, i) for i in range(len(part))]
    lengths = [stop - start + 1 for one in cut for start, stop in one[:-1]]
    assert min(lengths) == 20 and max(lengths) == 60
    assert 38 < np.mean(lengths) < 42
    assert all(one[-1][1] - one[-1][0] + 1 <= 60 for one in cut)


def test_changes_are_where_the_frequency_changes(quiet):
    part, values = quiet.splits["train"], raw(quiet, "train")
    following, broken = {}, []
    for i in range(len(part)):
        signal, before = values[part.place(i)], None
        for start, stop in segments(part, i):
            if stop - start + 1 < 20:  # the end of the sequence, too short to measure
                continue
            now = period(signal[start : stop + 1])
            assert now in (5, 9, 16) and now != before
            if before:
                following.setdefault(before, []).append(now)
            if stop + 1 < len(signal):  # one step further, and it no longer repeats itself
                broken.append(period(signal[start : stop + 2]) != now)
            before = now
    assert all(broken)
    for others in following.values():
        share = np.mean(np.array(others) == min(others))
        assert len(set(others)) == 2 and 0.3 < share < 0.7


def test_columns_are_a_quarter_of_a_cycle_apart(quiet):
    part, values = quiet.splits["train"], raw(quiet, "train")
    seen = 0
    for i in range(20):
        for start, stop in segments(part, i)[:-1]:
            signal = values[part.place(i)][start : stop + 1]
            if period(signal) == 16:
                np.testing.assert_allclose(signal[:-4, 1], signal[4:, 0], atol=1e-4)
                seen += 1
    assert seen > 20


def test_noise_is_added_to_the_same_signal():
    quiet = synthetic.oscillators(2, (20, 2, 2), noise=0.0)
    noisy = synthetic.oscillators(2, (20, 2, 2), noise=0.3)
    assert np.array_equal(quiet.splits["train"].changes, noisy.splits["train"].changes)
    noise = raw(noisy, "train") - raw(quiet, "train")
    np.testing.assert_allclose(noise.std(axis=0), 0.3, rtol=0.05)
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=0.02)
    # White: what one step holds says nothing about the next.
    assert abs(np.mean(noise[1:] * noise[:-1])) < 0.01


def test_oscillators_form():
    corpus = synthetic.oscillators(0, (3, 2, 2), steps=90)
    part = corpus.splits["train"]
    assert part.values.shape == (270, 2) and part.values.dtype == np.float32
    assert part.lengths.tolist() == [90] * 3 and part.events is None and part.texts is None
    assert not part.changes.reshape(3, 90)[:, -1].any()
    assert corpus.scale.columns == ("first", "second") and corpus.scale.event == ""


# Scribbles


@pytest.fixture(scope="module")
def written():
    return synthetic.scribbles(seed=5, lines=(120, 10, 10))


def words_of(corpus, split="train"):
    """Each word of a split: its text and its strokes, points [n, 2] in tablet units."""
    part, values = corpus.splits[split], raw(corpus, split).round()
    for i in range(len(part)):
        points = np.cumsum(values[part.place(i)], axis=0)
        pen_up, changes = part.events[part.place(i)], part.changes[part.place(i)]
        bounds = np.concatenate([[0], np.flatnonzero(changes) + 1])
        texts = part.texts[i].split(" ")
        for text, start, stop in zip(texts, bounds[:-1], bounds[1:], strict=True):
            inside = np.flatnonzero(pen_up[start:stop]) + 1
            assert inside[-1] == stop - start
            yield text, np.split(points[start:stop], inside[:-1])


def test_scribbles_have_the_form_of_iam_ondb(written):
    assert written.scale.columns == ("dx", "dy") and written.scale.event == "pen_up"
    for split in SPLITS:
        part, values = written.splits[split], raw(written, split)
        np.testing.assert_allclose(values, values.round(), atol=0.01)
        assert not values[part.offsets[:-1]].round().any()
        assert part.lengths.min() >= 100 and part.lengths.max() <= 300
        assert part.events[part.offsets[1:] - 1].all() and part.changes[part.offsets[1:] - 1].all()
        assert part.events[part.changes].all()
        assert part.events.dtype == np.uint8 and part.changes.dtype == bool


def test_words_are_those_of_the_transcript(written):
    part = written.splits["train"]
    for i, text in enumerate(part.texts):
        assert part.changes[part.place(i)].sum() == len(text.split(" "))
        assert all(2 <= len(word) <= 5 for word in text.split(" "))
    assert set("".join(part.texts)) == set("elnuwayti ")


def test_strokes_end_where_the_pen_is_lifted(written):
    part, values = written.splits["train"], raw(written, "train")
    moves = np.hypot(*values.T)
    lifted = np.concatenate([[True], part.events[:-1] == 1])  # a move after a lifted pen
    first = np.zeros(len(moves), bool)
    first[part.offsets[:-1]] = True
    drawn = moves[~lifted]
    assert drawn.max() < 70 and drawn.std() < 0.3 * drawn.mean()
    between = moves[lifted & ~first]
    assert np.mean(between > drawn.max()) > 0.9 and np.median(between) > 3 * drawn.max()


def test_bars_and_dots_follow_their_word(written):
    for text, strokes in words_of(written):
        marks = [letter for letter in text if letter in "ti"]
        assert len(strokes) == 1 + len(marks)
        for letter, stroke in zip(marks, strokes[1:], strict=True):
            width = np.ptp(stroke[:, 0])
            assert (60 < width < 160) if letter == "t" else width < 40
        order = [stroke[:, 0].mean() for stroke in strokes[1:]]
        assert order == sorted(order)


def test_letters_reach_up_and_down_as_they_should(written):
    up, down, wide = {True: [], False: []}, {True: [], False: []}, {}
    for text, (body, *_) in words_of(written):
        y = body[:, 1] - body[0, 1]  # grows downwards
        up["l" in text or "t" in text].append(-y.min())
        down["y" in text].append(y.max())
        wide.setdefault(len(text), []).append(np.ptp(body[:, 0]))
    assert np.mean(up[True]) > 1.7 * np.mean(up[False])
    assert np.mean(down[True]) > 3 * np.mean(down[False])
    widths = [np.mean(wide[n]) for n in sorted(wide)]
    assert widths == sorted(widths)


def test_words_stand_from_left_to_right(written):
    previous = None
    for _, (body, *_) in words_of(written):
        if body[0].any():  # not the first word of a line
            assert body[:, 0].min() > previous - 100
        previous = body[:, 0].max()
