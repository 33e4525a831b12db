"""What every field of a configuration means and may be: one table for checks and for help.

`defaults` has their values. `check` comes before anything is compiled or written, and
`hmrnn train --help` prints the table. A run cannot go on when a field that is `kept` changes: those
decide the parameters' shapes, what a network computes of them, the carried states' shapes, the
optimiser's parts, or what the number of an update means in the data.
"""

from ml_collections.config_dict import RequiredValueError

from hmrnn_jax import cells, datasets, ops
from hmrnn_jax.errors import UserError
from hmrnn_jax.models.language import HEADS
from hmrnn_jax.recurrence.execution import BACKENDS, GRADIENTS
from hmrnn_jax.tasks import MODULES, objectives, sequences
from hmrnn_jax.training import optim
from hmrnn_jax.training.fields import (
    WIDEST,
    Choice,
    Names,
    Number,
    Numbers,
    Switch,
    Text,
    Whole,
    Wholes,
    kept,
    nearest,
)

ROWS, STEPS = 2**17, 10**5  # bounds of a batch and of a window, for the memory that they take
SEEDS = 2**32 - 1  # the largest of a seed


def _width(meaning):
    return Whole(meaning, 1, WIDEST)


def _probability(meaning):
    return Number(meaning, least=0, below=1)


def _seed(meaning):
    return Whole(meaning, 0, SEEDS)


# The choices of the cells, see the `Config` of each: those of the same name and meaning everywhere,
# and those of one cell.
SHARED = {
    "layer_norm": kept(
        Choice(
            "Where layer normalisation goes: on the sum, on each term, or nowhere.",
            ("none", "sum", "ba"),
        )
    ),
    "forget_bias": Number("Initial bias of the forget gate; of a GRU, of the update gate."),
    "initialisation": Choice(
        "Initial matrices: orthogonal or uniform, see cells.base.init_affine.",
        ("orthogonal", "uniform"),
    ),
}
OF_CELL = {
    "hm_lstm.boundary": kept(
        Choice("Boundaries: binary (step), sampled, or continuous (soft).", ops.BOUNDARY_MODES)
    ),
    "hm_lstm.gradient": Choice(
        "Whether the choice of operation passes its gradient on to the detectors.",
        ("blend", "select"),
    ),
    "hm_lstm.z_init": kept(Number("Initial boundary z, before the first step.", least=0, most=1)),
    "hm_lstm.detector_bias": Number("Initial bias of the detectors."),
    "hm_lstm.detector_scale": Number("Scale of the detectors' initial weights.", least=0),
    "hm_lstm.top_down": kept(Switch("Top-down connections; False ablates them.")),
    "hm_lstm.flush": kept(Switch("The FLUSH operation; False ablates it.")),
    "hm_lstm.surrogate": Choice(
        "Straight-through derivative: the paper's, or one without a dead zone.", ops.SURROGATES
    ),
    "hm_lstm.nested": kept(
        Switch("Nested boundaries: a layer fires only where the layer below does.")
    ),
    "hm_lstm.detector_reads_h": kept(Switch("Detectors also read their own layer's new state h.")),
    "hm_lstm.reset_recurrent": kept(Switch("FLUSH also drops the recurrent term.")),
    "lstm.initialisation": Choice(
        "Initial matrices: orthogonal, uniform as PyTorch's LSTM, or linear as its linear maps.",
        ("orthogonal", "uniform", "linear"),
    ),
    "lstm.recurrent_bias": kept(Switch("A second bias vector, as in PyTorch's LSTM.")),
    "nested_lstm.depth": kept(Whole("Levels of memory; 1 is an LSTM, of that proposal.", 1, 32)),
    "nested_lstm.proposal": kept(
        Choice("Activation of the outermost cell proposal.", ("identity", "tanh"))
    ),
    "on_lstm.chunk": kept(
        Whole("Units that share a master gate (chunk size); it must divide the sizes.", 1, WIDEST)
    ),
}


def _of_cells():
    """`{"model.CELL.CHOICE": field}` of every cell."""
    return {
        f"model.{cell}.{name}": OF_CELL.get(f"{cell}.{name}") or SHARED[name]
        for cell, module in cells.MODULES.items()
        for name in cells.choices(module)
    }


# The fields that every task has.
COMMON = {
    "task": kept(Choice("The task, see hmrnn_jax.tasks.", tuple(MODULES))),
    "seed": kept(_seed("Random seed: initial parameters, data order, dropout, samples.")),
    "data.path": kept(Text("Your own file or folder; where logic, digits or handwriting are.")),
    # The network.
    "model.cell": kept(
        Choice("The cell; its options are in the section of its name.", tuple(cells.MODULES))
    ),
    "model.sizes": kept(Wholes("Units of each layer, the lowest first.", 1, WIDEST)),
    "model.gradient": Choice("How gradients are computed; the numbers are the same.", GRADIENTS),
    "model.precision": Choice(
        "Precision of products: high is bfloat16_3x or TF32; bfloat16 has sums in float32; auto is"
        " that where it is native, else float32, settled as a run begins.",
        ("auto", *ops.PRECISIONS),
    ),
    "model.backend": Choice(
        "Back end of the recurrence: a scan, kernels (pallas), or the faster one (auto).",
        BACKENDS,
    ),
    "model.skip_copies": Switch(
        "On CPUs, and in a TPU's kernels, leave out what layers of the HM-LSTM COPY once they move"
        " seldom enough to gain."
    ),
    "model.remat": Whole("Steps of a rematerialised chunk; 0 keeps everything.", 0, STEPS),
    "model.unroll": Whole("Steps for each iteration of the compiled loop.", 1, 256),
    **_of_cells(),
    # Annealing of the detectors' slope.
    "slope.start": Number("Slope of the detectors in the first epoch.", above=0),
    "slope.increment": Number("Added after each epoch.", least=0),
    "slope.maximum": Number("The slope's end; start or more.", above=0),
    # Training.
    "batch": kept(Whole("Batch size, divided among the devices.", 1, ROWS)),
    "epochs": Whole("Most epochs; validation may end training earlier.", 1, 100_000),
    "steps": Whole("Number of updates, if not 0; it overrides epochs."),
    "optimizer": kept(Choice("The optimiser, see training.optim.", optim.OPTIMIZERS)),
    "learning_rate": Number("Initial learning rate.", above=0),
    "adam_epsilon": Number("Epsilon of Adam.", above=0),
    "weight_decay": kept(
        Number("L2 penalty: this times the parameters is added to the clipped gradient.", least=0)
    ),
    "clip": Number(
        "Gradient clipping: the largest global norm; inf for none.", above=0, infinite=True
    ),
    "detector_rate": kept(
        Number("Learning rate of the detectors relative to the other parameters'.", least=0)
    ),
    "schedule": kept(
        Choice(
            "Of the rate: drops when validation stalls, cosine over the run's steps, or constant"
            " with averaged parameters once it stalls (NT-ASGD).",
            optim.SCHEDULES,
        )
    ),
    "drop_factor": Number("plateau: divisor of the learning rate at a drop.", least=1),
    "patience": Whole("plateau: validations without a new best before a drop.", 1),
    "drops": Whole("plateau: number of drops; a further one ends training."),
    "drop_by": Number(
        "plateau: share of the run's updates after which the first drop comes at the latest, at"
        " the next validation; 0: validation alone decides.",
        least=0,
        below=1,
    ),
    "nonmono": kept(
        Whole("nonmonotone: the latest losses, which the switch looks past.", 1, 10_000)
    ),
    "finetune": Whole("nonmonotone: epoch after which the average starts afresh; 0 never."),
    "report": Whole("Updates between progress lines.", 1),
    "save": Whole("Updates between checkpoints; 0: at validations only."),
    "evaluation.every": Whole("Updates between validations; 0: at the end of each epoch."),
    "evaluation.batch": Whole("Batch size of evaluation, divided among the devices.", 1, ROWS),
}

# What is asked of the detectors, of tasks without labels.
BOUNDARIES = {
    "boundaries.lengths": Numbers(
        "Wanted mean length of each layer's segments, in segments of the layer below.", above=1
    ),
    "boundaries.teacher": Choice(
        "What teaches the detectors, see tasks.objectives.", objectives.TEACHERS
    ),
    "boundaries.teacher_weight": Number("Weight of the teacher's cross-entropy.", least=0),
    "boundaries.rate": Choice("Loss of the firing rate, see tasks.objectives.", objectives.RATES),
    "boundaries.rate_weight": Number("Weight of that loss.", least=0),
    "boundaries.reaches_below": Switch(
        "Gradients of these losses reach the layers below the detectors."
    ),
    "boundaries.delay": Whole("Steps after its segment at which a boundary is taught.", high=50),
    "boundaries.segments": Text("File of the teacher segments, of the training text."),
    "boundaries.start": Whole("Updates before these losses set in."),
    "boundaries.ramp": Whole("Updates over which their weights then grow."),
    "boundaries.positive_weight": Number(
        "Weight of steps that are taught a boundary over others'; above 1 where they are rare.",
        above=0,
    ),
}

LANGUAGE = BOUNDARIES | {
    "data.name": kept(Choice("The corpus; text is your own.", datasets.NAMES)),
    "data.unit": kept(Choice("Symbols of your own text.", ("characters", "bytes", "words"))),
    "model.embedding": kept(_width("Width of the symbol embedding.")),
    "model.embedding_scale": Number("Scale of its initial values, see LanguageModel.", above=0),
    "model.embedding_uniform": Switch(
        "Uniform initial values in +-embedding_scale, rather than normal ones."
    ),
    "model.head": kept(Choice("Input of the softmax, see LanguageModel.", HEADS)),
    "model.output": kept(_width("Width of the gated output module.")),
    "model.dropout.embedding": _probability("Dropout probability of whole words of the embedding."),
    "model.dropout.input": _probability("Dropout probability of the input units."),
    "model.dropout.hidden": _probability(
        "Dropout probability of the units between two layers of a stack."
    ),
    "model.dropout.output": _probability("Dropout probability of the units before the softmax."),
    # Where it is not inverted, weights are scaled as a model reads: it is part of what it computes.
    "model.dropout.weight": kept(_probability("DropConnect probability of the recurrent weights.")),
    "model.dropout.weight_inverted": kept(
        Switch("Inverted DropConnect: kept weights are scaled in training, as in AWD-LSTM's code.")
    ),
    "penalties.activation": Number(
        "Weight of activation regularisation (AR) of the softmax's input, see Penalties.", least=0
    ),
    "penalties.temporal": Number("Weight of temporal activation regularisation (TAR).", least=0),
    "penalties.after_dropout": Switch("AR is applied after dropout."),
    "window": kept(
        Whole("Steps of truncated back-propagation; the state is carried over.", 1, STEPS)
    ),
    "window_random": kept(Switch("Windows of random length, see batches.text.VariableStream.")),
    "window_quantum": kept(Whole("Random lengths are multiples of this; 1: any length.", 1, STEPS)),
    "evaluation.window": Whole("Steps of a compiled evaluation window.", 1, STEPS),
    "evaluation.warmup": Whole("Symbols that each row reads, unscored, before its part."),
    "finish": Choice(
        "view: finish with an n-gram baseline and the boundaries found.", ("metrics", "view")
    ),
}

LOGIC = {
    "data.longest": kept(Whole("The largest number of operators in training.", 0, 12)),
    "model.embedding": kept(_width("Width of the symbol embedding.")),
    "model.hidden": kept(_width("Width of the classifier's layer.")),
    "model.dropout": _probability("Dropout probability, before and after that layer."),
    "model.input_dropout": _probability("Dropout probability of the units of embedded symbols."),
}

STROKES = BOUNDARIES | {
    "data.name": kept(Choice("The sequences; signals are your own.", sequences.NAMES)),
    "data.split": kept(Choice("Of iam_ondb; hm_lstm is the paper's own.", ("official", "hm_lstm"))),
    "data.seed": kept(_seed("Seed of the paper's split, and of synthetic data.")),
    "data.event": kept(Text("Of signals: the 0/1 column that is an event.")),
    "data.columns": kept(Names("Of signals: the columns that are read; all if there are none.")),
    "data.header": kept(
        Choice(
            "Of signals: whether the first line of a .csv file names the columns.",
            ("yes", "no", "guess"),
        )
    ),
    "data.clip": kept(Number("Deviations beyond which values are clipped; 0 clips none.", least=0)),
    "model.head": kept(
        Choice("Input of the mixture: all layers (gated), or the last (plain).", ("gated", "plain"))
    ),
    "model.output": kept(_width("Width of the gated output module.")),
    "model.components": kept(Whole("Gaussians of the mixture.", 1, 10_000)),
    "window": kept(Whole("Steps of truncated back-propagation; 0 for whole sequences.", 0, STEPS)),
    "buckets": kept(Whole("With window 0: lengths that batches are padded to, at most.", 1, 1000)),
    "longest": kept(Whole("Longer sequences are cut in pieces for training; 0 cuts none.")),
    "evaluation.window": Whole("Steps of a compiled evaluation window.", 1, STEPS),
}

IMAGES = {
    "model.patch": kept(Whole("Side of the square patches, a divisor of 28.", 1, 28)),
    "model.dropout": _probability("Dropout probability of the final state."),
}

OF_TASK = {"language": LANGUAGE, "logic": LOGIC, "strokes": STROKES, "images": IMAGES}


def fields(config):
    """`{name: Field}` of a configuration's task, names with dots between sections.

    Raises:
      UserError: there is no such task.
    """
    COMMON["task"].check("task", config.get("task"))
    return COMMON | OF_TASK[config.task]


def check(config):
    """Raises `UserError` unless a configuration has the fields of its task, all in their range.

    What depends on the data or the devices is checked when the task is made.
    """
    try:
        known, given = fields(config), flat(config.to_dict())
    except RequiredValueError as error:
        raise UserError("A field of the configuration has no value: give it one.") from error
    for name in given.keys() - known.keys():
        near = nearest(name, known)
        raise UserError(
            f"The configuration has a field {name}, which the task {config.task} does not"
            f" know{f'; is it {near}?' if near else '.'}"
        )
    for name, field in known.items():
        if name not in given:
            raise UserError(f"The configuration lacks {name}; begin with one of defaults.")
        field.check(name, given[name])
    if config.get("window_random") and config.window_quantum > config.window:
        raise UserError(
            f"window_quantum is {config.window_quantum}, more than window, {config.window}."
        )
    asked = config.get("boundaries")
    window = config.get("window")  # 0 for whole sequences
    if asked and window and asked.teacher != "none" and asked.delay >= window:
        raise UserError(
            f"boundaries.delay is {asked.delay}, and window {config.window}: a boundary is taught"
            " in the window that it lies in; choose a smaller delay or a longer window."
        )
    if config.slope.start > config.slope.maximum:
        raise UserError(
            f"slope.start is {config.slope.start:g}, above slope.maximum, {config.slope.maximum:g}."
        )


def flat(tree, prefix=""):
    """`{"a.b": value}` of nested dictionaries."""
    found = {}
    for key, value in tree.items():
        inside = isinstance(value, dict)
        found |= flat(value, f"{prefix}{key}.") if inside else {f"{prefix}{key}": value}
    return found
