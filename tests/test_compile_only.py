"""What is said of a compiled step is what its program holds."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from test_configs import PUBLISHED, load
from test_mnist import NAMES, image_file, label_file

from benchmarks import tpu
from benchmarks.problems import SIZES
from hmrnn_jax import defaults, parallel
from hmrnn_jax.errors import UserError
from hmrnn_jax.training import hlo
from hmrnn_jax.training.compile_only import compiled_step, describe, devices

ROOT = Path(__file__).parent.parent
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason='compiling for TPUs needs libtpu: pip install -e ".[tpu]"',
)

PROGRAM = """
HloModule jit_mapped

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %sum = f32[] add(f32[] %a, f32[] %b)
}

%inner (p: f32[4]) -> f32[4] {
  %r = f32[4]{0} all-reduce(f32[4]{0} %p), to_apply=%add
}

%body (s: (s32[], f32[4])) -> (s32[], f32[4]) {
  %s = (s32[], f32[4]{0}) parameter(0)
  %x = f32[4]{0} get-tuple-element((s32[], f32[4]{0}) %s), index=1
  %y = f32[4]{0} fusion(f32[4]{0} %x), kind=kLoop, calls=%inner
  ROOT %t = (s32[], f32[4]{0}) tuple(s32[] %i, f32[4]{0} %y)
}

%condition (s: (s32[], f32[4])) -> pred[] {
  %c = pred[] compare(s32[] %i, s32[] %n), direction=LT
}

ENTRY %main (p0: f32[4]) -> f32[4] {
  %w = (s32[], f32[4]{0}) while((s32[], f32[4]{0}) %t0), condition=%condition, body=%body
  ROOT %g = f32[4]{0} all-reduce(f32[4]{0} %v), to_apply=%add
}
"""


def test_reductions_are_found_within_loops():
    program = hlo.computations(PROGRAM)
    assert set(program) == {"add", "inner", "body", "condition", "main"}
    assert hlo.loop_bodies(program) == ["body"]
    inside = hlo.reached(program, "body")
    assert sum(map(hlo._is_reduction, inside)) == 1
    assert sum(not hlo._is_free(line) for line in program["body"]) == 1


def test_this_machine_reduces_once_and_outside_the_loops():
    config = defaults.text().unlock()
    config.data.name = "python_reference"
    config.model.sizes, config.model.output, config.model.embedding = (8, 8), 8, 8
    config.batch, config.window = 16, 5
    lines = describe(config, "cpu")
    text = "\n".join(lines)
    assert re.search(r"reductions over devices: [1-9]\d*, in loops over time 0", text)
    loops = [line for line in lines if line.startswith("loop ")]
    assert len(loops) >= 2  # one each way
    assert "recurrence: hm_lstm, forwards: scan, as cpu has no kernel" in lines
    assert re.search(r"total +[\d,]+", lines[0])
    config.batch = 12
    with pytest.raises(UserError, match="cannot be divided over 8 devices"):
        describe(config, "cpu")


def compile_only(target, *flags):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    command = [sys.executable, ROOT / "train.py", f"--compile_only={target}", *flags]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.whole_program
def test_an_unknown_target_is_told_in_a_sentence(tmp_path):
    done = compile_only("v99:2x2", f"--workdir={tmp_path}/run")
    assert done.returncode == 2
    installed = importlib.util.find_spec("libtpu") is not None
    sentence = "There is no TPU topology 'v99:2x2'" if installed else "libtpu is needed"
    assert sentence in done.stderr
    assert not (tmp_path / "run").exists()


@needs_libtpu
@pytest.mark.whole_program
def test_a_tpu_takes_two_kernels_a_window():
    flags = ["--config.model.sizes=(128,128)", "--config.window=4", "--config.batch=64"]
    done = compile_only("v5e:2x2", *flags)
    assert done.returncode == 0, done.stderr
    assert "hm_lstm, forwards: one kernel" in done.stdout
    assert "kernels of ours: 2 in a step" in done.stdout
    assert "in loops over time 0" in done.stdout
    assert "no loop over time outside the kernels" in done.stdout


@needs_libtpu
@pytest.mark.parametrize("size", ["ptb", "text8"])
def test_published_sizes_take_two_kernels_and_half_of_the_plain_steps_memory(size):
    mesh = parallel.make_mesh(devices("v5e:2x4"))
    naive, ours = (
        tpu.compiled(SIZES[size], mesh, tpu.CANDIDATES[name]).summary
        for name in ("naive f32", "ours bf16")
    )
    assert (ours.kernels, ours.loops, ours.reductions_in_loops) == (2, (), 0)
    assert ours.memory["temp"] <= naive.memory["temp"] / 2
    # Written plainly it is a loop each way.
    assert (naive.kernels, len(naive.loops)) == (0, 2)


def test_every_step_of_the_table_can_be_asked_for():
    assert tpu.names_of(",".join(tpu.CANDIDATES), tpu.CANDIDATES) == list(tpu.CANDIDATES)


def test_the_table_of_a_tpu_needs_a_target_that_there_is(capsys):
    with pytest.raises(SystemExit):
        tpu.main(["--target=v99:2x2"])
    installed = importlib.util.find_spec("libtpu") is not None
    sentence = "There is no TPU topology 'v99:2x2'" if installed else "libtpu is needed"
    assert sentence in capsys.readouterr().err


# Every published configuration on eight chips


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Made-up data for the tasks that have none of their own."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "valid", "test"):
        words = (f"word{k % 200}" + " \n"[k % 10 == 9] for k in range(4000))
        (folder / f"{split}.txt").write_text("".join(words))
        for length in range(13):
            (folder / f"{split}{length}").write_text("=\ta\ta\n<\t( a ( and b ) )\tb\n" * 6)
    for number, count in enumerate((60, 20)):
        (folder / NAMES[2 * number]).write_bytes(image_file(np.zeros((count, 28, 28), np.uint8)))
        (folder / NAMES[2 * number + 1]).write_bytes(label_file([0] * count))
    return folder


def narrow(config, folder):
    """The same network with narrow layers, on made-up data."""
    model, data = config.model, config.data
    model.sizes = (40,) * len(model.sizes)  # chunks of 4 and of 10 divide it
    for field, width in {"embedding": 40, "output": 16, "hidden": 16, "components": 2}.items():
        if field in model:
            model[field] = width
    if config.task == "language":
        words = config.window_random or data.unit == "words"
        data.name, data.path, data.unit = "text", str(folder), "words" if words else "characters"
        config.window = 16
    elif config.task == "strokes":
        data.name = "scribbles" if data.name == "iam_ondb" else data.name
    else:
        data.path = str(folder)
    config.batch = config.evaluation.batch = 8


@pytest.fixture(scope="module")
def once():
    """Narrow, many configurations are one program, which is compiled at its first one."""
    compiled, compile = {}, jax.stages.Lowered.compile

    def first(lowered):
        program = lowered.as_text()
        if program not in compiled:
            compiled[program] = compile(lowered)
        return compiled[program]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.stages.Lowered, "compile", first)
        yield


def assert_compiles(config):
    """For eight chips, with one kernel each way for every recurrence that says it takes one."""
    compiled, notes, _ = compiled_step(config, "v5e:2x4")
    told = "\n".join(hlo.findings(compiled))
    kernels = int(re.search(r"kernels of ours: (\d+) in a step", told).group(1))
    loops = len(re.findall("^loop ", told, re.M))
    assert notes and kernels >= sum("one kernel" in note for note in notes)
    assert loops >= sum(": scan, " in note for note in notes)
    assert re.search(
        r"reductions over devices: [1-9]\d*, in loops over time 0$", told, re.MULTILINE
    )


CONFIGURATIONS = [("quickstart", None), *((name, argument) for name, argument, *_ in PUBLISHED)]


@needs_libtpu
@pytest.mark.parametrize(("name", "argument"), CONFIGURATIONS)
def test_every_configuration_compiles_for_a_tpu(name, argument, folder, once):
    config = load(name).get_config(*filter(None, [argument])).unlock()
    narrow(config, folder)
    assert_compiles(config)


@needs_libtpu
@pytest.mark.slow
@pytest.mark.skipif("HMRNN_DATA" not in os.environ, reason="the data themselves: set HMRNN_DATA")
@pytest.mark.parametrize(("name", "argument"), CONFIGURATIONS)
def test_every_configuration_compiles_for_a_tpu_in_its_full_size(name, argument):
    config = load(name).get_config(*filter(None, [argument])).unlock()
    for part in (config, config.evaluation):
        part.batch = -(-part.batch // 8) * 8  # what eight chips can share
    assert_compiles(config)
