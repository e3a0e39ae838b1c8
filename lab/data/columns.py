"""Flat columns of numbers in a file: a JSON header, then one array after the other, checksummed."""

from __future__ import annotations

import json
import mmap
import os
import tempfile
import zlib
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lab.config.units import MB

_HEADER_BYTES = 512  # one JSON object padded with spaces, then the columns

Column = memoryview  # of the numbers of one type, (n,)


def save(path: Path, header: Mapping[str, Any], columns: Mapping[str, Column]) -> None:
    """Write a file atomically; concurrent writers of the same content are fine.

    Arguments:
        header: a few JSON values, below ``_HEADER_BYTES`` of text.
        columns: all of one length.

    Raises:
        OSError: the folder cannot be written.
    """
    checksum = 0
    for block in columns.values():
        checksum = zlib.crc32(block, checksum)
    rows = len(next(iter(columns.values())))
    text = json.dumps({**header, "rows": rows, "checksum": checksum}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.ljust(_HEADER_BYTES))
            file.writelines(columns.values())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise


def load(path: Path, types: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Column]] | None:
    """Memory-map a file's columns.

    Arguments:
        types: by column, in their order in the file, a type code of :class:`array.array`.

    Returns:
        Header and columns; ``None`` where the file is missing, damaged or has other columns.
    """
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(_HEADER_BYTES))
            rows, checksum = header["rows"], 0
            while block := file.read(MB):
                checksum = zlib.crc32(block, checksum)
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        size = _HEADER_BYTES + rows * sum(array(code).itemsize for code in types.values())
        if len(mapped) != size or checksum != header["checksum"]:
            return None
        return header, dict(_columns(mapped[_HEADER_BYTES:], rows, types))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _columns(data: memoryview, rows: int, types: Mapping[str, str]) -> Iterator[tuple[str, Column]]:
    for name, code in types.items():
        size = rows * array(code).itemsize
        yield name, data[:size].cast(code)  # type: ignore[call-overload]
        data = data[size:]
