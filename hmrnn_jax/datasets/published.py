"""The published corpora: where their files are, what they must hold, how they are split."""

import dataclasses
import hashlib
import tarfile
import zipfile
import zlib
from collections.abc import Callable

from etils import epath

from hmrnn_jax.datasets.text import (
    SPLITS,
    Corpus,
    find_file,
    make_corpus,
    read_file,
    split_in_order,
)
from hmrnn_jax.datasets.vocabulary import Vocabulary, as_unit
from hmrnn_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Published:
    """One published corpus.

    Attributes:
      name: what `load` calls it.
      title: for people.
      unit: 'characters', 'bytes' or 'words'.
      folder: where its files lie in the data folder.
      url: the published file or archive.
      files: split -> file name, or 'whole' -> file name where one file is cut in order into
        90, 5 and 5 %.
      md5: the same keys -> md5 of the unpacked file.
      altered: what is put after the name if the text is not the published one.
      partial: another file name under which a first part of the text is accepted.
      size: bytes of the whole file, where a part is accepted.
      closed: valid and test use no symbol that training has not, by the corpus's making.
      clean: file text -> the text to be modelled.
    """

    name: str
    title: str
    unit: str
    folder: str
    url: str
    files: dict
    md5: dict
    altered: str = "modified"
    partial: str = ""
    size: int = 0
    closed: bool = False
    clean: Callable[[str], str] = str

    @property
    def archive(self) -> str:
        """File name of the published file."""
        return self.url.rpartition("/")[2]


def _clean_ptb_characters(text: str) -> str:
    """Penn Treebank's character files put a space between characters and write a space `_`."""
    return text.replace(" ", "").replace("_", " ")


_PTB_URL = "http://www.fit.vutbr.cz/~imikolov/rnnlm/simple-examples.tgz"

PUBLISHED = {
    corpus.name: corpus
    for corpus in (
        Published(
            name="ptb_char",
            title="Penn Treebank, characters (Mikolov's preparation)",
            unit="characters",
            folder="ptb",
            url=_PTB_URL,
            files={split: f"ptb.char.{split}.txt" for split in SPLITS},
            md5={
                "train": "874909f99060142f6b88cc74c34baaa2",
                "valid": "9e0fe5bec2a8bf43fd686dc23d5ab8bb",
                "test": "1f9a2d1afe00f76e8bfbe09a65439681",
            },
            closed=True,
            clean=_clean_ptb_characters,
        ),
        Published(
            name="ptb_word",
            title="Penn Treebank, words (Mikolov's preparation)",
            unit="words",
            folder="ptb",
            url=_PTB_URL,
            files={split: f"ptb.{split}.txt" for split in SPLITS},
            md5={
                "train": "f26c4b92c5fdc7b3f8c7cdcb991d8420",
                "valid": "aa0affc06ff7c36e977d7cd49e3839bf",
                "test": "8b80168b89c18661a38ef683c0dc3721",
            },
            closed=True,
        ),
        Published(
            name="text8",
            title="text8, cleaned English Wikipedia",
            unit="characters",
            folder="text8",
            url="http://mattmahoney.net/dc/text8.zip",
            files={"whole": "text8"},
            md5={"whole": "3bea1919949baf155f99411df5fada7e"},
            altered="prefix",
            partial="text8-prefix",
            size=100_000_000,
        ),
        Published(
            name="enwik8",
            title="enwik8, English Wikipedia as XML",
            unit="bytes",
            folder="enwik8",
            url="http://mattmahoney.net/dc/enwik8.zip",
            files={"whole": "enwik8"},
            md5={"whole": "a1fa5ffddb56f4953e226637dabbb36a"},
            altered="prefix",
            partial="enwik8-prefix",
            size=100_000_000,
        ),
        Published(
            name="tiny_shakespeare",
            title="tiny Shakespeare (split 90/5/5 %, where char-rnn splits 90/10)",
            unit="characters",
            folder="tiny-shakespeare",
            url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/"
            "tinyshakespeare/input.txt",
            files={"whole": "input.txt"},
            md5={"whole": "6fb458f1232090904fb40fe944165e91"},
        ),
        Published(
            name="wikitext2_word",
            title="WikiText-2, words",
            unit="words",
            folder="wikitext-2",
            url="https://wikitext.smerity.com/wikitext-2-v1.zip",
            files={split: f"wiki.{split}.tokens" for split in SPLITS},
            md5={
                "train": "34a77ebe59551b3a3b3d8c0a2797c976",
                "valid": "d756d22ab2310e7e60c094bea5c5a8eb",
                "test": "781c9418ab9414bd09e4aad825aae752",
            },
            closed=True,
        ),
    )
}


def read_local(corpus: Published, root) -> Corpus | None:
    """The corpus from files in `root`/`corpus.folder`; None if none of them is there.

    Accepted are the unpacked files, each gzipped or not, or else the published archive. A
    text that is not the published one is used under an altered name.

    Raises:
      UserError: some splits are missing; a file is unreadable, or has the length of the
        whole but not its content.
    """
    folder = epath.Path(root) / corpus.folder
    names = {key: (file,) for key, file in corpus.files.items()}
    if corpus.partial:
        names["whole"] += (corpus.partial,)
    found = {key: find_file(folder, *options) for key, options in names.items()}
    archive = folder / corpus.archive
    if all(found.values()):
        contents = {key: read_file(file) for key, file in found.items()}
        source = ", ".join(map(str, found.values()))
    elif archive.exists():
        contents, source = unpack(corpus, archive), str(archive)
    elif any(found.values()):
        missing = ", ".join(corpus.files[key] for key, file in found.items() if file is None)
        raise UserError(f"the folder {folder} lacks {missing} of {corpus.name}: add the file.")
    else:
        return None
    genuine = not wrong_files(corpus, contents)
    if not genuine and corpus.size and len(contents["whole"]) == corpus.size:
        raise UserError(
            f"{source} has the length of the whole {corpus.name} but not its md5 "
            f"{corpus.md5['whole']}: the file is damaged, replace it."
        )
    return to_corpus(corpus, contents_to_splits(contents), source, genuine)


def unpack(corpus: Published, archive) -> dict:
    """The corpus's files out of a zip or tar archive, or out of the plain file itself.

    Returns:
      the keys of `corpus.files` -> bytes.

    Raises:
      UserError: the archive is damaged, or a file is not in it.
    """
    contents = {}
    keys = {file: key for key, file in corpus.files.items()}
    try:
        with epath.Path(archive).open("rb") as stream:
            if zipfile.is_zipfile(stream):
                with zipfile.ZipFile(stream) as members:
                    for name in members.namelist():
                        key = keys.get(name.rpartition("/")[2])
                        if key:
                            contents.setdefault(key, members.read(name))
            elif corpus.archive.endswith(".tgz"):
                stream.seek(0)
                with tarfile.open(fileobj=stream, mode="r:gz") as members:
                    for member in members:
                        key = keys.get(member.name.rpartition("/")[2])
                        if key and member.isfile():
                            contents.setdefault(key, members.extractfile(member).read())
            elif corpus.archive in keys:
                stream.seek(0)
                contents[keys[corpus.archive]] = stream.read()
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError) as error:
        raise UserError(f"{archive} cannot be unpacked ({error}): fetch it anew.") from error
    missing = [file for key, file in corpus.files.items() if key not in contents]
    if missing:
        raise UserError(f"{archive} does not hold {', '.join(missing)}: fetch it anew.")
    return contents


def wrong_files(corpus: Published, contents: dict) -> list[str]:
    """Names of the files whose md5 is not the published one."""
    return [
        corpus.files[key]
        for key, content in contents.items()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != corpus.md5[key]
    ]


def contents_to_splits(contents: dict) -> dict:
    """'train', 'valid', 'test' -> bytes, by cutting if there is one whole file."""
    return split_in_order(contents["whole"], "bytes") if "whole" in contents else contents


def to_corpus(corpus: Published, splits: dict, source: str, genuine: bool) -> Corpus:
    """Splits (bytes) to ids; `genuine` says that they are the published text.

    Raises UserError for text that is not UTF-8, and for a symbol in valid or test that
    training has not where the published corpus rules that out.
    """
    source = f"{corpus.title}, from {source}"
    if corpus.unit == "bytes":
        # Published figures for enwik8 count the 205 byte values of the whole file.
        whole = Vocabulary.of(b"".join(splits.values()), "bytes") if genuine else None
        texts, vocabulary = splits, whole
    else:
        try:
            texts = {s: corpus.clean(as_unit(text, corpus.unit)) for s, text in splits.items()}
        except UserError as error:
            raise UserError(f"in {source}, {error}") from error
        vocabulary = None
    name = corpus.name if genuine else f"{corpus.name}-{corpus.altered}"
    unknown = False if genuine or corpus.closed else None
    return make_corpus(name, texts, corpus.unit, source, unknown, vocabulary)
