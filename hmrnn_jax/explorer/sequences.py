"""What a model of real-valued sequences makes of some, for the page: boundaries and surprise."""

import dataclasses

import numpy as np

from hmrnn_jax import tasks
from hmrnn_jax.analysis.comparison import TOLERANCE
from hmrnn_jax.analysis.segmenters import CLOSE, heights_of, last_steps
from hmrnn_jax.datasets.sequences import Sequences
from hmrnn_jax.errors import UserError
from hmrnn_jax.explorer.page import bits, packed, quantised
from hmrnn_jax.explorer.text import MOST_SHOWN, RULE, SHOWN
from hmrnn_jax.inference import activations, readings
from hmrnn_jax.tasks import objectives
from hmrnn_jax.tasks.sequences import HANDWRITING, truths

LENGTH = 20.0  # steps of a segment, where the run has no wish of its own


def look(run, sequences, name, shown=SHOWN, seed=0):
    """The data of the page of some sequences, for `page.write`.

    Args:
      run: a `run.Run` of the task strokes. sequences: standardised `Sequences`, one or more.
      name: of the sequences. seed: of detectors that sample.
      shown: as many steps at most: the sequences that are whole within, or the first one's
        beginning.

    Raises:
      UserError: it is something else, there are no two steps, or too many.
    """
    if not isinstance(sequences, Sequences):
        raise UserError(
            f"{run.name} is a run on real-valued sequences: give Sequences, such as a split of"
            " its data, not a text."
        )
    sequences = _beginning(sequences, shown)
    total = int(sequences.lengths.sum())
    if not 2 <= total <= MOST_SHOWN:
        raise UserError(
            f"A page shows 2 to {MOST_SHOWN:,} steps; these have {total:,}:"
            f" {'show fewer' if total > 2 else 'give more'}."
        )
    scored = truths(run.config.data, run.encoding, sequences)
    against = next(reversed(scored), None)  # changes, where they are known, else events
    gold, counted = scored.get(against, (None, None))
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
                "events": None if sequences.events is None else bits(sequences.events[place]),
                "gold": bits(gold[place]) if against and counted[place].any() else None,
                "z": bits(z) if len(z) else None,
                "surprise": packed(surprise),
                "norms": quantised(norms),
            }
        )
    inner = ~last_steps(valid.lengths)
    return {
        "kind": "sequences",
        "title": run.title,
        "name": name,
        "handwriting": run.config.data.name in HANDWRITING,
        "columns": run.encoding.columns,
        "event": run.encoding.event,
        "sequences": found,
        "readings": [{"name": "detectors"}] * bool(len(z)) + [{"name": "surprise"}],
        "heights": [packed(heights_of(curve, RULE, inner))],
        "length": max(CLOSE, objectives.first_length(run.config) or LENGTH),  # of peaks
        "calibrated": {
            "on": calibrated_on, "symbols": len(curve), "inner": int(inner.sum()),
            "lines": len(valid),
        },
        "against": against,
        "tolerance": TOLERANCE,
    }  # fmt: skip


def _beginning(sequences, steps):
    """The sequences that are whole within so many steps, or the first one's beginning."""
    whole = int(np.searchsorted(sequences.offsets, steps, side="right")) - 1
    if whole or not len(sequences):
        return sequences.chosen(np.arange(min(whole, len(sequences))))
    first = sequences.chosen(np.arange(1))
    rows = {
        name: None if (array := getattr(first, name)) is None else array[:steps]
        for name in ("values", "events", "changes")
    }
    return dataclasses.replace(first, lengths=np.minimum(first.lengths, steps), **rows)


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
