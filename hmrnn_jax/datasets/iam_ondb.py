"""IAM-OnDB, online handwriting (Liwicki and Bunke, 2005): lines of pen offsets and pen-ups.

A line is a sequence of points. A point is its offset from the point before it, in tablet units
with y growing downwards (0, 0 for the first), and whether it ends a stroke. Graves (2013) models
these offsets; the HM-LSTM paper writes of coordinates and does not say which kind. Here they are
offsets, standardised by the training split.

The data may not be passed on, so nothing is fetched: `iam_ondb_convert` converts the official
archives into the files that are read here.
"""

import dataclasses
import hashlib
import os
import re

import numpy as np

from hmrnn_jax import archives, files
from hmrnn_jax.datasets.sequences import SequenceCorpus, Sequences, make_corpus
from hmrnn_jax.datasets.splits import SPLITS
from hmrnn_jax.errors import UserError, require

FOLDER = "iam-ondb"
URL = "https://fki.tic.heia-fr.ch/databases/iam-on-line-handwriting-database"
# The files of the task IAM-OnDB-t1 and their published numbers of lines.
FILES = {"trainset": 5364, "testset_v": 1438, "testset_t": 1518, "testset_f": 3859}
# array -> the kinds of numpy type that will do.
ARRAYS = {
    "dx": "iuf",
    "dy": "iuf",
    "pen_up": "biu",
    "length": "iu",
    "origin": "iuf",
    "id": "U",
    "text": "U",
}
OFFICIAL = {"train": "trainset", "valid": "testset_v", "test": "testset_f"}
# Chung, Ahn and Bengio (2017): lines of each split, and the points a line must have.
HM_LSTM = {"train": 10465, "valid": 581, "test": 582}
SHORTEST = 300
# A token of a transcript that is written as a word; "it 's" is one word and its ending.
_WORD = re.compile(r"(?!'(?:s|d|m|ll|ve|re)\b).*\w")


def load(path=None, split: str = "official", seed: int = 0, clip: float = 0.0) -> SequenceCorpus:
    """The data set from its four `.npz` files, standardised.

    Args:
      path: folder of trainset.npz, testset_v.npz, testset_t.npz and testset_f.npz, by default
        the folder iam-ondb of the environment variable HMRNN_DATA. Arrays of each, the lines
        laid end to end: `dx`, `dy`, `pen_up` (1 on the last point of a stroke) of all points,
        `length`, `origin` (absolute first point), `id` and `text` (transcript) of all lines.
      split: 'official', that of Graves (2013): trains on trainset, validates on testset_v and
        tests on testset_f; the task's second validation set, testset_t, is not used. Or
        'hm_lstm', that of Chung et al. (2017): the four files pooled, lines shorter than 300
        points dropped, the rest drawn into 10,465, 581 and 582 lines. The paper does not print
        which, so `seed` draws them. From fewer lines the same proportions are drawn.
      seed: of the split 'hm_lstm'. A line's place depends on the seed and its id alone: neither
        the platform, nor a library's version, nor the order of the files changes it.
      clip: see `make_corpus`, in standard deviations. Many programs clip at 500 tablet units,
        about 12.

    Returns:
      the corpus with the columns dx and dy, the event pen_up and the transcripts as `texts`. The
      `changes` of valid and test are `word_gaps`; a line whose words cannot be separated has
      none. The corpus is named `iam_ondb` only if every file has its published number of lines,
      else `iam_ondb-partial`; the HM-LSTM paper's split adds `-hm_lstm`.

    Raises:
      UserError: an unknown `split`; a file that is missing, damaged or not as above, a line
        that occurs twice; fewer than three lines to draw from; see also `make_corpus`.
    """
    require("data.split", split, ("official", "hm_lstm"))
    folder = _folder(path)
    parts = {name: _read(folder / f"{name}.npz") for name in FILES}
    _check_ids(folder, parts)
    partial = [name for name, lines in FILES.items() if len(parts[name]) != lines]
    notes = [
        f"{name}.npz holds {len(parts[name]):,} of the {FILES[name]:,} published lines"
        for name in partial
    ]
    if split == "official":
        splits = {key: parts[name] for key, name in OFFICIAL.items()}
    else:
        splits, note = _draw(_pooled(parts.values()), seed, folder)
        notes.append(note)
    # Training is the larger part by far, and nobody scores boundaries on it.
    splits |= {key: _with_word_gaps(splits[key]) for key in ("valid", "test")}
    return make_corpus(
        "iam_ondb" + "-partial" * bool(partial) + "-hm_lstm" * (split == "hm_lstm"),
        f"IAM-OnDB (Liwicki and Bunke, 2005), offsets, {split} split, from {folder}",
        splits,
        ("dx", "dy"),
        "pen_up",
        clip,
        notes,
    )


def word_gaps(dx, dy, pen_up, text: str) -> np.ndarray:
    """Where the words of a line end, as far as its strokes and its transcript tell.

    A transcript of W words has W-1 gaps. Of the pen-ups inside the line, those are chosen that
    leave the widest empty band on the tablet: from the rightmost point of all strokes before to
    the leftmost point of all strokes after. Neighbouring strokes alone would not do: the dot of
    an i or the bar of a t is set after the letters to its right, so the next letter seems far
    away from the dot, and the dot may lie far to the left of the letter before. With all strokes
    on either side, a pen-up before such a late stroke has no empty band, and the late stroke
    goes with the word it was written after. A dot set only when further words are written closes
    the gaps that it goes back over; the next widest pen-ups are then taken in their place.

    A word is what spaces separate in the transcript and has a letter or a digit, and is no
    ending such as 's or 've: the transcripts set these and many punctuation marks apart, though
    they are written close to a word. This is a guess, not a gold standard: the space at a dash
    or between widely set letters can be taken for a gap.

    Args:
      dx, dy: [T] offsets, not standardised by a mean (a factor is harmless). Words follow each
        other in x, so dy has no influence.
      pen_up: [T], 1 on the last point of each stroke; the last point always ends one.
      text: the transcript.

    Returns:
      bool [T], True at the last point of each of the W words. All False if the transcript has
      no word, or the line has fewer than W strokes.
    """
    steps = len(dx)
    found = np.zeros(steps, bool)
    words = sum(bool(_WORD.match(token)) for token in text.split())
    ends = np.flatnonzero(np.asarray(pen_up)[: steps - 1])  # pen-ups inside the line
    if not steps or not words or len(ends) < words - 1:
        return found
    x = np.cumsum(dx, dtype=np.float64)
    starts = np.concatenate([[0], ends + 1])
    right = np.maximum.accumulate(np.maximum.reduceat(x, starts))
    left = np.minimum.accumulate(np.minimum.reduceat(x, starts)[::-1])[::-1]
    widest = np.argsort(right[:-1] - left[1:], kind="stable")  # the negative of the band's width
    found[ends[widest[: words - 1]]] = True
    found[-1] = True
    return found


def _folder(path):
    """Where the files are; raises `UserError` if nothing is there."""
    how = (
        f"register at {URL}, fetch lineStrokes-all.tar.gz, ascii-all.tar.gz and the form lists of"
        " the task IAM-OnDB-t1 into a folder RAW, and run hmrnn convert --raw=RAW --output=OUT,"
        f" where OUT is $HMRNN_DATA/{FOLDER} or the folder you give as data.path."
    )
    root = os.environ.get("HMRNN_DATA")
    if not path and not root:
        raise UserError(f"IAM-OnDB needs its files, and HMRNN_DATA is not set: {how}")
    folder = files.place(path) if path else files.place(root) / FOLDER
    missing = [f"{name}.npz" for name in FILES if not (folder / f"{name}.npz").exists()]
    if missing:
        raise UserError(f"{folder} has no {', '.join(missing)} of IAM-OnDB: {how}")
    return folder


def _read(file) -> Sequences:
    """One file, raw; every fault is reported with the file, and the line where there is one."""
    arrays = archives.read_npz(file)
    missing = [name for name in ARRAYS if name not in arrays]
    if missing:
        raise UserError(f"{file} lacks the arrays {', '.join(missing)}: convert it anew.")
    points, lines = arrays["dx"].shape[:1], arrays["id"].shape[:1]
    for name, kinds in ARRAYS.items():
        array = arrays[name]
        shape = points if name in ("dx", "dy", "pen_up") else lines
        shape += (2,) if name == "origin" else ()
        if array.shape != shape or len(shape) != (2 if name == "origin" else 1):
            raise UserError(
                f"{file} has {name} of shape {array.shape}, which does not go with"
                f" {arrays['dx'].shape} points and {arrays['id'].shape} lines: convert it anew."
            )
        if array.dtype.kind not in kinds:
            raise UserError(f"{file} has {name} of type {array.dtype}: convert it anew.")
    ids, lengths = arrays["id"], arrays["length"].astype(np.int64)
    if (lengths < 1).any():
        raise UserError(f"{file}, line {ids[np.argmax(lengths < 1)]}: it has no points: remove it.")
    if lengths.sum() != points[0]:
        raise UserError(
            f"{file} has {points[0]:,} points, but its lengths make {lengths.sum():,}:"
            " convert it anew."
        )
    for name in ("dx", "dy", "pen_up"):
        array = arrays[name]
        fine = np.isin(array, (0, 1)) if name == "pen_up" else np.isfinite(array)
        if not fine.all():
            step = int(np.argmin(fine))
            line = ids[np.searchsorted(np.cumsum(lengths), step, side="right")]
            raise UserError(f"{file}, line {line}: {name} is {array[step]}: mend or remove it.")
    return Sequences(
        values=np.stack([arrays["dx"], arrays["dy"]], axis=1),
        events=arrays["pen_up"].astype(np.uint8),
        lengths=lengths,
        names=tuple(map(str, ids)),
        texts=tuple(map(str, arrays["text"])),
    )


def _check_ids(folder, parts):
    """A line in two splits would be tested on what was trained on."""
    home = {}
    for file, part in parts.items():
        for name in part.names:
            if name in home:
                where = f"{home[name]}.npz and {file}.npz" if home[name] != file else f"{file}.npz"
                raise UserError(f"{folder}: line {name} is twice in {where}: convert them anew.")
            home[name] = file


def _pooled(parts) -> Sequences:
    parts = list(parts)
    return Sequences(
        values=np.concatenate([part.values for part in parts]),
        events=np.concatenate([part.events for part in parts]),
        lengths=np.concatenate([part.lengths for part in parts]),
        names=sum((part.names for part in parts), ()),
        texts=sum((part.texts for part in parts), ()),
    )


def _draw(pool, seed, folder):
    """The HM-LSTM paper's split of all lines, and a sentence on it for the log."""
    long = np.flatnonzero(pool.lengths >= SHORTEST)
    if len(long) < len(SPLITS):
        raise UserError(
            f"{folder} has {len(long)} lines of {SHORTEST} or more points, and the split hm_lstm"
            " draws three parts from these: use data.split='official', or more lines."
        )
    # Not a random generator of numpy, whose numbers may change from version to version.
    hashes = {i: hashlib.sha256(f"{seed} {pool.names[i]}".encode()).digest() for i in long}
    drawn = sorted(long, key=hashes.get)
    share = len(long) / sum(HM_LSTM.values())
    valid, test = (max(1, round(HM_LSTM[key] * share)) for key in ("valid", "test"))
    places = {"valid": drawn[:valid], "test": drawn[valid : valid + test]}
    places["train"] = drawn[valid + test :]
    counts = "/".join(f"{len(places[key]):,}" for key in SPLITS)
    note = (
        f"{len(pool) - len(long):,} of {len(pool):,} lines are shorter than {SHORTEST} points and"
        f" dropped; the others are drawn into {counts} lines by seed {seed}"
    )
    if sum(HM_LSTM.values()) != len(long):
        paper = "/".join(f"{lines:,}" for lines in HM_LSTM.values())
        note += f", in the proportions of the paper's {paper}"
    return {key: pool.chosen(sorted(places[key])) for key in SPLITS}, note


def _with_word_gaps(part) -> Sequences:
    changes = [
        word_gaps(*part.values[place].T, part.events[place], text)
        for place, text in zip(map(part.place, range(len(part))), part.texts, strict=True)
    ]
    return dataclasses.replace(part, changes=np.concatenate(changes) if changes else None)
