"""Zip, tar and `.npz` files, unpacked in memory and never beyond what it is good for."""

import contextlib
import gzip
import io
import math
import os
import tarfile
import zipfile
import zlib

import numpy as np
from etils import epath

from hmrnn_jax import files
from hmrnn_jax.errors import UserError

_LARGEST_TAR, _MOST_MEMBERS = 8 << 30, 1 << 18  # of which not all is held at a time


def unzip(path, wanted, largest=None):
    """`(name, content)` of the members of a zip whose names are `wanted`, in its order.

    Args:
      wanted: name -> whether to unpack that member.
      largest: bytes of these members in all, by default `files.room()`.

    Raises:
      UserError: no such file, a damaged or encrypted one, a packing that Python does not
        know, too large members.
    """
    try:
        return _members(path, wanted, largest)
    except UserError:
        raise
    except Exception as error:  # zipfile raises what it and its unpackers meet
        raise UserError(
            f"{path} cannot be unpacked ({error}): fetch it anew, or unpack it by other means."
        ) from error


def _members(path, wanted, largest):
    with epath.Path(path).open("rb") as file:
        files.check_size(file.seek(0, os.SEEK_END), path, largest)
        with zipfile.ZipFile(file) as archive:
            members = [m for m in archive.infolist() if wanted(m.filename) and not m.is_dir()]
            files.check_size(sum(member.file_size for member in members), path, largest)
            contents = []
            for member in members:
                if member.flag_bits & 1:
                    raise UserError(f"{path} is encrypted: unpack it with its password first.")
                with archive.open(member) as unpacked:
                    # So many bytes and no more, whatever else is packed there.
                    contents.append((member.filename, unpacked.read(member.file_size)))
            return contents


def check_unpacked(path, largest=None):
    """Raises `UserError` if a file, or what it unpacks to if it is a zip, is too large, or if a zip
    does not tell.

    Args:
      largest: bytes, by default `files.room()`.
    """
    with epath.Path(path).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        try:
            with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(file) as archive:
                size = max(size, sum(member.file_size for member in archive.infolist()))
        except (NotImplementedError, UnicodeDecodeError) as error:  # which others may unpack
            raise UserError(f"{path} is a damaged archive ({error}): fetch it anew.") from error
    files.check_size(size, path, largest)


def untar(path, wanted, largest=None):
    """Yields `(name, content)` of the files of a `.tar.gz` whose names are `wanted`.

    Each is read as it comes, so that the archive is decompressed once.

    Args:
      wanted: name -> whether to unpack that member.
      largest: bytes of each of these, by default `files.room()`.

    Raises:
      UserError: no such file, a damaged or cut-off one, too large or too many members.
    """
    try:
        # Not the stream mode `r|gz`, which takes a download that was cut off for the whole.
        with (
            epath.Path(path).open("rb") as raw,
            gzip.open(raw) as unpacked,
            tarfile.open(fileobj=(bounded := _Bounded(unpacked, path)), mode="r:") as archive,
        ):
            size = 0
            for number, member in enumerate(archive, 1):
                size += member.size
                files.check_size(size, path, _LARGEST_TAR)
                if number > _MOST_MEMBERS:
                    raise UserError(f"{path} holds more than {_MOST_MEMBERS:,} files: unpack it.")
                if member.isfile() and wanted(member.name):
                    files.check_size(member.size, f"{path}: {member.name}", largest)
                    yield member.name, archive.extractfile(member).read()
            if bounded.last != bytes(tarfile.BLOCKSIZE):  # at a damaged header it ends in silence
                raise tarfile.ReadError("it has no end")
            while unpacked.read(1 << 20):  # to the checksum, which stands after the end
                pass
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise UserError(f"{path} cannot be read ({error}): fetch it anew.") from error


class _Bounded:
    """A file of which no more than `files.room()` is read at once, whatever a header claims.

    `last` is what was read last.
    """

    def __init__(self, file, name):
        self._file, self._name, self.last = file, name, b""

    def read(self, size):
        files.check_size(size, self._name)
        self.last = self._file.read(size)
        return self.last

    def __getattr__(self, name):
        return getattr(self._file, name)


def read_npz(path, largest=None):
    """`{name: array}` of an `.npz` file; arrays cannot be written to, and none holds objects.

    What is no array is one of bytes. Nothing is allocated that the file does not hold, whatever
    the headers of its arrays claim.

    Raises:
      UserError: as `unzip`, or a header that does not fit its array.
    """
    try:
        return {
            name.removesuffix(".npy"): _array(content)
            if name.endswith(".npy")
            else np.array(content)
            for name, content in _members(path, lambda name: True, largest)
        }
    except UserError:
        raise
    except Exception as error:  # zipfile and NumPy raise what they meet
        reason = getattr(error, "strerror", None) or error
        with contextlib.suppress(OSError), epath.Path(path).open("rb") as file:
            if file.read(6) == b"\x93NUMPY":
                reason = "it is a single array without a name"
        raise UserError(
            f"{path} cannot be read as an .npz file of numbers ({reason}): write it with np.savez."
        ) from error


def write_npz(file, arrays):
    """Writes `{name: array}` as an `.npz` file, also names that are arguments of `numpy.savez`."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.asanyarray(array), allow_pickle=False)
            archive.writestr(f"{name}.npy", content.getvalue())


def _array(content):
    """The array of a `.npy` file, as a view of its bytes."""
    file = io.BytesIO(content)
    # Version 3 is for names in structures, of which there are none here.
    versions = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(file)
    if version not in versions:
        raise ValueError(f"an array of the format's version {version}")
    shape, fortran, dtype = versions[version](file)
    if dtype.hasobject:
        raise ValueError("an array of Python objects")
    start, count = file.tell(), math.prod(shape)
    if count * dtype.itemsize != len(content) - start or count > len(content):
        raise ValueError(f"a header claims {dtype} of shape {shape}, which is not what follows")
    if not count:
        return np.zeros(shape, dtype)
    values = np.frombuffer(content, dtype, count, start)
    return values.reshape(shape, order="F" if fortran else "C")
