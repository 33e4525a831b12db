"""ON-LSTM language model on Penn Treebank words (Shen et al. 2019, section 5.1, Table 1).

Variant by argument: `official` (default), the authors' command; expected perplexity of the
paper: validation 58.29, test 56.17, after 1,000 epochs. `awd`: DropConnect with inverted
scaling and AR on the dropped output, as in AWD-LSTM's code. 25,232,180 parameters. Reads
`$HMRNN_DATA/ptb`, or downloads. Its second layer yields the syntax trees of section 5.2.

Windows have the lengths that the authors' program draws, 5 words or more, padded to a multiple of
5 with steps that do not count, so that some 16 lengths are compiled. `window_quantum` above 1
rounds the lengths themselves: less padding, or fewer to compile, but not the authors' windows.

    python train.py --config=configs/on_lstm_ptb_word.py --workdir=runs/on-ptb
    python eval.py trees --workdir=runs/on-ptb --treebank=nltk
"""

from hmrnn_jax import defaults


def get_config(variant="official"):
    config = defaults.words(variant)
    config.data.name = "ptb_word"
    config.model.cell = "on_lstm"
    config.model.sizes = (1150, 1150, 400)
    return config
