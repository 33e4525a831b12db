"""Archives: what they claim is believed no further than the memory is good for."""

import gzip
import io
import tarfile
import zipfile

import numpy as np
import pytest

from hmrnn_jax import archives, files
from hmrnn_jax.errors import UserError


def every(name):
    return True


@pytest.fixture
def small(monkeypatch):
    """A machine whose memory is good for 5,000 bytes."""
    monkeypatch.setattr(files, "room", lambda: 5000)


# Zip


def test_wanted_members_of_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("folder.txt")
        for name in ("b.txt", "a.txt", "c.bin"):
            archive.writestr(name, name * 10)
    found = archives.unzip(tmp_path / "a.zip", lambda name: name.endswith("txt"))
    assert found == [("b.txt", b"b.txt" * 10), ("a.txt", b"a.txt" * 10)]
    with pytest.raises(UserError, match=r"none\.zip cannot be unpacked"):
        archives.unzip(tmp_path / "none.zip", every)


def test_a_zip_that_unpacks_to_too_much_is_refused(tmp_path, small):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("large.bin", bytes(1 << 20))
        archive.writestr("small.txt", "text")
    with pytest.raises(UserError, match=r"bomb\.zip holds more than 5,000 bytes"):
        archives.unzip(path, every)
    assert archives.unzip(path, lambda name: name == "small.txt") == [("small.txt", b"text")]
    # One that claims to be small is unpacked no further than that.
    content = bytearray(path.read_bytes())
    for place in (22, content.index(b"PK\x01\x02") + 24):
        content[place : place + 4] = (100).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bomb\.zip cannot be unpacked \(Bad CRC"):
        archives.unzip(path, every)


# Tar


def packed(path, *members):
    """A `.tar.gz` of (`TarInfo`, content)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))
    path.write_bytes(gzip.compress(buffer.getvalue()))
    return path


def member(name, size, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info


def test_what_other_readers_unpack_is_measured_before(tmp_path, small):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(1 << 20))
    assert (tmp_path / "bomb.pt").stat().st_size < 5000
    (tmp_path / "plain.pt").write_bytes(bytes(5001))
    for name in ("bomb", "plain"):
        with pytest.raises(UserError, match=f"{name}.pt holds more than .* bytes"):
            archives.check_unpacked(tmp_path / f"{name}.pt")
    (tmp_path / "small.pt").write_bytes(b"PK no zip")
    archives.check_unpacked(tmp_path / "small.pt")
    # One byte of the directory: the version that unpacks it, and a name that is no UTF-8.
    with zipfile.ZipFile(tmp_path / "small.pt", "w") as archive:
        archive.writestr("é", bytes(10))
    content = (tmp_path / "small.pt").read_bytes()
    at = content.index(b"PK\x01\x02")
    for place, byte in ((at + 6, 99), (content.index("é".encode(), at), 0xFF)):
        damaged = content[:place] + bytes([byte]) + content[place + 1 :]
        (tmp_path / "small.pt").write_bytes(damaged)
        with pytest.raises(UserError, match="small.pt is a damaged archive"):
            archives.check_unpacked(tmp_path / "small.pt")


def test_wanted_members_of_a_tar(tmp_path):
    members = [(member(name, 5), name.encode()) for name in ("b.txt", "a.bin", "c.txt")]
    path = packed(tmp_path / "a.tar.gz", (member("d.txt", 0, tarfile.DIRTYPE), b""), *members)
    found = list(archives.untar(path, lambda name: name.endswith("txt")))
    assert found == [("b.txt", b"b.txt"), ("c.txt", b"c.txt")]


def test_a_tar_that_unpacks_to_too_much_is_refused(tmp_path, small, monkeypatch):
    path = packed(tmp_path / "a.tar.gz", (member("a.txt", 1 << 20), bytes(1 << 20)))
    with pytest.raises(UserError, match=r"a\.tar\.gz: a\.txt holds more than 5,000 bytes"):
        list(archives.untar(path, every))
    assert list(archives.untar(path, lambda name: False)) == []
    monkeypatch.setattr(archives, "_LARGEST_TAR", 1 << 19)
    with pytest.raises(UserError, match=r"a\.tar\.gz holds more than 524,288 bytes"):
        list(archives.untar(path, lambda name: False))
    path = packed(tmp_path / "b.tar.gz", *[(member(f"{i}.txt", 0), b"") for i in range(4)])
    monkeypatch.setattr(archives, "_MOST_MEMBERS", 3)
    with pytest.raises(UserError, match=r"b\.tar\.gz holds more than 3 files"):
        list(archives.untar(path, every))


def test_a_damaged_tar_is_not_taken_for_the_whole(tmp_path):
    """Its checksum stands behind its end; and tarfile ends in silence at what is no header."""
    members = [(member(f"{i}.txt", 700), bytes([i]) * 700) for i in range(9)]
    path = packed(tmp_path / "a.tar.gz", *members)
    content = path.read_bytes()
    tar, header = gzip.decompress(content), 4 * (512 + 1024)
    assert tar[header : header + 5] == b"4.txt"
    damaged = {
        "checksum": content[:-8] + bytes([content[-8] ^ 1]) + content[-7:],
        "header": gzip.compress(tar[:header] + b"\xff" * 512 + tar[header + 512 :]),
        "cut between members": gzip.compress(tar[:header]),
        "cut in a header": gzip.compress(tar[: header + 200]),
    }
    for what, changed in damaged.items():
        path.write_bytes(changed)
        with pytest.raises(UserError, match=r"a\.tar\.gz cannot be read"):
            raise AssertionError(f"{what}: {len(list(archives.untar(path, every)))}")
    path.write_bytes(content)
    assert len(list(archives.untar(path, every))) == 9


def test_an_npz_may_hold_what_numpy_takes_for_its_own_arguments(tmp_path):
    arrays = {"file": np.arange(3.0), "allow_pickle": np.zeros((2, 2), np.uint8)}
    with open(tmp_path / "a.npz", "wb") as file:
        archives.write_npz(file, arrays)
    with np.load(tmp_path / "a.npz") as found:
        assert set(found) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_of_headers_is_not_read_beyond_the_memory(tmp_path, small, kind):
    header = member("header", 1 << 33, kind).tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(header + bytes(1 << 16)))
    with pytest.raises(UserError, match=r"a\.tar\.gz holds more than 5,000 bytes"):
        list(archives.untar(tmp_path / "a.tar.gz", every))


# Npz


def test_arrays_of_an_npz_are_those_that_numpy_reads(tmp_path):
    arrays = {
        "plain": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
        "scalar": np.array("text"),
        "empty": np.zeros((0, 3)),
        "names": np.array(["a", "bcd"]),
        "bits": np.array([True, False]),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        read = archives.read_npz(tmp_path / "a.npz")
        assert read.keys() == arrays.keys()
        for name, array in arrays.items():
            assert read[name].dtype == array.dtype
            np.testing.assert_array_equal(read[name], array)


def npz_of_header(path, shape, kind):
    """An `.npz` file of one array that has a header and 8 bytes."""
    file = io.BytesIO()
    header = {"shape": shape, "fortran_order": False, "descr": kind}
    np.lib.format.write_array_header_1_0(file, header)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", file.getvalue() + bytes(8))
    return path


@pytest.mark.parametrize(
    ("shape", "kind", "what"),
    [
        ((3 << 36,), "<f8", r"claims float64 of shape \(206158430208,\)"),  # 1.5 TiB
        ((1 << 40, 1 << 40), "<i4", "claims int32"),
        ((1 << 40,), "<U0", "claims <U0"),  # of no bytes, and so many strings
        ((2,), "|O", "Python objects"),
        ((3,), "|i1", "claims int8"),
        ((-1,), "<f8", "claims float64"),
    ],
)
def test_a_header_that_claims_what_is_not_there_is_refused(tmp_path, shape, kind, what):
    path = npz_of_header(tmp_path / "a.npz", shape, kind)
    with pytest.raises(UserError, match=rf"a\.npz cannot be read as an \.npz file .*{what}"):
        archives.read_npz(path)


def test_an_npz_that_unpacks_to_too_much_is_refused(tmp_path, small):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(1000))
    with pytest.raises(UserError, match=r"a\.npz holds more than 5,000 bytes"):
        archives.read_npz(tmp_path / "a.npz")
