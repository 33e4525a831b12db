"""The compiled update of a run: dense, or without what layers COPY where that is faster."""

import functools

from hmrnn_jax import parallel
from hmrnn_jax.recurrence import execution, rare_products, skipping
from hmrnn_jax.training import state as train_state

# Of the dense update's time, or on a TPU of its kernels' products, as is expected of the other
# form: below the first COPYs are left out, above the second they are no longer. In between all
# stays as it is. Well below 1, for where half of the rows move the estimate on CPUs is up to .17
# too low.
_BEGIN, _END = 0.85, 0.9
LEFT_OUT = "copies_left_out"  # among a report's metrics: 1 or 0


class Update:
    """`update(state, carry, batch, scalars)`, see `train_state.train_step`, compiled for a mesh.

    It begins dense. `choose`, wherever a run saves its state, changes to the other form or back by
    how often the layers moved in the last update: a function of the run alone, not of how busy the
    machine is nor of where the run was stopped. Both forms compute the same, to rounding.

    Args:
      task, plan: of the run.
      config: its configuration; `model.skip_copies` allows the other form.
    """

    def __init__(self, task, plan, config, mesh):
        step = functools.partial(train_state.train_step, task.loss, plan.optimizer)
        self._forms = {False: parallel.pmapped(step, mesh)}
        self._skips, self._cells = False, ()
        policy = task.model.policy._replace(
            skip_copies=True, device_kind=parallel.device_kind(mesh)
        )
        self._expected = skipping.expected
        if config.model.get("skip_copies", False):
            self._cells = [cell for cell in task.model.cells if skipping.applies(cell, policy)]
            if in_kernels := [c for c in task.model.cells if rare_products.applies(c, policy)]:
                self._cells = in_kernels
                rows = -(-config.batch // mesh.size)
                self._expected = functools.partial(rare_products.expected, rows=rows)
        if self._cells:
            self._forms[True] = parallel.pmapped(execution.leaving_out_copies(step), mesh)

    @property
    def compiled(self):
        """The jitted function of now."""
        return self._forms[self._skips]

    def logged(self):
        """What a report logs of the form; nothing if there is but one."""
        return {LEFT_OUT: float(self._skips)} if self._cells else {}

    def resume(self, logged):
        """Takes the form that the metrics of a report name, which a run goes on from."""
        self._skips = bool(self._cells) and logged.get(LEFT_OUT) == 1

    def choose(self, metrics):
        """Chooses by an update's `metrics`; returns a line if that changes anything, else "".

        Args:
          metrics: with `copy/layerN`, the share of steps in which layer N COPYs; without them, as
            those of a run that has none, all stays as it is.
        """
        copies = [metrics.get(f"copy/layer{n + 1}") for n in range(self._depth())]
        if not copies or None in copies:
            return ""
        moves = [1 - share for share in copies]
        time = self._expected(self._cells[0], moves)
        skips = time < (_END if self._skips else _BEGIN)
        if skips == self._skips:
            return ""
        self._skips = skips
        shares = " and ".join(f"{share:.2f}" for share in moves[1:])
        what = "what layers COPY is left out" if skips else "what layers COPY is computed"
        return f"{what} from the next update on, as those above the first move at {shares} of steps"

    def _depth(self):
        return self._cells[0].depth if self._cells else 0
