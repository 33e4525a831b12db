"""Images as sequences of patches: which of ten digits."""

import functools

import numpy as np

from hmrnn_jax import parallel
from hmrnn_jax.batches.images import EvaluationImages, ImageBatch, ImageStream
from hmrnn_jax.datasets import mnist
from hmrnn_jax.models import classifiers, stack
from hmrnn_jax.tasks import classification


class Task:
    """See `hmrnn_jax.tasks`.

    Validation's nats are the score, not its error: 5,000 images move the error in steps of
    0.02 %, so that epochs tie, and of a good network it rests on fewer than a hundred of them.
    """

    unit, counted = "images", "examples"
    encoding = None

    def __init__(self, config, mesh):
        parallel.check_batch(config.batch, mesh)
        parallel.check_batch(config.evaluation.batch, mesh)
        self._patch, self._batch, self._mesh = config.model.patch, config.evaluation.batch, mesh
        self.data = mnist.load(config.data.path or None)
        self.name = self.data.name
        train = self.data.splits["train"]
        rows = parallel.local_rows(config.batch, mesh)
        self.stream = ImageStream(
            train.images, train.labels, config.batch, config.seed, self._patch, rows
        )
        self.model = model_of(config.model)
        self.model.check(self.stream.steps, mesh)
        self.init_params = functools.partial(init_params, self.model)
        self.loss = functools.partial(classification.loss, self.model)
        self.summary = classification.summary
        step = functools.partial(classification.eval_step, self.model)
        self._step = parallel.pmapped_evaluation(step, mesh)

    def initial_carry(self, rows):
        return ()

    def fingerprint(self):
        return self.data.fingerprint()

    def scalars(self, done):
        return {}

    def evaluate(self, params, split, slope):
        part, rows = self.data.splits[split], parallel.local_rows(self._batch, self._mesh)
        batches = EvaluationImages(part.images, part.labels, self._batch, self._patch, rows)
        sums = parallel.accumulate(self._step, params, (), batches, self._mesh, slope)
        return classification.summary(sums)

    def score(self, result):
        return result["nats"]

    def headline(self, result):
        return f"error {result['error']:.2f} %  nats {result['nats']:.4f}"

    def describe(self):
        return self.data.describe()

    def finish(self, params, result, slope):
        return table({"this run": result})


def model_of(config, encoding=None):
    """The `Classifier` that a `config.model` describes; images have no encoding."""
    return classifiers.Classifier(
        cells=classifiers.cells_from(config, config.patch**2),
        labels=mnist.LABELS,
        dropout=config.dropout,
        policy=stack.policy_from(config),
    )


def init_params(model, key):
    """The model's parameters, drawn with `key`; shapes do not depend on batch or steps."""
    inputs = np.zeros((1, 1, model.cells[0].input_size), np.float32)
    batch = ImageBatch(inputs, np.zeros(1, np.int32), np.ones(1, np.float32))
    return stack.init_params(model.inference, key, batch)


def table(results):
    """`{name: metrics}` of one split as a table, a row a run."""
    width = max(map(len, results))
    lines = [f"{'':{width}}{'images':>9}{'error %':>9}{'nats':>9}"]
    for name, result in results.items():
        numbers = f"{result['examples']:>9,}{result['error']:9.2f}{result['nats']:9.4f}"
        lines.append(f"{name:{width}}{numbers}")
    return "\n".join(lines)
