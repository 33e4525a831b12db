"""Batches as pure functions of the step, a file a kind of data."""
