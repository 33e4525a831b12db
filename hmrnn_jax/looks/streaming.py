"""Language models: the segments of a text while it comes in."""

import codecs
import json

from hmrnn_jax.errors import UserError
from hmrnn_jax.stream import Stream


def segments(run, source, seed=0):
    """Yields a line of JSON for each segment of what `source` brings, as soon as it ends.

    Args:
      source: a binary file, UTF-8 unless the model reads bytes; what it has is taken at once.

    Raises:
      UserError: the text is not UTF-8, or has a symbol that the model cannot read.
    """
    stream, done = Stream.of(run, seed), 0
    decoder = codecs.getincrementaldecoder("utf-8")()
    while True:
        raw = source.read1(1 << 16)
        try:
            text = raw if run.encoding.unit == "bytes" else decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            place = done + error.start - len(error.object) + len(raw)
            raise UserError(
                f"Standard input is not UTF-8: byte {place:,} cannot be read."
            ) from None
        done += len(raw)
        reading = stream.push(text) if raw else stream.finish()
        for row in reading.segments:
            yield json.dumps(row, ensure_ascii=False)
        if not raw:
            return
