"""OpenBLAS for MLX's CPU backend on Linux, whose wheel calls a slow reference BLAS."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path

# Made at set-up by lab/machine/openblas.py, in a folder of its own: an environment that brings an
# OpenBLAS (conda) keeps its own in lib/.
PREPARED = Path(sys.prefix, "lib", "mlx-memory-lab", "libopenblas.so.0")
LIBRARIES = ("libopenblas.so.0", str(PREPARED))  # the system's, where it has one

BLAS_HINT = (
    "MLX computes with its slow built-in BLAS; training is 20 times faster with OpenBLAS: "
    "python -m lab.machine.openblas"
)


def preload_blas(libraries: Sequence[str] = LIBRARIES) -> str | None:
    """Load OpenBLAS so that MLX's CPU backend calls it; must come before ``import mlx.core``.

    Arguments:
        libraries: names for the system's search, or paths; the first that loads is taken.

    Returns:
        Its version, kernel and threads, or None where it is not there or not needed. Never raises.
    """
    if sys.platform != "linux":
        return None
    library = next(filter(None, map(_load, libraries)), None)
    if library is None:
        return None
    try:
        library.openblas_get_config.restype = ctypes.c_char_p
        return str(library.openblas_get_config().decode()).strip()
    except (AttributeError, UnicodeDecodeError):
        return "OpenBLAS"


def _load(name: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return None
