"""MNIST from IDX files: splits, names, every fault, downloads from a server of our own."""

import functools
import gzip
import hashlib
import http.server
import os
import struct
import threading
import time

import numpy as np
import pytest

from hmrnn_jax.datasets import mnist
from hmrnn_jax.errors import UserError

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
SPLITS = ("train", "valid", "test")


def image_file(images, magic=2051):
    return struct.pack(">4I", magic, *images.shape) + images.tobytes()


def label_file(labels, magic=2049):
    return struct.pack(">2I", magic, len(labels)) + bytes(labels)


@pytest.fixture(scope="module")
def arrays():
    """36 training and 5 test images of noise."""
    rng = np.random.default_rng(0)
    images = {
        "train": rng.integers(0, 256, (36, 28, 28)),
        "t10k": rng.integers(0, 256, (5, 28, 28)),
    }
    return {
        name: (pixels.astype(np.uint8), rng.integers(0, 10, len(pixels)).tolist())
        for name, pixels in images.items()
    }


@pytest.fixture
def contents(arrays):
    return {
        NAMES[0]: image_file(arrays["train"][0]),
        NAMES[1]: label_file(arrays["train"][1]),
        NAMES[2]: image_file(arrays["t10k"][0]),
        NAMES[3]: label_file(arrays["t10k"][1]),
    }


@pytest.fixture
def folder(contents, tmp_path):
    """The files in a user's folder, two of them gzipped."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in NAMES[::2]:
        (folder / name).write_bytes(contents[name])
    for name in NAMES[1::2]:
        (folder / f"{name}.gz").write_bytes(gzip.compress(contents[name]))
    return folder


def publish(monkeypatch, contents):
    """Makes made-up files the published ones."""
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(mnist, "FILES", sums)


# Local files


def test_splits_of_a_users_own_files(folder, arrays):
    """The last twelfth of the training images is for validation, 5,000 of 60,000."""
    data = mnist.load(folder)
    pixels, labels = arrays["train"]
    expected = {
        "train": (pixels[:33], labels[:33]),
        "valid": (pixels[33:], labels[33:]),
        "test": arrays["t10k"],
    }
    assert tuple(data.splits) == SPLITS
    for split, (images, labels) in expected.items():
        part = data.splits[split]
        assert (part.images.dtype, part.labels.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(part.images, images)
        assert part.labels.tolist() == labels and len(part) == len(labels)
    assert data.name == "mnist-modified" and data.source == str(folder)
    assert "mnist-modified" in data.describe() and "train 33, valid 3, test 5" in data.describe()


def test_the_published_name_is_for_the_published_files_only(folder, contents, monkeypatch):
    publish(monkeypatch, contents)
    assert mnist.load(folder).name == "mnist"
    changed = bytearray(contents[NAMES[2]])
    changed[100] ^= 1
    (folder / NAMES[2]).write_bytes(changed)
    assert mnist.load(folder).name == "mnist-modified"


def test_where_the_files_are_looked_for(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HMRNN_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mnist").symlink_to(folder)
    assert len(mnist.load(download=False).splits["train"]) == 33
    monkeypatch.delenv("HMRNN_DATA")
    monkeypatch.setenv("HMRNN_CACHE", "off")
    with pytest.raises(UserError, match="HMRNN_CACHE is off: give data.path"):
        mnist.load()
    monkeypatch.delenv("HMRNN_CACHE")
    with pytest.raises(UserError, match="switched off.*train-images.*home/.cache/hmrnn_jax/mnist"):
        mnist.load(download=False)
    (tmp_path / "home/.cache/hmrnn_jax").mkdir(parents=True)
    (tmp_path / "home/.cache/hmrnn_jax/mnist").symlink_to(folder)
    assert len(mnist.load(download=False).splits["train"]) == 33


# Faults, told with the file


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (NAMES[0], lambda c: c[:2] + b"\x08\x01" + c[4:], "number 2049 instead of 2051.*images"),
        (NAMES[3], lambda c: c[:2] + b"\x08\x03" + c[4:], "number 2051 instead of 2049.*labels"),
        (NAMES[2], lambda c: b"\x1f\x8b" + c[2:], "instead of 2051"),
        (NAMES[1], lambda c: b"", "number 0 instead of 2049"),
        (NAMES[0], lambda c: c[:-1], "28,239 bytes unpacked, but its header tells of 28,240"),
        (NAMES[0], lambda c: c[:12], "ends within its header of 16 bytes"),
        (NAMES[3], lambda c: c[:6], "ends within its header of 8 bytes"),
        (NAMES[1], lambda c: c[:20], "20 bytes unpacked, but its header tells of 44"),
        (NAMES[3], lambda c: c + b"\x00", "14 bytes unpacked, but its header tells of 13"),
        (NAMES[3], lambda c: c[:10] + b"\x0a" + c[11:], r"image 2 \(from 0\) the label 10"),
        (NAMES[1], lambda c: c[:-1] + b"\xff", r"image 35 \(from 0\) the label 255"),
        (NAMES[1], lambda c: label_file([1] * 35), "holds 36 images, but .* 35 labels"),
        (NAMES[3], lambda c: label_file([1] * 6), "holds 5 images, but .* 6 labels"),
        (
            NAMES[2],
            lambda c: image_file(np.zeros((5, 32, 28), np.uint8)),
            "images of 32 x 28 pixels: give such of 28 x 28",
        ),
    ],
)
def test_faulty_files(folder, contents, name, change, words):
    (folder / f"{name}.gz").unlink(missing_ok=True)
    (folder / name).write_bytes(change(contents[name]))
    with pytest.raises(UserError, match=words) as raised:
        mnist.load(folder)
    assert f"{folder}/{name}" in str(raised.value)


def test_damaged_archive_and_missing_file(folder, contents):
    packed = gzip.compress(contents[NAMES[1]])
    (folder / f"{NAMES[1]}.gz").write_bytes(packed[:-9])
    with pytest.raises(UserError, match=f"{NAMES[1]}.gz cannot be read"):
        mnist.load(folder)
    (folder / f"{NAMES[1]}.gz").unlink()
    with pytest.raises(UserError, match=f"lacks {NAMES[1]} ") as raised:
        mnist.load(folder)
    assert str(folder) in str(raised.value)
    with pytest.raises(UserError, match="nowhere lacks train-images"):
        mnist.load("nowhere")


def test_too_few_images(folder):
    for count, words in ((11, "11 training and 5 test"), (12, None)):
        (folder / NAMES[0]).write_bytes(image_file(np.zeros((count, 28, 28), np.uint8)))
        (folder / f"{NAMES[1]}.gz").write_bytes(gzip.compress(label_file([3] * count)))
        if words:
            with pytest.raises(UserError, match=words):
                mnist.load(folder)
    assert [len(part) for part in mnist.load(folder).splits.values()] == [11, 1, 5]


# Downloads


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server on this machine in the mirror's place, and what it was asked for."""
    served, asked = tmp_path / "served", []
    served.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    handler = functools.partial(Quiet, directory=served)
    monkeypatch.setenv("HMRNN_DATA", str(tmp_path / "data"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setattr(mnist, "URL", f"http://127.0.0.1:{running.server_address[1]}/")
        yield served, asked
        running.shutdown()


def test_a_download_is_checked_kept_and_read_again(server, contents, tmp_path, monkeypatch):
    served, asked = server
    publish(monkeypatch, contents)
    for name in NAMES:
        (served / f"{name}.gz").write_bytes(gzip.compress(contents[name]))
    assert mnist.load().name == "mnist"
    kept = tmp_path / "data" / "mnist"
    assert sorted(file.name for file in kept.iterdir()) == sorted(f"{name}.gz" for name in NAMES)
    asked.clear()
    assert mnist.load().name == "mnist" and not asked
    # What is there is not fetched anew.
    (kept / f"{NAMES[3]}.gz").unlink()
    assert mnist.load().name == "mnist" and {path[1:] for path in asked} == {f"{NAMES[3]}.gz"}


@pytest.mark.parametrize("wrong", [b"<html>", "other"])
def test_a_download_that_is_not_mnist_is_kept_aside(server, contents, tmp_path, monkeypatch, wrong):
    served, _ = server
    publish(monkeypatch, contents)
    for name in NAMES:
        (served / f"{name}.gz").write_bytes(gzip.compress(contents[name]))
    bad = gzip.compress(contents[NAMES[1]][:-1] + b"\x0b") if wrong == "other" else wrong
    (served / f"{NAMES[1]}.gz").write_bytes(bad)
    with pytest.raises(UserError, match=f"{NAMES[1]} by its sha256.*{NAMES[1]}.gz.bad"):
        mnist.load()
    kept = tmp_path / "data" / "mnist"
    assert {file.name for file in kept.iterdir()} == {f"{NAMES[0]}.gz", f"{NAMES[1]}.gz.bad"}
    assert (kept / f"{NAMES[1]}.gz.bad").read_bytes() == bad
    with pytest.raises(UserError, match="switched off"):
        mnist.load(download=False)
    (served / f"{NAMES[1]}.gz").write_bytes(gzip.compress(contents[NAMES[1]]))
    assert mnist.load().name == "mnist"


def test_a_download_without_an_end_is_given_up(server, contents, tmp_path, monkeypatch):
    served, _ = server
    publish(monkeypatch, contents)
    packed = gzip.compress(contents[NAMES[0]])
    (served / f"{NAMES[0]}.gz").write_bytes(packed)
    monkeypatch.setattr(mnist, "_LARGEST", len(packed) - 1)
    with pytest.raises(UserError, match=f"{NAMES[0]}.gz gives more than {len(packed) - 1:,}"):
        mnist.load()
    # One that unpacks to more than the file is not the file.
    (served / f"{NAMES[0]}.gz").write_bytes(gzip.compress(bytes(1 << 20)))
    with pytest.raises(UserError, match="is not MNIST's"):
        mnist.load()


def test_failures_of_the_network_and_the_disk(server, contents, tmp_path, monkeypatch):
    served, _ = server
    with pytest.raises(UserError, match="HTTP status 404"):
        mnist.load()
    (served / f"{NAMES[0]}.gz").write_bytes(gzip.compress(contents[NAMES[0]]))
    publish(monkeypatch, contents)
    with pytest.raises(UserError, match="404.*put train-images"):  # of the second file
        mnist.load()
    monkeypatch.setenv("HMRNN_DATA", str(served / f"{NAMES[0]}.gz"))  # no folder
    with pytest.raises(UserError, match="cannot be written.*set HMRNN_DATA"):
        mnist.load()


def test_offline_is_told_soon_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HMRNN_DATA", str(tmp_path))
    monkeypatch.setattr(mnist, "URL", "http://127.0.0.1:9/")
    begin = time.monotonic()
    with pytest.raises(UserError) as raised:
        mnist.load()
    assert time.monotonic() - begin < 10
    said = str(raised.value)
    assert all(name in said for name in NAMES) and f"{tmp_path}/mnist by hand" in said
    assert "offline" in said and "\n" not in said


# The published data


def test_published_files():
    root = os.environ.get("HMRNN_DATA")
    if not root or not os.path.isdir(os.path.join(root, "mnist")):
        pytest.skip("set HMRNN_DATA to a data folder with mnist")
    data = mnist.load(download=False)
    assert data.name == "mnist"
    assert [len(part) for part in data.splits.values()] == [55_000, 5_000, 10_000]
    both = [data.splits[split] for split in ("train", "valid")]
    pixels = np.concatenate([part.images for part in both])
    mean, square = pixels.mean() / 255, np.square(pixels, dtype=np.uint32).mean() / 255**2
    assert mean == pytest.approx(0.1307, abs=5e-5)
    assert np.sqrt(square - mean**2) == pytest.approx(0.3081, abs=5e-5)
    labels = np.concatenate([part.labels for part in both])
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(labels).tolist() == counts
    assert labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.splits["test"].labels[:5].tolist() == [7, 2, 1, 0, 4]
