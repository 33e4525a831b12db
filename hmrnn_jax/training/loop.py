"""A training run: one flat story from a configuration to the test score."""

import contextlib
import functools
import json

import jax
import numpy as np
from ml_collections import ConfigDict

from hmrnn_jax import parallel, tasks
from hmrnn_jax.errors import UserError, refusal
from hmrnn_jax.explorer.watch import Watch
from hmrnn_jax.recurrence.execution import reported
from hmrnn_jax.tasks.metrics import collapsed
from hmrnn_jax.training import config_file, contradictions, metrics_log, optim, profiling, settings
from hmrnn_jax.training import state as train_state
from hmrnn_jax.training.checkpoint import Checkpoints
from hmrnn_jax.training.lock import Lock
from hmrnn_jax.training.metrics_log import Logger
from hmrnn_jax.training.progress import (
    Progress,
    devices,
    parameter_table,
    total,
    validation_line,
)
from hmrnn_jax.training.signals import Stopping
from hmrnn_jax.training.titles import title
from hmrnn_jax.training.update import Update
from hmrnn_jax.training.workdir import (
    begun,
    check_new,
    open_run,
    rewrite,
    set_aside,
    settle_precision,
    shared,
)

_print = functools.partial(print, flush=True)


def train(
    config, workdir, say=_print, profile=None, fresh=False, stopping=None, watch=False, *,
    table=False, terminal=None,
):  # fmt: skip
    """Trains `config` in `workdir` to its end, or goes on with the run that is there.

    Args:
      config: a `ConfigDict`, see `defaults`; or the name or file of one, see `config_file.load`.
      workdir: folder of the run, local or in a bucket.
      say: function that logs a line.
      profile: updates to trace, see `profiling.Trace`.
      fresh: whether a run that is there already is set aside.
      stopping: a `Stopping`, which afterwards has the signal that came.
      watch: whether a page of what the model makes of its validation text is written at each
        validation, see `explorer.watch`; of one process alone.
      table: whether all parameters are listed, and not their number alone.
      terminal: a file in which one line that moves takes the place of the reports; `say` is then
        `progress.above` or the like.

    Returns the metrics of the test split, `{name: number}`, of the parameters that validated
    best, and in `checkpoint` which these are, a str; None after SIGTERM or SIGINT, with everything
    saved.

    Raises:
      UserError: bad input, before anything is compiled or written; or a loss or gradient that is
        not finite.
    """
    if not isinstance(config, ConfigDict):
        config = config_file.load(config)
    stopping = Stopping() if stopping is None else stopping
    with Lock(workdir, say) as lock:
        shown = (table, terminal)
        return _train(config, workdir, say, profile, fresh, stopping, lock, watch, *shown)


def _train(config, workdir, say, profile, fresh, stopping, lock, watch, table, terminal):
    # 1. Data, devices, model: everything that can be wrong is found here.
    settings.check(config)
    mesh = parallel.make_mesh()
    parallel.check_same(shared(config), "The settings, --config and its fields,")
    before = None if fresh else workdir
    if not (before and parallel.from_first(begun, before)):
        contradictions.check(config)
    config, precision = settle_precision(config, before, mesh.devices.flat[0])
    task = tasks.make(config, mesh)
    stream = task.stream
    plan = optim.Plan(config, stream)
    trace = profiling.Trace(profile, plan.total, workdir, say)
    watching = Watch(task, config, title(config), workdir) if watch else None
    if fresh:
        say(parallel.from_first(set_aside, workdir))

    # 2. The state: a fresh one, and the newest checkpoint in its place if there is one.
    # Data, slope and random draws are functions of the update's number.
    say(devices())
    if precision:
        say(precision)
    say(task.describe())
    say("making the model ...")
    state, carry = train_state.start(task, plan, config, mesh)
    data = task.fingerprint()
    parallel.check_same(json.dumps(data), "Data")
    changed = parallel.from_first(open_run, workdir, config, task.encoding, data)
    say(parameter_table(state.params) if table else total(state.params))
    for line in changed:
        say(f"changed since the run began: {line}")

    def whole(slope):
        return train_state.checkpoint(state, carry, plan, slope, mesh)

    update = Update(task, plan, config, mesh)

    def given(number, planned):
        """Batch and scalars of the update after `number`, on the devices."""
        batch = parallel.shard_batch(stream(number), mesh)
        scalars = planned | task.scalars(number)
        return batch, {name: _scalar(value, mesh) for name, value in scalars.items()}

    with Checkpoints(workdir, say=say) as checkpoints, contextlib.ExitStack() as context, trace:
        choices, logged = context.enter_context(reported()), 0
        saved = checkpoints.restore(whole(0.0))
        if saved:
            state, carry = saved["state"], saved["carry"]
            plan.resume(saved["progress"])
            say(f"resumed after update {int(state.step):,}")
            last = parallel.from_first(metrics_log.last_report, workdir, int(state.step))
            update.resume(last)
        first = int(state.step)
        # Writing waits for the disk, and boards take long to import: the update is compiled
        # meanwhile.
        meanwhile = contextlib.nullcontext()
        if first < plan.total and not plan.finished:
            if changed:
                parallel.from_first(rewrite, workdir, config)
            say("compiling the training step ...")
            arguments = state, carry, *given(first, plan.scalars(first))
            meanwhile = train_state.compiling(update.compiled, *arguments)
        if not saved:
            parallel.from_first(check_new, workdir)
        with meanwhile:
            if not saved:
                # From here on there is always a state to go on from, even if this process is
                # killed.
                checkpoints.save(0, whole(0.0))
            logger = Logger(workdir, first, say)
            context.push(lambda *error: None if lock.lost else logger.flush())
            if logger.board:
                logger.board.settings(config)
            checkpoints.wait()

        # 3. The loop: update, now and then report, validate, save.
        progress = Progress(task, first, plan.total, say, terminal)
        context.callback(progress.close)
        context.enter_context(stopping)
        pending = []  # metrics still on the devices: nothing is waited for before a report
        due = None  # arguments of a report, made when the devices have the next update to do

        def report(done, metrics, more, choosing=False):
            nonlocal logged
            for line in choices[logged:]:
                say(f"recurrence: {line}")
            logged = len(choices)
            metrics = jax.device_get(metrics)
            result = _finite(task, metrics, done, config, checkpoints)
            changed = update.choose(_summary(task, metrics[-1:])) if choosing else ""
            line, result = progress.report(done, result | more | update.logged())
            logger.log(done, result)
            progress.tell(done, line)
            if changed:
                say(f"recurrence: {changed}")
                progress.compiles()

        for done in range(first + 1, plan.total + 1):
            if plan.finished:
                break
            epoch = stream.epoch(done - 1)
            planned = plan.scalars(done - 1)
            rate, slope = planned["learning_rate"], planned["slope"]
            arguments = state, carry, *given(done - 1, planned)
            state, carry, metrics = trace(done, update.compiled, *arguments)
            parallel.settle(metrics)
            due = due and report(*due)
            pending.append(metrics)
            progress.advance(done, pending)

            ends = stream.epoch(done) > epoch
            every = config.evaluation.every
            validating = (done % every == 0 if every else ends) or done == plan.total
            saving = config.save and done % config.save == 0
            reporting = validating or saving or done % config.report == 0
            stop = parallel.any_process(bool(stopping)) if reporting else _alone(stopping)
            if reporting or stop:
                lock.check()
                due = done, pending, {"epoch": epoch, "slope": slope, "learning_rate": rate}
                pending = []
            if validating or saving or stop:
                due = report(*due, choosing=validating or saving)
            if validating:
                params = state.average if planned["averaged"] else state.params
                result = task.evaluate(params, "valid", slope)
                best = plan.update(task.score(result), done)
                logger.log(done, {f"valid/{name}": value for name, value in result.items()})
                say(validation_line(done, task.headline(result), result, best))
                for warning in collapsed(result):
                    say(f"warning: {warning}")
                if best:
                    best_tree = {"params": params, "slope": _scalar(slope, mesh)}
                    checkpoints.save_best(done, best_tree, plan.best)
                if plan.averaged(done + 1) == 1:
                    say("averaging of the parameters begins")
                # Validations are long, and what else follows them can wait for the next start.
                stop = stop or parallel.any_process(bool(stopping))
            if validating or saving or stop:
                logger.flush()
                checkpoints.save(done, whole(slope))
                if validating and logger.board and not stop:
                    of_host = jax.device_get(params)
                    logger.board.boundaries(done, task, of_host, slope, title(config))
                if validating and watching and not stop:
                    _watch(watching, done, jax.device_get(params), slope, say)
                progress.skip()
            if stop:
                checkpoints.wait()
                again = "the same command" + " without --fresh" * fresh
                say(f"stopped after update {done:,}; all is saved, {again} resumes.")
                return None

        progress.close()
        # 4. The test score of the parameters that validated best.
        checkpoints.wait()
        target = {"params": state.params, "slope": _scalar(0.0, mesh)}
        chosen = checkpoints.restore_best(target)
    params, slope = chosen.tree["params"], float(chosen.tree["slope"])
    result = task.evaluate(params, "test", slope)
    of_test = {f"test/{name}": value for name, value in result.items()}
    logger.log(int(state.step), of_test | {"test/update": chosen.step})
    logger.close()
    say(f"test {task.headline(result)} on {task.name} ({chosen.origin})")
    if jax.process_count() == 1 and (view := task.finish(jax.device_get(params), result, slope)):
        say(view)
    return result | {"checkpoint": chosen.origin}


def _watch(watching, done, params, slope, say):
    """Writes the page; that it cannot be written ends no training."""
    try:
        watching(done, params, slope)
    except (UserError, OSError) as error:
        reason = refusal(error) if isinstance(error, OSError) else error
        say(f"warning: the page of this validation is not written: {reason}")


def _scalar(value, mesh):
    return parallel.scalar(np.float32(value), mesh)


def _finite(task, metrics, done, config, checkpoints):
    """The summary of the updates up to `done`; one that is not finite ends the run."""
    for number, m in enumerate(metrics, start=done - len(metrics) + 1):
        for what, name in (("loss", "nats"), ("gradient's norm", "gradient_norm")):
            if not np.isfinite(m[name]):
                raise UserError(
                    f"The {what} of update {number} is not finite; {checkpoints.kept()}. Try a"
                    f" learning rate below {config.learning_rate:g}, or a smaller clip."
                )
    result = _summary(task, metrics)
    return result | {"gradient_norm": float(np.mean([m["gradient_norm"] for m in metrics]))}


def _summary(task, metrics):
    return task.summary(jax.tree.map(lambda *x: np.sum(x, axis=0, dtype=np.float64), *metrics))


def _alone(stopping):
    # With several processes all must stop at the same update: they ask at reports.
    return bool(stopping) and jax.process_count() == 1
