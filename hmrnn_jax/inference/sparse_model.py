"""A language model of one HM-LSTM, read sparsely: see `recurrence.sparse`."""

import dataclasses

import jax
import jax.numpy as jnp

from hmrnn_jax import ops
from hmrnn_jax.cells import hm_lstm
from hmrnn_jax.models import stack
from hmrnn_jax.models.dropout import drop_connect
from hmrnn_jax.models.language import LanguageModel, Output
from hmrnn_jax.recurrence import sparse as sparse_cell

# The products of the input kernel with more symbols than these are not made beforehand.
_LARGEST_TABLE = 4096


@dataclasses.dataclass(frozen=True)
class SparseModel:
    """Stands in for a `LanguageModel` of one HM-LSTM where nothing is trained.

    The input products of all symbols are made once, and the output module too is computed
    for the layers that change alone. Made by `inference`.
    """

    model: LanguageModel

    @property
    def inference(self):
        """Itself, as `LanguageModel.inference`."""
        return self

    @property
    def cells(self):
        return self.model.cells

    @property
    def noise_width(self):
        return self.model.noise_width

    @property
    def _precision(self):
        return self.model.policy.precision

    def prepare(self, params):
        """The weights that `apply` takes in place of the model's parameters."""
        (config,) = self.cells
        cell = drop_connect(params["cell1"], self.model.dropout, None)
        weights = {
            "cell": sparse_cell.prepare(config, cell, self._precision),
            "bias": params["softmax_bias"],
        }
        if self.model.vocabulary <= _LARGEST_TABLE:
            table = sparse_cell.inputs(
                config, cell, jnp.asarray(params["embedding"]).T, self._precision
            )
            weights["table"] = table.T
        else:
            weights |= {"embedding": params["embedding"], "input": {"layer1": cell["layer1"]}}
        if self.model.head == "gated":
            start, output = 0, params["output"]
            for layer, size in enumerate(config.sizes):
                parts = output[f"embed{layer + 1}"], output["gate"][start : start + size]
                kernel = jnp.concatenate(parts, axis=1).T
                weights["cell"][f"layer{layer + 1}"]["readout"] = ops.operand(
                    kernel, self._precision
                )
                start += size
        tied = self.model.head == "tied"
        kernel = jnp.asarray(params["embedding"]).T if tied else params["softmax_kernel"]
        return jax.device_put(weights | {"kernel": ops.operand(kernel, self._precision)})

    def initial_carry(self, batch):
        """What `apply` carries, before the first step; its form is this class's own."""
        (config,) = self.cells
        width = self.model.output + config.depth
        gated = self.model.head == "gated"
        readouts = (jnp.zeros((width, batch)),) * config.depth if gated else ()
        return hm_lstm.initial_state(config, (batch,)), readouts

    def apply(self, variables, ids, carry, *, slope=1.0, noise=None):
        """`models.language.Output` for `ids [T, B]`, as `LanguageModel.apply`.

        Args:
          variables: `{"params": weights of prepare}`.
          carry: of `initial_carry` or of the call before.
        """
        weights = variables["params"]
        carry, results = self.run(weights, ids, carry, slope, noise)
        states, readouts, aux = sparse_cell.batch_at(results, 1)
        top = self._top(readouts) if readouts else states.h[-1]
        logits = stack.dense(top, weights["kernel"], self._precision) + weights["bias"]
        return Output(logits, carry, (states,), (aux,), (top, top))

    def run(self, weights, ids, carry, slope, noise):
        """`(carry, (states, readouts, aux))`, features and rows last; readouts if carried."""
        (config,) = self.cells

        def given(ids):
            if "table" in weights:
                return sparse_cell.of_table(weights["table"], ids)
            return sparse_cell.inputs(
                config, weights["input"], weights["embedding"][ids].T, self._precision
            )

        noise = sparse_cell.batch_last(noise, 1) if config.uses_noise else None
        xs = (ids, None, noise)
        return sparse_cell.scan(config, weights["cell"], carry, xs, given, slope, self._precision)

    def _top(self, readouts):
        """The output module of the readouts of each layer, `[T, B, output + L]`."""
        width = self.model.output
        gates = jax.nn.sigmoid(sum(r[..., width:] for r in readouts))
        embedded = (gates[..., k, None] * r[..., :width] for k, r in enumerate(readouts))
        return jax.nn.relu(sum(embedded))


def inference(model, params):
    """`(model, params)` to read and draw with: sparse where that applies, else as they are."""
    single = isinstance(model, LanguageModel) and len(model.cells) == 1
    if not single or not sparse_cell.applies(model.cells[0]):
        return model.inference, params
    sparse = SparseModel(model)
    return sparse, sparse.prepare(params)
