"""The Python language reference, which every Python carries: a corpus without a download."""

import platform
import re
import zlib

from hmrnn_jax.datasets.text import Corpus, make_corpus
from hmrnn_jax.errors import UserError

# A topic's split is its checksum modulo 25. Of the 25 remainders these two give parts of 4 to
# 7 % on Python 3.11, 3.12 and 3.13, each with several long articles of the common kind.
_SPLIT_OF = {1: "valid", 4: "test"}


def python_reference() -> Corpus:
    """The help topics of the running Python (`pydoc_data.topics`) as characters.

    Topics come in the order of their names, whole topics go to train (about 90 %), valid or
    test (about 5 % each) by a checksum of the name, so that a topic stays in its split on
    every Python version. Many paragraphs of the reference stand in several topics: only the
    first occurrence is kept (spacing aside), so no paragraph of test is in training.

    The text differs between Python versions, so the name is `python_reference-3.11` or the
    like. Characters that training never saw are unknown symbols, counted in the corpus.

    Raises:
      UserError: a Python without `pydoc_data`.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise UserError(
            "this Python comes without pydoc_data.topics, the text of python_reference: install "
            "the full standard library, or choose another corpus."
        ) from error
    seen, parts = set(), {"train": [], "valid": [], "test": []}
    for name in sorted(topics):
        split = _SPLIT_OF.get(zlib.crc32(name.encode()) % 25, "train")
        for paragraph in re.split(r"\n[ \t]*\n", topics[name]):
            key = " ".join(paragraph.split())
            if key and key not in seen:
                seen.add(key)
                parts[split].append(paragraph.strip("\n"))
    texts = {split: "\n\n".join(paragraphs) + "\n" for split, paragraphs in parts.items()}
    version = ".".join(platform.python_version_tuple()[:2])
    source = (
        f"pydoc_data.topics of Python {platform.python_version()}, {len(topics)} topics "
        "(the text differs between Python versions)"
    )
    return make_corpus(f"python_reference-{version}", texts, "characters", source)
