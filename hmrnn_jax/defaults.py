"""Every field of a configuration, with its default; the files in `configs/` change some.

A locked `ConfigDict`: a misspelt field on the command line is an error.
"""

import dataclasses

from ml_collections import ConfigDict

from hmrnn_jax import cells, language, objectives, regularisation
from hmrnn_jax.errors import require


def text():
    """Language modelling on a text, with the HM-LSTM paper's common settings (section 4)."""
    config = ConfigDict()
    config.task = "language"
    config.seed = 0

    config.data = data = ConfigDict()
    data.name = "python_reference"  # one of hmrnn_jax.datasets.NAMES; `text` for your own
    data.path = ""  # your text: a UTF-8 file, or a folder with train, valid and test
    data.unit = "characters"  # of your text: characters, bytes or words

    config.model = model = _network()
    model.embedding = 128
    model.on_lstm.chunk = 8  # divides the sizes used for characters
    model.embedding_scale = 1.0  # the paper is silent, see LanguageModel
    model.embedding_uniform = False
    model.sizes = (512, 512, 512)
    model.head = "gated"  # gated, plain or tied, see LanguageModel
    model.output = 512  # width of the gated output module
    model.dropout = ConfigDict(regularisation.Dropout()._asdict())
    config.penalties = ConfigDict(language.Penalties()._asdict())
    config.boundaries = ConfigDict(objectives.Boundaries()._asdict())

    config.slope = slope = ConfigDict()  # annealing: min(maximum, start + increment * epoch)
    slope.start = 1.0
    slope.increment = 0.0
    slope.maximum = 5.0

    _training(config)
    config.batch = 64
    config.window = 100  # steps of truncated back-propagation; the state is carried on
    config.window_random = False  # windows of random length, see data.VariableStream
    config.window_quantum = 5
    config.learning_rate = 2e-3
    # The paper clips at 1. Gradients' norm is about 0.2, but now and then one row's explodes
    # along its boundaries; at 1 such updates threw a run of Penn Treebank off after 3.7 epochs.
    config.clip = 0.25

    config.evaluation = evaluation = ConfigDict()
    evaluation.every = 0  # updates between validations; 0: at the end of each epoch
    evaluation.batch = 64  # rows the split is divided in; 1 carries the state all through
    evaluation.window = 100
    # Symbols that each row reads, unscored, before its part. Many: the last layer never
    # FLUSHes, and its c grows for thousands of symbols before it settles.
    evaluation.warmup = 2000

    config.finish = "metrics"  # or view: at the end also the baseline and the boundaries
    return config.lock()


def words(variant="official"):
    """Word language modelling with the ON-LSTM's recipe (Shen et al. 2019, section 5.1).

    It is AWD-LSTM's (Merity, Keskar, Socher 2018) but for two details, which `variant`
    settles: `official`, as in the ON-LSTM authors' code, or `awd`, as in AWD-LSTM's. The
    numbers are those of the authors' command, not of their program's defaults.
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
    config.batch, config.window, config.window_random = 20, 70, True
    config.epochs, config.finetune = 1000, 500
    config.optimizer, config.learning_rate, config.clip = "sgd", 30.0, 0.25
    config.weight_decay = 1.2e-6
    config.schedule = "nonmonotone"
    config.evaluation.batch, config.evaluation.window, config.evaluation.warmup = 20, 70, 200
    config.report = 50
    return config.lock()


def logic():
    """Logical inference (Bowman et al. 2015) with the ON-LSTM paper's settings (section 5.4)."""
    config = ConfigDict()
    config.task = "logic"
    config.seed = 1111
    # path: folder of the formulas, $HMRNN_DATA/propositional-logic if empty; longest: the
    # largest number of operators in training.
    config.data = ConfigDict({"path": "", "longest": 6})
    config.model = model = _network()
    model.cell = "on_lstm"
    model.embedding = 128
    model.sizes = (400,)
    model.hidden = 400  # width of the classifier's layer
    model.dropout = 0.2
    model.lstm.update(initialisation="uniform", recurrent_bias=True, layer_norm="none")
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
    data.name = "iam_ondb"  # or signals (your own, at path), oscillators, scribbles
    data.path = ""
    data.split = "official"  # of iam_ondb: official, or hm_lstm for the paper's own
    data.seed = 0  # of the paper's split, and of what is made up
    data.event = ""  # of signals: the 0/1 column that is an event
    data.columns = ()  # of signals: those to be read; all if empty
    data.clip = 0.0  # deviations beyond which values are clipped; 0 clips none
    config.model = model = _network()
    model.sizes = (400, 400, 400)
    model.head = "gated"
    model.output = 400
    model.components = 20  # Gaussians of the mixture
    config.boundaries = ConfigDict(objectives.Boundaries()._asdict())
    config.slope = ConfigDict({"start": 1.0, "increment": 0.0, "maximum": 3.0})
    _training(config)
    config.batch = 32
    # Steps of truncated back-propagation, 0 for whole sequences. The paper is silent; over some
    # hundred steps an HM-LSTM's straight-through gradient overflows.
    config.window = 100
    config.buckets = 16  # with window 0, lengths that batches are padded to
    config.longest = 2000  # longer sequences are cut in pieces for training; 0 cuts none
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
    # path: folder of the four files; see hmrnn_jax.datasets.mnist for where else they are.
    config.data = ConfigDict({"path": ""})
    config.model = model = _network()
    # Side of the squares that an image is read in: 7 (16 steps), 1 (784 steps), or another
    # divisor of 28.
    model.patch = 7
    model.sizes = (128,)
    model.dropout = 0.0  # of the final state
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
    model.cell = "hm_lstm"  # hm_lstm, lstm, nested_lstm or on_lstm: one of the sections below
    model.gradient = "deferred"  # deferred or autodiff: the same numbers, see recurrence
    model.precision = "float32"  # or bfloat16: operands of products, f32 accumulation
    model.backend = "auto"  # auto, scan or pallas: kernels for TPUs and GPUs, see recurrence
    model.skip_copies = False  # weight gradients of the HM-LSTM's active columns alone
    model.remat = 0  # steps of a rematerialised chunk; 0 keeps everything
    model.unroll = 1  # time steps for each iteration of the compiled loop
    # Choices of one cell: where its paper is silent, or an ablation needs them.
    for name, module in cells.MODULES.items():
        fields = dataclasses.fields(module.Config)
        model[name] = ConfigDict(
            {f.name: f.default for f in fields if f.name not in ("input_size", "size", "sizes")}
        )
    model.lstm.layer_norm = "sum"  # the HM-LSTM's authors' baseline
    return model


def _training(config):
    """Optimiser, schedule and rhythm, which every task has."""
    config.epochs = 100  # at most; validation decides
    config.steps = 0  # ends the run after that many updates, if not 0
    config.optimizer = "adam"  # adam or sgd
    config.adam_epsilon = 1e-8
    config.weight_decay = 0.0  # times the parameters, added to the clipped gradient
    config.clip = 1.0  # global norm of the gradient
    config.detector_rate = 0.1  # learning rate of detectors, over that of the rest
    config.schedule = "plateau"  # plateau, cosine over the run's steps, or nonmonotone
    config.drop_factor = 50.0  # plateau: the HM-LSTM's paper divides by 50
    config.patience = 2  # plateau: evaluations without a new best before a drop
    config.drops = 1  # plateau: drops; a further one ends the run
    config.nonmono = 5  # nonmonotone: see optim.NonMonotone
    config.finetune = 0
    config.report = 20  # updates between lines on the terminal
    config.save = 0  # updates between checkpoints; 0: at validations only
