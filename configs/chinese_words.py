"""HM-LSTM on Chinese without spaces: does it find the words that the script does not mark?

Not a published experiment, and no published figure to expect. Trained on characters alone:
441,597 of traditional Chinese (UD Chinese GSD, and two gold texts of the SIGHAN 2005 bakeoff
with their spaces removed), 4,494 symbols, the unknown one included. The boundaries of each layer
are then scored against the words of the treebank's test part, beside random boundaries of the
same rate and beside a boundary after every character. Three layers of 256 units;
3,899,664 parameters and 7,680 of layer normalisation. Reads `$HMRNN_DATA/zh-segmentation`.
Detectors' rate and scale and `clip` are not the paper's, but as in `hm_lstm_ptb_char`.

    python train.py --config=configs/chinese_words.py --workdir=runs/chinese-words
"""

from hmrnn_jax import defaults


def get_config():
    config = defaults.text()
    config.data.name = "chinese_unsegmented"
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
