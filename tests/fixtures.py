"""Reads the numeric fixtures: `.npz` files of inputs, expected outputs and gradients.

The folder is `tests/reference`, or the one that HMRNN_REFERENCE_DIR names: other
files of the same layout can be put to the same tests.
"""

import json
import os
from pathlib import Path

import numpy as np

FOLDER = Path(os.environ.get("HMRNN_REFERENCE_DIR", Path(__file__).parent / "reference"))


def names(prefix):
    """Stems of the fixture files that begin with `prefix`."""
    return sorted(path.stem for path in FOLDER.glob(f"{prefix}*.npz"))


def load(name):
    """The arrays of a fixture and its `meta` as a dict."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        arrays = dict(file)
    return arrays, json.loads(str(arrays.pop("meta")))


def assert_close(actual, expected, tolerance, name=""):
    """The fixtures' own measure: largest difference over the larger of 1 and the values."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{name}: {actual.shape} != {expected.shape}"
    error = np.max(np.abs(actual - expected), initial=0)
    error /= max(1, np.max(np.abs(expected), initial=0))
    assert error <= tolerance, f"{name}: off by {error:.2e}, allowed {tolerance:.0e}"
