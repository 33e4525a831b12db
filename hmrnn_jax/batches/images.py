"""Batches of images as sequences of glimpses, as pure functions of the step.

This file knows numpy, not JAX.
"""

from typing import NamedTuple

import numpy as np

from hmrnn_jax.batches.base import FILLER, ShuffledEpochs, by_batch
from hmrnn_jax.errors import UserError

# Of the 60,000 published training images of MNIST, black 0 and white 1. Constants, and so the
# same for every run and every user's images: nothing has to be kept beside a run.
MEAN, DEVIATION = 0.1307, 0.3081


class ImageBatch(NamedTuple):
    """B images, time-major.

    Attributes:
      inputs: float32 [T, B, D], a patch at each step, standardised; see `patches`.
      labels: int32 [B].
      mask: float32 [B], 1 for an image, 0 for a padding row, which is zeros and label 0.
    """

    inputs: np.ndarray
    labels: np.ndarray
    mask: np.ndarray


def patches(images, size: int) -> np.ndarray:
    """[N, H, W] cut in squares of `size` that do not overlap: [N, T, size * size].

    Raster order, row by row from the top left, of the squares and of the pixels in each. Of a
    28 x 28 image, 7 gives T = 16 glimpses of 7 x 7, and 1 its 784 pixels.

    Raises:
      UserError: `size` does not divide the height and the width.
    """
    number, height, width = images.shape
    if size < 1 or height % size or width % size:
        raise UserError(
            f"model.patch is {size}; it must divide the images' {height} x {width} pixels: choose"
            " 7 for glimpses, 1 for pixels."
        )
    cut = images.reshape(number, height // size, size, width // size, size)
    return cut.swapaxes(2, 3).reshape(number, -1, size * size)


class ImageStream(ShuffledEpochs):
    """Training batches of images, as a pure function of the step.

    Every image comes once in an epoch, in an order that is drawn from (seed, epoch); the fewer
    than `batch` left over make up the last batch, with padding rows.

    Args:
      images, labels: uint8 [N, H, W]; int32 [N].
      batch: number of rows B of the whole run.
      seed: 0 or more.
      patch: side of the patches, in pixels.
      rows: the rows that this process owns; None for all of them.

    Raises:
      UserError: no images, or a number out of its range.

    `steps` is T.
    """

    def __init__(self, images, labels, batch: int, seed: int, patch: int, rows=None):
        if seed < 0:
            raise UserError(f"seed is {seed}; it must be 0 or more.")
        self._cut = _Cutter(images, labels, batch, patch, rows)
        self.batch, self.steps = batch, self._cut.steps
        self.steps_per_epoch = -(-len(labels) // batch)
        self.seed, self._number = seed, len(labels)

    def __call__(self, step: int) -> ImageBatch:
        """The batch of a step (from 0, without end): arrays [T, rows owned, D], [rows owned]."""
        order, number = self.order_at(step)
        return self._cut(order[number])

    def draw(self, random: np.random.Generator) -> np.ndarray:
        """The images of an epoch by batch, int64 [steps_per_epoch, batch]."""
        return by_batch(random.permutation(self._number), self.batch)


class EvaluationImages:
    """All images once, in order: `len(stream)` batches, the last with padding rows.

    Args:
      images, labels, batch, patch, rows: as in `ImageStream`. Raises UserError as it does.
    """

    def __init__(self, images, labels, batch: int, patch: int, rows=None):
        self._cut = _Cutter(images, labels, batch, patch, rows)
        self._order = by_batch(np.arange(len(labels)), batch)

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self):
        return map(self._cut, self._order)


class _Cutter:
    """The rows owned of the batch that holds the images `chosen`, int [B]."""

    def __init__(self, images, labels, batch, patch, rows):
        if batch < 1:
            raise UserError(f"the batch is {batch}; it must be 1 or more.")
        if not len(images):
            raise UserError("there are no images to make batches of: give one or more.")
        self._patches, self._labels, self._rows = patches(images, patch), labels, rows
        self.steps = self._patches.shape[1]

    def __call__(self, chosen):
        chosen = chosen if self._rows is None else chosen[self._rows]
        real = chosen != FILLER
        inputs = (self._patches[chosen].swapaxes(0, 1) / np.float32(255) - MEAN) / DEVIATION
        return ImageBatch(
            inputs=np.where(real[:, None], inputs, 0).astype(np.float32),
            labels=np.where(real, self._labels[chosen], 0).astype(np.int32),
            mask=real.astype(np.float32),
        )
