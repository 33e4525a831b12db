"""The reader of the numeric fixtures, and the program that made those of odd windows."""

import sys

import fixtures
import numpy as np
import pytest

sys.path.insert(0, str(fixtures.OWN))
import make  # noqa: E402


def test_a_folder_without_fixtures_is_refused_rather_than_all_left_out(tmp_path):
    (tmp_path / "other.npz").touch()
    for wrong in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FileNotFoundError, match=f"{wrong}, where there are no fixtures"):
            fixtures.folder(str(wrong))
    (tmp_path / "mdn.npz").touch()
    assert fixtures.folder(str(tmp_path)) == tmp_path
    assert fixtures.folder("") == fixtures.folder(None) == fixtures.OWN


def test_windows_are_cut_in_chunks_that_divide_them():
    assert [fixtures.chunk(steps) for steps in (2, 9, 12, 13, 25)] == [2, 3, 2, 13, 5]


@pytest.mark.parametrize("name", make.FIXTURES)
def test_fixtures_are_what_their_program_makes(name):
    with np.load(fixtures.OWN / f"{name}.npz", allow_pickle=False) as file:
        kept = dict(file)
    made = make.FIXTURES[name]()
    assert kept.keys() == made.keys() and str(kept.pop("meta")) == made.pop("meta")
    for key, array in made.items():
        fixtures.assert_close(kept[key], array, 1e-12, key)


def test_the_programs_derivatives_are_finite_differences():
    """Of soft boundaries, which are not discretised, and of a Nested LSTM."""
    rng = np.random.default_rng(0)
    sizes = (2, 3, 2)
    problems = [
        (
            make.draw_hm_lstm(rng, 3, 2, 2, sizes, "soft", True),
            lambda inputs, weights: make.hm_lstm(inputs, weights, sizes, "soft", 0.1, True),
        ),
        (
            make.draw_nested_lstm(rng, 3, 2, 2, 3, 2),
            lambda inputs, weights: make.nested_lstm(inputs, weights, 2, "tanh"),
        ),
    ]
    for (inputs, weights), run in problems:
        found = make.gradients(run(inputs, weights)[1], inputs)
        direction = {name: rng.normal(size=v.shape) for name, v in inputs.items()}
        up, down = (
            run({k: v + s * direction[k] for k, v in inputs.items()}, weights)[1].value
            for s in (1e-6, -1e-6)
        )
        slope = sum(np.sum(found[f"grad/{name}"] * v) for name, v in direction.items())
        np.testing.assert_allclose(slope, (up - down) / 2e-6, rtol=1e-6)
