"""ON-LSTM language model on WikiText-2 words.

Not in the paper: the recipe and sizes of `on_lstm_ptb_word` (Shen et al. 2019), variants
too. 34,566,658 parameters, of which 13,311,200 are the embedding. Reads
`$HMRNN_DATA/wikitext-2`, or downloads.

    python train.py --config=configs/on_lstm_wikitext2_word.py --workdir=runs/on-wt2
"""

from hmrnn_jax import defaults


def get_config(variant="official"):
    config = defaults.words(variant)
    config.data.name = "wikitext2_word"
    config.model.cell = "on_lstm"
    config.model.sizes = (1150, 1150, 400)
    return config
