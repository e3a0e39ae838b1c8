"""Experiments on memory in MLX training: exact reloads, honest curves, side-by-side comparison."""

__version__ = "0.1.0"
