"""Change points of a synthetic signal: three oscillators take turns, with noise.

No paper's experiment: a small one whose truth is known, and a start for signals of your own.
Two columns, 400 steps a sequence; an HM-LSTM of 3 x 64 units and a mixture of 10 Gaussians.
133,184 parameters and 1,920 of layer normalisation. Detectors are taught, without a label, by the
model's own surprise (`tasks.objectives`): segments of about 40 steps, taught two steps late, when
what surprised has been read. A change in forty steps is never likely at any one of them, so that a
step with a boundary weighs as five without. `hmrnn boundaries` scores against the true change
points, exactly and within `--tolerance` steps: in noise a change shows only some steps after it.
Detectors' rate and scale are as in `hm_lstm_iam_ondb`, not the paper's.

    python train.py --config=configs/hm_lstm_oscillators.py --workdir=runs/oscillators
    python eval.py boundaries --workdir=runs/oscillators --tolerance=5

Your own sequences, a folder of `.csv` or `.npz` files, go the same way; say how long segments are
to be:

    python train.py --config=configs/hm_lstm_oscillators.py --config.data.name=signals \\
        --config.data.path=my/folder --config.boundaries.lengths=100 --workdir=runs/mine
"""

from hmrnn_jax import defaults


def get_config():
    config = defaults.strokes()
    config.data.name = "oscillators"
    config.model.sizes = (64, 64, 64)
    config.model.output = 64
    config.model.components = 10
    defaults.teach(config, "surprise", (40.0,), delay=2, positive_weight=5.0)
    config.slope.increment = 0.1
    config.batch = 16
    config.epochs = 30
    config.learning_rate = 2e-3
    return config
