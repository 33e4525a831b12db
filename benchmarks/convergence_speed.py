"""How fast the study of convergence trains, and how long it still takes."""

import itertools
import json
import statistics

import jax
import numpy as np

from benchmarks import convergence_jobs as jobs_of
from benchmarks import convergence_report, studies, timing
from benchmarks.convergence_report import SPEED, clock, decisive, idle, idle_of, metrics_of, tried
from hmrnn_jax import files, parallel, tasks
from hmrnn_jax.errors import UserError
from hmrnn_jax.opening import load
from hmrnn_jax.training import optim
from hmrnn_jax.training import state as train_state
from hmrnn_jax.training.update import LEFT_OUT, Update

BATCHES = 4  # different ones, in turns: windows may differ in length


def measure(flags, jobs, say):
    """Times the train steps of the jobs' models, those of a group in turns; writes speed.json."""
    found, models = idle(flags.output), {}
    for job in jobs:
        models.setdefault(job.group, {}).setdefault(job.model, job)
    for group, own in models.items():
        steps, units = {}, {}
        for model, job in own.items():
            say(f"{group}/{model}: compiling")
            steps[model], units[model] = train_step(job.config, flags.output / job.name)
        facts = timing.hardware()
        seconds = timing.interleaved(steps, flags.rounds, least=1.0, report=say)
        for model, values in seconds.items():
            median = statistics.median(values)
            found[f"{group}/{model}"] = {
                "seconds": values,
                "seconds_an_update": median,
                "units_an_update": units[model],
                "units_per_second": units[model] / median,
                "hardware": facts,
                "config": decisive(own[model].config),
            }
        files.write_text(flags.output / SPEED, json.dumps(found, indent=1) + "\n")
        jax.clear_caches()


def train_step(config, folder):
    """`(step, units of data in an update)`: a call makes the next update, as training does, its
    batch cut and placed, and returns when it is done.

    Where the training in `folder` leaves out what its layers COPY the step does so, too, with the
    parameters that validated best, by which the layers move as often.
    """
    mesh = parallel.make_mesh()
    task = tasks.make(config, mesh)
    plan = optim.Plan(config, task.stream)
    held = list(train_state.start(task, plan, config, mesh))
    update = Update(task, plan, config, mesh)
    logged = next((row for row in reversed(metrics_of(folder)) if LEFT_OUT in row), {})
    if logged.get(LEFT_OUT):
        update.resume(logged)
        held[0] = held[0].replace(params=load(folder).params)
    numbers, counts = itertools.count(), []

    def step():
        done = next(numbers) % BATCHES
        scalars = plan.scalars(done) | task.scalars(done)
        scalars = {k: parallel.scalar(np.float32(v), mesh) for k, v in scalars.items()}
        batch = parallel.shard_batch(task.stream(done), mesh)
        held[0], held[1], metrics = update.compiled(held[0], held[1], batch, scalars)
        metrics = jax.device_get(jax.block_until_ready(metrics))
        if len(counts) < BATCHES:
            counts.append(task.summary(metrics)[task.counted])

    for _ in range(BATCHES):
        step()
    return step, statistics.mean(counts)


def pace(flags, job):
    """`(seconds an update, how it is known)`: of the training itself, of its model's others, or of
    --speed; `(None, "")` if none was measured."""
    own = [job.name, *(trial.name for trial in job.trials().values())]
    own += [f"{job.group}/{job.model}/{seed}" for seed in flags.seeds]
    for name in own:
        seconds = clock(metrics_of(flags.output / name))
        if seconds:
            last = max(seconds)
            return seconds[last] / last, "as so far"
    figures = idle_of(flags.output, job)
    return (figures["seconds_an_update"], "by --speed") if figures else (None, "")


def status(flags, jobs):
    """Lines on what is done and what is left."""
    lines, counted, total, unknown, done_with = [], set(), 0.0, 0, 0
    for job in jobs:
        try:
            most = jobs_of.updates(job.config)
        except UserError as error:  # its data are not at hand, and those of others may be
            unknown += 1
            lines.append(f"{job.name}: {error}")
            continue
        facts = convergence_report.ended(flags.output, job)
        rows = metrics_of(flags.output / job.name)
        done = max((row["step"] for row in rows), default=0)
        if facts:
            done_with += 1
            how = "diverged" if "diverged" in facts else "ended"
            lines.append(f"{job.name}: {how} after {done:,} of {most:,} updates")
            continue
        left = most - done
        words = [f"{done:,} of {most:,} updates at most"]
        if job.rates and not done:
            trials = job.trials().values()
            short = [t for t in trials if not studies.trained(flags.output / t.name)]
            words.append(f"{len(tried(flags.output, job))} of {len(trials)} rates tried")
            # One choice serves all seeds.
            left += sum(jobs_of.updates(t.config) for t in short if t.name not in counted)
            counted |= {trial.name for trial in short}
        seconds, known = pace(flags, job)
        if seconds is None:
            unknown += 1
            words.append("no update measured yet, see --speed")
        else:
            total += left * seconds
            words.append(f"{duration(left * seconds)} left at most")
            words.append(f"{seconds:.3f} s an update, {known}")
        lines.append(f"{job.name}: {', '.join(words)}")
    rest = f", and {unknown} of which that is not known" if unknown else ""
    return [*lines, f"{done_with} of {len(jobs)} ended, {duration(total)} left at most{rest}"]


def duration(seconds):
    """Hours and minutes."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min"
