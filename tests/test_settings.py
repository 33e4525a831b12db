"""Every field of a configuration is in one table, and nothing out of its range gets further."""

import contextlib
import functools
import importlib.util
import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import run

from hmrnn_jax import cells, defaults, parallel, recurrence
from hmrnn_jax.cells import gru, lstm
from hmrnn_jax.cells.base import is_stack
from hmrnn_jax.errors import UserError
from hmrnn_jax.models import stack
from hmrnn_jax.models.language import LanguageModel
from hmrnn_jax.training import compile_only, contradictions, settings
from hmrnn_jax.training.fields import Choice, Names, Number, Switch, Text, Whole, Wholes, nearest

CONFIGS = Path(__file__).parent.parent / "configs"
DEFAULTS = {
    "text": defaults.text,
    "words": defaults.words,
    "awd": lambda: defaults.words("awd"),
    "logic": defaults.logic,
    "strokes": defaults.strokes,
    "images": defaults.images,
}
NAN, INFINITE = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def two_devices(monkeypatch):
    make_mesh = parallel.make_mesh
    monkeypatch.setattr(parallel, "make_mesh", lambda *_: make_mesh(jax.devices()[:2]))


def published():
    for file in sorted(CONFIGS.glob("*.py")):
        spec = importlib.util.spec_from_file_location(file.stem, file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield file.stem, module.get_config()


@pytest.fixture
def config(tmp_path):
    """A small run on a text of one's own."""
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat. " * 60)
    config = defaults.text()
    config.data.name, config.data.path = "text", str(path)
    config.model.sizes, config.model.output, config.model.embedding = (8, 8), 8, 8
    config.batch = config.evaluation.batch = 2
    config.window = config.evaluation.window = config.evaluation.warmup = 10
    config.steps = config.evaluation.every = 4
    return config


# The table


@pytest.mark.parametrize("make", DEFAULTS.values(), ids=DEFAULTS)
def test_every_default_is_in_the_table_and_in_its_range(make):
    config = make()
    assert settings.fields(config).keys() == settings.flat(config.to_dict()).keys()
    settings.check(config)


def test_every_published_configuration_is_in_its_range():
    names = []
    for name, config in published():
        settings.check(config)
        contradictions.check(config)
        names.append(name)
    assert len(names) > 15


def test_every_field_has_a_line_of_help_of_its_own():
    comments = " ".join(re.findall(r"# (.*)", inspect.getsource(defaults)))
    for fields in (settings.COMMON, *settings.OF_TASK.values()):
        for name, field in fields.items():
            assert re.fullmatch(r"[^\n]{10,160}\.", field.meaning), name
            assert field.allowed, name
            assert field.meaning.rstrip(".") not in comments, name


def test_no_field_may_be_nan_or_of_another_kind():
    for fields in (settings.COMMON, *settings.OF_TASK.values()):
        for field in fields.values():
            assert not field.holds(NAN) and not field.holds(None) and not field.holds({})
            assert field.holds(True) == isinstance(field, Switch)
            assert field.holds("x\0y") is False


@pytest.mark.parametrize("cell", cells.MODULES)
def test_a_run_keeps_the_choices_of_a_cell_that_shape_its_network_and_no_others(cell):
    """Those by which its parameters have other shapes, or the same ones give other states."""
    module = cells.MODULES[cell]
    sizes = {"sizes": (8, 8, 8)} if is_stack(module.Config) else {"size": 8}
    plain = {"chunk": 4} if cell == "on_lstm" else {}

    def made(**choices):
        config = module.Config(4, **sizes, **(plain | choices))
        params = jax.eval_shape(functools.partial(module.init, config=config), jax.random.key(0))
        return config, jax.tree.map(lambda v: v.shape, params)

    _, shapes = made()
    draw = np.random.default_rng(0)
    params = jax.tree.map(
        lambda shape: draw.normal(0, 1, shape).astype(np.float32),
        shapes,
        is_leaf=lambda v: isinstance(v, tuple) and all(isinstance(n, int) for n in v),
    )
    x, noise = draw.normal(size=(6, 8, 4)), draw.uniform(size=(6, 8, 2))

    def states(config):
        out = recurrence.unroll(
            config, params, recurrence.initial_state(config, 8), jnp.float32(x),
            per_step={"noise": jnp.float32(noise)} if config.uses_noise else None,
        )  # fmt: skip
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(out.states)])

    def differs(config, found):
        return found != shapes or not np.allclose(states(config), states(made()[0]), atol=1e-4)

    for name in cells.choices(module):
        field = settings.COMMON[f"model.{cell}.{name}"]
        numbers = (1, 2) if isinstance(field, Whole) else (0.5, 1.0)
        values = getattr(field, "choices", (False, True) if isinstance(field, Switch) else numbers)
        different = any(differs(*made(**{name: value})) for value in values)
        assert field.fixed == different, name


# Kinds


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        (Whole("", 1, 9), {"1": 1, " 9 ": 9}, ["0", "10", "four", "1.0", "1e3", ""]),
        (Number(""), {"-1e3": -1000.0, "2": 2.0}, ["nan", "inf", "-inf", "1e39", "x", ""]),
        (Number("", above=0), {"1e-30": 1e-30}, ["0", "-1", "1e-60"]),
        (Number("", least=0, below=1), {"0": 0.0, "0.99": 0.99}, ["1", "-0.1", "0.99999999999"]),
        (Number("", above=0, infinite=True), {"inf": INFINITE}, ["nan", "-inf", "0"]),
        (Choice("", ("a", "b")), {"a": "a"}, ["c", "", "A"]),
        (Switch(""), {"true": True, "False": False, "0": False}, ["2", "", "maybe"]),
        (Text("", empty=False), {" x ": " x "}, ["", "a\0b"]),
        (
            Wholes("", 1, 99, 3),
            {"8": (8,), "8,8": (8, 8), "(8, 9,)": (8, 9), "[1,2,3]": (1, 2, 3)},
            ["", "()", "0", "8.5,8", "('a','b')", "1,2,3,4", "8 8", "None", "8,x"],
        ),
        (
            Names(""),
            {"": (), "a": ("a",), "a,b": ("a", "b"), "('a','b, c')": ("a", "b, c")},
            ["(1,", "(1, 2)"],
        ),
    ],
)  # fmt: skip
def test_what_a_kind_reads_and_refuses(field, good, bad):
    for text, value in good.items():
        assert field.parse(text) == value and type(field.parse(text)) is type(value)
        assert field.holds(value)
    for text in bad:
        with pytest.raises(ValueError, match="it must be"):
            field.parse(text)


def test_the_nearest_name():
    names = ["batch", "learning_rate", "model.sizes", "model.hm_lstm.flush", "slope.start"]
    assert nearest("lerning_rate", names) == "learning_rate"
    assert nearest("sizes", names) == "model.sizes" and nearest("slope", names) == "slope.start"
    assert nearest("model.lstm.flush", names) == "model.hm_lstm.flush"
    assert nearest("zzz", names) is None


# Refusals

WRONG = [
    ("seed", -1), ("seed", 2**40), ("batch", 0), ("batch", 10**12), ("window", 0), ("epochs", 0),
    ("steps", -1), ("report", 0), ("save", -1), ("finish", "vieww"), ("task", "images2"),
    ("optimizer", "asgd"), ("schedule", "linear"), ("learning_rate", NAN),
    ("learning_rate", INFINITE), ("learning_rate", -1.0), ("learning_rate", 1e-60), ("clip", 0.0),
    ("clip", NAN), ("weight_decay", -1e-6), ("adam_epsilon", 0.0), ("adam_epsilon", -1e-8),
    ("drop_factor", 0.0), ("drop_factor", 0.5), ("patience", 0), ("drops", -1), ("nonmono", 0),
    ("drop_by", -0.1), ("drop_by", 1.0),
    ("finetune", -1), ("detector_rate", -0.1), ("window_quantum", 0), ("evaluation.every", -1),
    ("evaluation.batch", 0), ("evaluation.window", 0), ("evaluation.warmup", -1),
    ("slope.start", NAN), ("slope.start", 0.0), ("slope.increment", INFINITE),
    ("slope.increment", -0.1), ("slope.maximum", INFINITE), ("penalties.temporal", -1.0),
    ("data.name", "penn"), ("data.unit", "letters"), ("model.cell", "rnn"), ("model.sizes", ()),
    ("model.sizes", (8.5, 8)), ("model.sizes", ("a", "b")), ("model.sizes", (8, 0)),
    ("model.sizes", (8, 10**9)), ("model.embedding", 0), ("model.output", 0), ("model.remat", -1),
    ("model.unroll", 0), ("model.unroll", -2), ("model.unroll", 10**9), ("model.head", "none"),
    ("model.precision", "int8"), ("model.backend", "gpu"), ("model.gradient", "none"),
    ("model.embedding_scale", 0.0), ("model.dropout.weight", 1.0), ("model.dropout.input", NAN),
    ("model.hm_lstm.boundary", "hard"), ("model.hm_lstm.layer_norm", "all"),
    ("model.hm_lstm.z_init", 2.0), ("model.hm_lstm.detector_scale", NAN),
    ("model.hm_lstm.gradient", "none"), ("model.nested_lstm.depth", 0),
    ("model.nested_lstm.depth", 100_000), ("model.nested_lstm.proposal", "relu"),
    ("model.on_lstm.chunk", 0), ("model.lstm.initialisation", "zeros"),
    ("model.lstm.forget_bias", NAN),
]  # fmt: skip
OTHERS = [
    (defaults.logic, "model.hidden", 0), (defaults.logic, "model.embedding", 0),
    (defaults.logic, "data.longest", 13), (defaults.logic, "model.dropout", 1.0),
    (defaults.strokes, "model.output", 0), (defaults.strokes, "model.components", 0),
    (defaults.strokes, "data.clip", -1.0), (defaults.strokes, "data.split", "mine"),
    (defaults.strokes, "buckets", 0), (defaults.strokes, "longest", -1),
    (defaults.strokes, "window", -1), (defaults.strokes, "evaluation.window", 0),
    (defaults.strokes, "model.head", "tied"), (defaults.images, "model.patch", 0),
    (defaults.images, "evaluation.batch", 0), (defaults.images, "model.dropout", NAN),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda v: getattr(v, "__name__", str(v)))
def test_a_value_out_of_range_is_refused_before_anything_is_written(config, tmp_path, name, value):
    config.update_from_flattened_dict({name: value})
    with pytest.raises(UserError, match=re.escape(f"{name} is {value!r}; it must be ")):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("make", "name", "value"), OTHERS, ids=lambda v: getattr(v, "__name__", str(v))
)
def test_so_it_is_for_every_task(tmp_path, make, name, value):
    config = make()
    config.update_from_flattened_dict({name: value})
    with pytest.raises(UserError, match=re.escape(f"{name} is {value!r}; it must be ")):
        run(config, tmp_path / "run")
    with pytest.raises(UserError, match=f"{name} is "):
        compile_only.compiled_step(config, "cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (defaults.text, {"clip": INFINITE, "drop_factor": 1.0, "detector_rate": 0.0, "drops": 0}),
        (
            defaults.text,
            {"seed": 2**32 - 1, "model.hm_lstm.detector_scale": 0.0, "weight_decay": 0},
        ),
        (defaults.text, {"model.nested_lstm.depth": 1, "evaluation.warmup": 0, "slope.start": 5.0}),
        (defaults.strokes, {"window": 0, "longest": 0, "data.columns": ("a", "b")}),
    ],
)
def test_what_lies_on_the_edge_is_allowed(make, changes):
    config = make()
    config.update_from_flattened_dict(changes)
    settings.check(config)


@pytest.mark.parametrize("name", ["oscillators", "scribbles"])
def test_made_up_sequences_are_never_clipped(name):
    config = defaults.strokes()
    config.data.name, config.data.clip = name, 1.0
    settings.check(config)  # a run of an earlier version may have it
    with pytest.raises(UserError, match=f"data.clip is 1, and {name} are made up"):
        contradictions.check(config)
    config.data.name = "signals"
    contradictions.check(config)


@pytest.mark.parametrize("change", [{"data.event": "pen_up"}, {"data.columns": ("dx", "dy")}])
def test_columns_are_those_of_signals(change):
    config = defaults.strokes()
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match="go with data.name=signals alone, not with iam_ondb"):
        contradictions.check(config)
    config.data.name = "signals"
    contradictions.check(config)


def test_a_field_that_no_task_knows_or_that_is_not_there_is_named(config):
    config.unlock()
    config.lerning_rate = 0.1
    with pytest.raises(UserError, match="lerning_rate, which .* is it learning_rate?"):
        settings.check(config)
    del config.lerning_rate, config.evaluation.warmup
    with pytest.raises(UserError, match="lacks evaluation.warmup"):
        settings.check(config)
    del config.task
    with pytest.raises(UserError, match="task is None; it must be one of language, logic"):
        settings.check(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slope.start": 6.0}, "slope.start is 6, above slope.maximum, 5"),
        (
            {"window_random": True, "window_quantum": 11},
            "window_quantum is 11, more than window, 10",
        ),
        ({"model.backend": "pallas"}, "cpu has no kernels: set model.backend=scan"),
        ({"model.remat": 3}, "remat is 3; it must divide the window, 10 steps"),
        (
            {"model.cell": "on_lstm", "model.on_lstm.chunk": 3},
            "8 units cannot be cut in chunks of 3",
        ),
        (
            {"model.cell": "on_lstm", "model.on_lstm.chunk": 8},
            "model.sizes has 8, one chunk, and an",
        ),
        ({"evaluation.batch": 3}, "3 rows cannot be divided over 2 devices"),
        ({"window": 10_000}, "the training text has 1,296 symbols"),
        (
            {"model.hm_lstm.boundary": "soft", "model.hm_lstm.surrogate": "logistic"},
            "boundary=soft has no step: give model.hm_lstm.surrogate=hard_sigmoid",
        ),
        (
            {"model.hm_lstm.flush": False, "model.hm_lstm.reset_recurrent": True},
            "reset_recurrent says what FLUSH does",
        ),
        (
            {"data.name": "python_reference", "data.path": "", "data.unit": "words"},
            "data.unit is words, which goes with data.name=text alone, and python_reference has",
        ),
        ({"drop_by": 0.5, "drops": 0}, "drop_by=0.5 asks for a drop of the rate, and drops=0 w"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_written(
    config, tmp_path, changes, message
):
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("short", ["valid", "test"])
def test_a_split_that_cannot_be_scored_is_found_before_training(config, tmp_path, short):
    folder = tmp_path / "splits"
    folder.mkdir()
    for split in ("train", "valid", "test"):
        text = "t" if split == short else "the cat sat on the mat. " * 20
        (folder / f"{split}.txt").write_text(text)
    config.data.path = str(folder)
    with pytest.raises(UserError, match=f"{short} split: evaluation needs .* two symbols or more"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_cells_that_no_memory_holds_are_refused(config, tmp_path, monkeypatch):
    config.model.sizes = (65_536, 65_536)
    with pytest.raises(UserError, match="model.sizes take [0-9,]+ GiB to train"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    # Parameters, their gradient and two moments, counted: a GRU has fewer than an LSTM.
    for cell in (gru, lstm):
        own = jax.eval_shape(lambda c=cell: c.init(jax.random.key(0), c.Config(8, 16)))
        count = sum(leaf.size for leaf in jax.tree.leaves(own))
        model = LanguageModel(9, 8, (cell.Config(8, 16),), 8, "plain")
        for spare, refused in ((-1, True), (0, False)):
            monkeypatch.setattr(stack, "host_memory", lambda: 16 * count + spare)  # noqa: B023
            with pytest.raises(UserError) if refused else contextlib.nullcontext():
                model.check(10, parallel.make_mesh())
    monkeypatch.setattr(stack, "host_memory", lambda: 1000)
    config.model.sizes = (8, 8)
    with pytest.raises(UserError, match="choose smaller ones"):
        run(config, tmp_path / "run")
