"""The train step compiled for devices that are not here, and what the compiler reports of it."""

import functools
import os
import re

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hmrnn_jax import parallel, tasks
from hmrnn_jax.errors import UserError
from hmrnn_jax.recurrence.execution import native_precision, reported
from hmrnn_jax.training import hlo, optim, progress, settings
from hmrnn_jax.training import state as train_state


def devices(target):
    """The devices of `cpu`, that is this machine, or of a TPU topology such as `v5e:2x4`.

    Raises:
      UserError: no libtpu, or a topology that it does not know.
    """
    if target == "cpu":
        return jax.devices()
    # libtpu asks the cloud's metadata server for what is set here, and locks out a second user.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    # Arrays that are really made, such as the batch's, stay here.
    jax.config.update("jax_platforms", "cpu")
    try:
        from jax.experimental import topologies

        found = topologies.get_topology_desc(target, platform="tpu").devices
        # A v4 chip's two cores are one device to a program; the topology lists both.
        return [device for device in found if device.core_on_chip == 0]
    except (RuntimeError, ValueError, NotImplementedError) as error:
        if "not installed" in str(error):
            raise UserError(
                f'To compile for {target}, libtpu is needed: pip install -e ".[tpu]".'
            ) from error
        reason = str(error).splitlines()[0]
        raise UserError(
            f"There is no TPU topology {target!r} ({reason}); give one such as v5e:2x4, v4:2x2x1,"
            " v5p:2x2x1 or v6e:2x4, or cpu."
        ) from error


def describe(config, target):
    """Lines on the train step of a configuration, compiled for `target`; nothing is run.

    Raises:
      UserError: as `compiled_step`.
    """
    compiled, choices, params = compiled_step(config, target)
    lines = [progress.parameter_table(params), *(f"recurrence: {choice}" for choice in choices)]
    return lines + hlo.findings(compiled)


def compiled_step(config, target):
    """`(compiled, choices, parameters)`: the train step of a run for all devices of `target`.

    Nothing is allocated or written. `choices` are lines on the back end that each recurrence took;
    `parameters` are the shapes.

    Raises:
      UserError: as `devices`; a step that does not fit in the devices' memory.
    """
    settings.check(config)
    mesh = parallel.make_mesh(devices(target))
    if config.model.precision == "auto":
        config = config.copy_and_resolve_references()
        config.model.precision = native_precision(mesh.devices.flat[0])
    task = tasks.make(config, mesh)
    plan = optim.Plan(config, task.stream)
    create = functools.partial(train_state.of_run, task, plan, config.seed)
    update = functools.partial(train_state.train_step, task.loss, plan.optimizer)
    carry = functools.partial(task.initial_carry, config.batch)

    def of_all_rows(x):
        shape = (config.batch,) if x.ndim == 1 else (x.shape[0], config.batch, *x.shape[2:])
        return jax.ShapeDtypeStruct(shape, x.dtype)

    batch = jax.tree.map(of_all_rows, task.stream(0))
    try:
        compiled, choices = compiled_update(update, mesh, create, carry, batch, task.scalars(0))
        return compiled, choices, jax.eval_shape(create).params
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        if not re.search("RESOURCE_EXHAUSTED|[Oo]ut of memory|exceeds available", text):
            raise
        if "in memory space vmem" in text:
            raise UserError(
                f"A kernel does not fit in the VMEM of a chip of {target}; set model.backend=scan."
            ) from error
        amount = re.search(r"\(?[\d.]+[KMG]\)? exceeds available \w+ \(?[\d.]+[KMG]\)?", text)
        raise UserError(
            f"The train step does not fit in a device of {target}"
            f"{': ' + amount.group() if amount else ''}; take more devices, a smaller batch, or"
            " model.remat."
        ) from error


def compiled_update(update, mesh, create, carry, batch, scalars=()):
    """`(compiled, choices)` of an update that `parallel.pmapped` takes, of shapes alone.

    Args:
      update: `update(state, carry, batch, scalars) -> (state, carry, metrics)`.
      create, carry: make the state and the carry, when called.
      batch: a tree of arrays or shapes, of the rows of all devices.
      scalars: names of the loss's further scalars, see `tasks`.
    """
    everywhere = NamedSharding(mesh, P())
    by_rows = NamedSharding(mesh, P(parallel.AXIS))

    def placed(tree, sharding):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
        )

    batch = jax.tree.map(lambda x: placed(x, NamedSharding(mesh, parallel.batch_spec(x))), batch)
    scalar = jax.ShapeDtypeStruct((), np.float32, sharding=everywhere)
    scalars = dict.fromkeys(("learning_rate", "slope", "averaged", *scalars), scalar)
    state = placed(jax.eval_shape(create), everywhere)
    carry = placed(jax.eval_shape(carry), by_rows)
    step = parallel.pmapped(update, mesh)
    with reported() as choices:  # of the step alone, not of what `create` tries out
        lowered = step.lower(state, carry, batch, scalars)
    return lowered.compile(), choices
