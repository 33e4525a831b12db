"""AWD-LSTM on Penn Treebank words (Merity, Keskar, Socher 2018; Shen et al. 2019, Table 1).

The ON-LSTM's skeleton and recipe around an LSTM: what `on_lstm_ptb_word` is compared with.
Published perplexity of AWD-LSTM: validation 60.0, test 57.3, by numbers of its own (dropout .4, .25
and .4 for the .5, .3 and .45 here, .5 of the weights for .45; 500 epochs). 24,221,600 parameters.
Variant by argument as in `on_lstm_ptb_word`, `awd` by default. Reads `$HMRNN_DATA/ptb`, or
downloads.

    python train.py --config=configs/awd_lstm_ptb_word.py --workdir=runs/awd-ptb
"""

from hmrnn_jax import defaults


def get_config(variant="awd"):
    config = defaults.words(variant)
    config.data.name = "ptb_word"
    config.model.cell = "lstm"
    config.model.sizes = (1150, 1150, 400)
    return config
