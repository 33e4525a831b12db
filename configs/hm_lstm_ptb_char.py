"""HM-LSTM on Penn Treebank characters (Chung, Ahn, Bengio 2017, section 4.1, Table 1).

Variants by argument; the paper's test bits per character:

    sample    Bernoulli boundaries               1.27
    soft      boundaries not discretised         1.27
    step      step function, slope 1             1.25
    annealed  step function, slope 1 to 5        1.24   (default)

    paper, paper-step, paper-soft, paper-sample: the same with exactly the paper's settings

Where the defaults are not the paper's, so that detectors stay alive (docs/results.md): `clip` is
0.25, the paper's 1; detectors learn at a tenth of the rate, `detector_rate`, and start at 0.3 of
the usual weights, `model.hm_lstm.detector_scale`, where the paper makes no exception for them.
The rate drops at the second validation in a row without a new best, the paper's "when it stops
decreasing" taken at its word in `paper`, at the first. The slope grows by 0.04 an epoch; a run
has 100 epochs at most, the last of them with 4.96, and validation may end it sooner.

8,434,100 parameters and 15,360 of layer normalisation. Reads `$HMRNN_DATA/ptb`, or
downloads.

    python train.py --config=configs/hm_lstm_ptb_char.py:annealed --workdir=runs/ptb
    python train.py --config=configs/hm_lstm_ptb_char.py:step --workdir=runs/ptb-step
    python train.py --config=configs/hm_lstm_ptb_char.py:paper --workdir=runs/ptb-paper

The paper does not state epochs, patience, number of drops or initialisation.
"""

from hmrnn_jax import defaults
from hmrnn_jax.errors import require

VARIANTS = {
    "sample": ("sample", 0.0),
    "soft": ("soft", 0.0),
    "step": ("step", 0.0),
    "annealed": ("step", 0.04),
}
PAPER = {"paper": "annealed"} | {f"paper-{name}": name for name in ("step", "soft", "sample")}


def get_config(variant="annealed"):
    require("The variant", variant, (*VARIANTS, *PAPER))
    config = defaults.text()
    config.data.name = "ptb_char"
    row = VARIANTS[PAPER.get(variant, variant)]
    config.model.hm_lstm.boundary, config.slope.increment = row
    if variant in PAPER:
        defaults.as_published(config)
    return config
