"""LSTM on IAM-OnDB handwriting: the baseline of the HM-LSTM's paper (Table 3): 1081 nats.

Three layers of 400 and the gated output module, as in `hm_lstm_iam_ondb`, whose docstring
tells about the data and the split. 3,741,721 parameters and 12,000 of layer
normalisation. Variant by argument: `paper` has exactly the paper's settings, as there; an LSTM has
no detectors, so the default differs in split, patience, epochs and the longest line alone.

    python train.py --config=configs/lstm_iam_ondb.py --workdir=runs/iam-lstm
    python train.py --config=configs/lstm_iam_ondb.py:paper --workdir=runs/iam-lstm-paper
"""

from hmrnn_jax import defaults
from hmrnn_jax.errors import require


def get_config(variant="default"):
    require("The variant", variant, ("default", "paper"))
    config = defaults.strokes()
    config.model.cell = "lstm"
    if variant == "paper":
        defaults.as_published(config)
        config.data.split = "hm_lstm"
        config.longest = 0
        config.epochs = 500
    return config
