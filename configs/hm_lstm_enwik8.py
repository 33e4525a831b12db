"""HM-LSTM on enwik8 (Chung, Ahn, Bengio 2017, section 4.1).

Test bits per character in the paper: 1.34 without layer normalisation, 1.32 with (default).
205 byte values; 90M, 5M and 5M symbols. Three layers of 1024 units, output module 2048;
36,648,911 parameters without layer normalisation. Step function without annealing: the
authors found no good schedule at this size. Reads `$HMRNN_DATA/enwik8`, or downloads; a
part of the corpus is used under the name `enwik8-prefix`.

    python train.py --config=configs/hm_lstm_enwik8.py --workdir=runs/enwik8
    python train.py --config=configs/hm_lstm_enwik8.py --config.model.hm_lstm.layer_norm=none \
        --workdir=runs/enwik8-plain
"""

from hmrnn_jax import defaults


def get_config():
    config = defaults.text()
    config.data.name = "enwik8"
    config.model.sizes = (1024, 1024, 1024)
    config.model.output = 2048
    config.batch = 128
    config.learning_rate = 1e-3
    config.evaluation.every = 2000
    config.evaluation.batch = 128
    return config
