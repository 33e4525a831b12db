"""The LSTM baseline on Penn Treebank characters (Chung, Ahn, Bengio 2017, Table 1).

The authors' own LN LSTM: three layers of 512 units under the same gated output module;
test 1.29 bits per character in the paper. 6,334,258 parameters and 15,360 of layer
normalisation. Reads `$HMRNN_DATA/ptb`, or downloads.

    python train.py --config=configs/lstm_ptb_char.py --workdir=runs/lstm-ptb
"""

from hmrnn_jax import defaults


def get_config():
    config = defaults.text()
    config.data.name = "ptb_char"
    config.model.cell = "lstm"
    return config
