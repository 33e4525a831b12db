"""Words in speech to children, written without spaces: does a network find them by itself?

The field's standard text for finding words without supervision (Brent, Siskind 2001), a line an
utterance. The HM-LSTM is trained on the characters alone. Where a line break would suit the
training text, as an n-gram model of that text has it, its detectors are taught a boundary, two
symbols later; see `tasks.objectives`. Its boundaries, or other readings of the same model, are then
scored against the words. By argument:

    text     in spelling, 30 symbols                     (default)  584,864
    phono    one symbol a phoneme, 51 symbols                       590,261

Given segments can teach in the n-gram model's place, such as those that another network cuts the
training text in by its own line breaks. Their file is named behind a comma:
`brent.py:text,runs/brent/train.segments.jsonl`.

Parameters of three layers of 128 units, and 3,840 of layer normalisation. Reads
`$HMRNN_DATA/brent`, or a file of your own lines of words separated by spaces, `data.path`.

    python train.py --config=configs/brent.py:text --workdir=runs/brent
    python train.py --config=configs/brent.py --config.data.path=my.txt --workdir=runs/mine

    hmrnn boundaries --workdir=runs/brent
    hmrnn segment --workdir=runs/brent --split=train --reading=line_break
    hmrnn train --config=brent:text,runs/brent/train.segments.jsonl --workdir=runs/again
"""

from hmrnn_jax import defaults
from hmrnn_jax.datasets.brent import KINDS
from hmrnn_jax.errors import require

LENGTHS = {"text": 4.0, "phono": 3.0}  # symbols of a word, about
WORDS = 3.0  # of a segment of the second layer


def get_config(argument="text"):
    kind, _, segments = argument.partition(",")
    require("The argument", kind, KINDS)
    config = defaults.text()
    config.data.name = f"brent_{kind}"
    config.model.sizes = (128, 128, 128)
    config.model.output = 128
    teacher = "segments" if segments else "line_break"
    defaults.teach(config, teacher, (LENGTHS[kind], WORDS), segments=segments, delay=2)
    config.boundaries.teacher_weight = 0.5
    config.boundaries.rate_weight = 0.3
    # The text is short: without dropout the network is at its best after 900 of these updates.
    config.model.dropout.input, config.model.dropout.output = 0.2, 0.3
    config.batch = 16
    config.window = 50
    config.steps = 1500
    config.learning_rate = 5e-3
    config.schedule = "cosine"
    config.evaluation.every = 300
    config.evaluation.batch = 16
    config.evaluation.window = 50
    config.evaluation.warmup = 500
    return config
