"""The state of a training run and its two compiled steps."""

import flax.struct
import jax
import jax.numpy as jnp
import optax

from hmrnn_jax import losses
from hmrnn_jax.parallel import AXIS


@flax.struct.dataclass
class TrainState:
    """What training changes, apart from the rows' carried states.

    Attributes:
      step: updates made, int32.
      params: parameters.
      optimizer: state of the optimiser.
      key: raw random key of the run, uint32 `[2]`; a step's draws come from
        `fold_in(key, step)`. Raw, because typed keys cannot be placed over many hosts.
    """

    step: jax.Array
    params: dict
    optimizer: tuple
    key: jax.Array


def create(model, optimizer, seed):
    """A fresh `TrainState`."""
    init_key, key = jax.random.split(jax.random.key(seed))
    params = init_params(model, init_key)
    raw = jax.random.key_data(key)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), raw)


def init_params(model, key):
    """The model's parameters, drawn with `key`; shapes do not depend on batch or window."""
    ids = jnp.zeros((1, 1), jnp.int32)
    noise = jnp.zeros((1, 1, model.noise_width))
    return model.init(key, ids, model.initial_carry(1), noise=noise)["params"]


def train_step(model, optimizer, state, carry, batch, knobs):
    """One update, as one device of the axis `data` makes it.

    Args:
      model, optimizer: static.
      state, carry: `TrainState` and this device's rows of the carried states.
      batch: `data.Batch` of this device's rows.
      knobs: `{learning_rate, slope}`, scalars that the host decides.

    Returns the new state and carry, and metrics reduced over all devices: `nats` and
    `count` (sums over steps that count), `gradient_norm`, and `diagnostics`' sums.
    """
    count = jax.lax.psum(batch.mask.sum(), AXIS)
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    noise = row_noise(key, model.noise_width, *batch.mask.shape)

    def mean_loss(params):
        out = model.apply(
            {"params": params},
            batch.inputs,
            carry,
            resets=batch.resets,
            slope=knobs["slope"],
            noise=noise,
        )
        return losses.cross_entropy(out.logits, batch.targets, batch.mask) / count, out

    (loss, out), gradients = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
    sums = diagnostics(model, carry, out, batch, knobs["slope"])
    # The only reductions of the step besides `count`: once, after the time loop.
    loss, gradients, sums = jax.lax.psum((loss, gradients, sums), AXIS)
    updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
    updates = jax.tree.map(lambda u: -knobs["learning_rate"] * u, updates)
    state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        optimizer=optimizer_state,
    )
    metrics = {"nats": loss * count, "count": count, **sums}
    metrics["gradient_norm"] = optax.tree.norm(gradients)
    return state, out.carry, metrics


def eval_step(model, params, carry, batch, knobs):
    """Scores a window: returns the carry and the sums of `train_step`'s metrics.

    `knobs` are `{slope, seed, number}`; detectors in `sample` mode draw from the last two,
    the seed of the evaluation and the window's number.
    """
    key = jax.random.fold_in(jax.random.key(knobs["seed"]), knobs["number"])
    noise = row_noise(key, model.noise_width, *batch.mask.shape)
    out = model.apply(
        {"params": params},
        batch.inputs,
        carry,
        resets=batch.resets,
        slope=knobs["slope"],
        noise=noise,
    )
    nats = losses.cross_entropy(out.logits, batch.targets, batch.mask)
    sums = diagnostics(model, carry, out, batch, knobs["slope"])
    metrics = {"nats": nats, "count": batch.mask.sum(), **sums}
    return out.carry, jax.lax.psum(metrics, AXIS)


def row_noise(key, width, steps, rows):
    """Uniform draws `[steps, rows, width]`, a function of each row's place in the whole batch.

    So a row's draws are the same on one device and on many.
    """
    if not width:
        return None
    first = jax.lax.axis_index(AXIS) * rows
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(first + jnp.arange(rows))
    return jax.vmap(lambda k: jax.random.uniform(k, (steps, width)), out_axes=1)(keys)


def diagnostics(model, carry, out, batch, slope):
    """Sums over counted steps of what the detectors and layers do, `{name: [layers]}`.

    `fired` (z), `alive` (|a x| < 1, where the straight-through gradient is not zero) for
    each detector; `update`, `copy`, `flush` for each layer of an HM-LSTM. Empty for
    cells without detectors. Divide by `count` for rates.
    """
    sums = {}
    for config, before, states, aux in zip(model.cells, carry, out.states, out.aux, strict=True):
        if not config.uses_slope:
            continue
        one, zero = jnp.ones_like(batch.mask), jnp.zeros_like(batch.mask)
        own = [
            jnp.where(batch.resets, config.z_init, jnp.concatenate([first[None], z[:-1]]))
            for first, z in zip(before.z, states.z, strict=True)
        ] + [zero]
        below = [one, *states.z]
        flush = [p if config.flush else zero for p in own]
        update = [(1 - p) * q for p, q in zip(flush, below, strict=True)]
        copy = [(1 - p) * (1 - q) for p, q in zip(flush, below, strict=True)]
        alive = [(jnp.abs(slope * x) < 1).astype(one.dtype) for x in aux.x]
        rows = {"fired": states.z, "alive": alive, "update": update, "copy": copy, "flush": flush}
        for name, values in rows.items():
            if values:
                sums[name] = jnp.stack([jnp.sum(v * batch.mask) for v in values])
    return sums
