"""Real-valued sequences: scores, boundaries drawn and scored, segments, new sequences."""

from typing import NamedTuple

import numpy as np
from etils import epath

from hmrnn_jax import archives, files, tasks
from hmrnn_jax import run as runs
from hmrnn_jax.analysis import boundaries, comparison
from hmrnn_jax.analysis.figures.handwriting import MOST_LINES, handwriting_figure, handwriting_sheet
from hmrnn_jax.analysis.figures.signals import signal_figure
from hmrnn_jax.analysis.segmenters import last_steps
from hmrnn_jax.batches.sequences import columns
from hmrnn_jax.datasets import signals
from hmrnn_jax.errors import UserError, require
from hmrnn_jax.evaluation.report import Report
from hmrnn_jax.inference import activations, generate_sequences, readings
from hmrnn_jax.inference import reading as reading_inference
from hmrnn_jax.tasks import metrics, objectives
from hmrnn_jax.tasks.sequences import HANDWRITING, truths

READINGS = ("detectors", "surprise")
MOST_DRAWN = 10**7  # steps that one call generates, for the memory that they take


def score(run, split, seed=0):
    """Log-likelihood of a split and the detectors' rates."""
    task = tasks.make(run.config, run.mesh)
    _check_data(run, task.data, split)
    result = task.evaluate(run.params, split, run.slope, seed)
    lines = [
        f"{result['sequences']:,} sequences of {task.name}, {result['steps']:,} predictions,"
        " standardised by the training data",
        f"{split}: {task.headline(result)}",
    ]
    lines += [f"warning: {warning}" for warning in metrics.collapsed(result)]
    return Report("\n".join(lines), {"split": split, "checkpoint": run.checkpoint} | result)


def held_out(run, split):
    """The `Sequences` of a split of the run's own data, standardised."""
    data = tasks.module(run.config).load(run.config.data)
    _check_data(run, data, split)
    return data.splits[split]


def _check_data(run, data, split):
    """Data of another mean or deviation would be scored in units that the run never saw."""
    if data.scale != run.encoding:
        raise UserError(
            f"The data {data.name} found here ({data.source}) have another scale than the run's;"
            " put back those that it was trained on, or train it anew."
        )
    tasks.check_split(run, data, split)


def read(run, path):
    """The `Sequences` of a file or folder, standardised as the run's training data were."""
    data = run.config.data
    return signals.read(path, run.encoding, data.clip, data.get("header", "guess"))


class _Looked(NamedTuple):
    """What was found of one sequence of T steps.

    Attributes:
      z: `{reading: int8 [K, T]}`. norms: of h, `[L, T]`.
    """

    z: dict
    norms: np.ndarray


def _look(run, sequences, asked, seed=0, progress=lambda done: None):
    """For each sequence `_Looked`, by the `Reading`s `asked`."""
    found = []
    for z, norms, surprise in _activations(run, sequences, seed, progress):
        curves, ends = {"detectors": z, "surprise": surprise[None]}, np.zeros(len(surprise), bool)
        found.append(
            _Looked({one.name: one.boundaries(curves[one.name], ends) for one in asked}, norms)
        )
    return found


def _activations(run, sequences, seed, progress=lambda done: None):
    return activations.of_sequences(
        run.model, run.plain, sequences, run.slope, seed, progress=progress
    )


def _readings(run, cut, others=(), seed=0):
    """As `calibration.of_text`, of a run on real-valued sequences."""
    asked = objectives.readings_asked(run.config, cut, others)
    if not any(one.length for one in asked):
        return asked
    try:
        valid = held_out(run, "valid")
    except UserError as error:
        raise UserError(
            "The length of segments is set on the validation sequences that the run was trained"
            f" with, which are not to be had: {error} Without them, ask for a length of 0."
        ) from None
    valid = valid.chosen(np.arange(min(len(valid), readings.CALIBRATED_SEQUENCES)))
    curve = np.concatenate([surprise for *_, surprise in _activations(run, valid, seed)])
    ends = last_steps(valid.lengths)
    return [one.calibrated(curve[None], ends, ~ends) if one.length else one for one in asked]


def _check(run, name):
    require("The reading of real-valued sequences", name, READINGS)
    if name == "detectors":
        reading_inference.check(run.model, READINGS[1])


def show_boundaries(
    run, title, sequences, path, cut=readings.DETECTED, shown=5, scored=200, seed=0,
    tolerance=comparison.TOLERANCE,
):  # fmt: skip
    """Figure of the first `shown` sequences, and scores of the boundaries of the first `scored`.

    They are scored against the events (pen-ups, in handwriting) and, where these are known,
    against the true changes (ends of words, in handwriting): exactly, and within `tolerance`
    steps unless that is 0. The scores stand beside those of random and regular boundaries and of
    untrained models, see `comparison.compare`. Which steps count: `tasks.sequences.truths`.

    Args:
      cut: what is drawn, an `inference.readings.Cut` by one of `READINGS`; the other is scored too.

    Returns a `Report`, each of whose `rows` has the truth's name too, `against`.
    """
    _check(run, cut.reading)
    others = [name for name in available(run.model) if name != cut.reading]
    asked = _readings(run, cut, others, seed)
    sequences = sequences.chosen(np.arange(min(len(sequences), scored)))
    looked = _look(run, sequences, asked, seed=seed)
    untrained = []
    for fresh in runs.untrained(run):
        of_fresh = _readings(fresh, cut, others, seed)
        untrained.append(_look(fresh, sequences, of_fresh, seed=seed))
    shown = min(shown, len(sequences))
    values = run.encoding.restore(sequences.values)
    places = [sequences.place(number) for number in range(len(sequences))]
    heading = f"{run.title}: {title}"
    if run.config.data.name in HANDWRITING:
        lines = [(values[place], sequences.events[place]) for place in places[:shown]]
        texts = sequences.texts[:shown] if sequences.texts else ()
        layers = [list(one.z[cut.reading]) for one in looked[:shown]]
        handwriting_figure(path, lines, layers, sequences.names[:shown], texts, heading)
    else:
        place, first = places[0], looked[0]
        signal_figure(
            path,
            values[place],
            run.encoding.columns,
            list(first.z[cut.reading]),
            events=None if sequences.events is None else sequences.events[place],
            changes=None if sequences.changes is None else sequences.changes[place],
            h_norms=first.norms if cut.reading == "detectors" else None,
            title=f"{heading}, {sequences.names[0]}",
        )
    lines, rows = [], []
    for name, (gold, counted) in truths(run.config.data, run.encoding, sequences).items():
        gold, counted = (_side_by_side([of[place] for place in places]) for of in (gold, counted))
        lines.append(f"boundaries against {name}, {counted.any(axis=0).sum():,} sequences")
        scored_rows = _scores(looked, untrained, gold, counted, tolerance)
        lines.append(comparison.table(scored_rows, f"a step with {name}"))
        rows += [{"against": name} | row for row in scored_rows]
    data = {"sequences": len(sequences), "rows": rows, "figure": str(path)}
    return Report("\n".join([*lines, f"figure: {path}"]), data)


def available(model):
    """The readings that a model of sequences has."""
    return READINGS if reading_inference.has_detectors(model) else READINGS[1:]


def _scores(looked, untrained, gold, mask, tolerance):
    """`comparison.compare` of all sequences side by side; gold and mask are `[T, B]`."""
    own, *fresh = (
        {name: _side_by_side([one.z[name] for one in of_model]) for name in looked[0].z}
        for of_model in (looked, *untrained)
    )
    found = [
        comparison.Found(name, layer + 1, z, tuple(other[name][layer] for other in fresh))
        for name, layers in own.items()
        for layer, z in enumerate(layers)
    ]
    return comparison.compare(found, gold, mask, tolerance=tolerance)


def _side_by_side(rows):
    """B arrays `[..., T_b]` as one, `[..., T, B]`, padded with zeros."""
    steps = max(row.shape[-1] for row in rows)
    padded = (np.pad(row, [(0, 0)] * (row.ndim - 1) + [(0, steps - row.shape[-1])]) for row in rows)
    return np.stack(list(padded), axis=-1)


def segment(run, sequences, path, cut=readings.DETECTED, seed=0, say=lambda line: None):
    """Writes the segments of each layer of each sequence as JSON lines; says how many.

    Those of two layers need not be nested, see `boundaries.segments`. `cut` is as
    `show_boundaries` has it; `say` takes a line of progress every few seconds.
    """
    _check(run, cut.reading)
    cut.check()
    (asked,) = _readings(run, cut, seed=seed)
    pace = reading_inference.Pace(int(sequences.lengths.sum()), say, of="steps")
    looked = _look(run, sequences, [asked], seed=seed, progress=pace)
    rows = (
        {"sequence": name, "start": row["start"], "end": row["end"], "layer": number}
        for name, one in zip(sequences.names, looked, strict=True)
        for number, layer in enumerate(one.z[cut.reading], start=1)
        for row in boundaries.segments([""] * len(layer), layer, number)
    )
    count = boundaries.write_segments(path, rows)
    kind = asked.description
    if cut.reading == "detectors":
        kind = reading_inference.nesting(run.model)
    lines = f"{count:,} segments of {len(sequences):,} sequences: {path}\n{kind}"
    data = {"segments": count, "sequences": len(sequences), "file": str(path)}
    return Report(lines, data)


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
            "--count, --length and --prime need positive numbers, --temperature and --bias"
            " numbers that are not negative."
        )
    if count * (prime + steps) > MOST_DRAWN:
        raise UserError(f"At most {MOST_DRAWN:,} steps are drawn in all; give a smaller --count.")
    folder, stem = epath.Path(path).parent, epath.Path(path).stem
    handwriting = run.config.data.name in HANDWRITING
    kinds = ("npz", "svg") if handwriting else ("npz",)
    beside = {kind: folder / f"{stem}.{kind}" for kind in kinds}
    if epath.Path(path) in beside.values():
        raise UserError(
            f"--output is {path}, which is written beside the figure: give the figure's own name,"
            f" {stem}.png."
        )
    data = run.config.data.path
    for also in beside.values():
        if data and files.holds(data, also):
            raise UserError(
                f"{also}, which is written beside {path}, lies where the run's data are: give an"
                " --output elsewhere."
            )
        files.check_writable(also)
    if handwriting and count > MOST_LINES:
        raise UserError(f"At most {MOST_LINES} lines are drawn; give a smaller --count.")
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
    arrays = {name: values[..., k] for k, name in enumerate(run.encoding.columns)}
    if events is not None:
        arrays[run.encoding.event] = events
    with files.writing(beside["npz"]) as file:
        archives.write_npz(file, arrays)
    written = [str(path), str(beside["npz"])]
    if handwriting:
        lines = [_to_last_stroke(*line) for line in zip(values, events, strict=True)]
        handwriting_sheet(path, lines, title=run.title)
        written.append(str(beside["svg"]))
        handwriting_sheet(written[-1], lines, title=run.title)
    else:
        signal_figure(path, values[0], run.encoding.columns, title=run.title)
    lines = f"{count} sequences of {prime} + {steps} steps: {', '.join(written)}"
    return Report(lines, {"sequences": count, "prime": prime, "steps": steps, "files": written})


def _to_last_stroke(values, pen_up):
    """A line without the stroke that its end cut off, if it has a whole one."""
    ends = np.flatnonzero(pen_up)
    stop = ends[-1] + 1 if len(ends) else len(pen_up)
    return values[:stop], pen_up[:stop]
