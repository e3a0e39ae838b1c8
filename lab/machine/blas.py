"""OpenBLAS for MLX's CPU backend on Linux, whose wheel calls a slow reference BLAS."""

from __future__ import annotations

import ctypes
import sys

BLAS_HINT = (
    "MLX computes with its slow built-in BLAS; training is 20 times faster with OpenBLAS: "
    "sudo apt-get install libopenblas0"
)


def preload_blas() -> str | None:
    """Load OpenBLAS so that MLX's CPU backend calls it; must come before ``import mlx.core``.

    Returns:
        Its version, kernel and threads, or None where it is not there or not needed. Never raises.
    """
    if sys.platform != "linux":
        return None
    try:
        library = ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return None
    try:
        library.openblas_get_config.restype = ctypes.c_char_p
        return str(library.openblas_get_config().decode()).strip()
    except (AttributeError, UnicodeDecodeError):
        return "OpenBLAS"
