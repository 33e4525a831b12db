"""A user's own sequences: every way to give them."""

import numpy as np
import pytest

from hmrnn_jax.datasets import signals
from hmrnn_jax.datasets.splits import SPLITS
from hmrnn_jax.errors import UserError


def table(seed, steps=20):
    """Two columns of values and an event, [steps, 3], in few digits, so that text is exact."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(steps, 2)) * (2, 0.5) + (10, -3)
    return np.concatenate([values.round(3), rng.integers(0, 2, (steps, 1))], axis=1)


def write_csv(path, values, header="time,speed,brake", mark=","):
    lines = [header.replace(",", mark)] if header else []
    lines += [mark.join(f"{number:g}" for number in row) for row in values]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_npz(path, values, **more):
    np.savez(path, time=values[:, 0], speed=values[:, 1], brake=values[:, 2], **more)


def raw(corpus, split):
    return corpus.scale.restore(corpus.splits[split].values)


def three_each(path):
    """Three sequences in each of the folders train, valid and test."""
    for number, split in enumerate(SPLITS):
        (path / split).mkdir()
        for i in range(3):
            write_csv(path / split / f"run{i}.csv", table(10 * number + i, 20 + i))
    return path


@pytest.fixture
def folder(tmp_path):
    return three_each(tmp_path)


@pytest.fixture
def loose(tmp_path):
    """300 short sequences in one folder."""
    for i in range(300):
        write_csv(tmp_path / f"walk-{i:03}.csv", table(i, 5))
    return tmp_path


# What is read


def test_folders_of_csv(folder):
    corpus = signals.load(folder)
    assert corpus.name == "signals" and corpus.source == str(folder)
    assert corpus.scale.columns == ("time", "speed", "brake") and corpus.scale.event == ""
    for number, split in enumerate(SPLITS):
        part = corpus.splits[split]
        assert part.names == tuple(f"{split}/run{i}.csv" for i in range(3))
        assert part.lengths.tolist() == [20, 21, 22]
        expected = np.concatenate([table(10 * number + i, 20 + i) for i in range(3)])
        np.testing.assert_allclose(raw(corpus, split), expected, atol=1e-5)
        assert part.events is None and part.changes is None and part.texts is None


def test_values_are_standardised_by_training(folder):
    corpus = signals.load(folder, event="brake")
    train = np.concatenate([table(i, 20 + i) for i in range(3)])[:, :2]
    np.testing.assert_allclose(corpus.scale.mean, train.mean(axis=0))
    np.testing.assert_allclose(corpus.scale.deviation, train.std(axis=0))
    values = corpus.splits["train"].values
    assert values.dtype == np.float32
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(values.std(axis=0), 1, atol=1e-5)
    test = np.concatenate([table(20 + i, 20 + i) for i in range(3)])[:, :2]
    expected = (test - train.mean(axis=0)) / train.std(axis=0)
    np.testing.assert_allclose(corpus.splits["test"].values, expected, atol=1e-5)


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("header", ["time,speed,brake", ""])
def test_delimiters_and_headers(folder, mark, header):
    plain = signals.load(folder)
    for number, split in enumerate(SPLITS):
        for i in range(3):
            values = table(10 * number + i, 20 + i)
            write_csv(folder / split / f"run{i}.csv", values, header, mark)
    corpus = signals.load(folder)
    names = ("time", "speed", "brake") if header else ("column1", "column2", "column3")
    assert corpus.scale.columns == names
    for split in SPLITS:
        np.testing.assert_array_equal(corpus.splits[split].values, plain.splits[split].values)


def test_csv_as_programs_write_it(tmp_path):
    rows = "".join(f'"{i}", {i * i}e-1 ,{int(i == 0)}\r\n' for i in range(60))
    content = f'\ufeff"wind, km/h", rain ,x\r\n{rows}\r\n\r\n'
    (tmp_path / "LOG.CSV").write_bytes(content.encode())
    corpus = signals.load(tmp_path / "LOG.CSV")
    assert corpus.scale.columns == ("wind, km/h", "rain", "x")
    np.testing.assert_allclose(raw(corpus, "train")[:, 1], 0.1 * np.arange(54) ** 2, atol=1e-4)
    assert raw(corpus, "train")[:2, 2].round(3).tolist() == [1, 0]


def test_one_column(tmp_path):
    (tmp_path / "one.csv").write_text("\n".join(str(i) for i in range(100)))
    corpus = signals.load(tmp_path / "one.csv")
    assert corpus.scale.columns == ("column1",)
    np.testing.assert_allclose(raw(corpus, "valid")[:, 0], np.arange(90, 95), atol=1e-4)


def test_folders_of_npz(tmp_path):
    for number, split in enumerate(SPLITS):
        (tmp_path / split).mkdir()
        values = table(number, 15)
        write_npz(tmp_path / split / "a.npz", values, mel=np.stack([values[:, 0]] * 2, axis=1) ** 2)
    corpus = signals.load(tmp_path, event="brake")
    assert corpus.scale.columns == ("time", "speed", "mel1", "mel2")
    values = table(2, 15)
    expected = np.stack([*values[:, :2].T, values[:, 0] ** 2, values[:, 0] ** 2], axis=1)
    np.testing.assert_allclose(raw(corpus, "test"), expected, rtol=1e-4)
    np.testing.assert_array_equal(corpus.splits["test"].events, values[:, 2])
    assert corpus.splits["test"].names == ("test/a.npz",)


@pytest.mark.parametrize("kind", ["csv", "npz"])
def test_one_file_is_cut_in_order(tmp_path, kind):
    values, changes = table(0, 130), np.arange(130) % 7 == 6
    if kind == "csv":
        rows = np.concatenate([values, changes[:, None]], axis=1)
        write_csv(tmp_path / "log.csv", rows, "time,speed,brake,changes")
    else:
        write_npz(tmp_path / "log.npz", values, changes=changes)
    corpus = signals.load(tmp_path / f"log.{kind}", event="brake")
    assert corpus.scale.columns == ("time", "speed")
    for split, (start, stop) in zip(SPLITS, [(0, 117), (117, 123), (123, 130)], strict=True):
        part = corpus.splits[split]
        assert part.names == (f"log.{kind}[{start}:{stop}]",)
        assert part.lengths.tolist() == [stop - start]
        np.testing.assert_allclose(raw(corpus, split), values[start:stop, :2], atol=1e-5)
        assert part.events.dtype == np.uint8 and part.changes.dtype == bool
        np.testing.assert_array_equal(part.events, values[start:stop, 2])
        np.testing.assert_array_equal(part.changes, changes[start:stop])


def test_columns_are_taken_in_the_order_given(folder):
    corpus = signals.load(folder, event="brake", columns=["speed", "time"])
    assert corpus.scale.columns == ("speed", "time") and corpus.scale.event == "brake"
    np.testing.assert_allclose(raw(corpus, "train")[:20], table(0)[:, [1, 0]], atol=1e-5)
    # Now files may differ in the others.
    rows = np.concatenate([table(1), np.zeros((20, 1))], axis=1)
    write_csv(folder / "train" / "run1.csv", rows, "time,speed,brake,extra")
    corpus = signals.load(folder, columns=("speed",))
    np.testing.assert_allclose(raw(corpus, "train")[20:40], table(1)[:, 1:2], atol=1e-5)


def test_columns_that_are_not_taken_may_hold_anything(tmp_path):
    lines = [f"2024-01-{i % 28 + 1:02},{i},{i % 5}" for i in range(50)]
    (tmp_path / "log.csv").write_text("\n".join(["day,height,width", *lines]))
    assert signals.load(tmp_path / "log.csv", columns=("width",)).scale.columns == ("width",)
    names, rate = np.array(["x"] * 50), np.float64(16_000)
    np.savez(tmp_path / "log.npz", names=names, rate=rate, width=np.arange(50) % 5)
    assert signals.load(tmp_path / "log.npz", columns=("width",)).scale.columns == ("width",)
    with pytest.raises(UserError, match=r"log\.csv, line 2, column day is '2024-01-01', not a num"):
        signals.load(tmp_path / "log.csv")
    with pytest.raises(UserError, match=r"names of .*log\.npz is an array of <U1 of shape \(50,\)"):
        signals.load(tmp_path / "log.npz")


def test_columns_are_matched_by_name(folder):
    plain = signals.load(folder).splits["valid"]
    write_csv(folder / "valid" / "run1.csv", table(11, 21)[:, [2, 0, 1]], "brake,time,speed")
    np.testing.assert_array_equal(signals.load(folder).splits["valid"].values, plain.values)


def test_clip_is_passed_on(folder):
    write_csv(folder / "test" / "run0.csv", table(20) * (1, 1000, 1))
    corpus = signals.load(folder, clip=4.0)
    assert np.abs(corpus.splits["test"].values).max() == 4
    assert any("clipped at 4" in note for note in corpus.notes)
    with pytest.raises(UserError, match="deviations from the mean"):
        signals.load(folder)


# Which file goes where


def split_of(corpus):
    return {name: split for split in SPLITS for name in corpus.splits[split].names}


def test_files_are_drawn_once_and_about_90_5_5(loose):
    corpus = signals.load(loose)
    names = [name for split in SPLITS for name in corpus.splits[split].names]
    assert len(names) == len(set(names)) == 300 and corpus.notes == ()
    sizes = [len(corpus.splits[split]) for split in SPLITS]
    assert 258 <= sizes[0] <= 282 and min(sizes[1:]) >= 6
    held = [name for name in names if split_of(corpus)[name] != "train"]
    assert held != sorted(names)[-len(held) :]  # by hash, not by order
    for i in range(300):
        part = corpus.splits[split_of(corpus)[f"walk-{i:03}.csv"]]
        place = part.place(part.names.index(f"walk-{i:03}.csv"))
        values = corpus.scale.restore(part.values[place])
        np.testing.assert_allclose(values, table(i, 5), atol=1e-5)


def test_files_stay_in_their_split_when_others_come(loose):
    before = split_of(signals.load(loose))
    for i in range(30):
        write_csv(loose / f"a-new-{i}.csv", table(i, 5))
    (loose / "walk-000.csv").unlink()
    after = split_of(signals.load(loose))
    assert len(after) == 329
    assert all(after[name] == before[name] for name in before if name != "walk-000.csv")


def test_few_files_are_cut_in_order(tmp_path):
    for i in range(3):
        write_npz(tmp_path / f"r{i}.npz", table(i))
    corpus = signals.load(tmp_path)
    assert [corpus.splits[split].names for split in SPLITS] == [
        ("r0.npz",),
        ("r1.npz",),
        ("r2.npz",),
    ]
    assert "3 files are too few" in corpus.describe()


def test_other_files_are_passed_over(folder):
    (folder / "train" / "README.txt").write_text("how it was recorded")
    (folder / "train" / "._run0.csv").write_bytes(b"\x00\x05\x16\x07")
    (folder / "train" / "old.csv").mkdir()
    assert len(signals.load(folder).splits["train"]) == 3
