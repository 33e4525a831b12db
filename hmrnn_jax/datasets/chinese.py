"""Chinese text with gold words, and the same text as it is written: without spaces."""

from hmrnn_jax.datasets import segmented
from hmrnn_jax.datasets.splits import in_order
from hmrnn_jax.datasets.text import Corpus

FOLDER = "zh-segmentation"
# split -> file -> sha256. Universal Dependencies' Chinese GSD 1.3 (its column of tokens, a sentence
# a line) in its own three parts, and the gold test texts of two corpora of the SIGHAN 2005
# bakeoff, all in traditional characters.
_UD = "ud-zh-gsd-v1.3"
FILES = {
    "train": {
        f"{_UD}.train.txt": "61791a4d92fcf19f46c880e2afa0c6246b716530d5c963b43c3188619bac8ddd",
        "as_testing_gold.utf8": "75acac0f0d457187d4b5dbc66227fb887ad172bca617125054db10f56c72bc20",
        "cityu_test_gold.utf8": "2785b66a6f7c0e72f34e35859da383a81d721deb1c673a85786f0152e014935a",
    },
    "valid": {f"{_UD}.dev.txt": "1e9bdf8a465e57039ab7c2284d43c33b0dad71af696bc8ed41af5828a48856b6"},
    "test": {f"{_UD}.test.txt": "1c569d189e8bbe471f6fb74eaca770f572319937744419377099afb30f0c3c93"},
}
MSR = {"msr_test_gold.utf8": "cd1a8473841f1b2fcddd14d12599ad8872e6167feb64807af5bac2f6a32cb75d"}


def chinese(root=None) -> Corpus:
    """Traditional Chinese without spaces, for a model that is to find its words by itself.

    Training is the UD Chinese GSD treebank's training part and the gold texts of Academia
    Sinica (AS) and the City University of Hong Kong (CityU), validation and test are the
    treebank's. No split keeps a trace of the words: these are for scoring boundaries,
    `Corpus.ends`. A line end follows each sentence. Everything else stands as the
    files have it: the treebank writes its commas and full stops in ASCII, the two others in
    full width. Characters that training has not are unknown, and counted.

    Args:
      root: the data folder, by default the environment variable HMRNN_DATA; the five files
        are in its folder zh-segmentation, each plain or `.gz`.

    Returns:
      The corpus `chinese_unsegmented`, or `chinese_unsegmented-modified` if the sha256 of a file
      is another one.

    Raises:
      UserError: no data folder, a missing file, or as `segmented.read_words`.
    """
    name = "chinese_unsegmented"
    sentences, folder, genuine = segmented.read_published(name, FOLDER, FILES, root)
    source = (
        f"{folder}, spaces removed: train {' + '.join(FILES['train'])}, "
        f"valid {', '.join(FILES['valid'])}, test {', '.join(FILES['test'])}; "
        "the gold words are not used"
    )
    return segmented.make(name if genuine else f"{name}-modified", sentences, source)


def simplified(root=None) -> Corpus:
    """Simplified Chinese without spaces: the SIGHAN 2005 bakeoff's gold test text of MSR.

    The bakeoff's training texts are not needed, as no word is used. The lines are cut in order in
    90, 5 and 5 %; whoever scores the words of the whole file (`--words`) scores a text that the
    model was trained on, without its words, as Sun and Deng (2018) do; PKU's is another text.

    Args:
      root: as of `chinese`.

    Returns:
      The corpus `chinese_simplified`, or `chinese_simplified-modified` for another file.

    Raises:
      UserError: as `chinese`, or too few lines for three splits.
    """
    name, parts = "chinese_simplified", {"train": MSR, "valid": {}, "test": {}}
    sentences, folder, genuine = segmented.read_published(name, FOLDER, parts, root)
    source = f"{folder}, {', '.join(MSR)} in order 90/5/5 %, spaces removed; the words are not used"
    parts = in_order(sentences["train"])
    return segmented.make(name if genuine else f"{name}-modified", parts, source)
