"""Do detectors discover structure? Trainings under each setting, scored beside every control.

    python benchmarks/discovery.py --output=runs/discovery --status     # what is done, time left
    python benchmarks/discovery.py --output=runs/discovery              # all of it; resumes
    python benchmarks/discovery.py --output=runs/discovery --only='brent_text/*,headline/brent_*'
    python benchmarks/discovery.py --output=runs/discovery --only='*/all' --seeds=1
    python benchmarks/discovery.py --output=runs/discovery --report     # tables of what is there
    python benchmarks/discovery.py --output=runs/discovery --part=test  # once, at the end

* The settings, `discovery_jobs.SETTINGS`: one network of 3 x 128 and one thing changed at a time,
  on Penn Treebank's characters and on Brent's speech in spelling, as many updates each. The taught
  models, `headline/...`: the files in `configs/`.
* Every training is an ordinary run, in a folder of its own within `--output`; `eval.py` reads it.
  One that was cut off goes on, one that has ended is never trained again, nor scored again.
* Boundaries are scored on the validation part. `--part=test` scores the test part: once, at the
  end, when nothing is chosen any more. Bits per character are those of the parameters that
  validated best.
* Beside them, each time: as many boundaries at random and evenly spread, five untrained models,
  an n-gram model read alike, and a boundary after every symbol, see `analysis.comparison`.

The folder gets discovery.md (tables), discovery.json (everything) and discovery.png. Several
processes may work in it, each at its own `--only` or `--seeds`.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import discovery_jobs, discovery_report, discovery_scores, studies, timing  # noqa: E402
from benchmarks.compare import whole  # noqa: E402
from benchmarks.convergence_report import clock  # noqa: E402
from hmrnn_jax import cli, parallel  # noqa: E402
from hmrnn_jax.errors import BAD_INPUT, UserError  # noqa: E402
from hmrnn_jax.evaluation import text  # noqa: E402
from hmrnn_jax.inference.readings import Cut  # noqa: E402
from hmrnn_jax.opening import restore  # noqa: E402
from hmrnn_jax.training import loop, metrics_log  # noqa: E402
from hmrnn_jax.training.signals import Stopping  # noqa: E402

# Of an update of 800 symbols and 3 x 128 units on two cores, before anything has been timed.
SECONDS_AN_UPDATE, SECONDS_A_SCORE = 0.07, 60


def study(flags, say):
    """Trains and scores what is not yet; returns the exit status.

    Raises `UserError` for bad input, before anything is trained.
    """
    jobs, notes = discovery_jobs.plan(
        flags.only, flags.seeds, flags.updates, flags.size, flags.output
    )
    for job in [*jobs, *discovery_jobs.teachers(jobs, flags.updates, flags.size)]:
        # Where the segments lie may differ; what they hold is watched by the run itself.
        studies.check(
            flags.output / job.name, job.config, "--updates and --size", ["boundaries.segments"]
        )
    for note in notes:
        say(note)
    if flags.status:
        say("\n".join(status(flags, jobs)))
        return 0
    failed = 0
    for job in () if flags.report else jobs:
        try:
            if stopped := work(flags, job, jobs, say):
                return stopped
        except UserError as error:  # one that diverged, or that another process is at
            say(f"{job.name}: {error}")
            failed = BAD_INPUT
    flags.output.mkdir(parents=True, exist_ok=True)
    say(discovery_report.write(flags, jobs))
    return failed


def work(flags, job, jobs, say):
    """Does what a job still needs; returns the exit status if it was stopped, else 0."""
    folder = flags.output / job.name
    if studies.trained(folder) is None:
        if job.first:
            cut(flags.output / job.first, job.teaches_by, say)
        say(f"{job.name}: training; {remaining(flags, jobs)} in all")
        if stopped := fit(folder, job, say):
            return stopped
    if discovery_scores.scored(folder, job, flags) is None:
        say(f"{job.name}: scoring boundaries of its {flags.part} part")
        discovery_scores.score(folder, job, flags)
    return 0


def cut(folder, reading, say):
    """Cuts the training text of a trained job in the segments that teach another one."""
    path = folder / discovery_jobs.SEGMENTS
    if path.exists():
        return
    if studies.trained(folder) is None:
        raise UserError(f"{folder} is not trained yet: leave out --only, or name its job too.")
    run = restore(str(folder), parallel.make_mesh())
    *inputs, _ = text.split(run, "train")
    say(str(text.segment(run, inputs, path, Cut(reading), trained_on=True)))


def fit(folder, job, say):
    """Trains a job, or goes on with it; returns the exit status if it was stopped, else 0."""
    hardware, stopping = timing.hardware(), Stopping()
    result = loop.train(
        job.config,
        str(folder),
        lambda text: "\n" in text or say(f"{job.name}: {text}"),  # without the tables
        stopping=stopping,
    )
    if result is None:
        return stopping.status
    rows = metrics_log.read_metrics(folder / metrics_log.NAME)
    seconds = max(clock(rows).values(), default=0.0)  # all pieces of one that was cut off
    facts = {"seconds": seconds, "hardware": hardware} | outcome(rows)
    studies.write_trained(folder, facts)
    return stopping.status if stopping else 0  # one that came when it had ended


def outcome(rows):
    """Of the metrics of a training: `unit`, what the others are in; `valid` and `test`, of the
    parameters that validated best; firing `rates` of their detectors, lowest layer first; and the
    `least_rates` of all validations."""
    validations = [row for row in rows if "valid/nats" in row]
    best = min(validations, key=lambda row: row["valid/nats"])
    (test,) = (row for row in rows if "test/nats" in row)
    unit = "bpc" if "valid/bpc" in best else "nats"
    layers = sorted(key for key in best if key.startswith("valid/rate/"))
    return {
        "unit": unit,
        "valid": best[f"valid/{unit}"],
        "test": test[f"test/{unit}"],
        "rates": [best[key] for key in layers],
        "least_rates": [min(row[key] for row in validations) for key in layers],
    }


def remaining(flags, jobs):
    """Time that the jobs still need, in words, at the speed of those that have ended."""
    per_update = {}
    for job in jobs:
        if facts := studies.trained(flags.output / job.name):
            rate = facts["seconds"] / job.config.steps
            per_update.setdefault(job.data, []).append(rate)
            per_update.setdefault(None, []).append(rate)
    seconds = 0.0
    for job in jobs:
        rates = per_update.get(job.data) or per_update.get(None) or [SECONDS_AN_UPDATE]
        seconds += left(flags, job) * sum(rates) / len(rates)
        if discovery_scores.scored(flags.output / job.name, job, flags) is None:
            seconds += SECONDS_A_SCORE
    return f"{seconds / 60:,.0f} min left"


def left(flags, job):
    """Updates that a job still needs."""
    folder = flags.output / job.name
    return 0 if studies.trained(folder) else job.config.steps - metrics_log.last_step(folder)


def status(flags, jobs):
    """Lines on what is done and what is left."""
    lines = []
    for job in jobs:
        folder, missing = flags.output / job.name, left(flags, job)
        done = f"{job.config.steps - missing:,} of {job.config.steps:,} updates"
        if not studies.trained(folder):
            lines.append(f"{job.name}: {done if missing < job.config.steps else 'to be trained'}")
            continue
        kept = [part for part in ("valid", "test") if (folder / f"scores-{part}.json").exists()]
        lines.append(f"{job.name}: trained, scored: {', '.join(kept) or 'no part'}")
    ended = sum(1 for job in jobs if studies.trained(flags.output / job.name))
    return [*lines, f"{ended} of {len(jobs)} trained, {remaining(flags, jobs)}"]


def parsed(arguments=None):
    """The flags of a command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder of the study")
    add(
        "--only",
        type=studies.patterns,
        default=[],
        help="comma-separated patterns of data/setting or headline/name (all)",
    )
    add("--seeds", type=studies.seeds, default=[0, 1, 2], help="comma-separated (0,1,2)")
    add("--updates", type=whole, help="of every training (2600; each taught model's own)")
    add("--size", type=whole, help="units of each of three layers (128; each taught model's own)")
    add(
        "--symbols",
        type=whole,
        default=20_000,
        help="of a text that are scored at most (20000)",
    )
    add("--part", choices=("valid", "test"), default="valid", help="that is scored (valid)")
    add("--status", action="store_true", help="only say what is done and what is left")
    add("--report", action="store_true", help="only write the tables of what is there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    cli.start(lambda: study(parsed(), lambda text: print(text, flush=True)))
