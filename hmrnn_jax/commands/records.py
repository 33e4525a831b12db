"""What a run has kept: its metrics as curves, its weights for the ON-LSTM authors' code."""

from etils import epath

from hmrnn_jax.analysis.figures import curves as figures
from hmrnn_jax.cli import JSON, Command
from hmrnn_jax.commands.base import LANGUAGE, RUN, file, open_run, output, place, say
from hmrnn_jax.run import export as export_weights
from hmrnn_jax.training import metrics_log
from hmrnn_jax.training.fields import Names
from hmrnn_jax.training.titles import titles
from hmrnn_jax.training.workdir import load_run


def curves(given):
    """Draw the training curves of a run, or those of two over each other.

        hmrnn curves --workdir=runs/quickstart
        hmrnn curves --workdir=runs/hm --control=runs/lstm --keys=train/bpc,valid/bpc

    Bits per character and how often the detectors fire; of two runs, what --keys names.
    """
    path = place(given, "curves.png")
    folders = list(filter(None, (given.workdir, given.control)))
    names = titles({folder: load_run(folder)[0] for folder in folders})
    runs = {
        names[folder]: metrics_log.read_metrics(epath.Path(folder) / "metrics.jsonl")
        for folder in folders
    }
    if given.control:
        figures.compare_curves(path, runs, given.keys)
    else:
        figures.training_curves(path, *runs.values(), *runs)
    say(f"figure: {path}")
    return {"figure": path}


def export(given):
    """Write a run's weights in the ON-LSTM authors' format.

        hmrnn export --workdir=runs/on-ptb --output=on.pt
        hmrnn score --config=on_lstm_ptb_word --weights=on.pt

    Of an ON-LSTM of words. `hmrnn score` and others read such weights, those of the authors too.
    """
    path = place(given, "")
    run = open_run(given, "export", [LANGUAGE])
    say(export_weights(run, path))
    return {"weights": path}


COMMANDS = {
    "curves": Command(
        curves,
        RUN
        | {
            "control": (None, file("Folder of a second run, whose curves are drawn over it.")),
            "keys": (
                ("valid/bpc", "rate/layer1", "rate/layer2"),
                Names("With --control: what is drawn."),
            ),
        }
        | output("File of the figure, PNG; curves.png in --workdir by default.")
        | JSON,
    ),
    "export": Command(
        export,
        RUN | output("File of the weights, .pt or .npz.") | JSON,
        needs=("output",),
        meant="--output={0}",
    ),
}
