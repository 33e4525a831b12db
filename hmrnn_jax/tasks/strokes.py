"""Real-valued sequences: handwriting, or anybody's measurements over time."""

import functools

import jax

from hmrnn_jax import buckets, models, objectives, parallel, strokes
from hmrnn_jax.datasets import handwriting, signals, synthetic
from hmrnn_jax.errors import UserError, require
from hmrnn_jax.strokes import init_params

NAMES = ("iam_ondb", "signals", "oscillators", "scribbles")
_QUANTUM = 10
_MOST_NAMED = 20  # lengths that the log names one by one


class Task:
    """See `hmrnn_jax.tasks`. The state starts anew with every sequence."""

    unit, counted = "steps", "steps"

    def __init__(self, config, mesh):
        parallel.check_batch(config.batch, mesh)
        parallel.check_batch(config.evaluation.batch, mesh)
        self.data = load(config.data)
        self.name, self.encoding = self.data.name, self.data.scale
        rows = parallel.local_rows(config.batch, mesh)
        self.stream = buckets.BucketStream(
            self.data.splits["train"],
            config.batch,
            config.seed,
            rows,
            config.window,
            config.buckets,
            config.longest,
            _QUANTUM,
        )
        self.model = model_of(config.model, self.data.scale).on(mesh)
        self.model.check(config.window or _QUANTUM)
        self.initial_carry = self.model.initial_carry
        self.init_params = functools.partial(init_params, self.model)
        self.boundaries = objectives.Boundaries.of(config)
        self.boundaries.check(objectives.detectors(self.model))
        require("boundaries.teacher", self.boundaries.teacher, ("none", "surprise"))
        self.loss = functools.partial(strokes.loss, self.model, boundaries=self.boundaries)
        self.summary = strokes.summary
        self._mesh, self._evaluation = mesh, config.evaluation
        self._rows = parallel.local_rows(config.evaluation.batch, mesh)
        carry = self.model.initial_carry(self._rows.stop - self._rows.start)
        self._carry = jax.device_get(carry)
        step = functools.partial(strokes.eval_step, self.model.inference)
        self._step = parallel.pmapped_evaluation(step, mesh)

    def knobs(self, done):
        return self.boundaries.knobs(done)

    def evaluate(self, params, split, slope, seed=0):
        batch, window = self._evaluation.batch, self._evaluation.window
        stream = buckets.EvaluationSequences(self.data.splits[split], batch, window)
        batches = (jax.tree.map(lambda x: x[:, self._rows], part) for part in stream)
        sums = parallel.accumulate(
            self._step, params, self._carry, batches, self._mesh, slope, seed
        )
        return strokes.whole_summary(sums)

    def score(self, result):
        return result["nats"]

    def headline(self, result):
        return strokes.headline(result)

    def describe(self):
        stream = self.stream
        lengths = ", ".join(f"{end:,}" for end in stream.ends)
        if len(stream.ends) > _MOST_NAMED:
            lengths = f"{len(stream.ends)} lengths of {stream.ends[0]:,} to {stream.ends[-1]:,}"
        return (
            f"{self.data.describe()}\n"
            f"padded to {lengths} steps: {stream.padding:.1%} of an epoch's steps are padding"
        )

    def finish(self, params, result):
        return ""


def load(data):
    """The `SequenceCorpus` that a `config.data` names. Raises UserError."""
    require("data.name", data.name, NAMES)
    if data.path and data.name in ("oscillators", "scribbles"):
        raise UserError(f"data.path goes with your own files, not with {data.name}: drop it.")
    if data.name == "iam_ondb":
        return handwriting.load(data.path or None, data.split, data.seed, data.clip)
    if data.name == "signals":
        if not data.path:
            raise UserError("The data 'signals' is your own: give data.path, a file or folder.")
        header = data.get("header", "guess")  # which older runs have not
        return signals.load(data.path, data.event, data.clip, tuple(data.columns), header)
    return getattr(synthetic, data.name)(data.seed)


def model_of(config, scale):
    """The `StrokeModel` that a `config.model` describes, for sequences of a `Scale`."""
    require("model.head", config.head, ("gated", "plain"))
    event = bool(scale.event)
    dimensions = len(scale.columns)
    return strokes.StrokeModel(
        dimensions=dimensions,
        event=event,
        cells=models.cells_from(config, dimensions + event),
        output=config.output,
        head=config.head,
        components=config.components,
        policy=models.policy_from(config),
    )
