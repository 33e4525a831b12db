"""Gold trees in Penn Treebank brackets, prepared as ON-LSTM's parsing figures require.

Only words whose part of speech is one of the treebank's 36 word tags are kept, so punctuation,
traces and the currency signs `$` and `#` go; words are in lower case, and each run of digits is
an `N`. Constituents that hold none of the kept words go with them. Source: Shen, Tan, Sordoni
and Courville (2019), section 5.2, and the word filter of their published program.
"""

import dataclasses
import io
import os
import re
import zipfile
import zlib

from etils import epath

from hmrnn_jax.datasets.text import read_file
from hmrnn_jax.errors import UserError

# The tag set of the Penn Treebank without its punctuation and currency tags.
WORD_TAGS = frozenset(
    "CC CD DT EX FW IN JJ JJR JJS LS MD NN NNS NNP NNPS PDT POS PRP PRP$ RB RBR RBS RP SYM TO UH "
    "VB VBD VBG VBN VBP VBZ WDT WP WP$ WRB".split()
)
SUFFIXES = (".mrg", ".parsed")
SECTIONS = 25  # of WSJ: 00 to 24
_UNLABELLED = "a bracket inside a tree has no label (the tree before it may not be closed)"
_TOKEN = re.compile(r"[()]|[^\s()]+")
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
    """

    name: str
    section: int | None
    words: tuple[str, ...]
    constituents: tuple[tuple[str, int, int], ...]


@dataclasses.dataclass(frozen=True)
class Treebank:
    """Sentences in the order of their files.

    Attributes:
      sentences: those that have words.
      skipped: trees of which no word remains, as sentences without words.
      source: where they were read, for the log.
    """

    sentences: tuple[Sentence, ...]
    skipped: tuple[Sentence, ...]
    source: str

    def describe(self) -> str:
        """One line for the log: source, sizes and what was skipped."""
        words = sum(len(sentence.words) for sentence in self.sentences)
        line = f"trees from {self.source}: {len(self.sentences):,} sentences, {words:,} words"
        if self.skipped:
            line += f"; {len(self.skipped):,} trees without any word were skipped"
        return line


def normalise(word: str) -> str:
    """In lower case, each run of digits an `N`, as in Mikolov's Penn Treebank."""
    return _DIGITS.sub("N", word.lower())


def read_trees(path) -> Treebank:
    """Every tree of a treebank.

    Args:
      path: one file of trees; a folder, of which all files named `*.mrg` and `*.parsed` are read
        at any depth, in the order of their paths; or a zip of such files.

    Raises:
      UserError: there is no such path, no file of trees in it, a file without trees or that
        cannot be read, brackets that do not balance, or a bracket that is no part of a tree. It
        names the file and the line.
    """
    path = epath.Path(path)
    if not path.exists():
        raise UserError(f"there is no file or folder {path}: check the path of your treebank.")
    if path.is_dir():
        files = [(file, read_file(file)) for file in _tree_files(path)]
    elif path.suffix.lower() == ".zip":
        files = _unzip(path)
    else:
        files = [(path, read_file(path))]
    if not files:
        raise UserError(f"{path} holds no file named *.mrg or *.parsed: give a treebank's folder.")
    trees = [sentence for file, content in files for sentence in _sentences(file, content)]
    return Treebank(
        tuple(sentence for sentence in trees if sentence.words),
        tuple(sentence for sentence in trees if not sentence.words),
        str(path),
    )


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
    folder = epath.Path(root) / "nltk-treebank"
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


def _tree_files(folder):
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _tree_files(path)
        elif _holds_trees(path.name):
            yield path


def _holds_trees(name):
    # Some systems leave hidden companions, such as ._wsj_0001.mrg, beside the files.
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _unzip(path):
    """`(path of the member, content)` of every file of trees in a zip."""
    try:
        with zipfile.ZipFile(io.BytesIO(read_file(path))) as archive:
            names = sorted(n for n in archive.namelist() if _holds_trees(n.rpartition("/")[2]))
            return [(path / name, archive.read(name)) for name in names]
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be unpacked ({error}): fetch it anew.") from error


def _section(path):
    """Of `wsj_2300.mrg`, `23.mrg` and `23/any.mrg`: 23."""
    for name in (path.stem, path.parent.name):
        runs = re.findall(r"\d+", name)
        if len(runs) == 1 and len(runs[0]) in (2, 4) and int(runs[0][:2]) < SECTIONS:
            return int(runs[0][:2])
    return None


def _sentences(path, content):
    """The trees of one file as `Sentence`s, those without words included."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}, is not UTF-8 text: convert the file.") from error
    section = _section(path)
    number = 0
    for number, (words, constituents) in enumerate(_parse(text, path), 1):
        yield Sentence(f"{path.name}:{number}", section, words, constituents)
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
    """Yields the kept words and the constituents of every tree of a file.

    One stack and no recursion: a tree may be as deep as it likes.
    """
    stack, words, constituents = [], [], []

    def fault(line, what):
        return UserError(f"{path}, line {line}: {what}: mend the brackets of the file.")

    for line, row in enumerate(text.split("\n"), 1):
        for token in _TOKEN.findall(row):
            if token == "(":
                if stack:
                    parent = stack[-1]
                    if parent.word:
                        raise fault(line, f"a bracket follows the word {parent.word}")
                    if len(stack) > 1 and not parent.label:
                        raise fault(parent.line, _UNLABELLED)
                    parent.brackets += 1
                stack.append(_Bracket(line, len(words), len(constituents)))
                # Its label and end are not known yet; the place keeps parents before children.
                constituents.append(None)
            elif not stack:
                what = "a closing bracket too many" if token == ")" else f"{token} is in no tree"
                raise fault(line, what)
            elif token == ")":
                bracket = stack.pop()
                if not bracket.word and not bracket.brackets:
                    raise fault(bracket.line, f"the bracket ({bracket.label}) is empty")
                if bracket.word:
                    if bracket.label in WORD_TAGS:
                        words.append(normalise(bracket.word))
                elif bracket.label and len(words) > bracket.start:
                    whole = (bracket.label, bracket.start, len(words))
                    constituents[bracket.place] = whole
                if not stack:
                    yield tuple(words), tuple(c for c in constituents if c is not None)
                    words, constituents = [], []
            else:
                bracket = stack[-1]
                if not bracket.label and not bracket.brackets:
                    bracket.label = token
                elif bracket.label and not bracket.word and not bracket.brackets:
                    bracket.word = token
                else:
                    raise fault(line, f"the word {token} has no bracket with a tag of its own")
    if stack:
        raise fault(stack[0].line, "the tree that begins here is not closed")
