"""A trace holds the updates asked for, whole, and nothing of it changes the run."""

import collections
import gzip
import json
import os

import jax
import numpy as np
import pytest
from runs import newest, run

from hmrnn_jax import defaults
from hmrnn_jax.errors import UserError
from hmrnn_jax.training import loop as program
from hmrnn_jax.training import profiling


@pytest.fixture(scope="module")
def config():
    config = defaults.text().unlock()
    config.data.name = "python_reference"
    config.model.sizes, config.model.output, config.model.embedding = (8, 6), 8, 8
    config.batch, config.window, config.steps = 8, 10, 6
    config.report, config.evaluation.every, config.evaluation.batch = 2, 100, 8
    config.finish = "metrics"
    return config


def traced(config, workdir, updates):
    lines = []
    program.train(config, str(workdir), lines.append, updates)
    return lines


def events(workdir):
    """`[(name, arguments)]` of the only trace in a workdir."""
    (path,) = (workdir / "profile").rglob("*.trace.json.gz")
    with gzip.open(path) as file:
        found = json.load(file)["traceEvents"]
    return [(event["name"], event.get("args", {})) for event in found if event.get("ph") == "X"]


@pytest.mark.slow
def test_a_trace_holds_the_updates_asked_for_and_changes_nothing(config, tmp_path):
    lines = traced(config, tmp_path / "traced", "3:4")
    (told,) = [line for line in lines if line.startswith("trace of updates 3 to 4 in ")]
    assert str(tmp_path / "traced" / "profile") in told and "ui.perfetto.dev" in told
    found = events(tmp_path / "traced")
    assert [int(a["step_num"]) for name, a in found if name == "update"] == [3, 4]
    # The program's operations outside of loops ran twice on each of the devices: both updates
    # are there from the start to the end. (Not every jax tells of those within.)
    ran = collections.Counter(a["hlo_op"] for _, a in found if a.get("hlo_module") == "jit_mapped")
    times = collections.Counter(ran.values())
    assert min(times) == 2 * jax.device_count() and times[min(times)] > 10
    assert list((tmp_path / "traced" / "profile").rglob("*.xplane.pb"))

    run(config, tmp_path / "plain")
    assert not (tmp_path / "plain" / "profile").exists()
    (_, one), (_, other) = newest(tmp_path / "plain")[0], newest(tmp_path / "traced")[0]
    jax.tree.map(np.testing.assert_array_equal, one["state"]["params"], other["state"]["params"])

    # Once more, now that all updates are made.
    lines = traced(config, tmp_path / "traced", "3:4")
    assert "no trace: updates 3 to 4 were not made this time" in lines


def test_a_run_that_ends_early_leaves_what_it_traced(tmp_path):
    lines = []
    with profiling.Trace("2:9", 20, tmp_path, lines.append) as trace:
        for number in range(1, 4):
            assert trace(number, lambda a, b: a + b, np.int32(number), np.int32(1)) == number + 1
        assert not lines
    assert lines[0].startswith("trace of updates 2 to 3 in ")
    assert [int(a["step_num"]) for name, a in events(tmp_path) if name == "update"] == [2, 3]


def test_the_last_update_is_waited_for(monkeypatch, tmp_path):
    """Devices run behind the program: a trace that ended at once would miss them."""
    order = []
    monkeypatch.setattr(jax, "block_until_ready", lambda tree: order.append(tree))
    monkeypatch.setattr(jax.profiler, "start_trace", lambda *_, **__: order.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: order.append("stop"))
    with profiling.Trace("2:3", 3, tmp_path, str) as trace:
        for number in (1, 2, 3):
            trace(number, lambda n: n * 10, number)
    assert order == [(2,), "start", 30, "stop"]


def test_only_process_0_traces(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    lines = []
    with profiling.Trace("1:2", 2, tmp_path, lines.append) as trace:
        assert trace(1, abs, -3) == 3
    assert not lines and not os.listdir(tmp_path)


@pytest.mark.parametrize("updates", ["0:2", "4:3", "5:7", "7:7"])
def test_a_range_beyond_the_run_is_refused_before_anything_is_written(config, tmp_path, updates):
    with pytest.raises(UserError, match=f"--profile is {updates}; .* <= 6, the updates of this"):
        traced(config, tmp_path / "run", updates)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("updates", ["3", "3-4", "a:b", "1:", "-1:2", "1:2:3"])
def test_what_is_no_range_is_refused(updates):
    with pytest.raises(UserError, match="give the updates to trace as FIRST:LAST"):
        profiling.parse(updates, 6)
    assert profiling.parse("1:6", 6) == (1, 6)
