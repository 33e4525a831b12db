"""AWD-LSTM on WikiText-2 words (Merity, Keskar, Socher 2018, Table 2).

With the Penn Treebank recipe of `awd_lstm_ptb_word`, so that it stands beside
`on_lstm_wikitext2_word`; the authors' own settings for WikiText-2 differ (batch 80, dropout
.65, .2 and .4 of input, hidden and output, .5 of the weights) and gave validation 68.6, test 65.8.
33,556,078 parameters. Reads `$HMRNN_DATA/wikitext-2`, or downloads.

    python train.py --config=configs/awd_lstm_wikitext2_word.py --workdir=runs/awd-wt2
"""

from hmrnn_jax import defaults


def get_config(variant="awd"):
    config = defaults.words(variant)
    config.data.name = "wikitext2_word"
    config.model.cell = "lstm"
    config.model.sizes = (1150, 1150, 400)
    return config
