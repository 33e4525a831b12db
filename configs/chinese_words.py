"""HM-LSTM on Chinese without spaces: does it find the words that the script does not mark?

Not a published experiment, and no published figure to expect. Trained on characters alone:
441,597 of traditional Chinese (UD Chinese GSD, and two gold texts of the SIGHAN 2005 bakeoff
with their spaces removed), 4,494 symbols, the unknown one included. The boundaries of each layer
are then scored against the words of the treebank's test part, beside random boundaries of the
same rate and beside a boundary after every character. Three layers of 256 units;
3,899,664 parameters and 7,680 of layer normalisation. Reads `$HMRNN_DATA/zh-segmentation`.
With the argument `simplified` in place of `traditional` it is trained on nine tenths of the
bakeoff's test text of MSR, 2,780 symbols, 3,239,774 parameters: for the words of MSR and PKU.
Detectors' rate and scale and `clip` are not the paper's, but as in `hm_lstm_ptb_char`.

    python train.py --config=configs/chinese_words.py --workdir=runs/chinese-words
    python train.py --config=configs/chinese_words.py:simplified --workdir=runs/simplified
    python eval.py --workdir=runs/simplified --boundaries --words=pku_test_gold.utf8
"""

from hmrnn_jax import defaults
from hmrnn_jax.errors import require

NAMES = {"traditional": "chinese_unsegmented", "simplified": "chinese_simplified"}


def get_config(script="traditional"):
    require("The argument", script, tuple(NAMES))
    config = defaults.text()
    config.data.name = NAMES[script]
    config.model.sizes = (256, 256, 256)
    config.model.output = 256
    config.model.dropout.output = 0.3  # the text is short
    config.slope.increment = 0.04
    config.batch = 32
    config.window = 50
    config.evaluation.batch = 16
    config.evaluation.window = 50
    config.evaluation.warmup = 1000
    return config
