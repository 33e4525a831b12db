"""CSV files as programs write them: numbers, line ends, columns without a name, the first line."""

import numpy as np
import pytest
from test_signals import raw

from hmrnn_jax.datasets import signals
from hmrnn_jax.errors import UserError


@pytest.mark.parametrize(
    "cell",
    ["2020_01_05", "1_000", "\u0661\u0662", "\uff11", "\u00a01", "0x10", "1,5", "1 000", "--1"],
)
def test_numbers_are_in_plain_notation(tmp_path, cell):
    """`float` alone would read the first five, as other numbers than are meant."""
    path = tmp_path / "log.csv"
    rows = [f"{i};{i}" for i in range(50)]
    path.write_text("\n".join(["time;speed", *rows, f"{cell};50"]), encoding="utf-8")
    with pytest.raises(UserError, match=r"log\.csv, line 52, column time is .*, not a number"):
        signals.load(path)
    assert signals.load(path, columns=("speed",)).splits["test"].lengths.tolist() == [3]


def test_plain_notation(tmp_path):
    cells = ["-1.5e-3", "+2", ".5", "3.", "1E2", " 7 ", '"8"', "00012"] * 5
    (tmp_path / "log.csv").write_text("\n".join(["x", *cells]))
    read = raw(signals.load(tmp_path / "log.csv"), "train")[:8, 0]
    np.testing.assert_allclose(read, [-0.0015, 2, 0.5, 3, 100, 7, 8, 12], atol=1e-4)


def test_only_line_ends_end_lines(tmp_path):
    """A separator in a note would move all that follows by a line, and lose a step or more."""
    notes = [
        "moved\u2028fixed",
        "a\x85b",
        "a\x0cb",
        "x" * 200_000,
        '"a ""b"", c\nd"',
        "5'10\" high",
    ]
    rows = [f"{i},{i % 7},{notes[i % len(notes)]}" for i in range(60)]
    path = tmp_path / "log.csv"
    path.write_bytes("\r\n".join(["time,speed,note", *rows]).encode())
    corpus = signals.load(path, columns=("time", "speed"))
    np.testing.assert_allclose(raw(corpus, "train")[:, 0], np.arange(54), atol=1e-4)
    path.write_bytes("\r".join(["time,speed,note", *rows[:4], "4,fast,", *rows[5:]]).encode())
    with pytest.raises(UserError, match=r"line 6, column speed is 'fast'"):
        signals.load(path, columns=("time", "speed"))


@pytest.mark.parametrize(
    ("header", "row"),
    [
        (",time,speed", "{0},{0},{1}"),  # an index without a name, as pandas writes it
        ("time,speed,", "{0},{1},"),
        ("time,speed,", "{0},{1}"),
        ("time,speed", "{0},{1},"),
        ("time,speed,x,x", "{0},{1},a,b"),
    ],
)
def test_columns_without_a_name_need_not_be_read(tmp_path, header, row):
    rows = [row.format(i, i % 7) for i in range(60)]
    (tmp_path / "log.csv").write_text("\n".join([header, *rows]) + "\n")
    corpus = signals.load(tmp_path / "log.csv", columns=("speed", "time"))
    np.testing.assert_allclose(raw(corpus, "valid"), [[i % 7, i] for i in (54, 55, 56)], atol=1e-4)
    if header != "time,speed":
        with pytest.raises(UserError, match=r"no name: .*data\.columns|two columns called 'x'"):
            signals.load(tmp_path / "log.csv")
    with pytest.raises(UserError, match="two columns called 'x'|no column 'x'"):
        signals.load(tmp_path / "log.csv", columns=("x",))


DOUBT = r"log\.csv, line 1 holds .*: say with data\.header=yes .* data\.header=no"


def with_first_line(path, first):
    path.write_text("\n".join([first, *(f"{i}.5,{i % 7}.25" for i in range(50))]))
    return path


@pytest.mark.parametrize("first", ["0,1", "1,2", "2019,2020", "time,1", "2024-01-01,1.25"])
def test_a_first_line_that_may_be_names_or_a_step_is_refused_until_told(tmp_path, first):
    """Numbered columns, as pandas writes them, columns named by years, a date and a value."""
    path = with_first_line(tmp_path / "log.csv", first)
    with pytest.raises(UserError, match=DOUBT):
        signals.load(path)
    told = signals.load(path, header="yes")
    assert told.scale.columns == tuple(first.split(","))
    np.testing.assert_allclose(raw(told, "train")[:, 0], np.arange(45) + 0.5, atol=1e-4)
    assert signals.load(path, columns=first.split(",")).scale == told.scale
    corpus = signals.load(path, columns=("column2",))
    assert corpus.scale == signals.load(path, header="no", columns=("column2",)).scale
    assert len(corpus.splits["train"].values) == 45 and len(corpus.splits["test"].values) == 3
    assert raw(corpus, "train")[0, 0] == pytest.approx(float(first.split(",")[1]), abs=1e-3)
    with pytest.raises(UserError, match=r"data\.header is 'on'; .* guess, yes, no"):
        signals.load(path, header="on")


def test_a_first_line_without_any_number_names_the_columns(tmp_path):
    path = with_first_line(tmp_path / "log.csv", "time,speed")
    assert signals.load(path).scale == signals.load(path, header="yes").scale
    with pytest.raises(UserError, match="line 1, column column1 is 'time', not a number"):
        signals.load(path, header="no")


@pytest.mark.parametrize("first", ["0.5,1.25", "3,1", "0,0"])
def test_a_first_line_of_numbers_is_a_step(tmp_path, first):
    path = with_first_line(tmp_path / "log.csv", first)
    corpus = signals.load(path)
    assert corpus.scale == signals.load(path, header="no").scale
    assert corpus.scale.columns == ("column1", "column2")
    np.testing.assert_allclose(raw(corpus, "train")[1], [0.5, 0.25], atol=1e-5)


@pytest.mark.parametrize(("first", "told"), [("nan,1.25", "nan"), ("NA,1.25", "'NA', not a num")])
def test_a_missing_number_of_the_first_step_is_not_taken_for_a_name(tmp_path, first, told):
    with pytest.raises(UserError, match=f"line 1, column column1 is {told}"):
        signals.load(with_first_line(tmp_path / "log.csv", first))


def test_one_column_that_begins_with_0(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("\n".join(["0", *(f"{i}.5" for i in range(50))]))
    with pytest.raises(UserError, match=DOUBT):
        signals.load(path)
    assert raw(signals.load(path, header="no"), "train").shape == (45, 1)
    path.write_text("\n".join(["5", *(f"{i}.5" for i in range(50))]))
    assert raw(signals.load(path), "train")[0] == pytest.approx(5, abs=1e-5)
