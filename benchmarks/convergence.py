"""Cells trained to their end by validation, not for some hundred updates: who is ahead then?

    python benchmarks/convergence.py --output=runs/convergence --status     # done, left, the time
    python benchmarks/convergence.py --output=runs/convergence              # all of it; resumes
    python benchmarks/convergence.py --output=runs/convergence --only='equal_*,ptb_512/lstm'
    python benchmarks/convergence.py --output=runs/convergence --seeds=0,1,2 --only=logic/*
    python benchmarks/convergence.py --output=runs/convergence --speed      # the machine idle
    python benchmarks/convergence.py --output=runs/convergence --report     # of what is there

* The groups, `convergence_jobs.GROUPS`: `equal_parameters`, Penn Treebank characters at a million
  parameters each; `equal_multiplications`, HM-LSTMs that cost as much as that LSTM, with COPY left
  out; `logic`; `ptb_512`, layers of 512; `on_lstm_words`, perplexity and parsing F1 by epoch;
  `handwriting`.
* Every training is an ordinary run, in a folder of its own within `--output`. One that was cut off,
  even killed, goes on with the same command; one that has ended is not trained again.
* Its end: the learning rate is divided once, by 50, when `--patience` validations in a row, two an
  epoch, bring no new best, and after the share `--drop_by` of the epochs at the latest; then as
  many validations without a new best end the training, or `--epochs` do. (`logic` halves its rate
  as often as its paper; the recipe of `on_lstm_words` has its own schedule; in `handwriting`
  validation ends neither, so that both have as many updates.)
* In the two groups of equal cost, seed 0 trains at every one of `--rates` for the share `--trial`
  of the epochs, drop included, and the best validation chooses the rate of all seeds.
* Seconds are told twice. Those of the trainings, without compiling and validating, summed over the
  pieces of one that was cut off: other work may have run beside it. And those of `--speed`: the
  train steps of a group in turns, meant for an idle machine; updates times these are the idle
  seconds that a training takes. (Of one that leaves out what its layers COPY, once it has begun
  to: run --speed when it has.)

The folder gets convergence.md (tables), convergence.json (everything), a picture for each group,
and speed.json. Set JAX_COMPILATION_CACHE_DIR so that what was compiled once is not again.
"""

import argparse
import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import convergence_jobs, convergence_speed, studies, timing  # noqa: E402
from benchmarks import convergence_report as report  # noqa: E402
from benchmarks.compare import positive, whole  # noqa: E402
from hmrnn_jax import cli, datasets  # noqa: E402
from hmrnn_jax.errors import BAD_INPUT, UserError  # noqa: E402
from hmrnn_jax.evaluation import syntax  # noqa: E402
from hmrnn_jax.opening import load  # noqa: E402
from hmrnn_jax.training import loop  # noqa: E402
from hmrnn_jax.training.signals import Stopping  # noqa: E402

FLAGS = "--budget, --epochs, --patience and the like"


def study(flags, say):
    """Trains what has not ended; returns the exit status.

    Raises `UserError` for bad input, before anything is trained.
    """
    jobs = convergence_jobs.plan(flags)
    for job in jobs:
        free = ["learning_rate"] * bool(job.rates) + ["epochs"] * job.by_epoch
        studies.check(flags.output / job.name, job.config, FLAGS, free)
        for trial in job.trials().values():
            studies.check(flags.output / trial.name, trial.config, FLAGS)
    if flags.status:
        say("\n".join(convergence_speed.status(flags, jobs)))
        return 0
    failed = 0
    flags.output.mkdir(parents=True, exist_ok=True)
    if flags.speed:
        convergence_speed.measure(flags, jobs, say)
    for job in () if flags.report or flags.speed else jobs:
        try:
            if stopped := work(flags, job, say):
                return stopped
        except UserError as error:  # another process is at it
            say(f"{job.name}: {error}")
            failed = BAD_INPUT
    say(report.write(flags, jobs))
    return failed


def work(flags, job, say):
    """Does what a job still needs; returns the exit status if it was stopped, else 0."""
    if report.ended(flags.output, job):
        return 0
    for trial in job.trials().values():
        if studies.trained(flags.output / trial.name) is None:
            if stopped := fit(flags, trial, say):
                return stopped
    if job.rates:
        job = job.at(chosen(flags, job))
        studies.check(flags.output / job.name, job.config, "--rates", ["epochs"] * job.by_epoch)
    return (fit_by_epoch if job.by_epoch else fit)(flags, job, say)


def chosen(flags, job):
    """The learning rate whose training validated best."""
    higher = convergence_jobs.GROUPS[job.group].higher
    tried = report.tried(flags.output, job)
    tried = {rate: value for rate, value in tried.items() if value is not None}
    if not tried:
        raise UserError(f"diverged at every one of --rates: try some below {min(job.rates):g}.")
    return (max if higher else min)(tried, key=tried.get)


def fit(flags, job, say):
    """Trains a job to its end, or goes on with it; returns the exit status if it was stopped.

    One that diverges has ended too: the report says so.
    """
    folder, stopping = flags.output / job.name, Stopping()
    say(f"{job.name}: training")
    result, facts = advance(job, job.config, folder, say, stopping)
    if result is None:
        return stopping.status
    studies.write_trained(folder, facts)
    return stopping.status if stopping else 0  # one that came when it had ended


def advance(job, config, folder, say, stopping):
    """Trains by `config`; `(result, facts to keep)`, the result None if it was stopped."""
    facts = {"hardware": timing.hardware()}

    def tell(text):
        if "\n" not in text:  # without the tables, which are the same for all
            say(f"{job.name}: {text}")

    try:
        return loop.train(config, str(folder), tell, stopping=stopping), facts
    except UserError as error:
        if "is not finite" not in str(error):
            raise
        tell(str(error))
        return {}, facts | {"diverged": str(error)}


def fit_by_epoch(flags, job, say):
    """The same, one epoch after the other, each scored by the trees that its words have."""
    bank, folder = syntax.read_treebank(flags.treebank), flags.output / job.name
    found, facts, stopping = report.trees(folder), {}, None
    for epoch in range(len(found) + 1, job.config.epochs + 1):
        config = job.config.copy_and_resolve_references()
        config.epochs = epoch
        stopping = Stopping()
        say(f"{job.name}: epoch {epoch}")
        result, facts = advance(job, config, folder, say, stopping)
        if result is None:
            return stopping.status
        if "diverged" in facts:
            studies.write_trained(folder, facts)
            return 0
        run = load(folder)
        rows = syntax.trees(run, bank).data
        found.append({"epoch": epoch, "checkpoint": run.checkpoint, "f1": report.f1(rows)})
        report.write_trees(folder, found)
        if stopping and epoch < job.config.epochs:
            return stopping.status
    if studies.trained(folder) is None or facts:
        studies.write_trained(folder, facts or {"hardware": timing.hardware()})
    return stopping.status if stopping else 0


def share(text):
    """A flag: from 0 to below 1."""
    if not 0 <= float(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not from 0 to below 1")
    return float(text)


def parsed(arguments=None):
    """The flags of a command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    number = functools.partial(add, type=whole)
    add("--output", type=Path, required=True, help="folder of the study")
    groups = ", ".join(convergence_jobs.GROUPS)
    add(
        "--only", type=studies.patterns, default=[],
        help=f"comma-separated patterns of group/model (all); groups: {groups}",
    )  # fmt: skip
    add("--seeds", type=studies.seeds, default=[0], help="comma-separated (0)")
    number("--epochs", help="at most (each group's own: 20, 20, 50, 10, 10, 10)")
    number("--updates", help="instead, of all but on_lstm_words, validated twenty times")
    add(
        "--rates", type=positive, default=[1e-3, 2e-3, 4e-3],
        help="learning rates to choose from; of one alone, that (0.001,0.002,0.004)",
    )  # fmt: skip
    add("--trial", type=share, default=0.1, help="share of the epochs that chooses (0.1)")
    number("--patience", default=3, help="validations without a new best, two an epoch (3)")
    add(
        "--drop_by", type=share, default=0.75, help="share by which the rate drops, 0: never (0.75)"
    )
    number("--budget", default=1_000_000, help="parameters of equal_parameters (1000000)")
    number("--width", default=128, help="of their embedding and output module (128)")
    number("--batch", help=f"of theirs ({convergence_jobs.BATCH})")
    number("--window", help=f"of theirs ({convergence_jobs.WINDOW})")
    add(
        "--data", choices=[n for n in datasets.NAMES if n != "text"], default="ptb_char",
        help="of theirs (ptb_char)",
    )  # fmt: skip
    number(
        "--shrink", default=1,
        help="divides the widths of on_lstm_words; above 1 it is not the authors' model (1)",
    )  # fmt: skip
    number(
        "--quantum", default=1,
        help="rounds the lengths of its windows, so that fewer are compiled; above 1 they are not"
        " the authors' (1)",
    )  # fmt: skip
    add("--treebank", default="nltk", help="whose sentences are parsed: bracket files, or nltk")
    add("--precision", choices=("float32", "bfloat16"), default="float32", help="(float32)")
    add("--bits", type=float, help="level whose updates and seconds are told (what all reach)")
    number("--rounds", default=5, help="of --speed (5)")
    add("--status", action="store_true", help="only say what is done and what is left")
    add("--speed", action="store_true", help="only time the train steps, the machine idle")
    add("--report", action="store_true", help="only write the tables of what is there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    cli.start(lambda: study(parsed(), lambda text: print(text, flush=True)))
