"""Trains a model: `python train.py ...` is `hmrnn train ...`; `--help` has the flags."""

from hmrnn_jax.__main__ import main

if __name__ == "__main__":
    main("train")
