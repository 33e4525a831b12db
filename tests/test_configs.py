"""Every published configuration builds, with the parameters its docstring states."""

import functools
import importlib.util
from pathlib import Path

import jax
import pytest

from hmrnn_jax import cells, defaults, language, models, optim
from hmrnn_jax.errors import UserError

FOLDER = Path(__file__).parent.parent / "configs"

# name, argument, symbols of the corpus, parameters without and with layer normalisation
PUBLISHED = [
    ("hm_lstm_ptb_char", "sample", 50, 8_434_100, 8_449_460),
    ("hm_lstm_ptb_char", "soft", 50, 8_434_100, 8_449_460),
    ("hm_lstm_ptb_char", "step", 50, 8_434_100, 8_449_460),
    ("hm_lstm_ptb_char", "annealed", 50, 8_434_100, 8_449_460),
    ("hm_lstm_text8", None, 27, 36_261_405, 36_292_125),
    ("hm_lstm_enwik8", None, 205, 36_648_911, 36_679_631),
    ("lstm_ptb_char", None, 50, 6_334_258, 6_349_618),
]


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "argument", "symbols", "plain", "normalised"), PUBLISHED)
def test_parameters(name, argument, symbols, plain, normalised):
    module = load(name)
    config = module.get_config(*filter(None, [argument]))
    optim.check_schedule(config)
    assert f"{plain:,}" in module.__doc__
    for layer_norm, expected in (("none", plain), ("sum", normalised)):
        config.model[config.model.cell].layer_norm = layer_norm
        model = models.language_model(config.model, symbols)
        model.policy.check(config.window)
        init = functools.partial(language.init_params, model)
        shapes = jax.eval_shape(init, jax.random.key(0))
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


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


def test_defaults_are_locked_and_every_choice_reaches_the_cell():
    config = defaults.text()
    with pytest.raises(AttributeError):
        config.lerning_rate = 1.0
    for name in cells.MODULES:
        config.model.cell = name
        cell = models.cells_from(config.model, 8)[0]
        sizes = {"sizes"} if name == "hm_lstm" else {"size"}
        assert set(config.model[name]) | {"input_size"} | sizes == set(cell.__dataclass_fields__)


def test_slope_schedule_reaches_the_papers_values():
    """PTB: 1, 2, 5 at epochs 0, 25, 100 and 5 after; handwriting: 3 at epoch 500."""
    ptb = dict(start=1.0, increment=0.04, maximum=5.0)
    values = [optim.slope_at(epoch, **ptb) for epoch in (0, 25, 100, 150)]
    assert values == pytest.approx([1, 2, 5, 5])
    pen = dict(start=1.0, increment=0.004, maximum=3.0)
    values = [optim.slope_at(epoch, **pen) for epoch in (0, 250, 500, 1000)]
    assert values == pytest.approx([1, 2, 3, 3])


def test_plateau_divides_by_fifty_and_then_ends():
    plateau = optim.Plateau(learning_rate=1.0, factor=50.0, patience=2, drops=1)
    rates = []
    for loss in (3.0, 2.0, 2.1, 2.05, 1.9, 1.95, 1.92):
        plateau.update(loss)
        rates.append(plateau.rate)
    assert rates == pytest.approx([1, 1, 1, 1 / 50, 1 / 50, 1 / 50, 1 / 50])
    assert plateau.finished and plateau.best == pytest.approx(1.9)
    again = optim.Plateau(learning_rate=1.0, factor=50.0, patience=2, drops=1)
    again.resume(plateau.progress())
    assert again == plateau
