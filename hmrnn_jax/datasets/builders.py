"""The published corpora as a TensorFlow Datasets builder (TensorFlow itself is not needed).

    import tensorflow_datasets as tfds
    import hmrnn_jax.datasets.builders
    tfds.data_source('language_corpus/text8', split='test')[0]['text']

What TFDS does here: fetch the published file once, keep the checked splits in `data_dir`
(which may be `gs://...`) as array_record files, and read them back on any later run.
"""

import contextlib
import io
import threading

import requests
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from hmrnn_jax import files
from hmrnn_jax.datasets import published
from hmrnn_jax.datasets.splits import SPLITS
from hmrnn_jax.datasets.text import Corpus
from hmrnn_jax.errors import UserError

_PATIENCE = 8.0  # seconds to wait for a first answer of the server


class LanguageCorpus(tfds.core.GeneratorBasedBuilder):
    """One configuration per published corpus; each split is one record, the split's text."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name=corpus.name, description=corpus.title)
        for corpus in published.PUBLISHED.values()
    ]

    def __init__(self, *, file_format="array_record", **kwargs):
        # TFDS's own default, tfrecord, needs TensorFlow.
        super().__init__(file_format=file_format, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        corpus = published.PUBLISHED[self.builder_config.name]
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{corpus.title}: the whole split as one record of bytes.",
            features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
            homepage=corpus.url,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        corpus = published.PUBLISHED[self.builder_config.name]
        # TFDS's own `extract` needs TensorFlow, so the archive is read here.
        archive = epath.Path(dl_manager.download(corpus.url))
        try:
            contents = published.unpack(corpus, archive)
            wrong = published.wrong_files(corpus, contents)
            if wrong:
                raise UserError(f"the checksum of {', '.join(wrong)} is not the published one")
        except UserError as error:
            aside = archive.with_name(f"{archive.name}.bad")
            archive.replace(aside)
            # TFDS's note beside the file has its checksum and would refuse any better file.
            archive.with_name(f"{archive.name}.INFO").unlink(missing_ok=True)
            raise UserError(
                f"what {corpus.url} gave is not {corpus.name} ({error}); it is kept aside as "
                f"{aside} and not used: try again, or fetch the file by other means."
            ) from error
        splits = published.contents_to_splits(contents, corpus.unit, corpus.url)
        return {split: self._generate_examples(splits[split]) for split in SPLITS}

    def _generate_examples(self, text: bytes):
        yield 0, {"text": text}


def fetch(corpus: published.Published, root=None, download: bool = True) -> Corpus:
    """The corpus from the prepared TFDS files, downloading and preparing them if need be.

    Args:
      root: the data folder; TFDS works in `root`/tfds. None for TFDS's own default folder.
      download: whether a download is allowed.

    Raises:
      UserError: no files and no download; or what the server gave is not the corpus.
    """
    data_dir = files.place(root) / "tfds" if root else None
    with _quiet():
        builder = LanguageCorpus(config=corpus.name, data_dir=data_dir)
    if not builder.is_prepared():
        reason = unreachable(corpus.url) if download else "downloads are switched off"
        if reason:
            raise UserError(_by_hand(corpus, root, reason))
        tfds.disable_progress_bar()
        try:
            with _quiet():
                builder.download_and_prepare()
        except (OSError, tfds.core.download.DownloadError) as error:
            raise UserError(_by_hand(corpus, root, str(error))) from error
    splits = {split: builder.as_data_source(split=split)[0]["text"] for split in SPLITS}
    return published.to_corpus(corpus, splits, str(builder.data_path), genuine=True)


def unreachable(url: str, seconds: float = _PATIENCE) -> str | None:
    """Why `url` cannot be fetched, or None if the server answers; takes at most `seconds`.

    TFDS repeats a failing look-up for minutes, so this is asked first. It runs in a thread
    of its own because no time limit of the HTTP client covers the look-up of a host name.
    """
    answer = [f"no answer within {seconds:g} seconds"]

    def ask():
        try:
            with requests.get(url, stream=True, timeout=seconds) as response:
                answer[0] = None if response.ok else f"HTTP status {response.status_code}"
        except requests.RequestException as error:
            answer[0] = f"{type(error).__name__}, is this machine offline?"

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answer[0]


@contextlib.contextmanager
def _quiet():
    """TFDS prints its progress, and warns of each folder that it is about to fill."""
    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)


def _by_hand(corpus: published.Published, root, reason: str) -> str:
    files = ", ".join(corpus.files.values()) + " (plain or .gz)"
    if corpus.archive not in corpus.files.values():
        files += f" or the archive {corpus.archive}"
    folder = f"{root}/{corpus.folder}" if root else f"$HMRNN_DATA/{corpus.folder}"
    hint = "" if root else ", with HMRNN_DATA set to your data folder"
    return (
        f"{corpus.name} could not be fetched from {corpus.url} ({reason}): put {files} into "
        f"{folder} by hand{hint}."
    )
