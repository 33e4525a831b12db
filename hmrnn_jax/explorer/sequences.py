"""What a model of real-valued sequences makes of some, for the page: boundaries and surprise."""

import numpy as np

from hmrnn_jax import tasks
from hmrnn_jax.analysis.comparison import TOLERANCE
from hmrnn_jax.analysis.segmenters import heights_of, within_lines
from hmrnn_jax.datasets.sequences import Sequences
from hmrnn_jax.errors import UserError
from hmrnn_jax.explorer.page import packed, quantised
from hmrnn_jax.explorer.text import MOST_SHOWN, RULE, SHOWN
from hmrnn_jax.inference import activations, readings
from hmrnn_jax.tasks import objectives
from hmrnn_jax.tasks.sequences import HANDWRITING

LENGTH = 20.0  # steps of a segment, where the run has no wish of its own


def look(run, sequences, name, shown=SHOWN, seed=0):
    """The data of the page of some sequences, for `page.write`.

    Args:
      run: a `run.Run` of the task strokes. sequences: standardised `Sequences`, one or more.
      name: of the sequences. seed: of detectors that sample.
      shown: as many steps at most; the sequences that are whole within, but one at least.

    Raises:
      UserError: it is something else, there are no two steps, or too many.
    """
    if not isinstance(sequences, Sequences):
        raise UserError(
            f"{run.name} is a run on real-valued sequences: give Sequences, such as a split of"
            " its data, not a text."
        )
    whole = int(np.searchsorted(sequences.offsets, shown, side="right")) - 1
    sequences = sequences.chosen(np.arange(min(max(whole, 1), len(sequences))))
    total = int(sequences.lengths.sum())
    if not 2 <= total <= MOST_SHOWN:
        raise UserError(
            f"A page shows 2 to {MOST_SHOWN:,} steps; these have {total:,}: show fewer."
        )
    valid, calibrated_on = _validation(run, sequences)
    valid = valid.chosen(np.arange(min(len(valid), readings.CALIBRATED_SEQUENCES)))
    curve = np.concatenate([surprise for *_, surprise in _read(run, valid, seed)])
    delay = objectives.Boundaries.of(run.config).delay
    detectors = readings.Reading.of("detectors", delay=delay)
    values, found = run.encoding.restore(sequences.values), []
    for number, (z, norms, surprise) in enumerate(_read(run, sequences, seed)):
        place = sequences.place(number)
        z = detectors.boundaries(z, np.zeros(z.shape[1], bool))
        found.append(
            {
                "name": sequences.names[number],
                "text": sequences.texts[number] if sequences.texts else "",
                "values": packed(values[place].T.astype(np.float32)),
                "events": _bits(sequences.events, place),
                "changes": _bits(sequences.changes, place),
                "z": packed(np.packbits(z, axis=1, bitorder="little")) if len(z) else None,
                "surprise": packed(surprise),
                "norms": quantised(norms),
            }
        )
    inner = within_lines(np.zeros(len(curve), bool))
    has_changes = sequences.changes is not None and sequences.changes.any()
    handwriting = run.config.data.name in HANDWRITING
    changes = "ends of words" if handwriting else "changes"
    return {
        "kind": "sequences",
        "title": run.title,
        "name": name,
        "handwriting": handwriting,
        "columns": run.encoding.columns,
        "event": run.encoding.event,
        "sequences": found,
        "readings": [{"name": "detectors"}] * bool(len(z)) + [{"name": "surprise"}],
        "heights": [packed(heights_of(curve, RULE, inner))],
        "length": objectives.first_length(run.config) or LENGTH,
        "calibrated": {
            "on": calibrated_on, "symbols": len(curve), "inner": int(inner.sum()), "lines": 0,
        },
        "against": changes if has_changes else run.encoding.event,
        "tolerance": TOLERANCE,
    }  # fmt: skip


def _validation(run, sequences):
    """`(sequences, what they are)`: some to set the length of segments on."""
    try:
        own = tasks.module(run.config).load(run.config.data)
    except UserError:
        own = None
    if own is None or own.scale != run.encoding:
        return sequences, "these sequences, for the run's own are not here"
    return own.splits["valid"], "the run's validation sequences"


def _read(run, sequences, seed):
    return activations.of_sequences(run.model, run.plain, sequences, run.slope, seed)


def _bits(array, place):
    if array is None:
        return None
    return packed(np.packbits(np.asarray(array[place], bool), bitorder="little"))
