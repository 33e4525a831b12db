"""Every moment of a train step is given to one part, and the parts are what they say."""

import json
import subprocess
import sys

import pytest
from test_programs import ROOT, environment

from benchmarks import profile_step
from benchmarks.problems import Size
from benchmarks.profile_step import FORWARD, IDLE, OPTIMIZER, OTHER, OUTPUT, REVERSE, WEIGHTS
from benchmarks.profile_step import Operation as Op

PROGRAM = """
HloModule jit_mapped, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %sum = f32[] add(%a, %b), metadata={op_name="jit(mapped)/reduce_sum"}
}

%body (s: (s32[], f32[4])) -> (s32[], f32[4]) {
  %s = (s32[], f32[4]{0}) parameter(0)
  %unnamed = f32[4]{0} copy(%s)
  %cell = f32[4]{0} fusion(%unnamed), metadata={op_name="jit(mapped)/jvp(M)/recurrence/while/mul"}
}

%back (s: (s32[], f32[4])) -> (s32[], f32[4]) {
  %pulled = f32[4]{0} fusion(%u), metadata={op_name="jit(mapped)/jvp(M)/recurrence/tanh"}
}

ENTRY %main (p0: f32[4]) -> f32[4] {
  %p0 = f32[4]{0} parameter(0)
  %gather = f32[4]{0} gather(%p0), metadata={op_name="jit(mapped)/jvp(M)/gather"}
  %zeros = f32[4]{0} broadcast(%p0)
  %hoisted = f32[4]{0} dot(%gather), metadata={op_name="jit(mapped)/jvp(M)/recurrence/dot"}
  %t0 = (s32[], f32[4]{0}) tuple(%zeros, %hoisted)
  %w0 = (s32[], f32[4]{0}) while(%t0), condition=%c, body=%body, metadata={op_name="jit(mapped)/jvp(M)/recurrence/while"}
  %copied = f32[4]{0} copy(%w0)
  %logits = f32[4]{0} dot(%copied), metadata={op_name="jit(mapped)/jvp(M)/output/dot"}
  %loss = f32[4]{0} fusion(%logits), metadata={op_name="jit(mapped)/jvp()/reduce_sum"}
  %dlogits = f32[4]{0} dot(%loss), metadata={op_name="jit(mapped)/transpose(jvp(M))/output/dot"}
  %w1 = (s32[], f32[4]{0}) while(%dlogits), condition=%c, body=%back, metadata={op_name="jit(mapped)/transpose(jvp(M))/recurrence/while"}
  %kernel = f32[4]{0} dot(%w1), metadata={op_name="jit(mapped)/transpose(jvp(M))/recurrence/weight_gradients/dot"}
  %adam = f32[4]{0} fusion(%kernel), metadata={op_name="jit(mapped)/sqrt"}
  ROOT %out = (f32[4]{0}) tuple(%adam, %lone)
  %lone = f32[4]{0} copy(%p0)
}
"""  # noqa: E501


def test_instructions_are_told_apart_by_name_and_by_loop():
    parts, containers = profile_step.parts_of(PROGRAM)
    assert containers == {"w0", "w1"}
    assert {name for name, part in parts.items() if part == FORWARD} == {
        "s", "unnamed", "cell", "zeros", "hoisted", "t0", "w0"
    }  # fmt: skip
    # Within the reverse loop the forward step is made again.
    assert {name for name, part in parts.items() if part == REVERSE} == {"pulled", "w1"}
    assert parts["kernel"] == WEIGHTS and parts["adam"] == OPTIMIZER and parts["lone"] == OTHER
    assert {parts[name] for name in ("gather", "copied", "logits", "loss", "dlogits")} == {OUTPUT}


def test_every_moment_is_given_once():
    parts = {"loop": FORWARD, "cell": FORWARD, "dot": OUTPUT, "adam": OPTIMIZER, "b": REVERSE}
    run = [
        Op("loop", 10, 50), Op("cell", 12, 20), Op("cell", 30, 40),  # a loop, twice around
        Op("dot", 36, 46),  # on another thread
        Op("b", 60, 100), Op("adam", 70, 80), Op("adam", 90, 110),
    ]  # fmt: skip
    total = profile_step.shares(run, parts, {"loop", "b"})
    assert sum(total.values()) == 100
    assert total[OUTPUT] == 10 - 2  # of its 10, half of the 4 beside `cell`
    assert total[FORWARD] == 2 + 8 + 10 + 10 - 2 + 4  # the loop's own time is the part's too
    assert total[OPTIMIZER] == 30 and total[REVERSE] == 20
    assert total[IDLE] == 10 and total[WEIGHTS] == total[OTHER] == 0


def test_the_table_adds_up_for_each_step():
    steps = {"dense": {FORWARD: 0.003, REVERSE: 0.001}, "other": {FORWARD: 0.001, REVERSE: 0.001}}
    assert profile_step.table(steps).splitlines() == [
        "| part | dense, ms | share | other, ms | share |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| recurrence, forward | 3.00 | 75.0% | 1.00 | 50.0% |",
        "| recurrence, reverse | 1.00 | 25.0% | 1.00 | 50.0% |",
        "| step, traced | 4.00 | 100.0% | 2.00 | 100.0% |",
    ]


def test_the_step_that_leaves_copies_out_is_another_program(monkeypatch):
    monkeypatch.setitem(
        profile_step.SIZES, "ptb_taught", Size((8, 8, 8), 4, 8, 5, batch=8, window=4)
    )
    steps = profile_step.steps_at((0.5, 0.2))
    assert list(steps) == ["dense", "skipping"]
    branches = [text.count(" conditional(") for _, c in steps.values() for text in [c.as_text()]]
    assert branches[0] == 0 < branches[1]
    parts, seconds = profile_step.measure(*steps["skipping"], 1)
    assert parts[REVERSE] > 0 and parts[WEIGHTS] > 0 and seconds > 0


@pytest.mark.whole_program
@pytest.mark.parametrize("layer", [pytest.param("hm_lstm", marks=pytest.mark.slow), "lstm"])
def test_a_real_step_has_all_parts(layer):
    command = [
        sys.executable, ROOT / "benchmarks" / "profile_step.py", f"--config.model.cell={layer}",
        "--config.model.sizes=64,64", "--config.window=20", "--config.batch=8", "--updates=2",
    ]  # fmt: skip
    if layer == "lstm":
        command += ["--config.model.head=plain"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| ")]
    milliseconds = {row[1].strip(): float(row[2]) for row in rows[2:]}
    assert set(milliseconds) == {*profile_step.PARTS, "step, traced"}
    whole = milliseconds.pop("step, traced")
    assert sum(milliseconds.values()) == pytest.approx(whole, abs=0.05)
    for part in (FORWARD, REVERSE, WEIGHTS, OUTPUT, OPTIMIZER):
        assert milliseconds[part] > 0, json.dumps(milliseconds)
    assert milliseconds[OTHER] < 0.2 * whole
