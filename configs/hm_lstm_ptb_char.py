"""HM-LSTM on Penn Treebank characters (Chung, Ahn, Bengio 2017, section 4.1, Table 1).

Variants by argument; the paper's test bits per character:

    sample    Bernoulli boundaries               1.27
    soft      boundaries not discretised         1.27
    step      step function, slope 1             1.25
    annealed  step function, slope 1 to 5        1.24   (default)

8,434,100 parameters and 15,360 of layer normalisation. Reads `$HMRNN_DATA/ptb`, or
downloads.

    python train.py --config=configs/hm_lstm_ptb_char.py:annealed --workdir=runs/ptb
    python train.py --config=configs/hm_lstm_ptb_char.py:step --workdir=runs/ptb-step

The paper does not state epochs, patience or number of drops.
"""

from hmrnn_jax import defaults
from hmrnn_jax.errors import UserError

VARIANTS = {
    "sample": ("sample", 0.0),
    "soft": ("soft", 0.0),
    "step": ("step", 0.0),
    "annealed": ("step", 0.04),
}


def get_config(variant="annealed"):
    if variant not in VARIANTS:
        raise UserError(f"The variant is {variant!r}; it must be one of {', '.join(VARIANTS)}.")
    config = defaults.text()
    config.data.name = "ptb_char"
    config.model.hm_lstm.boundary, config.slope.increment = VARIANTS[variant]
    return config
