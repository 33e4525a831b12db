"""Chinese quatrains, five characters a verse: the next character, and poems to generate.

The Nested LSTM paper (Moniz, Krueger 2017) generates Chinese poetry; its data, sizes and figures
could not be obtained, so none is claimed. Cell by argument; all have an embedding of 128, the
gated output module of 192, orthogonal recurrent matrices, forget bias 1, and parameters in
number equal within 1 %:

    lstm          one layer of 336             2,199,150   (default)
    lstm_stack    two layers of 205            2,199,782
    nested_lstm   one layer of 212, depth 2    2,199,826
    hm_lstm       three layers of 138          2,200,576
    on_lstm       two layers of 200            2,209,142

The HM-LSTM has its paper's layer normalisation, the others have none: without it, the second
detector fell silent within 20 updates, no input of it live, under one of two seeds. Its detectors'
rate and scale are as in `hm_lstm_ptb_char`; so is `clip`, 0.25, of all cells.

4,702 symbols of training, the unknown one included; 359,825, 20,000 and 20,000 characters.
Reads `$HMRNN_DATA/zh-poetry`, or a file of your own poems, `data.path`.

    python train.py --config=configs/quatrains.py:nested_lstm --workdir=runs/quatrains-nested
    python eval.py poems --workdir=runs/quatrains-nested --count=20
"""

from hmrnn_jax import defaults
from hmrnn_jax.errors import require

CELLS = {
    "lstm": ("lstm", (336,)),
    "lstm_stack": ("lstm", (205, 205)),
    "nested_lstm": ("nested_lstm", (212,)),
    "hm_lstm": ("hm_lstm", (138, 138, 138)),
    "on_lstm": ("on_lstm", (200, 200)),
}


def get_config(cell="lstm"):
    require("The cell", cell, tuple(CELLS))
    config = defaults.text()
    config.data.name = "quatrains"
    config.model.cell, config.model.sizes = CELLS[cell]
    config.model.output = 192
    for name in ("lstm", "nested_lstm", "hm_lstm", "on_lstm"):
        config.model[name].forget_bias = 1.0
    config.model.lstm.layer_norm = "none"
    config.model.on_lstm.initialisation = "orthogonal"
    # The poems are few for so many parameters, most of which serve rare characters.
    config.model.dropout.input = config.model.dropout.output = 0.3
    config.slope.increment = 0.04
    config.batch = 32
    config.window = 50  # two poems
    config.evaluation.batch = 16
    config.evaluation.window = 50
    config.evaluation.warmup = 1000
    return config
