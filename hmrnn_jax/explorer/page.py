"""The page: data, template, style and program in one file."""

import base64
import json
from pathlib import Path

import numpy as np
from etils import epath

from hmrnn_jax import files
from hmrnn_jax.errors import UserError

FOLDER = Path(__file__).parent
_BEGIN = '<script type="application/json" id="data">'
KINDS = ("u1", "u2", "u4", "f4")  # of arrays that the page's program knows, see cut.js
# In this order; the first ones know nothing of the page.
SCRIPTS = ("cut.js", "draw.js", "text.js", "trees.js", "sequences.js", "explorer.js")


def packed(array):
    """An array as a program of the page reads it: its kind, its shape and base64 of its bytes."""
    array = np.asarray(array)
    kind = array.dtype.newbyteorder("<")
    if kind.str[1:] not in KINDS:
        raise TypeError(f"The page's program knows no arrays of {array.dtype}.")
    content = base64.b64encode(np.ascontiguousarray(array, kind).tobytes()).decode()
    return {"kind": kind.str[1:], "shape": array.shape, "data": content}


def bits(array):
    """An array of 0 and 1, `packed` eight to a byte along its last axis; None stays None."""
    return (
        None
        if array is None
        else packed(np.packbits(np.asarray(array, bool), axis=-1, bitorder="little"))
    )


def quantised(array):
    """Values of 0 and above in 256 steps: `packed`, with the `scale` that they are multiples of."""
    array = np.asarray(array, np.float32)
    scale = float(array.max(initial=0)) / 255 or 1.0
    return packed(np.rint(array / scale).astype(np.uint8)) | {"scale": scale}


def write(path, data):
    """Writes the page of `data`, as `text.look` or `sequences.look` has it, whole or not at all.

    Raises:
      UserError: it cannot be written there.
    """
    files.check_writable(path)
    files.write_text(path, html(data))


def read(path):
    """The data of a page that `write` wrote; None if there is none."""
    path = epath.Path(path)
    try:
        _, _, rest = files.read_text(path).partition(_BEGIN) if path.exists() else ("", "", "")
        return json.loads(rest.partition("</script>")[0])
    except (UserError, ValueError):
        return None


def html(data):
    """The page of `data` as a str."""
    import jinja2
    from jinja2.utils import htmlsafe_json_dumps
    from markupsafe import Markup

    def own(name):
        return Markup((FOLDER / name).read_text(encoding="utf-8"))

    # What the text holds is data, never markup: <, > and & are escaped in the JSON too.
    content = htmlsafe_json_dumps(data, json.dumps, separators=(",", ":"), allow_nan=False)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(own("explorer.html")).render(
        data=data, content=content, style=own("explorer.css"), scripts=map(own, SCRIPTS)
    )
