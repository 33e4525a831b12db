"""Damaged run folders: flipped bits, and files and folders that are missing or foreign."""

import shutil
from pathlib import Path
from typing import NamedTuple

from benchmarks import fault_checks as checks
from hmrnn_jax.errors import BAD_INPUT


class Expected(NamedTuple):
    """What must still be had of a damaged run.

    Attributes:
      resume: the newest update whose save is undamaged; None if there is none.
      refusable: whether train.py may refuse all the same, with a sentence.
      best: whether the best checkpoint is undamaged, so that eval.py must give its score.
      evaluable: whether what eval.py needs beside it is.
      since: metrics up to this update are lost.
    """

    resume: int | None
    refusable: bool = False
    best: bool = True
    evaluable: bool = True
    since: int = 0


class Folders(NamedTuple):
    """The places of a run: its two whole saves, and its best."""

    run: Path
    newest: Path
    older: Path
    best: Path

    @classmethod
    def of(cls, run):
        latest, best = run / "checkpoints/latest", run / "checkpoints/best"
        older, newest = checks.steps_on_disk(run)[-2:]
        best = best / str(checks.steps_on_disk(run, "best")[-1])
        return cls(run, latest / str(newest), latest / str(older), best)

    def expected(self, newest=True, **other):
        """With the newest save still good, or the one before it."""
        return Expected(int((self.newest if newest else self.older).name), **other)


def flip(path, random):
    """Flips one bit of a file; returns words for it."""
    content = bytearray(path.read_bytes())
    place, bit = random.randrange(len(content)), random.randrange(8)
    content[place] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {place:,} of {path}"


def files(folder):
    """The files of a checkpoint that have a bit to flip."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]


def of_values(paths):
    """Those of a checkpoint's files that TensorStore keeps arrays in."""
    return [path for path in paths if path.parent.name == "d"] or paths


def flips(case, number):
    """Flips `number` single bits, one at a time: in every file in turn, and in those of the values.

    The newest and the best checkpoint, of a run that has ended and of one that has not; restored
    in this process as the programs do.
    """
    reader, copy = case.stage.reader, case.folder / "run"
    bases = [case.stage.half, case.stage.whole]
    known = [_known(case, base) for base in bases]
    for turn in range(number):
        base, kind = turn % 2, ("latest", "best")[turn // 2 % 2]
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(bases[base], copy)
        places = Folders.of(copy)
        damaged = files(places.newest if kind == "latest" else places.best)
        if turn // 4 % 2:
            damaged = of_values(damaged)
        what = flip(damaged[turn // 8 % len(damaged)], case.random)
        before = checks.listing(copy)
        latest = reader.latest(copy)
        best = reader.best(copy)
        newest, older, whole_best, instead = known[base]
        outcomes = {
            "latest": checks.judge(latest, newest, older if kind == "latest" else None),
            "best": checks.judge(best, whole_best, instead if kind == "best" else None, True),
        }
        faults = [outcomes[kind]] if outcomes[kind] not in ("harmless", "told") else []
        # The other checkpoint is undamaged, and must be had as it was.
        other = "best" if kind == "latest" else "latest"
        if outcomes[other] != "harmless":
            faults.append("good_checkpoints_given_up")
        if changed := checks.lost(before, checks.listing(copy)):
            faults.append("changed_by_reading")
            what += f" ({len(changed)} paths are gone or changed)"
        case.counts["flips"] += 1
        case.counts[f"flips_{outcomes[kind]}"] += outcomes[kind] in ("harmless", "told")
        for fault in faults:
            case.fault(fault, f"{kind}, {what}: {(latest if kind == 'latest' else best).told}")
        if faults and case.counts["flips_kept"] < 10:
            case.counts["flips_kept"] += 1
            shutil.copytree(copy, case.folder / f"flip{turn}")
        if (turn + 1) % 50 == 0:
            case.stage.say(f"flips {turn + 1} of {number}")


def _known(case, base):
    """What is read of an undamaged run: newest, the one before, best, and newest for best."""
    reader, copy = case.stage.reader, case.folder / "older"
    shutil.copytree(base, copy)
    shutil.rmtree(Folders.of(copy).newest)
    older = reader.latest(copy)
    shutil.rmtree(copy)
    return reader.latest(base, True), older, reader.best(base), reader.newest_as_best(base)


def met_flip(case, number):
    """A flipped bit in one of the files of the values, met by the programs themselves."""
    places = _copy(case)
    folder, kind = (places.best, "best") if number % 2 else (places.newest, "latest")
    case.tell(flip(case.random.choice(of_values(files(folder))), case.random))
    met(case, places.run, places.expected(newest=kind != "latest", best=kind != "best"))
    case.counts["met_flips"] += 1


def structure(case, kind):
    """One of `STRUCTURES`, met by the programs themselves."""
    places = _copy(case)
    met(case, places.run, STRUCTURES[kind](places, case.random))
    case.counts["structures"] += 1


def _copy(case):
    run = case.folder / "run"
    shutil.copytree(case.stage.half, run)
    return Folders.of(run)


def met(case, run, expected):
    """Starts eval.py, then train.py, on a damaged run, and counts what they do wrong."""
    before = checks.listing(run)
    program = case.start(run, "eval.py")
    status = program.end()
    said = case.look(program, status)
    if status not in (0, BAD_INPUT):
        case.fault("wrong_statuses", f"{status} of eval.py")
    elif expected.best and expected.evaluable and status == BAD_INPUT:
        case.fault("good_checkpoints_given_up", f"eval.py: {' '.join(said.errors)}")
    elif status == 0 and said.score != case.stage.half_score and not said.warned:
        case.fault("silent_changes", f"eval.py: {said.score}")
    elif status == 0 and said.score != case.stage.half_score and expected.best:
        case.fault("good_checkpoints_given_up", f"eval.py: {said.score}")
    _unchanged(case, before, run, "eval.py")
    for _ in range(2):  # what is refused must be refused again
        program = case.start(run)
        status = program.end()
        said = case.look(program, status)
        if status != BAD_INPUT:
            break
        if expected.resume and not expected.refusable:
            case.fault("good_checkpoints_given_up", f"train.py: {' '.join(said.errors)}")
        _unchanged(case, before, run, "train.py, which refused,")
    else:
        return
    if status != 0:
        return case.fault("wrong_statuses", f"{status} of train.py")
    if said.resumed is None:
        return case.fault("restarts_from_zero", "train.py")
    if expected.resume and said.resumed < expected.resume:
        case.fault("good_checkpoints_given_up", f"{said.resumed} instead of {expected.resume}")
    case.check_end(run, expected.since)


def _unchanged(case, before, run, who):
    if changed := checks.lost(before, checks.listing(run)):
        case.fault("changed_by_reading", f"{who} changed {', '.join(changed[:3])}", len(changed))


def _junk(folder, like, random):
    """A folder with the names of another, and nonsense in its files."""
    shutil.copytree(like, folder)
    for path in files(folder):
        path.write_bytes(random.randbytes(path.stat().st_size))


def _empty_step(places, random):
    (places.newest.parent / "9999").mkdir()
    return places.expected()


def _junk_step(places, random):
    _junk(places.newest.parent / "9999/default", places.newest / "default", random)
    return places.expected()


def _junk_best(places, random):
    _junk(places.best.parent / "9999/default", places.best / "default", random)
    return places.expected()


def _no_default(places, random):
    shutil.rmtree(places.newest / "default")
    return places.expected(newest=False)


def _no_marker(places, random):
    for path in places.newest.rglob("commit_success*"):
        path.unlink()
    return places.expected(newest=False)


def _no_newest(places, random):
    shutil.rmtree(places.newest)
    return places.expected(newest=False)


def _older_half_deleted(places, random):
    for path in files(places.older)[::2]:
        path.unlink()
    return places.expected()


def _no_best(places, random):
    shutil.rmtree(places.best.parent)
    return places.expected(best=False)


def _temporary_folders(places, random):
    for folder in (places.newest, places.best):
        stray = folder.parent / "9999.orbax-checkpoint-tmp"
        _junk(stray / "default.orbax-checkpoint-tmp", folder / "default", random)
        (folder.parent / "9998.orbax-checkpoint-tmp-1700000000").mkdir()
    return places.expected()


def _foreign_files(places, random):
    for folder in (places.run, places.run / "checkpoints", places.newest.parent, places.newest):
        (folder / "notes.txt").write_text("what is this?\n")
        (folder / "notes").mkdir()
    return places.expected()


def _file_as_step(places, random):
    (places.newest.parent / "9999").write_text("not a folder\n")
    return places.expected()


def _file_as_best(places, random):
    shutil.rmtree(places.best.parent)
    places.best.parent.write_text("not a folder\n")
    return places.expected(best=False, refusable=True)


def _file_as_latest(places, random):
    shutil.rmtree(places.newest.parent)
    places.newest.parent.write_text("not a folder\n")
    return Expected(None)


def _no_latest(places, random):
    shutil.rmtree(places.newest.parent)
    return Expected(None)


def _no_checkpoints(places, random):
    shutil.rmtree(places.run / "checkpoints")
    return Expected(None, best=False)


def _no_config(places, random):
    (places.run / "config.json").unlink()
    return places.expected(refusable=True, evaluable=False)


def _empty_config(places, random):
    (places.run / "config.json").write_text("")
    return places.expected(refusable=True, evaluable=False)


def _no_vocabulary(places, random):
    (places.run / "vocabulary.json").unlink()
    return places.expected(refusable=True, evaluable=False)


def _half_line(places, random):
    with (places.run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "train/sym')
    return places.expected()


def _no_metrics(places, random):
    (places.run / "metrics.jsonl").unlink()
    return places.expected(since=int(places.newest.name))


# What is done to a copy of a run, and what must still be had of it then.
STRUCTURES = {
    function.__name__.strip("_"): function
    for function in (
        _empty_step, _junk_step, _junk_best, _no_default, _no_marker, _no_newest,
        _older_half_deleted, _no_best, _temporary_folders, _foreign_files, _file_as_step,
        _file_as_best, _file_as_latest, _no_latest, _no_checkpoints, _no_config, _empty_config,
        _no_vocabulary, _half_line, _no_metrics,
    )
}  # fmt: skip
