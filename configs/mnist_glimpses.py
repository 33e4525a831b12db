"""MNIST by glimpses, as in the Nested LSTM's paper (Moniz, Krueger, ACML 2017).

A glimpse is a patch of 7 x 7 pixels; the 16 of an image, without overlap, are read in raster
order, and the final state of all layers names the digit. The paper's own glimpse scheme, its
sizes and its optimiser are not known to us: no figure of it is claimed or expected here. Its
claim is an ordering, a Nested LSTM before a stack and a single layer of as many parameters, so
the models, which the argument chooses, are equal in parameters within 1 % of the LSTM's:

    lstm         169            149,744 parameters
    lstm_stack   103, 103       150,390
    nested_lstm  103, depth 2   149,360
    hm_lstm      69, 69, 69     150,136
    on_lstm      160            150,154

55,000 images to train, the last 5,000 of the training set to validate, 10,000 to test; error in
% and nats. 20 epochs with Adam, about 20 s each on two CPU cores; validation's nats choose the
epoch. Reads `$HMRNN_DATA/mnist` or fetches the four files. The
HM-LSTM's detectors have the rate and scale of `hm_lstm_iam_ondb`.

    python train.py --config=configs/mnist_glimpses.py:hm_lstm --workdir=runs/glimpses-hm
    python train.py --config=configs/mnist_glimpses.py:lstm --workdir=runs/glimpses-lstm
"""

from hmrnn_jax import defaults
from hmrnn_jax.errors import require

SIZES = {
    "lstm": (169,),
    "lstm_stack": (103, 103),
    "nested_lstm": (103,),
    "hm_lstm": (69, 69, 69),
    "on_lstm": (160,),
}


def get_config(model="hm_lstm"):
    require("The model", model, SIZES)
    config = defaults.images()
    config.model.cell = model.removesuffix("_stack")
    config.model.sizes = SIZES[model]
    config.model.on_lstm.chunk = 5
    return config
