"""The boundaries of a long text, read in rows side by side; fast, and in memory that is flat."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from hmrnn_jax.errors import UserError
from hmrnn_jax.inference import sparse_model

# A text of up to so many symbols is read in a single pass, a longer one in so many rows, unless
# somebody says otherwise. On CPUs more rows are no faster: by 64 the products run at full speed.
SINGLE_PASS = 200_000
ROWS = 64
WARMUP = 2000
_WINDOW = 256  # steps for each call of the compiled program, and draws of a sampling detector


def rows_for(symbols):
    """In how many rows `boundaries` reads a text unless told."""
    return 1 if symbols <= SINGLE_PASS else ROWS


def check(model):
    """Raises `UserError` unless the model has boundary detectors."""
    if not sum(config.depth - 1 for config in model.cells if config.uses_slope):
        raise UserError("This run's cell has no boundary detectors; train with model.cell=hm_lstm.")


def nesting(model):
    """A clause on how the segments of a model's layers lie to each other."""
    if all(config.nested for config in model.cells if config.uses_slope):
        return "a layer's segments are whole segments of the layer below"
    return "segments of layers need not be nested"


@functools.partial(jax.jit, static_argnums=0)
def _read(model, params, ids, carry, slope, key):
    noise = jax.random.uniform(key, (*ids.shape, model.noise_width))
    if isinstance(model, sparse_model.SparseModel):
        carry, ((_, _, z), _, _) = model.run(params, ids, carry, slope, noise)
    else:
        out = model.apply({"params": params}, ids, carry, slope=slope, noise=noise)
        carry, z = out.carry, [z for states in out.states for z in getattr(states, "z", ())]
    return carry, jnp.stack(z) > 0.5


def _start(model, params, rows):
    """The form of the model that reads fastest, its weights, and what it carries at first."""
    # On an accelerator branches cost more than the products that they skip.
    if jax.default_backend() != "cpu":
        return model.inference, params, model.initial_carry(rows)
    model, params = sparse_model.inference(model, params)
    carry = model.initial_carry(rows)
    if isinstance(model, sparse_model.SparseModel):  # the output module is of no use here
        params["cell"] = {
            layer: {name: entry[name] for name in entry if name != "readout"}
            for layer, entry in params["cell"].items()
        }
        carry = (carry[0], ())
    return model, params, carry


def boundaries(
    model, params, ids, slope=1.0, seed=0, rows=None, warmup=WARMUP, progress=lambda done: None
):
    """The boundaries of each layer that has a detector while the model reads one text.

    In one row it is the single pass from the initial state, exactly. In R rows the text is cut
    in R parts of equal length, read side by side; each row first reads the `warmup` symbols
    before its part, from the initial state, and what it finds there is dropped. So a part whose
    whole past lies within the warm-up is read as by the single pass, the first part always. Any
    other row knows nothing of what came earlier: its boundaries are those of a text that begins
    where its warm-up does. They agree with the single pass where the state has forgotten that
    beginning, which the last layer, never FLUSHed, may take thousands of symbols to do; and
    products of many rows round differently, so that a detector at its very threshold may fall
    on either side.

    Args:
      model, params: a `LanguageModel` and its parameters.
      ids: int `[N]`, N >= 1.
      slope: of the detectors. A soft boundary counts from 1/2 on.
      seed: of detectors that sample. Their draws depend on the number of rows too: the same seed
        and rows give the same boundaries, other rows others as likely.
      rows: R; `rows_for(N)` if None. warmup: symbols.
      progress: called now and then with the number of symbols read so far.

    Returns int8 `[L - 1, N]`: each symbol's are those of the one row whose part it lies in.

    Raises:
      UserError: the model has no detectors, or rows or warm-up are out of range.
    """
    check(model)
    ids = np.asarray(ids, np.int32)
    rows = min(rows_for(len(ids)) if rows is None else rows, len(ids))
    if rows < 1 or warmup < 0:
        raise UserError(
            f"A text is read in {rows} rows after a warm-up of {warmup} symbols: give a text, one"
            " row or more, and a warm-up of 0 or more."
        )
    model, params, carry = _start(model, params, rows)
    params, key = jax.device_put(params), jax.random.key(seed)
    edges = np.arange(rows + 1) * len(ids) // rows
    start, end = edges[:-1], edges[1:]
    first = np.maximum(start - warmup, 0)
    steps = int(np.max(end - first))
    z = None
    waiting = []  # the window before, whose boundaries are fetched while the next one is read
    for number, begin in enumerate(range(0, steps, _WINDOW)):
        place = first + np.arange(begin, begin + _WINDOW)[:, None]
        part = ids[np.minimum(place, len(ids) - 1)]
        draw = jax.random.fold_in(key, number)
        carry, fired = _read(model, params, part, carry, slope, draw)
        waiting.append((place, fired))
        if z is None:
            z = np.zeros((len(fired), len(ids)), np.int8)
        else:
            _keep(z, start, end, *waiting.pop(0))
        progress(len(ids) * min(begin + _WINDOW, steps) // steps)
    _keep(z, start, end, *waiting.pop())
    return z


def _keep(z, start, end, place, fired):
    """Puts the boundaries of a window, `[L - 1, T, R]`, where their symbols lie."""
    own = (place >= start) & (place < end)
    z[:, place[own]] = np.asarray(fired)[:, own]


class Pace:
    """Tells how far a long reading is: a line every few seconds, speed and time left in it.

    Args:
      total: symbols. say: takes the line. every: seconds between lines.
    """

    def __init__(self, total, say, every=5.0):
        self.total, self.say, self.every = total, say, every
        self.begun = self.told = None

    def __call__(self, done):
        now = time.monotonic()
        if self.begun is None:  # what came before held the compilation
            self.begun, self.told = (now, done), now
        elif now - self.told >= self.every and done > self.begun[1]:
            speed = (done - self.begun[1]) / (now - self.begun[0])
            left = int((self.total - done) / speed)
            self.told = now
            self.say(
                f"{done:,} of {self.total:,} symbols read, {speed:,.0f} a second,"
                f" {left // 60}m{left % 60:02}s left"
            )
