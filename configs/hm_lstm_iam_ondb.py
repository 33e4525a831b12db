"""HM-LSTM on IAM-OnDB handwriting (Chung, Ahn, Bengio 2017, section 4.2, Table 3).

Variants by argument; the paper's mean log-likelihood of a test sequence, in nats:

    annealed  step function, slope 1 to 3, + 0.004 an epoch   1167   (default)
    step      step function, slope 1                          1137

The paper's own split is not printed (10,465, 581 and 582 lines of 300 points or more; drawn
by `data.seed` with `data.split=hm_lstm`); the default is the official one of Graves (2013),
so figures are comparable in scale only. Pen offsets, standardised; 20 bivariate Gaussians.
5,023,726 parameters and 12,000 of layer normalisation. The paper is silent on truncation,
epochs and patience.

Reads `$HMRNN_DATA/iam-ondb`. The data are free for research after registration; how to
convert the official archives: `python -m hmrnn_jax.datasets.iam_ondb --help`.

    python train.py --config=configs/hm_lstm_iam_ondb.py:annealed --workdir=runs/iam
    python eval.py --workdir=runs/iam --boundaries
    python eval.py --workdir=runs/iam --sample=16 --bias=1
"""

from hmrnn_jax import defaults
from hmrnn_jax.errors import require

VARIANTS = {"annealed": 0.004, "step": 0.0}


def get_config(variant="annealed"):
    require("The variant", variant, tuple(VARIANTS))
    config = defaults.strokes()
    config.slope.increment = VARIANTS[variant]
    return config
