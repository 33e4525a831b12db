"""The LSTM baseline on Penn Treebank characters (Chung, Ahn, Bengio 2017, Table 1).

The authors' own LN LSTM: three layers of 512 units under the same gated output module;
test 1.29 bits per character in the paper. 6,334,258 parameters and 15,360 of layer
normalisation. Reads `$HMRNN_DATA/ptb`, or downloads.

Gradients are clipped at the paper's 1: what `hm_lstm_ptb_char` does otherwise for its detectors an
LSTM has no need of; beside a run of that, give `--config.clip=0.25`. Variant by argument: `paper`
has exactly the paper's settings, which drop the rate at the first validation without a new best,
not at the second in a row.

    python train.py --config=configs/lstm_ptb_char.py --workdir=runs/lstm-ptb
    python train.py --config=configs/lstm_ptb_char.py:paper --workdir=runs/lstm-ptb-paper
"""

from hmrnn_jax import defaults
from hmrnn_jax.errors import require


def get_config(variant="default"):
    require("The variant", variant, ("default", "paper"))
    config = defaults.text()
    config.data.name = "ptb_char"
    config.model.cell = "lstm"
    config.clip = 1.0
    if variant == "paper":
        defaults.as_published(config)
    return config
