"""What a model has to say of a long text, read in rows side by side; fast, in memory that is flat.

Its boundaries, and curves of its uncertainty, from which boundaries can be read too (`readings`).
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from hmrnn_jax.errors import UserError
from hmrnn_jax.inference import marginal, sparse_model
from hmrnn_jax.models import uncertainty

# A text of up to so many symbols is read in a single pass, a longer one in so many rows, unless
# somebody says otherwise. On CPUs more rows are no faster: by 64 the products run at full speed.
SINGLE_PASS = 200_000
ROWS = 64
WARMUP = 2000
AHEAD = 5  # symbols after a line break that are asked whether they like it
_BREAKS = 1024  # breaks that are tried at once, for the memory of their states
DETECTORS = ("detectors",)
_WINDOW = 256  # steps for each call of the compiled program, and draws of a sampling detector


def rows_for(symbols):
    """In how many rows `boundaries` reads a text unless told."""
    return 1 if symbols <= SINGLE_PASS else ROWS


def has_detectors(model):
    """Whether a model has boundary detectors."""
    return any(config.uses_slope and config.depth > 1 for config in model.cells)


def check(model, other="entropy"):
    """Raises `UserError` unless the model has boundary detectors; `other` reading it names."""
    if not has_detectors(model):
        raise UserError(
            "This run's cell has no boundary detectors; train with model.cell=hm_lstm, or take"
            f" another reading, such as --reading={other}."
        )


def nesting(model):
    """A clause on how the segments of a model's layers lie to each other."""
    if all(config.nested for config in model.cells if config.uses_slope):
        return "a layer's segments are whole segments of the layer below"
    return "segments of layers need not be nested"


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _read(model, names, newline, params, ids, following, there, carry, slope, key):
    """`(carry, {name: [K, T, R]})` of a window, see `curves`.

    Args:
      following: `[A, T, R]`, the A symbols after each of `ids [T, R]`. there: which of them the
        text still has.
    """
    noise = jax.random.uniform(key, (*ids.shape, model.noise_width))
    if isinstance(model, sparse_model.SparseModel) and names == DETECTORS:
        carry, ((_, _, z), _, _) = model.run(params, ids, carry, slope, noise)
        return carry, {"detectors": jnp.stack(z) > 0.5}
    out = model.apply({"params": params}, ids, carry, slope=slope, noise=noise)
    plain = tuple(name for name in names if name != "line_break")
    found = of_output(plain, out, following[0], newline)
    if "line_break" in names:
        end = uncertainty.line_end(out.logits, newline)
        after = _after_break(model, params, newline, out.states, following, there, slope, key)
        found["line_break"] = (end + after)[None]
    return out.carry, found


def _after_break(model, params, newline, states, following, there, slope, key):
    """Log-probability of the symbols that follow each, `[T, R]`, had a newline come before them.

    Args:
      states: `[T, R, ...]`, after each symbol. The rest as in `_read`.
    """
    ahead, steps, rows = following.shape
    group = max(1, min(steps, 1 << (_BREAKS // rows).bit_length() >> 1))  # steps read together
    breaks = jnp.full((1, group * rows), newline, following.dtype)
    noise = jax.random.uniform(jax.random.fold_in(key, 0), (ahead, group * rows, model.noise_width))

    def score(group):
        carry, following, there = group
        ids = jnp.concatenate([breaks, following[:-1]])
        out = model.apply({"params": params}, ids, carry, slope=slope, noise=noise)
        return jnp.sum(uncertainty.log_probability(out.logits, following) * there, axis=0)

    states = jax.tree.map(lambda x: x.reshape(-1, group * rows, *x.shape[2:]), states)
    parts = (x.reshape(ahead, -1, group * rows).swapaxes(0, 1) for x in (following, there))
    return jax.lax.map(score, (states, *parts)).reshape(steps, rows)


def of_output(names, out, following=None, newline=None):
    """`{name: [K, T, R]}` of a model's output over a window; of `curves` but `line_break`.

    Args:
      following: int `[T, R]`, the symbol after each, for `surprise`.
    """
    found = {}
    for name in names:
        if name == "detectors":
            layers = [z > 0.5 for states in out.states for z in getattr(states, "z", ())]
        elif name == "distance":
            layers = [aux.forget for aux in out.aux]
        else:
            layers = [uncertainty.of(name, out.logits, following, newline)]
        found[name] = jnp.stack(layers)
    return found


def _start(model, params, rows, names):
    """The form of the model that reads fastest, its weights, and what it carries at first."""
    # On an accelerator branches cost more than the products that they skip; and what the sparse
    # model carries is not what it has after every step.
    if jax.default_backend() != "cpu" or "line_break" in names:
        return model.inference, params, model.initial_carry(rows)
    model, params = sparse_model.inference(model, params)
    carry = model.initial_carry(rows)
    # The output module is of no use to detectors.
    if isinstance(model, sparse_model.SparseModel) and names == DETECTORS:
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

    Returns int8 `[L - 1, N]`; arguments as `curves`.

    Raises:
      UserError: the model has no detectors, or as `curves`.
    """
    check(model)
    read = curves(model, params, ids, DETECTORS, None, slope, seed, rows, warmup, progress)
    return read["detectors"]


def curves(
    model, params, ids, names, newline=None, slope=1.0, seed=0, rows=None, warmup=WARMUP,
    progress=lambda done: None,
):  # fmt: skip
    """What the model has to say after each symbol of one text.

    In one row it is the single pass from the initial state, exactly. In R rows the text is cut
    in R parts of equal length, read side by side; each row first reads the `warmup` symbols
    before its part, from the initial state, and what it finds there is dropped. So a part whose
    whole past lies within the warm-up is read as by the single pass, the first part always. Any
    other row knows nothing of what came earlier: what it finds is that of a text that begins
    where its warm-up does. It agrees with the single pass where the state has forgotten that
    beginning, which the last layer, never FLUSHed, may take thousands of symbols to do; and
    products of many rows round differently, so that a detector at its very threshold may fall
    on either side.

    Args:
      model, params: a `LanguageModel` and its parameters.
      ids: int `[N]`, N >= 1.
      names: which of `detectors`, the boundaries; `entropy`, of the prediction in nats;
        `surprise`, the next symbol's negative log-probability in nats, 0 after the last symbol;
        `pmi`, the surprise less that of the next symbol by itself (`marginal`), which is its
        pointwise mutual information with what came before, negated: low where symbols belong
        together, though they be rare, 0 after the last symbol;
        `line_end`, the log-probability of a newline next; `entropy_within`, the entropy of the
        next symbol given that the line goes on; `line_break`, by how much the text would be
        likelier with a newline put here, the log-odds of it and the AHEAD symbols after it to
        these alone; `distance`, an ON-LSTM's distances by its forget gates, `1 - mean(f~)`, or
        an LSTM's, see `activations.distances`.
      newline: id of the symbol that ends a line, for the three that speak of lines.
      slope: of the detectors. A soft boundary counts from 1/2 on.
      seed: of detectors that sample. Their draws depend on the number of rows too: the same seed
        and rows give the same boundaries, other rows others as likely.
      rows: R; `rows_for(N)` if None. warmup: symbols.
      progress: called now and then with the number of symbols read so far.

    Returns `{name: [K, N]}`: int8 of the K detectors, float32 of the K layers' distances, and
    float32 `[1, N]` of the others; each symbol's are those of the one row whose part it lies in.

    Raises:
      UserError: rows or warm-up are out of range.
    """
    ids = np.asarray(ids, np.int32)
    rows = min(rows_for(len(ids)) if rows is None else rows, len(ids))
    if rows < 1 or warmup < 0:
        raise UserError(
            f"A text is read in {rows} rows after a warm-up of {warmup} symbols: give a text, one"
            " row or more, and a warm-up of 0 or more."
        )
    asked, names = tuple(names), tuple(names)
    if {"line_break", "pmi"} & set(names) and "surprise" not in names:
        names += ("surprise",)
    alone = marginal.log_probabilities(model, params, slope) if "pmi" in names else None
    names = tuple(name for name in names if name != "pmi")
    model, params, carry = _start(model, params, rows, names)
    params, key = jax.device_put(params), jax.random.key(seed)
    edges = np.arange(rows + 1) * len(ids) // rows
    start, end = edges[:-1], edges[1:]
    first = np.maximum(start - warmup, 0)
    steps = int(np.max(end - first))
    ahead = np.arange(1, 1 + (AHEAD if "line_break" in names else 1))[:, None, None]
    found = {}
    waiting = []  # the window before, whose values are fetched while the next one is read
    for number, begin in enumerate(range(0, steps, _WINDOW)):
        place = first + np.arange(begin, begin + _WINDOW)[:, None]
        part, after = ids[np.minimum(place, len(ids) - 1)], place + ahead
        following, draw = ids[np.minimum(after, len(ids) - 1)], jax.random.fold_in(key, number)
        carry, values = _read(
            model, names, newline, params, part, following, after < len(ids), carry, slope, draw
        )
        waiting.append((place, values))
        if not found:
            kinds = {name: np.int8 if name == "detectors" else np.float32 for name in names}
            found = {k: np.zeros((len(values[k]), len(ids)), kinds[k]) for k in names}
        else:
            _keep(found, start, end, *waiting.pop(0))
        progress(len(ids) * min(begin + _WINDOW, steps) // steps)
    _keep(found, start, end, *waiting.pop())
    if "surprise" in found:
        found["surprise"][:, -1] = 0
    if alone is not None:
        found["pmi"] = found["surprise"] + np.append(alone[ids[1:]], np.float32(0))
    if "line_break" in found:
        costs = np.pad(found["surprise"][0], (0, AHEAD))
        found["line_break"] += sum(costs[k : k + len(ids)] for k in range(AHEAD))
    return {name: found[name] for name in asked}


def _keep(found, start, end, place, values):
    """Puts the values of a window, `[K, T, R]` each, where their symbols lie."""
    own = (place >= start) & (place < end)
    for name, array in found.items():
        array[:, place[own]] = np.asarray(values[name])[:, own]


class Pace:
    """Tells how far a long reading is: a line every few seconds, speed and time left in it.

    Args:
      total: symbols. say: takes the line. every: seconds between lines. of: what is read.
    """

    def __init__(self, total, say, every=5.0, of="symbols"):
        self.total, self.say, self.every, self.of = total, say, every, of
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
                f"{done:,} of {self.total:,} {self.of} read, {speed:,.0f} a second,"
                f" {left // 60}m{left % 60:02}s left"
            )
