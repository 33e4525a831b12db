"""Which form of the update a run takes: dense, or without what its layers COPY."""

import jax
import numpy as np
import pytest

from hmrnn_jax import defaults, parallel, tasks
from hmrnn_jax.cells import hm_lstm
from hmrnn_jax.recurrence import skipping
from hmrnn_jax.training import loop, metrics_log, optim
from hmrnn_jax.training import state as train_state
from hmrnn_jax.training import update as updates
from hmrnn_jax.training.signals import Stopping


def rates(**copies):
    return {f"copy/{layer}": share for layer, share in copies.items()}


RARE, OFTEN = (
    rates(layer1=0.0, layer2=0.95, layer3=0.99),
    rates(layer1=0.0, layer2=0.0, layer3=0.1),
)


def test_wide_layers_that_move_seldom_are_expected_to_gain():
    """What whole train steps took on a CPU without AVX-512, in times of the dense step."""
    for size, moves, measured in (
        (512, (1, 0.21, 0.04), 1 / 1.48),
        (512, (1, 0.63, 0.25), 1 / 0.94),
        (512, (1, 1, 1), 1 / 0.70),
        (256, (1, 0.21, 0.04), 1 / 1.25),
        (128, (1, 0.21, 0.04), 1 / 0.90),
    ):
        config = hm_lstm.Config(128, (size,) * 3)
        assert skipping.expected(config, moves) == pytest.approx(measured, abs=0.12)


def test_where_copies_are_left_out_that_gains():
    """On two CPUs, without and with AVX-512: whole train steps, in times of the dense step."""
    for size, moves, *measured in (
        (512, (1, 0.21, 0.04), 1 / 1.58, 1 / 1.65),
        (512, (1, 0.63, 0.25), 1 / 0.89, 1 / 1.00),
        (512, (1, 1, 1), 1 / 0.71, 1 / 0.80),
        (256, (1, 0.21, 0.04), 1 / 1.31, 1 / 1.39),
        (128, (1, 0.21, 0.04), 1 / 0.87, 1 / 1.16),
    ):
        expected = skipping.expected(hm_lstm.Config(128, (size,) * 3), moves)
        assert (expected < updates._BEGIN) == (max(measured) < 0.98)


@pytest.fixture
def wide(monkeypatch, tmp_path):
    """A configuration small enough for a test, whose layers count as wide ones."""
    monkeypatch.setattr(skipping, "_COST_A_UNIT", 0)
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 200)
    config = defaults.text()
    config.data.update(name="text", path=str(tmp_path / "text.txt"))
    config.model.update(sizes=(8, 8, 8), output=8, embedding=8)
    config.batch, config.window, config.steps, config.report, config.save = 16, 10, 12, 4, 0
    config.evaluation.update(every=12, batch=8, window=10, warmup=0)
    config.finish = "metrics"
    return config


def made(config):
    mesh = parallel.make_mesh(jax.devices()[:1])
    task = tasks.make(config, mesh)
    return task, mesh, updates.Update(task, optim.Plan(config, task.stream), config, mesh)


def test_it_changes_by_the_rates_and_not_back_and_forth(wide):
    update = made(wide)[2]
    dense = update.compiled
    assert update.choose(OFTEN) == "" and update.compiled is dense
    line = update.choose(RARE)
    assert "left out" in line and "0.05 and 0.01 of steps" in line
    without = update.compiled
    assert without is not dense and update.choose(RARE) == ""
    between = rates(layer1=0.0, layer2=0.4, layer3=0.58)  # 0.88 of the dense step's time
    assert update.choose(between) == "" and update.compiled is without
    assert "is computed" in update.choose(OFTEN) and update.compiled is dense
    assert update.choose(between) == "" and update.compiled is dense
    assert update.choose({"nats": 1.0}) == ""


@pytest.mark.parametrize(
    "change",
    [
        {"model.skip_copies": False},
        {"model.cell": "lstm"},
        {"model.gradient": "autodiff"},
        {"model.hm_lstm.flush": False},
    ],
    ids=str,
)
def test_where_nothing_can_be_left_out_there_is_one_form(wide, change):
    wide.update_from_flattened_dict(change)
    update = made(wide)[2]
    dense = update.compiled
    assert update.choose(RARE) == "" and update.compiled is dense


def test_on_a_tpu_it_is_the_rows_of_a_chip_that_must_all_copy(wide, monkeypatch):
    monkeypatch.setattr(parallel, "device_kind", lambda mesh=None: "TPU v5 lite")
    of_few = made(wide)[2]
    assert "left out" in of_few.choose(RARE)
    assert of_few.choose(OFTEN).endswith("0.90 of steps")
    wide.batch = 256
    of_many = made(wide)[2]
    dense = of_many.compiled
    assert of_many.choose(RARE) == "" and of_many.compiled is dense
    wide.model.backend = "scan"
    assert made(wide)[2].choose(RARE) == ""


def test_both_forms_compute_the_same_update_by_different_programs(wide):
    task, mesh, update = made(wide)
    plan = optim.Plan(wide, task.stream)
    batch = parallel.shard_batch(task.stream(0), mesh)
    scalars = {
        name: parallel.scalar(np.float32(value), mesh)
        for name, value in (plan.scalars(0) | task.scalars(0)).items()
    }
    results, programs = [], []
    for _ in range(2):
        state, carry = train_state.start(task, plan, wide, mesh)
        programs.append(update.compiled.lower(state, carry, batch, scalars).as_text())
        results.append(jax.device_get(update.compiled(state, carry, batch, scalars)))
        update.choose(RARE)
    assert "stablehlo.case" in programs[1] and "stablehlo.case" not in programs[0]
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        if a.dtype == np.float32:
            np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-5)


SPEED = "chars_per_second"


class After(Stopping):
    """True after so many updates, as if SIGTERM had come then."""

    def __init__(self, updates):
        super().__init__()
        self.left = updates

    def __bool__(self):
        self.left -= 1
        return super().__bool__() or self.left < 0


def test_a_stopped_run_goes_on_in_the_form_it_was_in_bit_for_bit(wide, tmp_path, monkeypatch):
    """It is stopped between two saves, where nothing is chosen."""
    original = updates.Update.choose
    monkeypatch.setattr(updates.Update, "choose", lambda self, _: original(self, RARE))
    wide.save, whole, said = 4, str(tmp_path / "whole"), []
    expected = loop.train(wide, whole, said.append)
    (line,) = [line for line in said if "left out" in line]
    assert line.startswith("recurrence: what layers COPY is left out from the next update on")
    rows = metrics_log.read_metrics(tmp_path / "whole/metrics.jsonl")
    compiled = [row["step"] for row in rows if "gradient_norm" in row and SPEED not in row]
    assert compiled == [4, 8]  # what compiles first, at the beginning and in the new form
    stopped = str(tmp_path / "stopped")
    assert loop.train(wide, stopped, lambda line: None, stopping=After(6)) is None
    assert metrics_log.last_report(stopped, 12)["step"] in (6, 7)
    assert loop.train(wide, stopped, lambda line: None) == expected
    left_out = {
        row["step"]: row[updates.LEFT_OUT]
        for row in metrics_log.read_metrics(tmp_path / "stopped/metrics.jsonl")
        if "gradient_norm" in row
    }
    assert set(left_out.values()) == {1.0} and {4, 8, 12} <= set(left_out)


def test_the_last_report_is_of_training_and_not_of_what_came_later(wide, tmp_path):
    loop.train(wide, str(tmp_path / "run"), lambda line: None)
    steps = [metrics_log.last_report(tmp_path / "run", step).get("step") for step in (3, 4, 7, 12)]
    assert steps == [None, 4, 4, 12]
    assert "gradient_norm" in metrics_log.last_report(tmp_path / "run", 12)
