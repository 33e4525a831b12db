"""Settings that are each in their range, see `settings`, and mean nothing together.

New trainings refuse them; runs on record may have them, and go on.
"""

from hmrnn_jax.errors import UserError
from hmrnn_jax.tasks import sequences


def check(config):
    """Raises `UserError` for settings that contradict each other."""
    data = config.data
    if config.task == "strokes" and data.clip and data.name in sequences.SYNTHETIC:
        raise UserError(
            f"data.clip is {data.clip:g}, and {data.name} are made up and never clipped: leave it"
            " 0."
        )
    if config.task == "language" and data.unit != "characters" and data.name != "text":
        raise UserError(
            f"data.unit is {data.unit}, which goes with data.name=text alone, and {data.name} has"
            " symbols of its own: leave it out."
        )
    if config.task == "strokes" and data.name != "signals" and (data.event or data.columns):
        raise UserError(
            f"data.event and data.columns go with data.name=signals alone, not with {data.name}:"
            " leave them out."
        )
    if config.schedule == "plateau" and config.drop_by and not config.drops:
        raise UserError(
            f"drop_by={config.drop_by:g} asks for a drop of the rate, and drops=0 would end the run"
            " there: give drops=1 or more, or drop_by=0."
        )
    hm_lstm = config.model.hm_lstm if config.model.cell == "hm_lstm" else None
    if hm_lstm and hm_lstm.boundary == "soft" and hm_lstm.surrogate != "hard_sigmoid":
        raise UserError(
            f"surrogate={hm_lstm.surrogate} stands in for the derivative of a detector's step, and"
            " boundary=soft has no step: give model.hm_lstm.surrogate=hard_sigmoid with it."
        )
    chunk = config.model.on_lstm.chunk if config.model.cell == "on_lstm" else 0
    if chunk and chunk in config.model.sizes:
        raise UserError(
            f"model.sizes has {chunk}, one chunk, and an ON-LSTM's gates have nothing to order:"
            " its memory stays 0. Give a smaller model.on_lstm.chunk."
        )
    if hm_lstm and hm_lstm.reset_recurrent and not hm_lstm.flush:
        raise UserError(
            "model.hm_lstm.reset_recurrent says what FLUSH does, and flush=False leaves FLUSH out:"
            " give one of the two."
        )
