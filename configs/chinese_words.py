"""HM-LSTM on Chinese without spaces: does it find the words that the script does not mark?

Not a published experiment. Trained on characters alone. By argument:

    traditional  441,597 characters: UD Chinese GSD, and two gold texts of the SIGHAN 2005 bakeoff,
                 4,494 symbols, the unknown one included         (default)  3,900,176 parameters
    simplified   nine tenths of the bakeoff's test text of MSR, for the words of MSR and PKU,
                 2,780 symbols                                              3,240,286 parameters

The spaces are removed first. Three layers of 256 units, and 7,680 parameters of layer
normalisation. The boundaries of each layer are scored against the words of the treebank's test
part, or of the last twentieth of MSR's text, beside all controls. Detectors' rate and scale and
`clip` are not the paper's, but as in `hm_lstm_ptb_char`; and they are taught without a label, by
the model's own entropy: segments of about 1.7 characters, which is shorter than peaks can lie
apart, so that all of the highest values count. Given segments can teach in its place, such as those
that the trained network cuts its training text in by `pmi`; they are known a character later. Their
file is named behind a comma. Reads `$HMRNN_DATA/zh-segmentation`.

    python train.py --config=configs/chinese_words.py:simplified --workdir=runs/simplified
    hmrnn boundaries --workdir=runs/simplified --reading=pmi --words=pku_test_gold.utf8

    hmrnn segment --workdir=runs/simplified --split=train --reading=pmi
    hmrnn train --config=chinese_words:simplified,runs/simplified/train.segments.jsonl \\
        --workdir=runs/again
"""

from hmrnn_jax import defaults
from hmrnn_jax.errors import require

NAMES = {"traditional": "chinese_unsegmented", "simplified": "chinese_simplified"}


def get_config(argument="traditional"):
    script, _, segments = argument.partition(",")
    require("The argument", script, tuple(NAMES))
    config = defaults.text()
    config.data.name = NAMES[script]
    config.model.sizes = (256, 256, 256)
    config.model.output = 256
    lengths = (1.7, 3.0)
    if segments:
        defaults.teach(config, "segments", lengths, segments=segments, delay=1)
    else:
        defaults.teach(config, "entropy", lengths)
    config.boundaries.rate_weight = 0.3
    # The text is short.
    config.model.dropout.input, config.model.dropout.output = 0.2, 0.3
    config.batch = 16
    config.window = 50
    config.steps = 1500
    config.learning_rate = 2e-3
    config.schedule = "cosine"
    config.evaluation.every = 300
    config.evaluation.batch = 16
    config.evaluation.window = 50
    config.evaluation.warmup = 1000
    return config
