"""What a trained run can do: `Run`, as `opening.load` gives it."""

import dataclasses
import functools
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from hmrnn_jax import files, parallel, tasks
from hmrnn_jax.analysis import boundaries, trees
from hmrnn_jax.datasets.vocabulary import as_unit
from hmrnn_jax.errors import UserError
from hmrnn_jax.explorer import page
from hmrnn_jax.explorer import sequences as explored_sequences
from hmrnn_jax.explorer import text as explored_text
from hmrnn_jax.inference import activations, generate_text, readings, sparse_model
from hmrnn_jax.inference import reading as reading_inference
from hmrnn_jax.inference.readings import Cut
from hmrnn_jax.inference.stream import Stream
from hmrnn_jax.tasks import calibration, language
from hmrnn_jax.training import exported
from hmrnn_jax.training.state import initial_params
from hmrnn_jax.training.titles import title


@dataclasses.dataclass(frozen=True)
class Run:
    """A configuration with its trained parameters.

        run = load("runs/quickstart")
        run.score("The cat sat on the mat.")["bpc"]

    A text is a str, bytes of UTF-8, or the int `[N]` ids of its symbols in `encoding`; what is
    asked of texts raises `UserError` for a run of another task, and for symbols that the model
    neither knows nor can read as unknown.

    Attributes:
      name: what messages call it: its folder's.
      config: the run's configuration. encoding: its `Vocabulary` or `Scale`, or None.
      model, params, slope: the network, its parameters on the mesh, its detectors' slope.
      mesh: the devices. notes: lines for the log.
      checkpoint: which these are, such as "parameters of update 1,500".
      workdir: its folder, or the file it was exported to.
      card: what is known of it: title, data, updates; of an exported file also its score, number
        of parameters, dtype and program.
      data: the fingerprint of the data that it was trained on, or None.
    """

    name: str
    config: Any
    encoding: Any
    model: Any
    params: Any
    slope: float
    mesh: Any
    notes: tuple[str, ...] = ()
    checkpoint: str = ""
    workdir: str = ""
    card: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    data: Mapping[str, Any] | None = None

    @functools.cached_property
    def plain(self) -> Any:
        """The parameters on no device in particular."""
        return jax.device_get(self.params)

    @property
    def title(self) -> str:
        """What headings call it, see `title`."""
        return title(self.config)

    def score(
        self,
        text: str | bytes | np.ndarray,
        *,
        batch: int | None = None,
        warmup: int | None = None,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Scores a text: every symbol but the first is predicted once.

        Args:
          text: of two symbols or more.
          batch: rows that it is divided in, each read after `warmup` symbols of its own past; 1
            carries the state all through. By default 1 for a text of no more symbols than the
            configuration has rows, and the configuration's otherwise. warmup: the
            configuration's by default.
          seed: of detectors that sample.

        Returns `symbols`, the number scored; `nats` and `bpc`, mean loss a symbol in nats and bits;
        of each layer the rates of `tasks.metrics`, such as `rate/layer1`; and `rows`, `warmup`.
        """
        ids = self._ids(text)
        if len(ids) < 2:
            raise UserError(f"The text has {len(ids)} symbols; at least 2 are needed.")
        evaluation = self.config.evaluation
        if batch is None:
            batch = 1 if len(ids) <= evaluation.batch else evaluation.batch
        if batch < 1:
            raise UserError(f"batch is {batch}; it must be 1 or more.")
        warmup = evaluation.warmup if warmup is None else warmup
        mesh, params = self.mesh, self.params
        if batch == 1:
            mesh, params = parallel.make_mesh(jax.local_devices()[:1]), self.plain
        parallel.check_batch(batch, mesh)
        evaluator = language.Evaluator(self.model, mesh, batch, evaluation.window, warmup)
        return evaluator(params, ids, self.slope, seed) | {"rows": batch, "warmup": warmup}

    def boundaries(
        self,
        text: str | bytes | np.ndarray,
        *,
        reading: str = "detectors",
        length: float | None = None,
        rule: str | None = None,
        threshold: float | None = None,
        batch: int | None = None,
        warmup: int | None = None,
        seed: int = 0,
    ) -> np.ndarray:
        """The boundaries of a text, int8 `[K, N]`, 1 where a segment closes with the symbol.

        Args:
          reading: what they are read from, see `inference.readings`: `detectors`, K = L - 1 layers,
            lowest first; or, of any model, its own uncertainty, such as the `entropy`, K = 1
            (of `distance` each of the layers).
          length: wanted mean length of segments in symbols; rule, threshold: how the uncertainty
            is cut; see `inference.readings.Cut`.
          batch: rows that a long text is read in, see `inference.reading.boundaries`; by default
            a single pass up to `inference.reading.SINGLE_PASS` symbols. warmup: symbols that each
            row reads before its part, by default `inference.reading.WARMUP`, or the
            configuration's if these are more. seed: of detectors that sample.

        Raises:
          UserError: the model has no such reading, the text no symbols, or a length is wanted and
            the validation text, on which it is set, is not here.
        """
        ids = self._ids(text)
        if warmup is None:
            warmup = max(reading_inference.WARMUP, self.config.evaluation.warmup)
        asked = self._cut(Cut(reading, length, rule, threshold), seed)
        newline = self.encoding.line_end
        return readings.read(
            self.model, self.plain, ids, asked, newline, self.slope, seed, batch, warmup
        )[reading]

    def segment(
        self,
        text: str | bytes | np.ndarray,
        *,
        reading: str = "detectors",
        length: float | None = None,
        rule: str | None = None,
        threshold: float | None = None,
        batch: int | None = None,
        warmup: int | None = None,
        seed: int = 0,
    ) -> list[dict[str, Any]]:
        """The segments between the `boundaries` of a text, arguments and errors as there.

        Returns `{"start", "end", "text", "layer"}` of each, layers from 1, lowest first, offsets
        in symbols; a layer's segments are the whole text.
        """
        ids, symbols = self._symbols(text)
        found = self.boundaries(
            ids, reading=reading, length=length, rule=rule, threshold=threshold, batch=batch,
            warmup=warmup, seed=seed,
        )  # fmt: skip
        layers = enumerate(found, start=1)
        return [row for layer, z in layers for row in boundaries.segments(symbols, z, layer)]

    def explore(
        self,
        what: Any,
        path: Any,
        *,
        name: str = "",
        words: np.ndarray | None = None,
        shown: int = explored_text.SHOWN,
        seed: int = 0,
    ) -> None:
        """Writes what the run makes of a text or of sequences as one page of HTML to look at.

        The page needs no server and no network. It re-cuts the text as one asks for longer or
        shorter segments, and shows all readings of the model and what it expects next.

        Args:
          what: a text; of a run of the task strokes, standardised `datasets.sequences.Sequences`.
          path: of the page. name: what it calls the text.
          words: bool `[N]`, the last symbol of each true word, to score against; spaces otherwise.
          shown: symbols of the text, or steps of the first sequences, at most.
          seed: of detectors that sample.

        Raises:
          UserError: the page cannot be written there; the run has another task; or there is
            nothing to show, or too much.
        """
        files.check_writable(path)
        if self.config.task == "strokes":
            if words is not None:
                raise UserError("words are of texts; real-valued sequences have ends of their own.")
            found = explored_sequences.look(self, what, name, shown, seed)
        else:
            ids, symbols = self._symbols(what)
            found = explored_text.look(self, ids, symbols, name, words, shown, seed)
        page.write(path, found)

    def sample(
        self,
        prompt: str | bytes | None = None,
        length: int = 500,
        *,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Continues a text by `length` symbols, drawn one by one.

        Args:
          prompt: of one symbol or more; by default `Vocabulary.beginning`. temperature: 0 takes the
            likeliest symbol.

        Returns `text`, what was drawn, a str; `log_probabilities`, float32 `[length]`, of each
        symbol given all before it, in nats, at temperature 1; `unknown`, how many symbols of the
        prompt the model does not know, of `read`.
        """
        self._check_language("A sample is drawn")
        whole = isinstance(length, numbers.Integral)
        if not whole or length < 1 or not 0 <= temperature < np.inf:
            raise UserError(
                f"length is {length}, temperature {temperature}: give a whole length of 1 or more"
                " and a finite temperature of 0 or more."
            )
        prompt = self.encoding.beginning if prompt is None else prompt
        if not isinstance(prompt, str | bytes):
            raise UserError(f"A prompt is a str or bytes, not {type(prompt).__name__}.")
        words = self.encoding.unit == "words"
        encode = self.encoding.encode_sentence if words else self.encoding.encode
        ids, unknown = encode(prompt)
        if not len(ids):
            raise UserError("The prompt is empty; give at least one symbol.")
        model, params = sparse_model.inference(self.model, self.plain)
        drawn, log_probabilities = generate_text.generate(
            model, params, ids, length, temperature, seed, self.slope
        )
        text = self.encoding.decode(drawn)
        return {
            "text": text,
            "log_probabilities": log_probabilities,
            "unknown": unknown,
            "read": len(ids),
        }

    def parse(
        self,
        sentences: Sequence[str | Sequence[str]],
        *,
        layer: int = 2,
        biased: bool = True,
    ) -> list[Any]:
        """Binary trees of sentences, by the split distances of a model of words.

        Args:
          sentences: each a str, its words between spaces, or a sequence of words; none empty.
          layer: whose distances are read, from 1. biased: whether the tree rule is the authors',
            see `analysis.trees.tree_from_distances`.

        Returns a tree for each: a pair of trees, or a word.

        Raises:
          UserError: the model is not of words, or has neither an ON-LSTM's nor an LSTM's cells; or
            an empty sentence, or no such layer.
        """
        self._check_language("Sentences are parsed")
        if isinstance(sentences, str | bytes):
            raise UserError("Sentences are a list: give one as [sentence].")
        activations.check_distances(self.model, self.encoding)
        words = [tuple(one.split()) if isinstance(one, str) else tuple(one) for one in sentences]
        if not all(words):
            raise UserError("A sentence has no word: leave it out.")
        if not all(isinstance(word, str) for one in words for word in one):
            raise UserError("Sentences are of words, each a str: decode bytes first.")
        depth = len(self.model.cells)
        if not 1 <= layer <= depth:
            raise UserError(f"layer is {layer}; this model has {depth} layers.")
        found = activations.distances(self.model, self.plain, self.encoding, words)
        return [
            trees.tree_from_distances(one, distances[:, layer - 1], biased)
            for one, distances in zip(words, found, strict=True)
        ]

    def stream(
        self,
        *,
        reading: str = "detectors",
        length: float | None = None,
        rule: str | None = None,
        threshold: float | None = None,
        seed: int = 0,
    ) -> Stream:
        """A `Stream`, which reads a text piece by piece: `stream.push("the cat s")`.

        Args:
          reading, length, rule, threshold: what its segments are cut by, see `boundaries`.
          seed: of detectors that sample.

        Raises:
          UserError: the model has no such reading, or it cannot be read while the text comes in.
        """
        Stream.check(self, reading)
        return Stream.of(self, seed, *self._cut(Cut(reading, length, rule, threshold), seed))

    def export(self, path: Any, *, dtype: str = "float32") -> dict[str, Any]:
        """Writes the run as one file of safetensors, which `load` reads anywhere.

        It holds weights, configuration, vocabulary or scale, and a card with the score that the
        run's metrics tell; not the data, nor what training goes on from.

        Args:
          path: of the file, by custom `.safetensors`. dtype: of the weights there: `float32`,
            `float16` or `bfloat16`.

        Returns the card.

        Raises:
          UserError: there is no such dtype, a weight is too large for it, or the file cannot be
            written.
        """
        if dtype not in exported.DTYPES:
            raise UserError(f"dtype is {dtype}; give one of {', '.join(exported.DTYPES)}.")
        files.check_writable(path)
        card = {"title": self.title, "task": self.config.task, **self.card}
        if self.encoding:
            card["encoding"] = self.encoding.describe()
        if self.workdir and not exported.is_file(self.workdir):
            card["score"] = exported.score(self.workdir, self.card["updates"])
        about = self.config, self.encoding, self.plain, self.slope, card, dtype, self.data
        return exported.write(path, *about)

    def _cut(self, cut, seed):
        cut.check()
        return calibration.of_text(self, cut, seed=seed)

    def _check_language(self, what):
        if self.config.task != "language":
            raise UserError(
                f"{what} by a run of the task language; {self.name} is one of {self.config.task}."
            )

    def _ids(self, text):
        self._check_language("A text is read")
        return self.encoding.ids(text)

    def _symbols(self, text):
        """The ids of a text, and each symbol as a str."""
        ids = self._ids(text)
        if not isinstance(text, str | bytes):
            return ids, self.encoding.symbol_strings(ids)
        return ids, self.encoding.as_written(as_unit(text, self.encoding.unit), ids)


def untrained(run, seeds=range(5)):
    """Yields the run as it was before its first update, had its seed been each of `seeds`.

    The control of whatever is said of trained boundaries: detectors with random weights
    follow their input too.
    """
    task = tasks.module(run.config)
    init = functools.partial(task.init_params, run.model)
    for seed in seeds:
        params = initial_params(init, seed)
        yield dataclasses.replace(run, params=params, slope=run.config.slope.start)
