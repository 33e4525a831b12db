"""What the study of discovery trains: settings of one network, and taught models."""

import copy
import dataclasses
import functools
from pathlib import Path
from typing import Any

from benchmarks import studies
from hmrnn_jax import datasets, defaults
from hmrnn_jax.batches.text import Stream
from hmrnn_jax.tasks import objectives
from hmrnn_jax.training import config_file, settings

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
UPDATES, SIZE = 2600, 128  # of the settings
HEADLINE = "headline"
DATA = ("ptb_char", "brent_text")
# Wanted mean length of each layer's segments, and whose peaks teach them.
ASKED = {
    "ptb_char": ((5.5, 4.0), "entropy"),
    "brent_text": ((4.0,), "line_end"),
    "brent_phono": ((3.0,), "line_end"),
    "chinese_simplified": ((1.7, 3.0), "entropy"),
    "oscillators": ((40.0,), "surprise"),
    "iam_ondb": ((25.0, 5.0), "surprise"),
}
SETTINGS = {
    "paper": "the paper's",
    "defaults": "defaults, untaught",
    "rate": "rate alone",
    "nested": "nested alone",
    "teacher": "teacher alone",
    "teacher_stopped": "teacher, gradient stopped",
    "all": "all",
    "all_stopped": "all, gradient stopped",
    "no_flush": "all, gradient stopped, no FLUSH",
    "slope_.04": "defaults, slope +.04 an epoch",
    "slope_.2": "defaults, slope +.2 an epoch",
    "slope_5": "defaults, slope 5",
    "lstm": "LSTM",
}
# Taught models: file in configs/, data, updates. Some are taught otherwise than their file has it:
# by their own probability that a line ends, or, `AGAIN`, by the segments that such a model, of the
# same seed, cuts its training text in; those come after it.
LINE_END = {"teacher": "line_end", "delay": 1, "start": 150}
AGAIN = {
    "brent_text_again": "brent_text_line_end",
    "brent_phono_again": "brent_phono_line_end",
    "chinese_again": "chinese",
}
SEGMENTS = "train.segments.jsonl"
# The same without a teacher, as they stand and with another cell: what teaching costs and gives.
BESIDE = {
    f"{taught}_{kind}": (taught, kind)
    for taught in ("brent_text", "brent_phono", "chinese", "handwriting")
    for kind in ("untaught", "lstm")
}
TAUGHT = {
    "ptb": ("quickstart.py", "ptb_char", UPDATES),
    "brent_text": ("brent.py:text", "brent_text", 1500),
    "brent_text_line_end": ("brent.py:text", "brent_text", 1500),
    "brent_text_again": ("brent.py:text", "brent_text", 1500),
    "brent_phono": ("brent.py:phono", "brent_phono", 1500),
    "brent_phono_line_end": ("brent.py:phono", "brent_phono", 1500),
    "brent_phono_again": ("brent.py:phono", "brent_phono", 1500),
    "chinese": ("chinese_words.py:simplified", "chinese_simplified", 1500),
    "chinese_again": ("chinese_words.py:simplified", "chinese_simplified", 1500),
    "oscillators": ("hm_lstm_oscillators.py", "oscillators", 1500),
    "handwriting": ("hm_lstm_iam_ondb.py:taught", "iam_ondb", 2000),
}


@dataclasses.dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
      group: the settings' data, or `HEADLINE`. setting: of `SETTINGS`, or of `TAUGHT`.
      config: the configuration; its `steps` say how long the training is, its `seed` which it is.
    """

    group: str
    setting: str
    config: Any

    @property
    def name(self):
        """Its folder within the study's."""
        return f"{self.group}/{self.setting}/{self.config.seed}"

    @property
    def data(self):
        """The name of its data."""
        return self.config.data.name

    @property
    def first(self):
        """The name of the job whose segments teach it; None if it needs none."""
        first = AGAIN.get(self.setting) if self.group == HEADLINE else None
        return first and f"{HEADLINE}/{first}/{self.config.seed}"

    @property
    def teaches_by(self):
        """The reading by which its segments are cut, where these teach another job."""
        return "pmi" if self.data == "chinese_simplified" else "line_break"

    @property
    def wanted(self):
        """Mean length of the segments that readings are asked for, as a user would."""
        return ASKED[self.data][0][0]


def plan(only=(), seeds=(0,), updates=None, size=None, output=Path()):
    """`(jobs, notes)`: what is asked for, seed after seed, and what is left out and why.

    Args:
      only: patterns of `group/setting`; all if there are none. seeds: of each.
      updates, size: of every training, units of each of three layers; None: `UPDATES` and `SIZE`
        of the settings, and what each taught model has. output: the study's folder.

    Raises:
      UserError: a pattern names nothing, or data are missing.
    """
    known = [f"{data}/{setting}" for data in DATA for setting in SETTINGS]
    known += [f"{HEADLINE}/{name}" for name in (*TAUGHT, *BESIDE)]
    chosen, notes = {}, []
    for name in studies.chosen(known, only):
        group, setting = name.split("/")
        if group == HEADLINE:
            make = taught if setting in TAUGHT else beside
            chosen[name] = make(setting, updates, size)
            continue
        config = chosen[name] = studied(group, setting, updates or UPDATES, size or SIZE)
        if setting.startswith("slope_") and config.slope.increment and _one_epoch(config):
            del chosen[name]
            notes.append(
                f"{name} is left out: {config.steps:,} updates are less than an epoch, in which"
                f" the slope does not grow; it would be {group}/defaults"
            )
    jobs = []
    for seed in seeds:
        for name, config in chosen.items():
            own = copy.deepcopy(config)
            own.seed = seed
            job = Job(*name.split("/"), own)
            if job.first:
                own.boundaries.segments = str(output / job.first / SEGMENTS)
            jobs.append(job)
    return jobs, notes


def teachers(jobs, updates, size):
    """The jobs whose segments teach some of `jobs`, of the same settings."""
    names = [job.first.rpartition("/") for job in jobs if job.first]
    return [plan([name], [int(seed)], updates, size)[0][0] for name, _, seed in names]


def studied(data, setting, updates, size):
    """The configuration of a setting: a network of the defaults, untaught, and one thing more."""
    config = defaults.text()
    config.data.name = data
    _sized(config, size)
    config.batch, config.window, config.steps = 16, 50, updates
    config.learning_rate, config.schedule = 5e-3, "cosine"
    config.evaluation.update(batch=16, window=50, warmup=500)
    hm, asked = config.model.hm_lstm, config.boundaries
    if setting == "paper":
        defaults.as_published(config)
        config.slope.increment = 0.04
    elif setting == "rate":
        asked.update(lengths=ASKED[data][0], rate="ratio")
    elif setting == "nested":
        hm.nested = True
    elif setting in ("teacher", "teacher_stopped"):
        lengths, teacher = ASKED[data]
        reaches = setting == "teacher"
        asked.update(lengths=lengths, teacher=teacher, reaches_below=reaches)
    elif setting in ("all", "all_stopped", "no_flush"):
        _teach(config)
        asked.reaches_below = setting == "all"
        hm.flush = setting != "no_flush"
    elif setting == "slope_5":
        config.slope.start = 5.0
    elif setting.startswith("slope_"):
        config.slope.increment = float(setting.removeprefix("slope_"))
    elif setting == "lstm":
        config.model.cell = "lstm"
    return _ready(config)


def taught(name, updates=None, size=None):
    """The configuration of a taught model: a file's, taught as `all` is unless it is so already."""
    file, data, own = TAUGHT[name]
    config = config_file.load(CONFIGS / (f"{file},{SEGMENTS}" if name in AGAIN else file))
    config.data.name = data
    config.steps = updates or own
    if size:
        _sized(config, size)
    if config.task == "language":
        config.finish = "metrics"
    if name.endswith("_line_end"):
        config.boundaries.update(LINE_END)
    if not objectives.Boundaries.of(config).active:
        _teach(config)
    return _ready(config)


def beside(name, updates=None, size=None):
    """The configuration of one of `BESIDE`."""
    like, kind = BESIDE[name]
    config = taught(like, updates, size)
    config.boundaries.update(teacher="none", rate="none")
    if kind == "lstm":
        config.model.cell = "lstm"
    return _ready(config)


def _sized(config, size):
    config.model.sizes, config.model.output = (size,) * 3, size


def _teach(config):
    lengths, teacher = ASKED[config.data.name]
    defaults.teach(config, teacher, lengths)


def _ready(config):
    """Validates four times, whatever a setting says of epochs: the best parameters are scored.

    Twice on real values: IAM-OnDB's validation part takes as long as 300 updates.
    """
    config.evaluation.every = max(1, config.steps // (4 if config.task == "language" else 2))
    settings.check(config)
    return config


def _one_epoch(config):
    stream = Stream(corpus(config.data.name).splits["train"], config.batch, config.window)
    return config.steps <= stream.steps_per_epoch


@functools.cache
def corpus(name):
    """The text of that name, read once."""
    return datasets.load(name)
