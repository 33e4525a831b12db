"""What the library is measured against: the same model written plainly, and LSTM stacks.

Every peer makes the same train step: embedding, recurrence, output module, softmax, mean
loss, gradient, clipping to the global norm 1, Adam; of strokes without the embedding, and with
a mixture density for the softmax. They leave out what the library's own step does besides:
masks, resets of rows and the detectors' statistics.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from benchmarks import timing
from hmrnn_jax.models import mixture
from hmrnn_jax.training import optim

LEARNING_RATE = 0.002


class Unavailable(Exception):
    """This peer cannot run here; the message says why."""


class NaiveStep(nn.Module):
    """One step of an HM-LSTM model of symbols or of real values, written as the paper prints it.

    Chung, Ahn, Bengio 2017: pre-activation eq. 4-7, memory and output eq. 2-3, mixed
    arithmetically by the boundaries, detector eq. 8-9 with the straight-through estimator,
    output module eq. 11-12. Arrays are `[B, d]`, boundaries `[B, 1]`; no layer
    normalisation. Embedding and output module are part of the step.

    Attributes:
      outputs: V, width of the last affine layer: the symbols, or the numbers of a mixture.
      embedding: width of the symbols' embedding; 0 where values are read as they are.
    """

    outputs: int
    embedding: int
    sizes: tuple[int, ...]
    output: int

    @nn.compact
    def __call__(self, carry, x, slope):
        """`carry`: `(h, c, z)`, tuples over layers; `x`: ids `[B]` or values `[B, C]`.

        Returns carry, outputs `[B, V]`.
        """
        old_h, old_c, old_z = carry
        h, c, z = [], [], []
        below = nn.Embed(self.outputs, self.embedding, name="embedding")(x) if self.embedding else x
        q = 1.0
        for layer, size in enumerate(self.sizes):
            last = layer == len(self.sizes) - 1
            p = 0.0 if last else old_z[layer]
            rows = 4 * size if last else 4 * size + 1
            number = layer + 1
            s = nn.Dense(rows, name=f"recurrent{number}")(old_h[layer])
            if not last:
                top_down = nn.Dense(rows, use_bias=False, name=f"top_down{number}")
                s += p * top_down(old_h[layer + 1])
            s += q * nn.Dense(rows, use_bias=False, name=f"bottom_up{number}")(below)
            f, i, o, g = jnp.split(s[:, : 4 * size], 4, axis=-1)
            f, i, o, g = nn.sigmoid(f), nn.sigmoid(i), nn.sigmoid(o), nn.tanh(g)
            flush, copy, update = p, (1 - p) * (1 - q), (1 - p) * q
            new_c = flush * (i * g) + copy * old_c[layer] + update * (f * old_c[layer] + i * g)
            new_h = copy * old_h[layer] + (1 - copy) * (o * nn.tanh(new_c))
            h.append(new_h)
            c.append(new_c)
            if not last:
                z.append(straight_through(s[:, 4 * size :], slope))
                below, q = new_h, z[-1]
        gates = nn.sigmoid(nn.Dense(len(h), use_bias=False, name="gate")(jnp.concatenate(h, -1)))
        embedded = sum(
            gates[:, k : k + 1] * nn.Dense(self.output, use_bias=False, name=f"embed{k + 1}")(v)
            for k, v in enumerate(h)
        )
        outputs = nn.Dense(self.outputs, name="softmax")(nn.relu(embedded))
        return (tuple(h), tuple(c), tuple(z)), outputs


def straight_through(x, slope):
    """1 where `x > 0`, else 0; the gradient is the hard sigmoid's."""
    soft = jnp.clip((slope * x + 1) / 2, 0, 1)
    return soft + jax.lax.stop_gradient((x > 0).astype(x.dtype) - soft)


class NaiveHMLSTM(nn.Module):
    """`NaiveStep` in `nn.scan`, differentiated by JAX."""

    outputs: int
    embedding: int
    sizes: tuple[int, ...]
    output: int

    @nn.nowrap
    def initial_carry(self, batch):
        """Zeros."""
        zeros = tuple(jnp.zeros((batch, size)) for size in self.sizes)
        return zeros, zeros, tuple(jnp.zeros((batch, 1)) for _ in self.sizes[1:])

    @nn.compact
    def __call__(self, x, carry, slope=1.0):
        """`x`: ids `[T, B]` or values `[T, B, C]`. Returns outputs `[T, B, V]` and the carry."""
        scanned = nn.scan(
            NaiveStep,
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=(0, nn.broadcast),
        )
        step = scanned(self.outputs, self.embedding, self.sizes, self.output, name="step")
        carry, outputs = step(carry, x, jnp.asarray(slope, jnp.float32))
        return outputs, carry


class FlaxLSTM(nn.Module):
    """A stack of `nn.OptimizedLSTMCell`, each in `nn.RNN` over the whole window.

    The output module is `relu(W [h^1; ...; h^L])`, as wide as the HM-LSTM's, without its
    gates; one product outside the time loop.
    """

    vocabulary: int
    embedding: int
    sizes: tuple[int, ...]
    output: int

    @nn.nowrap
    def initial_carry(self, batch):
        """Zeros."""
        return tuple((jnp.zeros((batch, n)), jnp.zeros((batch, n))) for n in self.sizes)

    @nn.compact
    def __call__(self, ids, carry):
        """`ids [T, B]`. Returns the logits `[T, B, V]` and the carry."""
        x = nn.Embed(self.vocabulary, self.embedding, name="embedding")(ids)
        hidden, final = [], []
        for size, state in zip(self.sizes, carry, strict=True):
            layer = nn.RNN(nn.OptimizedLSTMCell(size), time_major=True, return_carry=True)
            state, x = layer(x, initial_carry=state)
            hidden.append(x)
            final.append(state)
        embedded = nn.relu(nn.Dense(self.output, use_bias=False)(jnp.concatenate(hidden, -1)))
        return nn.Dense(self.vocabulary, name="softmax")(embedded), tuple(final)


def cross_entropy(logits, targets):
    """Nats of each of `targets [T, B]`."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def mixture_loss(components, outputs, targets):
    """Nats of each of `targets [T, B, 3]`, two values and an event, in the library's mixture."""
    density = mixture.split(outputs, components, dimensions=2, event=True)
    return mixture.negative_log_likelihood(density, targets[..., :2], targets[..., 2])


def linen_training(model, inputs, loss=cross_entropy, axis=None):
    """`(create, update)` of a Flax peer's training.

    Args:
      model: `NaiveHMLSTM`, `FlaxLSTM` or `peer_stacks.NaiveStack`.
      inputs: int `[T, B]`, or values `[T, B, C]`; their first step alone is read.
      loss: `loss(outputs, targets)`, `[T, B]`.
      axis: the devices' axis over which loss and gradients are averaged, if there is one.

    `create()` makes `(parameters, optimizer state)`; `update(training, carry, inputs, targets)`
    gives the new ones, the carry and the mean loss.
    """
    optimizer = optax.chain(optim.optimizer(clip=1.0), optax.scale(-LEARNING_RATE))

    def create():
        carry = model.initial_carry(inputs.shape[1])
        params = model.init(jax.random.key(0), jnp.asarray(inputs[:1]), carry)["params"]
        return params, optimizer.init(params)

    def update(training, carry, inputs, targets):
        params, optimizer_state = training

        def mean_loss(params):
            outputs, after = model.apply({"params": params}, inputs, carry)
            return loss(outputs, targets).mean(), after

        (value, after), gradients = jax.value_and_grad(mean_loss, has_aux=True)(params)
        if axis:
            value, gradients = jax.lax.pmean((value, gradients), axis)
        updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state), after, value

    return create, update


def exactly():
    """As exact as the library's float32: no TF32 on GPUs, no bfloat16 passes on TPUs."""
    return jax.default_matmul_precision("highest")


def linen_step(model, inputs, targets, loss=cross_entropy):
    """Compiles the train step of a Flax peer; `targets` are like `inputs`, the rest is as above.

    Returns the step, a callable that runs one update and waits for it, the compiled
    function, and the number of parameters.
    """
    create, update = linen_training(model, inputs, loss)
    inputs, targets = jnp.asarray(inputs), jnp.asarray(targets)
    carry = model.initial_carry(inputs.shape[1])
    training = jax.jit(create)()
    with exactly():
        compiled = (
            jax.jit(update, donate_argnums=(0, 1)).lower(training, carry, inputs, targets).compile()
        )
    count = sum(leaf.size for leaf in jax.tree.leaves(training[0]))
    # Donated, so two leaves must not share a buffer.
    state = [training, jax.tree.map(jnp.copy, carry)]

    def step():
        state[0], state[1], value = compiled(state[0], state[1], inputs, targets)
        jax.block_until_ready((state, value))

    return step, compiled, count


def torch_lstm_step(vocabulary, embedding, sizes, output, inputs, targets, bfloat16=False):
    """The train step of an LSTM stack in PyTorch, on its GPU if it sees one.

    The mathematics of `FlaxLSTM` (with PyTorch's second bias): a `torch.nn.LSTM` of one
    layer for each of `sizes`, because the output module reads all layers and a deeper
    `torch.nn.LSTM` gives out only its last. `bfloat16` runs forward and loss under autocast.

    Returns the step, which gives its loss, and the number of parameters. Raises `Unavailable`
    without PyTorch, or if this build cannot run the step or not on the device that JAX has.
    """
    try:
        import torch
    except ImportError as error:
        raise Unavailable("PyTorch is not installed") from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device != jax.devices()[0].platform.replace("gpu", "cuda"):
        raise Unavailable("this PyTorch does not run on the device that JAX has")
    torch.manual_seed(0)
    torch.set_num_threads(timing.cores())
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    widths = (embedding, *sizes)
    embed = torch.nn.Embedding(vocabulary, embedding)
    layers = [torch.nn.LSTM(n, size) for n, size in zip(widths, sizes, strict=False)]
    hidden_to_output = torch.nn.Linear(sum(sizes), output, bias=False)
    softmax = torch.nn.Linear(output, vocabulary)
    model = torch.nn.ModuleList([embed, *layers, hidden_to_output, softmax]).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    inputs = torch.as_tensor(inputs, dtype=torch.long, device=device)
    targets = torch.as_tensor(targets, dtype=torch.long, device=device)
    carry = [None] * len(layers)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            x, hidden = embed(inputs), []
            for k, layer in enumerate(layers):
                x, state = layer(x, carry[k])
                carry[k] = tuple(v.detach() for v in state)
                hidden.append(x)
            logits = softmax(torch.relu(hidden_to_output(torch.cat(hidden, -1))))
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        value = loss.item()
        if device == "cuda":
            torch.cuda.synchronize()
        return value

    try:
        step()
    except (NotImplementedError, RuntimeError) as error:
        raise Unavailable(f"PyTorch: {str(error).splitlines()[0]}") from error
    return step, sum(p.numel() for p in model.parameters())
