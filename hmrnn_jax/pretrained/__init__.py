"""Small trained models that come with the program: one file of `Run.export` each, a card beside."""

from pathlib import Path

QUICKSTART = "quickstart"


def path(name: str) -> Path:
    """The file of a model, which may not be there."""
    return Path(__file__).parent / f"{name}.safetensors"
