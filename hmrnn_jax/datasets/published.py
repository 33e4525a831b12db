"""The published corpora: where their files are, what they must hold, how they are split."""

import dataclasses
from collections.abc import Callable

from hmrnn_jax import archives, files
from hmrnn_jax.datasets.splits import SPLITS
from hmrnn_jax.datasets.text import Corpus, find_file, make_corpus, split_in_order
from hmrnn_jax.datasets.vocabulary import Vocabulary
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
      digests: the same keys -> sha256 of the unpacked file; md5 where no more is published.
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
    digests: dict
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


_PTB_URL = "https://www.fit.vutbr.cz/~imikolov/rnnlm/simple-examples.tgz"

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
            digests={
                "train": "e313d91425e06c4f0a8fb6e881dcce0c291f2a0e9f4dda54833069b122f91da9",
                "valid": "21661f63ec355085879458b6524644d4add5573541b4be14fb52ab2e2e995eb8",
                "test": "1ef5607ac3c463b16e38bfe7900dd3bfc91de5a96e0f21e7eab5188b465b8ebe",
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
            digests={
                "train": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
                "valid": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
                "test": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
            },
            closed=True,
        ),
        Published(
            name="text8",
            title="text8, cleaned English Wikipedia",
            unit="characters",
            folder="text8",
            url="https://mattmahoney.net/dc/text8.zip",
            files={"whole": "text8"},
            digests={"whole": "3bea1919949baf155f99411df5fada7e"},
            altered="prefix",
            partial="text8-prefix",
            size=100_000_000,
        ),
        Published(
            name="enwik8",
            title="enwik8, English Wikipedia as XML",
            unit="bytes",
            folder="enwik8",
            url="https://mattmahoney.net/dc/enwik8.zip",
            files={"whole": "enwik8"},
            digests={"whole": "a1fa5ffddb56f4953e226637dabbb36a"},
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
            digests={"whole": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"},
        ),
        Published(
            name="wikitext2_word",
            title="WikiText-2, words",
            unit="words",
            folder="wikitext-2",
            url="https://wikitext.smerity.com/wikitext-2-v1.zip",
            files={split: f"wiki.{split}.tokens" for split in SPLITS},
            digests={
                "train": "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
                "valid": "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
                "test": "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
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
    folder = files.place(root) / corpus.folder
    names = {key: (file,) for key, file in corpus.files.items()}
    if corpus.partial:
        names["whole"] += (corpus.partial,)
    found = {key: find_file(folder, *options) for key, options in names.items()}
    archive = folder / corpus.archive
    if all(found.values()):
        contents = {key: files.read_bytes(file) for key, file in found.items()}
        files.check_size(sum(map(len, contents.values())), folder)
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
            f"{source} has the length of the whole {corpus.name} but not its "
            f"checksum {corpus.digests['whole']}: the file is damaged, replace it."
        )
    return to_corpus(corpus, contents_to_splits(contents, corpus.unit, source), source, genuine)


def unpack(corpus: Published, archive) -> dict:
    """The corpus's files out of a zip or tar archive, or out of the plain file itself.

    Returns:
      the keys of `corpus.files` -> bytes.

    Raises:
      UserError: the archive is damaged, or a file is not in it.
    """
    keys = {file: key for key, file in corpus.files.items()}

    def wanted(name):
        return name.rpartition("/")[2] in keys

    if corpus.archive in keys:
        members = [(corpus.archive, files.read_bytes(archive))]
    elif corpus.archive.endswith(".tgz"):
        members = archives.untar(archive, wanted)
    else:
        members = archives.unzip(archive, wanted)
    contents = {}
    for name, content in members:
        contents.setdefault(keys[name.rpartition("/")[2]], content)
    missing = [file for key, file in corpus.files.items() if key not in contents]
    if missing:
        raise UserError(f"{archive} does not hold {', '.join(missing)}: fetch it anew.")
    return contents


def wrong_files(corpus: Published, contents: dict) -> list[str]:
    """Names of the files whose checksum is not the published one."""
    return [
        corpus.files[key]
        for key, content in contents.items()
        if not files.same_content(content, corpus.digests[key])
    ]


def contents_to_splits(contents: dict, unit: str, source: str) -> dict:
    """'train', 'valid', 'test' -> bytes, by cutting if there is one whole file.

    Between characters, if it is to be text; raises `UserError` if it is none.
    """
    if "whole" not in contents:
        return contents
    whole = contents["whole"]
    if unit == "bytes" or whole.isascii():
        return split_in_order(whole, "bytes")
    parts = split_in_order(files.decode(whole, source), "characters")
    return {split: text.encode() for split, text in parts.items()}


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
        texts = {
            split: corpus.clean(files.decode(text, f"the {split} part of {source}"))
            for split, text in splits.items()
        }
        vocabulary = None
    name = corpus.name if genuine else f"{corpus.name}-{corpus.altered}"
    unknown = False if genuine or corpus.closed else None
    return make_corpus(name, texts, corpus.unit, source, unknown, vocabulary)
