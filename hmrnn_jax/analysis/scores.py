"""Scores of boundaries against true ones, beside those of detectors that have learnt nothing.

Arrays of boundaries are time-major, `[T]` for one sequence or `[T, B]` for B sequences of T
steps; z of several layers is a list of them.
"""

import bisect
import functools

import numpy as np

from hmrnn_jax.analysis import segmenters
from hmrnn_jax.errors import UserError

_NAMES = ("precision", "recall", "f1")
EVERY = "every"  # stands for the layer where a boundary is put after every step


def checked(z):
    """The boundaries as a list of boolean arrays of one shape, `[T]` or `[T, B]`.

    Raises:
      UserError: there are none, their shapes differ, or values are not 0/1.
    """
    arrays = [np.asarray(layer) for layer in z]
    if not arrays:
        raise UserError("There are no boundaries to look at: give z of at least one layer.")
    for number, layer in enumerate(arrays, 1):
        if layer.ndim not in (1, 2) or layer.shape != arrays[0].shape:
            raise UserError(
                f"z of layer {number} has shape {layer.shape}, layer 1 has {arrays[0].shape}: "
                "give every layer as [T] or [T, B], all of one shape."
            )
        if not np.all((layer == 0) | (layer == 1)):
            raise UserError(
                f"z of layer {number} holds values other than 0 and 1: "
                "threshold soft boundaries first, for example z > 0.5."
            )
    return [layer.astype(bool) for layer in arrays]


def precision_recall_f1(pred, gold, shift=0, mask=None, tolerance=0):
    """Micro-averaged precision, recall and F1 of predicted against true boundaries.

    The prediction at t + shift is compared with gold at t; steps without a
    partner inside the sequence are dropped. 0/0 counts as 0.

    With a tolerance of k steps, the margin of the literature on change points (van den
    Burg, Williams 2020), a prediction up to k steps before or after a true boundary of
    the same sequence hits it. No boundary of either kind is part of two hits: true ones,
    in order of time, each take the earliest prediction in reach that is left, which gives
    as many hits as any such pairing can. At k = 0 a hit is one at the very step.

    Args:
      pred, gold: 0/1 arrays `[B, T]` or `[T]`: time is the last axis.
      shift: in steps; 1 asks for a boundary one symbol after the gold one.
      mask: of the same shape, the steps that count; all when None. A pair counts
        if both of its steps do.
      tolerance: k, in steps, 0 or more.

    Returns:
      Three floats: precision, recall, F1.

    Raises:
      UserError: the shapes differ, or the tolerance is negative.
    """
    if tolerance < 0:
        raise UserError(f"The tolerance is {tolerance} steps: give 0, for exact hits, or more.")
    pred, gold = np.asarray(pred, bool), np.asarray(gold, bool)
    mask = np.ones_like(gold) if mask is None else np.asarray(mask, bool)
    if not pred.shape == gold.shape == mask.shape:
        raise UserError(
            f"Predicted boundaries have shape {pred.shape}, true ones {gold.shape}, the mask "
            f"{mask.shape}: match them."
        )
    steps = pred.shape[-1]
    shift = max(-steps, min(steps, shift))
    later = slice(max(shift, 0), steps + min(shift, 0))
    earlier = slice(max(-shift, 0), steps - max(shift, 0))
    counted = mask[..., later] & mask[..., earlier]
    pred, gold = pred[..., later] & counted, gold[..., earlier] & counted
    hits, fired, true = _hits(pred, gold, tolerance), int(pred.sum()), int(gold.sum())
    precision = hits / fired if fired else 0.0
    recall = hits / true if true else 0.0
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return precision, recall, f1


def _hits(pred, gold, tolerance):
    """True boundaries that a prediction hits, see `precision_recall_f1`."""
    if not tolerance:
        return int(np.sum(pred & gold))
    # All sequences in one row, too far apart to reach into each other.
    width = [(0, 0)] * (pred.ndim - 1) + [(0, tolerance)]
    fired, true = (np.flatnonzero(np.pad(array, width)).tolist() for array in (pred, gold))
    hits = after = 0  # predictions before `after` are taken or too early
    for step in true:
        after = bisect.bisect_left(fired, step - tolerance, after)
        if after < len(fired) and fired[after] <= step + tolerance:
            hits, after = hits + 1, after + 1
    return hits


def score_against(
    z, gold, shifts=(0, 1), seeds=range(10), mask=None, every_step=True, tolerance=0, untrained=(),
    newline=None,
):  # fmt: skip
    """Scores every layer's boundaries against true ones.

    A detector that fires often hits true boundaries for free, so each score stands
    beside two of the same firing rate that have not read the sequence: "random"
    (the same firings at random places, mean over `seeds`) and "regular" (one
    firing every so many steps). The last rows are those of a detector that fires
    at every step: its recall is 1, its precision the rate of the true boundaries.
    A detector with random weights follows its input nevertheless, and so may beat both:
    what training has taught is what is beyond the freshly initialised models, `untrained`.

    A change in a noisy signal shows only some steps after it, hence the tolerance. It is
    kind to detectors that have read nothing too: compare a score with theirs beside it.

    Args:
      z: list of 0/1 arrays `[T]` or `[T, B]`, one for each layer.
      gold: 0/1 array of the shape of z, 1 at the last step of each true segment.
      shifts: 0 asks for the boundary at that step, 1 for it at the step after.
      seeds: of the random detectors; the same seeds give the same numbers.
      mask: 0/1 array of the same shape, the steps that count; all when None. The
        rates and the detectors beside are those of these steps alone.
      every_step: False leaves the rows of the detector that always fires out.
      tolerance: k, in steps, see `precision_recall_f1`. Unless it is 0, a further row a
        layer, of shift 0, has the scores within k steps.
      untrained: as `z`, of each of some freshly initialised models that read the same.
      newline: bool `[T]`, the symbols that end the lines of one text: words are scored too, see
        `segmenters.word_scores`, in the rows at the exact step. Ends of lines are known, so leave
        them out of the mask, `segmenters.within_lines`.

    Returns:
      One dict per layer and shift: `layer` (from 1; `EVERY` for the last rows),
      `shift`, `tolerance`, `rate` (firings per step), `precision`, `recall`, `f1`, and
      these three again with the prefixes `random_` and `regular_`. Where there are untrained
      models, also their number, `untrained`, the means `untrained_rate` and so on, and
      `untrained_f1_std`, the standard deviation of a sample (0 for one). With `newline` also
      `word_f1`, with the same prefixes.

    Raises:
      UserError: shapes differ, values are not 0/1, no step counts, or the tolerance is
        negative.
    """
    layers = checked(z)
    gold = np.asarray(gold)
    mask = np.ones(gold.shape, bool) if mask is None else np.asarray(mask, bool)
    for name, array in (("The true boundaries have", gold), ("The mask has", mask)):
        if array.shape != layers[0].shape:
            raise UserError(
                f"{name} shape {array.shape}, z has {layers[0].shape}: give one for each step."
            )
    if not mask.any():
        raise UserError("There is no step to score boundaries on: give at least one.")
    fresh = [checked(one) for one in untrained]
    if any(len(one) != len(layers) or one[0].shape != layers[0].shape for one in fresh):
        raise UserError("Untrained models must have read what the model has, layer by layer.")
    named = list(enumerate(layers, 1))
    if every_step:
        named.append((EVERY, np.ones_like(layers[0])))
    # Below, time is the last axis.
    gold, mask = np.atleast_2d(gold.T), np.atleast_2d(mask.T)
    kinds = [(shift, 0) for shift in shifts] + [(0, tolerance)] * bool(tolerance)
    seeds = list(seeds)
    rows = []
    for layer, own in named:
        pred = np.atleast_2d(own.T)
        counted = pred[mask]
        random = [_spread(np.random.default_rng(seed).permutation(counted), mask) for seed in seeds]
        kinds_of = {
            "": [pred],
            "random_": random,
            "regular_": [_spread(_regular(counted), mask)],
        }
        if layer != EVERY and fresh:
            kinds_of["untrained_"] = [np.atleast_2d(one[layer - 1].T) for one in fresh]
        for shift, reach in kinds:
            score = functools.partial(
                precision_recall_f1, gold=gold, shift=shift, mask=mask, tolerance=reach
            )
            row = {"layer": layer, "shift": shift, "tolerance": reach}
            for prefix, preds in kinds_of.items():
                if prefix in ("", "untrained_"):
                    row[f"{prefix}rate"] = float(np.mean([one[mask].mean() for one in preds]))
                every = np.array([score(one) for one in preds])
                row |= {
                    prefix + k: float(v) for k, v in zip(_NAMES, every.mean(axis=0), strict=True)
                }
                if newline is not None and not shift and not reach:
                    words = [segmenters.word_scores(one[0], gold[0], newline)[0] for one in preds]
                    row[f"{prefix}word_f1"] = float(np.mean(words, axis=0)[2])
                if prefix == "untrained_":
                    row |= {"untrained": len(preds), "untrained_f1_std": _deviation(every[:, 2])}
            rows.append(row)
    return rows


def _deviation(values):
    """The standard deviation of a sample; 0 for one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _regular(fired):
    """As many ones as `fired [N]` has, spread evenly."""
    count, even = int(fired.sum()), np.zeros(fired.size, bool)
    even[(np.arange(count) * fired.size) // max(count, 1)] = True
    return even


def _spread(values, mask):
    """`values`, one for each step that counts, at their places in the shape of the mask."""
    whole = np.zeros(mask.shape, bool)
    whole[mask] = values
    return whole
