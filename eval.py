"""Evaluates a trained run: `python eval.py boundaries ...` is `hmrnn boundaries ...`.

`python eval.py --help` lists the sub-commands; without one it is `hmrnn score`.
"""

from hmrnn_jax.__main__ import main

if __name__ == "__main__":
    main(default="score")
