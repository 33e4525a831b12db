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
# # Syntax trees without a treebank
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/hmrnn-jax/hmrnn_jax/blob/main/notebooks/trees.ipynb)
#
# An ON-LSTM (Shen, Tan, Sordoni, Courville, 2019) learns to predict the next word. Its master
# forget gate tells, before each word, how much of the memory is about to be erased: a little
# within a phrase, a lot between phrases. Those distances, and nothing else, give a tree.

# %%
import sys

if "google.colab" in sys.modules:
    # Colab brings its own JAX for its accelerator; it is left as it is.
    # !git clone -q https://github.com/hmrnn-jax/hmrnn_jax && pip install -q -e hmrnn_jax
    sys.path.insert(0, "hmrnn_jax")

# %%
import collections
import os
import pathlib
import re
import tempfile
from pydoc_data.topics import topics

import numpy as np
from IPython.display import Image

import hmrnn_jax as hm

SMALL = "HMRNN_SMALL" in os.environ  # the test suite runs this notebook with few updates
folder = pathlib.Path(tempfile.mkdtemp())

# %% [markdown]
# ## Words
# The text is CPython's language reference, which every interpreter carries: a sentence a line,
# words in lower case, rare ones as `<unk>`. Put `train.txt`, `valid.txt` and `test.txt` of your
# own in a folder, or take `ptb_word` if you have Penn Treebank.

# %%
tokens = {"train": [], "valid": [], "test": []}
for number, name in enumerate(sorted(topics)):
    split = {7: "valid", 8: "test"}.get(number % 9, "train")
    text = " ".join(topics[name].lower().split())
    sentences = [re.findall(r"[a-z]+|[0-9]+", s) for s in re.split(r"[.:;] ", text)]
    tokens[split] += [s for s in sentences if 3 <= len(s) <= 40]
counts = collections.Counter(word for s in tokens["train"] for word in s)
for split, sentences in tokens.items():
    lines = [" ".join(w if counts[w] > 4 else "<unk>" for w in s) for s in sentences]
    (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
print({split: len(sentences) for split, sentences in tokens.items()}, "sentences")

# %% [markdown]
# ## Training
# The same program as `hmrnn train`: the configuration is data. The decoder is tied to the
# embedding, so the last layer is as wide as that. Two layers; the second is read.

# %%
config = hm.defaults.text().unlock()
config.data.name, config.data.path, config.data.unit = "text", str(folder), "words"
config.model.cell, config.model.sizes = "on_lstm", (96, 64)
config.model.embedding, config.model.head, config.model.on_lstm.chunk = 64, "tied", 4
config.model.embedding_scale = 0.1
config.model.dropout.update(input=0.2, hidden=0.2, output=0.2)
config.batch, config.window, config.schedule, config.learning_rate = 16, 35, "cosine", 5e-3
config.steps = 20 if SMALL else 1500
config.evaluation.update(every=config.steps // 2, batch=8, window=35, warmup=50)
config.report = config.steps // 5
workdir = folder / "run"
result = hm.train(config, str(workdir))
print(f"test perplexity {np.exp(result['nats']):.1f}")

# %% [markdown]
# ## Trees
# A sentence is split before the word with the largest distance, and so on within both parts.
# `biased` is the authors' rule, which leans to the right (Dyer, Melis, Blunsom 2019);
# `unbiased` may make any binary tree.

# %%
run = hm.load(workdir)

examples = [
    "the name of the module is bound in the local namespace",
    "if an exception is raised the statement is executed again",
    "the value of the expression is converted to a string",
]


def brackets(tree):
    return tree if isinstance(tree, str) else f"({' '.join(map(brackets, tree))})"


for rule in ("biased", "unbiased"):
    for tree in run.parse(examples, layer=2, biased=rule == "biased"):
        print(f"{rule:9}", brackets(tree))

# %% [markdown]
# The picture shows the tree above the words and the distances beneath them.

# %%
sentences, picture = folder / "sentences.txt", folder / "tree.png"
sentences.write_text("\n".join(examples) + "\n")
options = f"--workdir={workdir} --text={sentences} --output={picture} --draw=1"
# !{sys.executable} -m hmrnn_jax parse {options}
Image(str(picture), width=700)

# %% [markdown]
# ## Against a treebank
# `hmrnn trees --workdir=... --treebank=FOLDER` scores a run against Penn brackets, with left,
# right, balanced and random trees beside it. A figure means little without them: right-branching
# trees alone reach 40 % F1 on English. Here, how much of this model's trees is right-branching: the
# share of phrases that end where their sentence does.


# %%
def phrases(tree, begin=0):
    """`(phrases as (begin, end), end)` of a tree, the whole one included."""
    if isinstance(tree, str):
        return [], begin + 1
    found, end = [], begin
    for part in tree:
        inner, end = phrases(part, end)
        found += inner
    return [*found, (begin, end)], end


for rule in ("biased", "unbiased"):
    trees = run.parse(tokens["test"][:200], biased=rule == "biased")
    found = [(end, length) for one in trees for spans, length in [phrases(one)] for _, end in spans]
    share = np.mean([end == length for end, length in found])
    print(f"{rule:9} {share:.0%} of the phrases are also those of right-branching trees")
