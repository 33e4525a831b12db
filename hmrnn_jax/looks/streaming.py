"""Language models: the segments of a text while it comes in."""

import json

from hmrnn_jax.errors import UserError
from hmrnn_jax.stream import Stream


def segments(run, source, seed=0, tell=None):
    """Yields a line of JSON for each segment of what `source` brings, as soon as it ends.

    Args:
      source: a binary file, UTF-8 unless the model reads bytes; what it has is taken at once.
      tell: called with a sentence on the symbols that the model does not know, if there were
        any, when the text ends or is read no further.

    Raises:
      UserError: the text is not UTF-8, or has a symbol that the model cannot read.
    """
    stream, unknown, total = Stream.of(run, seed), 0, 0
    try:
        raw = True
        while raw:
            raw = source.read1(1 << 16)
            reading = stream.push(raw) if raw else stream.finish()
            unknown, total = unknown + reading.unknown, total + len(reading.symbols)
            for row in reading.segments:
                yield json.dumps(row, ensure_ascii=False)
    except UserError as error:
        raise UserError(f"Standard input: {error}") from error
    finally:
        if tell and unknown:
            tell(run.encoding.unknown_note("standard input", unknown, total))
