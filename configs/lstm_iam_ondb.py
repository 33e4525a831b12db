"""LSTM on IAM-OnDB handwriting: the baseline of the HM-LSTM's paper (Table 3): 1081 nats.

Three layers of 400 and the gated output module, as in `hm_lstm_iam_ondb`, whose docstring
tells about the data and the split. 3,741,721 parameters and 12,000 of layer
normalisation.

    python train.py --config=configs/lstm_iam_ondb.py --workdir=runs/iam-lstm
"""

from hmrnn_jax import defaults


def get_config():
    config = defaults.strokes()
    config.model.cell = "lstm"
    return config
