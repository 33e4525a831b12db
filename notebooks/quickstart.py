# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/hmrnn-jax/hmrnn_jax/blob/main/notebooks/quickstart.ipynb)
#
# # HM-LSTM in five minutes
#
# An HM-LSTM (Chung, Ahn, Bengio 2017) reads a text symbol by symbol and decides by itself
# where segments end: each layer but the last has a binary boundary detector, and the layer
# above moves only when the one below has closed a segment. Here we train a small one on
# CPython's own language reference, look at the boundaries, and sample.

# %%
import sys

if "google.colab" in sys.modules:
    # Colab brings its own JAX for its accelerator; it is left as it is.
    # !git clone -q https://github.com/hmrnn-jax/hmrnn_jax && pip install -q -e hmrnn_jax
    sys.path.insert(0, "hmrnn_jax")

# %%
import functools
import os
import tempfile

import jax
import numpy as np

from hmrnn_jax import datasets, defaults, parallel
from hmrnn_jax.analysis import boundaries, scores
from hmrnn_jax.analysis.figures.text import boundary_figure
from hmrnn_jax.batches.text import Stream
from hmrnn_jax.inference import activations, generate_text
from hmrnn_jax.models.language import language_model
from hmrnn_jax.tasks import language
from hmrnn_jax.training import optim
from hmrnn_jax.training import state as train_state

SMALL = "HMRNN_SMALL" in os.environ  # the test suite runs this notebook with few updates
jax.devices()

# %% [markdown]
# ## Data and model
# `datasets.load` also reads PTB, text8, enwik8, tiny Shakespeare, or a text of yours:
# `datasets.load("text", path="my.txt")`.

# %%
corpus = datasets.load("python_reference")
print(corpus.describe())

config = defaults.text()
config.model.sizes, config.model.output = (128, 128, 128), 128
config.batch, config.window, config.learning_rate = 16, 50, 5e-3
updates = 20 if SMALL else 1200
model = language_model(config.model, corpus.vocabulary.size)

# %% [markdown]
# ## Training
# The step is written for one device of many and compiled by `parallel.pmapped`; the state
# of each row (h, c and z of every layer) is carried from one window to the next.

# %%
mesh = parallel.make_mesh(jax.devices()[:1])
optimizer = optim.optimizer(clip=config.clip)
init = functools.partial(language.init_params, model)
loss = functools.partial(language.loss, model, language.Penalties())
state = parallel.replicate(train_state.create(init, optimizer, seed=0), mesh)
carry = parallel.shard_rows(jax.tree.map(np.asarray, model.initial_carry(config.batch)), mesh)
step = parallel.pmapped(functools.partial(train_state.train_step, loss, optimizer), mesh)
stream = Stream(corpus.splits["train"], config.batch, config.window)

for update in range(updates):
    rate = config.learning_rate * 0.5 * (1 + np.cos(np.pi * update / updates))
    knobs = {"learning_rate": np.float32(rate), "slope": np.float32(1)}
    batch = parallel.shard_batch(stream(update), mesh)
    state, carry, metrics = step(state, carry, batch, knobs)
    if (update + 1) % (updates // 10) == 0:
        result = language.summary(jax.device_get(metrics))
        fires = [f"{result[f'rate/layer{layer}']:.2f}" for layer in (1, 2)]
        print(f"update {update + 1}  bpc {result['bpc']:.3f}  detectors fire {' '.join(fires)}")

# %% [markdown]
# ## Test score
# Every symbol but the first is predicted once, with the state carried along.

# %%
params = state.params
evaluator = language.Evaluator(model, mesh, batch=16, window=50, warmup=200)
result = evaluator(params, corpus.splits["test"])
print(f"test: {result['bpc']:.3f} bits per character over {result['symbols']:,} symbols")

# %% [markdown]
# ## Boundaries
# Under each line, the symbols after which layer 1 and layer 2 closed a segment; then the
# figure of the paper: boundaries and the norms of h of each layer.

# %%
test = corpus.splits["test"][:270]
text = corpus.vocabulary.decode(test)
z, norms = activations.look(model, params, test)
print(boundaries.text_view(text, z))

# %%
from IPython.display import Image

figure = os.path.join(tempfile.mkdtemp(), "boundaries.png")
boundary_figure(figure, text, z, norms, "the first 270 characters of the test text")
Image(figure)

# %%
test = corpus.splits["test"][:5000]
z, _ = activations.look(model, params, test)
draw = jax.jit(functools.partial(language.init_params, model))
untrained = [activations.look(model, draw(jax.random.key(seed)), test)[0] for seed in range(5)]
read = corpus.vocabulary.decode(test)
print(scores.format_scores(boundaries.score_against_spaces(z, read, untrained=untrained)))

# %% [markdown]
# ## Samples

# %%
prompt, _ = corpus.vocabulary.encode("The ")
symbols, _ = generate_text.generate(model, params, prompt, length=400, temperature=0.8, seed=1)
print("The " + corpus.vocabulary.decode(symbols))
