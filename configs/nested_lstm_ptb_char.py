"""Nested LSTM on Penn Treebank characters (Moniz, Krueger 2017).

The paper trains on this corpus; its sizes, optimiser and figures could not be obtained, so
none is claimed. Here: one layer of 600 units, depth 2, under a plain softmax, with the
settings of `lstm_ptb_char`. 4,668,450 parameters. Reads `$HMRNN_DATA/ptb`, or downloads.

    python train.py --config=configs/nested_lstm_ptb_char.py --workdir=runs/nested-ptb
"""

from hmrnn_jax import defaults


def get_config():
    config = defaults.text()
    config.data.name = "ptb_char"
    config.model.cell = "nested_lstm"
    config.model.sizes = (600,)
    config.model.head = "plain"
    config.clip = 1.0
    return config
