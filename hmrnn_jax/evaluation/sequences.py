"""Real-valued sequences: scores, boundaries drawn and scored, segments, new sequences."""

import json

import numpy as np
from etils import epath

from hmrnn_jax import files, tasks
from hmrnn_jax import run as runs
from hmrnn_jax.analysis import boundaries, scores
from hmrnn_jax.analysis.figures.handwriting import MOST_LINES, handwriting_figure, handwriting_sheet
from hmrnn_jax.analysis.figures.signals import signal_figure
from hmrnn_jax.batches.sequences import columns
from hmrnn_jax.datasets import signals
from hmrnn_jax.errors import UserError
from hmrnn_jax.inference import activations, generate_sequences, reading
from hmrnn_jax.tasks import metrics

HANDWRITING = ("iam_ondb", "scribbles")
# The usual margin of change point detection (van den Burg, Williams 2020), and a quarter of the
# shortest regime of the made-up oscillators.
TOLERANCE = 5
MOST_DRAWN = 10**7  # steps that one call generates, for the memory that they take


def score(run, split, seed=0):
    """Log-likelihood of a split and the detectors' rates; at last a line of JSON."""
    task = tasks.make(run.config, run.mesh)
    _check_scale(run, task.data)
    result = task.evaluate(run.params, split, run.slope, seed)
    lines = [
        f"{result['sequences']:,} sequences of {task.name}, {result['steps']:,} predictions,"
        " standardised by the training data",
        f"{split}: {task.headline(result)}",
    ]
    lines += [f"warning: {warning}" for warning in metrics.collapsed(result)]
    return "\n".join([*lines, json.dumps({"split": split} | result)])


def held_out(run, split):
    """The `Sequences` of a split of the run's own data, standardised."""
    data = tasks.module(run.config).load(run.config.data)
    _check_scale(run, data)
    return data.splits[split]


def _check_scale(run, data):
    """Data of another mean or deviation would be scored in units that the run never saw."""
    if data.scale != run.encoding:
        raise UserError(
            f"The data {data.name} found here ({data.source}) have another scale than the run's;"
            " put back those that it was trained on, or train it anew."
        )


def read(run, path):
    """The `Sequences` of a file or folder, standardised as the run's training data were."""
    data = run.config.data
    return signals.read(path, run.encoding, data.clip, data.get("header", "guess"))


def _look(run, sequences, batch=64, seed=0):
    """For each sequence z of each layer, a list of int8 `[T]`, and norms of h, `[L, T]`."""
    reading.check(run.model)
    table = columns(sequences)
    order = np.argsort(sequences.lengths, kind="stable")
    found = [None] * len(sequences)
    for first in range(0, len(order), batch):
        chosen = order[first : first + batch]
        steps = int(sequences.lengths[chosen].max())
        inputs = np.zeros((steps, len(chosen), table.shape[1]), np.float32)
        for row, number in enumerate(chosen):
            inputs[: sequences.lengths[number], row] = table[sequences.place(number)]
        z, norms = activations.look(run.model, run.plain, inputs, run.slope, seed)
        z = [(layer > 0.5).astype(np.int8) for layer in z]
        for row, number in enumerate(chosen):
            length = int(sequences.lengths[number])
            found[number] = [layer[:length, row] for layer in z], norms[:, :length, row]
    return found


def show_boundaries(run, title, sequences, path, shown=5, scored=200, seed=0, tolerance=TOLERANCE):
    """Figure of the first `shown` sequences, and F1 of the boundaries of the first `scored`.

    They are scored against the events (pen-ups, in handwriting) and, where these are known,
    against the true changes (ends of words, in handwriting): exactly, and within `tolerance`
    steps unless that is 0. The scores stand beside those of detectors that read nothing and of
    untrained models, see `scores.score_against`.
    """
    sequences = sequences.chosen(np.arange(min(len(sequences), scored)))
    found = _look(run, sequences, seed=seed)
    untrained = [_look(fresh, sequences, seed=seed) for fresh in runs.untrained(run)]
    shown = min(shown, len(sequences))
    values = run.encoding.restore(sequences.values)
    places = [sequences.place(number) for number in range(len(sequences))]
    heading = f"{run.title}: {title}"
    if run.config.data.name in HANDWRITING:
        lines = [(values[place], sequences.events[place]) for place in places[:shown]]
        texts = sequences.texts[:shown] if sequences.texts else ()
        layers = [z for z, _ in found[:shown]]
        names = sequences.names[:shown]
        handwriting_figure(path, lines, layers, names, texts, heading)
    else:
        place, (z, norms) = places[0], found[0]
        signal_figure(
            path,
            values[place],
            run.encoding.columns,
            z,
            events=None if sequences.events is None else sequences.events[place],
            changes=None if sequences.changes is None else sequences.changes[place],
            h_norms=norms,
            title=f"{heading}, {sequences.names[0]}",
        )
    lines = []
    changes = "ends of words" if run.config.data.name in HANDWRITING else "changes"
    true = {run.encoding.event: sequences.events, changes: sequences.changes}
    for name, gold in true.items():
        if gold is not None and gold.any():
            lines.append(f"boundaries against {name}, {len(sequences):,} sequences")
            one = f"a step with {name}"
            rows = _scores(found, untrained, places, gold, tolerance)
            lines.append(scores.format_scores(rows, one))
    return "\n".join([*lines, f"figure: {path}"])


def _scores(found, untrained, places, gold, tolerance):
    """`scores.score_against` of all sequences side by side, padding masked."""
    steps = max(place.stop - place.start for place in places)
    true, mask = (np.zeros((steps, len(places)), bool) for _ in range(2))
    for row, place in enumerate(places):
        length = place.stop - place.start
        true[:length, row], mask[:length, row] = gold[place], True
    layers, *fresh = (_side_by_side(of_model, steps) for of_model in (found, *untrained))
    return scores.score_against(layers, true, mask=mask, tolerance=tolerance, untrained=fresh)


def _side_by_side(found, steps):
    """z of each layer, `[steps, B]`, of what `_look` found of B sequences."""
    layers = np.zeros((len(found[0][0]), steps, len(found)), np.int8)
    for row, (z, _) in enumerate(found):
        layers[:, : len(z[0]), row] = z
    return list(layers)


def segment(run, sequences, path, seed=0):
    """Writes the segments of each layer of each sequence as JSON lines; says how many.

    Those of two layers need not be nested, see `boundaries.segments`.
    """
    found = _look(run, sequences, seed=seed)
    rows = (
        {"sequence": name, "start": row["start"], "end": row["end"], "layer": number}
        for name, (z, _) in zip(sequences.names, found, strict=True)
        for number, layer in enumerate(z, start=1)
        for row in boundaries.segments([""] * len(layer), layer, number)
    )
    count = boundaries.write_segments(path, rows)
    return "\n".join(
        [f"{count:,} segments of {len(sequences):,} sequences: {path}", reading.nesting(run.model)]
    )


def sample(run, split, count, steps, prime, temperature, bias, seed, path):
    """Draws `count` sequences of `steps` steps and draws them in the file `path`.

    Args:
      prime: steps of held-out sequences that are read first, 1 or more. A line of handwriting
        begins with the pen at rest, so 1 gives away nothing there.
      temperature, bias: see `inference.generate_sequences.generate`.
      path: PNG; what is drawn is also written beside it, as SVG (handwriting) and as `.npz`.
    """
    if min(count, steps, prime) < 1 or not min(temperature, bias) >= 0:
        raise UserError(
            "--sample, --steps and --prime need positive numbers, --temperature and --bias"
            " numbers that are not negative."
        )
    if count * (prime + steps) > MOST_DRAWN:
        raise UserError(f"--sample draws at most {MOST_DRAWN:,} steps in all; give fewer.")
    handwriting = run.config.data.name in HANDWRITING
    if handwriting and count > MOST_LINES:
        raise UserError(f"--sample draws at most {MOST_LINES} lines; give fewer.")
    sequences = held_out(run, split)
    long_enough = np.flatnonzero(sequences.lengths >= prime)
    if not len(long_enough):
        raise UserError(f"No sequence of {split} has {prime} steps; give a smaller --prime.")
    table = columns(sequences)
    starts = sequences.offsets[long_enough[np.arange(count) % len(long_enough)]]
    prompt = table[starts + np.arange(prime)[:, None]]
    drawn = generate_sequences.generate(
        run.model, run.plain, prompt, steps, temperature, bias, seed, run.slope
    )
    drawn = np.concatenate([prompt, drawn]).swapaxes(0, 1)
    width = len(run.encoding.columns)
    values = run.encoding.restore(drawn[..., :width])
    events = drawn[..., width].astype(np.uint8) if run.encoding.event else None
    folder, stem = epath.Path(path).parent, epath.Path(path).stem
    arrays = {name: values[..., k] for k, name in enumerate(run.encoding.columns)}
    if events is not None:
        arrays[run.encoding.event] = events
    with files.writing(folder / f"{stem}.npz") as file:
        np.savez(file, **arrays)
    written = [str(path), str(folder / f"{stem}.npz")]
    if handwriting:
        lines = [_to_last_stroke(*line) for line in zip(values, events, strict=True)]
        handwriting_sheet(path, lines, title=run.title)
        written.append(str(folder / f"{stem}.svg"))
        handwriting_sheet(written[-1], lines, title=run.title)
    else:
        signal_figure(path, values[0], run.encoding.columns, title=run.title)
    return f"{count} sequences of {prime} + {steps} steps: {', '.join(written)}"


def _to_last_stroke(values, pen_up):
    """A line without the stroke that its end cut off, if it has a whole one."""
    ends = np.flatnonzero(pen_up)
    stop = ends[-1] + 1 if len(ends) else len(pen_up)
    return values[:stop], pen_up[:stop]
