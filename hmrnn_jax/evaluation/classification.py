"""What is classified: logical inference, images."""

import json

from hmrnn_jax import tasks
from hmrnn_jax.analysis.figures import curves
from hmrnn_jax.run import titles
from hmrnn_jax.tasks import images, logic


def score(runs, split, path):
    """Scores a split with each of `runs`, all of one task; at last a line of JSON.

    For logical inference's test split also a table and, in the file `path`, a figure of the
    accuracies for each length.
    """
    results, lines = {}, []
    for run in runs:
        task = tasks.make(run.config, run.mesh)
        result = task.evaluate(run.params, split, run.slope)
        results[run.name] = result
        lines.append(f"{split}: {task.headline(result)}")
    config = runs[0].config
    if config.task == "logic" and split == "test":
        names = titles({run.name: run.config for run in runs})
        titled = {names[name]: result for name, result in results.items()}
        curves.length_curves(path, titled, config.data.longest)
        lines += [logic.table(results), f"figure: {path}"]
    if config.task == "images":
        lines.append(images.table(results))
    return "\n".join([*lines, json.dumps({"split": split} | results)])
