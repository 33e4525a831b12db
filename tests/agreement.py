"""What one of two processes of `test_agreement` does: `agreement.py PORT PROCESS FOLDER`."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from hmrnn_jax import parallel
from hmrnn_jax.errors import UserError
from hmrnn_jax.training import stored
from hmrnn_jax.training.checkpoint import Checkpoints
from hmrnn_jax.training.lock import Lock


def tell(name, act):
    """Prints what an act gives, or the sentence that it ends with."""
    try:
        result = act()
    except UserError as error:
        result = error
    print(f"{name}: {result}", flush=True)


def fail(sentence):
    raise UserError(sentence)


def tree(step, mesh):
    state = {"params": {"w": np.full((3, 5), step, np.float32)}, "average": (), "step": step}
    plain = {"state": state, "progress": {"best": np.float32(np.inf)}, "slope": np.float32(1)}
    carry = parallel.shard_rows(np.full((1, 4), jax.process_index(), np.float32), mesh)
    return parallel.replicate(plain, mesh) | {"carry": carry}


def restored(folder, mesh):
    with Checkpoints(folder, read_only=True) as checkpoints:
        found = checkpoints.restore(tree(0, mesh))
    mine = np.asarray(found["carry"].addressable_data(0)) == jax.process_index()
    w = np.asarray(found["state"]["params"]["w"].addressable_data(0))
    return int(found["state"]["step"]), bool(mine.all()), float(w.mean()), len(checkpoints.notes)


def main(port, number, folder):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    parallel.initialize(f"127.0.0.1:{port}", 2, number)
    mesh = parallel.make_mesh()
    run = Path(folder) / "run"
    tell("decided", lambda: parallel.from_first(lambda: ["é", 1.5, None, jax.process_index()]))
    tell("refused", lambda: parallel.from_first(fail, f"told by process {number}"))
    tell("all well", lambda: parallel.in_all(lambda: number))
    tell("one failed", lambda: parallel.in_all(fail if number else str, "told by process 1"))
    tell("locked", Lock(Path(folder) / "busy", print).__enter__)
    with Checkpoints(run) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, tree(step, mesh))
    tell("restored", lambda: restored(run, mesh))
    if number == 0:
        path = next((run / "checkpoints/latest/2/default/d").iterdir())
        path.write_bytes(path.read_bytes()[:-1])
    tell("fell back", lambda: restored(run, mesh))
    if number == 1:
        stored.read = lambda *_: fail("process 1 cannot read now")
    tell("one cannot read", lambda: restored(run, mesh))
    bad = tree(3, mesh)
    bad["state"]["params"]["w"] *= jnp.nan
    with Checkpoints(run) as checkpoints:
        tell("not finite", lambda: checkpoints.save(3, bad))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
