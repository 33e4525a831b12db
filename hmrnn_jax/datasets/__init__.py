"""Corpora by name: local files first, then what TensorFlow Datasets has prepared or fetches."""

import os

from hmrnn_jax.datasets import brent, chinese, python_reference, quatrains
from hmrnn_jax.datasets.published import PUBLISHED, read_local
from hmrnn_jax.datasets.text import Corpus, user_text
from hmrnn_jax.errors import UserError

NAMES = (
    "python_reference", *PUBLISHED, "quatrains", "chinese_unsegmented", "chinese_simplified",
    "brent_text", "brent_phono", "text",
)  # fmt: skip


def load(
    name: str, data_dir=None, path=None, unit: str = "characters", download: bool = True
) -> Corpus:
    """The corpus of that name.

    Args:
      name: `python_reference` (comes with Python), `text` (the user's own, at `path`), a
        published corpus: `ptb_char`, `ptb_word`, `text8`, `enwik8`, `tiny_shakespeare`,
        `wikitext2_word`; Chinese: `quatrains`, see `datasets.quatrains`, `chinese_unsegmented`
        and `chinese_simplified`, see `datasets.chinese`; or speech to children, `brent_text` and
        `brent_phono`, see `datasets.brent`.
      data_dir: the data folder, by default the environment variable HMRNN_DATA. Files in its
        folders ptb, text8, enwik8, tiny-shakespeare and wikitext-2 are used as they are;
        without them the published file is fetched into `data_dir`/tfds, or into TFDS's own
        folder if there is no data folder. The others must be in zh-poetry, zh-segmentation and
        brent: they are never fetched.
      path: file or folder of `text`; or your own file of poems for `quatrains`, of spaced lines
        for `brent_text` and `brent_phono`.
      unit: symbols of `text`: 'characters', 'bytes' or 'words'. Published corpora have theirs.
      download: False never asks the network.

    text8, enwik8 and tiny_shakespeare are cut in order into 90, 5 and 5 % (char-rnn cuts tiny
    Shakespeare 90/10). `Corpus.name` is the published name only if the text is the published
    one by its checksum; otherwise it ends in -prefix (text8, enwik8) or -modified.

    Raises:
      UserError: an unknown name, a missing or damaged file, a failed download.
    """
    if name not in NAMES:
        raise UserError(f"there is no corpus {name!r}: choose one of {', '.join(NAMES)}.")
    if name == "text":
        if not path:
            raise UserError("the corpus 'text' is your own: give the path of a file or folder.")
        return user_text(path, unit)
    root = data_dir or os.environ.get("HMRNN_DATA")
    if name == "quatrains":
        return quatrains.quatrains(root, path)
    if name.startswith("brent_"):
        return brent.brent(name.removeprefix("brent_"), root, path)
    if path:
        raise UserError(
            "a path goes with 'brent_text', 'brent_phono', 'quatrains' and 'text' only, not with"
            f" {name}: drop it."
        )
    if name == "python_reference":
        return python_reference.python_reference()
    if name == "chinese_unsegmented":
        return chinese.chinese(root)
    if name == "chinese_simplified":
        return chinese.simplified(root)
    local = read_local(PUBLISHED[name], root) if root else None
    if local is not None:
        return local
    # Only here, because it takes a second and most runs do without.
    from hmrnn_jax.datasets.builders import fetch

    return fetch(PUBLISHED[name], root, download)
