"""Language modelling: the next symbol of a text, state carried from window to window."""

import functools

from hmrnn_jax import datasets, language, models, objectives, parallel, report
from hmrnn_jax.data import Stream, VariableStream
from hmrnn_jax.datasets.vocabulary import LINE_END
from hmrnn_jax.errors import UserError
from hmrnn_jax.evaluate import Evaluator
from hmrnn_jax.language import init_params

# What windows of random length are padded to multiples of: a step is compiled for each.
_PADDING = 5


class Task:
    """See `hmrnn_jax.tasks`."""

    counted = "symbols"

    def __init__(self, config, mesh):
        evaluation = config.evaluation
        parallel.check_batch(config.batch, mesh)
        parallel.check_batch(evaluation.batch, mesh)
        self.corpus = corpus(config)
        self.name, self.encoding = self.corpus.name, self.corpus.vocabulary
        unit = self.encoding.unit
        self.unit = "chars" if unit == "characters" else unit
        rows = parallel.local_rows(config.batch, mesh)
        arguments = (self.corpus.splits["train"], config.batch, config.window, rows)
        if config.window_random:
            self.stream = VariableStream(*arguments, config.seed, config.window_quantum, _PADDING)
        else:
            self.stream = Stream(*arguments)
        self.model = model_of(config.model, self.encoding).on(mesh)
        if config.window_random and self.model.policy.remat:
            raise UserError("model.remat needs windows of one length; set window_random=False.")
        self.model.check(config.window)
        self.init_params = functools.partial(init_params, self.model)
        self.initial_carry = self.model.initial_carry
        penalties = language.Penalties(**config.penalties)
        self.boundaries = objectives.Boundaries.of(config)
        newline = line_end(self.encoding)
        self.boundaries.check(objectives.detectors(self.model), newline is not None)
        self.loss = functools.partial(
            language.loss, self.model, penalties, boundaries=self.boundaries, newline=newline,
            padded=config.window_random and config.window_quantum < _PADDING,
        )  # fmt: skip
        self.summary = language.summary
        self._evaluator = Evaluator(
            self.model, mesh, evaluation.batch, evaluation.window, evaluation.warmup
        )
        for split in ("valid", "test"):
            self._evaluator.check(self.corpus.splits[split], f"{self.name}'s {split} split")
        self._view = config.finish == "view"

    def knobs(self, done):
        return self.boundaries.knobs(done)

    def evaluate(self, params, split, slope):
        return self._evaluator(params, self.corpus.splits[split], slope)

    def score(self, result):
        return result["nats"]

    def headline(self, result):
        return language.headline(result, self.encoding.unit)

    def describe(self):
        return self.corpus.describe()

    def finish(self, params, result):
        if not self._view:
            return ""
        return report.view(self.model, params, self.corpus, result["bpc"])


def corpus(config):
    """The text of a configuration."""
    data = config.data
    return datasets.load(data.name, path=data.path or None, unit=data.unit)


def line_end(vocabulary):
    """The id of the symbol that ends a line, or None."""
    symbol = {"characters": "\n", "bytes": ord("\n"), "words": LINE_END}[vocabulary.unit]
    return vocabulary.symbols.index(symbol) if symbol in vocabulary.symbols else None


def model_of(config, vocabulary):
    """The `LanguageModel` that a `config.model` describes."""
    return models.language_model(config, vocabulary.size)
