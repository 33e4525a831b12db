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
# above moves only when the one below has closed a segment. Here we load a small one that was
# trained on CPython's own language reference, look at its boundaries, and train another.

# %%
import sys

if "google.colab" in sys.modules:
    # Colab brings its own JAX for its accelerator; it is left as it is.
    # !git clone -q https://github.com/hmrnn-jax/hmrnn_jax && pip install -q -e hmrnn_jax
    sys.path.insert(0, "hmrnn_jax")

# %%
import html
import os
import pathlib
import tempfile

from IPython.display import HTML, Image

import hmrnn_jax as hm
from hmrnn_jax import datasets

SMALL = "HMRNN_SMALL" in os.environ  # the test suite runs this notebook with few updates
folder = pathlib.Path(tempfile.mkdtemp())

# %% [markdown]
# ## A trained model
# It comes with the package: 1.2 MB. The card says what it is; the score is in bits per character.

# %%
run = hm.load("quickstart")
for name, value in run.card.items():
    print(f"{name:10} {value}")

# %% [markdown]
# ## Segments
# Nobody told it what a word is. Its detectors were taught by the model's own uncertainty: where
# the next symbol is hardest to tell, a segment has probably ended. By the first layer, and by the
# second:

# %%
mine = (
    "A network that reads one letter after the other must guess what comes next.\n"
    "In the middle of a word that is easy, and after a space it is hard.\n"
)
for layer in (1, 2):
    print(" | ".join(row["text"] for row in run.segment(mine) if row["layer"] == layer))

# %% [markdown]
# ## It also writes, and scores

# %%
print("The " + run.sample("The ", 100 if SMALL else 400, temperature=0.8, seed=1)["text"])
print(f"\n{run.score(mine, batch=1)['bpc']:.2f} bits per character for the two sentences above")

# %% [markdown]
# ## One of your own
# `hmrnn train --config.data.name=text --config.data.path=my.txt`, or from Python as here: the
# configuration is data. These few updates only show the way; the quickstart has 2,600, some three
# minutes on two cores.

# %%
config = hm.defaults.text()
config.model.sizes = (16, 16, 16) if SMALL else (64, 64, 64)
config.model.output = config.model.embedding = config.model.sizes[0]
config.batch, config.window, config.learning_rate = 16, 50, 5e-3
config.steps = config.evaluation.every = 20 if SMALL else 200
config.evaluation.update(batch=16, window=50, warmup=100)
result = hm.train(config, str(folder / "run"))
print(f"test: {result['bpc']:.3f} bits per character over {result['symbols']:,} symbols")

# %% [markdown]
# A run becomes one file to pass on, and is loaded from it as the model above was.

# %%
hm.load(folder / "run").export(folder / "mine.safetensors", dtype="float16")
print(hm.load(folder / "mine.safetensors").title)

# %% [markdown]
# ## A page to look at
# Segments of the first layer are tinted, those of the second are
# bands below. The switch takes another reading of the model, the slider other lengths of segments,
# and under the cursor is what the model expects next.

# %%
run.explore(mine, folder / "page.html", name="two sentences")
page = html.escape((folder / "page.html").read_text(encoding="utf-8"), quote=True)
HTML(
    f'<iframe srcdoc="{page}" title="The page of hmrnn explore" width="100%" height="640"></iframe>'
)

# %% [markdown]
# ## How good is that?
# The table asks how well boundaries meet the spaces of a text that the model has not seen, beside
# detectors that read nothing, models that were not trained, and what can be read directly from the
# uncertainty of the same model. The figure is that of the paper. The text is the reference of this
# Python, of topics that are in no training text.

# %%
corpus = datasets.load("python_reference")
unseen, picture = folder / "unseen.txt", folder / "boundaries.png"
symbols = corpus.vocabulary.symbol_strings(corpus.splits["test"])
unseen.write_text("".join(symbols), encoding="utf-8")
options = f"--text={unseen} --output={picture} --scored={500 if SMALL else 4000}"
# !{sys.executable} -m hmrnn_jax boundaries --pretrained {options}
Image(str(picture))
