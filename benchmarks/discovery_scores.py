"""Scores of one run's boundaries, kept in a file beside it."""

import json
import os
import time

import numpy as np
from etils import epath

from benchmarks.discovery_jobs import HEADLINE
from hmrnn_jax import files, opening, parallel
from hmrnn_jax.datasets.chinese import FOLDER
from hmrnn_jax.evaluation import phrases, sequences, syntax, text
from hmrnn_jax.inference import reading, readings

# Texts with words that a taught model is scored on beside its own test part, which they hold.
BAKEOFF = {"chinese_simplified": ("msr_test_gold.utf8", "pku_test_gold.utf8")}

TRAINED_ON = ("msr_test_gold.utf8",)  # by those networks, without its words

SECTIONS = (0,)  # of the treebank's sample: half of it


def scored(folder, job, flags):
    """`{text: rows}` of `score`, None if it was not made, or on another number of symbols."""
    path = folder / f"scores-{flags.part}.json"
    if not path.exists():
        return None
    saved = json.loads(files.read_text(path))
    return saved["texts"] if saved["settings"] == _settings(job, flags) else None


def score(folder, job, flags):
    """Scores the boundaries of a part by all readings, see `evaluation`, and keeps the rows."""
    start, found = time.perf_counter(), {}
    run = opening.restore(str(folder), parallel.make_mesh())
    figure = folder / f"boundaries-{flags.part}.png"
    if job.config.task == "strokes":
        held_out = sequences.held_out(run, flags.part)
        cut = readings.Cut(sequences.available(run.model)[0], job.wanted)
        shown = sequences.show_boundaries(run, flags.part, held_out, figure, cut)
        for row in shown.data["rows"]:
            found.setdefault(row["against"], []).append(row)
    else:
        first = readings.available(run.model, run.encoding.line_end)[0]
        for title, inputs, ends in texts(run, job, flags.part):
            shown = text.show_boundaries(
                run, title, inputs, ends, figure, readings.Cut(first, job.wanted),
                scored=flags.symbols, every_reading=job.group == HEADLINE,
                trained_on=title in TRAINED_ON,
            )  # fmt: skip
            found[title] = shown.data["rows"]
        for row in above_words(run, job, flags.part):
            found.setdefault(row["against"], []).append(row)
    everything = {"settings": _settings(job, flags), "texts": found}
    everything["seconds"] = time.perf_counter() - start
    files.write_text(folder / f"scores-{flags.part}.json", json.dumps(everything, indent=1) + "\n")


def texts(run, job, part):
    """`(title, (ids, symbols), ends)` of what is scored."""
    ids, symbols, _ = text.split(run, part)
    stands_in = part == "test" and np.array_equal(ids, text.split(run, "valid")[0])
    title = "the validation part, as the test part is not at hand" if stands_in else part
    yield title, (ids, symbols), text.word_ends(run, part)
    for name in BAKEOFF.get(job.data, ()) if part == "test" else ():
        path = epath.Path(os.environ["HMRNN_DATA"]) / FOLDER / name
        if path.exists():
            *inputs, _, ends = text.read_words(path, run.encoding)
            yield name, inputs, ends


def above_words(run, job, part):
    """Rows on what a taught model's layers find beyond words, see `evaluation.phrases`.

    The treebank's sample is of sections that the Penn Treebank's training part holds, whose words
    and characters the model has read without their trees.
    """
    if job.group != HEADLINE or not reading.has_detectors(run.model):
        return []
    if job.data == "ptb_char":
        return phrases.of_treebank(run, syntax.read_treebank("nltk", SECTIONS, None)).data["rows"]
    if job.data in ("brent_text", "brent_phono"):
        return phrases.of_utterances(run, part).data["rows"]
    return []


def _settings(job, flags):
    settings = {"symbols": flags.symbols, "length": job.wanted}
    # Earlier versions counted the last step of each sequence.
    return settings | {"last_steps": False} if job.config.task == "strokes" else settings
