"""What a run has kept: its metrics as curves, and itself as one file to pass on."""

import os

from etils import epath

from hmrnn_jax.analysis.figures import curves as figures
from hmrnn_jax.cli import JSON, Command
from hmrnn_jax.commands.base import LANGUAGE, RUN, file, open_run, output, place, say
from hmrnn_jax.errors import UserError
from hmrnn_jax.opening import to_official
from hmrnn_jax.training import exported, metrics_log
from hmrnn_jax.training.fields import Choice, Names
from hmrnn_jax.training.titles import titles
from hmrnn_jax.training.workdir import load_run


def curves(given):
    """Draw the training curves of a run, or those of two over each other.

        hmrnn curves --workdir=runs/quickstart
        hmrnn curves --workdir=runs/hm --control=runs/lstm --keys=train/bpc,valid/bpc

    Bits per symbol, or nats, and how often the detectors fire; of two runs, what --keys names.
    """
    if "keys" in given.named and not given.control:
        raise UserError("--keys chooses what is drawn of two runs: give the second by --control.")
    path = place(given, "curves.png")
    folders = list(filter(None, (given.workdir, given.control)))
    loaded = {folder: load_run(folder) for folder in folders}
    names = titles({folder: config for folder, (config, _) in loaded.items()})
    units = {getattr(encoding, "unit", "characters") for _, encoding in loaded.values()}
    symbol = units.pop().removesuffix("s") if len(units) == 1 else "symbol"
    runs = {
        names[folder]: metrics_log.read_metrics(epath.Path(folder) / "metrics.jsonl")
        for folder in folders
    }
    if given.control:
        figures.compare_curves(path, runs, given.keys, symbol)
    else:
        figures.training_curves(path, *runs.values(), *runs, symbol)
    say(f"figure: {path}")
    return {"figure": path}


def export(given):
    """Write a run as one file, or its weights in the ON-LSTM authors' format.

        hmrnn export --workdir=runs/mine --output=mine.safetensors --dtype=float16
        hmrnn score --workdir=mine.safetensors --text=other.txt
        hmrnn export --workdir=runs/on-ptb --output=on.pt
        hmrnn score --config=on_lstm_ptb_word --weights=on.pt

    A .safetensors file holds weights, configuration, vocabulary and a card with score and data:
    wherever a --workdir is asked for to read with, and to hm.load(), it can be given. A .pt or
    .npz file is for an ON-LSTM of words; `hmrnn score` and others read such weights, those of the
    authors too.
    """
    path = place(given, "")
    if path.endswith(exported.SUFFIX):
        run = open_run(given, "export")
        card = run.export(path, dtype=given.dtype)
        size = os.path.getsize(path) if os.path.isfile(path) else None
        say(f"exported: {path}" + (f" ({size / 1e6:.1f} MB)" if size else ""), _in_words(card))
        return {"weights": path, "bytes": size, "card": card}
    if "dtype" in given.named:
        raise UserError(f"--dtype is for a file that ends in {exported.SUFFIX}.")
    run = open_run(given, "export", [LANGUAGE])
    say(to_official(run, path))
    return {"weights": path}


def _in_words(card):
    """One line on what was exported."""
    scores = {name: card.get("score", {}).get(name) for name in _HEADLINES}
    parts = [f"{card['title']}, {card['parameters']:,} parameters in {card['dtype']}"]
    parts += [f"{name} {value:.4f}" for name, value in scores.items() if value is not None]
    return ", ".join(parts)


_HEADLINES = tuple(
    f"{split}/{name}"
    for split in ("test", "valid")
    for name in ("bpc", "perplexity", "accuracy", "log_likelihood")
)

COMMANDS = {
    "curves": Command(
        curves,
        {
            "workdir": ("runs/quickstart", file("Folder of the run.")),
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
        RUN
        | {"dtype": ("float32", Choice("Of the weights in a .safetensors file.", exported.DTYPES))}
        | output("The file: .safetensors for a whole run, .pt or .npz for an ON-LSTM's weights.")
        | JSON,
        needs=("output",),
        meant="--output={0}",
    ),
}
