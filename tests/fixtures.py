"""Reads the numeric fixtures: `.npz` files of inputs, expected outputs and gradients.

The folder is `tests/reference`, or the one that HMRNN_REFERENCE_DIR names: other
files of the same layout can be put to the same tests.
"""

import json
import os
from pathlib import Path

import numpy as np

OWN = Path(__file__).parent / "reference"
KINDS = ("hm_lstm", "nested_lstm", "on_lstm", "mdn", "misc", "trees")


def folder(named):
    """The folder of fixtures: the one named, or our own for an empty name.

    Raises:
      FileNotFoundError: there is not one in it, so that tests would be left out without a word.
    """
    found = Path(named) if named else OWN
    if not any(path.name.startswith(KINDS) for path in found.glob("*.npz")):
        raise FileNotFoundError(f"HMRNN_REFERENCE_DIR is {named}, where there are no fixtures.")
    return found


FOLDER = folder(os.environ.get("HMRNN_REFERENCE_DIR"))


def names(prefix):
    """Stems of the fixture files that begin with `prefix`; none if the folder has no such kind."""
    return sorted(path.stem for path in FOLDER.glob(f"{prefix}*.npz"))


def load(name):
    """The arrays of a fixture and its `meta` as a dict."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        arrays = dict(file)
    return arrays, json.loads(str(arrays.pop("meta")))


def chunk(steps):
    """A length of rematerialised chunks for a window: its least divisor above 1."""
    return next(k for k in range(2, steps + 1) if steps % k == 0)


def assert_close(actual, expected, tolerance, name=""):
    """The fixtures' own measure: largest difference over the larger of 1 and the values."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{name}: {actual.shape} != {expected.shape}"
    error = np.max(np.abs(actual - expected), initial=0)
    error /= max(1, np.max(np.abs(expected), initial=0))
    assert error <= tolerance, f"{name}: off by {error:.2e}, allowed {tolerance:.0e}"
