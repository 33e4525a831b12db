"""ON-LSTM and Nested LSTM written plainly: each a Flax cell in `nn.RNN`, a layer at a time.

Embedding and tied decoder lie outside the time loop, as everybody writes them. The train
step around them is `peers.linen_step`.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp


class NaiveONLSTMCell(nn.RNNCellBase):
    """One step of an ON-LSTM, as the paper prints it (Shen et al. 2019, eq. 2-14)."""

    size: int
    chunk: int = 10

    @nn.compact
    def __call__(self, carry, x):
        """`carry`: `(h, c)`, `[B, H]` each; `x [B, n]`. Returns carry and h."""
        h, c = carry
        n = self.size // self.chunk
        rows = 4 * self.size + 2 * n
        s = nn.Dense(rows, name="input")(x) + nn.Dense(rows, name="recurrent")(h)
        gates, masters = jnp.split(s, [4 * self.size], axis=-1)
        f, i, o, g = jnp.split(gates, 4, axis=-1)
        f, i, o, g = nn.sigmoid(f), nn.sigmoid(i), nn.sigmoid(o), nn.tanh(g)
        master_f, master_i = jnp.split(masters, 2, axis=-1)
        master_f = jnp.repeat(cumax(master_f), self.chunk, axis=-1)
        master_i = jnp.repeat(1 - cumax(master_i), self.chunk, axis=-1)
        overlap = master_f * master_i
        f_hat = f * overlap + (master_f - overlap)
        i_hat = i * overlap + (master_i - overlap)
        c = f_hat * c + i_hat * g
        h = o * nn.tanh(c)
        return (h, c), h

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        """Zeros."""
        zeros = jnp.zeros((*input_shape[:-1], self.size))
        return zeros, zeros

    @property
    def num_feature_axes(self):
        return 1


def cumax(x):
    """`cumsum(softmax(x))` over the last axis."""
    return jnp.cumsum(jax.nn.softmax(x, axis=-1), axis=-1)


class NaiveNestedLSTMCell(nn.RNNCellBase):
    """One step of a Nested LSTM of depth 2, the outer proposal the identity."""

    size: int

    @nn.compact
    def __call__(self, carry, x):
        """`carry`: `(h, c, inner c)`, `[B, H]` each; `x [B, n]`. Returns carry and h."""
        h, c, inner = carry
        dense = functools.partial(nn.Dense, 4 * self.size)
        s = dense(name="input")(x) + dense(use_bias=False, name="recurrent")(h)
        f, i, o, g = jnp.split(s, 4, axis=-1)
        f, i, o = nn.sigmoid(f), nn.sigmoid(i), nn.sigmoid(o)
        s = dense(name="inner_input")(i * g)
        s += dense(use_bias=False, name="inner_recurrent")(f * c)
        inner_f, inner_i, inner_o, inner_g = jnp.split(s, 4, axis=-1)
        inner = nn.sigmoid(inner_f) * inner + nn.sigmoid(inner_i) * nn.tanh(inner_g)
        c = nn.sigmoid(inner_o) * nn.tanh(inner)
        h = o * nn.tanh(c)
        return (h, c, inner), h

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        """Zeros."""
        zeros = jnp.zeros((*input_shape[:-1], self.size))
        return zeros, zeros, zeros

    @property
    def num_feature_axes(self):
        return 1


CELLS = {"on_lstm": NaiveONLSTMCell, "nested_lstm": NaiveNestedLSTMCell}


class NaiveStack(nn.Module):
    """Embedding, a stack of one of `CELLS`, and the embedding again as the decoder."""

    cell: str
    vocabulary: int
    embedding: int
    sizes: tuple[int, ...]

    @nn.nowrap
    def initial_carry(self, batch):
        """Zeros."""
        make = CELLS[self.cell]
        return tuple(make(n).initialize_carry(None, (batch, 1)) for n in self.sizes)

    @nn.compact
    def __call__(self, ids, carry):
        """`ids [T, B]`. Returns the logits `[T, B, V]` and the carry."""
        table = nn.Embed(self.vocabulary, self.embedding, name="embedding")
        x, final = table(ids), []
        for size, state in zip(self.sizes, carry, strict=True):
            layer = nn.RNN(CELLS[self.cell](size), time_major=True, return_carry=True)
            state, x = layer(x, initial_carry=state)
            final.append(state)
        bias = self.param("bias", nn.initializers.zeros, (self.vocabulary,))
        return table.attend(x) + bias, tuple(final)
