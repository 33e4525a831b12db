"""Logical inference: which of seven relations holds between two formulas."""

import functools

import numpy as np

from hmrnn_jax import parallel
from hmrnn_jax.batches import pairs
from hmrnn_jax.datasets import logic
from hmrnn_jax.models import classifiers, stack
from hmrnn_jax.tasks import classification


class Task:
    """See `hmrnn_jax.tasks`; `test` is scored for each number of operators."""

    unit, counted = "pairs", "examples"
    name = "propositional logic"

    def __init__(self, config, mesh):
        parallel.check_batch(config.batch, mesh)
        parallel.check_batch(config.evaluation.batch, mesh)
        self.data = logic.load(config.data.path or None, longest=config.data.longest)
        self.encoding = self.data.vocabulary
        rows = parallel.local_rows(config.batch, mesh)
        devices = mesh.devices.size
        self.stream = pairs.PairStream(self.data.train, config.batch, config.seed, rows, devices)
        self.model = model_of(config.model, self.encoding)
        self.model.check(pairs.QUANTUM, mesh)
        self.loss = functools.partial(classification.loss, self.model)
        self.init_params = functools.partial(init_params, self.model)
        self.summary = classification.summary
        step = functools.partial(classification.eval_step, self.model)
        self._mesh, self._batch = mesh, config.evaluation.batch
        self._step = parallel.pmapped_evaluation(step, mesh)

    def initial_carry(self, rows):
        return ()

    def fingerprint(self):
        return self.data.fingerprint()

    def scalars(self, done):
        return {}

    def evaluate(self, params, split, slope):
        if split != "test":
            return self._score(params, getattr(self.data, split), slope)
        by_length = {n: self._score(params, test, slope) for n, test in self.data.test.items()}
        count = sum(result["examples"] for result in by_length.values())

        def mean(name):
            return sum(r[name] * r["examples"] for r in by_length.values()) / count

        result = {"examples": count, "nats": mean("nats"), "accuracy": mean("accuracy")}
        return result | {f"accuracy/length{n}": r["accuracy"] for n, r in by_length.items()}

    def _score(self, params, examples, slope):
        rows = parallel.local_rows(self._batch, self._mesh)
        devices = self._mesh.devices.size
        batches = pairs.EvaluationPairs(examples, self._batch, rows, devices)
        sums = parallel.accumulate(self._step, params, (), batches, self._mesh, slope)
        return classification.summary(sums)

    def score(self, result):
        return -result["accuracy"]

    def headline(self, result):
        return f"accuracy {result['accuracy']:.4f}  nats {result['nats']:.4f}"

    def describe(self):
        return self.data.describe()

    def finish(self, params, result, slope):
        return table({"this run": result})


def init_params(model, key):
    """The model's parameters, drawn with `key`."""
    one, end = np.zeros((1, 1), np.int32), np.zeros((2, 1), np.int32)
    batch = pairs.PairBatch(one, one, one > 0, end, end, one[0], one[0].astype(np.float32))
    return stack.init_params(model.inference, key, batch)


def model_of(config, vocabulary):
    """The `PairClassifier` that a `config.model` describes."""
    return classifiers.PairClassifier(
        vocabulary=vocabulary.size,
        embedding=config.embedding,
        cells=classifiers.cells_from(config, config.embedding),
        hidden=config.hidden,
        labels=len(logic.LABELS),
        dropout=config.dropout,
        input_dropout=config.input_dropout,
        policy=stack.policy_from(config),
    )


def table(results):
    """`{name: metrics}` of test results as a table of accuracies in %, a row a length."""
    first = next(iter(results.values()))
    lengths = [name for name in first if name.startswith("accuracy/length")]
    lines = [f"{'operators':>9}" + "".join(f"{name:>12}" for name in results)]
    for key in [*lengths, "accuracy"]:
        row = key.removeprefix("accuracy/length").replace("accuracy", "all")
        cells = "".join(f"{100 * result[key]:12.2f}" for result in results.values())
        lines.append(f"{row:>9}{cells}")
    return "\n".join(lines)
