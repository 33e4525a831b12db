"""A run in one small file: what it goes on from, where only some MiB can be carried away.

The parameters are kept with the 16 leading bits of each number (bfloat16, rounded), the leading
bytes, which are much alike, apart and packed; beside them the number of updates and the schedule's
drops. The optimiser's moments, two thirds of a state, and the states carried over are left out:
they begin anew, for which Adam corrects as at its first update. A run that goes on from here is not
the run that would have gone on without.
"""

import io
import lzma

import jax
import numpy as np

from hmrnn_jax import files, parallel, tasks
from hmrnn_jax.errors import UserError
from hmrnn_jax.training import optim, workdir
from hmrnn_jax.training import state as train_state
from hmrnn_jax.training.checkpoint import Checkpoints

MOST = 16 * 2**20  # bytes of a file


def pack(folder, path):
    """Writes the newest state of a run into a file; returns its bytes.

    Raises:
      UserError: the folder has no state, or the file would be larger than `MOST`.
    """
    mesh = parallel.make_mesh()
    config = workdir.load_run(folder)[0]
    _, whole = _fresh(config, mesh)
    with Checkpoints(folder, read_only=True) as checkpoints:
        saved = checkpoints.restore(whole)
    if saved is None:
        raise UserError(f"{folder} has no state to keep: train there first.")
    state = jax.device_get(saved["state"])
    arrays = {"step": state.step, "dropped": jax.device_get(saved["progress"]["dropped"])}
    for number, leaf in enumerate(jax.tree.leaves(state.params)):
        high, low = _halves(leaf)
        arrays |= {f"high{number}": high, f"low{number}": low}
    file = io.BytesIO()
    np.savez(file, **arrays)
    packed = lzma.compress(file.getvalue(), preset=1)
    if len(packed) > MOST:
        raise UserError(f"{folder} needs {len(packed):,} bytes, more than {MOST:,}.")
    files.write_bytes(path, packed)
    return len(packed)


def unpack(path, config, folder):
    """Begins a run of `config` in a new folder, from a file that `pack` wrote; returns its updates.

    Raises:
      UserError: it is not such a file, or one of another model.
    """
    mesh = parallel.make_mesh()
    task, whole = _fresh(config, mesh)
    fresh = whole["state"]
    leaves, tree = jax.tree.flatten(fresh.params)
    try:
        arrays = np.load(io.BytesIO(lzma.decompress(files.read_bytes(path))))
        found = [_whole(arrays[f"high{n}"], arrays[f"low{n}"]) for n in range(len(leaves))]
        step, dropped = arrays["step"], arrays["dropped"]
        if [leaf.shape for leaf in found] != [leaf.shape for leaf in leaves]:
            raise ValueError("other shapes")
    except (lzma.LZMAError, ValueError, KeyError) as error:
        raise UserError(f"{path} holds no state of this model ({error}).") from error
    params = parallel.replicate(jax.tree.unflatten(tree, found), mesh)
    state = fresh.replace(params=params, step=parallel.replicate(np.int32(step), mesh))
    progress = whole["progress"] | {"dropped": parallel.replicate(np.int32(dropped), mesh)}
    workdir.open_run(folder, config, task.encoding)
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(int(step), whole | {"state": state, "progress": progress})
        checkpoints.wait()
    return int(step)


def _fresh(config, mesh):
    """`(task, the tree of a state before its first update)`."""
    task = tasks.make(config, mesh)
    plan = optim.Plan(config, task.stream)
    state, carry = train_state.start(task, plan, config, mesh)
    return task, train_state.checkpoint(state, carry, plan, 0.0, mesh)


def _halves(leaf):
    """The two leading bytes of each float32, rounded to the nearest, as two arrays of uint8."""
    bits = np.asarray(leaf, np.float32).view(np.uint32).astype(np.uint64) + 0x8000
    return (bits >> 24).astype(np.uint8), (bits >> 16).astype(np.uint8)


def _whole(high, low):
    """The float32 of two leading bytes."""
    return ((high.astype(np.uint32) << 24) | (low.astype(np.uint32) << 16)).view(np.float32)
