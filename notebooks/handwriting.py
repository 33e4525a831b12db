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
# # Handwriting: segments of a moving pen
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/hmrnn-jax/hmrnn_jax/blob/main/notebooks/handwriting.ipynb)
#
# The HM-LSTM (Chung, Ahn, Bengio 2017, section 4.2) reads where a pen goes, offset by offset, and
# predicts the next offset as a mixture of Gaussians (Graves 2013). Nobody tells it what a stroke
# or a word is. Here we train one, look at its segments, and let it write.

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

SMALL = "HMRNN_SMALL" in os.environ  # the test suite runs this notebook with few updates
folder = pathlib.Path(tempfile.mkdtemp())

# %% [markdown]
# ## The pen, and training
# The paper's data, IAM-OnDB, are licensed: with a copy of your own in `$HMRNN_DATA/iam-ondb` take
# `config.data.name = "iam_ondb"`. The lines here are synthetic: nine letters, with slant, size and
# speed that vary. A step is an offset `dx, dy` and whether the pen is lifted after it.
#
# The same program as `hmrnn train --config=hm_lstm_scribbles`. The figure of the field is the
# log-likelihood of a whole line in nats; it depends on the scale, so it is that of standardised
# offsets.

# %%
config = hm.defaults.strokes().unlock()
config.data.name = "scribbles"
config.model.sizes = (32, 32, 32) if SMALL else (96, 96, 96)
config.model.output, config.model.components = config.model.sizes[0], 5 if SMALL else 10
config.slope.increment = 0.1
config.batch, config.window, config.learning_rate = 16, 50, 2e-3
config.steps = 10 if SMALL else 1000
config.evaluation.every = config.steps // 2
config.report = config.steps // 5
workdir = folder / "run"
result = hm.train(config.lock(), str(workdir))
print(f"test log-likelihood of a line: {result['log_likelihood']:.1f} nats")

# %% [markdown]
# ## Segments
# The colour changes after every boundary. The tables ask whether a boundary falls on a lifted pen
# or on the end of a word, beside detectors of the same rate that have read nothing.

# %%
picture, scored = folder / "boundaries.png", 20 if SMALL else 200
options = f"--workdir={workdir} --output={picture} --shown=3 --scored={scored}"
# !{sys.executable} -m hmrnn_jax boundaries {options}
Image(str(picture), width=600)

# %% [markdown]
# ## Writing
# The model draws the next offset and reads it in turn: one compiled scan for all lines. A bias
# (Graves 2013, section 5.4) makes it write more neatly, and more alike.

# %%
picture, length = folder / "sample.png", 40 if SMALL else 250
options = f"--workdir={workdir} --output={picture} --count=6 --length={length} --bias=2"
# !{sys.executable} -m hmrnn_jax sample {options}
Image(str(picture), width=600)

# %% [markdown]
# `hmrnn explore --workdir=...` writes a page that plays the pen, with its segments in colours.
