"""Every field of a configuration, with its default; the files in `configs/` change some.

What the fields mean and may be stands in `settings`, and `hmrnn train --help` prints it.
A locked `ConfigDict`: a misspelt field is an error.
"""

from ml_collections import ConfigDict

from hmrnn_jax import cells
from hmrnn_jax.errors import require
from hmrnn_jax.models.dropout import Dropout
from hmrnn_jax.tasks import language, objectives


def text():
    """Language modelling on a text, with the HM-LSTM paper's common settings (section 4)."""
    config = ConfigDict()
    config.task = "language"
    config.seed = 0

    config.data = data = ConfigDict()
    data.name = "python_reference"
    data.path = ""
    data.unit = "characters"

    config.model = model = _network()
    model.embedding = 128
    model.on_lstm.chunk = 8
    model.embedding_scale = 1.0
    model.embedding_uniform = False
    model.sizes = (512, 512, 512)
    model.head = "gated"
    model.output = 512
    model.dropout = ConfigDict(Dropout()._asdict())
    config.penalties = ConfigDict(language.Penalties()._asdict())
    config.boundaries = ConfigDict(objectives.Boundaries()._asdict())

    config.slope = slope = ConfigDict()
    slope.start = 1.0
    slope.increment = 0.0
    slope.maximum = 5.0

    _training(config)
    config.batch = 64
    config.window = 100
    config.window_random = False
    config.window_quantum = 5
    config.learning_rate = 2e-3
    # The paper clips at 1. Gradients' norm is about 0.2, but now and then one row's explodes
    # along its boundaries; at 1 such updates threw a run of Penn Treebank off after 3.7 epochs.
    config.clip = 0.25

    config.evaluation = evaluation = ConfigDict()
    evaluation.every = 0
    evaluation.batch = 64
    evaluation.window = 100
    # Many: the last layer never FLUSHes, and its c grows for thousands of symbols before it
    # settles.
    evaluation.warmup = 2000

    config.finish = "metrics"
    return config.lock()


def as_published(config):
    """Sets what the HM-LSTM's paper says of training (section 4) where the defaults do otherwise.

    Gradients are clipped at norm 1, no exception is made for detectors, and the rate is divided
    by 50 when validation, at the end of each epoch, stops decreasing: at the first that does.
    """
    config.clip = config.detector_rate = config.model.hm_lstm.detector_scale = 1.0
    config.patience = 1
    config.evaluation.every = 0


def teach(config, teacher, lengths, **more):
    """Has the detectors of an HM-LSTM taught without a label, see `tasks.objectives`.

    Boundaries are nested, detectors read their own layer's new h, and their derivative is that of
    the logistic function; each layer has a rate to keep.

    Args:
      teacher, lengths, more: fields of `config.boundaries`.
    """
    config.model.hm_lstm.update(surrogate="logistic", nested=True, detector_reads_h=True)
    config.boundaries.update(teacher=teacher, lengths=lengths, rate="ratio", **more)


def words(variant="official"):
    """Word language modelling with the ON-LSTM's recipe (Shen et al. 2019, section 5.1).

    It is AWD-LSTM's (Merity, Keskar, Socher 2018) but for two details of method, which `variant`
    settles: `official`, as in the ON-LSTM authors' code, or `awd`, as in AWD-LSTM's; and for
    its numbers, which are those of the ON-LSTM authors' command whatever the variant.
    AWD-LSTM's own are dropout .4, .25 and .4 (input, hidden, output), .5 of the weights, and
    500 epochs with a separate fine-tuning.
    """
    require("The variant", variant, ("official", "awd"))
    inverted = variant == "awd"
    config = text().unlock()
    config.seed = 141
    config.model.embedding = 400
    config.model.embedding_scale, config.model.embedding_uniform = 0.1, True
    config.model.head = "tied"
    config.model.dropout.update(
        embedding=0.1, input=0.5, hidden=0.3, output=0.45, weight=0.45, weight_inverted=inverted
    )
    config.model.on_lstm.chunk = 10
    config.model.lstm.update(initialisation="uniform", recurrent_bias=True, layer_norm="none")
    config.penalties.update(activation=2.0, temporal=1.0, after_dropout=inverted)
    config.batch, config.window, config.window_random, config.window_quantum = 20, 70, True, 1
    config.epochs, config.finetune = 1000, 500
    config.optimizer, config.learning_rate, config.clip = "sgd", 30.0, 0.25
    config.weight_decay = 1.2e-6
    config.schedule = "nonmonotone"
    config.evaluation.batch, config.evaluation.window, config.evaluation.warmup = 20, 70, 200
    config.report = 50
    return config.lock()


def logic():
    """Logical inference (Bowman et al. 2015) with the ON-LSTM paper's settings (section 5.4).

    What the paper leaves out is as in the authors' program, the LSTM's initial values included.
    """
    config = ConfigDict()
    config.task = "logic"
    config.seed = 1111
    config.data = ConfigDict({"path": "", "longest": 6})
    config.model = model = _network()
    model.cell = "on_lstm"
    model.embedding = 128
    model.sizes = (400,)
    model.hidden = 400
    model.dropout = model.input_dropout = 0.2
    model.lstm.update(initialisation="linear", recurrent_bias=True, layer_norm="none")
    config.slope = ConfigDict({"start": 1.0, "increment": 0.0, "maximum": 5.0})
    _training(config)
    config.batch = 128
    config.epochs = 50
    config.learning_rate = 1e-3
    config.adam_epsilon = 1e-9
    config.weight_decay = 1.2e-6
    config.drop_factor = 2.0
    config.patience = 3  # the third epoch without a new best, as PyTorch counts patience 2
    config.drops = 1000
    config.evaluation = ConfigDict({"every": 0, "batch": 256})
    config.report = 100
    return config.lock()


def strokes():
    """Handwriting, with the HM-LSTM paper's settings (section 4.2), or other real values."""
    config = ConfigDict()
    config.task = "strokes"
    config.seed = 0
    config.data = data = ConfigDict()
    data.name = "iam_ondb"
    data.path = ""
    data.split = "official"
    data.seed = 0
    data.event = ""
    data.columns = ()
    data.header = "guess"
    data.clip = 0.0
    config.model = model = _network()
    model.sizes = (400, 400, 400)
    model.head = "gated"
    model.output = 400
    model.components = 20
    config.boundaries = ConfigDict(objectives.Boundaries()._asdict())
    config.slope = ConfigDict({"start": 1.0, "increment": 0.0, "maximum": 3.0})
    _training(config)
    config.batch = 32
    # The paper is silent; over some hundred steps an HM-LSTM's straight-through gradient
    # overflows.
    config.window = 100
    config.buckets = 16
    config.longest = 2000
    config.learning_rate = 3e-4
    config.evaluation = ConfigDict({"every": 0, "batch": 32, "window": 200})
    return config.lock()


def images():
    """MNIST, read patch by patch; the cells differ in nothing but themselves.

    Whatever a cell's own default, here all start from orthogonal recurrent matrices and a
    forget bias of 1, without layer normalisation, which only two of them have.
    """
    config = ConfigDict()
    config.task = "images"
    config.seed = 0
    config.data = ConfigDict({"path": ""})
    config.model = model = _network()
    model.patch = 7
    model.sizes = (128,)
    model.dropout = 0.0
    for name in cells.MODULES:
        model[name].forget_bias = 1.0
    model.hm_lstm.layer_norm = model.lstm.layer_norm = "none"
    model.on_lstm.initialisation = "orthogonal"
    config.slope = ConfigDict({"start": 1.0, "increment": 0.0, "maximum": 5.0})
    _training(config)
    config.batch = 100
    config.epochs = 20
    config.learning_rate = 1e-3
    config.schedule = "cosine"  # the same for every cell, whenever its validation stalls
    config.evaluation = ConfigDict({"every": 0, "batch": 500})
    config.report = 50
    return config.lock()


def _network():
    """The cell's and the recurrence's fields, which every model has."""
    model = ConfigDict()
    model.cell = "hm_lstm"
    model.gradient = "deferred"
    model.precision = "float32"
    model.backend = "auto"
    model.skip_copies = True
    model.remat = 0
    model.unroll = 1
    # Choices of one cell: where its paper is silent, or an ablation needs them.
    for name, module in cells.MODULES.items():
        model[name] = ConfigDict(cells.choices(module))
    model.lstm.layer_norm = "sum"  # the HM-LSTM's authors' baseline
    return model


def _training(config):
    """Optimiser, schedule and rhythm, which every task has."""
    config.epochs = 100
    config.steps = 0
    config.optimizer = "adam"
    config.adam_epsilon = 1e-8
    config.weight_decay = 0.0
    config.clip = 1.0
    config.detector_rate = 0.1
    config.schedule = "plateau"
    config.drop_factor = 50.0  # as the HM-LSTM's paper
    config.patience = 2
    config.drops = 1
    config.drop_by = 0.0
    config.nonmono = 5
    config.finetune = 0
    config.report = 20
    config.save = 0
