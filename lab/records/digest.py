"""The checksum that files are known by, and its cache for files that take long to read."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lab.config.units import GB, MB

KEPT_FROM_BYTES = MB  # of a smaller file, hashing it is as fast as looking it up
PROGRESS_SECONDS = 2.0


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's content, in hex; read in blocks, so a file of any size will do.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def kept_sha256(cache_dir: Path, progress: Callable[[str], None], path: Path) -> str:
    """:func:`sha256_of_file`, which is kept in ``cache_dir`` until the file changes.

    A file is taken for unchanged while its path, size and times are: that of its content, and that
    of its entry, which nobody can put back.

    Arguments:
        progress: gets a line every ``PROGRESS_SECONDS`` while a large file is read.

    Raises:
        OSError: the file cannot be read.
    """
    stamp = _stamp(path)
    if stamp[0] < KEPT_FROM_BYTES:
        return sha256_of_file(path)
    known = hashlib.sha256(f"{path.resolve()}|{stamp}".encode()).hexdigest()[:24]
    kept = cache_dir / "digests" / known
    with suppress(OSError, UnicodeDecodeError):
        if re.fullmatch("[0-9a-f]{64}", text := kept.read_text("ascii")):
            return text
    digest = _sha256_of_large(path, stamp[0], progress)
    if _stamp(path) == stamp:
        with suppress(OSError):  # without the cache the next run only hashes again
            _write(kept, digest)
    return digest


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _sha256_of_large(path: Path, size: int, progress: Callable[[str], None]) -> str:
    digest, done, told = hashlib.sha256(), 0, time.monotonic()
    with path.open("rb") as file:
        while block := file.read(MB):
            digest.update(block)
            done += len(block)
            if time.monotonic() - told > PROGRESS_SECONDS:
                told = time.monotonic()
                progress(f"hashing {path.name}, once: {done / GB:.1f} of {size / GB:.1f} GB")
    return digest.hexdigest()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
