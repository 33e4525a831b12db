"""Every notebook runs from top to bottom at small size and equals its text twin."""

from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

# What each prints, among other things.
SHOWN = {
    "quickstart": ("bits per character", "updates per layer over 270 symbols", "F1 beside"),
    "handwriting": ("log-likelihood of a line", "boundaries against pen_up", "6 sequences of"),
    "trees": ("test perplexity", "biased    (", "those of right-branching trees"),
}


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=() if path.stem == "quickstart" else pytest.mark.slow)
     for path in NOTEBOOKS],
    ids=lambda path: path.stem,
)  # fmt: skip
def test_notebook_runs(path, monkeypatch):
    monkeypatch.setenv("HMRNN_SMALL", "1")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": FOLDER.parent}}).execute()
    text = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ())
    )
    assert all(word in text for word in SHOWN[path.stem])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_equals_its_text_and_carries_no_output(path):
    notebook, twin = nbformat.read(path, as_version=4), jupytext.read(path.with_suffix(".py"))
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in twin.cells]
    assert not any(cell.get("outputs") for cell in notebook.cells)
    assert "colab" in notebook.cells[0].source
