"""IAM-OnDB's archives to `.npz` and on to a corpus, on made-up forms."""

import io
import re
import tarfile

import numpy as np
import pytest

from hmrnn_jax import cli, commands
from hmrnn_jax.datasets import iam_ondb, iam_ondb_convert
from hmrnn_jax.errors import UserError

# form -> its list; the forms of a list need not follow each other.
FORMS = {
    "b01-020x": "trainset",
    "a01-020x": "trainset",
    "a02-050": "testset_v",
    "a01-000u": "testset_t",
    "a02-000": "testset_f",
}
# Absolute points of the strokes of one line; a point is written twice, as tablets do.
STROKES = [[(458, 1661), (460, 1650), (460, 1650), (470, 1600)], [(462, 1655)], [(900, 2000)] * 2]


def xml(strokes=STROKES):
    rows = ['<?xml version="1.0" encoding="ISO-8859-1"?>', "<WhiteboardCaptureSession>"]
    rows += ['<WhiteboardDescription><SensorLocation corner="top_left"/></WhiteboardDescription>']
    rows += ["<StrokeSet>"]
    for stroke in strokes:
        rows.append('<Stroke colour="black" start_time="1.5" end_time="2.5">')
        rows += [f'<Point x="{x}" y="{y}" time="1.5"/>' for x, y in stroke]
        rows.append("</Stroke>")
    return "\n".join([*rows, "</StrokeSet>", "</WhiteboardCaptureSession>", ""])


def line(form, number, content, root):
    path = root / "lineStrokes" / form[:3] / form[:7] / f"{form}-{number:02d}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, "utf-8")
    return path


def transcript(form, csr, root):
    path = root / "ascii" / form[:3] / form[:7] / f"{form}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("OCR:\n\nan ax 1\nwrong\n\nCSR:\n\n" + "\n".join(csr) + "\n", "utf-8")
    return path


@pytest.fixture
def raw(tmp_path):
    """Five forms of two lines each as unpacked folders, and one form outside the lists."""
    root = tmp_path / "raw"
    for number, form in enumerate([*FORMS, "z01-000"]):
        for part in (1, 2):
            moved = [[(x + number, y + 7 * part * x) for x, y in stroke] for stroke in STROKES]
            line(form, part, xml(moved), root)
        transcript(form, [f"an ox {number}", "", "  two words "], root)
    for file in iam_ondb.FILES:
        forms = [form for form, home in FORMS.items() if home == file]
        (root / f"{file}.txt").write_text("\n".join(f" {form}" for form in forms) + "\n")
    return root


def pack(root, kind):
    """The folder as the official archive, beside hidden files as some systems add them."""
    with tarfile.open(root / f"{kind}-all.tar.gz", "w:gz") as archive:
        for path in sorted((root / kind).rglob("*"), reverse=True):
            archive.add(path, path.relative_to(root), recursive=False)
            if path.is_file():
                hidden = tarfile.TarInfo(f"{kind}/._{path.name}")
                hidden.size = 3
                archive.addfile(hidden, io.BytesIO(b"\0\1\2"))
    for path in sorted((root / kind).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (root / kind).rmdir()


def arrays(folder, file):
    with np.load(folder / f"{file}.npz", allow_pickle=False) as content:
        return dict(content)


def test_one_line_by_hand(raw, tmp_path):
    line("a02-050", 1, xml(), raw)
    iam_ondb_convert.convert(raw, tmp_path / "out")
    got = arrays(tmp_path / "out", "testset_v")
    assert {k: v.dtype.str[1:] for k, v in got.items() if v.dtype.kind != "U"} == {
        "dx": "i2",
        "dy": "i2",
        "pen_up": "u1",
        "length": "i4",
        "origin": "i4",
    }
    assert list(got["id"]) == ["a02-050-01", "a02-050-02"] and list(got["length"]) == [7, 7]
    np.testing.assert_array_equal(got["dx"][:7], [0, 2, 0, 10, -8, 438, 0])
    # y grows downwards, as on the tablet; the step between strokes is an offset like any other.
    np.testing.assert_array_equal(got["dy"][:7], [0, -11, 0, -50, 55, 345, 0])
    np.testing.assert_array_equal(got["pen_up"][:7], [0, 0, 0, 1, 1, 0, 1])
    np.testing.assert_array_equal(got["origin"][0], [458, 1661])
    # The second line starts anew, and its transcript is that of the CSR section.
    assert got["dx"][7] == got["dy"][7] == 0
    assert list(got["text"]) == ["an ox 2", "two words"]


def test_from_archives_to_a_corpus(raw, tmp_path):
    """Folders and archives, both forms of list names: the same files, and the points restored."""
    report = iam_ondb_convert.convert(raw, tmp_path / "folders")
    for kind in ("lineStrokes", "ascii"):
        pack(raw, kind)
    for file in iam_ondb.FILES:
        (raw / f"{file}.txt").rename(raw / f"{file}.forms.txt")
    assert iam_ondb_convert.convert(raw, tmp_path / "archives").sizes == report.sizes
    for file in iam_ondb.FILES:
        one, other = (arrays(tmp_path / name, file) for name in ("folders", "archives"))
        for name in iam_ondb.ARRAYS:
            np.testing.assert_array_equal(one[name], other[name])
    corpus = iam_ondb.load(tmp_path / "archives")
    train = corpus.splits["train"]
    assert train.names == ("a01-020x-01", "a01-020x-02", "b01-020x-01", "b01-020x-02")
    assert train.texts[2:] == ("an ox 0", "two words")
    raw_offsets = corpus.scale.restore(train.values[train.place(3)])
    origin = arrays(tmp_path / "archives", "trainset")["origin"][3]
    expected = [(x, y + 14 * x) for stroke in STROKES for x, y in stroke]
    np.testing.assert_allclose(origin + np.cumsum(raw_offsets, 0), expected, atol=0.01)
    assert list(np.flatnonzero(train.events[train.place(3)])) == [3, 4, 6]


def test_report(raw, tmp_path):
    transcript("a02-000", ["an ox"], raw)
    report = iam_ondb_convert.convert(raw, tmp_path)
    assert report.sizes["trainset"] == (4, 2, 28, 12)
    assert report.sizes["testset_f"] == (2, 1, 14, 6)
    assert report.outside == 2 and not report.faults
    # A line without a transcript is no fault: the official archives have one.
    assert report.untranscribed == ("a02-000-02",)
    assert list(arrays(tmp_path, "testset_f")["text"]) == ["an ox", ""]
    table = report.describe().splitlines()
    assert table[0].split() == ["file", "lines", "forms", "points", "strokes"]
    assert table[1].split() == ["trainset", "4", "2", "28", "12"]
    assert "2 files of forms in no list" in table[5]
    assert "1 lines have no transcript, first a02-000-02" in table[6]


def test_the_command_converts_or_says_in_one_sentence_why_not(raw, tmp_path, capsys):
    out = tmp_path / "out"

    def convert(*flags):
        command = ["hmrnn", "convert", f"--raw={raw}", *flags]
        return cli.status(lambda: commands.execute(command)), capsys.readouterr()

    (tmp_path / "file").touch()
    for where, part in ((f"--output={tmp_path}/file/x", "Not a directory"), ("", "--output")):
        status, said = convert(*filter(None, [where]))
        assert status == 2 and part in said.err and said.err.count("\n") == 1
    line("b01-020x", 1, "", raw)
    status, said = convert(f"--output={out}")
    assert status == 2 and "--skip_broken" in said.err and not out.exists()
    status, said = convert(f"--output={out}", "--skip_broken")
    assert status == 0 and not said.err and len(list(out.iterdir())) == 4
    assert re.search(r"trainset +3 +2 +21 +9\n", said.out) and "skipped: " in said.out


def test_a_byte_order_mark_is_no_part_of_a_transcript(raw, tmp_path):
    path = raw / "ascii" / "a01" / "a01-000" / "a01-000u.txt"
    path.write_text("\ufeffCSR:\n\nan ox\ntwo words\n", "utf-8")
    iam_ondb_convert.convert(raw, tmp_path)
    assert list(arrays(tmp_path, "testset_t")["text"]) == ["an ox", "two words"]


def test_form_without_transcripts(raw, tmp_path):
    (raw / "ascii" / "a01" / "a01-000" / "a01-000u.txt").write_bytes(b"OCR:\n\xff\n")
    (raw / "ascii" / "a02" / "a02-050" / "a02-050.txt").unlink()
    report = iam_ondb_convert.convert(raw, tmp_path)
    assert len(report.untranscribed) == 4
    assert list(arrays(tmp_path, "testset_t")["text"]) == ["", ""]


def test_a_blank_transcript_does_not_move_those_that_follow(raw, tmp_path):
    """Blank rows set rows apart, unless there are too few others for the lines of a form."""
    for number in (3, 4):
        line("a02-050", number, xml(), raw)
    transcript("a02-050", ["first", "", "third\u2028of \x0cit", "fourth", ""], raw)
    transcript("a01-020x", ["", "first", "", "", "second"], raw)
    report = iam_ondb_convert.convert(raw, tmp_path)
    expected = ["first", "", "third\u2028of \x0cit", "fourth"]
    assert list(arrays(tmp_path, "testset_v")["text"]) == expected
    assert list(arrays(tmp_path, "trainset")["text"])[:2] == ["first", "second"]
    assert report.untranscribed == ("a02-050-02",)


BROKEN = {
    "is not XML (mismatched tag: line 10": xml().replace("</Stroke>", "</Strokes>", 1),
    "is not XML (no element found": "",
    "has no points in stroke 2": xml([STROKES[0], [], STROKES[2]]),
    "has 0 points": xml([]),
    "has 1 points": xml([[(1, 2)]]),
    "no whole number": xml([[(1, 2), (3, "x")]]),
    "no whole number (int() argument": xml().replace('y="1650" ', "", 1),
    "moves by 40000, -3 to point 3": xml([[(1, 2), (3, 4), (40_003, 1)]]),
    "moves by 5, -32769 to point 2": xml([[(0, 32_769), (5, 0)]]),
    "beyond int32": xml([[(2**31, 1), (2**31, 2)]]),
    "at 1, 99999999999999999999,": xml([[(1, 99999999999999999999)] * 2]),
}


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("fault", BROKEN)
def test_broken_line_is_named_counted_and_skipped_if_allowed(raw, tmp_path, fault, archive):
    # The first line of a form, whose second must keep its own transcript.
    path = line("b01-020x", 1, BROKEN[fault], raw)
    line("z01-000", 1, BROKEN[fault], raw)  # in no list, hence of no interest
    if archive:
        pack(raw, "lineStrokes")
    out = tmp_path / "out"
    with pytest.raises(UserError, match=re.escape(fault)) as told:
        iam_ondb_convert.convert(raw, out)
    message = str(told.value)
    assert "1 broken lines" in message and "--skip_broken" in message and "\n" not in message
    assert str(path.relative_to(raw)) in message and "(line b01-020x-01)" in message
    assert not out.exists()
    report = iam_ondb_convert.convert(raw, out, skip_broken=True)
    assert len(report.faults) == 1 and "skipped: " in report.describe()
    assert report.sizes["trainset"][:2] == (3, 2)
    got = arrays(out, "trainset")
    assert list(got["id"]) == ["a01-020x-01", "a01-020x-02", "b01-020x-02"]
    assert list(got["text"])[2] == "two words"
    assert len(iam_ondb.load(out).splits["train"]) == 3


def test_largest_offsets_are_kept(raw, tmp_path):
    line("a02-000", 1, xml([[(0, 0), (32_767, -32_768), (-1, -1)]]), raw)
    iam_ondb_convert.convert(raw, tmp_path)
    got = arrays(tmp_path, "testset_f")
    np.testing.assert_array_equal(got["dx"][:3], [0, 32_767, -32_768])
    np.testing.assert_array_equal(got["dy"][:3], [0, -32_768, 32_767])


def test_form_without_lines(raw, tmp_path):
    with (raw / "trainset.txt").open("a") as file:
        file.write("c09-999z\n")
    line("a02-000", 2, "", raw)
    with pytest.raises(UserError, match="2 broken lines or forms without lines; the first: .*a02"):
        iam_ondb_convert.convert(raw, tmp_path)
    report = iam_ondb_convert.convert(raw, tmp_path, skip_broken=True)
    assert "form c09-999z of the list trainset has no lines" in report.faults[1]
    assert report.sizes["trainset"][:2] == (4, 2)


def test_list_of_which_nothing_is_left(raw, tmp_path):
    for part in (1, 2):
        line("a02-050", part, "", raw)
    with pytest.raises(UserError, match="no line of any form in the list testset_v"):
        iam_ondb_convert.convert(raw, tmp_path, skip_broken=True)


def test_form_in_two_lists(raw, tmp_path):
    with (raw / "testset_f.txt").open("a") as file:
        file.write("a01-020x\n")
    with pytest.raises(UserError, match="testset_f.txt: form a01-020x is in the list trainset"):
        iam_ondb_convert.convert(raw, tmp_path)


def test_line_that_is_there_twice(raw, tmp_path):
    line("a01-020x", 1, xml(), raw / "lineStrokes")
    with pytest.raises(UserError, match="line a01-020x-01 is there for the second time"):
        iam_ondb_convert.convert(raw, tmp_path)


@pytest.mark.parametrize("missing", ["testset_t.txt", "lineStrokes", "ascii"])
def test_missing_input(raw, tmp_path, missing):
    (raw / missing).rename(raw / "elsewhere")
    with pytest.raises(UserError, match=missing) as told:
        iam_ondb_convert.convert(raw, tmp_path / "out")
    assert iam_ondb.URL in str(told.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["lineStrokes", "ascii"])
def test_damaged_archive(raw, tmp_path, kind):
    pack(raw, kind)
    path = raw / f"{kind}-all.tar.gz"
    whole = path.read_bytes()
    for content in (b"", b"no archive", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{kind}-all.tar.gz cannot be read"):
            iam_ondb_convert.convert(raw, tmp_path)


def test_archive_cut_off_between_members(tmp_path):
    """A download that broke off is never taken for the whole, wherever it broke off."""
    path, rng = tmp_path / "ascii-all.tar.gz", np.random.default_rng(0)
    with tarfile.open(path, "w:gz") as archive:
        for i in range(3):
            member = tarfile.TarInfo(f"ascii/a0{i}.txt")
            member.size = 900
            archive.addfile(member, io.BytesIO(rng.bytes(900)))
    whole = path.read_bytes()
    assert len(list(iam_ondb_convert._files(tmp_path, "ascii"))) == 3
    for length in range(0, len(whole) - 40, 5):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="cannot be read"):
            list(iam_ondb_convert._files(tmp_path, "ascii"))


def test_nothing_half_is_written(raw, tmp_path, monkeypatch):
    """A failure at the third file leaves the old files as they were, and nothing else."""
    iam_ondb_convert.convert(raw, tmp_path / "out")
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert set(before) == {f"{file}.npz" for file in iam_ondb.FILES}
    line("b01-020x", 1, xml(STROKES[:1]), raw)
    write, calls = np.savez_compressed, []

    def full(file, **arrays):
        calls.append(file)
        if len(calls) == 3:
            raise OSError("no space left on device")
        write(file, **arrays)

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(UserError, match="cannot be written .*no space left"):
        iam_ondb_convert.convert(raw, tmp_path / "out")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize(
    "where, part",
    [
        ("file", "cannot be written"), ("file/x/y", "cannot be written"),
        ("half", "testset_v.npz is a folder"), ("gs://bucket/x", "no folder of this machine"),
    ],
)  # fmt: skip
def test_where_nothing_can_be_written_nothing_is_read(raw, tmp_path, monkeypatch, where, part):
    (tmp_path / "file").write_text("")
    (tmp_path / "half/testset_v.npz").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(iam_ondb_convert, "_read_lists", lambda raw: pytest.fail("is read"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=part):
        iam_ondb_convert.convert(raw, where)
    assert sorted(tmp_path.rglob("*")) == before
