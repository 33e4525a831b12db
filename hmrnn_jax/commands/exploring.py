"""What a run makes of a text or of sequences, as a page to look at."""

import os

from etils import epath

from hmrnn_jax.cli import JSON, Command
from hmrnn_jax.commands.base import (
    LANGUAGE,
    PRETRAINED,
    RUN,
    SEED,
    SEQUENCES,
    SPLIT,
    at_most_one,
    file,
    open_run,
    output,
    place,
    say,
)
from hmrnn_jax.commands.reading import progress, read_text
from hmrnn_jax.evaluation import sequences
from hmrnn_jax.explorer import page, text
from hmrnn_jax.explorer import sequences as explored
from hmrnn_jax.explorer.text import MOST_SHOWN, SHOWN
from hmrnn_jax.training.fields import Whole


def explore(given):
    """Write one page of HTML in which the segments can be looked at.

        hmrnn explore my.txt --pretrained
        hmrnn explore --workdir=runs/quickstart
        hmrnn explore --workdir=runs/mine --text=other.txt --output=other.html
        hmrnn explore --workdir=runs/chinese --words=gold.txt
        hmrnn explore --workdir=runs/pen --split=valid

    A text with the segments of each layer or reading, cut anew as a slider asks for longer ones,
    with scores against spaces or the words of a file, and what the model expects after each
    symbol; strokes with their ink in segments; signals with segments below. The page is one file
    that needs no server and no network.
    """
    at_most_one(given, "text", "words", "split")
    path = place(given, "explorer.html")
    run = open_run(given, "explore", (LANGUAGE, SEQUENCES), {"words": [LANGUAGE]})
    if run.config.task == LANGUAGE:
        name, (ids, symbols), ends = read_text(run, given)
        name = epath.Path(name).name
        found = text.look(
            run, ids, symbols, name, ends, given.shown, given.seed, progress,
            given.split == "train",
        )  # fmt: skip
    else:
        name, read = given.text or given.split, sequences.read if given.text else sequences.held_out
        name, some = epath.Path(name).name, read(run, name)
        found = explored.look(run, some, name, given.shown, given.seed)
    page.write(path, found)
    size = os.path.getsize(path) if os.path.isfile(path) else None
    say(f"page: {path}" + (f" ({size / 1e6:.1f} MB); open it in a browser" if size else ""))
    return {"page": str(path), "bytes": size}


COMMANDS = {
    "explore": Command(
        explore,
        RUN
        | PRETRAINED
        | SPLIT
        | {"text": (None, file("A file instead of a split: UTF-8, or .csv or .npz for sequences."))}
        | {"words": (None, file("A UTF-8 text with its words separated, scored against."))}
        | {"shown": (SHOWN, Whole("Symbols, or steps of sequences, at most.", 2, MOST_SHOWN))}
        | SEED
        | output("File of the page, HTML; explorer.html in --workdir by default.")
        | JSON,
        meant="--workdir={0} for a run, or --text={0} for a text",
        word="text",
    )
}
