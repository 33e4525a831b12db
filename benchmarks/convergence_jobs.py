"""What the study of convergence trains: groups of models, each to its end by validation."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

from benchmarks import matched, studies
from hmrnn_jax import datasets, defaults, parallel, tasks
from hmrnn_jax.errors import UserError
from hmrnn_jax.training import config_file, settings

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
TEXT = (6.0, 5.0)  # wanted mean lengths of the segments of the taught models
BATCH, WINDOW = 32, 100  # of the models of one size
RATIOS = {"even": (1, 1, 1), "wide": (1, 2, 4), "wide_dense": (1, 2, 4)}
TRIAL_SEED = 0
ENDED = ("validation", "epochs")  # what ends a training that neither diverges nor is cut off
TRIAL = "rates"  # folder, within a job's, of the trainings that choose its rate


@dataclasses.dataclass(frozen=True)
class Group:
    """Trainings whose figures stand beside each other.

    Attributes:
      title: what it asks. unit: of its score, a metric of validation and test. higher: whether more
        of it is better. epochs: at most. rates: whether the learning rate is chosen for each.
      drops: whether the rate is lowered; if not, what lower rates are logged are of short windows.
      models: `{name: its words}`.
    """

    title: str
    unit: str
    epochs: int
    models: dict
    higher: bool = False
    rates: bool = False
    drops: bool = True


EQUAL = {
    "lstm": "LSTM",
    "stack2": "LSTM, 2 layers",
    "nested2": "Nested LSTM, depth 2",
    "on_lstm": "ON-LSTM, 2 layers",
    "hm_paper": "HM-LSTM as in the paper",
    "hm_taught": "HM-LSTM, taught",
}
GROUPS = {
    "equal_parameters": Group(
        "Penn Treebank characters at one number of parameters", "bpc", 20, EQUAL, rates=True
    ),
    "equal_multiplications": Group(
        "Penn Treebank characters at the multiplications of the one LSTM", "bpc", 20,
        {
            "even": "HM-LSTM, taught, layers 1 : 1 : 1, COPY left out",
            "wide": "HM-LSTM, taught, layers 1 : 2 : 4, COPY left out",
            "wide_dense": "HM-LSTM, taught, layers 1 : 2 : 4, dense",
        },
        rates=True,
    ),
    "logic": Group(
        "Logical inference", "accuracy", 50, {"on_lstm": "ON-LSTM", "lstm": "LSTM"}, higher=True
    ),
    "ptb_512": Group(
        "Penn Treebank characters, 3 x 512, layer normalisation", "bpc", 10,
        {k: EQUAL[k] for k in ("hm_taught", "hm_paper", "lstm")},
    ),
    "on_lstm_words": Group(
        "Penn Treebank words, the ON-LSTM's recipe", "perplexity", 10,
        {"on_lstm": "ON-LSTM", "lstm": "LSTM by the same recipe"}, drops=False,
    ),
    "handwriting": Group(
        "IAM-OnDB handwriting, 3 x 400", "log_likelihood", 10,
        {"hm_taught": "HM-LSTM, taught", "lstm": "LSTM"}, higher=True,
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Job:
    """One training to its end.

    Attributes:
      group: of `GROUPS`. model: of the group's.
      config: the configuration; its `epochs` say how long the training is at most.
      rates: learning rates to choose from; () if its configuration's stands.
      share: how long the trainings that choose are, of a whole one; their seed is `TRIAL_SEED`.
    """

    group: str
    model: str
    config: Any
    rates: tuple = ()
    share: float = 0.1

    @property
    def name(self):
        """Its folder within the study's."""
        return f"{self.group}/{self.model}/{self.config.seed}"

    @property
    def by_epoch(self):
        """Whether it is scored after every epoch, by what needs its checkpoint: its trees."""
        return self.group == "on_lstm_words"

    def trials(self):
        """The trainings that choose its rate: `{rate: Job}`, whole ones of fewer epochs."""
        found = {}
        for rate in self.rates:
            config = self.config.copy_and_resolve_references()
            config.update(learning_rate=rate, seed=TRIAL_SEED)
            config.epochs = max(1, round(self.share * config.epochs))
            config.steps = max(1, round(self.share * config.steps)) if config.steps else 0
            found[rate] = _Trial(self.group, self.model, config)
        return found

    def at(self, rate):
        """The job at that learning rate."""
        config = self.config.copy_and_resolve_references()
        config.learning_rate = rate
        return dataclasses.replace(self, config=config)


class _Trial(Job):
    @property
    def name(self):
        return f"{self.group}/{self.model}/{TRIAL}/{self.config.learning_rate:g}"

    by_epoch = False


def names():
    """All trainings, as `--only` has them: group/model."""
    return [f"{group}/{model}" for group, about in GROUPS.items() for model in about.models]


def plan(flags):
    """The jobs that `flags` ask for, seed after seed, those of a group beside each other.

    Raises:
      UserError: a pattern names nothing, data are missing, or no width has the budget.
    """
    jobs = []
    for name in studies.chosen(names(), flags.only):
        group, model = name.split("/")
        config = MAKE[group](model, flags)
        config.epochs = flags.epochs or GROUPS[group].epochs
        config.model.precision = flags.precision
        config.report = 100
        if flags.updates and group != "on_lstm_words":
            config.steps = flags.updates
            config.evaluation.every = max(1, flags.updates // 20)
        rates = tuple(flags.rates) if GROUPS[group].rates and len(flags.rates) > 1 else ()
        if GROUPS[group].rates and not rates:
            (config.learning_rate,) = flags.rates
        settings.check(config)
        for seed in flags.seeds:
            own = config.copy_and_resolve_references()
            own.seed = seed
            jobs.append(Job(group, model, own, rates, flags.trial))
    order = list(dict.fromkeys(job.group for job in jobs))
    return sorted(jobs, key=lambda j: (order.index(j.group), flags.seeds.index(j.config.seed)))


def ends(config, flags):
    """Asks for one end of all: the rate drops once, by validation that stalls for `patience` half
    epochs, or after the share `drop_by` of the epochs; then validation ends the training."""
    config.update(schedule="plateau", drops=1, patience=flags.patience, drop_by=flags.drop_by)
    return config


def half_epochs(config):
    """Validates and saves twice an epoch."""
    epochs, config.epochs = config.epochs, 1
    config.evaluation.every = max(1, updates(config) // 2)
    config.epochs = epochs
    return config


def teach(config):
    """Has the detectors of an HM-LSTM of text taught without a label, as the quickstart's are."""
    defaults.teach(config, "entropy", TEXT, rate_weight=0.3, reaches_below=False)
    return config


def paper(config):
    """Trains an HM-LSTM as its paper says; how a training ends is left as for all others."""
    defaults.as_published(config)
    config.slope.increment = 0.04
    return config


@functools.cache
def vocabulary(name):
    """Number of symbols of a corpus."""
    return datasets.load(name).vocabulary.size


def of_one_size(model, flags):
    """A model of the budget; all start alike, without layer normalisation, as in `compare`."""
    kind = "hm_lstm" if model.startswith("hm_") else model
    return matched.fit(_small(model, flags), kind, vocabulary(flags.data), flags.budget)


def _small(model, flags):
    config = defaults.text()
    config.data.name = flags.data
    config.model.update(head="gated", embedding=flags.width, output=flags.width)
    matched.alike(config, 1.0)
    config.clip = 1.0
    config.batch, config.window = flags.batch or BATCH, flags.window or WINDOW
    config.evaluation.update(batch=32, window=100, warmup=500)
    if model == "hm_paper":
        paper(config)
    elif model == "hm_taught":
        teach(config)
        config.clip = 0.25
    return half_epochs(ends(config, flags))


def of_one_cost(model, flags):
    """A taught HM-LSTM whose multiplications a symbol are those of the LSTM of the budget."""
    symbols = vocabulary(flags.data)
    target = matched.multiplications(of_one_size("lstm", flags), symbols)
    moves = None if model.endswith("_dense") else matched.Moves.asked(TEXT)
    config = _small("hm_taught", flags)
    return matched.fit_multiplications(config, symbols, RATIOS[model], target, moves)


def logic(model, flags):
    """The whole experiment; its own schedule halves the rate."""
    return config_file.load(CONFIGS / f"logic.py:{model}")


def of_512(model, flags):
    """The paper's size and corpus, layer normalisation in all."""
    file = "lstm_ptb_char.py" if model == "lstm" else "hm_lstm_ptb_char.py"
    config = config_file.load(CONFIGS / file)
    if model == "hm_paper":
        paper(config)
    elif model == "hm_taught":
        teach(config)
        config.slope.increment = 0.0
    config.epochs = flags.epochs or GROUPS["ptb_512"].epochs
    return half_epochs(ends(config, flags))


def words(model, flags):
    """The ON-LSTM authors' recipe; not theirs are the narrower layers of `--shrink` and the rounded
    windows of `--quantum`."""
    config = config_file.load(CONFIGS / "on_lstm_ptb_word.py")
    config.window_quantum = flags.quantum
    if model == "lstm":
        config.model.cell = "lstm"
    if flags.shrink > 1:
        chunk = config.model.on_lstm.chunk
        *others, last = (max(1, n // flags.shrink // chunk) * chunk for n in config.model.sizes)
        config.model.update(sizes=(*others, last), embedding=last)
    config.save = 200
    return config


def handwriting(model, flags):
    """As many updates for both: the rate drops late, and validation ends neither."""
    if model == "lstm":
        config = config_file.load(CONFIGS / "lstm_iam_ondb.py")
    else:
        config = config_file.load(CONFIGS / "hm_lstm_iam_ondb.py:taught")
    config.update(patience=10_000, drops=1, drop_by=flags.drop_by, save=200)
    return config


MAKE = {
    "equal_parameters": of_one_size,
    "equal_multiplications": of_one_cost,
    "logic": logic,
    "ptb_512": of_512,
    "on_lstm_words": words,
    "handwriting": handwriting,
}


def updates(config):
    """Updates of a whole training, at most."""
    decisive = ("task", "data", "batch", "window", "window_random", "window_quantum", "seed")
    decisive += ("longest", "buckets", "epochs")
    fields = config.to_dict()
    key = json.dumps([fields.get(name) for name in decisive])
    if config.steps:
        return config.steps
    if key not in UPDATES:
        UPDATES[key] = tasks.make(config, parallel.make_mesh()).stream.steps_in(config.epochs)
    return UPDATES[key]


def epochs(done, config):
    """So many updates in epochs; None if the data, which tell, are not at hand."""
    config = config.copy_and_resolve_references()
    config.steps = 0
    try:
        return done * config.epochs / updates(config)
    except UserError:
        return None


UPDATES = {}  # of a stream and its epochs: the data are read once
