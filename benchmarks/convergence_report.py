"""What the study of convergence reports: tables, everything as JSON, pictures."""

import functools
import json
import math
import statistics
import sys

import jax

from benchmarks import convergence_figures, convergence_jobs, matched, studies, timing
from hmrnn_jax import files, tasks
from hmrnn_jax.tasks import metrics
from hmrnn_jax.training import metrics_log, settings, workdir

TREES, SPEED = "trees.json", "speed.json"
COUNTS = ("train/symbols", "train/examples", "train/steps")
UNITS = {
    "bpc": "bits a character",
    "accuracy": "accuracy, %",
    "perplexity": "perplexity a word",
    "log_likelihood": "nats a line",
}
SCALES = {"accuracy": 100.0}


def write(flags, jobs):
    """Writes tables, JSON and pictures of what there is; returns the tables."""
    everything = gathered(flags, jobs)
    text = tables(everything)
    files.write_text(flags.output / "convergence.json", json.dumps(everything, indent=1) + "\n")
    files.write_text(flags.output / "convergence.md", text)
    convergence_figures.draw(flags.output, everything)
    return text


def metrics_of(folder):
    """The rows of a run's metrics, none if it has not begun."""
    path = folder / metrics_log.NAME
    return metrics_log.read_metrics(path) if path.exists() else []


def value_of(row, part, unit):
    """The score of a row in `unit`, of the part valid or test; None if the row has none."""
    if unit == "perplexity":
        nats = row.get(f"{part}/nats")
        return None if nats is None else metrics.perplexity(nats)
    value = row.get(f"{part}/{unit}")
    return None if value is None else SCALES.get(unit, 1.0) * value


def clock(rows):
    """`{update: seconds of training until then}`, at every report.

    Without compiling, validating and saving; a stretch whose speed is not told, as the first after
    each start, takes the median of the others, if there are any. What a killed run had to do again
    counts once.
    """
    stretches, last = [], 0
    for row in rows:
        count = next((row[name] for name in COUNTS if name in row), None)
        if count is None or row["step"] <= last:
            continue
        speed = next((v for k, v in row.items() if k.endswith("_per_second")), None)
        updates = row["step"] - last
        last = row["step"]
        stretches.append((last, updates, count / speed / updates if speed else None))
    known = [pace for *_, pace in stretches if pace is not None]
    if not known:
        return {}
    usual, seconds, found = statistics.median(known), 0.0, {}
    for step, updates, pace in stretches:
        seconds += updates * (usual if pace is None else pace)
        found[step] = seconds
    return found


def outcome(rows, group):
    """Of the metrics of a training that need not have ended.

    Returns `updates` made; the `curve` of its validations, `{update, seconds, value}`; the `best`
    of them and its `best_update`; `dropped`, the update of the first lower learning rate; `seconds`
    of training; `test` and all `tests`, the metrics of the last one; the `matched.Moves` of an
    HM-LSTM's layers where it validated best. What there is not is None.
    """
    seconds, unit = clock(rows), group.unit
    validations = [row for row in rows if value_of(row, "valid", unit) is not None]
    curve = [
        {
            "update": row["step"],
            "seconds": seconds.get(row["step"]),
            "value": value_of(row, "valid", unit),
        }
        for row in validations
    ]
    if not curve:
        return {"updates": max((row["step"] for row in rows), default=0), "curve": []}
    number = (max if group.higher else min)(range(len(curve)), key=lambda n: curve[n]["value"])
    tests = [row for row in rows if value_of(row, "test", unit) is not None]
    learning = [(r["step"], r["learning_rate"]) for r in rows if "learning_rate" in r]
    moves = matched.Moves.measured(validations[number], "valid/")
    return {
        "updates": max(row["step"] for row in rows),
        "curve": curve,
        "best": curve[number]["value"],
        "best_update": curve[number]["update"],
        "dropped": next((s for s, rate in learning if group.drops and rate < learning[0][1]), None),
        "seconds": max(seconds.values(), default=None),
        "test": value_of(tests[-1], "test", unit) if tests else None,
        "tests": tests[-1] if tests else None,
        "moves": moves and moves._asdict(),
    }


def tried(output, job):
    """`{rate: best validation}` of the trainings that chose, those that ended; None: diverged."""
    found, group = {}, convergence_jobs.GROUPS[job.group]
    for rate, trial in job.trials().items():
        facts = studies.trained(output / trial.name)
        if facts:
            best = outcome(metrics_of(output / trial.name), group).get("best")
            found[rate] = None if "diverged" in facts else best
    return found


def ended(output, job):
    """What was written of a job that has ended, None if it has not: of one by epoch all of them."""
    facts, folder = studies.trained(output / job.name), output / job.name
    whole = not job.by_epoch or len(trees(folder)) >= job.config.epochs
    return facts if facts and (whole or "diverged" in facts) else None


def trees(folder):
    """What is known of the trees of a run, by epoch."""
    path = folder / TREES
    return json.loads(files.read_text(path)) if path.exists() else []


def write_trees(folder, found):
    """Keeps what `trees` reads."""
    files.write_text(folder / TREES, json.dumps(found, indent=1) + "\n")


def f1(rows):
    """`{parser: mean sentence F1 in %}` of the rows of `evaluation.syntax.trees`."""
    return {name: 100 * row["f1"] for name, row in rows.items()}


def size(folder, data):
    """`(parameters, multiplications a symbol: dense, and with COPY left out at `moves`)`."""
    config, encoding = workdir.load_run(folder)
    task = tasks.module(config)
    init = functools.partial(task.init_params, task.model_of(config.model, encoding))
    shapes = jax.eval_shape(init, jax.random.key(0))
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    if config.task != "language":
        return parameters, None, None
    moves = data.get("moves") and matched.Moves(**data["moves"])
    dense = matched.multiplications(config, encoding.size)
    left = matched.multiplications(config, encoding.size, moves) if moves else dense
    return parameters, dense, left


def decisive(config):
    """The settings that an update's seconds may hang on, as JSON has them."""
    fields = settings.flat(json.loads(json.dumps(config.to_dict())))
    free = ("seed", "learning_rate", "epochs", "steps", "report", "save", "evaluation.every")
    free += ("schedule", "drops", "patience", "drop_by")
    return {name: value for name, value in fields.items() if name not in free}


def idle(output):
    """`{group/model: figures}` of speed.json, none if there is no such file."""
    path = output / SPEED
    return json.loads(files.read_text(path)) if path.exists() else {}


def idle_of(output, job):
    """The figures of a job's model; None if none were measured under its settings."""
    found = idle(output).get(f"{job.group}/{job.model}")
    own = decisive(job.config)  # which an earlier version did not keep
    return found if found and found.get("config", own) == own else None


def gathered(flags, jobs):
    """What convergence.json holds: of each job that has begun, all there is to tell."""
    found = []
    for job in jobs:
        folder = flags.output / job.name
        rows, group = metrics_of(folder), convergence_jobs.GROUPS[job.group]
        facts = ended(flags.output, job)
        if not rows and not facts:  # one may diverge before its first report
            continue
        config = workdir.load_run(folder)[0]
        about = {"group": job.group, "model": job.model, "seed": job.config.seed}
        about |= outcome(rows, group) | {"sizes": list(config.model.sizes)}
        about["parameters"], about["dense"], about["left_out"] = size(folder, about)
        about["most"] = convergence_jobs.updates(job.config)
        about["epochs"] = convergence_jobs.epochs(about["updates"], job.config)
        about["end"] = _end(facts, about, job)
        about["learning_rate"] = config.learning_rate
        about["tried"] = {f"{r:g}": v for r, v in tried(flags.output, job).items()}
        about["trees"] = trees(folder)
        about["idle"] = idle_of(flags.output, job)
        about["hardware"] = (facts or {}).get("hardware")
        found.append(about)
    return {"command": " ".join(["python", *sys.argv]), "bits": flags.bits, "jobs": found}


def _end(facts, about, job):
    if not facts or "diverged" in facts:
        return "diverged" if facts else "not ended"
    return "validation" if about["updates"] < about["most"] and not job.by_epoch else "epochs"


def level(jobs, group, asked=None):
    """The score that updates are counted to: that asked for, or the best that all models reach."""
    if asked is not None and group.unit == "bpc":
        return asked
    best = [job["best"] for job in jobs if job.get("best") is not None]
    if not best:
        return None
    digits = 10 ** (2 if group.unit == "bpc" else 0)
    if group.higher:
        return math.floor(min(best) * digits) / digits
    return math.ceil(max(best) * digits) / digits


def reached(job, group, wanted):
    """The first validation of a curve that has the level; None if there is none."""
    for point in job["curve"]:
        if point["value"] >= wanted if group.higher else point["value"] <= wanted:
            return point
    return None


def tables(everything):
    """convergence.md of convergence.json."""
    lines = [
        f"`{everything['command']}`",
        "",
        "Mean ± standard deviation over the seeds that ended, if any did. Seconds *measured* are of"
        " the training itself, other work beside it; *idle* ones are updates times those of a train"
        " step on the idle machine (`--speed`). Both are without compiling and validating. Times a"
        " level was reached are those of the first validation at it. Ends: by validation after the"
        " rate's drop, by the epochs, or not ended.",
        "",
    ]
    for name, jobs in studies.by(everything["jobs"], lambda job: job["group"]).items():
        group = convergence_jobs.GROUPS[name]
        lines += [f"**{group.title}** (`{name}`)", ""]
        lines += [*main_table(jobs, group, everything["bits"]), ""]
        for further in (_lengths, _trees, _rates):
            lines += further(jobs, group)
    machines = {
        timing.hardware_line({k: v for k, v in job["hardware"].items() if k != "load before"})
        for job in everything["jobs"]
        if job["hardware"]
    }
    return "\n".join([*lines, *sorted(machines)]) + "\n"


def main_table(jobs, group, bits):
    """The lines of the table of a group: a row for each model."""
    wanted, unit = level(jobs, group, bits), UNITS[group.unit]
    digits = 3 if group.unit == "bpc" else 1
    heads = ["model", "seeds", "layers", "parameters", "rate", "end, epochs"]
    heads += [f"validation, {unit}", "test", f"updates to {wanted:g}" if wanted else "updates"]
    heads += ["idle s to it", "measured s to it", "idle units/s", "measured s in all"]
    costs = any(job["dense"] for job in jobs)
    heads += ["multiplications: dense", "COPY left out", "layers move"] * costs
    rows = []
    for model, own in studies.by(jobs, lambda job: job["model"]).items():
        told = [job for job in own if job["end"] in convergence_jobs.ENDED] or own
        points = [reached(job, group, wanted) if wanted else None for job in told]
        idle, first = told[0]["idle"], told[0]
        row = [
            group.models[model],
            str(len(own)) if told == own else f"{len(told)} of {len(own)}",
            " + ".join(map(str, first["sizes"])),
            f"{first['parameters']:,}",
            ", ".join(dict.fromkeys(f"{job['learning_rate']:g}" for job in told)),
            ", ".join(f"{job['end']} {_of([job['epochs']], 1)}" for job in own),
            _of([job.get("best") for job in told], digits),
            _of([job.get("test") for job in told], digits),
            _of([point and point["update"] for point in points], 0),
            _of([p and idle and p["update"] * idle["seconds_an_update"] for p in points]),
            _of([point and point["seconds"] for point in points]),
            f"{idle['units_per_second']:,.0f}" if idle else "-",
            _of([job.get("seconds") for job in told]),
        ]
        if costs:
            moves = first.get("moves")
            row += [f"{first['dense']:,.0f}", _of([job["left_out"] for job in told], 0)]
            row.append(", ".join(f"{share:.2f}" for share in moves["active"]) if moves else "-")
        rows.append(row)
    return studies.markdown(heads, rows)


def _of(values, digits=0):
    """Mean and deviation; a dash unless all are there."""
    return "-" if any(v is None for v in values) else studies.spread(values, digits)


def _rates(jobs, group):
    """What each learning rate brought, and who diverged."""
    lines = []
    for model, own in studies.by(jobs, lambda job: job["model"]).items():
        values = own[0]["tried"]
        if values:
            said = (f"{r}: {'diverged' if v is None else f'{v:.3f}'}" for r, v in values.items())
            lines.append(f"* {group.models[model]}: {', '.join(said)}")
    return ["Best validation of the short trainings that chose the rate:", "", *lines, ""] * bool(
        lines
    )


def _lengths(jobs, group):
    """Accuracy by the number of operators."""
    if group.unit != "accuracy":
        return []
    ended = [job for job in jobs if job.get("tests")]
    lengths = [k for k in (ended[0]["tests"] if ended else ()) if k.startswith("test/accuracy/")]
    if not lengths:
        return []
    rows = [
        [
            group.models[model],
            *(_of([100 * job["tests"][key] for job in own], 1) for key in lengths),
        ]
        for model, own in studies.by(ended, lambda job: job["model"]).items()
    ]
    heads = ["test accuracy in %, operators", *(key.rpartition("length")[2] for key in lengths)]
    return [*studies.markdown(heads, rows), ""]


def _trees(jobs, group):
    """Parsing F1 by epoch, beside what needs no training."""
    lines = []
    for job in jobs:
        if not job["trees"]:
            continue
        names = list(job["trees"][0]["f1"])
        heads = [f"{group.models[job['model']]}, seed {job['seed']}: F1 after epoch", *names]
        rows = [
            [f"{row['epoch']} ({row['checkpoint']})", *(f"{row['f1'][n]:.1f}" for n in names)]
            for row in job["trees"]
        ]
        lines += [*studies.markdown(heads, rows), ""]
    return lines
