"""Data parallelism: one wrapper for one device, many devices and many hosts."""

import collections
import functools
import json
import os
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from hmrnn_jax.errors import UserError

AXIS = "data"
# Seconds after which a process that is not heard of is lost, and the others end to be restarted.
HEARTBEAT = 20
# Steps of an evaluation that the devices may have before them while the host adds up.
_AHEAD = 16


def initialize(coordinator=None, processes=None, process=None):
    """Joins the processes of a multi-host run; does nothing in a run of one process.

    Where JAX finds itself in a cluster that it knows (TPU slices of Google's Compute and
    Kubernetes Engines, Slurm, Open MPI, indexed jobs of Kubernetes) nothing need be given;
    elsewhere give the coordinator's `host:port`, the number of processes and this one's number.

    Raises:
      UserError: some of the three are missing or wrong; the cluster does not answer; or the
        devices are shared with processes that nothing tells of.
    """
    given = {"coordinator": coordinator, "processes": processes, "process": process}
    missing = [f"--{name}" for name, value in given.items() if value is None]
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
    elif _cluster_processes() > 1:
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT)
    elif jax.process_count() > 1:  # of a TPU slice, which knows its chips by itself
        raise UserError(
            f"The devices here are those of {jax.process_count()} processes, of which nothing"
            " tells where they are: give --coordinator, --processes and --process."
        )


def _cluster_processes():
    """How many processes the cluster counts that `jax.distributed.initialize` would take.

    1 outside of clusters. The network is asked where JAX asks it, on TPU hosts and in indexed
    jobs of Kubernetes.
    """
    from jax._src import clusters  # JAX has no public way to ask

    for cluster in clusters.ClusterEnv._cluster_types:  # JAX takes the first that is there
        # In Kubernetes a process without a number is alone, such as a notebook.
        numbered = cluster is not clusters.K8sCluster or "JOB_COMPLETION_INDEX" in os.environ
        if cluster.opt_in_only_method or not numbered:
            continue
        try:
            if not cluster.is_env_present():
                continue
            if cluster is clusters.GkeTpuCluster and "MEGASCALE_NUM_SLICES" not in os.environ:
                # JAX would ask about further slices, to which a notebook's machine gets no answer.
                return len(cluster._get_worker_list_in_slice())
            return cluster.get_process_count()
        except Exception as error:  # what the network, Kubernetes or a variable's text brings up
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise UserError(
                f"This is a {cluster.__name__} to JAX, but it does not tell of its processes"
                f" ({reason}); give --coordinator, --processes and --process."
            ) from error
    return 1


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


def check_same(text, what):
    """Raises `UserError`, in every process, unless all of them have the same text."""
    if jax.process_count() == 1:
        return
    found = multihost_utils.process_allgather(np.asarray(zlib.crc32(text.encode()), np.uint32))
    if (others := np.flatnonzero(found != found[0])).size:
        raise UserError(
            f"{what} of process {others[0]} are not those of process 0: give every host the same."
        )


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
    """A mesh of all devices (or of those given) along the axis `data`, process after process.

    JAX would order the chips of a TPU by its torus, in which a host's need not be neighbours;
    here they are, so that a process reads its rows of a batch in one piece.

    Raises:
      UserError: not all processes that have devices in it have the same number.
    """
    devices = jax.devices() if devices is None else devices
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    shares = collections.Counter(device.process_index for device in devices)
    most, least = (pick(shares, key=shares.get) for pick in (max, min))
    if shares[most] > shares[least]:
        raise UserError(
            f"Process {most} has {shares[most]} devices and process {least} has {shares[least]};"
            " give every process the same number."
        )
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def device_kind(mesh=None):
    """What the devices are: their `device_kind`, after `GPU` if that is what they are.

    Args:
      mesh: of the devices; None asks for those that a program is traced for: within a mapped step
        its mesh's, which need not be here, elsewhere JAX's default device.
    """
    device = mesh.devices.flat[0] if mesh else jax.sharding.get_abstract_mesh().abstract_device
    if device is None:
        device = jax.config.jax_default_device or jax.local_devices()[0]
    if isinstance(device, str):  # a platform is a default, too
        device = jax.local_devices(backend=device)[0]
    return kind_of(device)


def kind_of(device):
    """See `device_kind`."""
    return f"GPU {device.device_kind}" if device.platform == "gpu" else device.device_kind


def pmapped(step, mesh):
    """Compiles `step(state, carry, batch, scalars) -> (state, carry, metrics)` for a mesh.

    The step is written as for `jax.pmap`: it sees its own rows of carry and batch and
    reduces over the axis `data`; state, scalars and metrics are replicated. This is what
    `jax.pmap` itself has been since jax 0.8, spelled out, and a test holds the two equal
    bit for bit. Under plain `jit` with shardings, the gradients' reduction may land
    inside the time loop, T times a step; here it is where the step puts it.
    `check_vma=False` keeps `grad` local: the step's own `psum` is the only reduction.

    Carry has the rows first, `[B, ...]`; a batch is time-major, `[T, B, ...]`, or `[B]`. State
    and carry are donated.
    """
    return jax.jit(_mapped(step, mesh, (P(), P(AXIS), P())), donate_argnums=(0, 1))


def pmapped_evaluation(step, mesh):
    """As `pmapped`, for `step(params, carry, batch, scalars) -> (carry, metrics)`."""
    return jax.jit(_mapped(step, mesh, (P(AXIS), P())), donate_argnums=1)


def _mapped(step, mesh, out_specs):
    def mapped(state, carry, batch, scalars):
        in_specs = (P(), P(AXIS), jax.tree.map(batch_spec, batch), P())
        return jax.shard_map(
            step, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )(state, carry, batch, scalars)

    return mapped


def batch_spec(array):
    """Rows lie along the second axis, or along the only one."""
    return P(AXIS) if array.ndim == 1 else P(None, AXIS)


def accumulate(step, params, carry, batches, mesh, slope=1.0, seed=0):
    """The sums of an evaluation step over all batches, float64 arrays on the host.

    Those of one batch are the devices', in float32, which counts to 2^24 and no further. The
    devices always have steps before them: only sums that are long done are waited for.

    Args:
      step: of `pmapped_evaluation`; its scalars are `{slope, seed, number}`, the last the
        batch's place.
      carry: this process's rows of the states before the first batch.
      batches: this process's rows of each batch.
    """
    carry = shard_rows(jax.device_get(carry), mesh)
    params = jax.device_put(params, NamedSharding(mesh, P()))  # once, not at every step
    scalars = {"slope": scalar(np.float32(slope), mesh), "seed": scalar(np.uint32(seed), mesh)}
    sums, waiting = None, collections.deque()

    def added():
        part = jax.device_get(waiting.popleft())
        part = jax.tree.map(lambda x: x.astype(np.float64), part)
        return part if sums is None else jax.tree.map(np.add, sums, part)

    for number, batch in enumerate(batches):
        scalars["number"] = scalar(np.uint32(number), mesh)
        carry, part = step(params, carry, shard_batch(batch, mesh), scalars)
        settle(part)
        waiting.append(part)
        if len(waiting) > _AHEAD:
            sums = added()
    while waiting:
        sums = added()
    return sums


def _mapped_over():
    """Devices that the step which is being traced is mapped over; 1 outside of such a step."""
    try:
        return jax.lax.axis_size(AXIS)
    except NameError:
        return 1


def total(tree):
    """Sums over the devices of the axis `data`; of one device, or outside a mapped step, as it is.

    What a loss divides by is summed so: its means are over the rows of all devices, and the
    devices' shares of it add up to it.
    """
    return jax.lax.psum(tree, AXIS) if _mapped_over() > 1 else tree


def share(total_here, count):
    """This device's share of a mean over the rows of all devices, of which it has `count`."""
    return total_here / jnp.maximum(total(count), 1)


def gathered(tree):
    """The arrays of all devices, along a first axis if there are several, as `total` sums them."""
    return jax.lax.all_gather(tree, AXIS) if _mapped_over() > 1 else tree


def first_row(rows):
    """The place in the whole batch of the first of this device's `rows` rows."""
    return jax.lax.axis_index(AXIS) * rows if _mapped_over() > 1 else 0


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
    """The slice of the batch's rows that this process's devices own; `mesh` of `make_mesh`."""
    owners = [device.process_index for device in mesh.devices.flat]
    per_device, mine = batch // len(owners), owners.count(jax.process_index())
    first = owners.index(jax.process_index()) if mine else 0
    if owners[first : first + mine] != [jax.process_index()] * mine:
        raise UserError("This process's devices are not neighbours: take a mesh of make_mesh.")
    return slice(first * per_device, (first + mine) * per_device)


def replicate(tree, mesh):
    """Puts a tree, the same in every process, on all devices."""
    sharding = NamedSharding(mesh, P())

    def place(x):
        return jax.make_array_from_process_local_data(sharding, np.asarray(x))

    return jax.tree.map(place, tree)


@functools.lru_cache(typed=True)
def scalar(value, mesh):
    """A NumPy number on all devices; those asked for last are still there and are not put again."""
    return replicate(value, mesh)


def shard_rows(tree, mesh):
    """Makes global arrays of this process's rows, which lie along the first axis."""
    sharding = NamedSharding(mesh, P(AXIS))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def shard_batch(batch, mesh):
    """Makes global arrays of this process's rows of a batch, `[T, B, ...]` or `[B]`."""

    def place(x):
        return jax.make_array_from_process_local_data(NamedSharding(mesh, batch_spec(x)), x)

    return jax.tree.map(place, batch)


def row_keys(key, first, rows):
    """A key for each of `rows` rows, by its place in the whole batch, `first` that of the first.

    What is drawn with them is the same on one device and on many.
    """
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(first + jnp.arange(rows))


def row_noise(key, width, steps, rows):
    """Uniform draws `[steps, rows, width]` of this device's rows, by `row_keys`."""
    if not width:
        return None
    keys = row_keys(key, first_row(rows), rows)
    return jax.vmap(lambda k: jax.random.uniform(k, (steps, width)), out_axes=1)(keys)
