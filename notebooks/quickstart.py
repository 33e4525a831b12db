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
import os
import pathlib
import tempfile

from IPython.display import Image

import hmrnn_jax as hm
from hmrnn_jax.evaluation import text
from hmrnn_jax.training import config_file

SMALL = "HMRNN_SMALL" in os.environ  # the test suite runs this notebook with few updates
workdir = pathlib.Path(tempfile.mkdtemp()) / "quickstart"

# %% [markdown]
# ## Training
# The same program as `hmrnn train`. The detectors are taught by the model's own uncertainty:
# where the next symbol is hardest to tell, a segment has probably ended. Nobody tells it what a
# word is. For a text of yours: `config.data.name, config.data.path = "text", "my.txt"`.

# %%
config = config_file.load("quickstart")
if SMALL:
    config.model.sizes, config.model.output, config.model.embedding = (16, 16, 16), 16, 16
    config.steps, config.evaluation.every = 20, 20
config.finish = "metrics"
result = hm.train(config, str(workdir))
print(f"test: {result['bpc']:.3f} bits per character over {result['symbols']:,} symbols")

# %% [markdown]
# ## Boundaries
# Under each line, the symbols after which layer 1 and layer 2 closed a segment; then the
# figure of the paper: boundaries and the norms of h of each layer. The table asks how well the
# boundaries meet the spaces, beside detectors that read nothing, models that were not trained, and
# what can be read directly from the uncertainty of the same model.

# %%
run = hm.load(workdir)
*inputs, _ = text.split(run, "test")
picture, scored = workdir / "boundaries.png", 1000 if SMALL else 5000
print(text.show_boundaries(run, "test text", inputs, None, picture, scored=scored))
Image(str(picture))

# %% [markdown]
# The segments of a sentence of yours, by the first layer:

# %%
mine = "The value of an expression is printed, unless it is None.\n"
print(" | ".join(row["text"] for row in run.segment(mine) if row["layer"] == 1))

# %% [markdown]
# ## Samples

# %%
print("The " + run.sample("The ", 400, temperature=0.8, seed=1)["text"])
