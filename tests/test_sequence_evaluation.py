"""Looking into runs on real-valued sequences: segments, scores of boundaries, what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from stroke_models import apply, config_of, data, make, mesh_of, shrink_oscillators

from hmrnn_jax import run as runs
from hmrnn_jax.analysis import scores
from hmrnn_jax.analysis.segmenters import Segmenter
from hmrnn_jax.batches.sequences import columns
from hmrnn_jax.datasets.sequences import Scale
from hmrnn_jax.errors import UserError
from hmrnn_jax.evaluation import sequences as evaluation
from hmrnn_jax.inference import activations
from hmrnn_jax.inference.readings import Cut
from hmrnn_jax.models import mixture
from hmrnn_jax.tasks import sequences

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
        z, norms = activations.of(run.model, run.plain, alone, window=50)
        np.testing.assert_array_equal(z, fired)
        expected = [np.linalg.norm(layer, axis=-1) for layer in h]
        np.testing.assert_allclose(norms, expected, rtol=1e-5, atol=1e-6)
        for layer, steps in enumerate(fired, start=1):
            own = [row for row in rows if (row["sequence"], row["layer"]) == (f"{name}.csv", layer)]
            covered = np.concatenate([np.arange(row["start"], row["end"]) for row in own])
            np.testing.assert_array_equal(covered, np.arange(len(alone)))
            ends = np.union1d(np.flatnonzero(steps) + 1, len(alone))
            assert [row["end"] for row in own] == ends.tolist()


def test_boundaries_are_scored_without_padding_and_last_steps(tmp_path):
    """The table's first row against a count over the segments of each sequence by itself."""
    run, sequences = run_of("hm_lstm"), data((40, 7, 90))
    rng = np.random.default_rng(1)
    sequences = dataclasses.replace(sequences, changes=rng.random(137) < 0.2)
    shown = evaluation.show_boundaries(run, "mine", sequences, tmp_path / "figure.png", scored=2)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    table, fired, surprise = columns(sequences), [], []
    for i in range(2):
        steps = table[sequences.place(i)][:, None]
        z, _ = activations.of(run.model, run.plain, steps)
        fired += z[0][:, 0].tolist()
        out = apply(run.model, run.plain, np.pad(steps, [(0, 300 - len(steps)), (0, 0), (0, 0)]))
        density = jax.tree.map(lambda x: x[:, 0], out.mixture)
        after = np.pad(steps[1:, 0], [(0, 301 - len(steps)), (0, 0)])
        nll = mixture.negative_log_likelihood(density, after[:, :2], after[:, 2])
        surprise.append(np.append(nll[: len(steps) - 1], 0))
    fired = np.array(fired) == 1
    rises = np.concatenate([Segmenter("peaks")(u) * (u != 0) for u in surprise]) == 1
    inside = np.delete(np.arange(47), [39, 46])
    fired, rises = fired[inside], rises[inside]
    for name, gold in (("pen", sequences.events), ("changes", sequences.changes)):
        gold = gold[inside] == 1
        rows = {
            (row["reading"], row["layer"], row["control"]): row
            for row in shown.data["rows"]
            if row["against"] == name
        }
        for key, found in ((("detectors", 1, None), fired), (("surprise", 1, None), rises)):
            row, hits = rows[key], np.sum(found & gold)
            assert row["rate"] == pytest.approx(found.mean())
            assert row["precision"] == pytest.approx(hits / found.sum())
            assert row["recall"] == pytest.approx(hits / gold.sum())
            # Padded to one length, so that neither sequence reaches into the other.
            both = np.zeros((2, 2, 39), bool)
            for part, steps in zip(both, (found, gold), strict=True):
                part[0], part[1, :6] = steps[:39], steps[39:]
            near = scores.precision_recall_f1(*both, tolerance=5)[2]
            assert (row["f1_within"], row["tolerance"]) == (pytest.approx(near), 5)
        assert rows["surprise", 1, "untrained"]["seeds"] == 5
        assert rows[None, None, "every"]["recall"] == 1
        assert f"boundaries against {name}, 2 sequences" in shown


def test_lines_whose_words_are_not_known_do_not_count_against_ends_of_words(tmp_path):
    """A line without any is one that could not be separated: what is found there is no mistake."""
    run, sequences = run_of("hm_lstm", **{"data.name": "iam_ondb"}), data((40, 30))
    changes = np.zeros(70, bool)
    changes[[5, 20, 39]] = True
    rows = []
    for known in (sequences, sequences.chosen(np.arange(1))):
        known = dataclasses.replace(known, changes=changes[: known.lengths.sum()])
        shown = evaluation.show_boundaries(run, "mine", known, tmp_path / "a.png")
        assert "boundaries against ends of words, 1 sequences" in shown
        rows.append([r for r in shown.data["rows"] if r["against"] == "ends of words"])
    for both, alone in zip(*rows, strict=True):
        if both["control"] in (None, "untrained", "every"):
            assert both == alone
    ends = dataclasses.replace(sequences, changes=np.arange(70) == 39)  # of the line itself alone
    assert "ends of words" not in evaluation.show_boundaries(run, "mine", ends, tmp_path / "a.png")


def test_segments_by_surprise_have_the_length_that_is_asked_for(tmp_path, monkeypatch):
    run, sequences = run_of("lstm"), data((300, 40))
    monkeypatch.setattr(evaluation, "held_out", lambda run, split: sequences)
    path = tmp_path / "segments.jsonl"
    said = evaluation.segment(run, sequences, path, Cut("surprise", 8))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == pytest.approx(340 / 8, abs=4) and {row["layer"] for row in rows} == {1}
    assert "surprise, peaks, segments of about 8" in said
    evaluation.show_boundaries(run, "mine", sequences, tmp_path / "a.png", Cut("surprise"))
    said = evaluation.segment(run, sequences, path, Cut("surprise", threshold=-1e9))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert "surprise, level, at least -1e+09" in said and len(rows) == 340
    with pytest.raises(UserError, match="one of detectors, surprise"):
        evaluation.segment(run, sequences, path, Cut("entropy"))


def test_the_ends_of_sequences_end_segments_too(tmp_path, monkeypatch):
    """However short they are, segments have about the length that is asked for."""
    run, sequences = run_of("lstm"), data((12,) * 30)
    monkeypatch.setattr(evaluation, "held_out", lambda run, split: sequences)
    path = tmp_path / "segments.jsonl"
    evaluation.segment(run, sequences, path, Cut("surprise", 6))
    assert len(path.read_text().splitlines()) == pytest.approx(360 / 6, abs=1)

    def gone(run, split):
        raise UserError("there is no file mine.csv.")

    monkeypatch.setattr(evaluation, "held_out", gone)
    with pytest.raises(UserError, match="validation sequences .* mine.csv. Without them, .* of 0"):
        evaluation.segment(run, sequences, path, Cut("surprise", 6))
    with pytest.raises(UserError, match="a length or a rule needs another reading"):
        evaluation.segment(run_of("hm_lstm"), sequences, path, Cut(length=6))


@pytest.mark.parametrize(
    "name, data_name",
    [("a.npz", "oscillators"), ("a.npz", "iam_ondb"), ("a.svg", "iam_ondb")],
)
def test_no_figure_is_written_over_what_stands_beside_it(name, data_name, tmp_path):
    """Arrays beside every figure, and lines of handwriting as SVG too."""
    run = run_of("hm_lstm", **{"data.name": data_name})
    with pytest.raises(UserError, match="give the figure's own name, a.png"):
        evaluation.sample(run, "test", 1, 5, 1, 1.0, 0.0, seed=0, path=tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_the_figure_of_a_signal_may_be_svg(tmp_path, monkeypatch):
    run, sequences = run_of("hm_lstm"), data((40,))
    monkeypatch.setattr(evaluation, "held_out", lambda run, split: sequences)
    evaluation.sample(run, "test", 1, 5, 1, 1.0, 0.0, seed=0, path=tmp_path / "a.svg")
    assert b"<svg" in (tmp_path / "a.svg").read_bytes() and (tmp_path / "a.npz").exists()
    # What is written beside the figure falls on no data of the run.
    for path in (tmp_path / "a.npz", tmp_path):
        run.config.data.path = str(path)
        with pytest.raises(UserError, match="lies where the run's data are: give an --output else"):
            evaluation.sample(run, "test", 1, 5, 1, 1.0, 0.0, seed=0, path=tmp_path / "a.svg")


def test_what_cannot_be_looked_at_is_refused(tmp_path, monkeypatch):
    shrink_oscillators(monkeypatch)
    write(tmp_path, data((40, 7)))
    with pytest.raises(UserError, match="no boundary detectors.* --reading=surprise"):
        evaluation.segment(
            run_of("lstm"), evaluation.read(run_of("lstm"), tmp_path), tmp_path / "out"
        )
    run = run_of("hm_lstm")  # of another scale than the oscillators that its configuration names
    for ask in (evaluation.score, evaluation.held_out):
        with pytest.raises(UserError, match="oscillators .*another scale than the run's"):
            ask(run, "test")
    mine = sequences.load(run.config.data)
    known = mine.fingerprint() | {"test": [7, 1]}
    run = dataclasses.replace(run, encoding=mine.scale, data=known)
    assert len(evaluation.held_out(run, "valid"))
    for ask in (evaluation.score, evaluation.held_out):
        with pytest.raises(UserError, match="The test data found here .* which had 7: put these"):
            ask(run, "test")
    for numbers in ((0, 5, 1, 1.0, 0.0), (1, 0, 1, 1.0, 0.0), (1, 5, 0, 1.0, 0.0),
                    (1, 5, 1, -1.0, 0.0), (1, 5, 1, 1.0, -1.0)):  # fmt: skip
        with pytest.raises(UserError, match="positive numbers"):
            evaluation.sample(run, "test", *numbers, seed=0, path=tmp_path / "sample.png")
