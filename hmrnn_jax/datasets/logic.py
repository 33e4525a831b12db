"""Propositional logic: pairs of formulas and how they follow from each other.

The data of Bowman, Manning and Potts (2015), "Tree-structured composition in neural networks
without tree-structured architectures", on which ON-LSTM (Shen et al., 2019, section 5.4) was
tested for generalisation: it learns from formulas of few operators and is asked about longer
ones.
"""

import dataclasses
import functools
import os

import numpy as np

from hmrnn_jax import files
from hmrnn_jax.datasets.splits import checksum
from hmrnn_jax.datasets.text import find_file
from hmrnn_jax.datasets.vocabulary import Vocabulary
from hmrnn_jax.errors import UserError

# In words: entailment, reverse entailment, equivalence, negation, alternation, independence,
# cover. A label's id is its place.
LABELS = ("<", ">", "=", "^", "|", "#", "v")
PAD = "<pad>"  # id 0, in no formula
VOCABULARY = Vocabulary("words", (PAD, "(", ")", *"abcdef", "or", "and", "not"))
LENGTHS = range(13)  # operators of the longer formula; 12 stands for twelve or more
FOLDER = "propositional-logic"
_URL = "https://github.com/sleepinyourhat/vector-entailment"
_VALID_EVERY = 10


@dataclasses.dataclass(frozen=True, eq=False)
class Sentences:
    """Sequences of different lengths, laid end to end; `sentences[i]` is one, int32 [n].

    Attributes:
      ids: int32 [sum of the lengths].
      offsets: int64 [N+1]; sentence i is `ids[offsets[i] : offsets[i + 1]]`.
    """

    ids: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, sentences) -> "Sentences":
        """From a list of sequences of ids. Raises UserError if one of them is empty."""
        lengths = np.fromiter(map(len, sentences), np.int64, len(sentences))
        if not lengths.all():
            empty = int(np.argmin(lengths))
            raise UserError(f"the sentence {empty} (from 0) is empty: remove it.")
        ids = np.fromiter((i for sentence in sentences for i in sentence), np.int32, lengths.sum())
        return cls(ids, np.concatenate([[0], np.cumsum(lengths)]))

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """int64 [N]."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        start, end = self.offsets[i], self.offsets[i + 1]
        return self.ids[start:end]


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Labelled pairs of sentences.

    Attributes:
      left, right: the sentences, N each.
      labels: int32 [N].

    Raises:
      UserError: the three differ in number.
    """

    left: Sentences
    right: Sentences
    labels: np.ndarray

    def __post_init__(self):
        if not len(self.left) == len(self.right) == len(self.labels):
            raise UserError(
                f"there are {len(self.left)} left sentences, {len(self.right)} right ones and "
                f"{len(self.labels)} labels: give as many of each."
            )

    @classmethod
    def of(cls, left, right, labels) -> "Pairs":
        """From two lists of sequences of ids and a list of label ids."""
        return cls(Sentences.of(left), Sentences.of(right), np.asarray(labels, np.int32))

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass
class Logic:
    """The data set.

    Attributes:
      train, valid: `Pairs` of at most `longest` operators.
      test: number of operators -> `Pairs`.
      vocabulary: what the ids of the formulas mean, brackets included; id 0 is padding.
      longest: operators of the longest formulas in training.
      source: the folder that they came from, for the log.

    A label is an index of `LABELS`.
    """

    train: Pairs
    valid: Pairs
    test: dict
    vocabulary: Vocabulary
    longest: int
    source: str

    def fingerprint(self) -> dict:
        """`{split: [pairs, checksum]}`; test has those of all numbers of operators."""
        parts = {"train": [self.train], "valid": [self.valid], "test": [*self.test.values()]}
        return {
            split: [
                sum(map(len, pairs)),
                checksum(
                    *(array for p in pairs for side in (p.left, p.right)
                      for array in (side.ids, side.offsets)), *(p.labels for p in pairs),
                ),
            ]
            for split, pairs in parts.items()
        }  # fmt: skip

    def describe(self) -> str:
        """A few lines for the log: source, sizes, vocabulary, test pairs by operators."""
        tests = ", ".join(f"{length}: {len(pairs):,}" for length, pairs in self.test.items())
        return "\n".join([
            f"propositional logic (Bowman et al., 2015), from {self.source}",
            f"pairs of at most {self.longest} operators: train {len(self.train):,}, "
            f"valid {len(self.valid):,}; {len(LABELS)} relations, "
            f"vocabulary {self.vocabulary.size}",
            f"test pairs by operators: {tests}",
        ])  # fmt: skip


def load(data_dir=None, longest: int = 6) -> Logic:
    """The data set from its files, plain or gzipped.

    Args:
      data_dir: the data folder, by default the environment variable HMRNN_DATA; the files
        train0 to train12 and test0 to test12 are in its folder propositional-logic, or in
        itself. The number is that of operators (and, or, not) in the longer formula, 12 for
        twelve or more. A line holds relation, formula, formula, separated by tabs; a formula
        is symbols separated by spaces, such as `( not ( b ( and f ) ) )`.
      longest: train and valid are of at most so many operators. 6 is ON-LSTM's choice.

    As in ON-LSTM's experiment, every tenth training pair (the 10th, 20th, ... of all, in the
    order of the files) is for validation, 13,552 of 135,529, and the others for training.

    Raises:
      UserError: no folder, a missing, damaged or empty file, a line that is not as above,
        fewer than ten training pairs, a `longest` that is none of 0 to 12.
    """
    if longest not in LENGTHS:
        raise UserError(f"longest is {longest}: choose a number of operators from 0 to 12.")
    root = data_dir or os.environ.get("HMRNN_DATA")
    if not root:
        raise UserError(
            f"propositional logic needs its files from {_URL} (propositionallogic): put them "
            f"into $HMRNN_DATA/{FOLDER} and set HMRNN_DATA to your data folder."
        )
    folder = files.place(root)
    if (folder / FOLDER).is_dir():
        folder = folder / FOLDER
    training = [_find(folder, f"train{length}") for length in range(longest + 1)]
    testing = [_find(folder, f"test{length}") for length in LENGTHS]
    rows = [row for file in training for row in _read(file)]
    valid = rows[_VALID_EVERY - 1 :: _VALID_EVERY]
    if not valid:
        raise UserError(
            f"{folder} has {len(rows)} training pairs of at most {longest} operators, and every "
            f"{_VALID_EVERY}th is for validation: give {_VALID_EVERY} or more."
        )
    del rows[_VALID_EVERY - 1 :: _VALID_EVERY]
    test = {length: _pairs(_read(file)) for length, file in zip(LENGTHS, testing, strict=True)}
    return Logic(_pairs(rows), _pairs(valid), test, VOCABULARY, longest, str(folder))


def _find(folder, name: str):
    file = find_file(folder, name)
    if file is None:
        raise UserError(
            f"the folder {folder} has no {name} (plain or .gz): put the files of {_URL} "
            "(propositionallogic) there."
        )
    return file


_SYMBOLS = {symbol: i for i, symbol in enumerate(VOCABULARY.symbols) if symbol != PAD}
_RELATIONS = {label: i for i, label in enumerate(LABELS)}


def _read(file) -> list[tuple]:
    """The lines of a file as (label, left, right), ids all."""
    rows = []
    for number, line in enumerate(files.read_lines(file), 1):
        fields = line.split("\t")
        if len(fields) != 3:
            raise UserError(
                f"{file}, line {number}: there are {len(fields)} fields instead of 3: separate "
                "relation, formula and formula by tabs."
            )
        label = _RELATIONS.get(fields[0].strip())
        if label is None:
            raise UserError(
                f"{file}, line {number}: {fields[0]!r} is no relation: choose one of "
                f"{' '.join(LABELS)}."
            )
        left, right = (_encode(field, file, number) for field in fields[1:])
        rows.append((label, left, right))
    if not rows:
        raise UserError(f"{file} is empty: replace the file.")
    return rows


def _encode(formula: str, file, number: int) -> list[int]:
    try:
        ids = [_SYMBOLS[symbol] for symbol in formula.split()]
    except KeyError as error:
        raise UserError(
            f"{file}, line {number}: {error.args[0]!r} is no symbol of a formula: choose among "
            f"{' '.join(_SYMBOLS)}, separated by spaces."
        ) from None
    if not ids:
        raise UserError(f"{file}, line {number}: a formula is empty: remove the line.")
    return ids


def _pairs(rows) -> Pairs:
    labels, left, right = zip(*rows, strict=True)
    return Pairs.of(left, right, labels)
