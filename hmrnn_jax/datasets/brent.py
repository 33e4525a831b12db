"""Child-directed English without spaces (Brent, Siskind 2001), with its words for scoring."""

import os

from hmrnn_jax import files
from hmrnn_jax.datasets import segmented
from hmrnn_jax.datasets.text import Corpus, find_file
from hmrnn_jax.errors import require

FOLDER = "brent"
KINDS = ("text", "phono")
# kind -> split -> file -> sha256; that of the phonemes' test part is not known here.
FILES = {
    "text": {
        "train": {
            "br-text.train.txt": "14dd5f396d1015602fca5eeb5294495b8d3de3d07ddf0d193955c0817de26d8a"
        },
        "valid": {
            "br-text.valid.txt": "60e6c8912d6d01ccfe1adfa425fb6a5635faad34d54d6f292d473e14b6f2c419"
        },
        "test": {
            "br-text.test.txt": "a9f32d41224e270ac30e314d1c1251b0a9ab089e9abf5cec08cfdcac6d63c401"
        },
    },
    "phono": {
        "train": {
            "br-phono.train.txt": "c9247907ac71e94ec89ce6e242d804e05e0f4626dfb73cf10198d2e215a0981f"
        },
        "valid": {
            "br-phono.valid.txt": "f031947103f7209645118dc49cdc8e55d2fa18365f0ed77ae3a0f42baaa01286"
        },
        "test": {"br-phono.test.txt": None},
    },
}


def brent(kind="text", root=None, path=None) -> Corpus:
    """Utterances without their spaces, an utterance a line; the words are in `Corpus.ends`.

    The field's standard text for finding words without supervision, in the parts of Kawakami,
    Dyer and Blunsom (2019).

    Args:
      kind: `text`, in spelling, or `phono`, one symbol a phoneme (Brent, Cartwright 1996).
      root: the data folder, by default the environment variable HMRNN_DATA; the files
        br-`kind`.train.txt, .valid.txt and .test.txt are in its folder brent, each plain or
        `.gz`. Where the phonemes' test part is missing, validation stands in for it, and the
        source says so.
      path: your own lines of words in place of these, see `segmented.own`.

    Returns:
      The corpus `brent_text` or `brent_phono`; with -modified after it if the sha256 of a file is
      another one.

    Raises:
      UserError: another kind, no data folder, a missing file, or as `segmented.read_words`.
    """
    require("The kind of the Brent corpus", kind, KINDS)
    if path:
        return segmented.own(path)
    name, parts, note = f"brent_{kind}", FILES[kind], ""
    root = root or os.environ.get("HMRNN_DATA")
    if kind == "phono" and root and find_file(files.place(root) / FOLDER, *parts["test"]) is None:
        parts = parts | {"test": parts["valid"]}
        note = "; its test part is not there: validation stands in for it"
    sentences, folder, genuine = segmented.read_published(name, FOLDER, parts, root)
    source = f"{folder}, br-{kind}, spaces removed; the words are not used{note}"
    return segmented.make(name if genuine else f"{name}-modified", sentences, source)
