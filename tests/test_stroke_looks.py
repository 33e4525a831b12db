"""Looking into runs on real-valued sequences: segments, scores of boundaries, what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from stroke_models import apply, config_of, data, make, mesh_of, shrink_oscillators

from hmrnn_jax import run as runs
from hmrnn_jax.analysis import scores
from hmrnn_jax.batches.sequences import columns
from hmrnn_jax.datasets.sequences import Scale
from hmrnn_jax.errors import UserError
from hmrnn_jax.evaluation import sequences as evaluation
from hmrnn_jax.inference import activations

SCALE = Scale(("x", "y"), "pen", (1.0, -2.0), (0.5, 3.0))


def run_of(cell, **changes):
    model, params = make(cell)
    return runs.Run("run", config_of(**changes), SCALE, model, params, 1.0, mesh_of())


def write(folder, sequences):
    """The sequences in raw units, a file each."""
    raw = SCALE.restore(sequences.values)
    for i, name in enumerate(sequences.names):
        place = sequences.place(i)
        table = np.column_stack([sequences.events[place], raw[place]])
        np.savetxt(folder / f"{name}.csv", table, delimiter=",", header="pen,x,y", comments="")


def test_segments_of_each_sequence_are_those_it_has_alone(tmp_path):
    """Sequences of any length are read side by side; none sees another, or its padding."""
    run, sequences = run_of("hm_lstm"), data((40, 7, 300, 23))
    write(tmp_path, sequences)
    path, table = tmp_path / "segments.jsonl", columns(sequences)
    said = evaluation.segment(run, evaluation.read(run, tmp_path), path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert said.startswith(f"{len(rows)} segments of 4 sequences")
    for i, name in enumerate(sequences.names):
        alone = table[sequences.place(i)][:, None]
        padded = np.pad(alone, [(0, 300 - len(alone)), (0, 0), (0, 0)])
        states = jax.device_get(apply(run.model, run.plain, padded).states[0])
        h, fired = ([leaf[: len(alone)] for leaf in leaves] for leaves in (states.h, states.z))
        z, norms = activations.look(run.model, run.plain, alone, window=50)
        np.testing.assert_array_equal(z, fired)
        expected = [np.linalg.norm(layer, axis=-1) for layer in h]
        np.testing.assert_allclose(norms, expected, rtol=1e-5, atol=1e-6)
        for layer, steps in enumerate(fired, start=1):
            own = [row for row in rows if (row["sequence"], row["layer"]) == (f"{name}.csv", layer)]
            covered = np.concatenate([np.arange(row["start"], row["end"]) for row in own])
            np.testing.assert_array_equal(covered, np.arange(len(alone)))
            ends = np.union1d(np.flatnonzero(steps) + 1, len(alone))
            assert [row["end"] for row in own] == ends.tolist()


def test_boundaries_are_scored_without_the_padding_of_shorter_sequences(tmp_path):
    """The table's first row against a count over the segments of each sequence by itself."""
    run, sequences = run_of("hm_lstm"), data((40, 7, 90))
    rng = np.random.default_rng(1)
    sequences = dataclasses.replace(sequences, changes=rng.random(137) < 0.2)
    out = evaluation.show_boundaries(run, "mine", sequences, tmp_path / "figure.png", scored=2)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    table, fired = columns(sequences), []
    for i in range(2):
        z, _ = activations.look(run.model, run.plain, table[sequences.place(i)][:, None])
        fired += z[0][:, 0].tolist()
    fired = np.array(fired) == 1
    for name, gold in (("pen", sequences.events), ("changes", sequences.changes)):
        gold = gold[:47] == 1
        hits = np.sum(fired & gold)
        precision, recall = 100 * hits / fired.sum(), 100 * hits / gold.sum()
        rows = out.partition(f"boundaries against {name}, 2 sequences")[2].splitlines()
        assert rows[1].endswith("| untrained, 5 seeds") and rows[3].count("|") == 4
        assert rows[3].startswith(f"    1  +0   {fired.mean():.3f} |{precision:6.1f}{recall:6.1f}")
        # Padded to one length, so that neither sequence reaches into the other.
        both = np.zeros((2, 2, 40), bool)
        for part, steps in zip(both, (fired, gold), strict=True):
            part[0], part[1, :7] = steps[:40], steps[40:]
        near = "".join(f"{100 * s:6.1f}" for s in scores.precision_recall_f1(*both, tolerance=5))
        assert rows[5].startswith(f"    1  ±5   {fired.mean():.3f} |{near}")


def test_what_cannot_be_looked_at_is_refused(tmp_path, monkeypatch):
    shrink_oscillators(monkeypatch)
    write(tmp_path, data((40, 7)))
    with pytest.raises(UserError, match="no boundary detectors"):
        evaluation.segment(
            run_of("lstm"), evaluation.read(run_of("lstm"), tmp_path), tmp_path / "out"
        )
    run = run_of("hm_lstm")  # of another scale than the oscillators that its configuration names
    for ask in (evaluation.score, evaluation.held_out):
        with pytest.raises(UserError, match="oscillators .*another scale than the run's"):
            ask(run, "test")
    for numbers in ((0, 5, 1, 1.0, 0.0), (1, 0, 1, 1.0, 0.0), (1, 5, 0, 1.0, 0.0),
                    (1, 5, 1, -1.0, 0.0), (1, 5, 1, 1.0, -1.0)):  # fmt: skip
        with pytest.raises(UserError, match="positive numbers"):
            evaluation.sample(run, "test", *numbers, seed=0, path=tmp_path / "sample.png")
