"""Where each sample of a JSONL file lies: one checked pass, kept as flat columns."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import tempfile
import weakref
import zlib
from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lab.config.schema import ConfigError
from lab.config.units import MB
from lab.data import samples
from lab.data.errors import SampleError

VERSION = 2
_BOM = b"\xef\xbb\xbf"
_HEADER = 512  # bytes; one line of JSON, then the columns
_COLUMNS = {"offsets": "q", "sizes": "i", "hashes": "I"}  # type codes of array and memoryview
_ROW = sum(array(code).itemsize for code in _COLUMNS.values())


@dataclass(frozen=True)
class Index:
    """One entry for each of ``n`` samples, ordered by hash: a share of the samples is a slice.

    Attributes:
        form: the format of all samples, a key of ``samples.FORMATS``.
        fingerprint: sha256 of the file's bytes, hex.
        offsets: int64 (n,), the byte at which a sample starts.
        sizes: int32 (n,), its length in bytes: the key by which batches are sorted.
        hashes: uint32 (n,), a hash of its bytes, ascending; equal ones in the order of the file.
    """

    form: str
    fingerprint: str
    offsets: memoryview[int]
    sizes: memoryview[int]
    hashes: memoryview[int]


class JsonLines:
    """The samples of one JSONL file, read one at a time from where the index says they lie.

    Attributes:
        key: the setting that an error about the content belongs to.

    Raises:
        ConfigError: the file is missing, empty, malformed (names file and line) or is being
            written.
    """

    def __init__(self, path: Path, cache_dir: Path, key: str) -> None:
        self.path, self.key = path, key
        try:
            self._fd = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise ConfigError(key, str(path), f"cannot be read: {error.strerror}") from error
        weakref.finalize(self, os.close, self._fd)
        self._version = self._now()
        self.index = self._load_or_scan(cache_dir)

    def __len__(self) -> int:
        return len(self.index.offsets)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Sample ``row``, as it was when it was checked.

        Raises:
            ConfigError: the file was written to since.
        """
        line = os.pread(self._fd, self.index.sizes[row], self.index.offsets[row])
        if self._now() != self._version:
            raise ConfigError(self.key, str(self.path), "was changed while the run was reading it")
        return json.loads(line)

    def line_of(self, row: int) -> int:
        """The number of a sample's line, for a message; reads all that lies before it."""
        lines, offset, left = 1, 0, self.index.offsets[row]
        while left > 0 and (block := os.pread(self._fd, min(left, MB), offset)):
            lines, offset, left = lines + block.count(b"\n"), offset + len(block), left - len(block)
        return lines

    def _now(self) -> tuple[int, int]:
        status = os.fstat(self._fd)
        return status.st_size, status.st_mtime_ns

    def _load_or_scan(self, cache_dir: Path) -> Index:
        known = f"{self.path.resolve()}|{self._version}|{VERSION}"
        cached = cache_dir / "index" / hashlib.sha256(known.encode()).hexdigest()[:24]
        if (index := load(cached)) is not None:
            return index
        with os.fdopen(os.dup(self._fd), "rb") as file:
            index = scan(file, self.path, self.key)
        if self._now() != self._version:
            raise ConfigError(self.key, str(self.path), "is being written; wait until it is whole")
        with suppress(OSError):  # a cache that cannot be written only costs the next run its time
            save(index, cached)
        return index


def scan(file: BinaryIO, path: Path, key: str) -> Index:
    """Check every line of an open JSONL file; blank lines are skipped.

    Raises:
        ConfigError: the first bad line, with its number, or no sample at all.
    """
    offsets, sizes, hashes = array("q"), array("i"), array("I")
    digest, form, position = hashlib.sha256(), None, 0
    for number, line in enumerate(file, 1):
        digest.update(line)
        sample = (line.removeprefix(_BOM) if number == 1 else line).strip(b" \t\r\n")
        if sample:
            form = _checked(sample, form, path, number, key)
            offsets.append(position + line.index(sample))
            sizes.append(len(sample))
            hashes.append(_hash(sample))
        position += len(line)
    if form is None:
        allowed = f"has no sample; must have a JSON object on each line, {samples.ALLOWED}"
        raise ConfigError(key, str(path), allowed)
    order = sorted(range(len(hashes)), key=hashes.__getitem__)
    columns = (
        memoryview(array(column.typecode, map(column.__getitem__, order)))
        for column in (offsets, sizes, hashes)
    )
    return Index(form, digest.hexdigest(), *columns)


def _checked(sample: bytes, form: str | None, path: Path, number: int, key: str) -> str:
    try:
        return samples.parse(sample, form)[1]
    except SampleError as error:
        raise ConfigError(key, str(path), f"line {number} {error}") from None


def _hash(sample: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(sample, digest_size=4).digest(), "little")


def save(index: Index, path: Path) -> None:
    """Write an index whole or not at all, whoever else writes the same one."""
    blocks = [getattr(index, name) for name in _COLUMNS]
    checksum = 0
    for block in blocks:
        checksum = zlib.crc32(block, checksum)
    header = {
        "version": VERSION,
        "form": index.form,
        "fingerprint": index.fingerprint,
        "rows": len(index.offsets),
        "checksum": checksum,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(json.dumps(header).encode().ljust(_HEADER))
            file.writelines(blocks)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise


def load(path: Path) -> Index | None:
    """A saved index, its columns mapped from the file; ``None`` where there is no good one."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(_HEADER))
            rows, checksum = header["rows"], 0
            while block := file.read(MB):
                checksum = zlib.crc32(block, checksum)
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        whole = len(mapped) == _HEADER + rows * _ROW and checksum == header["checksum"]
        if header["version"] != VERSION or header["form"] not in samples.FORMATS or not whole:
            return None
        columns = _columns(mapped[_HEADER:], rows)
        return Index(header["form"], str(header["fingerprint"]), *columns)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _columns(data: memoryview, rows: int) -> Iterator[memoryview]:
    for code in _COLUMNS.values():
        size = rows * array(code).itemsize
        yield data[:size].cast(code)  # type: ignore[call-overload]
        data = data[size:]
