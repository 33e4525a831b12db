"""What a run draws by itself: texts, handwriting and other sequences, poems."""

import os

from hmrnn_jax.cli import JSON, Command
from hmrnn_jax.commands.base import (
    LANGUAGE,
    OFFICIAL,
    PRETRAINED,
    RUN,
    SEED,
    SEQUENCES,
    SPLIT,
    file,
    open_run,
    output,
    place,
    shown,
)
from hmrnn_jax.evaluation import sequences, text
from hmrnn_jax.training.fields import Number, Whole


def sample(given):
    """Draw a text, or real-valued sequences such as handwriting.

        hmrnn sample --workdir=runs/quickstart --prompt="The " --length=500 --temperature=0.7
        hmrnn sample --workdir=runs/pen --count=8 --length=250 --bias=1

    Sequences are written as a figure (PNG, of handwriting also SVG) and as arrays (npz).
    """
    if given.output:
        place(given, "")
    run = open_run(
        given, "sample", [LANGUAGE, SEQUENCES],
        {"prompt": [LANGUAGE], "count": [SEQUENCES], "prime": [SEQUENCES], "bias": [SEQUENCES],
         "split": [SEQUENCES], "output": [SEQUENCES]},
    )  # fmt: skip
    if run.config.task == SEQUENCES:
        return shown(
            sequences.sample(
                run, given.split, given.count, given.length or 700, given.prime,
                given.temperature, given.bias, given.seed, place(given, "sample.png"),
            )
        )  # fmt: skip
    prompt = run.encoding.beginning
    if given.prompt is not None:  # UTF-8, whatever the terminal's encoding is
        prompt = os.fsencode(given.prompt).decode("utf-8", "surrogateescape")
    return shown(text.sample(run, prompt, given.length or 500, given.temperature, given.seed))


def poems(given):
    """Draw poems, and report which keep their form.

        hmrnn poems --workdir=runs/verse --count=20

    For a model of quatrains, `hmrnn train --config=quatrains`.
    """
    run = open_run(given, "poems", [LANGUAGE])
    return shown(text.poems(run, given.count, given.temperature, given.seed))


_TEMPERATURE = {"temperature": (1.0, Number("Of the draws; 0 takes the likeliest.", least=0))}
_SAMPLE = {
    "prompt": (None, file("Text that is continued; a new line, or a space, by default.")),
    "length": (
        None, Whole("Symbols, 500 by default; steps of each sequence, 700.", 1, text.MOST_DRAWN),
    ),
    "count": (8, Whole("Real-valued sequences to draw.", 1, sequences.MOST_DRAWN)),
    "prime": (1, Whole("Steps of held-out sequences that these are begun with.", 1, 10**6)),
    "bias": (0.0, Number("Towards likely strokes (Graves 2013).", least=0, most=1000)),
}  # fmt: skip
COMMANDS = {
    "sample": Command(
        sample,
        RUN | PRETRAINED | _SAMPLE | _TEMPERATURE | SEED | SPLIT
        | output("File of the figure of sequences, PNG; sample.png in --workdir by default.")
        | OFFICIAL | JSON,
        meant="--prompt={0}",
    ),
    "poems": Command(
        poems,
        RUN | {"count": (20, Whole("Poems to draw.", 1, text.MOST_POEMS))} | _TEMPERATURE | SEED
        | JSON,
    ),
}  # fmt: skip
