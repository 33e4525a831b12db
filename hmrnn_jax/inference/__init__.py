"""A model and its parameters at work, without a run: read, draw, score."""
