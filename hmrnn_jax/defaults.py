"""Every field of a configuration, with its default; the files in `configs/` change some.

A locked `ConfigDict`: a misspelt field on the command line is an error.
"""

from ml_collections import ConfigDict


def text():
    """Language modelling on a text, with the HM-LSTM paper's common settings (section 4)."""
    config = ConfigDict()
    config.seed = 0

    config.data = data = ConfigDict()
    data.name = "python_reference"  # one of hmrnn_jax.datasets.NAMES; `text` for your own
    data.path = ""  # your text: a UTF-8 file, or a folder with train, valid and test
    data.unit = "characters"  # of your text: characters, bytes or words

    config.model = model = ConfigDict()
    model.cell = "hm_lstm"  # hm_lstm or lstm
    model.embedding = 128
    model.embedding_scale = 1.0  # the paper is silent, see LanguageModel
    model.sizes = (512, 512, 512)
    model.output = 512  # width of the gated output module
    model.layer_norm = "sum"  # none, sum or ba: the paper does not place it
    model.gradient = "deferred"  # deferred or autodiff: the same numbers, see recurrence
    model.precision = "float32"  # or bfloat16: operands of products, f32 accumulation
    model.remat = 0  # steps of a rematerialised chunk; 0 keeps everything
    model.unroll = 1  # time steps for each iteration of the compiled loop

    # The HM-LSTM's own choices, where the paper is silent or an ablation needs them.
    model.hm_lstm = cell = ConfigDict()
    cell.boundary = "step"  # step, sample or soft
    cell.gradient = "blend"  # or select: no gradient through the choice of operation
    cell.z_init = 0.0
    cell.forget_bias = 0.0
    cell.detector_bias = 0.0
    cell.detector_scale = 1.0
    cell.top_down = True
    cell.flush = True

    model.lstm = ConfigDict({"forget_bias": 0.0})

    config.slope = slope = ConfigDict()  # annealing: min(maximum, start + increment * epoch)
    slope.start = 1.0
    slope.increment = 0.0
    slope.maximum = 5.0

    config.batch = 64
    config.window = 100  # steps of truncated back-propagation; the state is carried on
    config.epochs = 100  # at most; validation decides
    config.steps = 0  # ends the run after that many updates, if not 0

    config.learning_rate = 2e-3
    config.schedule = "plateau"  # plateau, or cosine over the run's steps
    config.drop_factor = 50.0  # plateau: the paper divides by 50
    config.patience = 2  # plateau: evaluations without a new best before a drop
    config.drops = 1  # plateau: drops; a further one ends the run
    config.clip = 1.0  # global norm of the gradient

    config.evaluation = evaluation = ConfigDict()
    evaluation.every = 0  # updates between validations; 0: at the end of each epoch
    evaluation.batch = 64  # rows the split is divided in; 1 carries the state all through
    evaluation.window = 100
    # Symbols that each row reads, unscored, before its part. Many: the last layer never
    # FLUSHes, and its c grows for thousands of symbols before it settles.
    evaluation.warmup = 2000

    config.report = 20  # updates between lines on the terminal
    config.save = 0  # updates between checkpoints; 0: at validations only
    config.finish = "metrics"  # or view: at the end also the baseline and the boundaries
    return config.lock()
