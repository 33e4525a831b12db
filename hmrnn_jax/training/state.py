"""The state of a training run, how it begins and is saved, and its compiled step."""

import contextlib
import contextvars
import threading
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from hmrnn_jax import parallel


@flax.struct.dataclass
class TrainState:
    """What training changes, apart from the rows' carried states.

    Attributes:
      step: updates made, int32.
      params: parameters.
      optimizer: state of the optimiser.
      key: raw random key of the run, uint32 `[2]`; a step's draws come from
        `fold_in(key, step)`. Raw, because typed keys cannot be placed over many hosts.
      average: mean of the parameters after each update since averaging began; () in a run
        that never averages.
    """

    step: jax.Array
    params: dict
    optimizer: tuple
    key: jax.Array
    average: Any = ()


def create(init, optimizer, seed, average=False):
    """A fresh `TrainState`; `init(key)` draws the parameters."""
    params = initial_params(init, seed)
    raw = jax.random.key_data(jax.random.split(jax.random.key(seed))[1])
    mean = params if average else ()
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), raw, mean)


def initial_params(init, seed):
    """The parameters of a run of that seed before its first update; `init(key)` draws them.

    As one program, which a second start finds compiled: uncompiled it would be a hundred.
    """
    return jax.jit(init)(jax.random.split(jax.random.key(seed))[0])


def of_run(task, plan, seed):
    """A fresh `TrainState` of a task under an `optim.Plan`."""
    return create(task.init_params, plan.optimizer, seed, plan.averages)


def start(task, plan, config, mesh):
    """`(state, carry)` before the first update, the state and this process's rows on the mesh."""
    state = parallel.replicate(of_run(task, plan, config.seed), mesh)
    rows = parallel.local_rows(config.batch, mesh)
    carry = jax.device_get(task.initial_carry(rows.stop - rows.start))
    return state, parallel.shard_rows(carry, mesh)


def checkpoint(state, carry, plan, slope, mesh):
    """The tree that is saved of a run: what its next update depends on."""
    progress = parallel.replicate(plan.progress(), mesh)
    slope = parallel.scalar(np.float32(slope), mesh)
    return {"state": state, "carry": carry, "progress": progress, "slope": slope}


@contextlib.contextmanager
def compiling(step, *arguments):
    """Compiles a jitted `step` for these arguments while the block runs; its first call then waits
    for nothing. What cannot be compiled is told by that call."""

    def work():
        with contextlib.suppress(Exception):
            step.lower(*arguments).compile()

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,))
    thread.start()
    try:
        yield
    finally:
        thread.join()


def train_step(loss, optimizer, state, carry, batch, scalars):
    """One update, as one device of the axis `data` makes it.

    Args:
      loss: `loss(params, carry, batch, scalars, key) -> (value, (carry, sums))` of a task: this
        device's share of the loss, which the devices' shares add up to, the new carry, and
        sums for the metrics.
      optimizer: of `optim`; static.
      state, carry: `TrainState` and this device's rows of the carried states.
      batch: this device's rows.
      scalars: numbers that the host decides: `learning_rate`, what the loss needs, and, where
        the state holds an average, `averaged`: how many iterates the average holds after
        this update, 0 while there is none.

    Returns the new state and carry, and metrics: `sums` over all devices, `gradient_norm`.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    gradients, (carry, sums) = jax.grad(loss, has_aux=True)(
        state.params, carry, batch, scalars, key
    )
    # The only reductions of the step besides the loss's count: once, after the time loop.
    gradients, sums = parallel.total((gradients, sums))
    updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
    updates = jax.tree.map(lambda u: -scalars["learning_rate"] * u, updates)
    params = optax.apply_updates(state.params, updates)
    average = state.average
    if jax.tree.leaves(average):
        share = jnp.where(scalars["averaged"] > 0, 1 / jnp.maximum(scalars["averaged"], 1), 0)
        average = jax.tree.map(lambda mean, new: mean + share * (new - mean), average, params)
    state = state.replace(
        step=state.step + 1, params=params, optimizer=optimizer_state, average=average
    )
    return state, carry, sums | {"gradient_norm": optax.tree.norm(gradients)}
