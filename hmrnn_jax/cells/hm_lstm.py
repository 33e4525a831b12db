"""HM-LSTM: hierarchical multiscale LSTM (Chung, Ahn, Bengio, ICLR 2017).

Layers l = 1..L are evaluated bottom to top within a time step. With `p` the own
boundary of the previous step, z_{t-1}^l, and `q` the boundary below in this step,
z_t^{l-1} (1 under the first layer), the pre-activation is (eq. 5-7)

    s = U_rec h_{t-1}^l + p U_td h_{t-1}^{l+1} + q W_bu h_t^{l-1} + b
    f, i, o = sigmoid, g = tanh, detector x = last row

and the memory (eq. 2-3)

    UPDATE  p = 0, q = 1    c = f c' + i g     h = o tanh(c)
    COPY    p = 0, q = 0    c = c'             h = h'
    FLUSH   p = 1           c = i g            h = o tanh(c)

FLUSH forgets c' but not h': the recurrent term is never gated. The last layer has
neither detector nor top-down term, so it only ever UPDATEs or COPYs; the first
never COPYs. A detector is evaluated at every step, COPY included (the paper leaves
it open), so a layer may close a segment while it copies, and FLUSH next.

All functions are pure. Columns, as in the paper: features lie along the first axis,
`[d]` for one example or `[d, B]` for a batch, boundaries are `[]` or `[B]`;
`hmrnn_jax.recurrence` runs a cell over time. Gate order: f, i, o, g.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hmrnn_jax import ops
from hmrnn_jax.cells import hm_lstm_pointwise
from hmrnn_jax.cells.base import Products, cast_like, check_input, check_sizes, init_norms
from hmrnn_jax.errors import require

TERMS = ("U_rec", "U_td", "W_bu")


NAME = "HM-LSTM"


@dataclass(frozen=True)
class HMLSTM:
    """Sizes of an HM-LSTM and the choices that the paper leaves open.

    Attributes:
      input_size: width of x.
      sizes: width of h and c of each layer, lowest first.
      boundary: `step`, `sample` (Bernoulli) or `soft` (Table 1 of the paper).
      gradient: `blend`, the three operations mixed arithmetically by p and q, so that
        the choice of operation passes gradient to the detectors; `select`, it passes
        none. The paper says only that z is straight-through.
      layer_norm: `none`; `sum`, each gate of the summed pre-activation, and c before
        the output tanh; `ba`, each of the three terms before its gate (Ba et al.
        2016). The paper does not place it. The detector is never normalised.
      z_init: boundary before the first step; the paper is silent.
      forget_bias: initial bias of f; the paper is silent.
      detector_bias: initial bias of the detectors; the paper is silent.
      detector_scale: factor on the detectors' initial weights; the paper is silent. At 1
        a detector's pre-activation has an offset of about 1 that depends on the draw, and may
        lie beyond the band |x| < 1/a for good; at 0.3 all start well within it.
      top_down, flush: False for the ablations without that part.
      surrogate: what stands in for the derivative of a detector's step: `hard_sigmoid`, the
        paper's, or `logistic`, which has no dead zone, see `ops.surrogate_derivative`.
      nested: z_t^l is 1 only where z_t^{l-1} is, the product of both: a layer does not fire
        while the one below goes on, and its segments are whole segments of the one below (Cherry
        et al. 2018 lock z of copied states alike; Shain, Elsner 2019). The paper leaves open
        what z is during COPY.
      detector_reads_h: the detector reads its own layer's new h_t, too: x + V h_t^l. By the
        paper it sees h_{t-1} alone (eq. 5); the second form of Shain, Elsner 2019.
      reset_recurrent: FLUSH drops the recurrent term, (1 - p) U_rec h_{t-1}: nothing of the
        ended segment is kept but what the layer above hands down. The paper's text erases all,
        its eq. 5 keeps h. Without `flush` it acts too: new trainings refuse that, old ones have it.
    """

    input_size: int
    sizes: tuple[int, ...]
    boundary: str = "step"
    gradient: str = "blend"
    layer_norm: str = "sum"
    z_init: float = 0.0
    forget_bias: float = 0.0
    detector_bias: float = 0.0
    detector_scale: float = 0.3
    top_down: bool = True
    flush: bool = True
    surrogate: str = "hard_sigmoid"
    nested: bool = False
    detector_reads_h: bool = False
    reset_recurrent: bool = False

    uses_slope = True
    replays = True

    def __post_init__(self):
        check_sizes(input_size=self.input_size, sizes=self.sizes)
        require("boundary", self.boundary, ops.BOUNDARY_MODES)
        require("gradient", self.gradient, ("blend", "select"))
        require("layer_norm", self.layer_norm, ("none", "sum", "ba"))
        require("surrogate", self.surrogate, ops.SURROGATES)

    @property
    def depth(self):
        return len(self.sizes)

    @property
    def derivative(self):
        """Which `ops.surrogate_derivative` is a detector's: a soft one is differentiable itself."""
        return "hard_sigmoid" if self.boundary == "soft" else self.surrogate

    @property
    def uses_noise(self):
        """Number of uniform draws that `step` takes: one a detector in `sample` mode."""
        return self.depth - 1 if self.boundary == "sample" else 0

    def terms(self, layer):
        """Names and widths of the products that make up `layer`'s pre-activation."""
        widths = {"U_rec": self.sizes[layer]}
        if self.top_down and layer < self.depth - 1:
            widths["U_td"] = self.sizes[layer + 1]
        widths["W_bu"] = self.sizes[layer - 1] if layer else self.input_size
        return widths

    def stepwise_terms(self, layer):
        """`terms` but for the first layer's with x, which `inputs` has."""
        return {name: k for name, k in self.terms(layer).items() if layer or name != "W_bu"}


Config = HMLSTM


class State(NamedTuple):
    """h and c of every layer, z of every layer but the last; all carried over windows."""

    h: tuple[jax.Array, ...]
    c: tuple[jax.Array, ...]
    z: tuple[jax.Array, ...]


class Aux(NamedTuple):
    """Pre-activations of the detectors, one scalar for each layer but the last."""

    x: tuple[jax.Array, ...]


def init(key, config, dtype=jnp.float32):
    """Parameters: `{layerN: {gates, detector?, norm?}}`, N from 1.

    `gates` holds `U_rec [4H, H]`, `U_td [4H, H_above]`, `W_bu [4H, H_below]`, `b [4H]`;
    `detector` the same names with a single row, and `V [1, H]` where it reads the new h.
    Orthogonal recurrent blocks, Glorot-uniform input and top-down blocks, small biases (the paper
    states no initialisation). A detector that reads the new h begins with the old one's weights for
    it where there are top-down connections, else with those of W_bu where both are equally wide.
    """
    params, asked = {}, {}
    for layer, (size, layer_key) in enumerate(
        zip(config.sizes, jax.random.split(key, config.depth), strict=True)
    ):
        keys = iter(jax.random.split(layer_key, 2 * len(TERMS) + 1))
        terms = config.terms(layer)
        params[_name(layer)] = entry = {"gates": {}}
        for name, width in terms.items():
            make = ops.ORTHOGONAL if name == "U_rec" else ops.GLOROT
            asked[layer, "gates", name] = ops.Blocks(make, next(keys), size, width, 4)
        if layer < config.depth - 1:
            entry["detector"] = {"b": jnp.full(1, config.detector_bias, dtype)}
            for name, width in terms.items():
                asked[layer, "detector", name] = ops.Blocks(ops.GLOROT, next(keys), 1, width)
            if config.detector_reads_h:
                # The other draws stay as they are. With top-down terms this is U_rec's key, so that
                # a detector begins with h' + h; runs on record began so.
                own = jax.random.fold_in(layer_key, len(TERMS))
                asked[layer, "detector", "V"] = ops.Blocks(ops.GLOROT, own, 1, size)
        entry["gates"]["b"] = _gate_bias(next(keys), config, size, dtype)
        if config.layer_norm != "none":
            names = ["s"] if config.layer_norm == "sum" else list(terms)
            entry["norm"] = init_norms(names, size, dtype)
    for (layer, part, name), matrix in ops.draw_blocks(asked, dtype).items():
        scale = config.detector_scale if part == "detector" else 1
        params[_name(layer)][part][name] = scale * matrix
    return params


def _gate_bias(key, config, size, dtype):
    """Uniform in +-1/sqrt(H), and `forget_bias` on top in f.

    A detector may FLUSH a layer that has read nothing yet. With zero biases its
    pre-activation and c would be exactly zero, where layer normalisation has derivative
    1/sqrt(epsilon), step after step: the gradient overflows.
    """
    bias = ops.drawn(ops.symmetric_uniform(size**-0.5), key, (4 * size,), dtype)
    return bias.at[:size].add(config.forget_bias)


def _name(layer):
    return f"layer{layer + 1}"


def initial_state(config, batch=(), dtype=jnp.float32):
    """State before the first step, `[size, *batch]`: zeros, z at `config.z_init`."""
    zeros = tuple(jnp.zeros((size, *batch), dtype) for size in config.sizes)
    return State(zeros, zeros, (jnp.full(batch, config.z_init, dtype),) * (config.depth - 1))


def _rows(entry, name):
    """Gate rows and, below them, the detector row of one parameter."""
    parts = [entry["gates"][name]] + ([entry["detector"][name]] if "detector" in entry else [])
    return jnp.concatenate(parts) if len(parts) > 1 else parts[0]


def products(config, params):
    """Kernels and biases of the products in `step`: `{name: (kernel [N, K], bias [N])}`.

    One product for each layer, its operands concatenated; with `ba` normalisation
    one for each term. The first layer's bottom-up term is not here but in `inputs`.
    """
    kernels = {}
    for layer in range(config.depth):
        name, entry = _name(layer), params[_name(layer)]
        terms = config.stepwise_terms(layer)
        if config.layer_norm == "ba":
            kernels |= {f"{name}/{term}": (_rows(entry, term), None) for term in terms}
        else:
            kernel = jnp.concatenate([_rows(entry, term) for term in terms], axis=1)
            kernels[name] = (kernel, _rows(entry, "b"))
    return kernels


def by_term(config, layer, joint):
    """The parts of a layer's joint kernel `[N, K]`, one for each of its `stepwise_terms`."""
    widths = list(config.stepwise_terms(layer).values())
    return jnp.split(joint, np.cumsum(widths)[:-1], axis=1)


def inputs(config, params, x, precision="float32"):
    """The part of the first layer's pre-activation that x alone decides, `{name: [N, ...]}`.

    Raises `UserError` where x, `[input_size, ...]`, is of another width.
    """
    check_input(config, x)
    entry = params[_name(0)]
    value = ops.product(_rows(entry, "W_bu"), x, precision)
    if config.layer_norm == "ba":
        return {"layer1/W_bu": value}
    return {"layer1": value + ops.column(_rows(entry, "b"), value)}


def vectors(config, params):
    """The parameters that `step` uses outside its products, in the tree of `params`."""
    found = {name: {"norm": entry.get("norm")} for name, entry in params.items()}
    for name, entry in params.items():
        if config.layer_norm == "ba":
            found[name]["b"] = _rows(entry, "b")
        if "V" in entry.get("detector", ()):
            found[name]["reads"] = entry["detector"]["V"][0]
    return found


def step(
    config, params, state, x=None, *, linear=None, slope=1.0, noise: Any = None, after=None,
    pointwise=hm_lstm_pointwise,
) -> tuple[State, Aux]:  # fmt: skip
    """One time step.

    Args:
      config: sizes and choices.
      params: tree of `init`, or of `vectors` when `linear` is given.
      state: `State` of step t - 1.
      x: input `[input_size, ...]`; not used when `linear` is given.
      linear: the products, `linear(name, operand) -> kernel @ operand + bias`, with the first
        layer's input term included, the operand as in `base.joined`; made from `params` and
        `x` by default.
      slope: slope a of the hard sigmoid, a scalar, traced.
      noise: `[L - 1, ...]` uniform draws for the `sample` mode.
      after: the new `State`, where it is known and only the derivative is wanted; this is
        then the form that `recurrence` differentiates, its derivative written by hand.
      pointwise: what does all but the products: `hm_lstm_pointwise` or `recurrence.gpu_kernel`.

    Returns the new `State` and the detectors' pre-activations.
    """
    if linear is None:
        linear = Products(products(config, params), inputs(config, params, x))
        params = vectors(config, params)
    h, c, z, detectors = [], [], [], []
    for layer, size in enumerate(config.sizes):
        last = layer == config.depth - 1
        p = None if last else state.z[layer]
        q = z[layer - 1] if layer else None
        norm = params[_name(layer)]["norm"]
        operands = {"U_rec": (recurrent_gate(config, p), state.h[layer])}
        if config.top_down and not last:
            operands["U_td"] = (p, state.h[layer + 1])
        operands["W_bu"] = (q, h[layer - 1] if layer else None)
        s = _preactivation(config, params, layer, operands, linear)
        # Not two slices: the gradient of a split is one concatenation.
        gates, detector = (s, None) if last else jnp.split(s, [4 * size])
        operands = hm_lstm_pointwise.Operands(
            gates, None if last else detector[0], p, q, state.h[layer], state.c[layer], norm,
            slope, noise[layer] if config.uses_noise and not last else None,
            params[_name(layer)].get("reads"),
        )  # fmt: skip
        if after is None:
            new = pointwise.advance(config, operands)
        else:
            known = hm_lstm_pointwise.Advanced(
                after.h[layer], after.c[layer], None if last else after.z[layer],
                operands.detector,
            )  # fmt: skip
            new = pointwise.replay(config, known, operands)
        h.append(cast_like(state.h[layer], new.h))
        c.append(cast_like(state.c[layer], new.c))
        if not last:
            detectors.append(new.x)
            z.append(cast_like(p, new.z))
    return State(tuple(h), tuple(c), tuple(z)), Aux(tuple(detectors))


def recurrent_gate(config, p):
    """What gates the recurrent term: None, that is 1, or 1 - p where FLUSH drops it."""
    return 1 - p if config.reset_recurrent and p is not None else None


def _preactivation(config, params, layer, operands, linear):
    """s of eq. 5-7: gate rows, and the detector row last; `operands[name] = (gate, vector)`."""
    name = _name(layer)
    if config.layer_norm != "ba":
        # z gates vectors rather than products: a scalar commutes with the product,
        # and so the terms of a layer are one product of concatenated operands.
        gated = [_gated(gate, v) for gate, v in operands.values() if v is not None]
        return linear(name, gated)
    s = 0.0
    for term, (gate, vector) in operands.items():
        value = linear(f"{name}/{term}", vector)
        rows = 4 * config.sizes[layer]
        normalised = ops.layer_norm(value[:rows], **params[name]["norm"][term], groups=4)
        if len(value) > rows:
            value = jnp.concatenate([normalised, value[rows:]])
        else:
            value = normalised
        s += _gated(gate, value)
    return s + ops.column(params[name]["b"], s)


def _gated(gate, vector):
    return vector if gate is None else ops.row(gate) * vector
