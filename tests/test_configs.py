"""Every published configuration builds, with the parameters its docstring states."""

import functools
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from hmrnn_jax import cells, defaults, tasks
from hmrnn_jax.batches.base import Epochs
from hmrnn_jax.datasets.logic import VOCABULARY
from hmrnn_jax.datasets.sequences import Scale
from hmrnn_jax.errors import UserError
from hmrnn_jax.models import stack
from hmrnn_jax.models.language import language_model
from hmrnn_jax.tasks import logic
from hmrnn_jax.training import optim, settings

FOLDER = Path(__file__).parent.parent / "configs"
PEN = Scale(("dx", "dy"), "pen_up", (0, 0), (1, 1))
TWO = Scale(("first", "second"), "", (0, 0), (1, 1))

# name, argument, what the data's numbers mean (symbols of a corpus, or columns and an event),
# parameters without and with layer normalisation (None:
# not part of the experiment)
PUBLISHED = [
    ("hm_lstm_ptb_char", "sample", 50, 8_434_100, 8_449_460),
    ("hm_lstm_ptb_char", "soft", 50, 8_434_100, 8_449_460),
    ("hm_lstm_ptb_char", "step", 50, 8_434_100, 8_449_460),
    ("hm_lstm_ptb_char", "annealed", 50, 8_434_100, 8_449_460),
    ("hm_lstm_text8", None, 27, 36_261_405, 36_292_125),
    ("hm_lstm_enwik8", None, 205, 36_648_911, 36_679_631),
    ("lstm_ptb_char", None, 50, 6_334_258, 6_349_618),
    ("nested_lstm_ptb_char", None, 50, 4_668_450, None),
    ("on_lstm_ptb_word", "official", 10_000, 25_232_180, None),
    ("on_lstm_ptb_word", "awd", 10_000, 25_232_180, None),
    ("awd_lstm_ptb_word", "awd", 10_000, 24_221_600, None),
    ("awd_lstm_ptb_word", "official", 10_000, 24_221_600, None),
    ("on_lstm_wikitext2_word", "official", 33_278, 34_566_658, None),
    ("awd_lstm_wikitext2_word", "awd", 33_278, 33_556_078, None),
    ("quatrains", "lstm", 4_702, 2_199_150, None),
    ("quatrains", "lstm_stack", 4_702, 2_199_782, None),
    ("quatrains", "nested_lstm", 4_702, 2_199_826, None),
    ("quatrains", "hm_lstm", 4_702, 2_200_576, None),
    ("quatrains", "on_lstm", 4_702, 2_209_142, None),
    ("chinese_words", "traditional", 4_494, 3_900_176, 3_907_856),
    ("chinese_words", "simplified", 2_780, 3_240_286, 3_247_966),
    ("brent", "text", 30, 584_864, 588_704),
    ("brent", "phono", 51, 590_261, 594_101),
    ("hm_lstm_iam_ondb", "annealed", PEN, 5_023_726, 5_035_726),
    ("hm_lstm_iam_ondb", "step", PEN, 5_023_726, 5_035_726),
    ("hm_lstm_iam_ondb", "taught", PEN, 5_024_526, 5_036_526),
    ("lstm_iam_ondb", None, PEN, 3_741_721, 3_753_721),
    ("hm_lstm_scribbles", None, PEN, 520_642, 524_482),
    ("hm_lstm_oscillators", None, TWO, 133_184, 135_104),
    ("mnist_glimpses", "lstm", None, 149_744, None),
    ("mnist_glimpses", "lstm_stack", None, 150_390, None),
    ("mnist_glimpses", "nested_lstm", None, 149_360, None),
    ("mnist_glimpses", "hm_lstm", None, 150_136, None),
    ("mnist_glimpses", "on_lstm", None, 150_154, None),
    ("mnist_pixels", "lstm", None, 149_372, None),
    ("mnist_pixels", "lstm_stack", None, 148_730, None),
    ("mnist_pixels", "nested_lstm", None, 150_304, None),
    ("mnist_pixels", "hm_lstm", None, 148_837, None),
    ("mnist_pixels", "on_lstm", None, 150_040, None),
    ("logic", "on_lstm", 12, 1_535_143, None),
    ("logic", "lstm", 12, 1_492_743, None),
]


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "argument", "symbols", "plain", "normalised"), PUBLISHED)
def test_parameters(name, argument, symbols, plain, normalised):
    encoding = SimpleNamespace(size=symbols) if isinstance(symbols, int) else symbols
    module = load(name)
    config = module.get_config(*filter(None, [argument]))
    settings.check(config)
    assert f"{plain:,}" in module.__doc__
    if not normalised:
        assert count(config, encoding) == plain
        return
    for layer_norm, expected in (("none", plain), ("sum", normalised)):
        config.model[config.model.cell].layer_norm = layer_norm
        assert count(config, encoding) == expected


def count(config, encoding):
    """Parameters of a configuration's model for data of that encoding."""
    task = tasks.module(config)
    model = task.model_of(config.model, encoding)
    if config.task == "language":
        model.policy.check(config.window)
    shapes = jax.eval_shape(functools.partial(task.init_params, model), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_every_file_is_listed_and_tells_its_command():
    files = {path.stem for path in FOLDER.glob("*.py")}
    assert files == {name for name, *_ in PUBLISHED} | {"quickstart"}
    for name in files - {"quickstart"}:
        assert f"python train.py --config=configs/{name}.py" in load(name).__doc__


def test_paper_variants():
    get = load("hm_lstm_ptb_char").get_config
    assert get().model.hm_lstm.boundary == "step" and get().slope.increment == 0.04
    assert get("step").slope.increment == 0 and get("soft").model.hm_lstm.boundary == "soft"
    with pytest.raises(UserError, match="sample, soft, step, annealed"):
        get("fast")


# What the HM-LSTM's paper states of its experiments (section 4), by file and variant.
COMMON = {
    "optimizer": "adam", "clip": 1, "detector_rate": 1, "model.hm_lstm.detector_scale": 1,
    "schedule": "plateau", "drop_factor": 50, "patience": 1, "evaluation.every": 0, "window": 100,
    "slope.start": 1,
}  # fmt: skip
PTB = {"batch": 64, "learning_rate": 2e-3, "model.sizes": (512,) * 3, "model.output": 512}
LARGE = {"batch": 128, "learning_rate": 1e-3, "model.sizes": (1024,) * 3, "model.output": 2048}
IAM = {
    "batch": 32, "learning_rate": 3e-4, "model.sizes": (400,) * 3, "model.output": 400,
    "data.split": "hm_lstm", "slope.maximum": 3, "longest": 0,
}  # fmt: skip
TEXT = {"model.embedding": 128, "model.head": "gated", "model.dropout.input": 0}
HM_LSTM = {
    "model.cell": "hm_lstm", "model.hm_lstm.layer_norm": "sum", "model.hm_lstm.nested": False,
    "model.hm_lstm.surrogate": "hard_sigmoid", "model.hm_lstm.top_down": True,
    "model.hm_lstm.flush": True, "boundaries.teacher": "none", "boundaries.rate": "none",
}  # fmt: skip
LSTM = {"model.cell": "lstm", "model.lstm.layer_norm": "sum"}
STEP = HM_LSTM | {"model.hm_lstm.boundary": "step", "slope.increment": 0}
PAPERS = {
    ("hm_lstm_ptb_char", "paper"): TEXT | PTB | STEP | {"slope.increment": 0.04},
    ("hm_lstm_ptb_char", "paper-step"): TEXT | PTB | STEP,
    ("hm_lstm_ptb_char", "paper-soft"): TEXT | PTB | STEP | {"model.hm_lstm.boundary": "soft"},
    ("hm_lstm_ptb_char", "paper-sample"): TEXT | PTB | STEP | {"model.hm_lstm.boundary": "sample"},
    ("lstm_ptb_char", "paper"): TEXT | PTB | LSTM,
    ("hm_lstm_text8", "paper"): TEXT | LARGE | STEP,
    ("hm_lstm_enwik8", "paper"): TEXT | LARGE | STEP,
    ("hm_lstm_iam_ondb", "paper"): IAM | STEP | {"slope.increment": 0.004},
    ("hm_lstm_iam_ondb", "paper-step"): IAM | STEP,
    ("lstm_iam_ondb", "paper"): IAM | LSTM,
}


@pytest.mark.parametrize(("name", "variant"), PAPERS)
def test_paper_variants_have_the_settings_that_the_paper_states(name, variant):
    module = load(name)
    config = module.get_config(variant)
    settings.check(config)
    expected = COMMON | PAPERS[name, variant]
    found = settings.flat(config.to_dict())
    assert {field: found[field] for field in expected} == expected
    # The slope comes to its end within the run where it is annealed: 5 after 100, 3 after 500.
    annealed = config.slope.increment > 0
    assert not annealed or optim.slope_at(config.epochs, **config.slope) == config.slope.maximum
    assert f"--config=configs/{name}.py:paper" in module.__doc__
    with pytest.raises(UserError, match="paper"):
        module.get_config("fast")


def test_docstrings_name_what_is_not_the_papers():
    """And the default differs from the variant in nothing else."""
    for name in {name for name, _ in PAPERS}:
        module = load(name)
        default, paper = (settings.flat(c.to_dict()) for c in
                          (module.get_config(), module.get_config("paper")))  # fmt: skip
        changed = {field for field in default if default[field] != paper[field]}
        told = {"patience", "epochs", "longest", "data.split", "evaluation.every"}
        if default["model.cell"] == "lstm":  # which has no detectors
            told |= {"detector_rate", "model.hm_lstm.detector_scale"}
        for field in changed - told:
            assert f"`{field}`" in module.__doc__, (name, field)
        assert default["model.cell"] != "lstm" or "clip" not in changed
    others = ("chinese_words", "quatrains", "quickstart", "hm_lstm_oscillators",
              "hm_lstm_scribbles", "mnist_glimpses", "mnist_pixels")  # fmt: skip
    for name in others:
        assert "rate and scale" in " ".join(load(name).__doc__.split())


def test_the_annealing_of_handwriting_ends_where_the_docstring_says():
    module = load("hm_lstm_iam_ondb")
    for variant, last, at_most in (("annealed", 1.396, "100"), ("paper", 2.996, "500")):
        config = module.get_config(variant)
        assert optim.slope_at(config.epochs - 1, **config.slope) == pytest.approx(last)
        assert at_most in module.__doc__
    assert "1.396" in module.__doc__


@pytest.mark.parametrize("name", ["hm_lstm_text8", "hm_lstm_enwik8"])
@pytest.mark.parametrize("variant", ["default", "paper"])
def test_the_rate_of_a_large_text_does_not_drop_before_an_epoch_without_a_best(name, variant):
    config = load(name).get_config(variant)
    epoch = 90_000_000 // (config.batch * config.window)
    every = config.evaluation.every or epoch
    stream = Epochs()
    stream.steps_per_epoch = epoch
    plan = optim.Plan(config, stream)
    plan.update(2.0, every)
    updates = 0
    while plan.rate(every + updates) == config.learning_rate:
        updates += every
        plan.update(3.0, every + updates)
    assert updates >= epoch and plan.rate(every + updates) == pytest.approx(
        config.learning_rate / 50
    )


def test_defaults_are_locked_and_every_choice_reaches_the_cell():
    config = defaults.text()
    with pytest.raises(AttributeError):
        config.lerning_rate = 1.0
    for name in cells.MODULES:
        config.model.cell = name
        cell = stack.cells_from(config.model, 8)[0]
        sizes = {"sizes"} if name == "hm_lstm" else {"size"}
        assert set(config.model[name]) | {"input_size"} | sizes == set(cell.__dataclass_fields__)


def test_word_recipe_is_the_authors_command():
    """Of the ON-LSTM's readme, where it differs from the defaults of the program."""
    config = load("on_lstm_ptb_word").get_config()
    dropout, penalties = config.model.dropout, config.penalties
    drops = {name: dropout[name] for name in ("embedding", "input", "hidden", "output", "weight")}
    assert drops == dict(embedding=0.1, input=0.5, hidden=0.3, output=0.45, weight=0.45)
    assert (penalties.activation, penalties.temporal) == (2.0, 1.0)
    assert (config.batch, config.window, config.window_random) == (20, 70, True)
    assert config.window_quantum == 1  # lengths as they are drawn
    assert (config.optimizer, config.learning_rate, config.clip) == ("sgd", 30.0, 0.25)
    assert (config.schedule, config.nonmono, config.weight_decay) == ("nonmonotone", 5, 1.2e-6)
    assert (config.epochs, config.finetune, config.seed) == (1000, 500, 141)
    model = language_model(config.model, 10_000)
    assert [cell.chunk for cell in model.cells] == [10] * 3 and model.head == "tied"
    assert [cell.size for cell in model.cells] == [1150, 1150, 400] and model.embedding == 400
    assert model.embedding_uniform and model.embedding_scale == 0.1
    assert {cell.initialisation for cell in model.cells} == {"uniform"}


def test_variants_of_the_word_recipe_differ_in_two_details():
    """DropConnect's scale, and whether AR reads the dropped output."""
    for name, default in (("on_lstm_ptb_word", "official"), ("awd_lstm_ptb_word", "awd")):
        get = load(name).get_config
        official, awd = get("official"), get("awd")
        assert get().to_dict() == get(default).to_dict()
        assert (awd.model.dropout.weight_inverted, awd.penalties.after_dropout) == (True, True)
        assert not official.model.dropout.weight_inverted and not official.penalties.after_dropout
        awd.model.dropout.weight_inverted = awd.penalties.after_dropout = False
        assert awd.to_dict() == official.to_dict()
        with pytest.raises(UserError, match="official, awd"):
            get("merity")


def test_logic_has_the_authors_settings():
    config = load("logic").get_config()
    assert (config.batch, config.epochs, config.seed, config.clip) == (128, 50, 1111, 1.0)
    assert (config.optimizer, config.learning_rate, config.adam_epsilon) == ("adam", 1e-3, 1e-9)
    assert config.weight_decay == 1.2e-6 and config.data.longest == 6
    assert (config.schedule, config.drop_factor, config.patience) == ("plateau", 2.0, 3)
    model = logic.model_of(config.model, VOCABULARY)
    assert (model.embedding, model.hidden, model.labels) == (128, 400, 7)
    assert (model.dropout, model.input_dropout) == (0.2, 0.2)
    (baseline,) = logic.model_of(load("logic").get_config("lstm").model, VOCABULARY).cells
    assert (baseline.initialisation, baseline.recurrent_bias) == ("linear", True)
    assert [(cell.size, cell.chunk) for cell in model.cells] == [(400, 10)]
    assert model.vocabulary == 12
