"""What `discovery` reports: tables that can be pasted whole, everything as JSON, the figure."""

import json
import statistics
import sys

from matplotlib.figure import Figure

from benchmarks import discovery_jobs, discovery_scores, timing
from benchmarks.studies import by, markdown, spread, trained
from hmrnn_jax import files
from hmrnn_jax.analysis.figures import style
from hmrnn_jax.analysis.scores import EVERY

ALIVE = 0.01  # least firing rate of a detector, over all validations, that counts as alive
DATA = {
    "ptb_char": "Penn Treebank characters",
    "brent_text": "Brent's speech to children, in spelling",
    "brent_phono": "Brent's speech to children, in phonemes",
    "chinese_simplified": "simplified Chinese, MSR's text of the 2005 bakeoff",
    "oscillators": "synthetic oscillators",
    "iam_ondb": "handwriting, IAM-OnDB",
}
# What a table of boundaries is of, where that is not the part's words.
TEXTS = {
    "valid": "the validation part",
    "test": "the test part",
    "constituents": "ends of constituents of two words or more, at ends of words alone; section 00"
    " of the treebank, which the training part holds without its trees",
    "sentences": "ends of its sentences, at ends of words alone",
    "utterances": "ends of utterances, the newlines taken away, at ends of words alone",
    "msr_test_gold.utf8": "all of MSR's test text, which holds that of training, without its words",
    "pku_test_gold.utf8": "PKU's test text",
}
CONTROLS = ("random", "regular", "untrained", "ngram")
MARKERS = "osD^vPp*X<>hd"


def write(flags, jobs):
    """Writes the three files from what is trained and scored; returns the tables."""
    everything = gathered(flags, jobs)
    text = tables(everything)
    files.write_text(flags.output / "discovery.json", json.dumps(everything, indent=1) + "\n")
    files.write_text(flags.output / "discovery.md", text)
    figure(flags.output / "discovery.png", everything)
    return text


def gathered(flags, jobs):
    """What discovery.json holds: of each job that is trained and scored, all there is to tell."""
    found = []
    for job in jobs:
        folder = flags.output / job.name
        scores = discovery_scores.scored(folder, job, flags)
        if scores is None:
            continue
        training = trained(folder)
        if flags.part == "valid":
            del training["test"]  # not before the end
        about = {"group": job.group, "setting": job.setting, "seed": job.config.seed}
        about |= {
            "data": job.data,
            "updates": job.config.steps,
            "sizes": list(job.config.model.sizes),
        }
        found.append(about | training | {"length": job.wanted, "scores": scores})
    return {"command": " ".join(["python", *sys.argv]), "part": flags.part, "jobs": found}


def tables(everything):
    """discovery.md of discovery.json."""
    part = everything["part"]
    lines = [
        f"`{everything['command']}`",
        "",
        "Mean ± standard deviation over seeds. Boundaries are scored on the"
        + (
            " **validation part**; the test part is not looked at before the end."
            if part == "valid"
            else " **test part**, once, after all was chosen on the validation part."
        ),
        "P, R, F1: boundaries in % at the very symbol; +1: F1 one symbol later; words: F1 of words,"
        " both ends right. Beside F1: as many boundaries at random and evenly spread, untrained"
        " models (five), an n-gram model read alike.",
        "",
    ]
    for group in dict.fromkeys((job["group"], job["data"]) for job in everything["jobs"]):
        jobs = [job for job in everything["jobs"] if (job["group"], job["data"]) == group]
        seeds = by(jobs, lambda job: job["setting"])
        lines += [f"**{DATA[group[1]]}**", "", *_trainings(seeds, part), ""]
        # What layers find beyond words is scored of those with detectors alone.
        for text in dict.fromkeys(text for job in jobs for text in job["scores"]):
            lines += [*_boundaries(seeds, text), ""]
    machines = {timing.hardware_line(_machine(job)) for job in everything["jobs"]}
    return "\n".join([*lines, *sorted(machines)]) + "\n"


def _machine(job):
    return {k: v for k, v in job["hardware"].items() if k not in ("load before", "torch")}


def _label(job):
    known = discovery_jobs.SETTINGS
    if job["group"] != discovery_jobs.HEADLINE:
        return known[job["setting"]]
    if job["setting"] in discovery_jobs.BESIDE:
        kind = discovery_jobs.BESIDE[job["setting"]][1]
        return {"untaught": "not taught", "lstm": "LSTM"}[kind]
    if job["setting"].endswith("_line_end"):
        return "taught by its line ends"
    return "taught by that one's segments" if job["setting"] in discovery_jobs.AGAIN else "taught"


def _trainings(seeds, part):
    """The table of what was trained: bits, rates, seconds."""
    first = next(iter(seeds.values()))[0]
    unit = {"bpc": "bits a character", "nats": "nats a step"}[first["unit"]]
    parts = ["valid"] + ["test"] * (part == "test")
    heads = ["setting", "seeds", "units", "updates", *(f"{p}, {unit}" for p in parts)]
    heads += ["rates of layers", "alive throughout", "seconds"]
    rows = []
    for jobs in seeds.values():
        rates = zip(*(job["rates"] for job in jobs), strict=True)
        least = list(zip(*(job["least_rates"] for job in jobs), strict=True))
        dead = [f"layer {n}: no" for n, values in enumerate(least, 1) if min(values) <= ALIVE]
        rows.append(
            [
                _label(jobs[0]),
                str(len(jobs)),
                " + ".join(map(str, jobs[0]["sizes"])),
                f"{jobs[0]['updates']:,}",
                *(spread([job[p] for job in jobs], 3) for p in parts),
                ", ".join(spread(values, 2) for values in rates) or "-",
                (", ".join(dead) or "yes") if least else "-",
                spread([job["seconds"] for job in jobs], 0),
            ]
        )
    return markdown(heads, rows)


def _boundaries(seeds, text):
    """The table of what was found in a text, by all settings and readings."""
    every = [row for jobs in seeds.values() for job in jobs for row in job["scores"].get(text, ())]
    extra = {"f1_later": "+1", "f1_within": "within", "word_f1": "words"}
    extra = {key: head for key, head in extra.items() if any(key in row for row in every)}
    if "within" in extra.values():
        reach = next(row["tolerance"] for row in every if "tolerance" in row)
        extra["f1_within"] = f"±{reach}"
    # Controls are given for the score that counts: of words, or within the tolerance, if there are.
    beside = ["f1"] + [key for key in ("f1_within", "word_f1") if key in extra]
    controls = [c for c in CONTROLS if any(row["control"] == c for row in every)]
    heads = ["setting", "reading", "layer", "rate", "P", "R", "F1", *extra.values()]
    heads += [f"{control}{_of(key, extra)}" for key in beside for control in controls]
    rows, symbol = [], []
    for jobs in seeds.values():
        rows_of = by(
            [row for job in jobs for row in job["scores"].get(text, ())],
            lambda row: (row["reading"], row["layer"], row["control"]),
        )
        keys = ["precision", "recall", "f1", *extra]
        for (reading, layer, control), own in rows_of.items():
            if control not in (None, EVERY):
                continue
            name = [
                _label(jobs[0]),
                (reading or "every symbol").replace("_", " "),
                str(layer or ""),
            ]
            cells = [_percent(own, key) for key in keys]
            cells.insert(0, spread([row["rate"] for row in own], 3))
            for key in beside:
                for other in controls:
                    cells.append(_percent(rows_of.get((reading, layer, other), ()), key))
            if control == EVERY:
                symbol = [["", *name[1:], *cells]]
            else:
                rows.append([*name, *cells])
    return [f"Boundaries, {TEXTS.get(text, text)}:", "", *markdown(heads, rows + symbol)]


def _of(key, extra):
    return "" if key == "f1" else f", {extra[key]}"


def _percent(rows, key):
    """The mean of a share over seeds, in %; a dash if there is none."""
    values = [100 * row[key] for row in rows if key in row]
    return spread(values, 1) if values else "-"


def figure(path, everything):
    """Bits against F1 on each of the settings' data: detectors, and the entropy read directly."""
    present = [job for job in everything["jobs"] if job["group"] in discovery_jobs.DATA]
    if not present:
        return
    panels, part = by(present, lambda job: job["data"]), everything["part"]
    drawing = Figure(figsize=(5.5 * len(panels), 7), layout="constrained", facecolor="white")
    every = drawing.subplots(1, len(panels), squeeze=False)[0]
    for axes, (data, jobs) in zip(every, panels.items(), strict=True):
        for setting, seeds in by(jobs, lambda job: job["setting"]).items():
            number = list(discovery_jobs.SETTINGS).index(setting)
            look = {"color": style.COLOURS[number % len(style.COLOURS)], "fmt": MARKERS[number]}
            bits = [job[part] for job in seeds]
            detectors = _best(seeds, part, "detectors")
            _point(axes, bits, detectors, **look)
            _point(axes, bits, _best(seeds, part, "entropy"), fillstyle="none", **look)
            inside = "full" if detectors else "none"
            axes.plot(
                [], [], look["fmt"], color=look["color"], fillstyle=inside, label=_label(seeds[0])
            )
        ngram = statistics.mean(_best(jobs, part, "entropy", "ngram"))
        axes.axhline(ngram, color="#666666", linestyle="--", label="an n-gram model's entropy")
        style.open_axes(axes)
        axes.set_ylim(0, 100)
        axes.set_title(DATA[data], fontweight="bold")
        where = {"valid": "validation", "test": "test"}[part]
        axes.set_xlabel(f"bits per character of the {where} part")
        axes.set_ylabel("F1 of boundaries in %")
    handles = {
        h[-1]: h for axes in every for h in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    drawing.legend(
        [h for h, _ in handles.values()], list(handles), loc="outside lower center", ncols=2,
        frameon=False, title="filled: the detectors of the best layer, at the symbol or one"
        " later;\nopen: the entropy of the same model's prediction",
    )  # fmt: skip
    style.save(drawing, path)


def _point(axes, bits, scores, **look):
    """Mean and deviation over seeds of two figures, if there are any."""
    if scores:
        deviations = (statistics.stdev(v) if len(v) > 1 else 0 for v in (scores, bits))
        means = (statistics.mean(v) for v in (bits, scores))
        axes.errorbar(*means, *deviations, markersize=8, linewidth=1, **look)


def _best(jobs, part, reading, control=None):
    """F1 in % of each seed, of the layer and place where its mean is highest; [] if none is."""
    rows = [row for job in jobs for row in job["scores"][part]]
    rows = [row for row in rows if (row["reading"], row["control"]) == (reading, control)]
    found = [
        [100 * row[key] for row in own]
        for own in by(rows, lambda row: row["layer"]).values()
        for key in ("f1", "f1_later")
        if key in own[0]
    ]
    return max(found, key=statistics.mean, default=[])
