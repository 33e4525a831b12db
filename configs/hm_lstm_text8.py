"""HM-LSTM on text8 (Chung, Ahn, Bengio 2017, section 4.1).

Test bits per character in the paper: 1.32 without layer normalisation, 1.29 with (default).
27 symbols (a-z and space); 90M, 5M and 5M symbols. Three layers of 1024 units, output module 2048;
36,261,405 parameters without layer normalisation. Step function without annealing: the
authors found no good schedule at this size. Reads `$HMRNN_DATA/text8`, or downloads; a
part of the corpus is used under the name `text8-prefix`.

Variant by argument: `paper` has exactly the paper's settings. Where the default has others, so that
detectors stay alive (docs/results.md): `clip` is 0.25, the paper's 1; detectors learn at a tenth of
the rate, `detector_rate`, and start at 0.3 of the usual weights, `model.hm_lstm.detector_scale`,
where the paper makes no exception for them. An epoch has 7,032 updates; the default validates every
2,000 and drops the rate after 4 validations without a new best, which is more than an epoch;
`paper` validates at the end of each epoch and drops it at the first that does not decrease.

    python train.py --config=configs/hm_lstm_text8.py --workdir=runs/text8
    python train.py --config=configs/hm_lstm_text8.py:paper --workdir=runs/text8-paper
    python train.py --config=configs/hm_lstm_text8.py --config.model.hm_lstm.layer_norm=none \
        --workdir=runs/text8-plain
"""

from hmrnn_jax import defaults
from hmrnn_jax.errors import require


def get_config(variant="default"):
    require("The variant", variant, ("default", "paper"))
    config = defaults.text()
    config.data.name = "text8"
    config.model.sizes = (1024, 1024, 1024)
    config.model.output = 2048
    config.batch = 128
    config.learning_rate = 1e-3
    config.evaluation.every = 2000
    config.patience = 4  # 8,000 updates, more than an epoch
    config.evaluation.batch = 128
    if variant == "paper":
        defaults.as_published(config)
    return config
