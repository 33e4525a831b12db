"""Gold trees in Penn Treebank brackets, prepared as ON-LSTM's parsing figures require.

Only words whose part of speech is one of the treebank's 36 word tags are kept, so punctuation,
traces and the currency signs `$` and `#` go; words are in lower case, and each run of digits is
an `N`. Constituents that hold none of the kept words go with them. Source: Shen, Tan, Sordoni
and Courville (2019), section 5.2, and the word filter of their published program.
"""

import collections
import dataclasses
import functools
import os
import re

from hmrnn_jax import archives, files
from hmrnn_jax.errors import UserError

# The tag set of the Penn Treebank without its punctuation and currency tags.
WORD_TAGS = frozenset(
    "CC CD DT EX FW IN JJ JJR JJS LS MD NN NNS NNP NNPS PDT POS PRP PRP$ RB RBR RBS RP SYM TO UH "
    "VB VBD VBG VBN VBP VBZ WDT WP WP$ WRB".split()
)
OTHER_TAGS = frozenset("-NONE- -LRB- -RRB- $ # , . : `` ''".split())  # the rest of the set
SUFFIXES = (".mrg", ".parsed")
SECTIONS = 25  # of WSJ: 00 to 24
_UNLABELLED = "a bracket inside a tree has no label (the tree before it may not be closed)"
# Spaces are those of ASCII: a word may hold a no-break space.
_TOKEN = re.compile(r"[()]|[^ \t\n\r\f\v()]+")
_DEEPEST = 1 << 20  # brackets open at a time, some hundred bytes each
_DIGITS = re.compile("[0-9]+")


@dataclasses.dataclass(frozen=True)
class Sentence:
    """One sentence and its gold tree, after the word filter.

    Attributes:
      name: file and number of the tree in it, from 1, as `wsj_0001.mrg:3`.
      section: of the treebank, from the digits of `wsj_2300.mrg` or `23.mrg`, or else of the
        folder `23`; None if neither says.
      words: the kept words.
      constituents: the labelled tree: `(label, start, end)` for every labelled bracket that
        holds a kept word, parents before their children; words start..end-1 of `words`. Labels
        are those of the file, with their functions (`NP-SBJ`).
      foreign: the tags, none of the Penn Treebank's, of words that were left out.
      fault: what is wrong with the brackets of a tree that was skipped, else ''.
    """

    name: str
    section: int | None
    words: tuple[str, ...]
    constituents: tuple[tuple[str, int, int], ...]
    foreign: tuple[str, ...] = ()
    fault: str = ""


@dataclasses.dataclass(frozen=True)
class Treebank:
    """Sentences in the order of their files.

    Attributes:
      sentences: those that have words.
      skipped: trees of which no word remains, or whose brackets are faulty, as sentences
        without words.
      source: where they were read, for the log.
    """

    sentences: tuple[Sentence, ...]
    skipped: tuple[Sentence, ...]
    source: str

    def describe(self) -> str:
        """One line for the log: source, sizes, and what was skipped or left out."""
        words = sum(len(sentence.words) for sentence in self.sentences)
        line = f"trees from {self.source}: {len(self.sentences):,} sentences, {words:,} words"
        faults = [sentence.fault for sentence in self.skipped if sentence.fault]
        if len(self.skipped) > len(faults):
            line += f"; {len(self.skipped) - len(faults):,} trees without any word were skipped"
        if faults:
            line += f"; {len(faults):,} trees with faulty brackets were skipped, {faults[0]}"
        if self.foreign:
            line += (
                f"; {self.foreign.total():,} words were left out, whose tags are not the Penn"
                f" Treebank's: {', '.join(self.foreign)}"
            )
        return line

    @functools.cached_property
    def foreign(self) -> collections.Counter:
        """How often each tag occurs that is none of the Penn Treebank's, the commonest first."""
        sentences = (*self.sentences, *self.skipped)
        found = collections.Counter(tag for sentence in sentences for tag in sentence.foreign)
        return collections.Counter(dict(found.most_common()))


def normalise(word: str) -> str:
    """In lower case, each run of digits an `N`, as in Mikolov's Penn Treebank."""
    return _DIGITS.sub("N", word.lower())


def tokens(text):
    """Yields the brackets and words of a text in brackets; spaces are those of ASCII."""
    return (match[0] for match in _TOKEN.finditer(text))


def read_trees(path) -> Treebank:
    """Every tree of a treebank.

    A tree with a bracket that is empty, or has no label or tag where it needs one, is skipped.

    Args:
      path: one file of trees; a folder, of which all files named `*.mrg` and `*.parsed` are read
        at any depth, in the order of their paths; or a zip of such files.

    Raises:
      UserError: there is no such path, no file of trees in it, a file without trees or that
        cannot be read, brackets that do not balance, or what is no part of a tree; it names the
        file and the line. Or no tree has a word with one of the Penn Treebank's tags.
    """
    path = files.place(path)
    if not path.exists():
        raise UserError(f"there is no file or folder {path}: check the path of your treebank.")
    trees, size, largest = [], 0, files.room() // 4  # what is kept is larger than the file
    for file, content in _contents(path, largest):
        size += len(content)
        files.check_size(size, path, largest)
        trees += _sentences(file, content)
    if not trees:
        raise UserError(f"{path} holds no file named *.mrg or *.parsed: give a treebank's folder.")
    bank = Treebank(
        tuple(sentence for sentence in trees if sentence.words),
        tuple(sentence for sentence in trees if not sentence.words),
        str(path),
    )
    if not bank.sentences and bank.foreign:
        raise UserError(
            f"{path} has no word with a tag of the Penn Treebank, such as NN (its tags:"
            f" {', '.join(bank.foreign)}): give trees with these tags."
        )
    if not bank.sentences:
        fault = next((tree.fault for tree in trees if tree.fault), "none has a word")
        raise UserError(f"{path} has no tree that can be used ({fault}): mend the file.")
    return bank


def nltk_sample(data_dir=None) -> Treebank:
    """The free sample of the Penn Treebank that NLTK distributes (files of sections 00 and 01).

    It lies inside the text that the Penn Treebank language models are trained on, so its figures
    are not comparable with those on section 23.

    Args:
      data_dir: the data folder, by default the environment variable HMRNN_DATA; the zip, or its
        unpacked files, are in its folder nltk-treebank.

    Raises:
      UserError: no data folder, no sample in it, or as `read_trees`.
    """
    root = data_dir or os.environ.get("HMRNN_DATA")
    if not root:
        raise UserError("NLTK's treebank sample needs a data folder: set HMRNN_DATA to yours.")
    folder = files.place(root) / "nltk-treebank"
    zips = sorted(folder.glob("*.zip")) if folder.is_dir() else []
    if len(zips) > 1:
        raise UserError(f"{folder} holds {len(zips)} zips: keep the one of the treebank sample.")
    return read_trees(zips[0] if zips else folder)


def select(treebank: Treebank, sections=None, longest: int | None = None) -> Treebank:
    """The part of a treebank that a published figure is about.

    With a licensed copy of the whole WSJ treebank, `sections=[22]` is the validation set,
    `sections=[23]` the test set (2,416 sentences) and `longest=10` is WSJ10 (7,422 sentences of
    all sections 00-24, training text of the language model included).

    Args:
      sections: numbers of sections; all when None.
      longest: most kept words of a sentence; any number when None.

    Raises:
      UserError: no sentence is selected.
    """
    sections = None if sections is None else set(sections)

    def chosen(sentences):
        return tuple(
            sentence
            for sentence in sentences
            if (sections is None or sentence.section in sections)
            and (longest is None or len(sentence.words) <= longest)
        )

    part = Treebank(chosen(treebank.sentences), chosen(treebank.skipped), treebank.source)
    if not part.sentences:
        there = {s.section for s in treebank.sentences if s.section is not None}
        have = ", ".join(f"{section:02d}" for section in sorted(there)) or "none that names tell"
        wanted = "" if sections is None else f" in sections {sorted(sections)}"
        wanted += "" if longest is None else f" of at most {longest} words"
        raise UserError(
            f"{treebank.source} has no sentence{wanted} (its sections: {have}): choose others."
        )
    return part


def _contents(path, largest):
    """Yields `(path, content)` of every file of trees."""
    if path.is_dir():
        yield from ((file, files.read_bytes(file, largest)) for file in _tree_files(path))
    elif path.suffix.lower() == ".zip":
        members = archives.unzip(path, lambda name: _holds_trees(name.rpartition("/")[2]), largest)
        yield from ((path / name, content) for name, content in sorted(members))
    else:
        yield path, files.read_bytes(path, largest)


def _tree_files(folder):
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _tree_files(path)
        elif _holds_trees(path.name):
            yield path


def _holds_trees(name):
    # Some systems leave hidden companions, such as ._wsj_0001.mrg, beside the files.
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _section(path):
    """Of `wsj_2300.mrg`, `23.mrg` and `23/any.mrg`: 23."""
    for name in (path.stem, path.parent.name):
        runs = re.findall(r"\d+", name)
        if len(runs) == 1 and len(runs[0]) in (2, 4) and int(runs[0][:2]) < SECTIONS:
            return int(runs[0][:2])
    return None


def _sentences(path, content):
    """The trees of one file as `Sentence`s, those without words included."""
    text, section, number = files.decode(content, path), _section(path), 0
    for number, parts in enumerate(_parse(text, path), 1):
        yield Sentence(f"{path.name}:{number}", section, *parts)
    if not number:
        raise UserError(f"{path} holds no trees: give a file in Penn Treebank brackets.")


@dataclasses.dataclass
class _Bracket:
    """An open bracket: what stood in it so far."""

    line: int
    start: int  # kept words of its tree before it
    place: int  # constituents of its tree that were opened before it
    label: str = ""
    word: str = ""
    brackets: int = 0


def _parse(text, path):
    """Yields the last four fields of the `Sentence` of every tree of a file.

    One stack and no recursion: a tree may be as deep as it likes.
    """
    stack, words, constituents, foreign, faults = [], [], [], [], []  # the first fault counts

    def fault(line, what):
        return UserError(f"{path}, line {line}: {what}: mend the brackets of the file.")

    for line, row in enumerate(files.each_line(text), 1):
        for token in tokens(row):
            if token == "(":
                if stack:
                    parent = stack[-1]
                    if parent.word:
                        faults.append((line, f"a bracket follows the word {parent.word}"))
                    if len(stack) > 1 and not parent.label:
                        faults.append((parent.line, _UNLABELLED))
                    parent.brackets += 1
                if len(stack) == _DEEPEST:
                    raise fault(line, f"more than {_DEEPEST:,} brackets are open")
                stack.append(_Bracket(line, len(words), len(constituents)))
                # Its label and end are not known yet; the place keeps parents before children.
                constituents.append(None)
            elif not stack:
                what = "a closing bracket too many" if token == ")" else f"{token} is in no tree"
                raise fault(line, what)
            elif token == ")":
                bracket = stack.pop()
                if not bracket.word and not bracket.brackets:
                    faults.append((bracket.line, f"the bracket ({bracket.label}) is empty"))
                if bracket.word:
                    if bracket.label in WORD_TAGS:
                        words.append(normalise(bracket.word))
                    elif bracket.label not in OTHER_TAGS:
                        foreign.append(bracket.label)
                elif bracket.label and len(words) > bracket.start:
                    whole = (bracket.label, bracket.start, len(words))
                    constituents[bracket.place] = whole
                if not stack:
                    if faults:
                        yield (), (), (), "{}, line {}: {}".format(path, *faults[0])
                    else:
                        kept = tuple(c for c in constituents if c is not None)
                        yield tuple(words), kept, tuple(foreign), ""
                    words, constituents, foreign, faults = [], [], [], []
            else:
                bracket = stack[-1]
                if not bracket.label and not bracket.brackets:
                    bracket.label = token
                elif bracket.label and not bracket.word and not bracket.brackets:
                    bracket.word = token
                else:
                    faults.append((line, f"the word {token} has no bracket with a tag of its own"))
    if stack:
        first = faults[0] if faults else (stack[0].line, "the tree that begins here is not closed")
        raise fault(*first)
