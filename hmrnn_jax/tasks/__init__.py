"""What a run learns: `config.task` names a module, whose `Task` gives training and evaluation

* `model`, `init_params(key)`, `initial_carry(rows)`: the network;
* `stream`: `stream(step) -> batch`, and where its epochs end (`batches.text.Stream`);
* `loss(params, carry, batch, scalars, key)`: of the rows it is given, see
  `training.state.train_step`; its means are over the rows of all devices where a step is mapped
  over several (`parallel.share`), and it can be called outside of one;
* `scalars(done)`: numbers for the loss of the update after `done`, beside rate and slope;
* `summary(sums)`: the metrics of one or more updates, plain numbers;
* `evaluate(params, split, slope) -> metrics`, and `score(metrics)`, lower is better: what
  chooses the best checkpoint and moves the learning rate;
* `name`, `unit`, `counted` (the metric that counts units), `headline(metrics)`,
  `describe()`, `finish(params, metrics, slope)`: words for the log;
* `fingerprint()`: `{split: [size, checksum]}`, by which other data are told from these, and under
  `segments` that of a file that teaches; saved beside the run;
* `encoding`: what the data's numbers mean, a `Vocabulary` or a `Scale`, saved beside the run;
  None if that is never in question.

Beside `Task`, the module has what an evaluation without data needs: `model_of(config.model,
encoding)` and `init_params(model, key)`.

A batch is a NamedTuple of arrays with the rows along the second axis, or along the only
one. Everything that can be wrong with data and configuration raises `UserError` when the
task is made, before anything is compiled.
"""

from hmrnn_jax.errors import UserError
from hmrnn_jax.tasks import images, language, logic, sequences

MODULES = {"language": language, "logic": logic, "strokes": sequences, "images": images}


def module(config):
    """The module of a configuration's task: `Task`, `model_of`, `init_params`."""
    if config.task not in MODULES:
        raise UserError(f"task is {config.task!r}; it must be one of {', '.join(MODULES)}.")
    return MODULES[config.task]


def check_split(run, data, split):
    """Raises `UserError` if a split of these data is not that of the run's own.

    Args:
      run: a `run.Run`, of which an earlier version kept no fingerprint. data: what its task loads.
    """
    if run.data and run.data[split] != data.fingerprint()[split]:
        raise UserError(
            f"The {split} data found here ({data.source}) are not those of the run, which had"
            f" {run.data[split][0]:,}: put these back."
        )


def make(config, mesh):
    """The task of a configuration."""
    return module(config).Task(config, mesh)
