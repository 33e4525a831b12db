"""Quickstart: an HM-LSTM learns the text of CPython's own language reference.

Not a published experiment. Needs no download: every interpreter carries the text
(`pydoc_data.topics`). Three layers of 128 units; two and a half to three and a half minutes on two
CPU cores. Ends with the test score beside that of an interpolated n-gram model of four symbols of
context, and shows the boundaries that the model found. Detectors' rate and scale and `clip` are
not the paper's, but as in `hm_lstm_ptb_char`; and its detectors are taught, without a label, by
the model's own uncertainty (`tasks.objectives`): segments of about 6 symbols, and of about 5 of
those. `--config.boundaries.teacher=none --config.boundaries.rate=none` asks nothing, as the paper.

    python train.py
    python train.py --config.data.name=text --config.data.path=my.txt --workdir=runs/mine
"""

from hmrnn_jax import defaults


def get_config():
    config = defaults.text()
    config.model.sizes = (128, 128, 128)
    config.model.output = 128
    defaults.teach(config, "entropy", (6.0, 5.0))
    config.boundaries.rate_weight = 0.3  # of .03 the second layer's detector hardly lives
    # Its gradient into the layers costs bits, and a space shows without it.
    config.boundaries.reaches_below = False
    config.batch = 16
    config.window = 50
    config.steps = 2600
    config.learning_rate = 5e-3
    config.schedule = "cosine"
    config.evaluation.every = 650
    config.evaluation.batch = 16
    config.evaluation.window = 50
    config.evaluation.warmup = 500
    config.report = 100
    config.finish = "view"
    return config
