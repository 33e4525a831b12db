"""Objectives for boundaries: wanted segment lengths, and the model's own uncertainty as a teacher.

A recurrent network that predicts what comes next is least certain where a segment has just ended
(Harris 1955; Elman 1990), and so knows where words end, whatever its detectors do. Here that
knowledge teaches them, without a label (Nawrot et al. 2023 for a Transformer's boundaries). With
x a detector's pre-activation, a the slope and p = sigmoid(2 a x), the logistic function with the
hard sigmoid's derivative at 0:

* the teacher: targets e_t = 1 at the peaks of an uncertainty u_t, the highest 1/N of them, and
  the mean of the cross-entropy BCE(p_t, e_t) is added to the loss. u has no gradient;
* or segments of the training text that are known before, whose ends are the targets e_t: those that
  an n-gram model of that text cuts it in where a line break would suit it, or those of a file, such
  as another model's;
* the rate: N/(N-1) ((N-1) F G + (1-F)(1-G)) with F = mean z, without gradient, and G = mean p
  (the ratio loss of Hwang, Wang, Gu 2025), least where F = G = 1/N; or a hinge on G, which acts
  outside 2/3 to 3/2 of 1/N alone.

N is the wanted mean length of a layer's segments, counted in segments of the layer below: all of
this is over the steps where the layer below has a boundary.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hmrnn_jax import parallel
from hmrnn_jax.analysis import segmenters
from hmrnn_jax.cells import hm_lstm_window
from hmrnn_jax.errors import UserError, require
from hmrnn_jax.inference.readings import Reading

TEACHERS = ("none", "entropy", "line_end", "surprise", "line_break", "segments")
GIVEN = ("line_break", "segments")  # known before training begins
RATES = ("none", "ratio", "hinge")
MOST_GIVEN = 4  # layers of given segments


class Boundaries(NamedTuple):
    """What is asked of the detectors beside the likelihood of the data.

    Attributes:
      lengths: wanted mean length of each layer's segments, lowest first, in segments of the layer
        below (symbols or steps under the first); of so many layers. () asks nothing.
      teacher: whose peaks are taught: `entropy` of the prediction; `line_end`, the probability of
        a newline in it; `surprise`, the negative log-likelihood of what does come next; or, to the
        lowest layer, `line_break`, by how much a newline here would make the text likelier, to an
        n-gram model of it (`inference.readings.of_ngram`); or `segments`, those of a file; `none`.
      teacher_weight: of the cross-entropy.
      rate: `ratio`, `hinge` or `none`.
      rate_weight: of the rate's loss.
      reaches_below: whether these losses' gradient goes on below the detectors, into the layers
        that they read. Where a boundary is a function of the symbol (a space) it need not;
        where it is not, the states must learn it.
      delay: steps after a segment's last one at which its boundary is taught. With 1 a detector
        has read what comes next, as a peak of `line_end` or `entropy` and any `surprise` is only
        known then; its boundaries then say that a segment ended at the step before.
      segments: the file of the teacher `segments`, of the training text, see
        `datasets.segmented.read_segments`; so many layers of it are read as there are lengths.
        Where it has none, as beyond its end, nothing is taught.
      start, ramp: updates before the objectives set in, and over which their weights then grow:
        an untrained model's uncertainty is noise.
      positive_weight: of the steps that are taught a boundary, relative to the others: with w a
        detector fires where a boundary is likelier than 1 / (1 + w). With 1 it stays silent where
        boundaries are rare and their very step uncertain, as none is then likelier than not.
    """

    lengths: tuple = ()
    teacher: str = "none"
    teacher_weight: float = 0.3
    rate: str = "none"
    rate_weight: float = 0.03
    reaches_below: bool = True
    delay: int = 0
    start: int = 0
    ramp: int = 0
    segments: str = ""
    positive_weight: float = 1.0

    def of_model(self, detectors, newline=True):
        """What of it can be asked of a model of so many `detectors`: of their layers.

        Raises:
          UserError: it can be asked of no model, or not of this text, whose lines have no
            `newline`.
        """
        require("boundaries.teacher", self.teacher, TEACHERS)
        require("boundaries.rate", self.rate, RATES)
        if (self.teacher, self.rate) != ("none", "none") and not self.lengths:
            raise UserError(
                "boundaries.lengths is empty; give the wanted mean segment length of each layer,"
                " for example --config.boundaries.lengths='(6, 5)'."
            )
        if any(not length > 1 for length in self.lengths):
            raise UserError(f"boundaries.lengths is {self.lengths}; each must be more than 1.")
        if (self.teacher == "segments") != bool(self.segments):
            raise UserError(
                f"boundaries.teacher is {self.teacher!r} and boundaries.segments"
                f" {self.segments!r}: the teacher segments, and no other, reads a file of segments,"
                " as hmrnn segment --split=train writes it."
            )
        if self.teacher in GIVEN and len(self.lengths) > MOST_GIVEN:
            raise UserError(f"The teacher {self.teacher} has {MOST_GIVEN} layers at most.")
        if self.teacher in ("line_end", "line_break") and not newline:
            raise UserError(
                f"boundaries.teacher={self.teacher} needs a text with lines; it has none."
            )
        return self._replace(lengths=self.lengths[:detectors])

    def describe(self, wanted):
        """A line for the log: which of the `wanted` lengths are asked; nothing if none was wanted.

        Args:
          wanted: the lengths before `of_model`.
        """
        if not wanted:
            return ""
        if (self.teacher, self.rate) == ("none", "none"):
            return (
                "\ndetectors: nothing teaches them, and boundaries.lengths are those of readings"
                " alone; choose boundaries.teacher, boundaries.rate or both to have them taught"
            )
        # That teacher is of the lowest layer alone; a rate is asked of every one.
        lowest = (self.teacher, self.rate) == ("line_break", "none")
        used = self.lengths[:1] if lowest else self.lengths
        lengths = ", then ".join(f"{length:g}" for length in used)
        asked = f"segments of about {lengths} are asked for" if lengths else "nothing is asked"
        less = len(wanted) - len(self.lengths)
        rest = f"; {less} of the wanted lengths: no detector has that layer" if less else ""
        return f"\ndetectors: {asked}{rest}"

    @classmethod
    def of(cls, config):
        """What a run's `config` asks; a run may be older than these fields."""
        asked = cls(**config.get("boundaries", {}))
        return asked._replace(lengths=tuple(asked.lengths))

    @property
    def active(self):
        """Whether anything is asked."""
        return bool(self.lengths) and (self.teacher, self.rate) != ("none", "none")

    def weight(self, done):
        """Factor of both weights in the update after `done`."""
        if done < self.start:
            return 0.0
        return min(1.0, (done - self.start + 1) / self.ramp) if self.ramp else 1.0

    def scalars(self, done):
        """The scalars that the loss of the update after `done` takes."""
        return {"objectives": self.weight(done)} if self.active else {}


NOTHING = Boundaries()


def first_length(config):
    """The wanted mean length of the first layer's segments in a run's `config`; 0 if none is."""
    return next(iter(Boundaries.of(config).lengths), 0)


def readings_asked(config, cut, others=()):
    """The `inference.readings.Reading`s of a run's `config`, yet to be calibrated.

    Args:
      cut: an `inference.readings.Cut`. others: names of readings that are asked for beside it, of
        the same length and rule; its threshold is of its own curve.
    """
    own, delay = first_length(config), Boundaries.of(config).delay

    def asked(name, length, threshold=None):
        return Reading.of(name, own if length is None else length, cut.rule, delay, threshold)

    of_first = 0 if cut.threshold is not None and cut.length is None else cut.length
    first = asked(cut.reading, of_first, cut.threshold)
    return [first, *(asked(name, cut.length) for name in others)]


def detectors(model):
    """Number of boundary detectors of a model; objectives need one HM-LSTM as its cells."""
    (config, *others) = model.cells
    return config.depth - 1 if config.uses_slope and not others else 0


def peaks(values, allowed, length, ahead):
    """Where `values` have a peak that is among the highest `1/length` of the allowed steps.

    Args:
      values: `[T, B]`. allowed: bool `[T, B]`; the steps in between do not exist for this.
      length: N.
      ahead: a peak is higher than the step before and no lower than the one after; False: it is
        higher than the two before.

    Returns `(targets, known)`, bool `[T, B]`: peaks; and where that is certain, as the steps
    before and after lie in the window. The highest are so among the rows of all devices.
    Lengths for which peaks lie too far apart take all of the highest, as readings do.
    """
    if segmenters.rule_for(length) == "level":
        return allowed & (values >= threshold(values, allowed, length)), allowed
    before = _step_before(allowed)
    if ahead:
        other = len(values) - 1 - _step_before(allowed[::-1])[::-1]
        other = jnp.where(other < len(values), other, -1)  # the one after
    else:
        other = jnp.where(before < 0, -1, _at(before, before))
    known = allowed & (before >= 0) & (other >= 0)
    targets = (
        known & (values > _at(values, before)) & (values >= threshold(values, allowed, length))
    )
    targets &= (values >= _at(values, other)) if ahead else (values > _at(values, other))
    return targets, known


def _step_before(allowed):
    """The last allowed step before each, -1 where there is none; int `[T, B]`."""
    steps = jnp.where(allowed, jnp.arange(len(allowed))[:, None], -1)
    return jnp.pad(jax.lax.cummax(steps, axis=0), ((1, 0), (0, 0)), constant_values=-1)[:-1]


def _at(values, steps):
    """`values [T, B]` of the steps `[T, B]` of each row, of any where these are -1."""
    return jnp.take_along_axis(values, jnp.maximum(steps, 0), axis=0)


def threshold(values, allowed, length):
    """The value that `1/length` of the allowed ones of all devices reach, a scalar."""
    values, allowed = parallel.gathered((values, allowed))
    most = math.ceil(values.size / length)
    highest, _ = jax.lax.top_k(jnp.where(allowed, values, -jnp.inf).ravel(), most)
    above = jnp.sum(allowed) / length
    return highest[jnp.clip(above.astype(int) - 1, 0, most - 1)]


def loss(boundaries, teacher, x, z, mask, slope):
    """This device's share of the objectives' losses, and sums for the metrics.

    Args:
      boundaries: `Boundaries`, static.
      teacher: u `[T, B]`; uint8 of given segments, see `given`; None without a teacher.
      x, z: pre-activations and boundaries of the detectors, lowest first, `[T, B]` each.
      mask: `[T, B]`, 1 where a step counts.
      slope: a, a scalar.

    Returns `(share, sums)`; `sums` has `taught` (sum of the cross-entropy), `targets` (of e) and
    `teachable` (number of steps), `[layers]` each, with a teacher.
    """
    share, sums, allowed = 0.0, [], mask > 0
    are_given = boundaries.teacher in GIVEN
    # Whether the step after a possible peak is known when its boundary is taught.
    ahead = boundaries.teacher != "entropy" or boundaries.delay > 0
    if not are_given and boundaries.teacher != "none":
        u = jnp.roll(jax.lax.stop_gradient(teacher), boundaries.delay, axis=0)
        own = (jnp.arange(len(u)) >= boundaries.delay)[:, None]  # not rolled in from the end
    for layer, (length, pre, fired) in enumerate(zip(boundaries.lengths, x, z, strict=False)):
        logit = 2 * slope * pre
        if boundaries.rate != "none":
            share += boundaries.rate_weight * _rate(boundaries.rate, length, logit, fired, allowed)
        if boundaries.teacher != "none":
            if are_given:
                targets, known = (teacher & bits > 0 for bits in _bits(layer))
                known &= allowed
                targets &= known
            else:
                targets, known = peaks(u, allowed & own, length, ahead)
            costs = optax.sigmoid_binary_cross_entropy(logit, targets.astype(logit.dtype))
            if boundaries.positive_weight != 1:
                costs *= jnp.where(targets, boundaries.positive_weight, 1)
            cost, number = jnp.sum(costs * known), jnp.sum(known)
            share += parallel.share(boundaries.teacher_weight * cost, number)
            sums.append((cost, jnp.sum(targets, dtype=cost.dtype), number.astype(cost.dtype)))
        allowed &= fired > 0
    names = ("taught", "targets", "teachable")
    columns = zip(names, zip(*sums, strict=True), strict=True) if sums else ()
    return share, {name: jnp.stack(column) for name, column in columns}


def given(layer, fired):
    """uint8 `[N]`: how given segments are coded for the loss, of one layer, counted from 0.

    A bit says that the layer is taught at a step, another that it is taught a boundary there.

    Args:
      fired: bool `[N]`, where a segment ends.
    """
    boundary, known = _bits(layer)
    return np.where(fired, boundary | known, known).astype(np.uint8)


def _bits(layer):
    return 1 << layer, 1 << layer + MOST_GIVEN


def of_model(boundaries, model, params, x, carry, out, batch, slope, teacher):
    """`loss` of a model's output.

    Args:
      model: with one HM-LSTM as its cells. x: the cell's inputs `[T, B, n]`.
      carry: the states before the window. out: what the model returned for `batch`.
    """
    (config,), (states,), (aux,), (first,) = model.cells, out.states, out.aux, carry
    pre = aux.x
    if not boundaries.reaches_below:
        before = hm_lstm_window.before_each_step(config, first, states, batch.resets)
        known = jax.lax.stop_gradient((x, before, states))
        pre = hm_lstm_window.detectors(config, params["cell1"], *known)
    return loss(boundaries, teacher, pre, states.z, batch.mask, slope)


def _rate(kind, length, logit, fired, allowed):
    """This device's share of a layer's rate loss."""
    local = jnp.sum(allowed, dtype=logit.dtype)
    count, firing = parallel.total((local, jnp.sum(fired * allowed)))
    count = jnp.maximum(count, 1)
    # Of this device's steps; all devices' shares add up to the mean.
    mean = jnp.sum(jax.nn.sigmoid(logit) * allowed) / count
    if kind == "ratio":
        f = jax.lax.stop_gradient(firing / count)
        return length / (length - 1) * ((length - 1) * f * mean + (1 - f) * (local / count - mean))
    wanted, g = 1 / length, jax.lax.stop_gradient(parallel.total(mean))
    excess = (g > 1.5 * wanted).astype(mean.dtype) * (mean - 1.5 * wanted * local / count)
    lack = (g < wanted / 1.5).astype(mean.dtype) * (wanted / 1.5 * local / count - mean)
    return length * (excess + lack)
