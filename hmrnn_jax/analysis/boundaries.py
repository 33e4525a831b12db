"""Boundaries found by an HM-LSTM: operations, segments, and a view of them in the text.

Layers are numbered from 1 at the bottom, as in Chung, Ahn and Bengio (2017). A
boundary `z[t] = 1` is fired *after reading* symbol t, so it ends the segment
that holds t. Arrays of boundaries are time-major, `[T]` for one text or
`[T, B]` for B texts of T symbols; only layers 1..L-1 have a detector, so `z`
is a list of L-1 arrays.
"""

import json

import numpy as np

from hmrnn_jax import files
from hmrnn_jax.analysis.glyphs import columns, glyph, wrap
from hmrnn_jax.analysis.scores import checked
from hmrnn_jax.cells import hm_lstm_window
from hmrnn_jax.errors import UserError

_encoded = json.encoder.encode_basestring  # what json.dumps makes of a str, kept as it is in UTF-8
COPY, UPDATE, FLUSH = 0, 1, 2
OPERATIONS = ("COPY", "UPDATE", "FLUSH")


def _symbols(text):
    """A text as a list of its symbols: the characters of a str, or the strings of a sequence."""
    symbols = list(text)
    if not all(isinstance(symbol, str) for symbol in symbols):
        raise UserError("The text must be a str or a sequence of str symbols: decode it first.")
    return symbols


def _of_one_text(z, text):
    """`z` as a list of `[T]` arrays and `text` as T symbols, checked against each other."""
    z, symbols = checked(z), _symbols(text)
    if z[0].shape != (len(symbols),):
        raise UserError(
            f"z has shape {z[0].shape} but the text has {len(symbols)} symbols: "
            "give one text and one boundary per symbol."
        )
    return z, symbols


def operations(z, layers=None, z_initial=None, flush=True):
    """What every layer did at every step (paper, eq. 2 and 3).

    A layer does FLUSH if its own `z[t-1] = 1`; else UPDATE if the layer below
    fired at t (layer 1 reads the input, whose boundary is always 1); else COPY.
    The last layer has no detector, so it never does FLUSH.

    Args:
      z: boundaries of layers 1..L-1, a list of 0/1 arrays `[T]` or `[T, B]`.
      layers: L, checked against `z` when given.
      z_initial: z before the first step, one scalar or `[B]` array per array
        of `z` (the carry of the preceding window); zeros when None.
      flush: whether the cell has FLUSH; else a layer does UPDATE or COPY whatever its own z.

    Returns:
      A dict `{"layer1": a, ..., "layerL": a}` of int8 arrays of the shape of
      `z`, whose values are `COPY`, `UPDATE` or `FLUSH`.

    Raises:
      UserError: shapes differ, values are not 0/1, or the counts disagree.
    """
    z = checked(z)
    if layers is not None and layers != len(z) + 1:
        raise UserError(
            f"{layers} layers have {layers - 1} boundary detectors, but z holds {len(z)} arrays: "
            "give z of every layer except the last."
        )
    z_initial = [0] * len(z) if z_initial is None else list(z_initial)
    if len(z_initial) != len(z):
        raise UserError(f"z_initial holds {len(z_initial)} entries, z holds {len(z)}: match them.")

    before = []
    for own, first in zip(z, z_initial, strict=True):
        before.append(np.concatenate([np.broadcast_to(first, own[:1].shape), own[:-1]]))
    update, _, flush = hm_lstm_window.operations(before, z, flush)
    return {
        f"layer{number}": (UPDATE * u + FLUSH * f).astype(np.int8)
        for number, (u, f) in enumerate(zip(update, flush, strict=True), start=1)
    }


def counts(done):
    """How often each operation happened: `{"layer1": {"COPY": n, "UPDATE": n, "FLUSH": n}, ...}`.

    Args:
      done: what `operations` returned.
    """
    return {
        layer: {name: int(np.sum(array == code)) for code, name in enumerate(OPERATIONS)}
        for layer, array in done.items()
    }


def rates(done):
    """The shares of the steps behind `counts`, same keys, in [0, 1] (0 for no steps)."""
    return {
        layer: {name: count / max(sum(of_layer.values()), 1) for name, count in of_layer.items()}
        for layer, of_layer in counts(done).items()
    }


def update_counts(z, z_initial=None, flush=True):
    """The paper's "updates" per layer: the number of steps that are not COPY, UPDATE or FLUSH.

    Layer 1 never does COPY, so its count is the number of steps; the paper's
    example over 270 characters of Penn Treebank reads 270, 56 and 9.

    Args:
      z, z_initial, flush: as in `operations`.

    Returns:
      A list of L ints, layer 1 first.
    """
    done = operations(z, z_initial=z_initial, flush=flush)
    return [int(np.sum(array != COPY)) for array in done.values()]


def segments(text_symbols, z_layer, layer, begin=0):
    """The segments between one layer's boundaries; together they are the whole text.

    A segment ends after a symbol at which the layer fires, the last one at the
    end of the text. Segments of two layers need not be nested: a detector is evaluated at
    every step, while its layer COPYs too, so a layer may fire in the middle of a segment of the
    one below. They are with the cell's option `nested`.

    Args:
      text_symbols: str or sequence of T str symbols.
      z_layer: `[T]` 0/1 array, the boundaries of this layer.
      layer: its number, copied into every segment.
      begin: number of symbols before these, from which offsets count on.

    Yields:
      Dicts `{"start", "end", "text", "layer"}`; offsets in symbols, start
      inclusive, end exclusive.

    Raises:
      UserError: the text and the boundaries have different lengths.
    """
    (fired,), symbols = _of_one_text([z_layer], text_symbols)
    ends = (np.flatnonzero(fired) + 1).tolist()
    if symbols and (not ends or ends[-1] != len(symbols)):
        ends.append(len(symbols))
    start = 0
    for end in ends:
        text = "".join(symbols[start:end])
        yield {"start": begin + start, "end": begin + end, "text": text, "layer": layer}
        start = end


def segment_lines(symbols, z, piece=1 << 20):
    """The `segments` of each layer, lowest first, as lines of JSON: `json.dumps` of each.

    For texts of any length: symbols are asked for a piece at a time.

    Args:
      symbols: a str, or a sequence of N str symbols whose slices are made when asked for.
      z: 0/1 array `[L - 1, N]`. piece: symbols.

    Yields:
      Lists of lines, str.
    """
    if z.shape[1] != len(symbols):
        raise UserError(f"z has shape {z.shape} but the text has {len(symbols)} symbols.")
    for layer, fired in enumerate(z, start=1):
        start, begun = 0, []  # where the open segment starts, and what was read of it before
        for first in range(0, len(symbols), piece):
            part = symbols[first : first + piece]
            ends = np.flatnonzero(fired[first : first + piece]) + 1
            if first + len(part) == len(symbols) and not fired[-1]:
                ends = np.append(ends, len(part))
            lines, done = [], 0
            for end in ends.tolist():
                text = _encoded("".join([*begun, "".join(part[done:end])]))
                row = f'"start": {start}, "end": {first + end}, "text": {text}, "layer": {layer}'
                lines.append(f"{{{row}}}\n")
                start, done, begun = first + end, end, []
            begun.append("".join(part[done:]))
            yield lines


def write_segments(path_or_file, rows):
    """Writes segments as JSON lines in UTF-8, to an open text file or, atomically, to a path.

    Args:
      path_or_file: a path, which holds either its old or the complete new
        content whatever happens meanwhile, or an object with `write`.
      rows: an iterable of dicts, for example of `segments` of every layer, or of lists of
        lines, as of `segment_lines`.

    Returns:
      The number of lines written.

    Raises:
      UserError: it cannot be written there.
    """
    if hasattr(path_or_file, "write"):
        return _write_lines(path_or_file.write, rows)
    files.check_writable(path_or_file)
    with files.writing(path_or_file) as file:
        # A lone surrogate has no UTF-8 form; its backslash escape is the valid JSON for it.
        return _write_lines(lambda text: file.write(text.encode("utf-8", "backslashreplace")), rows)


def _write_lines(write, rows):
    written = 0
    for row in rows:
        lines = row if isinstance(row, list) else [json.dumps(row, ensure_ascii=False) + "\n"]
        write("".join(lines))
        written += len(lines)
    return written


def first_segments(symbols, z, width=90):
    """The segments that a text begins with, a line of at most `width` columns for each layer.

    Args: `symbols` and `z` are those of `segment_lines`.
    """
    return "\n".join(
        _first_segments(f"layer {layer}: ", symbols, fired, width)
        for layer, fired in enumerate(z, start=1)
    )


def _first_segments(line, symbols, fired, width):
    more = " ..."
    for symbol, ends in zip(symbols[:width], fired, strict=False):
        shown = glyph(symbol) + "|" * bool(ends)
        if columns(line + shown + more) > width:
            return line + more
        line += shown
    return line + more * (len(symbols) > width)


def text_view(text, z, width=90, updates=True, **cell):
    """The text in lines, under each one row per layer with `|` where its boundary fired.

    Args:
      text: str or sequence of T str symbols.
      z: boundaries of layers 1..L-1, a list of `[T]` 0/1 arrays.
      width: columns of text in a line; wide (East Asian) characters take two.
      updates: whether z is that of a model's detectors.
      cell: `z_initial` and `flush` as in `operations`; they only change the closing line.

    Returns:
      A str that ends with the update counts of all L layers (`update_counts`), or else with the
      number of segments.

    Raises:
      UserError: the text and the boundaries have different lengths.
    """
    fired, symbols = _of_one_text(z, text)
    shown = [glyph(symbol) for symbol in symbols]
    widths = [columns(one) for one in shown]
    lines = []
    for start, end in wrap(widths, width):
        lines.append("    " + "".join(shown[start:end]))
        for number, layer in enumerate(fired, 1):
            # The mark stands in the last column of its symbol: the segment ends there.
            marks = (
                "|".rjust(w, "·") if f else "·" * w
                for w, f in zip(widths[start:end], layer[start:end], strict=True)
            )
            lines.append(f"z{number}".ljust(4) + "".join(marks))
        lines.append("")
    name, counts = numbers(z, updates, **cell)
    lines.append(f"{name} over {len(symbols)} symbols: {counts}")
    return "\n".join(lines)


def numbers(z, updates=True, **cell):
    """`(what, how many of each layer)` as words: updates, or segments; arguments as `text_view`."""
    if updates:
        name, counts = "updates per layer", update_counts(z, **cell)
    else:
        name, counts = "segments", [int(np.sum(layer)) + (not layer[-1]) for layer in z]
    return name, " / ".join(map(str, counts))
