"""The page of `hmrnn explore` in headless Chromium: it cuts, scores and parses as Python does."""

import json
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from explored import DRAWN, SENTENCES, UNSPACED, make_up, run_of_letters, run_of_words

from hmrnn_jax.analysis import scores, trees
from hmrnn_jax.analysis.segmenters import blanks, within_lines, word_scores
from hmrnn_jax.explorer import page, text
from hmrnn_jax.inference import activations, reading, readings
from hmrnn_jax.tasks import language

selenium = pytest.importorskip("selenium", reason="needs selenium: pip install '.[dev]'")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

LENGTHS = (2.0, 2.5, 4.0, 7.3, 40.0, 500.0)
SHORT = (1.1, 1.7)  # all above a level, not peaks alone


class _Letters(NamedTuple):
    """Line ends and true ends, bool `[N]`, names of readings, and `cut(name, length)` by Python."""

    lines: np.ndarray
    gold: np.ndarray
    names: list
    cut: Callable


@pytest.fixture
def of_letters(opened, monkeypatch, request):
    """The page of a text is open, of a run that is asked for segments of some length: its
    `_Letters`."""
    run = run_of_letters(monkeypatch, trained=False)
    run.config.boundaries.lengths = getattr(request, "param", ())
    made_up, newline = make_up(monkeypatch), run.encoding.line_end
    ids, valid = run.encoding.encode(UNSPACED)[0], language.corpus_of(run).splits["valid"]
    gold = np.random.default_rng(1).random(len(ids)) < 0.3
    opened(text.look(run, ids, UNSPACED, "mine", gold))
    names = [one for one in readings.available(run.model, newline) if one != "line_break"]

    def cut(name, length):
        asked = readings.Reading.of(name, length)
        # As the page asks for them: together, and of the validation text without detectors.
        curves = made_up(run.model, {}, ids, names)[name]
        if name != "detectors":
            of_valid = made_up(run.model, {}, valid, names[1:])[name]
            asked = asked.calibrated(of_valid, readings.line_ends(valid, newline))
        return asked.boundaries(curves, readings.line_ends(ids, newline))

    return _Letters(ids == newline, gold, names, cut)


def cut_of_page(browser, name, length):
    """`(z, scores)` by the page."""
    script = """
        const { z } = explorer.view.cut(...arguments);
        return JSON.stringify([z.map((row) => [...row]), explorer.view.scores(z)]);
    """
    z, found = json.loads(browser.execute_script(script, name, length))
    return np.array(z), found


@pytest.mark.parametrize(
    ("of_letters", "lengths"),
    [((), LENGTHS), (SHORT[1:], SHORT + LENGTHS)],
    indirect=["of_letters"],
    ids=["", "short segments"],
)
def test_a_text_is_cut_and_scored_as_python_does(browser, of_letters, lengths):
    mask = within_lines(of_letters.lines)
    different = set()
    for name in of_letters.names:
        for length in lengths:
            expected = of_letters.cut(name, length)
            z, found = cut_of_page(browser, name, length)
            np.testing.assert_array_equal(z, expected, err_msg=f"{name}, {length}")
            different.add(z.tobytes())
            for own, row in zip(expected, found, strict=True):
                told = [row[key] for key in ("precision", "recall", "f1")]
                of_python = scores.precision_recall_f1(own, of_letters.gold, 0, mask)
                assert told == pytest.approx(of_python)
                words = word_scores(own, of_letters.gold, of_letters.lines)[0]
                assert row["extra"]["F1 of words"] == pytest.approx(words[2])
    assert len(different) > 2 * len(of_letters.names)


def test_blanks_of_an_indentation_are_not_scored(opened, monkeypatch):
    make_up(monkeypatch)
    run = run_of_letters(monkeypatch, trained=False)
    indented = "  the cat\n    sat  on \n\n      a   mat  \n \nthe dog" * 6
    ids = np.random.default_rng(0).integers(1, run.encoding.size, len(indented))
    spaces, lines = (np.array([f(c) for c in indented]) for f in (str.isspace, "\n".__eq__))
    ids[lines] = run.encoding.line_end
    browser = opened(text.look(run, ids, indented, "mine"))
    kept = ~blanks(spaces, lines)
    assert 6 * 10 < (~kept).sum()
    for length in LENGTHS[:3]:
        z, found = cut_of_page(browser, "entropy", length)
        own, gold, newline = z[0][kept], spaces[kept], lines[kept]
        told = [found[0][key] for key in ("precision", "recall", "f1")]
        of_python = scores.precision_recall_f1(own, gold, 0, within_lines(newline))
        assert told == pytest.approx(of_python) and of_python[2]
        of_words = word_scores(own, gold, newline)[0][2]
        assert found[0]["extra"]["F1 of words"] == pytest.approx(of_words)


def words(browser):
    """The first layer's segments as they stand in the text."""
    return browser.execute_script("""
        const found = [];
        for (const one of document.querySelectorAll("#view b.word")) {
          if (one.classList.contains("first") || !found.length) found.push("");
          found[found.length - 1] += one.textContent;
        }
        return found;
    """)


def test_slider_readings_and_keys_change_what_is_seen(browser, of_letters, tmp_path):
    def segments(name, length):
        parts = np.split([*UNSPACED], np.flatnonzero(of_letters.cut(name, length)[0]) + 1)
        return [one for part in parts if (one := "".join(part).replace("\n", ""))]

    length = text.LENGTH
    assert words(browser) == segments("detectors", 0)
    slider = browser.find_element(By.ID, "length")
    assert not slider.is_enabled()
    browser.find_element(By.CSS_SELECTOR, "input[value=entropy]").send_keys(Keys.SPACE)
    assert slider.is_enabled() and words(browser) == segments("entropy", length)
    before = browser.find_element(By.ID, "scores").text
    slider.send_keys(Keys.HOME)
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    shortest = browser.execute_script("return explorer.chosen.length")
    assert shortest < length and words(browser) == segments("entropy", shortest)
    assert browser.find_element(By.ID, "shown-length").text == f"{shortest:.1f}"
    assert browser.find_element(By.ID, "scores").text != before

    view = browser.find_element(By.ID, "view")
    view.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    spoken = browser.find_element(By.ID, "spoken").get_attribute("textContent")
    assert spoken.startswith(f"{UNSPACED[2]}, symbol 3. ") and "Expected next: " in spoken
    assert len(browser.find_elements(By.CSS_SELECTOR, ".next li")) == text.PREDICTED
    view.send_keys(Keys.END)
    assert browser.execute_script("return explorer.view.state.cursor") == len(UNSPACED) - 1
    for option in ("compare", "rows"):
        browser.find_element(By.CSS_SELECTOR, f"input[name={option}]").send_keys(Keys.SPACE)
    assert browser.find_elements(By.CSS_SELECTOR, "#view b.missed, #view b.wrong")
    # What the text holds is text.
    assert "<b>&acat</script>" in view.get_attribute("textContent")
    assert browser.save_screenshot(str(tmp_path / "page.png"))
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_a_slider_shows_what_was_read_earlier(opened, monkeypatch, tmp_path):
    make_up(monkeypatch)
    run = run_of_letters(monkeypatch, trained=False)
    ids, names = run.encoding.encode(UNSPACED)[0], ("detectors", "entropy")
    moments = []
    for update, z in ((10, 0), (20, 1)):
        constant = {"detectors": np.full((2, len(ids)), z, np.int8)}
        constant["entropy"] = np.zeros((1, len(ids)), np.float32)
        monkeypatch.setattr(reading, "curves", lambda *_, found=constant, **__: found)
        moments.append(text.read(run, ids, names, ids, "this text") | {"update": update})
    fixed = text.fixed(run, ids, UNSPACED, "mine")
    browser = opened(fixed | moments[1] | {"earlier": moments[:1]})
    assert words(browser) == [symbol for symbol in UNSPACED if symbol != "\n"]
    browser.find_element(By.ID, "update").send_keys(Keys.HOME)
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    assert words(browser) == [UNSPACED.replace("\n", "")]
    assert browser.find_element(By.ID, "shown-update").text == "10"


def test_the_symbol_under_the_pointer_is_told(browser, of_letters):
    place = browser.execute_script("""
        const word = document.querySelectorAll("#view b.word")[4], all = document.createRange();
        all.selectNodeContents(word);
        const box = all.getBoundingClientRect(), x = box.right - 3, y = (box.top + box.bottom) / 2;
        const say = { clientX: x, clientY: y, bubbles: true, pointerType: "mouse" };
        word.dispatchEvent(new PointerEvent("pointermove", say));
        return [Number(word.dataset.s) + word.textContent.length - 1, explorer.view.state.cursor];
    """)
    assert place[0] == place[1] > 0


def test_the_page_of_a_run_draws_itself(opened, monkeypatch, tmp_path):
    """Of what a run read, nothing made up: every reading cuts, and is drawn."""
    run = run_of_letters(monkeypatch)
    run.explore(UNSPACED, tmp_path / "run.html")
    browser = opened(page.read(tmp_path / "run.html"))
    for name in readings.available(run.model, run.encoding.line_end):
        browser.find_element(By.CSS_SELECTOR, f"input[value={name}]").send_keys(Keys.SPACE)
        assert "".join(words(browser)) == UNSPACED.replace("\n", ""), name
    seen = "#controls > :not([hidden]) :is(input, select)"
    controls = browser.find_elements(By.CSS_SELECTOR, seen)
    assert len(controls) > 6 and all(one.accessible_name for one in controls)


def test_layers_that_are_not_shown_mark_nothing(browser, of_letters):
    def choose(selector):
        browser.find_element(By.CSS_SELECTOR, selector).send_keys(Keys.SPACE)
        return browser.execute_script(DRAWN)

    z = of_letters.cut("detectors", 0)
    # What the strip has room for, from the cursor at the beginning on.
    canvas = browser.find_element(By.CSS_SELECTOR, "#inspector canvas")
    shown = slice(0, (int(canvas.get_attribute("clientWidth")) - 126) // 15)
    both, first = browser.execute_script(DRAWN)
    assert "Entropy" in both and first == z[0][shown][~of_letters.lines[shown]].sum()
    assert choose("input[name=layer1]")[1] == z[1][shown][~of_letters.lines[shown]].sum()
    assert choose("input[name=layer2]")[1] == 0


def test_a_curve_without_its_layers_is_not_drawn(opened, monkeypatch):
    make_up(monkeypatch, layers=2)
    run = run_of_words(trained=False)
    ids = run.encoding.encode(SENTENCES)[0]
    browser = opened(text.look(run, ids, run.encoding.symbol_strings(ids), "mine"))
    browser.find_element(By.CSS_SELECTOR, "input[value=distance]").send_keys(Keys.SPACE)
    told, dots = browser.execute_script(DRAWN)
    assert "Distances" in told and dots
    for layer in (1, 2):
        name = f"input[name=layer{layer}]"
        browser.find_element(By.CSS_SELECTOR, name).send_keys(Keys.SPACE)
    told, dots = browser.execute_script(DRAWN)
    assert "Distances" not in told and "Infinity" not in told and not dots
    assert browser.find_element(By.ID, "tree-layer").get_attribute("aria-label") == "Layer"
    assert browser.find_element(By.ID, "length").get_attribute("aria-valuetext").endswith("words")


PLACES = """
    const one = document.querySelector(`#view [data-s="${arguments[0]}"]`).getBoundingClientRect();
    const box = document.getElementById("cursor").getBoundingClientRect();
    return [one.top, one.left, box.top, box.left, window.innerHeight];
"""


@pytest.mark.parametrize("size", [(1280, 900), (640, 700)])
def test_a_long_text_stays_where_it_is_read(browser, opened, monkeypatch, size):
    run = run_of_letters(monkeypatch, trained=False)
    make_up(monkeypatch)
    long = UNSPACED * 20
    opened(text.look(run, run.encoding.encode(long)[0], long, "mine"))
    try:
        browser.set_window_size(*size)
        frames = (
            "requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(arguments[0], 50)))"
        )
        for edge in range(1, 6):  # read until there
            browser.execute_script(
                f"document.querySelectorAll('.block')[{edge}].scrollIntoView({{ block: 'center' }})"
            )
            browser.execute_async_script(frames)
        block = "document.querySelectorAll('.block')[5]"
        before = browser.execute_script(f"return {block}.getBoundingClientRect().top")
        browser.execute_script("document.querySelector('input[name=layer2]').click()")
        browser.execute_async_script(frames)
        after = browser.execute_script(f"return {block}.getBoundingClientRect().top")
        assert abs(after - before) < 100
        view = browser.find_element(By.ID, "view")
        browser.execute_script("arguments[0].focus({ preventScroll: true })", view)
        for key in (Keys.END, Keys.HOME):
            view.send_keys(key)
            browser.execute_async_script(frames)
            cursor = browser.execute_script("return explorer.view.state.cursor")
            assert cursor == (len(long) - 1 if key == Keys.END else 0)
            top, left, box_top, box_left, tall = browser.execute_script(PLACES, cursor)
            assert (box_top, box_left) == pytest.approx((top, left), abs=6)
            assert 0 <= box_top < tall
    finally:
        browser.set_window_size(1280, 900)


def test_numbers_that_hardly_differ_are_told_apart(browser, of_letters):
    script = "return span(...arguments).replaceAll('\\u2212', '-')"
    for ends, told in {
        (1013.2, 1014.9): "1013.2 to 1014.9", (36.51, 36.54): "36.510 to 36.540",
        (-1.5, 2.0): "-1.5 to 2.0",
    }.items():  # fmt: skip
        assert browser.execute_script(script, *ends) == told
    assert browser.execute_script("return range([NaN])") == [0, 1]
    assert browser.execute_script("return columns('中a国')") == 5


def test_trees_are_those_of_python(opened, monkeypatch):
    make_up(monkeypatch, layers=2)
    run = run_of_words(trained=False)
    ids = run.encoding.encode(SENTENCES)[0]
    browser = opened(text.look(run, ids, run.encoding.symbol_strings(ids), "mine"))
    script = """
        const [distances, words, biased] = arguments;
        return brackets(nested(words.length, treeSpans(distances, biased)), words);
    """
    rng = np.random.default_rng(0)
    for length in (1, 2, 3, 5, 9, 20):
        for biased in (True, False):
            own = rng.integers(0, 4 + length, length) / 8
            sentence = [f"w{i}" if i % 4 else f"({i})" for i in range(length)]
            expected = trees.bracket_string(trees.tree_from_distances(sentence, own, biased))
            found = browser.execute_script(script, own.tolist(), sentence, biased)
            assert found == (expected if length > 1 else "-LRB-0-RRB-")
    lines = [line.split() for line in SENTENCES.splitlines()]
    own = activations.distances(None, None, None, lines)[1][:, 1]
    browser.execute_script("document.querySelectorAll('#view b')[3].scrollIntoView()")
    browser.execute_script("explorer.view.trees.show(arguments[0])", len(lines[0]) + 2)
    assert browser.find_element(By.CSS_SELECTOR, "dialog#tree svg").is_displayed()
    told = browser.find_element(By.CSS_SELECTOR, "#tree .brackets").text
    assert told == trees.bracket_string(trees.tree_from_distances(lines[1], own.astype("f4")))
