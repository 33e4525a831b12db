"""Makes the fixtures of windows 9 and 13: `python tests/reference/make.py FOLDER`.

The equations of the papers in numpy, float64, as they stand there: HM-LSTM, Chung, Ahn, Bengio
2017, eq. 1-9, and Nested LSTM, Moniz, Krueger 2017. Derivatives are carried forwards beside the
values, with respect to all inputs at once. Nothing is shared with the library, nor JAX used.
"""

import json
import sys
from pathlib import Path

import numpy as np


class Dual:
    """An array `value [...]` and its derivatives with respect to all P inputs, `to [..., P]`."""

    __array_ufunc__ = None  # numpy arrays leave their operators to this class

    def __init__(self, value, to):
        self.value, self.to = value, to

    def __add__(self, other):
        other = dual(other, self)
        return Dual(self.value + other.value, self.to + other.to)

    def __mul__(self, other):
        other = dual(other, self)
        to = self.to * other.value[..., None] + other.to * self.value[..., None]
        return Dual(self.value * other.value, to)

    def __matmul__(self, other):
        to = np.einsum("bip,ij->bjp", self.to, other.value)
        return Dual(self.value @ other.value, to + np.einsum("bi,ijp->bjp", self.value, other.to))

    def __neg__(self):
        return self * -1.0

    def __sub__(self, other):
        return self + -dual(other, self)

    def __rsub__(self, other):
        return -self + other

    __radd__, __rmul__ = __add__, __mul__

    def __getitem__(self, key):
        return Dual(self.value[key], self.to[key])

    def map(self, value, derivative):
        """The function of these values and derivatives, element by element."""
        return Dual(value, self.to * derivative[..., None])

    def mean(self):
        """Over the last axis, which stays."""
        return Dual(self.value.mean(-1, keepdims=True), self.to.mean(-2, keepdims=True))

    def sum(self):
        return Dual(self.value.sum(), self.to.reshape(-1, self.to.shape[-1]).sum(0))


def dual(x, like):
    if isinstance(x, Dual):
        return x
    x = np.asarray(x, float)
    return Dual(x, np.zeros((*x.shape, like.to.shape[-1])))


def sigmoid(x):
    s = 1 / (1 + np.exp(-x.value))
    return x.map(s, s * (1 - s))


def tanh(x):
    t = np.tanh(x.value)
    return x.map(t, 1 - t**2)


def normalise(x, gain, bias):
    centred = x - x.mean()
    deviation = np.sqrt((centred * centred).mean().value + 1e-5)
    inverse = (centred * centred).mean().map(1 / deviation, -0.5 / deviation**3)
    return centred * inverse * gain + bias


def boundary(x, slope, mode):
    """z of eq. 9: the derivative is the hard sigmoid's, 0 at its kinks."""
    hard = np.clip((slope * x.value + 1) / 2, 0, 1)
    z = hard if mode == "soft" else (x.value > 0).astype(float)
    return x.map(z, np.where(np.abs(slope * x.value) < 1, slope / 2, 0.0))


def with_derivatives(arrays):
    """The arrays as inputs: each the identity to its own place among all P."""
    total, start, found = sum(v.size for v in arrays.values()), 0, {}
    for name, value in arrays.items():
        to = np.zeros((value.size, total))
        to[np.arange(value.size), start + np.arange(value.size)] = 1
        found[name] = Dual(value, to.reshape(*value.shape, total))
        start += value.size
    return found


def gradients(loss, arrays):
    """`{grad/NAME: d loss / d NAME}`, and the loss."""
    found, start = {"loss": loss.value}, 0
    for name, value in arrays.items():
        found[f"grad/{name}"] = loss.to[start : start + value.size].reshape(value.shape)
        start += value.size
    return found


def hm_lstm(inputs, weights, sizes, mode, slope, layer_norm):
    """Runs the inputs; returns the outputs by name, and the loss."""
    a, last = with_derivatives(inputs), len(sizes) - 1
    h = [a[f"h0/{n}"] for n in range(last + 1)]
    c = [a[f"c0/{n}"] for n in range(last + 1)]
    z = [a[f"z0/{n}"] for n in range(last)]
    out, loss = {}, 0.0
    for t, x in enumerate(a["x"]):
        above, below, q = list(h), x, 1.0
        for n, size in enumerate(sizes):
            p = z[n][:, None] if n < last else 0.0
            s = h[n] @ a[f"layer{n}/U_rec"] + q * (below @ a[f"layer{n}/W_bu"]) + a[f"layer{n}/b"]
            if n < last:
                s = s + p * (above[n + 1] @ a[f"layer{n}/U_td"])
            gates = [s[:, k * size : (k + 1) * size] for k in range(4)]
            if layer_norm:
                gain, bias = (a[f"layer{n}/ln_{name}"] for name in ("gain", "bias"))
                parts = [slice(k * size, (k + 1) * size) for k in range(4)]
                gates = [normalise(v, gain[k], bias[k]) for v, k in zip(gates, parts, strict=True)]
            f, i, o = (sigmoid(v) for v in gates[:3])
            g, copy = tanh(gates[3]), (1.0 - p) * (1.0 - q)
            c[n] = p * (i * g) + copy * c[n] + (1.0 - p) * q * (f * c[n] + i * g)
            memory = c[n]
            if layer_norm:
                memory = normalise(memory, a[f"layer{n}/ln_c_gain"], a[f"layer{n}/ln_c_bias"])
            h[n] = copy * h[n] + (1.0 - copy) * (o * tanh(memory))
            record = {"h": h[n], "c": c[n]}
            if n < last:
                record["pre"] = s[:, 4 * size]
                z[n] = record["z"] = boundary(record["pre"], slope, mode)
                q = z[n][:, None]
            for name, value in record.items():
                out.setdefault(f"out/{name}/{n}", []).append(value.value)
            below = h[n]
            loss = loss + (weights[f"R/{n}"][t] * h[n]).sum()
    for n in range(last + 1):
        loss = loss + (weights[f"Rc/{n}"] * c[n]).sum()
    return {name: np.stack(values) for name, values in out.items()}, loss


def nested_lstm(inputs, weights, depth, proposal):
    """As `hm_lstm`."""
    a = with_derivatives(inputs)
    h, c = a["h0"], [a[f"c0/{d}"] for d in range(depth)]
    size = h.value.shape[1]
    out, loss = {}, 0.0
    for t, x in enumerate(a["x"]):
        given, hidden, outputs = x, h, []
        for d in range(depth):
            s = given @ a[f"level{d}/W"] + hidden @ a[f"level{d}/U"] + a[f"level{d}/b"]
            f, i, o, g = (s[:, k * size : (k + 1) * size] for k in range(4))
            g = tanh(g) if d or proposal == "tanh" else g
            given, hidden = sigmoid(i) * g, sigmoid(f) * c[d]
            outputs.append(sigmoid(o))
        value = given + hidden
        for d in reversed(range(depth)):
            c[d] = value
            value = outputs[d] * tanh(value)
        h = value
        new = {"h": h} | {f"c/{d}": v for d, v in enumerate(c)}
        for name, v in new.items():
            out.setdefault(f"out/{name}", []).append(v.value)
        loss = loss + (weights["R"][t] * h).sum()
    for d in range(depth):
        loss = loss + (weights[f"Rc/{d}"] * c[d]).sum()
    return {name: np.stack(values) for name, values in out.items()}, loss


def draw_hm_lstm(rng, steps, batch, width, sizes, mode, layer_norm):
    """Inputs and the loss's weights."""
    last, inputs, weights = len(sizes) - 1, {}, {}
    for n, size in enumerate(sizes):
        columns = 4 * size + (n < last)
        shapes = {"U_rec": (size, columns), "b": (columns,)}
        shapes["W_bu"] = (sizes[n - 1] if n else width, columns)
        if n < last:
            shapes["U_td"] = (sizes[n + 1], columns)
        inputs |= {f"layer{n}/{name}": 0.5 * rng.normal(size=s) for name, s in shapes.items()}
        if layer_norm:
            for name, d in (("ln", 4 * size), ("ln_c", size)):
                inputs[f"layer{n}/{name}_gain"] = 1 + 0.2 * rng.normal(size=d)
                inputs[f"layer{n}/{name}_bias"] = 0.2 * rng.normal(size=d)
        inputs[f"h0/{n}"] = 0.5 * rng.normal(size=(batch, size))
        inputs[f"c0/{n}"] = rng.normal(size=(batch, size))
        if n < last:
            inputs[f"z0/{n}"] = rng.integers(0, 2, batch).astype(float)
        weights[f"R/{n}"] = rng.normal(size=(steps, batch, size))
        weights[f"Rc/{n}"] = rng.normal(size=(batch, size))
    return inputs | {"x": rng.normal(size=(steps, batch, width))}, weights


def draw_nested_lstm(rng, steps, batch, width, size, depth):
    inputs = {"x": rng.normal(size=(steps, batch, width)), "h0": rng.normal(size=(batch, size))}
    weights = {"R": rng.normal(size=(steps, batch, size))}
    for d in range(depth):
        shapes = {"W": (size if d else width, 4 * size), "U": (size, 4 * size), "b": (4 * size,)}
        inputs |= {f"level{d}/{name}": 0.5 * rng.normal(size=s) for name, s in shapes.items()}
        inputs[f"c0/{d}"] = rng.normal(size=(batch, size))
        weights[f"Rc/{d}"] = rng.normal(size=(batch, size))
    return inputs, weights


def fits(run, inputs, weights, out, loss, slope):
    """Whether float32 can be held to 1e-5 on a draw.

    No detector lies within 1e-3 of a threshold, all of UPDATE, COPY and FLUSH occur where they
    can, and inputs rounded to float32 move no gradient by more than 1e-6.
    """
    pre = np.stack([v for name, v in out.items() if name.startswith("out/pre")])
    if min(np.abs(np.abs(pre) - k).min() for k in (0, 1 / slope)) < 1e-3:
        return False
    fired = [out[f"out/z/{n}"] > 0.5 for n in range(len(pre))]
    cases = {(own, below) for own, below in zip(fired[1][:-1].flat, fired[0][1:].flat, strict=True)}
    if len(cases) < 4:
        return False
    rounded = {name: v.astype(np.float32).astype(float) for name, v in inputs.items()}
    exact, moved = (gradients(v, inputs) for v in (loss, run(rounded, weights)[1]))
    return all(
        np.abs(moved[name] - v).max() <= 1e-6 * max(1, np.abs(v).max()) for name, v in exact.items()
    )


def make_hm_lstm(steps, sizes=(3, 4, 2), width=3, batch=3, mode="step", slope=1.0, layer_norm=True):
    def run(inputs, weights):
        return hm_lstm(inputs, weights, sizes, mode, slope, layer_norm)

    for seed in range(1000):
        rng = np.random.default_rng(seed)
        inputs, weights = draw_hm_lstm(rng, steps, batch, width, sizes, mode, layer_norm)
        out, loss = run(inputs, weights)
        if fits(run, inputs, weights, out, loss, slope):
            break
    meta = {"kind": "hm_lstm", "T": steps, "B": batch, "n_in": width, "hidden": sizes, "mode": mode}
    meta |= {"slope": slope, "layer_norm": layer_norm, "draw": seed}
    return inputs | weights | out | gradients(loss, inputs) | {"meta": json.dumps(meta)}


def make_nested_lstm(steps, size=3, width=2, batch=3, depth=2):
    inputs, weights = draw_nested_lstm(np.random.default_rng(0), steps, batch, width, size, depth)
    arrays = inputs | weights
    for prefix, proposal in (("", "identity"), ("outer_tanh/", "tanh")):
        out, loss = nested_lstm(inputs, weights, depth, proposal)
        arrays |= {prefix + k: v for k, v in (out | gradients(loss, inputs)).items()}
    meta = {"kind": "nested_lstm", "T": steps, "B": batch, "n_in": width, "hidden": size}
    return arrays | {"meta": json.dumps(meta | {"depth": depth})}


FIXTURES = {
    "hm_lstm_window9": lambda: make_hm_lstm(9, slope=2.0, layer_norm=False),
    "hm_lstm_window13": lambda: make_hm_lstm(13),
    "nested_lstm_window9": lambda: make_nested_lstm(9),
    "nested_lstm_window13": lambda: make_nested_lstm(13, depth=1),
}


if __name__ == "__main__":
    for name, make in FIXTURES.items():
        np.savez_compressed(Path(sys.argv[1]) / f"{name}.npz", **make())
