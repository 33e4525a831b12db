"""Kernels: `resident`, a window on a TPU; `pointwise`, a layer's step on a GPU but its products."""
