"""Language modelling: the next symbol of a text, state carried from window to window."""

import functools
import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hmrnn_jax import datasets, files, parallel
from hmrnn_jax.analysis import ngram
from hmrnn_jax.analysis.boundaries import text_view
from hmrnn_jax.batches.text import EvaluationStream, Stream, VariableStream
from hmrnn_jax.datasets import segmented
from hmrnn_jax.errors import UserError
from hmrnn_jax.inference import activations, readings
from hmrnn_jax.models import stack, uncertainty
from hmrnn_jax.models.language import language_model
from hmrnn_jax.tasks import objectives
from hmrnn_jax.tasks.metrics import BITS, cross_entropy, diagnostics, perplexity, rates

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
        self.model = model_of(config.model, self.encoding)
        if config.window_random and self.model.policy.remat:
            raise UserError("model.remat needs windows of one length; set window_random=False.")
        self.model.check(config.window, mesh)
        self.init_params = functools.partial(init_params, self.model)
        self.initial_carry = self.model.initial_carry
        penalties = Penalties(**config.penalties)
        newline, wanted = self.encoding.line_end, objectives.Boundaries.of(config)
        self.boundaries = wanted.of_model(objectives.detectors(self.model), newline is not None)
        train = self.corpus.splits["train"]
        taught, said = given_segments(self.boundaries, self.corpus)
        self._asked = self.boundaries.describe(wanted.lengths) + said
        arguments = (train, config.batch, config.window, parallel.local_rows(config.batch, mesh))
        if config.window_random:
            quantum = config.window_quantum
            self.stream = VariableStream(*arguments, config.seed, quantum, _PADDING, taught)
        else:
            self.stream = Stream(*arguments, taught)
        self.loss = functools.partial(
            loss, self.model, penalties, boundaries=self.boundaries, newline=newline,
            padded=config.window_random and config.window_quantum < _PADDING,
        )  # fmt: skip
        self.summary = summary
        self._evaluator = Evaluator(
            self.model, mesh, evaluation.batch, evaluation.window, evaluation.warmup
        )
        for split in ("valid", "test"):
            self._evaluator.check(self.corpus.splits[split], f"{self.name}'s {split} split")
        self._view = config.finish == "view"

    def fingerprint(self):
        found, asked = self.corpus.fingerprint(), self.boundaries
        if asked.teacher == "segments" and asked.lengths:
            content = files.read_bytes(asked.segments)
            found["segments"] = [len(content), zlib.crc32(content)]
        return found

    def scalars(self, done):
        return self.boundaries.scalars(done)

    def evaluate(self, params, split, slope):
        return self._evaluator(params, self.corpus.splits[split], slope)

    def score(self, result):
        return result["nats"]

    def headline(self, result):
        return headline(result, self.encoding.unit)

    def describe(self):
        return self.corpus.describe() + self._asked

    def finish(self, params, result, slope):
        if not self._view:
            return ""
        return view(self.model, params, self.corpus, result["bpc"], slope, self.boundaries.delay)


def given_segments(boundaries, corpus):
    """`(taught, said)`: what the training `Stream` has for a teacher of `objectives.GIVEN`.

    taught is uint8 [N], see `objectives.given`, and said a line on it; None and nothing for another
    teacher.
    """
    if boundaries.teacher not in objectives.GIVEN or not boundaries.lengths:
        return None, ""
    ids, delay = corpus.splits["train"], boundaries.delay
    if boundaries.teacher == "segments":
        whose, layers = boundaries.segments, len(boundaries.lengths)
        symbols = corpus.vocabulary.symbol_strings(ids)
        ends, reached = segmented.read_segments(whose, symbols, layers)
    else:
        whose, name = "an n-gram model", boundaries.teacher
        asked = [readings.Reading.of(name, boundaries.lengths[0])]
        ends, reached = readings.of_ngram(corpus, asked, ids)[name] > 0, [len(ids)]
        # It knows what it has counted: there it cuts less often than in the validation text.
        whose += f", on average of {len(ids) / max(1, ends.sum()):.1f} symbols,"
    taught = np.zeros(len(ids), np.uint8)
    for layer, (fired, end) in enumerate(zip(ends, reached, strict=True)):
        late = np.concatenate([np.zeros(delay, bool), fired])[: len(ids)]
        taught |= objectives.given(layer, late)
        taught[end + delay :] &= ~objectives.given(layer, True)
        taught[:delay] = 0
    shares = ", ".join(
        f"layer {layer} along {end / len(ids):.0%}" for layer, end in enumerate(reached, 1) if end
    )
    return taught, f"\nsegments of {whose} are taught: {shares} of the training text"


def corpus(config):
    """The text of a configuration."""
    data = config.data
    return datasets.load(data.name, path=data.path or None, unit=data.unit)


def corpus_of(run):
    """The text that a run was trained with.

    Raises:
      UserError: it is not here, or another one is.
    """
    found = corpus(run.config)
    other = "vocabulary" if found.vocabulary != run.encoding else ""
    if not other and run.data and found.fingerprint() != run.data:
        other = "text"
    if other:
        raise UserError(
            f"The corpus {found.name} found here has another {other} than the run's: it is not the"
            " one that the run was trained on. A file of your own is read by --text."
        )
    return found


def model_of(config, vocabulary):
    """The `LanguageModel` that a `config.model` describes."""
    return language_model(config, vocabulary.size)


def init_params(model, key):
    """The model's parameters, drawn with `key`; shapes do not depend on batch or window."""
    ids = np.zeros((1, 1), np.int32)
    noise = np.zeros((1, 1, model.noise_width), np.float32)
    carry = jax.eval_shape(functools.partial(model.initial_carry, 1))
    return stack.init_params(model.inference, key, ids, carry, noise=noise)


class Penalties(NamedTuple):
    """Weights of what is added to the loss (Merity, Keskar, Socher 2018).

    Attributes:
      activation: AR, of the mean square of what the softmax reads: h of the last layer, or with
        the gated head what the output module makes of all layers, h^e.
      temporal: TAR, of the mean square of its change from step to step.
      after_dropout: whether AR reads the dropped output, as in AWD-LSTM's code, or the
        undropped one, as in the ON-LSTM's. TAR reads the undropped one in both.
    """

    activation: float = 0.0
    temporal: float = 0.0
    after_dropout: bool = False


def loss(
    model, penalties, params, carry, batch, scalars, key, *, padded=False,
    boundaries=objectives.NOTHING, newline=None,
):  # fmt: skip
    """The mean negative log-likelihood of the unmasked steps, in nats, and what is added to it.

    Args:
      model: a `LanguageModel`. penalties: `Penalties`. Both static.
      carry, batch: this device's rows. scalars: `{slope}`, and with boundary objectives
        `objectives`, the factor of their weights. key: of the update.
      padded: whether windows may end in steps that do not count and the next window goes on
        before these. boundaries: what is asked of the detectors. newline: id of the symbol that
        ends a line, for its teacher `line_end`. All static.

    Returns `(share, (carry, sums))`; `sums`: `nats`, `count` and those of `diagnostics`.
    """
    rows = batch.mask.shape[1]
    # Apart: a row's noise and the first mask would be the same draws otherwise.
    mask_key, noise_key = jax.random.split(key)
    masks = model.masks(params, mask_key, rows, parallel.first_row(rows))
    out = model.apply(
        {"params": params},
        batch.inputs,
        carry,
        resets=batch.resets,
        slope=scalars["slope"],
        noise=parallel.row_noise(noise_key, model.noise_width, *batch.mask.shape),
        masks=masks,
    )
    nats = cross_entropy(out.logits, batch.targets, batch.mask)
    value = parallel.share(nats, batch.mask.sum())
    plain, dropped = out.top
    for weight, function, h in (
        (penalties.activation, activation_penalty,
         dropped if penalties.after_dropout else plain),
        (penalties.temporal, temporal_penalty, plain),
    ):  # fmt: skip
        if weight:
            total, number = function(h, batch.mask)
            value += parallel.share(weight * total, number)
    sums = {"nats": nats, "count": batch.mask.sum()}
    if boundaries.active:
        taught = None
        if boundaries.teacher in objectives.GIVEN:
            taught = batch.taught
        elif boundaries.teacher != "none":
            taught = uncertainty.of(boundaries.teacher, out.logits, batch.targets, newline)
        share, more = objectives.of_model(
            boundaries, model, params, model.read(params["embedding"], batch.inputs, masks),
            carry, out, batch, scalars["slope"], taught,
        )  # fmt: skip
        value += scalars["objectives"] * share
        sums |= more
    sums |= diagnostics(model, carry, out, batch, scalars["slope"])
    after = out.carry
    if padded:
        last = batch.mask[:, 0].sum().astype(int) - 1
        after = jax.tree.map(lambda states: states[last], out.states)
    return value, (after, sums)


def eval_step(model, params, carry, batch, scalars):
    """Scores a window: returns the carry and the sums of `loss`'s metrics.

    `scalars` are `{slope, seed, number}`; detectors in `sample` mode draw from the last two,
    the seed of the evaluation and the window's number.
    """
    key = jax.random.fold_in(jax.random.key(scalars["seed"]), scalars["number"])
    out = model.apply(
        {"params": params},
        batch.inputs,
        carry,
        resets=batch.resets,
        slope=scalars["slope"],
        noise=parallel.row_noise(key, model.noise_width, *batch.mask.shape),
    )
    nats = cross_entropy(out.logits, batch.targets, batch.mask)
    sums = diagnostics(model, carry, out, batch, scalars["slope"])
    metrics = {"nats": nats, "count": batch.mask.sum(), **sums}
    return out.carry, parallel.total(metrics)


def summary(sums):
    """Means and rates from the sums of `loss` or `eval_step`, as plain numbers."""
    count = float(sums["count"])
    nats = float(sums["nats"]) / count
    return {"symbols": int(count), "nats": nats, "bpc": nats * BITS} | rates(sums)


def headline(result, unit):
    """The figure of the field: bits per character (or byte), perplexity per word."""
    if unit == "words":
        return f"perplexity {perplexity(result['nats']):.2f}"
    return f"bpc {result['bpc']:.4f}"


def activation_penalty(h, mask):
    """AR, sums: `(sum of h^2 over unmasked steps, number of such values)`; h is `[T, B, H]`."""
    return jnp.sum(jnp.square(h) * mask[..., None]), mask.sum() * h.shape[-1]


def temporal_penalty(h, mask):
    """TAR, sums: as `activation_penalty` of h_t - h_{t-1} within the window."""
    if h.shape[0] < 2:
        return jnp.zeros(()), jnp.ones(())
    return activation_penalty(h[1:] - h[:-1], mask[1:] * mask[:-1])


class Evaluator:
    """Scores splits with one compiled step.

    Args:
      model: a `LanguageModel`. mesh: of `parallel.make_mesh`.
      batch: rows that a split is divided in, a multiple of the devices. 1 carries the
        state from the first symbol to the last; with more, each row first reads the
        `warmup` symbols before its part, unscored, so that its state is nearly the same.
      window: steps for each call. warmup: symbols.
    """

    def __init__(self, model, mesh, batch, window, warmup):
        self.mesh, self.batch, self.window, self.warmup = mesh, batch, window, warmup
        self._rows = parallel.local_rows(batch, mesh)
        carry = model.initial_carry(self._rows.stop - self._rows.start)
        self._carry = jax.device_get(carry)
        step = functools.partial(eval_step, model.inference)
        self._step = parallel.pmapped_evaluation(step, mesh)

    def check(self, ids, name):
        """Raises `UserError` if a text, called `name` in the message, cannot be scored."""
        try:
            EvaluationStream(ids, self.batch, self.window, self.warmup)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None

    def __call__(self, params, ids, slope=1.0, seed=0):
        """Scores `ids [N]`: every symbol but the first is predicted once.

        Returns `{symbols, nats, bpc, ...}`: nats is the mean, and the rates of
        `summary` follow. `slope` matters to `soft` and `sample` detectors only.
        """
        stream = EvaluationStream(ids, self.batch, self.window, self.warmup)
        batches = (jax.tree.map(lambda x: x[:, self._rows], batch) for batch in stream)
        sums = parallel.accumulate(self._step, params, self._carry, batches, self.mesh, slope, seed)
        return summary(sums)


def view(model, params, corpus, bpc, slope=1.0, delay=0, length=540):
    """The score beside an n-gram baseline's, and the boundaries at the start of the test text.

    Args:
      slope: of the detectors.
      delay: steps after a segment's last one at which its boundary was taught.
    """
    (train, counted), test = corpus.counted(), corpus.splits["test"]
    size = corpus.vocabulary.size
    baseline = ngram.interpolated_ngram_bpc(train, test, size, order=4)
    z, _ = activations.of(model, params, test[:length], slope)
    z = [np.append(fired[delay:], fired[:delay] * 0) for fired in z]
    text = corpus.vocabulary.symbol_strings(test[:length])
    return "\n".join(
        [
            f"interpolated n-gram, 4 symbols of context, {counted}: {baseline:.4f} bpc",
            f"this model: {bpc:.4f} bpc",
            "",
            f"boundaries in the first {len(text)} {corpus.vocabulary.unit} of the test text:"
            if z
            else "",
            text_view(text, z, **activations.counted(model)) if z else "",
        ]
    ).rstrip()
