"""Readings of a run's boundaries, with the length of their segments set on its validation text."""

from hmrnn_jax.errors import UserError
from hmrnn_jax.inference import readings
from hmrnn_jax.tasks import language, objectives


def validation_text(run, own):
    """`(ids, what they are)`: the beginning of the run's validation text, on which lengths are set.

    Where that is not to be had, as of a model that was passed on without its data, the text `own`
    that is to be cut stands in.
    """
    try:
        valid = language.corpus_of(run).splits["valid"][: readings.CALIBRATED_ON]
    except UserError:
        return own, "this text, for the run's validation text is not here"
    return valid, "the run's validation text"


def sets_length(run, cut):
    """Whether an `inference.readings.Cut` asks for a length that is set on a text."""
    return any(one.length for one in objectives.readings_asked(run.config, cut))


def of_text(run, cut, others=(), seed=0, valid=None):
    """The `inference.readings.Reading`s of a run of text, ready to cut.

    Args:
      run: a `run.Run`. cut: an `inference.readings.Cut`. others: names of readings beside it, see
        `objectives.readings_asked`. seed: of detectors that sample.
      valid: int `[N]`, what lengths are set on; by default the validation text of the run's corpus.

    Raises:
      UserError: the model has no such reading, see `Reading.of`, or the validation text is needed
        and not there.
    """
    newline = run.encoding.line_end
    for name in (cut.reading, *others):
        readings.check(run.model, name, newline)
    asked = objectives.readings_asked(run.config, cut, others)
    if valid is None and any(one.length for one in asked):
        try:
            valid = language.corpus_of(run).splits["valid"]
        except UserError as error:
            raise UserError(
                "The length of segments is set on the validation text that the run was trained"
                f" with, which is not to be had: {error} Without it, ask for a length of 0."
            ) from None
    return readings.calibrated(run.model, run.plain, valid, asked, newline, run.slope, seed)
