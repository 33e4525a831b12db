"""Damaged checkpoints: told of, passed over for the one before, and left as they are."""

import shutil

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from test_checkpoint import TARGET, contents, flip, judged, read, tree, two_states, write

from hmrnn_jax.errors import UserError
from hmrnn_jax.training import manifest, stored
from hmrnn_jax.training.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return two_states(tmp_path_factory.mktemp("saved"))


@pytest.fixture
def run(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def folder_instead(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [flip, halve, lambda path: path.unlink(), folder_instead])
def test_damage_to_any_file_is_told_and_the_state_before_is_taken(saved, tmp_path, damage):
    written = manifest.read(saved / "checkpoints/latest/2")["files"]
    on_disk = [path for path in (saved / "checkpoints/latest/2/default").rglob("*")]
    assert len(written) == sum(path.is_file() for path in on_disk) > 5
    for number, name in enumerate(written):
        run = shutil.copytree(saved, tmp_path / str(number))
        damage(run / "checkpoints/latest/2" / name)
        before = contents(run)
        step, said = read(run)
        assert step == 1 and f"latest/2 is not a whole checkpoint ({name} is " in said
        assert contents(run) == before


def test_damage_to_the_best_is_told_and_no_other_score_is_called_its(run):
    assert judged(run) == (2, "parameters of update 2", "")
    flip(next((run / "checkpoints/best/2/default/d").iterdir()))
    before = contents(run)
    step, origin, said = judged(run)
    assert step == 2 and origin == "parameters of the newest state, update 2, as the best is lost"
    assert (
        "best/2 is not a whole checkpoint (default/d/" in said
        and "the best checkpoint is lost" in said
    )
    assert contents(run) == before
    shutil.rmtree(run / "checkpoints/best")
    assert judged(run)[1] == origin and "best checkpoint is lost" in judged(run)[2]
    assert "the best checkpoint, of the loss 0.5, is lost" in read(run)[1]


@pytest.mark.parametrize(
    ("since", "value", "what"),
    [(4, 3, "averaged parameters"), (7, 7, "parameters"), (-1, 7, "parameters")],
)
def test_for_a_lost_best_the_average_stands_in_once_validation_judges_it(
    tmp_path, since, value, what
):
    """Of a state after update 7: its parameters are 7 all over, their average 3."""
    state = tree(7, best=0.5)
    state["state"] = state["state"].replace(average={"w": jnp.full((3, 5), 3.0)})
    state["progress"]["since"] = jnp.int32(since)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, state)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        best = checkpoints.restore_best(TARGET)
    np.testing.assert_array_equal(best.tree["params"]["w"], value)
    assert best.origin == f"{what} of the newest state, update 7, as the best is lost"


def test_before_the_first_validation_no_best_is_missed(tmp_path):
    write(tmp_path, 0, 3)
    step, origin, said = judged(tmp_path)
    assert (step, said) == (3, "") and "as no validation has done best yet" in origin


@pytest.mark.parametrize("foreign", ["9999", "notes", "7.txt", "007", "²"])
def test_a_foreign_folder_hides_nothing(run, foreign):
    (run / "checkpoints/latest" / foreign).mkdir()
    (run / "checkpoints/best" / foreign).mkdir()
    before = contents(run)
    step, said = read(run, read_only=False)
    assert step == 2 and judged(run)[0] == 2
    assert ("latest/9999 is not a whole checkpoint" in said) == (foreign == "9999")
    assert contents(run) == before
    write(run, 3, 4, best=4, loss=0.25)
    assert read(run)[0] == 4 and judged(run)[0] == 4
    assert (run / "checkpoints/latest" / foreign).exists()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"{}", b"[]", b"3", b"\xf8\x9c", b"\0" * 99, np.arange(999).tobytes()]
)
def test_a_step_of_nonsense_hides_nothing(run, content):
    """Whose names are those of a checkpoint, and which nothing vouches for."""
    for name in ("latest", "best"):
        folder = run / "checkpoints" / name
        shutil.copytree(folder / "2/default", folder / "9999/default")
        for path in (folder / "9999/default").rglob("*"):
            if path.is_file():
                path.write_bytes(content)
    step, said = read(run)
    assert step == 2 and "latest/9999 is not a whole checkpoint" in said
    assert judged(run)[0] == 2


def test_a_step_without_its_tree_hides_nothing(run):
    shutil.rmtree(run / "checkpoints/latest/2/default")
    step, said = read(run)
    assert step == 1 and "latest/2 is not a whole checkpoint (it has no folder 'default')" in said


def test_when_nothing_is_whole_training_ends_and_everything_stays(run):
    for step in (1, 2):
        flip(run / f"checkpoints/latest/{step}/default/_METADATA")
    before = contents(run)
    for read_only in (True, False, False):
        with pytest.raises(UserError, match="None of the checkpoints .* is whole; they stay"):
            read(run, read_only)
    assert contents(run) == before


def test_a_missing_manifest_means_an_earlier_version_and_the_checkpoint_opens(run):
    for path in (run / "checkpoints").rglob("manifest.json"):
        path.unlink()
    assert read(run) == (2, "") and judged(run)[0] == 2


def test_a_damaged_manifest_is_told_and_a_state_with_a_good_one_comes_first(run):
    flip(run / "checkpoints/latest/2/manifest.json")
    step, said = read(run)
    assert step == 1 and "latest/2: manifest.json is not what was written" in said
    flip(run / "checkpoints/latest/1/manifest.json")
    step, said = read(run)
    assert step == 2 and said.count("nothing vouches for its files") == 2
    for content in (b"", b"[]", b"null", b"\xff", b'{"check": 1}'):
        (run / "checkpoints/latest/2/manifest.json").write_bytes(content)
        assert read(run)[0] == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", [halve, lambda path: path.unlink()])
def test_where_nothing_vouches_what_orbax_refuses_is_damage(run, damage):
    for path in (run / "checkpoints").rglob("manifest.json"):
        path.unlink()
    damage(next((run / "checkpoints/latest/2/default/d").iterdir()))
    step, said = read(run)
    assert step == 1 and "latest/2 is not a whole checkpoint" in said


def test_the_cause_is_what_is_told_of_a_long_error():
    long = (
        "RESOURCE_EXHAUSTED: Failed writing: \"/a/b\": No space left on device [os_error_code='28']"
    )
    assert stored.reason(ValueError(long)) == "No space left on device"
    assert stored.reason(OSError(5, "Input/output error", "/a/b")) == "Input/output error"
    assert stored.reason(MemoryError()) == "MemoryError"
    assert len(stored.reason(ValueError("many words " * 99))) <= 160


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("the mount does not answer"),
        MemoryError(),
        OSError(5, "Input/output error"),
        PermissionError(13, "Permission denied"),
        ValueError("UNAVAILABLE: try again [tensorstore_spec=...]"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("where", ["tree", "files", "tree of an earlier version"])
def test_what_may_pass_ends_the_program_and_is_not_damage(run, monkeypatch, error, where):
    def fail(*arguments, **more):
        raise error

    for path in (run / "checkpoints").rglob("manifest.json") if "earlier" in where else ():
        path.unlink()
    before = contents(run)
    with monkeypatch.context() as patched:
        if where == "files":
            patched.setattr(manifest, "_measure", fail)
        else:
            patched.setattr(ocp.StandardCheckpointHandler, "restore", fail)
        with pytest.raises(UserError, match=r"latest/2 cannot be read now \(.+\)\. Nothing was"):
            read(run, read_only=False)
    assert contents(run) == before and read(run) == (2, "")


def test_another_model_is_named_and_not_taken_for_damage(run):
    with Checkpoints(run, read_only=True) as checkpoints:
        with pytest.raises(UserError, match=r"w has the shape \(3, 5\) there and \(3, 6\) here"):
            checkpoints.restore(tree(0, shape=(3, 6)))
        with pytest.raises(UserError, match="params/v has the shape None there and"):
            checkpoints.restore_best(TARGET | {"params": {"v": jnp.zeros(3)}})
    assert not checkpoints.notes
