"""Checkpoints: what is finite is saved and found, how many are kept, which is the best."""

import hashlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmrnn_jax import parallel
from hmrnn_jax.errors import UserError
from hmrnn_jax.training import manifest, writer
from hmrnn_jax.training import state as train_state
from hmrnn_jax.training.checkpoint import Checkpoints

TARGET = {"params": {"w": jnp.zeros((3, 5))}, "slope": jnp.float32(0)}


def tree(step, best=np.inf, shape=(3, 5)):
    """A whole state of training; its parameters are `step` all over."""
    params = {"w": jnp.full(shape, float(step))}
    moments = (jnp.int32(step), {"w": jnp.ones(shape)})
    state = train_state.TrainState(jnp.int32(step), params, moments, jnp.zeros(2, jnp.uint32))
    progress = {"best": jnp.float32(best), "waited": jnp.int32(0)}
    return {"state": state, "carry": jnp.ones((2, 5)), "progress": progress, "slope": jnp.ones(())}


def write(workdir, *steps, best=None, loss=0.5):
    """A run with states after `steps`, and a best one."""
    lines = []
    with Checkpoints(workdir, say=lines.append) as checkpoints:
        if (workdir / "checkpoints").exists():
            checkpoints.restore(tree(0))
        for step in steps:
            checkpoints.save(step, tree(step, np.inf if best is None else loss))
        if best is not None:
            found = {"params": tree(best)["state"].params, "slope": jnp.ones(())}
            checkpoints.save_best(best, found, loss)
    return lines


def read(workdir, read_only=True):
    """The update that training would go on from, and what is said."""
    with Checkpoints(workdir, read_only) as checkpoints:
        found = checkpoints.restore(tree(0))
    np.testing.assert_array_equal(found["state"].params["w"], int(found["state"].step))
    return int(found["state"].step), "\n".join(checkpoints.notes)


def judged(workdir):
    """What the run is judged by: its update and origin, and what is said."""
    with Checkpoints(workdir, read_only=True) as checkpoints:
        best = checkpoints.restore_best(TARGET)
    np.testing.assert_array_equal(best.tree["params"]["w"], best.step)
    return best.step, best.origin, "\n".join(checkpoints.notes)


def steps(workdir, name="latest"):
    folder = workdir / "checkpoints" / name
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def contents(workdir):
    """What is in a folder, byte for byte."""
    files = (path for path in sorted(workdir.rglob("*")) if path.is_file())
    names = [str(path) for path in sorted(workdir.rglob("*"))]
    return names, [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


def two_states(folder):
    """A run with states after updates 1 and 2, of which the second is the best."""
    write(folder, 1, 2, best=2)
    return folder


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return two_states(tmp_path_factory.mktemp("saved"))


@pytest.fixture
def run(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


# Parameters that are not finite


def test_parameters_that_are_not_finite_are_not_saved(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, tree(1))
        bad = tree(2)
        bad["state"].params["w"] = bad["state"].params["w"].at[1, 2].set(jnp.nan)
        with pytest.raises(
            UserError, match="update 2 are not finite; the checkpoint of update 1 is kept"
        ):
            checkpoints.save(2, bad)
        with pytest.raises(UserError, match="not finite"):
            checkpoints.save_best(2, {"params": bad["state"].params, "slope": jnp.ones(())}, 0.1)
    assert read(tmp_path) == (1, "") and steps(tmp_path) == [1]


def test_parameters_that_are_not_finite_are_not_taken(run):
    path = run / "checkpoints"
    for name in ("latest", "best"):  # as an earlier version could save them
        found = tree(3, best=0.5)
        found["state"].params["w"] *= jnp.nan
        found = (
            found if name == "latest" else {"params": found["state"].params, "slope": jnp.ones(())}
        )
        work = writer.Writer(path, print)
        work.write(name, 3, found, loss=0.1)
        work.wait()
        work.close()
    step, said = read(run)
    assert (
        step == 2 and "latest/3 is not a whole checkpoint (its parameters are not finite)" in said
    )
    step, _, said = judged(run)
    assert step == 2 and "best/3 is not a whole checkpoint (its parameters are not" in said


# What is kept


def test_the_last_two_whole_states_are_kept(tmp_path):
    write(tmp_path, 1, 2, 3, 4)
    assert steps(tmp_path) == [3, 4]
    write(tmp_path, 5)
    assert steps(tmp_path) == [4, 5]


def test_a_damaged_state_is_not_one_of_the_two_and_can_be_written_over(run):
    flip(run / "checkpoints/latest/2/default/_METADATA")
    said = write(run, 3)
    assert "latest/2 is not a whole checkpoint" in said[0] and steps(run) == [1, 2, 3]
    flip(run / "checkpoints/latest/3/default/_METADATA")
    assert read(run)[0] == 1
    write(run, 2)
    assert read(run)[0] == 2 and steps(run) == [1, 2, 3]
    write(run, 3, 4)
    assert read(run) == (4, read(run)[1]) and steps(run) == [3, 4]


def test_a_save_that_fails_is_told_and_what_was_saved_is_kept(run, monkeypatch):
    def full(*arguments, **more):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, Checkpoints(run) as checkpoints:
        checkpoints.restore(tree(0))
        patched.setattr(manifest, "write", full)
        with pytest.raises(
            UserError, match=r"update 3 cannot be written \(No space left on device\); what"
        ):
            checkpoints.save(3, tree(3))
            checkpoints.wait()
    assert read(run)[0] == 2 and steps(run) == [1, 2]
    write(run, 4)
    names = {path.name for path in (run / "checkpoints/latest").iterdir()}
    assert names == {"2", "4"}  # and no leftover of the save that failed


def test_what_cut_saves_have_left_is_deleted_by_the_next_save_alone(run):
    left = run / "checkpoints/latest/3.orbax-checkpoint-tmp"
    left.mkdir()
    (left / "part").write_text("cut short")
    assert read(run, read_only=False) == (2, "") and left.exists()
    write(run, 4)
    assert not left.exists()


def test_a_state_is_deleted_only_when_the_one_that_replaces_it_has_its_manifest(run, monkeypatch):
    vouched, write_manifest = [], manifest.write

    def slow(folder, part, **facts):
        vouched.append(steps(run))  # what is there when the new one is not yet
        write_manifest(folder, part, **facts)

    monkeypatch.setattr(manifest, "write", slow)
    write(run, 3, 4)
    assert {1, 2} <= set(vouched[0]) and {2, 3} <= set(vouched[1])


# The best


def best_of(workdir, step, loss, restored=True):
    lines = []
    with Checkpoints(workdir, say=lines.append) as checkpoints:
        if restored:
            checkpoints.restore(tree(0))
        found = {"params": {"w": jnp.full((3, 5), float(step))}, "slope": jnp.ones(())}
        checkpoints.save_best(step, found, loss)
    return "\n".join(lines)


def test_a_better_best_replaces_the_one_before(run):
    best_of(run, 3, 0.25)
    assert judged(run)[0] == 3 and steps(run, "best") == [3]


def test_a_run_that_ends_by_an_error_deletes_nothing(run):
    """Another one may have taken the folder over, and written a better best there."""
    found = {"params": {"w": jnp.ones((3, 5))}, "slope": jnp.ones(())}
    with pytest.raises(UserError, match="taken over"), Checkpoints(run) as checkpoints:
        checkpoints.save_best(3, found, 0.25)
        checkpoints.wait()
        best_of(run, 4, 0.125, restored=False)
        raise UserError("The folder was taken over.")
    assert 4 in steps(run, "best")


def test_a_better_best_of_earlier_stays_and_is_told_of(run):
    """A run that goes on from an older state may have had it."""
    said = best_of(run, 3, 0.75)
    assert "the best checkpoint stays that of update 2, of the loss 0.5" in said
    assert judged(run)[0] == 2 and steps(run, "best") == [2]
    before = contents(run)
    assert best_of(run, 2, 0.5) == "" and contents(run) == before  # the same one again


def test_a_best_that_the_state_does_not_know_of_is_told_of(run):
    best_of(run, 3, 0.25)
    said = read(run)[1]
    assert (
        "of update 3, has the loss 0.25; the state that the run goes on from knows of 0.5" in said
    )


def test_of_two_that_a_kill_has_left_the_one_of_the_least_loss_is_the_best(run):
    shutil.copytree(run / "checkpoints/best/2", run.parent / "kept")
    best_of(run, 1, 0.25)
    shutil.copytree(run.parent / "kept", run / "checkpoints/best/2")
    assert steps(run, "best") == [1, 2] and judged(run)[0] == 1
    assert "of update 1, has the loss 0.25" in read(run)[1]


def test_a_best_without_a_loss_on_record_is_told_of_if_it_is_newer(run):
    (run / "checkpoints/best/2/manifest.json").unlink()
    assert read(run) == (2, "")
    shutil.rmtree(run / "checkpoints/latest/2")
    assert "of update 2, is newer than the state" in read(run)[1]


def test_no_checkpoint_at_all(tmp_path):
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.restore(tree(0)) is None
        with pytest.raises(UserError, match="holds no checkpoint"):
            checkpoints.restore_best(TARGET)
    assert not list(tmp_path.iterdir())


def test_a_restored_state_is_placed_as_asked_and_may_be_donated(run):
    mesh = parallel.make_mesh(jax.devices()[:2])
    carry = parallel.shard_rows(np.zeros((2, 5), np.float32), mesh)
    target = jax.tree.map(np.asarray, tree(0)) | {"carry": carry}
    with Checkpoints(run, read_only=True) as checkpoints:
        found = checkpoints.restore(target)
    assert found["carry"].sharding.is_equivalent_to(carry.sharding, 2)
    assert isinstance(found["slope"], np.ndarray)
    doubled = jax.jit(lambda x: 2 * x, donate_argnums=0)(found["carry"])
    np.testing.assert_array_equal(doubled, 2)
