"""Published corpora: names, checksums, local files, downloads from a server of our own."""

import dataclasses
import functools
import gzip
import hashlib
import http.server
import io
import os
import tarfile
import threading
import time
import zipfile

import numpy as np
import pytest

from hmrnn_jax import files
from hmrnn_jax.datasets import NAMES, iam_ondb, load, logic, mnist, treebank
from hmrnn_jax.datasets.published import PUBLISHED
from hmrnn_jax.errors import UserError

SPLITS = ("train", "valid", "test")
PTB = {"train": "a _ b\nc\n", "valid": "a b c\n", "test": "c _ a\n"}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def data(tmp_path, monkeypatch):
    """An empty data folder, which HMRNN_DATA names."""
    monkeypatch.setenv("HMRNN_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def server(tmp_path):
    """A web server on this machine: (its folder, its address)."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def publish(monkeypatch, name, **changes):
    """Replaces fields of a published corpus for one test."""
    monkeypatch.setitem(PUBLISHED, name, dataclasses.replace(PUBLISHED[name], **changes))


def write(path, content: bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def ptb_archive() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for split, text in PTB.items():
            for name in (f"ptb.char.{split}.txt", f"ptb.{split}.txt"):
                member = tarfile.TarInfo(f"./simple-examples/data/{name}")
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


def zipped(name: str, content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return packed.getvalue()


# Names and local files


def test_names_and_arguments(tmp_path):
    with pytest.raises(UserError, match="ptb_char.*text8.*enwik8"):
        load("penn")
    with pytest.raises(UserError, match="give the path"):
        load("text")
    with pytest.raises(UserError, match="'text' only"):
        load("text8", path="somewhere")
    (tmp_path / "a").write_text("to be or not to be " * 20)
    assert load("text", path=tmp_path / "a", unit="words").vocabulary.size == 5


def test_part_of_text8_never_has_its_name(data):
    text = "".join(chr(97 + i % 26) for i in range(1000)) + " "
    write(data / "text8" / "text8", text.encode())
    corpus = load("text8")
    assert corpus.name == "text8-prefix"
    assert [len(corpus.splits[s]) for s in SPLITS] == [900, 50, 51]
    # The only space stands in the last part.
    assert corpus.unknown == {"train": 0, "valid": 0, "test": 1}
    (data / "text8" / "text8").rename(data / "text8" / "text8-prefix")
    assert load("text8").name == "text8-prefix"


def test_the_whole_has_its_name_and_a_damaged_whole_is_refused(data, monkeypatch):
    text = b"abc " * 250
    publish(monkeypatch, "text8", size=1000, digests={"whole": sha256(text)})
    write(data / "text8" / "text8.gz", gzip.compress(text))
    corpus = load("text8")
    assert corpus.name == "text8" and corpus.vocabulary.symbols == (" ", "a", "b", "c")
    write(data / "text8" / "text8.gz", gzip.compress(text[:-1] + b"x"))
    with pytest.raises(UserError, match="text8.gz.*damaged"):
        load("text8")


def test_enwik8_is_bytes_and_counts_those_of_the_whole_file(data, monkeypatch):
    text = bytes(range(100)) * 9 + bytes(range(101, 201))
    write(data / "enwik8" / "enwik8", text)
    part = load("enwik8")
    assert part.name == "enwik8-prefix" and part.vocabulary.unknown
    assert part.unknown == {"train": 0, "valid": 50, "test": 50}
    publish(monkeypatch, "enwik8", digests={"whole": sha256(text)})
    whole = load("enwik8")
    assert whole.name == "enwik8" and not whole.vocabulary.unknown
    assert whole.vocabulary.size == 200 and not any(whole.unknown.values())
    assert np.concatenate(list(whole.splits.values())).tolist() == (
        [*range(100)] * 9 + [*range(100, 200)]
    )


def test_a_text_is_cut_between_its_characters(data):
    write(data / "tiny-shakespeare" / "input.txt", ("é" * 1001).encode())
    corpus = load("tiny_shakespeare")
    assert [len(corpus.splits[split]) for split in SPLITS] == [900, 50, 51]


@pytest.mark.parametrize("where", ["foo://b/x", "s3://b/x"])
@pytest.mark.parametrize(
    "read",
    [
        lambda: load("ptb_char"), lambda: load("brent_text"), lambda: load("quatrains"),
        mnist.load, logic.load, iam_ondb.load, treebank.nltk_sample,
    ],
    ids=["published", "brent", "quatrains", "mnist", "logic", "iam_ondb", "treebank"],
)  # fmt: skip
def test_a_data_folder_elsewhere_is_told_in_one_sentence(monkeypatch, where, read):
    monkeypatch.setenv("HMRNN_DATA", where)
    with pytest.raises(UserError, match="is neither a local path nor|cannot be reached"):
        read()


def test_other_text_is_called_modified(data):
    write(data / "tiny-shakespeare" / "input.txt", b"to be, or not to be\n" * 50)
    assert load("tiny_shakespeare").name == "tiny_shakespeare-modified"
    for split, text in PTB.items():
        write(data / "ptb" / f"ptb.char.{split}.txt.gz", gzip.compress(text.encode()))
    corpus = load("ptb_char")
    assert corpus.name == "ptb_char-modified"
    assert corpus.vocabulary.symbols == ("\n", " ", "a", "b", "c")
    assert [corpus.vocabulary.decode(corpus.splits[s]) for s in SPLITS] == [
        "a b\nc\n",
        "abc\n",
        "c a\n",
    ]


def test_unseen_symbol_in_a_closed_corpus_and_a_missing_split(data):
    for split, text in (PTB | {"valid": "a q\n"}).items():
        write(data / "ptb" / f"ptb.char.{split}.txt", text.encode())
    with pytest.raises(UserError, match="valid part of .* 'q' at offset 1"):
        load("ptb_char")
    (data / "ptb" / "ptb.char.test.txt").unlink()
    with pytest.raises(UserError, match="lacks ptb.char.test.txt"):
        load("ptb_char")


def test_the_published_archive_will_do(data):
    write(data / "ptb" / "simple-examples.tgz", ptb_archive())
    assert load("ptb_char").vocabulary.size == 5
    assert load("ptb_word").vocabulary.symbols == ("<eos>", "_", "a", "b", "c")
    write(data / "text8" / "text8.zip", zipped("text8", b"ab c" * 100))
    assert load("text8").name == "text8-prefix"
    write(data / "text8" / "text8.zip", zipped("text8", b"ab c" * 100)[:-30])
    with pytest.raises(UserError, match="text8.zip"):
        load("text8")


# Downloads


def test_a_download_is_checked_stored_and_read_again(data, server, monkeypatch):
    served, address = server
    (served / "simple-examples.tgz").write_bytes(ptb_archive())
    sums = {split: sha256(text.encode()) for split, text in PTB.items()}
    for name in ("ptb_char", "ptb_word"):
        publish(monkeypatch, name, url=f"{address}/simple-examples.tgz", digests=sums)
    corpus = load("ptb_char")
    assert corpus.name == "ptb_char"
    assert corpus.vocabulary.decode(corpus.splits["train"]) == "a b\nc\n"
    assert list((data / "tfds" / "language_corpus").rglob("*.array_record*"))
    (served / "simple-examples.tgz").unlink()
    again = load("ptb_char", download=False)
    assert all(np.array_equal(again.splits[s], corpus.splits[s]) for s in SPLITS)
    with pytest.raises(UserError, match="HTTP status 404"):
        load("ptb_word")


@pytest.mark.parametrize("name, archive", [("text8", "text8.zip"), ("enwik8", "enwik8.zip")])
def test_whole_files_from_a_zip(data, server, monkeypatch, name, archive):
    served, address = server
    text = b"abcd" * 500
    (served / archive).write_bytes(zipped(name, text))
    publish(monkeypatch, name, url=f"{address}/{archive}", digests={"whole": sha256(text)})
    corpus = load(name)
    assert corpus.name == name
    assert [len(corpus.splits[s]) for s in SPLITS] == [1800, 100, 100]


def test_what_is_fetched_is_fetched_over_https_and_known_by_its_checksum():
    assert mnist.URL.startswith("https://")
    assert all(len(digest) == 64 for digest in mnist.FILES.values())
    for corpus in PUBLISHED.values():
        assert corpus.url.startswith("https://")
        # Of text8 and enwik8 the md5 is published.
        length = 32 if corpus.name in ("text8", "enwik8") else 64
        assert {len(digest) for digest in corpus.digests.values()} == {length}


def test_an_archive_that_unpacks_to_too_much_is_refused(data, monkeypatch):
    write(data / "text8" / "text8.zip", zipped("text8", bytes(1 << 20)))
    write(data / "ptb" / "simple-examples.tgz", ptb_archive())
    monkeypatch.setattr(files, "room", lambda: 5000)
    with pytest.raises(UserError, match=r"text8\.zip holds more than 5,000 bytes"):
        load("text8")
    monkeypatch.setattr(files, "room", lambda: 5)
    with pytest.raises(UserError, match=r"simple-examples\.tgz.* holds more than 5 bytes"):
        load("ptb_char")


def test_a_download_that_is_not_the_corpus_is_kept_aside(data, server, monkeypatch, capfd):
    served, address = server
    text = b"To be\n" * 100
    (served / "input.txt").write_bytes(text[:-1] + b"x")
    publish(
        monkeypatch, "tiny_shakespeare", url=f"{address}/input.txt", digests={"whole": sha256(text)}
    )
    with pytest.raises(UserError, match="checksum of input.txt.*\\.bad") as raised:
        load("tiny_shakespeare")
    (aside,) = (data / "tfds").rglob("*.bad")
    assert str(aside) in str(raised.value)
    (served / "input.txt").write_bytes(text)
    assert load("tiny_shakespeare").name == "tiny_shakespeare"
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a.zip", "http://no-such-host.invalid/a.zip"])
def test_no_network_is_told_soon(data, monkeypatch, url):
    publish(monkeypatch, "wikitext2_word", url=url)
    begin = time.monotonic()
    with pytest.raises(UserError, match="wiki.train.tokens.*wikitext-2 by hand") as raised:
        load("wikitext2_word")
    assert time.monotonic() - begin < 10
    assert url in str(raised.value)


def test_a_silent_server_is_not_waited_for():
    from hmrnn_jax.datasets.builders import unreachable

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), None) as silent:  # never accepts
        begin = time.monotonic()
        reason = unreachable(f"http://127.0.0.1:{silent.server_address[1]}/a", seconds=0.5)
    assert reason and time.monotonic() - begin < 2


def test_download_may_be_switched_off(tmp_path):
    with pytest.raises(UserError, match=f"switched off.*{tmp_path}/text8"):
        load("text8", data_dir=tmp_path, download=False)


# The Python reference


def test_python_reference_is_split_by_topic_without_doubles():
    corpus, again = load("python_reference"), load("python_reference")
    sizes = np.array([len(corpus.splits[s]) for s in SPLITS])
    assert 350_000 < sizes.sum() < 600_000
    assert (sizes[1:] > 0.04 * sizes.sum()).all() and (sizes[1:] < 0.08 * sizes.sum()).all()
    assert all(np.array_equal(corpus.splits[s], again.splits[s]) for s in SPLITS)
    decoded = {s: corpus.vocabulary.decode(corpus.splits[s]) for s in SPLITS}
    paragraphs = [p for text in decoded.values() for p in text.split("\n\n")]
    assert len(set(paragraphs)) == len(paragraphs) > 1000
    assert "A class definition defines a class object" in decoded["valid"]
    assert "Assignment statements are used to (re)bind names" in decoded["test"]
    assert sum(corpus.unknown.values()) < 20


# Real data


@pytest.mark.skipif("HMRNN_DATA" not in os.environ, reason="HMRNN_DATA names no data folder")
@pytest.mark.parametrize(
    "name, sizes, vocabulary",
    [
        ("ptb_char", (5_017_482, 393_042, 442_423), 50),
        ("ptb_word", (929_589, 73_760, 82_430), 10_000),
        ("wikitext2_word", (2_088_628, 217_646, 245_569), 33_278),
        ("tiny_shakespeare", (1_003_854, 55_770, 55_770), 65),
        ("text8", (90_000_000, 5_000_000, 5_000_000), 27),
        ("enwik8", (90_000_000, 5_000_000, 5_000_000), 205),
    ],
)
def test_published_sizes(name, sizes, vocabulary):
    try:
        corpus = load(name, download=False)
    except UserError as error:
        pytest.skip(str(error))
    if corpus.name == f"{name}-prefix":
        assert corpus.vocabulary.size <= vocabulary
        return
    assert corpus.name == name
    assert tuple(len(corpus.splits[s]) for s in SPLITS) == sizes
    assert corpus.vocabulary.size == vocabulary
    assert not corpus.vocabulary.unknown


def test_every_name_is_loadable_or_says_why(data):
    for name in NAMES:
        try:
            assert load(name, download=False).name.startswith(name)
        except UserError as error:
            assert "into" in str(error) or "path" in str(error)
