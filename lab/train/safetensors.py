"""A safetensors file's header held against the file, before MLX reads it; arrays in words."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

import mlx.core as mx

ITEM_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4}
ITEM_BYTES |= {"I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8}


class OutOfPlaceError(Exception):
    """An array, or a header, that cannot lie where the file says."""


def check_safetensors(path: Path) -> None:
    """Refuse a file whose arrays do not lie within it: MLX trusts what the header says.

    Raises:
        OutOfPlaceError: names the array, what was expected and what was found.
        Exception: OSError, ValueError, KeyError, TypeError or AttributeError of a header that is
            none.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            said = f"is cut short, or no safetensors file: {size:,} bytes"
            raise OutOfPlaceError(f"{said}, its header alone has {length:,}")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    for name, array in header.items():
        start, end = array["data_offsets"]
        expected = math.prod(array["shape"]) * ITEM_BYTES[array["dtype"]]
        if min(array["shape"], default=0) < 0:
            raise OutOfPlaceError(f"{name}: has a size below 0 in its shape")
        if end - start != expected:
            kind = f"{array['dtype']} of shape {_shape(array['shape'])}"
            raise OutOfPlaceError(f"{name}: {kind} is {expected:,} bytes, it has {end - start:,}")
        if not 0 <= start <= end <= size - 8 - length:
            raise OutOfPlaceError(f"{name}: lies outside of the file, which is cut short")


def in_words(array: mx.array) -> str:
    """An array's type: ``float32 of shape 2 x 3``."""
    return f"{str(array.dtype).rpartition('.')[2]} of shape {_shape(array.shape)}"


def _shape(sizes: Iterable[object]) -> str:
    return " x ".join(map(str, sizes)) or "1, a scalar"
