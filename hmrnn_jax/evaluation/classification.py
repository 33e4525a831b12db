"""What is classified: logical inference, images."""

from hmrnn_jax import tasks
from hmrnn_jax.analysis.figures import curves
from hmrnn_jax.evaluation.report import Report
from hmrnn_jax.tasks import images, logic
from hmrnn_jax.training.titles import titles


def score(runs, split, path):
    """Scores a split with each of `runs`, all of one task.

    For logical inference's test split also a table and, in the file `path`, a figure of the
    accuracies for each length.
    """
    results, configs, lines = {}, {}, []
    made = [tasks.make(run.config, run.mesh) for run in runs]
    for run, task in zip(runs, made, strict=True):  # before any of them is scored
        tasks.check_split(run, task.data, split)
    for run, task in zip(runs, made, strict=True):
        result = task.evaluate(run.params, split, run.slope)
        name = run.name
        while name in results or name == "split":  # folders of two runs may be called alike
            name += "'"
        results[name], configs[name] = result, run.config
        lines.append(f"{split}: {task.headline(result)}")
    config = runs[0].config
    if config.task == "logic" and split == "test":
        names = titles(configs)
        titled = {names[name]: result for name, result in results.items()}
        curves.length_curves(path, titled, config.data.longest)
        lines += [logic.table(results), f"figure: {path}"]
    if config.task == "images":
        lines.append(images.table(results))
    return Report("\n".join(lines), {"split": split} | results)
