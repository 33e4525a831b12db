"""The GPU kernels lower for CUDA on a machine without a GPU, and are chosen where they pay."""

import contextlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmrnn_jax import recurrence
from hmrnn_jax.cells import hm_lstm, lstm
from hmrnn_jax.errors import UserError
from hmrnn_jax.recurrence import execution
from hmrnn_jax.recurrence.execution import reported

GPU = "GPU NVIDIA H200"


def lowered(config, backend="pallas", precision="float32"):
    """The gradient of a window of Penn Treebank's model for CUDA, as text; and the notes."""
    policy = recurrence.Policy(precision=precision, backend=backend, device_kind=GPU)
    shapes = jax.eval_shape(lambda: hm_lstm.init(jax.random.key(0), config))

    def loss(params, x, resets):
        state = recurrence.initial_state(config, x.shape[1])
        out = recurrence.unroll(config, params, state, x, resets=resets, policy=policy)
        return sum(jnp.sum(h**2) for h in out.states.h)

    x = jax.ShapeDtypeStruct((20, 64, config.input_size), jnp.float32)
    resets = jax.ShapeDtypeStruct((20, 64), bool)
    with reported() as notes, as_on_a_gpu():
        traced = jax.jit(jax.grad(loss)).trace(shapes, x, resets)
        return traced.lower(lowering_platforms=("cuda",)).as_text(), notes


def as_on_a_gpu():
    """From jax 0.12 on, the Triton lowering asks which GPU: without one it must be told."""
    if tuple(map(int, jax.__version__.split(".")[:2])) < (0, 12):
        return contextlib.nullcontext()
    from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

    device = AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu")
    return use_abstract_mesh(AbstractMesh((), (), abstract_device=device))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("sizes", [(512, 512, 512), (400, 400, 400)])
def test_a_layer_is_one_kernel_each_way(sizes, precision):
    text, notes = lowered(hm_lstm.Config(128, sizes), precision=precision)
    assert text.count("__gpu$xla.gpu.triton") == 2 * len(sizes)
    assert len(notes) == 2 and all("a layer's kernels" in note for note in notes)


def test_auto_takes_them_as_far_as_they_have_been_timed():
    text, notes = lowered(hm_lstm.Config(16, (32, 32)), backend="auto")
    assert text.count("__gpu$xla.gpu.triton") == 4
    assert all("a layer's kernels" in note for note in notes)
    for config, choice in (
        (hm_lstm.Config(16, (32, 2048)), {}),
        (hm_lstm.Config(16, (32, 32)), {"gradient": "autodiff"}),
        (lstm.Config(16, 32), {}),
    ):
        policy = recurrence.Policy(backend="auto", device_kind=GPU, **choice)
        assert execution.gpu_arguments(config, policy) == {}


@pytest.mark.parametrize(
    ("capability", "kernels"), [("9.0", True), ("8.0", True), ("7.5", False), ("gfx90a", False)]
)
def test_gpus_that_do_not_compile_them_run_the_scan(monkeypatch, capability, kernels):
    """A Tesla T4, and AMD's."""
    here = SimpleNamespace(platform="gpu", device_kind="one", compute_capability=capability)
    monkeypatch.setattr(jax, "local_devices", lambda: [here])
    config, kind = hm_lstm.Config(16, (32, 32)), "GPU one"
    auto = recurrence.Policy(backend="auto", device_kind=kind)
    assert bool(execution.gpu_arguments(config, auto)) == kernels
    asked = auto._replace(backend="pallas")
    if kernels:
        asked.check_device(config)
    else:
        with pytest.raises(UserError, match="GPU one does not run the kernels, which need comp"):
            asked.check_device(config)
    # Of GPUs that are not here it is not known.
    assert execution.gpu_arguments(config, auto._replace(device_kind=GPU))


def test_a_tpu_without_kernels_is_told():
    policy = recurrence.Policy(backend="pallas", device_kind="TPU v3")
    with pytest.raises(UserError, match="TPU v3 has no kernels: set model.backend=scan"):
        policy.check_device(hm_lstm.Config(3, (4, 4)))
    policy._replace(device_kind="TPU v5 lite").check_device(hm_lstm.Config(3, (4, 4)))


def test_a_soft_detector_has_its_own_derivative_whatever_the_surrogate():
    plain, other = (
        lowered(hm_lstm.Config(16, (32, 32), boundary="soft", surrogate=surrogate))[0]
        for surrogate in ("hard_sigmoid", "logistic")
    )
    assert plain == other


def test_products_of_the_kernels_are_of_any_precision():
    assert "triton" in lowered(hm_lstm.Config(16, (32, 32)), precision="high")[0]
    with pytest.raises(UserError, match="multiply in float32 or bfloat16"):
        recurrence.Policy(backend="pallas", precision="high", device_kind="TPU v5e").check(10)


def test_other_cells_have_none():
    config = lstm.Config(3, 4)
    policy = recurrence.Policy(backend="pallas", device_kind=GPU)
    state = recurrence.initial_state(config, 2)
    with pytest.raises(UserError, match="only the HM-LSTM has kernels"):
        recurrence.unroll(
            config, lstm.init(jax.random.key(0), config), state, np.zeros((3, 2, 3)), policy=policy
        )
