"""What `pip install` gives: the package, the command and the configurations, wherever one is."""

import json
import os
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

import hmrnn_jax

ROOT = Path(__file__).parent.parent
TINY = [
    "--config.model.sizes=8,8", "--config.model.output=8", "--config.model.embedding=8",
    "--config.batch=2", "--config.window=10", "--config.steps=4", "--config.evaluation.every=4",
    "--config.evaluation.batch=2", "--config.evaluation.window=10", "--config.evaluation.warmup=10",
    "--config.finish=metrics",
]  # fmt: skip
CELL = """
import jax, jax.numpy as jnp, hmrnn_jax as hm
cell = hm.HMLSTM(input_size=4, sizes=(8, 8))
params = hm.init(jax.random.key(0), cell)
out = hm.unroll(cell, params, hm.initial_state(cell, 2), jnp.ones((5, 2, 4)))
print(out.states.z[0].shape, hm.load("run").boundaries("The cat sat.").shape, hm.__file__)
"""


def test_every_package_is_named():
    """A folder that the list lacks would be missing from the wheel."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        settings = tomllib.load(file)
    folders = {path.parent for path in (ROOT / "hmrnn_jax").rglob("*.py")}
    found = {".".join(path.relative_to(ROOT).parts) for path in folders}
    assert set(settings["tool"]["setuptools"]["packages"]) == found | {"hmrnn_jax.configs"}
    data = settings["tool"]["setuptools"]["package-data"]
    for room in ("explorer", "pretrained"):
        others = {path.suffix for path in (ROOT / "hmrnn_jax" / room).iterdir() if path.is_file()}
        assert {f"*{ending}" for ending in others - {".py"}} == set(data[f"hmrnn_jax.{room}"])
    assert f"\nversion: {hmrnn_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.slow
def test_wheel_and_source_archive_work_in_an_empty_environment(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}

    def call(*command, folder=tmp_path):
        done = subprocess.run(
            list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    source = tmp_path / "source"
    source.mkdir()
    files = call("git", "ls-files", "-z", folder=ROOT).split("\0")
    with tarfile.open(tmp_path / "source.tar", "w") as archive:
        for name in filter(None, files):
            archive.add(ROOT / name, name)
    with tarfile.open(tmp_path / "source.tar") as archive:
        archive.extractall(source, filter="data")
    call(sys.executable, "-m", "build", "--outdir", tmp_path / "dist", source)
    (wheel,), (packed,) = ((tmp_path / "dist").glob(kind) for kind in ("*.whl", "*.tar.gz"))

    programs = tmp_path / "venv" / "bin"
    call(sys.executable, "-m", "venv", tmp_path / "venv")
    call(programs / "python", "-m", "pip", "install", "--quiet", wheel)
    hmrnn, elsewhere = programs / "hmrnn", tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert "hmrnn boundaries" in call(hmrnn, "--help", folder=elsewhere)
    configs = json.loads(call(hmrnn, "configs", "--json", folder=elsewhere).splitlines()[-1])
    assert set(configs["configs"]) == {path.stem for path in (ROOT / "configs").glob("*.py")}
    told = call(hmrnn, "train", "--workdir=run", *TINY, "--json", folder=elsewhere)
    assert json.loads(told.splitlines()[-1])["bpc"] > 0
    shown = call(hmrnn, "boundaries", "--workdir=run", "--scored=500", "--json", folder=elsewhere)
    assert json.loads(shown.splitlines()[-1])["rows"][0]["reading"] == "detectors"
    assert (elsewhere / "run" / "boundaries.png").read_bytes().startswith(b"\x89PNG")
    call(hmrnn, "explore", "--workdir=run", "--shown=500", folder=elsewhere)
    assert "function textView" in (elsewhere / "run" / "explorer.html").read_text()
    (elsewhere / "my.txt").write_text("The cat sat on the mat.\n")
    cut = call(hmrnn, "segment", "my.txt", "--pretrained", "--json", folder=elsewhere)
    assert json.loads(cut.splitlines()[-1])
    shapes = call(programs / "python", "-c", CELL, folder=elsewhere)
    assert shapes.startswith("(5, 2) (1, 12) ") and str(tmp_path / "venv") in shapes

    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    call(programs / "python", "-m", "pip", "install", "--quiet", "pytest", "pytest-xdist")
    tests = ("test_packaging", "test_house", "test_ops", "test_cli", "test_fixtures_nested_lstm")
    names = [f"tests/{name}.py" for name in tests]
    quick = ["-m", "not whole_program and not slow"]
    call(programs / "python", "-m", "pytest", "-n", "0", *quick, *names, folder=unpacked)
