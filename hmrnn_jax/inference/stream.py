"""A text read as it comes: boundaries, surprise and finished segments, a piece at a time.

    stream = hm.load("runs/ptb").stream()
    reading = stream.push("the cat s")     # z and log-probabilities of 9 symbols, "the ", ...
    reading = stream.push("at on the mat")
    last = stream.finish()                 # the segments that were still open

Pieces give bit for bit what the whole text gives: one compiled program reads any number of
symbols, sparsely where the model allows it (see `recurrence.sparse`).
"""

import dataclasses
import functools
import hashlib
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from hmrnn_jax import archives, files
from hmrnn_jax.analysis import boundaries
from hmrnn_jax.errors import UserError
from hmrnn_jax.inference import marginal, pieces, reading, readings, sparse_model

_CHUNK = 256  # most symbols that one call of the program reads
_OF_NEXT = ("surprise", "pmi")  # readings that are known when the next symbol is


class Reading(NamedTuple):
    """What was read of n symbols.

    Attributes:
      symbols: their texts, strings; see `Vocabulary.as_written`.
      z: int8 `[L - 1, n]`, what each layer's detector did at each symbol, whatever is read: where
        detectors are taught late, `boundaries.delay` symbols after the segment's end.
      log_probabilities: float32 `[n]`, in nats, of each symbol given all before it; that of
        the first of all is nan, as nothing came before.
      segments: those that ended here, as `boundaries.segments` has them, by end and layer;
        offsets in symbols from the beginning of the stream.
      unknown: how many symbols the model does not know.
    """

    symbols: list
    z: np.ndarray
    log_probabilities: np.ndarray
    segments: list
    unknown: int


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _read(model, curve, newline, params, ids, count, held, scalars):
    """Reads `ids[:count]`; `held` is `(carry, log-probabilities of what comes, position)`.

    `curve` names what else is read, see `reading.of_output`, () or a tuple of one.
    """

    def body(t, results):
        (carry, before, position), z, scores, curves = results
        key = jax.random.fold_in(scalars["key"], position)
        noise = jax.random.uniform(key, (1, 1, model.noise_width))
        out = model.apply(
            {"params": params}, ids[t][None, None], carry, slope=scalars["slope"], noise=noise
        )
        after = (out.carry, jax.nn.log_softmax(out.logits[0, 0]), position + 1)
        fired = [layer[0, 0] > 0.5 for states in out.states for layer in getattr(states, "z", ())]
        found = reading.of_output(curve, out, newline=newline)
        curves = {name: curves[name].at[:, t].set(found[name][:, 0, 0]) for name in curve}
        fired = jnp.array(fired, bool)
        return after, z.at[:, t].set(fired), scores.at[t].set(before[ids[t]]), curves

    z = jnp.zeros((_detectors(model), len(ids)), bool)
    rows = {name: len(model.cells) if name == "distance" else 1 for name in curve}
    curves = {name: jnp.zeros((rows[name], len(ids))) for name in curve}
    return jax.lax.fori_loop(0, count, body, (held, z, jnp.zeros(len(ids)), curves))


def _check_ahead(name):
    if name == "line_break":
        raise UserError(
            f"The reading line_break looks {reading.AHEAD} symbols ahead, which a stream does not"
            " have: segment a file by it, or take line_end."
        )


def _detectors(model):
    """Number of boundary detectors of a model."""
    return sum(config.depth - 1 for config in model.cells if config.uses_slope)


class Stream:
    """Reads one text from its beginning, keeping the model's state between calls of `push`.

    Args:
      model, params: a `LanguageModel` and its parameters.
      vocabulary: of its symbols. slope: of its detectors.
      seed: of the draws of `sample` detectors.
      by: the `readings.Reading` that segments are cut by, the detectors by default. By another
        one a segment is known to have ended one symbol later; two, by surprise or pmi.

    Raises:
      UserError: the model has no such reading, or it looks far ahead.
    """

    def __init__(self, model, params, vocabulary, slope=1.0, seed=0, by=readings.DETECTORS):
        readings.check(model, by.name, vocabulary.line_end)
        _check_ahead(by.name)
        self.vocabulary, self._by = vocabulary, by
        # The surprise is among what is read anyway.
        self._curve = () if by.name in ("detectors", *_OF_NEXT) else (by.name,)
        self._alone = np.zeros(vocabulary.size, np.float32)
        if by.name == "pmi":
            self._alone = marginal.log_probabilities(model, params, slope)
        self._params = params
        self._model, weights = sparse_model.inference(model, params)
        self._weights = jax.device_put(weights)  # once, not at every call
        self._scalars = {"key": jax.random.key(seed), "slope": jnp.float32(slope)}
        self._settings = {"slope": float(slope), "seed": seed}
        self.reset()

    @classmethod
    def of(cls, run, seed=0, by=readings.DETECTORS):
        """A stream of a `run.Run`. Raises `UserError` if it is not of a language model."""
        cls.check(run)
        return cls(run.model, run.plain, run.encoding, run.slope, seed, by)

    @staticmethod
    def check(run, name="detectors"):
        """Raises `UserError` unless a `run.Run` is of a language model, and its reading `name` is
        known while a text comes in."""
        if run.config.task != "language":
            raise UserError(
                f"{run.name} is a run of the task {run.config.task}: a stream reads text, with a"
                " run of the task language."
            )
        _check_ahead(name)

    def reset(self):
        """Back to the beginning: nothing read."""
        nothing = jnp.full(self.vocabulary.size, jnp.nan, jnp.float32)
        self._held = (self._model.initial_carry(1), nothing, jnp.uint32(0))
        layers = len(self._model.cells) if self._by.name == "distance" else 1
        layers = _detectors(self._model) if self._by.name == "detectors" else layers
        self._open = [[] for _ in range(layers)]
        self._decider = readings.Decider(self._by)
        self._read, self._waiting = 0, pieces.Held()

    def push(self, text):
        """Reads the next piece of the text; of any length, and none is compiled for.

        Args:
          text: str, or bytes of UTF-8 or, for a model of bytes, of anything. A byte order mark
            before the text is dropped, as by `files.read_text`. Bytes that begin a character
            are held back until its rest comes. A model of words holds back the last one until
            whitespace ends it, or `finish`.

        Returns a `Reading`.

        Raises:
          UserError: the text is neither, is not UTF-8, or has a symbol that the model cannot
            read; then nothing of this piece has been read.
        """
        text, held = pieces.taken(self._waiting, text, self.vocabulary.unit)
        read = self._take(text)
        self._waiting = held
        return read

    def finish(self):
        """Ends the text: a `Reading` of what was held back, with the segments still open.

        The stream is at its beginning again.

        Raises:
          UserError: the text ends within a character of UTF-8; the stream stays where it is.
        """
        last = self._take(pieces.rest(self._waiting), final=True)
        rest = []
        for number, symbols in enumerate(self._open, 1):
            none, first = np.zeros(len(symbols), np.int8), self._read - len(symbols)
            rest += boundaries.segments(symbols, none, number, first)
        self.reset()
        return last._replace(segments=last.segments + rest)

    def _take(self, text, final=False):
        ids, unknown = self.vocabulary.encode(text)
        symbols = list(self.vocabulary.as_written(text, ids))
        z = np.zeros((_detectors(self._model), len(ids)), np.int8)
        scores = np.zeros(len(ids), np.float32)
        curves = np.zeros((len(self._open), len(ids)), np.float32)
        for start in range(0, len(ids), _CHUNK):
            part, place = ids[start : start + _CHUNK], slice(start, start + _CHUNK)
            padded = np.pad(part, (0, _CHUNK - len(part)))
            self._held, fired, of_part, more = _read(
                self._model, self._curve, self.vocabulary.line_end, self._weights, padded,
                len(part), self._held, self._scalars,
            )  # fmt: skip
            z[:, place], scores[place] = fired[:, : len(part)], of_part[: len(part)]
            for rows in more.values():
                curves[:, place] = rows[:, : len(part)]
        if self._by.name == "detectors":
            # The first `delay` symbols have boundaries of nothing.
            decided = max(0, self._read - self._by.delay)
            ends = z[:, max(0, self._by.delay - self._read) :]
        else:
            if self._by.name in _OF_NEXT:  # each belongs to the symbol before; to the last, none
                curves = (self._alone[ids] - scores)[None, not self._read :]
                curves = np.pad(curves, [(0, 0), (0, int(final and self._read + len(ids) > 0))])
            decided = self._decider.decided
            newlines = readings.line_ends(ids, self.vocabulary.line_end)
            ends = self._decider(curves, newlines, final)
        segments = [
            row
            for number in range(1, len(self._open) + 1)
            for row in self._cut(number, symbols, ends[number - 1], decided)
        ]
        self._read += len(symbols)
        segments.sort(key=lambda row: (row["end"], row["layer"]))
        return Reading(symbols, z, scores, segments, unknown)

    def _cut(self, number, symbols, fired, decided):
        """The segments of a layer that have ended; the rest stays open.

        Args:
          symbols: those that came. fired: 0/1, boundaries of the symbols from `decided` on.
        """
        waiting = self._open[number - 1]
        first = self._read - len(waiting)
        waiting += symbols
        ends = np.zeros(len(waiting), np.int8)
        upto = decided - first + len(fired)
        ends[decided - first : upto] = fired
        begin = 0
        while upto - begin >= pieces.LONGEST:
            own = np.flatnonzero(ends[begin : begin + pieces.LONGEST])
            begin += int(own[-1]) + 1 if len(own) else pieces.LONGEST
            ends[begin - 1] = 1
        if not ends.any():
            return []
        done = int(np.flatnonzero(ends)[-1]) + 1
        rows = list(boundaries.segments(waiting[:done], ends[:done], number, first))
        del waiting[:done]
        return rows

    def save(self, path):
        """Writes where the stream stands to `path`, a plain `.npz`, whole or not at all.

        Raises:
          UserError: it cannot be written there.
        """
        files.check_writable(path)
        held = self._waiting._asdict() | {"half": self._waiting.half.hex()}
        notes = {
            "model": self._fingerprint,
            "read": self._read,
            "pending": held.pop("word"),
            "open": self._open,
            "decider": self._decider.state,
            "bytes": held,
        }
        arrays = {f"leaf{k}": leaf for k, leaf in enumerate(jax.tree.leaves(self._held))}
        with files.writing(path) as file:
            np.savez(file, notes=np.array(json.dumps(notes)), **jax.device_get(arrays))

    def load(self, path):
        """Puts this stream where the one stood that wrote `path`.

        Raises:
          UserError: there is no such file, it is not a stream's, or another model's, or that of
            another seed.
        """
        leaves, tree = jax.tree.flatten(self._held)
        if not epath.Path(path).exists():
            raise UserError(f"There is no stream at {path}: give a file that save wrote.")
        try:
            stored = archives.read_npz(path)
            notes = json.loads(str(stored["notes"]))
            stored = [jnp.asarray(stored[f"leaf{k}"]) for k in range(len(leaves))]
            same = notes["model"] == self._fingerprint
            read, word, still_open = notes["read"], notes["pending"], notes["open"]
            # Older states say nothing of bytes, none of which were held back.
            decider = readings.Decider(self._by, notes.get("decider"))
            held = notes.get("bytes", {"half": "", "read": 0, "begun": bool(read or word)})
            held = pieces.Held(**held | {"half": bytes.fromhex(held["half"]), "word": word})
        except (ValueError, KeyError, TypeError, AttributeError):  # UserError is a ValueError
            raise UserError(
                f"{path} is not the state of a stream: give one that save wrote."
            ) from None
        if not same:
            raise UserError(
                f"{path} is the state of a stream of another model, slope, seed or reading, its"
                " length or threshold: open it with those that it was saved with."
            )
        self._held = jax.tree.unflatten(tree, stored)
        self._read, self._open, self._waiting, self._decider = read, still_open, held, decider

    @functools.cached_property
    def _fingerprint(self):
        """Of all that decides what comes next: parameters, symbols, cells, slope, seed."""
        digest = hashlib.sha256(self.vocabulary.to_json().encode())
        # Choices at their defaults count for nothing, so that a further one changes no fingerprint.
        chosen = [
            (type(config).__name__, field.name, getattr(config, field.name))
            for config in self._model.cells
            for field in dataclasses.fields(config)
            if getattr(config, field.name) != field.default
        ]
        digest.update(repr((chosen, self._settings)).encode())
        if self._by != readings.DETECTORS:  # as all older states are
            digest.update(repr(self._by).encode())
        for leaf in jax.tree.leaves(self._params):
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()
