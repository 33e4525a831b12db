"""The mixture density against numeric fixtures: values and gradients (Graves 2013, 4.1)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import assert_close, load, names

from hmrnn_jax.models import mixture
from hmrnn_jax.models.mixture import Mixture

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
FIELDS = {field: field.replace("event_", "e_") for field in Mixture._fields}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", names("mdn"))
def test_fixture(name, dtype):
    arrays, meta = load(name)
    steps, batch, components = meta["T"], meta["B"], meta["K"]
    check = lambda a, b, key: assert_close(a, b, TOLERANCE[dtype], key)  # noqa: E731
    with jax.enable_x64(dtype == "float64"):
        # One row of outputs a step, as an affine layer gives it.
        rows = [arrays[theirs].reshape(steps, batch, -1) for theirs in FIELDS.values()]
        outputs = jnp.asarray(np.concatenate(rows, axis=-1), dtype)
        assert outputs.shape[-1] == mixture.width(components, 2, True)
        target = jnp.asarray(arrays["target"], dtype)
        mask = jnp.asarray(np.arange(steps)[:, None] < arrays["lengths"], dtype)

        def loss(outputs):
            density = mixture.split(outputs, components, 2, True)
            nll = mixture.negative_log_likelihood(density, target[..., :2], target[..., 2])
            sequences = jnp.sum(nll * mask, axis=0)
            return jnp.mean(sequences), (nll * mask, sequences)

        grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (value, (nll, sequences)), gradient = grad(outputs)
        gradients = mixture.split(gradient, components, 2, True)
    assert gradient.dtype == dtype
    check(value, arrays["loss"], "loss")
    check(nll, arrays["out/nll_step"], "nll of a step")
    check(sequences, arrays["out/nll_sequence"], "nll of a sequence")
    for ours, theirs in FIELDS.items():
        check(getattr(gradients, ours), arrays[f"grad/{theirs}"], ours)
