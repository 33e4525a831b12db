"""HM-LSTM on synthetic handwriting, to try what needs the licensed IAM-OnDB otherwise.

Nine letters in words, drawn with slant, size and speed that vary; no paper's experiment.
Three layers of 128, a mixture of 10 Gaussians; 520,642 parameters and 3,840 of
layer normalisation. Detectors' rate and scale are as in `hm_lstm_iam_ondb`.

    python train.py --config=configs/hm_lstm_scribbles.py --workdir=runs/scribbles
    python eval.py sample --workdir=runs/scribbles --count=8 --length=250
"""

from hmrnn_jax import defaults


def get_config():
    config = defaults.strokes()
    config.data.name = "scribbles"
    config.model.sizes = (128, 128, 128)
    config.model.output = 128
    config.model.components = 10
    config.slope.increment = 0.1
    config.batch, config.window = 16, 50
    config.epochs = 20
    config.learning_rate = 2e-3
    return config
