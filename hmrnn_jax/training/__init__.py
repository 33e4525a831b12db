"""A training run: state and step, schedules, what is kept on disk, what is reported."""
