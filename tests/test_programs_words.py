"""`eval.py` on a run of words as a user starts it: trees, plain sentences, pairs, weights."""

import gzip
import json

import pytest
from test_programs import call

from hmrnn_jax import commands
from hmrnn_jax.errors import UserError

pytestmark = [pytest.mark.whole_program, pytest.mark.slow]
SENTENCES = [
    "the author laughs", "the authors laugh", "the author that likes the guards laughs",
    "the authors that the guard likes laugh", "no author ever laughs",
]  # fmt: skip
TREES = """( (S (NP (DT The) (NN author)) (VP (VBZ laughs)) (. .)) )
( (S (NP (NP (DT the) (NN author)) (SBAR (WHNP (WDT that)) (S (VP (VBZ likes) (NP (DT the)
 (NNS guards)))))) (VP (VBZ laughs))) )
"""
PAIRS = """simple_agrmt\tsing_MS_MV\tthe author laughs\tthe author laugh
simple_agrmt\tplur_MS_MV\tthe authors laugh\tthe authors smile
"""
SIZES = [
    "--config.model.sizes=12,8",
    "--config.model.embedding=8",
    "--config.model.on_lstm.chunk=4",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of an ON-LSTM's and an LSTM's run on a made-up text, and the text itself."""
    folder = tmp_path_factory.mktemp("words")
    text = folder / "text"
    text.mkdir()
    for split in ("train", "valid", "test"):
        (text / f"{split}.txt").write_text("\n".join(SENTENCES * 40) + "\n")
    for config in ("on", "awd"):
        result = call(
            "train.py", f"--config=configs/{config}_lstm_ptb_word.py",
            f"--workdir={folder / config}", "--config.data.name=text", f"--config.data.path={text}",
            "--config.data.unit=words", *SIZES, "--config.batch=4", "--config.window=10",
            "--config.steps=6", "--config.report=2", "--config.evaluation.batch=2",
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        assert "test perplexity" in result.stdout
    return folder


def evaluate(runs, command, *arguments, code=0):
    result = call("eval.py", command, f"--workdir={runs / 'on'}", *arguments)
    assert result.returncode == code, result.stderr
    return result.stdout if code == 0 else result.stderr


def test_trees_of_every_layer_beside_a_control_and_the_trivial_ones(runs, tmp_path):
    (tmp_path / "wsj_0001.mrg").write_text(TREES)
    out = evaluate(runs, "trees", f"--treebank={tmp_path}", f"--control={runs / 'awd'}", "--json")
    rows = json.loads(out.splitlines()[-1])
    assert {"layer 1, biased", "layer 2, unbiased", "control lstm, layer 2, biased"} <= set(rows)
    assert rows["right"]["sentences"] == 2 and 0 <= rows["layer 2, biased"]["f1"] <= 1
    assert "balanced" in out and "random" in out
    (tmp_path / "wsj_0002.mrg").write_text("( (S (NP (DT The)) ")
    assert "wsj_0002.mrg, line 1" in evaluate(runs, "trees", f"--treebank={tmp_path}", code=2)


def test_plain_sentences_become_brackets_and_a_picture(runs, tmp_path):
    path, picture = tmp_path / "sentences.txt", tmp_path / "tree.png"
    path.write_text("The author laughs\n\nthe zebra\n")
    out = evaluate(runs, "parse", f"--text={path}", f"--output={picture}", "--draw=1")
    lines = out.splitlines()
    assert lines[1].replace("(", "").replace(")", "").split() == ["The", "author", "laughs"]
    assert lines[2:4] == ["", "( the zebra )"]
    assert "1 of 5 words were never seen in training" in lines[4]
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert "this model has 2 layers" in evaluate(
        runs, "parse", f"--text={path}", "--layer=3", code=2
    )
    path.write_text("\n \n")
    assert "holds no sentence" in evaluate(runs, "parse", f"--text={path}", code=2)


def test_curves_of_one_run_and_of_two(runs):
    evaluate(runs, "curves")
    picture = runs / "on" / "curves.png"
    alone = picture.read_bytes()
    evaluate(runs, "curves", f"--control={runs / 'awd'}", "--keys=valid/nats,train/nats")
    with pytest.raises(UserError, match="--keys chooses .* by --control"):
        commands.execute(["hmrnn", "curves", f"--workdir={runs / 'on'}", "--keys=valid/nats"])
    assert alone[:4] == b"\x89PNG" and picture.read_bytes() != alone


def test_pairs_are_scored(runs, tmp_path):
    path = tmp_path / "pairs.tsv.gz"
    path.write_bytes(gzip.compress(PAIRS.encode()))
    out = evaluate(runs, "syneval", f"--items={path}", "--json")
    (row,) = json.loads(out.splitlines()[-1])["constructions"]
    assert row["construction"] == "simple_agrmt" and row["items"] == 2 and row["known_items"] == 1


def test_official_weights_there_and_back_score_alike(runs, tmp_path):
    weights = tmp_path / "on.npz"
    evaluate(runs, "export", f"--output={weights}")
    ours = json.loads(evaluate(runs, "score", "--json").splitlines()[-1])
    result = call(
        "eval.py", "score", "--json", "--config=on_lstm_ptb_word", f"--weights={weights}",
        "--config.data.name=text", f"--config.data.path={runs / 'text'}",
        "--config.data.unit=words", *SIZES, "--config.evaluation.batch=2",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    theirs = json.loads(result.stdout.splitlines()[-1])
    assert theirs["symbols"] == ours["symbols"]
    assert theirs["nats"] == pytest.approx(ours["nats"], abs=1e-5)
    result = call("eval.py", f"--weights={weights}")
    assert result.returncode == 2 and "--weights needs --config" in result.stderr


def test_logic_is_scored_by_length_beside_another_run(tmp_path, capsys):
    for split in ("train", "test"):
        for length in range(13):
            (tmp_path / f"{split}{length}").write_text("=\ta\ta\n<\t( a ( and b ) )\tb\n" * 6)
    for cell in ("on_lstm", "lstm"):
        result = call(
            "train.py", f"--config=configs/logic.py:{cell}", f"--workdir={tmp_path / cell}",
            f"--config.data.path={tmp_path}", "--config.model.sizes=20,", "--config.steps=2",
            "--config.model.embedding=4", "--config.batch=8", "--config.evaluation.batch=8",
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
    result = call(
        "eval.py", "score", f"--workdir={tmp_path / 'on_lstm'}", "--json",
        f"--control={tmp_path / 'lstm'}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout.splitlines()[-1])
    assert figures["on_lstm"]["examples"] == figures["lstm"]["examples"] == 13 * 12
    assert "operators" in result.stdout and (tmp_path / "on_lstm" / "lengths.png").exists()
    # The other splits are their own pairs: a tenth of the training files is for validation.
    score = ["hmrnn", "score", f"--workdir={tmp_path / 'on_lstm'}", "--json"]
    for split, examples in (("train", 76), ("valid", 8)):
        commands.execute([*score, f"--split={split}"])
        figures = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert figures["on_lstm"]["examples"] == examples
    with pytest.raises(UserError, match="figure of the test split"):
        commands.execute([*score, "--split=valid", f"--output={tmp_path / 'a.png'}"])
