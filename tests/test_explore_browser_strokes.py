"""The page of `hmrnn explore` of strokes, in headless Chromium: as Python cuts and scores them."""

import numpy as np
import pytest
from explored import DRAWN
from stroke_models import config_of, data, mesh_of

from hmrnn_jax import run as runs
from hmrnn_jax.analysis import scores
from hmrnn_jax.analysis.segmenters import last_steps
from hmrnn_jax.datasets.sequences import Scale
from hmrnn_jax.explorer import sequences as explored
from hmrnn_jax.inference import readings

selenium = pytest.importorskip("selenium", reason="needs selenium: pip install '.[dev]'")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402


def test_strokes_are_cut_scored_and_played(opened, monkeypatch):
    rng = np.random.default_rng(0)
    sequences = data((40, 31))
    curves = [
        (rng.integers(0, 2, (2, n)).astype(np.int8), rng.random((3, n)), rng.random(n, np.float32))
        for n in (40, 31)
    ]
    curves[0][2][20] = 2.0  # the highest of all
    monkeypatch.setattr(explored, "_read", lambda *_: iter(curves))
    config = config_of()
    config.data.name = "scribbles"
    scale = Scale(("x", "y"), "pen", (1.0, -2.0), (0.5, 3.0))
    run = runs.Run("run", config, scale, None, {}, 1.0, mesh_of())
    monkeypatch.setattr(explored, "_validation", lambda run, given: (given, "these"))
    browser = opened(explored.look(run, sequences, "mine"))
    both = np.concatenate([surprise for *_, surprise in curves])
    for length in (2.0, 5.0, 11.0):
        asked = readings.Reading.of("surprise", length)
        ends = last_steps(sequences.lengths)
        asked = asked.calibrated(both[None], ends, ~ends)
        script = "return explorer.view.cut('surprise', arguments[0]).z[0].map((row) => [...row])"
        found = browser.execute_script(script, length)
        for (*_, surprise), own in zip(curves, found, strict=True):
            expected = asked.boundaries(surprise[None], np.zeros(len(surprise), bool))[0]
            np.testing.assert_array_equal(own, expected)
    z = [curves[n][0][0] for n in (0, 1)]
    # Without the last steps, which end a segment whatever is found.
    padded = [np.pad(one[:-1], (0, 40 - len(one))) for one in z]
    true = [sequences.events[sequences.place(n)][:-1] for n in (0, 1)]
    gold = [np.pad(one, (0, 39 - len(one))) for one in true]
    script = "return explorer.view.scores(explorer.view.cut('detectors', 0).z)[0]"
    found = browser.execute_script(script)
    assert found["f1"] == pytest.approx(scores.precision_recall_f1(padded, gold)[2])
    within = scores.precision_recall_f1(padded, gold, tolerance=explored.TOLERANCE)[2]
    assert found["extra"] == {"F1 within 5 steps": pytest.approx(within)}
    # Dots stand at cuts, wherever the level lies: here at the highest of all.
    browser.find_element(By.CSS_SELECTOR, "input[value=surprise]").send_keys(Keys.SPACE)
    browser.execute_script("explorer.chosen.length = 25")  # so that the highest one alone is one
    cuts = "return explorer.view.state.z[0].map((row) => row.reduce((a, b) => a + b, 0))"
    assert browser.execute_script(DRAWN)[1] == sum(browser.execute_script(cuts)) == 1
    browser.find_element(By.CSS_SELECTOR, "input[value=detectors]").send_keys(Keys.SPACE)
    step = browser.find_element(By.CSS_SELECTOR, ".sequence input")
    step.send_keys(Keys.HOME)
    assert browser.find_element(By.CSS_SELECTOR, ".told").text.startswith("step 1 of 40, layer 1: ")
    browser.find_element(By.CSS_SELECTOR, ".sequence button").send_keys(Keys.ENTER)
    WebDriverWait(browser, 20).until(lambda browser: step.get_attribute("value") == "39")
