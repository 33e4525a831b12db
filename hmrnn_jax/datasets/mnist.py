"""MNIST, 70,000 handwritten digits (LeCun, Cortes, Burges 1998), from its four IDX files."""

import dataclasses
import math
import os

import numpy as np
from etils import epy

from hmrnn_jax import files
from hmrnn_jax.datasets.splits import SPLITS, checksum
from hmrnn_jax.datasets.text import find_file
from hmrnn_jax.errors import UserError

with epy.lazy_imports():  # for downloads alone
    import requests

FOLDER = "mnist"
URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"  # a mirror of the authors' page
# sha256 of the unpacked files. Archives differ by the program that packed them.
FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
LABELS = 10
SIDE = 28  # pixels
VALID_SHARE = 12  # one training image of so many is for validation: 5,000 of 60,000
_IMAGES, _LABELS = 2051, 2049  # magic numbers
_PATIENCE = 60.0  # seconds without a byte
_LARGEST = 1 << 27  # bytes of a download, packed or not; the largest file has 47 million


@dataclasses.dataclass(frozen=True, eq=False)
class Labelled:
    """N images and their classes.

    Attributes:
      images: uint8 [N, 28, 28], 0 black (the ground) to 255 white.
      labels: int32 [N], 0 to 9.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """Three splits of images.

    Attributes:
      name: 'mnist' for the published files, else 'mnist-modified'.
      splits: 'train', 'valid', 'test' -> `Labelled`.
      source: where they came from, for the log.
    """

    name: str
    splits: dict
    source: str

    def fingerprint(self) -> dict:
        """`{split: [images, checksum]}`."""
        return {
            k: [len(part), checksum(part.images, part.labels)] for k, part in self.splits.items()
        }

    def describe(self) -> str:
        """Two lines for the log: name, source, sizes."""
        sizes = ", ".join(f"{split} {len(part):,}" for split, part in self.splits.items())
        return f"images {self.name}: {self.source}\nimages of {SIDE} x {SIDE} pixels: {sizes}"


def load(path=None, download: bool = True) -> Images:
    """MNIST, or a user's own images in its format.

    Args:
      path: a folder with the four IDX files, each plain or gzipped. None for
        $HMRNN_DATA/mnist, or ~/.cache/hmrnn_jax/mnist where HMRNN_DATA is not set; files that
        are missing there are fetched.
      download: False never asks the network.

    The last twelfth of the training images, 5,000 of the 60,000, is for validation. Files
    that are not the published ones by their sha256 are used under the name 'mnist-modified'.

    Raises:
      UserError: a missing or damaged file, a wrong magic number, images of another size than
        28 x 28, numbers of images and labels that differ, a label outside 0-9, fewer than 12
        training images, no test image; a failed download, or one that is not the published
        file.
    """
    if path:
        folder = files.place(path)
        missing = [name for name in FILES if find_file(folder, name) is None]
        if missing:
            raise UserError(
                f"the folder {folder} lacks {', '.join(missing)} (plain or .gz): put the files of"
                f" {URL} there."
            )
    else:
        root = os.environ.get("HMRNN_DATA")
        cache = files.cache_folder(FOLDER)
        if not root and cache is None:
            raise UserError(
                "The digits are downloaded to the cache, and HMRNN_CACHE is off: give data.path, or"
                " set HMRNN_DATA."
            )
        folder = files.place(root) / FOLDER if root else files.place(cache)
        _complete(folder, download)
    contents = {name: files.read_bytes(find_file(folder, name)) for name in FILES}
    genuine = all(files.same_content(contents[name], digest) for name, digest in FILES.items())
    train, test = (_labelled(folder, contents, prefix) for prefix in ("train", "t10k"))
    held_out = len(train) // VALID_SHARE
    if not held_out or not len(test):
        raise UserError(
            f"{folder} has {len(train)} training and {len(test)} test images: at least"
            f" {VALID_SHARE} and 1 are needed."
        )
    parts = (
        Labelled(train.images[:-held_out], train.labels[:-held_out]),
        Labelled(train.images[-held_out:], train.labels[-held_out:]),
        test,
    )
    name = "mnist" if genuine else "mnist-modified"
    return Images(name, dict(zip(SPLITS, parts, strict=True)), str(folder))


def _labelled(folder, contents, prefix):
    """The images of `prefix` and their labels, checked."""
    image_file, label_file = (name for name in FILES if name.startswith(prefix))
    images = _parse(find_file(folder, image_file), contents[image_file], _IMAGES)
    labels = _parse(find_file(folder, label_file), contents[label_file], _LABELS)
    if len(images) != len(labels):
        raise UserError(
            f"{find_file(folder, image_file)} holds {len(images):,} images, but"
            f" {find_file(folder, label_file)} {len(labels):,} labels: they do not go together,"
            " replace one."
        )
    wrong = np.flatnonzero(labels >= LABELS)
    if len(wrong):
        raise UserError(
            f"{find_file(folder, label_file)} gives image {wrong[0]} (from 0) the label"
            f" {labels[wrong[0]]}: labels are 0 to {LABELS - 1}, mend the file."
        )
    return Labelled(images, labels.astype(np.int32))


def _parse(file, content: bytes, magic: int) -> np.ndarray:
    """An IDX file of unsigned bytes: a magic number, a size for each axis, the values.

    The numbers are 4 bytes each, the highest first.
    """
    kind, header = ("images", 16) if magic == _IMAGES else ("labels", 8)
    found = int.from_bytes(content[:4], "big")
    if len(content) < 4 or found != magic:
        raise UserError(
            f"{file} begins with the number {found} instead of {magic}: it is no IDX file of"
            f" {kind}, replace it."
        )
    if len(content) < header:
        raise UserError(f"{file} ends within its header of {header} bytes: replace the file.")
    shape = tuple(int(n) for n in np.frombuffer(content[4:header], ">u4"))
    if shape[1:] not in ((), (SIDE, SIDE)):
        raise UserError(
            f"{file} holds images of {shape[1]} x {shape[2]} pixels: give such of {SIDE} x {SIDE}."
        )
    expected = header + math.prod(shape)
    if len(content) != expected:
        raise UserError(
            f"{file} has {len(content):,} bytes unpacked, but its header tells of {expected:,}:"
            " it is damaged, replace it."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _complete(folder, download):
    """Fetches those of the four files that `folder` lacks."""
    missing = [name for name in FILES if find_file(folder, name) is None]
    if not missing:
        return
    reason = "downloads are switched off"
    if download:
        # Only here: TensorFlow Datasets, which that module needs, takes a second to import.
        from hmrnn_jax.datasets.builders import unreachable

        reason = unreachable(f"{URL}{missing[0]}.gz")
    if reason:
        raise UserError(_by_hand(folder, missing, reason))
    for name in missing:
        try:
            # Not by TFDS: without TensorFlow it can encode no image.
            with requests.get(f"{URL}{name}.gz", timeout=_PATIENCE, stream=True) as response:
                response.raise_for_status()
                packed = b"".join(_bounded(response.iter_content(1 << 20), name))
        except requests.RequestException as error:
            raise UserError(_by_hand(folder, missing, str(error))) from error
        _keep(folder, name, packed)


def _bounded(parts, name):
    size = 0
    for part in parts:
        size += len(part)
        if size > _LARGEST:
            raise UserError(
                f"{URL}{name}.gz gives more than {_LARGEST:,} bytes, which are not MNIST: fetch the"
                " file by other means."
            )
        yield part


def _keep(folder, name, packed):
    """Writes a fetched archive into `folder`, aside if it is not the published file."""
    try:
        genuine = files.same_content(files.gunzip(packed, name, _LARGEST), FILES[name])
    except UserError:
        genuine = False
    file = folder / (f"{name}.gz" if genuine else f"{name}.gz.bad")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.write_bytes(file, packed)  # also where several processes fetch the same file
    except OSError as error:
        raise UserError(
            f"{file} cannot be written ({error}): set HMRNN_DATA to a folder where it can."
        ) from error
    if not genuine:
        raise UserError(
            f"what {URL}{name}.gz gave is not MNIST's {name} by its sha256; it is kept aside as"
            f" {file} and not used: try again, or fetch the file by other means."
        )


def _by_hand(folder, missing, reason):
    return (
        f"mnist could not be fetched from {URL} ({reason}): put {', '.join(missing)} (plain or"
        f" .gz) into {folder} by hand, or set HMRNN_DATA to the data folder whose folder {FOLDER}"
        " has them."
    )
