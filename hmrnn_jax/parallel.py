"""Data parallelism: one wrapper for one device, many devices and many hosts."""

import json
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from hmrnn_jax.errors import UserError

AXIS = "data"
# Seconds after which a process that is not heard of is lost, and the others end to be restarted.
HEARTBEAT = 20


def initialize(coordinator=None, processes=None, process=None):
    """Joins the processes of a multi-host run; does nothing in a run of one process.

    TPU pods and `srun` tell JAX where they are; elsewhere give the coordinator's
    `host:port`, the number of processes and this one's number.

    Raises:
      UserError: some of the three are missing or wrong.
    """
    told = {"coordinator": coordinator, "processes": processes, "process": process}
    missing = [f"--{name}" for name, value in told.items() if value is None]
    if not missing:
        if not re.fullmatch(r".+:\d+", coordinator):
            raise UserError(f"--coordinator is {coordinator!r}; it must be HOST:PORT.")
        if not 0 <= process < processes:
            raise UserError(
                f"--process is {process}; with --processes={processes} it must be 0 to"
                f" {processes - 1}."
            )
        jax.distributed.initialize(
            coordinator, processes, process, heartbeat_timeout_seconds=HEARTBEAT
        )
    elif len(missing) < 3:
        raise UserError(
            f"Give {' and '.join(missing)} too: a run of several processes takes all three, or none"
            " where the cluster tells."
        )
    elif _many_hosts():
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT)


def _many_hosts():
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    # Of Slurm's variables a batch script has the first too; `srun` alone sets the second.
    tasks = int(os.environ.get("SLURM_NTASKS", "1")) if "SLURM_STEP_NODELIST" in os.environ else 1
    return len(hosts) > 1 or tasks > 1


def any_process(flag):
    """Whether `flag` is set in any process; every process must ask at the same update."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def from_first(decide, *arguments):
    """What `decide(*arguments)` returns in process 0, a value that JSON can hold, in all of them.

    The others wait for it, however long it takes.

    Raises:
      UserError: in every process, if `decide` raised it.
    """
    if jax.process_count() == 1:
        return decide(*arguments)
    # Where processes meet for the first time they must come within seconds of each other.
    multihost_utils.sync_global_devices("decision")
    answer = {}
    if jax.process_index() == 0:
        try:
            answer["value"] = decide(*arguments)
        except UserError as error:
            answer["error"] = str(error)
    answer = json.loads(_broadcast(json.dumps(answer), source=0))
    if "error" in answer:
        raise UserError(answer["error"])
    return answer["value"]


def in_all(act, *arguments):
    """`act(*arguments)` of each process; a `UserError` of any is raised in all of them."""
    if jax.process_count() == 1:
        return act(*arguments)
    result, fault = None, ""
    try:
        result = act(*arguments)
    except UserError as error:
        fault = str(error)
    failed = np.flatnonzero(multihost_utils.process_allgather(np.asarray(bool(fault))))
    if failed.size:
        raise UserError(_broadcast(fault, source=int(failed[0])))
    return result


def _broadcast(text, source):
    """The text of the process `source`."""
    own = jax.process_index() == source
    content = np.frombuffer(text.encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(content)), own))
    content = content if own else np.zeros(length, np.uint8)
    return multihost_utils.broadcast_one_to_all(content, own).tobytes().decode()


def make_mesh(devices=None):
    """A mesh of all devices (or of those given) along the axis `data`."""
    devices = jax.devices() if devices is None else list(devices)
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def chip(mesh):
    """What the devices are: their `device_kind`, after `GPU` if that is what they are."""
    device = mesh.devices.flat[0]
    return f"GPU {device.device_kind}" if device.platform == "gpu" else device.device_kind


def pmapped(step, mesh):
    """Compiles `step(state, carry, batch, knobs) -> (state, carry, metrics)` for a mesh.

    The step is written as for `jax.pmap`: it sees its own rows of carry and batch and
    reduces over the axis `data`; state, knobs and metrics are replicated. This is what
    `jax.pmap` itself has been since jax 0.8, spelled out, and a test holds the two equal
    bit for bit. Under plain `jit` with shardings, the gradients' reduction may land
    inside the time loop, T times a step; here it is where the step puts it.
    `check_vma=False` keeps `grad` local: the step's own `psum` is the only reduction.

    Carry has the rows first, `[B, ...]`; a batch is time-major, `[T, B, ...]`, or `[B]`. State
    and carry are donated.
    """
    return jax.jit(_mapped(step, mesh, (P(), P(AXIS), P())), donate_argnums=(0, 1))


def pmapped_evaluation(step, mesh):
    """As `pmapped`, for `step(params, carry, batch, knobs) -> (carry, metrics)`."""
    return jax.jit(_mapped(step, mesh, (P(AXIS), P())), donate_argnums=1)


def _mapped(step, mesh, out_specs):
    def mapped(state, carry, batch, knobs):
        in_specs = (P(), P(AXIS), jax.tree.map(batch_spec, batch), P())
        return jax.shard_map(
            step, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )(state, carry, batch, knobs)

    return mapped


def batch_spec(array):
    """Rows lie along the second axis, or along the only one."""
    return P(AXIS) if array.ndim == 1 else P(None, AXIS)


def accumulate(step, params, carry, batches, mesh, slope=1.0, seed=0):
    """The sums of an evaluation step over all batches, as host arrays.

    Args:
      step: of `pmapped_evaluation`; its knobs are `{slope, seed, number}`, the last the
        batch's place.
      carry: this process's rows of the states before the first batch.
      batches: this process's rows of each batch.
    """
    carry, total = shard_rows(jax.tree.map(np.asarray, carry), mesh), None
    for number, batch in enumerate(batches):
        knobs = {"slope": np.float32(slope), "seed": np.uint32(seed), "number": np.uint32(number)}
        carry, sums = step(params, carry, shard_batch(batch, mesh), knobs)
        settle(sums)
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
    return jax.device_get(total)


def total(tree):
    """Sums over the devices of the axis `data`; one device copies nothing for it."""
    return jax.lax.psum(tree, AXIS) if jax.lax.axis_size(AXIS) > 1 else tree


def settle(tree):
    """Waits for `tree` where several CPU devices share the cores; elsewhere returns at once.

    There, programs that run ahead of each other can starve each other's reductions of
    threads, for ever. Accelerators keep their queue.
    """
    if jax.default_backend() == "cpu" and jax.device_count() > 1:
        jax.block_until_ready(tree)


def check_batch(batch, mesh):
    """Raises `UserError` unless `batch` rows divide evenly over the mesh's devices."""
    devices = mesh.devices.size
    if batch % devices:
        raise UserError(
            f"The batch of {batch} rows cannot be divided over {devices} devices; choose a"
            f" multiple of {devices}."
        )


def local_rows(batch, mesh):
    """The slice of the batch's rows that this process's devices own."""
    owners = [device.process_index for device in mesh.devices.flat]
    per_device = batch // len(owners)
    mine = [k for k, owner in enumerate(owners) if owner == jax.process_index()]
    return slice(mine[0] * per_device, (mine[-1] + 1) * per_device)


def replicate(tree, mesh):
    """Puts a tree, the same in every process, on all devices."""
    sharding = NamedSharding(mesh, P())

    def place(x):
        return jax.make_array_from_process_local_data(sharding, np.asarray(x))

    return jax.tree.map(place, tree)


def shard_rows(tree, mesh):
    """Makes global arrays of this process's rows, which lie along the first axis."""
    sharding = NamedSharding(mesh, P(AXIS))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def shard_batch(batch, mesh):
    """Makes global arrays of this process's rows of a batch, `[T, B, ...]` or `[B]`."""

    def place(x):
        return jax.make_array_from_process_local_data(NamedSharding(mesh, batch_spec(x)), x)

    return jax.tree.map(place, batch)
