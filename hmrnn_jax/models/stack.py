"""What the networks share: a stack of cells, the gated output module, their configuration."""

import math
import os

import flax.linen as nn
import jax
import jax.numpy as jnp

from hmrnn_jax import cells, ops, parallel, recurrence
from hmrnn_jax.cells.base import is_stack, layers
from hmrnn_jax.errors import UserError
from hmrnn_jax.recurrence.execution import native_precision


class GatedOutput(nn.Module):
    """The output module of the HM-LSTM (Chung et al. 2017, eq. 11-12).

    g^l = sigmoid(w^l . [h^1; ...; h^L]), one scalar a layer;  h^e = relu(sum_l g^l W_l h^l),
    a separate matrix a layer. No biases.

    Attributes:
      size: width of h^e, 1 or more, or `__call__` raises `UserError`: the `output` of a model.
      precision: see `ops.product`.
    """

    size: int
    precision: str = "float32"

    @nn.compact
    def __call__(self, hidden):
        """`hidden`: h of each layer, `[..., H_l]`. Returns `[..., size]`."""
        if self.size < 1:
            raise UserError(
                f"output is {self.size}; it is the width of the head 'gated' and must be 1 or more:"
                " give output, or another head."
            )
        depth = len(hidden)
        glorot = nn.initializers.glorot_uniform()
        gate = self.param("gate", glorot, (sum(h.shape[-1] for h in hidden), depth))
        logits, embedded, start = 0.0, [], 0
        for layer, h in enumerate(hidden):
            width = h.shape[-1]
            kernel = self.param(f"embed{layer + 1}", glorot, (width, self.size))
            # The gates' share of this layer rides along as further columns.
            kernel = jnp.concatenate([kernel, gate[start : start + width]], axis=1)
            both = dense(h, kernel, self.precision)
            embedded.append(both[..., : self.size])
            logits += both[..., self.size :]
            start += width
        gates = nn.sigmoid(logits)
        return nn.relu(sum(gates[..., k, None] * e for k, e in enumerate(embedded)))


def dense(x, kernel, precision, bias=None):
    """`x [..., K] @ kernel [K, N]` under a precision policy, and `bias [N]` where there is one."""
    rows = ops.product(x.reshape(-1, x.shape[-1]), kernel, precision)
    if bias is not None:
        rows += ops.row(bias)
    return rows.reshape(*x.shape[:-1], kernel.shape[1])


class CellStack:
    """What models of `cells`, lowest first, have in common; they run under `policy`."""

    @property
    def inference(self):
        """The same model for windows of any length, nothing rematerialised."""
        return self.clone(policy=self.policy._replace(remat=0))

    def check(self, steps, mesh):
        """Raises `UserError` if the cells cannot be trained in windows of `steps` steps, or not
        on the devices of `mesh`."""
        policy = self.policy._replace(device_kind=parallel.device_kind(mesh))
        policy.check(steps)
        parameters = 0
        for config in self.cells:
            policy.check_device(config)
            shapes = jax.eval_shape(lambda c=config: cells.of(c).init(jax.random.key(0), c))
            parameters += sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
        # Float32 of the parameters, their gradient and Adam's two moments. A CPU's memory is
        # promised before it is there, and who takes too much of it is killed.
        needed, there = 16 * parameters, host_memory()
        if needed > there and not policy.device.startswith(("TPU", "GPU")):
            raise UserError(
                f"The cells of model.sizes take {needed / 2**30:,.0f} GiB to train, and this"
                f" machine has {there / 2**30:,.0f}: choose smaller ones."
            )

    def initial_carry(self, batch):
        """The states before the first step, `[batch, ...]`, one for each cell."""
        return tuple(recurrence.initial_state(config, batch) for config in self.cells)

    @property
    def noise_width(self):
        """Uniform draws for each step and row: one a sampling detector, else 0."""
        return max(config.uses_noise for config in self.cells)

    def run_cells(
        self, x, carry, *, resets=None, slope=1.0, noise=None, table_ids=None, prepare=None,
        between=None,
    ):  # fmt: skip
        """Runs the cells one above the other; their parameters are `cell1`, `cell2`, ...

        Args:
          x: inputs `[T, B, n]`; with `table_ids` int `[T, B]` a table `[V, n]`.
          carry: a state for each cell.
          resets: bool `[T, B]`, see `recurrence.unroll`.
          slope: slope of the detectors, a scalar; cells without detectors ignore it.
          noise: uniform `[T, B, n]` for cells that sample, see `noise_width`.
          prepare: `prepare(number, params)` gives the parameters that a cell, from 0, runs with.
          between: masks that the outputs of all cells but the last are multiplied by.

        Returns `(hidden, final, states, aux)`: h of each layer `[T, B, H]`, a list; the rest
        are tuples, an entry for each cell, as `Output` has them.
        """
        hidden, final, states, aux = [], [], [], []
        for number, (config, state) in enumerate(zip(self.cells, carry, strict=True)):
            params = self.param(f"cell{number + 1}", cells.of(config).init, config)
            out = recurrence.unroll(
                config,
                prepare(number, params) if prepare else params,
                state,
                x,
                resets=resets,
                constants={"slope": slope} if config.uses_slope else None,
                per_step={"noise": noise} if config.uses_noise else None,
                policy=self.policy,
                table_ids=table_ids,
            )
            *lower, x = layers(out.states)
            if between and number < len(self.cells) - 1:
                x = masked(x, between[number])
            table_ids = None
            hidden += [*lower, x]
            final.append(out.final)
            states.append(out.states)
            aux.append(out.aux)
        return hidden, tuple(final), tuple(states), tuple(aux)


def host_memory():
    """Bytes of this machine's memory; infinite where it is not known."""
    if not hasattr(os, "sysconf"):
        return math.inf
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def masked(x, mask):
    return x if mask is None else x * mask


def cells_from(config, input_size):
    """The cells' configurations from a `config.model` (ml_collections).

    `config.cell` names the cell, `config.sizes` its layers' widths, and the section
    `config[config.cell]` the choices of that cell alone.
    """
    if config.cell not in cells.MODULES:
        raise UserError(
            f"model.cell is {config.cell!r}; it must be one of {', '.join(cells.MODULES)}."
        )
    module, sizes = cells.MODULES[config.cell], tuple(config.sizes)
    if not sizes or min(sizes) < 1:
        raise UserError(f"model.sizes is {sizes}; it must hold at least one positive width.")
    choices = dict(config[config.cell])
    if is_stack(module.Config):
        return (module.Config(input_size, sizes, **choices),)
    return tuple(
        module.Config(n, size, **choices)
        for n, size in zip((input_size, *sizes[:-1]), sizes, strict=True)
    )


def policy_from(config):
    """The `recurrence.Policy` that a `config.model` describes; a run may be older than a field.

    The precision `auto` is that of the first device; a training has settled it before. Whether
    COPYs are left out is the training's to decide, see `training.update`.
    """
    fields = set(recurrence.Policy._fields) - {"skip_copies"}
    choices = {name: config[name] for name in fields if name in config}
    if choices.get("precision") == "auto":
        choices["precision"] = native_precision(jax.local_devices()[0])
    return recurrence.Policy(**choices)


def init_params(model, key, *inputs, **more):
    """The parameters of a Flax model, drawn with `key`, and nothing computed of its inputs.

    `model.init` would run the network, each of its operations compiled by itself.

    Args:
      inputs, more: trees of arrays or shapes, as the model is called with.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (inputs, more))
    return model.lazy_init(key, *shapes[0], **shapes[1])["params"]
