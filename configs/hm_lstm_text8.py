"""HM-LSTM on text8 (Chung, Ahn, Bengio 2017, section 4.1).

Test bits per character in the paper: 1.32 without layer normalisation, 1.29 with (default).
27 symbols (a-z and space); 90M, 5M and 5M symbols. Three layers of 1024 units, output module 2048;
36,261,405 parameters without layer normalisation. Step function without annealing: the
authors found no good schedule at this size. Reads `$HMRNN_DATA/text8`, or downloads; a
part of the corpus is used under the name `text8-prefix`.

    python train.py --config=configs/hm_lstm_text8.py --workdir=runs/text8
    python train.py --config=configs/hm_lstm_text8.py --config.model.hm_lstm.layer_norm=none \
        --workdir=runs/text8-plain
"""

from hmrnn_jax import defaults


def get_config():
    config = defaults.text()
    config.data.name = "text8"
    config.model.sizes = (1024, 1024, 1024)
    config.model.output = 2048
    config.batch = 128
    config.learning_rate = 1e-3
    config.evaluation.every = 2000
    config.evaluation.batch = 128
    return config
