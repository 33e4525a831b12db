"""The fault campaign: its checkers see what they are for, and a small one finds nothing."""

import json
import signal
import types
from collections import Counter

import flax.traverse_util
import jax
import numpy as np
import pytest

from benchmarks import fault_checks, fault_damage, fault_runs, faults
from benchmarks.fault_checks import Read, Said
from hmrnn_jax.training.checkpoint import Checkpoints

NEWEST, OLDER, OTHER = (Read("values", step, name) for step, name in ((8, "a"), (6, "b"), (8, "c")))
TRACEBACK = "Traceback (most recent call last):\n  ...\nKeyError: 'x'\n"


@pytest.mark.parametrize(
    ("read", "fallback", "outcome"),
    [
        (NEWEST, OLDER, "harmless"),
        (OLDER._replace(told="8 is damaged"), OLDER, "told"),
        (OLDER, OLDER, "silent_changes"),
        (OTHER, OLDER, "silent_changes"),
        (OTHER._replace(told="a word"), OLDER, "silent_changes"),  # of no step that was saved
        (Read("refused", told="nothing can be read"), OLDER, "good_checkpoints_given_up"),
        (Read("none"), OLDER, "good_checkpoints_given_up"),
        (Read("refused", told="nothing can be read"), None, "told"),
        (Read("none"), None, "restarts_from_zero"),
        (Read("traceback"), OLDER, "tracebacks"),
    ],
)
def test_what_became_of_a_damaged_checkpoint(read, fallback, outcome):
    assert fault_checks.judge(read, NEWEST, fallback) == outcome


def test_a_digest_sees_one_bit_of_one_value_even_in_a_nan():
    values = np.array([1.0, np.nan], np.float32)
    flipped = values.copy()
    flipped.view(np.uint32)[1] ^= 1
    digests = {
        fault_checks.digest(tree)
        for tree in ({"a": values}, {"a": flipped}, {"b": values}, {"a": values[None]})
    }
    assert len(digests) == 4
    assert fault_checks.digest({"a": values.copy()}) in digests


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return faults.Stage(tmp_path_factory.mktemp("faults"), seed=0, say=lambda line: None)


@pytest.fixture
def saved(stage, tmp_path):
    """A function that saves a state, with one bit of one parameter flipped if asked."""

    def save(name, flipped=False):
        tree = stage.reader.whole
        params = flax.traverse_util.flatten_dict(tree["state"].params)
        changed = next(iter(params))
        value = np.array(params[changed])
        value.reshape(-1).view(np.uint32)[0] ^= flipped
        params[changed] = jax.device_put(value, params[changed].sharding)
        params = flax.traverse_util.unflatten_dict(params)
        with Checkpoints(tmp_path / name) as checkpoints:
            checkpoints.save_best(0, {"params": params, "slope": tree["slope"]}, loss=1.0)
            state = tree["state"].replace(params=params)
            checkpoints.save(0, tree | {"state": state})
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 1, "chars_per_second": 5}\n')
        return stage.reader.state(tmp_path / name)

    return save


def test_a_silently_changed_checkpoint_is_seen(saved):
    reference, same, changed = saved("one"), saved("two"), saved("three", flipped=True)
    assert fault_checks.differences(same, reference) == []
    assert fault_checks.differences(changed, reference) == [
        "latest: the values of update 0 differ",
        "best: the values of update 0 differ",
    ]
    lost = same._replace(latest=Read("none"), metrics=same.metrics * 2)
    assert [line.split(":")[0] for line in fault_checks.differences(lost, reference)] == [
        "latest", "metrics",
    ]  # fmt: skip


def test_speed_alone_is_no_difference_in_the_metrics():
    fast, slow = ({"step": 4, "bpc": 1.5, "chars_per_second": n} for n in (9.0, 4.0))
    assert fault_checks.timeless(fast) == fault_checks.timeless(slow)
    assert fault_checks.timeless(fast) != fault_checks.timeless(fast | {"bpc": 1.6})


def test_what_reading_renames_changes_or_cuts_is_seen(tmp_path):
    for name in ("kept", "renamed", "changed", "9.tmp"):
        (tmp_path / name).write_text("1")
    before = fault_checks.listing(tmp_path)
    (tmp_path / "renamed").rename(tmp_path / "unreadable")
    (tmp_path / "changed").write_text("2")
    (tmp_path / "9.tmp").unlink()  # a save that was cut: never read
    assert fault_checks.lost(before, fault_checks.listing(tmp_path)) == ["changed", "renamed"]


def test_half_written_files_are_seen(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st')  # the last line may be cut
    assert fault_checks.half_written(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text('{"st\n{"step": 1}\n')
    (tmp_path / "vocabulary.json").write_text("")
    assert len(fault_checks.half_written(tmp_path)) == 2


def test_what_a_program_said_is_read():
    said = Said.of("parameters\nresumed after update 1,200\nupdate 1,201/9\nupdate 1,202/9\n")
    assert said.resumed == 1200 and said.updates == [1201, 1202] and not said.traceback
    said = Said.of("warning: best is lost\nstopped after update 7; all is saved\n" + TRACEBACK)
    assert said.stopped == 7 and said.warned and said.traceback and said.resumed is None
    assert Said.of("error: no\nerror: not either\n").errors == ["error: no", "error: not either"]


@pytest.fixture
def case(tmp_path):
    """A function that makes a case whose programs say what it is given; a run lies in it."""

    def make(train="", train_status=0, evaluation='{"bpc": 1}', eval_status=0):
        texts = {"train.py": (train, train_status), "eval.py": (evaluation, eval_status)}

        def command(program, workdir):
            text, status = texts[program]
            return ["sh", "-c", 'printf "%s\\n" "$1"; exit $2', program, text, str(status)]

        stage = types.SimpleNamespace(
            output=tmp_path, seed=0, say=lambda line: None, command=command, environment={},
            half_score='{"bpc": 1}', reference=None, reader=None, startup=0.0,
        )  # fmt: skip
        case = fault_runs.Case(stage, f"case{len(list(tmp_path.rglob('case*')))}")
        case.check_end = lambda workdir, since=0: None
        run(case.folder / "run")
        return case

    return make


def run(folder, older=6, newest=8, best=6):
    """A folder with the names of a run's."""
    for name in (f"latest/{older}", f"latest/{newest}", f"best/{best}"):
        (folder / "checkpoints" / name / "default").mkdir(parents=True)
        (folder / "checkpoints" / name / "default/data").write_bytes(bytes(range(64)))
    (folder / "config.json").write_text("{}")
    return folder


GOOD = "resumed after update 8\ntest bpc 1"


@pytest.mark.parametrize(
    ("said", "expected", "counts"),
    [
        ({"train": GOOD}, {}, {}),
        ({"train": GOOD.replace("8", "6")}, {}, {"good_checkpoints_given_up": 1}),
        ({"train": "update 1/8\ntest"}, {}, {"restarts_from_zero": 1}),
        ({"train": GOOD, "train_status": 1}, {}, {"wrong_statuses": 1}),
        ({"train": TRACEBACK, "train_status": 1}, {}, {"wrong_statuses": 1, "tracebacks": 1}),
        ({"train": GOOD, "evaluation": '{"bpc": 2}'}, {}, {"silent_changes": 1}),
        ({"train": GOOD, "evaluation": '{"bpc": 2}'}, {"best": False}, {"silent_changes": 1}),
        ({"train": GOOD, "evaluation": 'warning: lost\n{"bpc": 2}'}, {"best": False}, {}),
        (
            {"train": GOOD, "evaluation": 'warning: lost\n{"bpc": 2}'},
            {},
            {"good_checkpoints_given_up": 1},
        ),
        (
            {"train": GOOD, "evaluation": "error: no", "eval_status": 2},
            {},
            {"good_checkpoints_given_up": 1},
        ),
        ({"train": GOOD, "evaluation": "error: no", "eval_status": 2}, {"best": False}, {}),
        ({"train": "error: no", "train_status": 2}, {"resume": None}, {}),
        ({"train": "error: no", "train_status": 2}, {"refusable": True}, {}),
        ({"train": "error: no", "train_status": 2}, {}, {"good_checkpoints_given_up": 2}),
        ({"train": "no", "train_status": 2}, {"resume": None}, {"wrong_statuses": 2}),
        ({"train": "update 1/8"}, {"resume": None}, {"restarts_from_zero": 1}),
    ],
)
def test_what_programs_do_wrong_with_a_damaged_run_is_counted(case, said, expected, counts):
    case = case(**said)
    fault_damage.met(case, case.folder / "run", fault_damage.Expected(**({"resume": 8} | expected)))
    assert case.counts == counts


def test_steps_lost_and_restarts_are_counted_and_the_case_kept(case):
    case = case()
    case.check_resumption(Said.of("resumed after update 8\n"), 8)
    case.check_resumption(Said.of("killed while it started"), 8)
    assert not case.counts
    case.check_resumption(Said.of("resumed after update 5\n"), 8)
    case.check_resumption(Said.of("update 1/8\n update 2/8\nupdate 3/8\n"), 8)
    assert case.counts == {"steps_lost": 3, "restarts_from_zero": 1}
    assert case.close() == case.counts and not case.folder.exists()
    kept = case.stage.output / "failing" / case.name
    assert (kept / "run/config.json").exists()
    assert "5 instead of 8" in (kept / "case.txt").read_text()


def test_a_program_that_takes_signals_for_its_end_is_seen(case):
    case = case()
    script = 'trap "exit 0" TERM INT; echo parameters; echo "update 24/24"; sleep 1 & wait; echo'
    case.stage.command = lambda program, workdir: ["sh", "-c", f'{script} "test 1"']
    fault_runs.signals(case, 2)
    assert case.counts == {"signals": 2, "wrong_statuses": 2}


def test_a_program_that_begins_anew_after_a_kill_is_seen(case):
    case = case()
    script = 'printf "%s\\n" parameters "update 5/24" "update 24/24"; sleep 1'
    case.stage.command = lambda program, workdir: ["sh", "-c", script]
    case.stage.startup = 0.5
    fault_runs.kills(case, 1)
    assert case.counts == {"kills": 1, "restarts_from_zero": 1}


def test_what_was_lost_two_starts_ago_is_seen(case, monkeypatch):
    """The second start loses what the first saved, and is killed before it says a word of it."""
    case = case()
    script = 'echo x >> {0}; echo parameters; [ $(wc -l < {0}) = 2 ] || echo "update 12/24"; {1}'
    case.stage.command = lambda program, workdir: [
        "sh", "-c", script.format(case.folder / "starts", 'echo ready; sleep 3 & wait'),
    ]  # fmt: skip

    def when_ready(case, program, workdir):
        program.wait_for(lambda: "ready" in program.text)
        return program.send(signal.SIGKILL)

    monkeypatch.setattr(fault_runs, "_anywhere", when_ready)
    monkeypatch.setattr(fault_runs, "_while_saving", when_ready)
    fault_runs.kills(case, 2)
    assert case.counts == {"kills": 2, "restarts_from_zero": 1}


def test_a_campaign_may_lie_in_a_folder_with_a_space():
    stage = types.SimpleNamespace(settings={"model.sizes": (8, 8), "data.path": "a b/text.txt"})
    command = faults.Stage.command(stage, "train.py", "a b/run")
    assert "--workdir=a b/run" in command and "--config.data.path=a b/text.txt" in command
    assert "--config.model.sizes=8,8" in command


class Heedless:
    """A reader that verifies nothing, and renames what it cannot read."""

    def latest(self, workdir, read_only=False):
        return self._read(workdir, "latest")

    def best(self, workdir):
        return self._read(workdir, "best")

    newest_as_best = latest

    def _read(self, workdir, name):
        folder = workdir / "checkpoints" / name
        step = fault_checks.steps_on_disk(workdir, name)[-1]
        content = (folder / str(step) / "default/data").read_bytes()
        if content[0] & 1:  # bytes that it happens to look at
            (folder / str(step)).rename(folder / "unreadable")
            return self._read(workdir, name)._replace(told=f"{step} is damaged")
        return Read("values", step, fault_checks.digest(np.frombuffer(content, np.uint8)))


def test_flips_show_a_reader_that_verifies_nothing(case, tmp_path):
    case = case()
    case.stage.reader = Heedless()
    case.stage.half, case.stage.whole = run(tmp_path / "half"), run(tmp_path / "whole")
    fault_damage.flips(case, 24)
    assert case.counts["flips"] == 24 and case.counts["silent_changes"] >= 20
    assert case.counts["flips_kept"] == 10 and len(list(case.folder.glob("flip*"))) == 10


@pytest.mark.parametrize("kind", fault_damage.STRUCTURES)
def test_every_structure_damages_what_it_names_and_leaves_what_it_expects(case, kind):
    case = case()
    folder = case.folder / "run"
    (folder / "vocabulary.json").write_text("[]")
    (folder / "metrics.jsonl").write_text('{"step": 8}\n')
    (folder / "checkpoints/latest/8/commit_success.txt").write_text("")
    before = fault_checks.listing(folder)
    expected = fault_damage.STRUCTURES[kind](fault_damage.Folders.of(folder), case.random)
    assert fault_checks.listing(folder) != before
    if expected.resume:
        assert (folder / f"checkpoints/latest/{expected.resume}/default/data").exists()
    assert expected.best == (folder / "checkpoints/best/6/default/data").exists()


def test_all_structures_come_up_before_one_comes_twice():
    numbers = dict.fromkeys(faults.PARTS, 0) | {"structures": 2 * len(fault_damage.STRUCTURES)}
    kinds = Counter(name.split("-")[2] for name, _ in faults.cases(numbers, seed=3))
    assert kinds == dict.fromkeys(fault_damage.STRUCTURES, 2)


@pytest.mark.slow
def test_a_small_campaign_finds_no_fault(stage):
    numbers = dict.fromkeys(faults.PARTS, 0) | {"kills": 1, "signals": 1, "flips": 16}
    counts = faults.campaign(stage, numbers)
    told = {path.name: path.read_text() for path in stage.output.glob("failing/*/case.txt")}
    assert not {name for name in fault_checks.MUST_BE_ZERO if counts[name]}, told
    assert all(counts[part] == number for part, number in numbers.items() if number)
    assert json.loads(json.dumps(counts)) and "must be zero" in faults.table(counts)
