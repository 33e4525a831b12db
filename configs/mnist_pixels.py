"""MNIST pixel by pixel, the field's usual test of long memory (Le, Jaitly, Hinton 2015).

The 784 pixels of an image are read one by one in raster order, and the final state of all
layers names the digit. None of the three papers here has it, so no figure is expected. The
models, which the argument chooses, are equal in parameters within 1 % of the LSTM's:

    lstm         191            149,372 parameters
    lstm_stack   110, 110       148,730
    nested_lstm  111, depth 2   150,304
    hm_lstm      72, 72, 72     148,837
    on_lstm      180            150,040

55,000 images to train, the last 5,000 of the training set to validate, 10,000 to test; error in
% and nats. 20 epochs with Adam, about 20 minutes each on two CPU cores: better on a GPU.
Validation's nats choose the epoch. Reads `$HMRNN_DATA/mnist` or fetches the four files. The
HM-LSTM's detectors have the rate and scale of `hm_lstm_iam_ondb`.

    python train.py --config=configs/mnist_pixels.py:hm_lstm --workdir=runs/pixels-hm
    python train.py --config=configs/mnist_pixels.py:lstm --workdir=runs/pixels-lstm
"""

from hmrnn_jax import defaults
from hmrnn_jax.errors import require

SIZES = {
    "lstm": (191,),
    "lstm_stack": (110, 110),
    "nested_lstm": (111,),
    "hm_lstm": (72, 72, 72),
    "on_lstm": (180,),
}


def get_config(model="hm_lstm"):
    require("The model", model, SIZES)
    config = defaults.images()
    config.model.patch = 1
    config.model.cell = model.removesuffix("_stack")
    config.model.sizes = SIZES[model]
    config.model.on_lstm.chunk = 4
    return config
