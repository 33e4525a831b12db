"""How a recurrence runs: what is asked, and what a device makes of it."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import NamedTuple

from hmrnn_jax import ops, parallel
from hmrnn_jax.errors import UserError, require
from hmrnn_jax.recurrence import tpu_kernel

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
        for it, else `scan`.
      chip: that it is traced for, see `parallel.chip`. Where it is empty that is asked while
        tracing; give it for a program that will run elsewhere.
      skip_copies: deferred gradients of an HM-LSTM's kernels leave out the columns in which a
        layer COPYs, exactly, see `deferred`; not for second derivatives.

    `check` raises `UserError` for an unknown choice or a `remat` that does not divide T.
    """

    gradient: str = "deferred"
    precision: str = "float32"
    remat: int = 0
    unroll: int = 1
    backend: str = "scan"
    chip: str = ""
    skip_copies: bool = False

    def check(self, steps):
        require("backend", self.backend, BACKENDS)
        require("gradient", self.gradient, GRADIENTS)
        require("precision", self.precision, ops.PRECISIONS)
        if self.backend == "pallas" and self.gradient != "deferred":
            raise UserError("The pallas backend has deferred gradients only; choose that or scan.")
        if self.remat and steps % self.remat:
            raise UserError(f"remat is {self.remat}; it must divide the window, {steps} steps.")

    @property
    def device(self):
        """The `chip`, or where it is empty that of the program which is being traced."""
        return self.chip or parallel.chip()

    def check_device(self, config):
        """Raises `UserError` if the device has no kernels for a cell that is to have them."""
        if self.backend != "pallas" or self.device.startswith("TPU"):
            return
        if not _is_gpu(self):
            raise UserError(f"{self.device} has no kernels: set model.backend=scan, or auto.")
        gpu_arguments(config, self)


def choose_backend(config, policy, way, *arguments):
    """`pallas`, a TPU's kernel, or `scan`: what the policy says, or what fits.

    Args:
      config: of the cell. way: `forwards` or `backwards`, for what is noted of the choice.
      arguments: what `tpu_kernel.scan` would be given.
    """
    name = f"{type(config).__module__.rpartition('.')[2]}, {way}"
    if _is_gpu(policy) and policy.backend != "scan":
        choice = "scan, as no time has been measured on a GPU; model.backend=pallas has kernels"
        if policy.backend == "pallas":
            choice = "scan of a layer's kernels and products"
        note(f"{name}: {choice}")
        return "scan"
    if policy.backend != "auto":
        return policy.backend
    if policy.gradient != "deferred" or not tpu_kernel.vmem_bytes(policy.device):
        note(f"{name}: scan, as {policy.device} has no kernel")
        return "scan"
    needed, available = tpu_kernel.needs(policy.device, *arguments)
    chosen = "pallas" if needed <= available else "scan"
    note(
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
    """Further arguments of the cell's step: a GPU's kernels, where they are asked for."""
    if not _is_gpu(policy) or policy.backend != "pallas":
        return {}
    if not config.replays:
        raise UserError(
            "For GPUs only the HM-LSTM has kernels: set model.backend=scan, or auto, for this cell."
        )
    from hmrnn_jax.recurrence import gpu_kernel  # imports Triton

    return {"pointwise": gpu_kernel}


_NOTES = contextvars.ContextVar("notes", default=None)


@contextlib.contextmanager
def noted() -> Iterator[list]:
    """Collects what is traced meanwhile says of its choices, a line each, none twice."""
    token = _NOTES.set([])
    try:
        yield _NOTES.get()
    finally:
        _NOTES.reset(token)


def note(line):
    """A line for `noted`."""
    notes = _NOTES.get()
    if notes is not None and line not in notes:
        notes.append(line)
