"""Pictures of the study of convergence: curves by updates and seconds, bits against their cost."""

import statistics

import matplotlib
from matplotlib.figure import Figure

from benchmarks import convergence_jobs, studies
from hmrnn_jax.analysis.figures import style

# Legible at half their size.
LETTERS = {"font.size": 15, "axes.titlesize": 15, "legend.fontsize": 13, "lines.linewidth": 2.4}
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
MARKERS = "osD^vP*X<>h"
WORDS = {
    "bpc": "validation, bits a character",
    "accuracy": "validation, accuracy in %",
    "perplexity": "validation, perplexity",
    "log_likelihood": "validation, nats a line",
}


def draw(folder, everything):
    """Writes into `folder` the pictures that the JSON `everything` has the figures for."""
    groups = studies.by(
        [job for job in everything["jobs"] if job["curve"]], lambda job: job["group"]
    )
    with matplotlib.rc_context(LETTERS):
        for name, jobs in groups.items():
            curves(folder / f"{name}.png", jobs, convergence_jobs.GROUPS[name])
        costly = [job for name in ("equal_parameters", "equal_multiplications")
                  for job in groups.get(name, ())]  # fmt: skip
        if "equal_multiplications" in groups:
            costs(folder / "multiplications.png", costly)
        if tested := [job for job in groups.get("logic", ()) if job.get("tests")]:
            lengths(folder / "logic_by_length.png", tested)
        if parsed := [job for job in groups.get("on_lstm_words", ()) if job["trees"]]:
            trees(folder / "trees_by_epoch.png", parsed)


def look(number):
    """Colour, line and marker of the number-th model: told apart by any one of them."""
    return {
        "color": style.COLOURS[number % len(style.COLOURS)],
        "linestyle": LINES[number % len(LINES)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def curves(path, jobs, group):
    """Validation by updates and by seconds; a ring where the learning rate drops."""
    drawing = Figure(figsize=(14, 7), layout="constrained", facecolor="white")
    panels = drawing.subplots(1, 2, sharey=True)
    # One kind of seconds for all: idle ones if they were measured, for every model.
    idle = all(job["idle"] for job in jobs)
    for number, (model, own) in enumerate(studies.by(jobs, lambda job: job["model"]).items()):
        for job in own:
            points = job["curve"]
            y = [point["value"] for point in points]
            updates = [point["update"] for point in points]
            if idle:
                seconds = [n * job["idle"]["seconds_an_update"] for n in updates]
            else:
                seconds = [point["seconds"] or 0.0 for point in points]
            end = "" if job["end"] in convergence_jobs.ENDED else f" ({job['end']})"
            label = group.models[model] + end if job is own[0] else None
            after = [n for n, u in enumerate(updates) if job["dropped"] and u >= job["dropped"]]
            for panel, x in zip(panels, (updates, seconds), strict=True):
                panel.plot(x, y, label=label, markersize=5, markevery=0.1, **look(number))
                if after:
                    n = max(after[0] - 1, 0)
                    panel.plot(
                        x[n], y[n], "o", ms=13, mfc="none", mew=2, color=look(number)["color"]
                    )
    for panel in panels:
        style.open_axes(panel)
    values = sorted(point["value"] for job in jobs for point in job["curve"])
    if len(values) >= 20:  # the first ones would flatten all that follows
        low, high = values[0], values[-1]
        worst = values[int(0.1 * len(values))] if group.higher else values[int(0.9 * len(values))]
        margin = 0.05 * abs(worst - (high if group.higher else low))
        if group.higher:
            panels[0].set_ylim(worst - margin, high + margin)
        else:
            panels[0].set_ylim(low - margin, worst + margin)
    panels[0].set_ylabel(WORDS[group.unit])
    panels[0].set_xlabel("updates")
    kind = "of an idle machine" if idle else "measured, other work beside"
    spent = sorted(x for line in panels[1].get_lines() for x in line.get_xdata())
    if len(spent) >= 20 and spent[-1] > 2 * spent[int(0.9 * len(spent))]:
        # A few, as the last ones of a training that ended on a slower machine, would do so too.
        panels[1].set_xlim(0, 1.1 * spent[int(0.9 * len(spent))])
        kind += "\n(the last points are beyond)"
    panels[1].set_xlabel(f"seconds of training, {kind}")
    handles, labels = panels[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    drawing.suptitle(group.title + "; ring: the learning rate drops" * group.drops)
    style.save(drawing, path)


def costs(path, jobs):
    """Bits against multiplications a character, in training's dense products and with COPY left
    out at the rates measured."""
    drawing = Figure(figsize=(12, 8), layout="constrained", facecolor="white")
    axes = drawing.subplots()
    models = studies.by(jobs, lambda job: (job["group"], job["model"]))
    for number, ((group, model), own) in enumerate(models.items()):
        bits = statistics.mean(job["best"] for job in own)
        dense, left = (statistics.mean(job[key] for job in own) for key in ("dense", "left_out"))
        marker, colour = MARKERS[number % len(MARKERS)], style.COLOURS[number % len(style.COLOURS)]
        axes.plot([left, dense], [bits, bits], color=colour, linewidth=1.2)
        axes.plot(dense, bits, marker, color=colour, mfc="none", ms=12, mew=2)
        label = convergence_jobs.GROUPS[group].models[model]
        axes.plot(left, bits, marker, color=colour, ms=12, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("multiplications a character (filled: COPY left out; open: dense)")
    axes.set_ylabel("best validation, bits a character")
    style.open_axes(axes)
    drawing.legend(loc="outside lower center", ncols=2, frameon=False)
    style.save(drawing, path)


def lengths(path, jobs):
    """Test accuracy by the number of operators; longer ones than training had are shaded."""
    drawing = Figure(figsize=(12, 7), layout="constrained", facecolor="white")
    axes, words = drawing.subplots(), convergence_jobs.GROUPS["logic"].models
    for number, (model, own) in enumerate(studies.by(jobs, lambda job: job["model"]).items()):
        keys = [key for key in own[0]["tests"] if key.startswith("test/accuracy/")]
        x = [int(key.rpartition("length")[2]) for key in keys]
        values = [[100 * job["tests"][key] for job in own] for key in keys]
        mean = [statistics.mean(v) for v in values]
        axes.plot(x, mean, label=words[model], markersize=8, **look(number))
        low, high = [min(v) for v in values], [max(v) for v in values]
        axes.fill_between(x, low, high, color=look(number)["color"], alpha=0.15, linewidth=0)
    axes.axvspan(6.5, 12.5, color="#eeeeee", zorder=0)
    axes.set_xlabel("operators (shaded: more than in training)")
    axes.set_ylabel("test accuracy in %, mean and range of seeds")
    style.open_axes(axes)
    axes.legend(frameon=False)
    style.save(drawing, path)


def trees(path, jobs):
    """Parsing F1 by epoch, every layer by the authors' rule, beside right-branching trees."""
    drawing = Figure(figsize=(14, 7), layout="constrained", facecolor="white")
    panels = drawing.subplots(1, 2, sharey=True)
    words = convergence_jobs.GROUPS["on_lstm_words"].models
    for panel, rule in zip(panels, ("biased", "unbiased"), strict=True):
        number = 0
        for model, own in studies.by(jobs, lambda job: job["model"]).items():
            rows = own[0]["trees"]
            for name in (n for n in rows[0]["f1"] if n.endswith(f", {rule}")):
                x, y = [row["epoch"] for row in rows], [row["f1"][name] for row in rows]
                label = f"{words[model]}, {name.partition(',')[0]}"
                panel.plot(x, y, label=label, markersize=8, **look(number))
                number += 1
        right = jobs[0]["trees"][0]["f1"].get("right")
        if right is not None:
            panel.axhline(right, color="#666666", linewidth=2, label="right-branching trees")
        panel.set_title("the authors' rule" if rule == "biased" else "the unbiased rule")
        panel.set_xlabel("epochs")
        style.open_axes(panel)
    panels[0].set_ylabel("F1 in %")
    handles, labels = panels[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    style.save(drawing, path)
