"""The papers' equations as loops and if/else in numpy, and random problems for them.

The equations are written from the papers, for one example at a time; they share no code
with the library, only the names in its parameters' tree. float64.
"""

import jax
import numpy as np

from hmrnn_jax.cells import hm_lstm


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def normalise(values, norm, groups=4):
    """Layer normalisation of each gate by itself (Ba et al. 2016)."""
    parts = [(v - v.mean()) / np.sqrt(v.var() + 1e-5) for v in np.split(values, groups)]
    return np.concatenate(parts) * norm["gain"] + norm["bias"]


def hm_lstm_step(config, params, state, x, slope=1.0, noise=None):
    """One step of the HM-LSTM (Chung, Ahn, Bengio 2017, eq. 1-9) for one example.

    Returns h, c, z of the new state and the detectors' pre-activations, each a list.
    """
    h, c, z, detectors = [], [], [], []
    for layer in range(config.depth):
        entry = params[f"layer{layer + 1}"]
        last = layer == config.depth - 1
        own = 0.0 if last else state.z[layer]  # z_{t-1}^l; the last layer has none
        below = z[layer - 1] if layer else 1.0  # z_t^{l-1}; z^0 is always 1
        terms = [("U_rec", 1.0 - own if config.reset_recurrent else 1.0, state.h[layer])]
        if not last and config.top_down:
            terms.append(("U_td", own, state.h[layer + 1]))
        terms.append(("W_bu", below, h[layer - 1] if layer else x))
        s, detector = entry["gates"]["b"].copy(), None if last else entry["detector"]["b"][0]
        for name, gate, vector in terms:
            term = entry["gates"][name] @ vector
            if config.layer_norm == "ba":
                term = normalise(term, entry["norm"][name])
            s += gate * term
            if not last:
                detector += gate * (entry["detector"][name] @ vector)[0]
        if config.layer_norm == "sum":
            s = normalise(s, entry["norm"]["s"])
        f, i, o = (sigmoid(gate) for gate in np.split(s, 4)[:3])
        g = np.tanh(np.split(s, 4)[3])

        def output(memory, o=o, entry=entry):
            if config.layer_norm != "none":
                norm = entry["norm"]["c"]
                memory = normalise(memory, norm, 1)
            return o * np.tanh(memory)

        flush = own if config.flush else 0.0
        before, update = state.c[layer], f * state.c[layer] + i * g
        if config.boundary == "soft":
            copy = (1 - flush) * (1 - below)
            c.append(flush * i * g + copy * before + (1 - flush) * below * update)
            h.append(copy * state.h[layer] + (1 - copy) * output(c[-1]))
        elif flush == 1:  # FLUSH
            c.append(i * g)
            h.append(output(c[-1]))
        elif below == 1:  # UPDATE
            c.append(update)
            h.append(output(c[-1]))
        else:  # COPY
            c.append(before)
            h.append(state.h[layer])
        if not last:
            if config.detector_reads_h:
                detector += entry["detector"]["V"][0] @ h[-1]
            detectors.append(detector)
            hard = min(1.0, max(0.0, (slope * detector + 1) / 2))
            if config.boundary == "step":
                z.append(float(hard > 0.5))
            elif config.boundary == "sample":
                z.append(float(noise[layer] < hard))
            else:
                z.append(hard)
            if config.nested:
                z[-1] *= below
    return (h, c, z), detectors


def lstm_step(config, params, h, c, x):
    """One step of an LSTM for one example; returns h and c."""
    norm = params.get("norm")
    if config.layer_norm == "ba":
        s = normalise(params["U"] @ h, norm["U"]) + normalise(params["W"] @ x, norm["W"])
    else:
        s = params["U"] @ h + params["W"] @ x
    s = s + params["b"]
    if config.layer_norm == "sum":
        s = normalise(s, norm["s"])
    f, i, o, g = np.split(s, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(normalise(c, norm["c"], 1) if norm else c), c


def make(config, seed=0, scale=0.5, **biases):
    """Normal HM-LSTM parameters, gains about 1; `layer1=5.0` fixes that layer's detector at 5."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: hm_lstm.init(key, config), jax.random.key(0))

    def draw(path, v):
        return scale * rng.normal(size=v.shape) + (path[-1].key == "gain")

    params = jax.tree_util.tree_map_with_path(draw, shapes)
    for name, value in biases.items():
        detector = jax.tree.map(np.zeros_like, params[name]["detector"])
        params[name]["detector"] = detector | {"b": np.full(1, value)}
    return params


def random_state(config, batch, seed=1, dtype="float64"):
    rng = np.random.default_rng(seed)
    h, c = (tuple(rng.normal(size=(batch, n)).astype(dtype) for n in config.sizes) for _ in "hc")
    return hm_lstm.State(h, c, tuple(rng.integers(0, 2, batch).astype(dtype) for _ in h[1:]))


def inputs(steps, batch, seed=2):
    return np.random.default_rng(seed).normal(size=(steps, batch, 3))
