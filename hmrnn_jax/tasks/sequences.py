"""Real-valued sequences: handwriting, or anybody's measurements over time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from hmrnn_jax import parallel
from hmrnn_jax.analysis.segmenters import last_steps
from hmrnn_jax.batches.sequences import BucketStream, EvaluationSequences
from hmrnn_jax.datasets import iam_ondb, signals, synthetic
from hmrnn_jax.errors import UserError, require
from hmrnn_jax.models import mixture, stack
from hmrnn_jax.models.density import StrokeModel
from hmrnn_jax.tasks import metrics, objectives

NAMES = ("iam_ondb", "signals", "oscillators", "scribbles")
HANDWRITING = ("iam_ondb", "scribbles")
SYNTHETIC = ("oscillators", "scribbles")
WORDS = "ends of words"  # what handwriting's changes are
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
        self.stream = BucketStream(
            self.data.splits["train"],
            config.batch,
            config.seed,
            rows,
            config.window,
            config.buckets,
            config.longest,
            _QUANTUM,
        )
        self.model = model_of(config.model, self.data.scale)
        self.model.check(config.window or _QUANTUM, mesh)
        self.initial_carry = self.model.initial_carry
        self.init_params = functools.partial(init_params, self.model)
        wanted = objectives.Boundaries.of(config)
        self.boundaries = wanted.of_model(objectives.detectors(self.model))
        self._asked = self.boundaries.describe(wanted.lengths)
        require("boundaries.teacher", self.boundaries.teacher, ("none", "surprise"))
        self.loss = functools.partial(loss, self.model, boundaries=self.boundaries)
        self.summary = summary
        self._mesh, self._evaluation = mesh, config.evaluation
        self._rows = parallel.local_rows(config.evaluation.batch, mesh)
        carry = self.model.initial_carry(self._rows.stop - self._rows.start)
        self._carry = jax.device_get(carry)
        step = functools.partial(eval_step, self.model.inference)
        self._step = parallel.pmapped_evaluation(step, mesh)

    def fingerprint(self):
        return self.data.fingerprint()

    def scalars(self, done):
        return self.boundaries.scalars(done)

    def evaluate(self, params, split, slope, seed=0):
        batch, window = self._evaluation.batch, self._evaluation.window
        stream = EvaluationSequences(self.data.splits[split], batch, window)
        batches = (jax.tree.map(lambda x: x[:, self._rows], part) for part in stream)
        sums = parallel.accumulate(
            self._step, params, self._carry, batches, self._mesh, slope, seed
        )
        return sequence_summary(sums)

    def score(self, result):
        return result["nats"]

    def headline(self, result):
        return headline(result)

    def describe(self):
        stream = self.stream
        lengths = ", ".join(f"{end:,}" for end in stream.ends)
        if len(stream.ends) > _MOST_NAMED:
            lengths = f"{len(stream.ends)} lengths of {stream.ends[0]:,} to {stream.ends[-1]:,}"
        return (
            f"{self.data.describe()}\n"
            f"padded to {lengths} steps: {stream.padding:.1%} of an epoch's steps are padding"
            f"{self._asked}"
        )

    def finish(self, params, result, slope):
        return ""


def load(data):
    """The `SequenceCorpus` that a `config.data` names. Raises UserError."""
    require("data.name", data.name, NAMES)
    if data.path and data.name in SYNTHETIC:
        raise UserError(f"data.path goes with your own files, not with {data.name}: drop it.")
    if data.name == "iam_ondb":
        return iam_ondb.load(data.path or None, data.split, data.seed, data.clip)
    if data.name == "signals":
        if not data.path:
            raise UserError("The data 'signals' is your own: give data.path, a file or folder.")
        header = data.get("header", "guess")  # which older runs have not
        return signals.load(data.path, data.event, data.clip, tuple(data.columns), header)
    return getattr(synthetic, data.name)(data.seed)


def truths(data, scale, sequences):
    """What boundaries are scored against: `{name: (true ends, the steps that count)}`, bool `[N]`.

    These are the events of a `Scale` and, where they are known, the changes. The last step of a
    sequence does not count: it ends a segment, whatever is found. Nor do, against ends of words,
    lines without any, for these are lines whose words could not be told apart. What has no true
    end that counts is left out.

    Args:
      data: a `config.data`. sequences: `Sequences`, N steps in all.
    """
    inside = ~last_steps(sequences.lengths)
    changes = WORDS if data.name in HANDWRITING else "changes"
    found = {}
    for name, ends in ((scale.event, sequences.events), (changes, sequences.changes)):
        if ends is None:
            continue
        counted = inside.copy()
        if name == WORDS:
            known = np.logical_or.reduceat(ends, sequences.offsets[:-1])
            counted &= np.repeat(known, sequences.lengths)
        if np.any(counted & ends.astype(bool)):
            found[name] = ends.astype(bool), counted
    return found


def model_of(config, scale):
    """The `StrokeModel` that a `config.model` describes, for sequences of a `Scale`."""
    require("model.head", config.head, ("gated", "plain"))
    event = bool(scale.event)
    dimensions = len(scale.columns)
    return StrokeModel(
        dimensions=dimensions,
        event=event,
        cells=stack.cells_from(config, dimensions + event),
        output=config.output,
        head=config.head,
        components=config.components,
        policy=stack.policy_from(config),
    )


def init_params(model, key):
    """The model's parameters, drawn with `key`; shapes do not depend on batch or length."""
    inputs = np.zeros((1, 1, model.columns), np.float32)
    noise = np.zeros((1, 1, model.noise_width), np.float32)
    carry = jax.eval_shape(functools.partial(model.initial_carry, 1))
    return stack.init_params(model.inference, key, inputs, carry, noise=noise)


def _score(model, params, carry, batch, scalars, key):
    """`(output, nats [T, B], sums)`: nats, predictions and begun sequences of the rows, rates."""
    out = model.apply(
        {"params": params},
        batch.inputs,
        carry,
        resets=batch.resets,
        slope=scalars["slope"],
        noise=parallel.row_noise(key, model.noise_width, *batch.mask.shape),
    )
    targets = batch.targets
    values, events = targets[..., : model.dimensions], None
    if model.event:
        events = targets[..., model.dimensions]
    nll = mixture.negative_log_likelihood(out.mixture, values, events)
    sums = {
        "nats": jnp.sum(nll * batch.mask),
        "count": batch.mask.sum(),
        "sequences": jnp.sum(batch.resets * batch.mask),
    }
    return out, nll, sums | metrics.diagnostics(model, carry, out, batch, scalars["slope"])


def loss(model, params, carry, batch, scalars, key, *, boundaries=objectives.NOTHING):
    """The mean negative log-likelihood of the unmasked steps, in nats; see
    `training.state.train_step`.

    The papers sum over a sequence; a mean makes long and short batches weigh alike, so that
    the clipping of the gradient has one meaning. `boundaries`: what is asked of the detectors,
    with `scalars` as in `language.loss`; their teacher is `surprise`.
    """
    out, nll, sums = _score(model, params, carry, batch, scalars, key)
    value = parallel.share(sums["nats"], sums["count"])
    if boundaries.active:
        share, more = objectives.of_model(
            boundaries, model, params, batch.inputs, carry, out, batch, scalars["slope"], nll
        )
        value += scalars["objectives"] * share
        sums |= more
    return value, (out.carry, sums)


def eval_step(model, params, carry, batch, scalars):
    """Scores a window: the carry after it, and the sums; scalars as `language.eval_step`."""
    key = jax.random.fold_in(jax.random.key(scalars["seed"]), scalars["number"])
    out, _, sums = _score(model, params, carry, batch, scalars, key)
    return out.carry, parallel.total(sums)


def summary(sums):
    """Means and rates from the sums of `loss` or `eval_step`, as plain numbers.

    `nats` is the mean negative log-likelihood of a step.
    """
    nats = float(sums["nats"]) / float(sums["count"])
    return {"steps": int(sums["count"]), "nats": nats} | metrics.rates(sums)


def sequence_summary(sums):
    """As `summary`, of whole sequences, of which some windows of training are not made.

    `log_likelihood` is the sum over a sequence, averaged over sequences, in nats of
    standardised values (Chung et al. 2017, Table 3).
    """
    sequences = float(sums["sequences"])
    whole = {"sequences": int(sequences), "log_likelihood": -float(sums["nats"]) / sequences}
    return whole | summary(sums)


def headline(result):
    """The figure of the field, the log-likelihood of a sequence, if there is one; of a step."""
    step = f"{-result['nats']:.4f} a step"
    if "log_likelihood" not in result:
        return f"log-likelihood {step}"
    return f"log-likelihood {result['log_likelihood']:.2f} a sequence, {step}"
