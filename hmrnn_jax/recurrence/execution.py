"""How a recurrence runs: what is asked, and what a device makes of it."""

import contextlib
import contextvars
import functools
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import jax

from hmrnn_jax import ops, parallel
from hmrnn_jax.errors import UserError, require
from hmrnn_jax.recurrence import tpu_kernel

CPU_INFO = pathlib.Path("/proc/cpuinfo")
_BFLOAT16 = {"amx_bf16", "avx512_bf16"}  # of a CPU that multiplies them natively
_WIDEST = 1024  # rows of a layer whose GPU kernels have been timed beside the scan
GRADIENTS = ("deferred", "autodiff")
BACKENDS = ("auto", "scan", "pallas")


class Policy(NamedTuple):
    """How a recurrence runs; never what it computes.

    Attributes:
      gradient: `deferred` or `autodiff`.
      precision: operands of the products, see `ops.product`.
      remat: 0, or a number of steps that divides T: only the state at the start of
        each such chunk is kept, the rest computed again in the reverse pass.
      unroll: time steps for each iteration of the compiled loop.
      backend: `scan`; `pallas`, with deferred gradients only: the whole window as one TPU
        kernel, see `tpu_kernel`, or on a GPU the layers' steps around their products
        as one each, see `gpu_kernel`; `auto`, the TPU kernel where the chip has room
        for it, the GPU's where they have been found faster, else `scan`.
      device_kind: what it is traced for, see `parallel.device_kind`. Where it is empty, tracing
        asks; give it for a program that will run elsewhere.
      skip_copies: with deferred gradients, what a layer of an HM-LSTM COPYs is left out, exactly:
        on CPUs in those columns in which it does, see `skipping`, not for second derivatives; in a
        TPU's kernels where it does in all rows, see `rare_products`. A run decides it by its rates
        instead, see `training.update`.

    `check` raises `UserError` for an unknown choice or a `remat` that does not divide T.
    """

    gradient: str = "deferred"
    precision: str = "float32"
    remat: int = 0
    unroll: int = 1
    backend: str = "scan"
    device_kind: str = ""
    skip_copies: bool = False

    def check(self, steps):
        require("backend", self.backend, BACKENDS)
        require("gradient", self.gradient, GRADIENTS)
        require("precision", self.precision, ops.PRECISIONS)
        if self.backend == "pallas" and self.gradient != "deferred":
            raise UserError("The pallas backend has deferred gradients only; choose that or scan.")
        if self.backend == "pallas" and self.precision == "high" and not _is_gpu(self):
            raise UserError(
                "The pallas kernels multiply in float32 or bfloat16; set model.precision to one of"
                " these, or model.backend to auto or scan."
            )
        if self.remat and steps % self.remat:
            raise UserError(f"remat is {self.remat}; it must divide the window, {steps} steps.")

    @property
    def device(self):
        """The `device_kind`, or where it is empty that of the program which is being traced."""
        return self.device_kind or parallel.device_kind()

    def check_device(self, config):
        """Raises `UserError` if the device has no kernels for a cell that is to have them."""
        if self.backend != "pallas" or tpu_kernel.vmem_bytes(self.device):
            return
        if not _is_gpu(self):
            raise UserError(f"{self.device} has no kernels: set model.backend=scan, or auto.")
        gpu_arguments(config, self)


def native_precision(device):
    """The precision in which a device trains fastest, see `ops.product`.

    `bfloat16` where it multiplies that natively: a TPU, a GPU of compute capability 8 or more, a
    CPU with AMX or AVX512 for it; elsewhere `float32`, as rounding then costs more than it saves.
    """
    native = device.platform == "tpu"
    if device.platform == "gpu":
        with contextlib.suppress(ValueError, AttributeError):  # AMD's are names
            native = float(device.compute_capability) >= 8
    if device.platform == "cpu":
        with contextlib.suppress(OSError):
            native = not _BFLOAT16.isdisjoint(CPU_INFO.read_text().split())
    return "bfloat16" if native else "float32"


def choose_backend(config, policy, direction, *arguments):
    """`pallas`, a TPU's kernel, or `scan`: what the policy says, or what fits.

    Args:
      config: of the cell. direction: `forwards` or `backwards`, for what is reported of the choice.
      arguments: what `tpu_kernel.scan` would be given.
    """
    name = f"{type(config).__module__.rpartition('.')[2]}, {direction}"
    if _is_gpu(policy) and policy.backend != "scan":
        kernels = gpu_arguments(config, policy)
        report(f"{name}: scan" + (" of a layer's kernels and products" if kernels else ""))
        return "scan"
    if policy.backend != "auto":
        return policy.backend
    if policy.gradient != "deferred" or not tpu_kernel.vmem_bytes(policy.device):
        why = f"{policy.device} has no kernel" * (policy.gradient == "deferred")
        report(f"{name}: scan, as {why or 'kernels have deferred gradients only'}")
        return "scan"
    if policy.precision == "high":
        report(f"{name}: scan, as kernels multiply in float32 or bfloat16")
        return "scan"
    needed, available = tpu_kernel.needs(policy.device, *arguments)
    chosen = "pallas" if needed <= available else "scan"
    report(
        f"{name}: {'one kernel' if chosen == 'pallas' else 'scan'}, as a window takes"
        f" {needed / 2**20:.0f} MiB of the {available / 2**20:.0f} MiB of VMEM to be had"
    )
    return chosen


def _is_gpu(policy):
    return policy.device.startswith("GPU")


def cpu_loops(policy):
    """Whether the loops are to be what a CPU runs fastest; with autodiff they are plain."""
    return policy.gradient == "deferred" and not policy.device.startswith(("TPU", "GPU"))


def gpu_arguments(config, policy):
    """Further arguments of the cell's step: a GPU's kernels, where they are asked for or faster."""
    if not _is_gpu(policy) or policy.backend == "scan":
        return {}
    if policy.backend == "auto":
        if policy.gradient != "deferred" or not config.replays or max(config.sizes) > _WIDEST:
            return {}
        if not _runs_triton(policy.device):
            return {}
    elif not _runs_triton(policy.device):
        raise UserError(
            f"{policy.device} does not run the kernels, which need compute capability 8: set"
            " model.backend=scan, or auto."
        )
    elif not config.replays:
        raise UserError(
            "For GPUs only the HM-LSTM has kernels: set model.backend=scan, or auto, for this cell."
        )
    from hmrnn_jax.recurrence import gpu_kernel  # imports Triton

    return {"pointwise": gpu_kernel}


def _runs_triton(kind):
    """Whether GPUs of a `device_kind` compile Triton's kernels: NVIDIA's from capability 8 on.

    Of a machine that is not here, for which a program is only compiled, it is taken for granted.
    """
    for device in jax.local_devices():
        if parallel.kind_of(device) == kind:
            try:
                return float(device.compute_capability) >= 8
            except ValueError:  # AMD's are names
                return False
    return True


_LEAVING_OUT = contextvars.ContextVar("leaving_out_copies", default=False)


def leaving_out_copies(function):
    """`function`, in whose programs every policy's `skip_copies` is True."""

    @functools.wraps(function)
    def traced(*arguments):
        token = _LEAVING_OUT.set(True)
        try:
            return function(*arguments)
        finally:
            _LEAVING_OUT.reset(token)

    return traced


def _skips(policy):
    return (policy.skip_copies or _LEAVING_OUT.get()) and policy.gradient == "deferred"


def skips_copies(policy):
    """Whether a program that is traced here is to leave COPYs out of a CPU's loops."""
    return _skips(policy) and cpu_loops(policy) and policy.backend != "pallas"


def skips_in_kernels(policy):
    """Whether it is to leave them out of a TPU's kernels, where it has these."""
    has_kernels = policy.backend == "pallas" or tpu_kernel.vmem_bytes(policy.device) > 0
    return _skips(policy) and has_kernels and policy.backend != "scan" and not _is_gpu(policy)


_REPORTED = contextvars.ContextVar("reported", default=None)


@contextlib.contextmanager
def reported() -> Iterator[list]:
    """Collects the choices that are made while a program is traced, a line each, none twice."""
    token = _REPORTED.set([])
    try:
        yield _REPORTED.get()
    finally:
        _REPORTED.reset(token)


def report(line):
    """Adds a line for `reported`."""
    lines = _REPORTED.get()
    if lines is not None and line not in lines:
        lines.append(line)
