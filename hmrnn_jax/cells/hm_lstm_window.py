"""What an HM-LSTM did over a window whose states are known: for objectives and metrics."""

import jax
import jax.numpy as jnp

from hmrnn_jax.cells import hm_lstm


def detectors(config, params, x, before, after):
    """The detectors' pre-activations from known states, for objectives that stop at these.

    Args:
      params: tree of `init`.
      x: the inputs, `[..., input_size]`: features are the last axis here.
      before, after: `State` before and after each step, `[..., d]` and z `[...]`.

    Returns a tuple of `[...]`, one for each layer but the last.
    """
    found = []
    for layer in range(config.depth - 1):
        rows = params[f"layer{layer + 1}"]["detector"]
        p, q = before.z[layer], after.z[layer - 1] if layer else None
        operands = {
            "U_rec": (hm_lstm.recurrent_gate(config, p), before.h[layer]),
            "U_td": (p, before.h[layer + 1]),
            "W_bu": (q, after.h[layer - 1] if layer else x),
        }
        value = rows["b"][0]
        for name in config.terms(layer):
            gate, vector = operands[name]
            term = vector @ rows[name][0]
            value += term if gate is None else gate * term
        if config.detector_reads_h:
            value += after.h[layer] @ rows["V"][0]
        found.append(value)
    return tuple(found)


def before_each_step(config, first, states, resets):
    """`State` before each step `[T, B, ...]`, from that before the window and those after.

    Args:
      first: `[B, ...]`. states: `[T, B, ...]`.
      resets: `[T, B]`, rows that are put back to the initial state before the step.
    """
    start = hm_lstm.initial_state(config)

    def shifted(initial, first, states):
        moved = jnp.concatenate([first[None], states[:-1]])
        where = resets.reshape(resets.shape + (1,) * (moved.ndim - 2))
        return jnp.where(where, jnp.broadcast_to(initial, moved.shape), moved)

    return jax.tree.map(shifted, start, first, states)


def operations(before, after, flush=True):
    """What each layer did at a step: `(update, copy, flush)`, 0 or 1 of each layer (eq. 2, 3).

    A layer does FLUSH if its boundary before the step is 1; else UPDATE if the layer below has one
    after the step, and the lowest always; else COPY. A boundary between 0 and 1 is a share of each.

    Args:
      before, after: boundaries z of each layer but the last, of numpy or of JAX, of any one shape.
      flush: whether the cell has FLUSH, `Config.flush`.

    Returns three lists of arrays, the lowest layer first; of a single layer without boundaries ones
    and zeros, of whatever shape broadcasts.
    """
    flushes = [p if flush else 0 * p for p in before] + [0 * after[-1] if after else 0]
    below = [1 + 0 * after[0] if after else 1, *after]
    pairs = list(zip(flushes, below, strict=True))
    return [(1 - p) * q for p, q in pairs], [(1 - p) * (1 - q) for p, q in pairs], flushes
