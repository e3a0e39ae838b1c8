"""The sample index of a JSONL file: one validating pass, cached as flat columns."""

from __future__ import annotations

import hashlib
import json
import os
import time
import weakref
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lab.config.schema import ConfigError
from lab.config.units import GB, MB
from lab.data import columns, samples
from lab.data.errors import SampleError

INDEX_VERSION = 2
_LONGEST = 2**31 - 1  # bytes, as sizes are int32
_BOM = b"\xef\xbb\xbf"
_TYPES = {"offsets": "q", "sizes": "i", "hashes": "I"}  # type codes of array.array
PROGRESS_SECONDS = 2.0
_LOOK_LINES = 4096  # between two looks at the clock

Progress = Callable[[str], None]  # gets a line that says how far something long is


def say_nothing(_: str) -> None:
    """The progress of what nobody waits for."""


@dataclass(frozen=True)
class SampleIndex:
    """One row for each of ``n`` samples, ordered by hash, so that a split is a slice.

    Attributes:
        form: the format of all samples, a key of ``samples.FORMATS``.
        fingerprint: SHA-256 of the file's bytes, hex.
        offsets: int64 (n,), first byte of each sample.
        sizes: int32 (n,), length in bytes; the key by which batches are sorted.
        hashes: uint32 (n,), BLAKE2b of the bytes, ascending; ties are in file order.
    """

    form: str
    fingerprint: str
    offsets: memoryview[int]
    sizes: memoryview[int]
    hashes: memoryview[int]


class JsonLinesReader:
    """Random access to the samples of one JSONL file through its index.

    Attributes:
        key: the config key that errors about the file name.

    Arguments:
        progress: gets a line every ``PROGRESS_SECONDS`` while the file is indexed.

    Raises:
        ConfigError: the file is missing, empty, malformed (names file and line) or changes while
            it is indexed.
    """

    def __init__(
        self, path: Path, cache_dir: Path, key: str, progress: Progress = say_nothing
    ) -> None:
        self.path, self.key = path, key
        try:
            self._fd = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise _unreadable(path, key, error) from error
        weakref.finalize(self, os.close, self._fd)
        self._stamp = self._file_stamp()
        self.index = self._load_or_scan(cache_dir, progress)

    def __len__(self) -> int:
        return len(self.index.offsets)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Read sample ``row`` of the index.

        Raises:
            ConfigError: the file was modified after it was indexed.
        """
        try:
            line = os.pread(self._fd, self.index.sizes[row], self.index.offsets[row])
            if self._file_stamp() == self._stamp:
                return json.loads(line)
        except OSError as error:
            raise _unreadable(self.path, self.key, error) from error
        except RecursionError:  # the stack is deeper here than where the file was indexed
            allowed = f"line {self.line_of(row)} must be a JSON object, it is nested too deeply"
            raise ConfigError(self.key, str(self.path), allowed) from None
        except ValueError:  # other bytes than were indexed, whatever the time stamp says
            pass
        raise ConfigError(self.key, str(self.path), "was changed while the run was reading it")

    def line_of(self, row: int) -> int:
        """Line number of a sample, from 1, for messages; reads the file up to it."""
        lines, offset, left = 1, 0, self.index.offsets[row]
        while left > 0 and (block := os.pread(self._fd, min(left, MB), offset)):
            lines, offset, left = lines + block.count(b"\n"), offset + len(block), left - len(block)
        return lines

    def _file_stamp(self) -> tuple[int, int]:
        status = os.fstat(self._fd)
        return status.st_size, status.st_mtime_ns

    def _load_or_scan(self, cache_dir: Path, progress: Progress) -> SampleIndex:
        known = f"{self.path.resolve()}|{self._stamp}|{INDEX_VERSION}"
        cached = cache_dir / "index" / hashlib.sha256(known.encode()).hexdigest()[:24]
        if (index := load(cached)) is not None:
            return index
        try:
            with os.fdopen(os.dup(self._fd), "rb") as file:
                index = scan(file, self.path, self.key, progress)
        except OSError as error:
            raise _unreadable(self.path, self.key, error) from error
        if self._file_stamp() != self._stamp:
            raise ConfigError(self.key, str(self.path), "is being written; wait until it is whole")
        with suppress(OSError):  # without the cache the next run only scans again
            save(index, cached)
        return index


def scan(file: BinaryIO, path: Path, key: str, progress: Progress = say_nothing) -> SampleIndex:
    """Index an open JSONL file and validate every line; blank lines are skipped.

    Raises:
        ConfigError: the first bad line, with its number, or a file without samples.
    """
    offsets, sizes, hashes = array("q"), array("i"), array("I")
    digest, form, position, told = hashlib.sha256(), None, 0, time.monotonic()
    for number, line in enumerate(file, 1):
        digest.update(line)
        sample = sample_in(line, number)
        if sample:
            form = _checked(sample, form, path, number, key)
            offsets.append(position + line.index(sample))
            sizes.append(len(sample))
            hashes.append(_hash(sample))
        position += len(line)
        if number % _LOOK_LINES == 0 and time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            progress(f"indexing {path.name}, once: {number:,} lines, {position / GB:.2f} GB")
    if form is None:
        allowed = f"has no sample; must have a JSON object on each line, {samples.ALLOWED}"
        raise ConfigError(key, str(path), allowed)
    order = sorted(range(len(hashes)), key=hashes.__getitem__)
    sorted_columns = (
        memoryview(array(column.typecode, map(column.__getitem__, order)))
        for column in (offsets, sizes, hashes)
    )
    return SampleIndex(form, digest.hexdigest(), *sorted_columns)


def sample_in(line: bytes, number: int) -> bytes:
    """The text of a line's sample; empty for a blank line."""
    return (line.removeprefix(_BOM) if number == 1 else line).strip(b" \t\r\n")


def _unreadable(path: Path, key: str, error: OSError) -> ConfigError:
    return ConfigError(key, str(path), f"cannot be read: {error.strerror}")


def _checked(sample: bytes, form: str | None, path: Path, number: int, key: str) -> str:
    try:
        if len(sample) > _LONGEST:
            raise SampleError("is longer than 2 GB")
        return samples.parse(sample, form)[1]
    except SampleError as error:
        raise ConfigError(key, str(path), f"line {number} {error}") from None


def _hash(sample: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(sample, digest_size=4).digest(), "little")


def save(index: SampleIndex, path: Path) -> None:
    """Cache an index.

    Raises:
        OSError: the folder cannot be written.
    """
    header = {"version": INDEX_VERSION, "form": index.form, "fingerprint": index.fingerprint}
    columns.save(path, header, {name: getattr(index, name) for name in _TYPES})


def load(path: Path) -> SampleIndex | None:
    """A cached index; ``None`` where it is missing, damaged or of another version."""
    found = columns.load(path, _TYPES)
    if found is None:
        return None
    header, arrays = found
    form, fingerprint = header.get("form"), header.get("fingerprint")
    if header.get("version") != INDEX_VERSION or form not in samples.FORMATS:
        return None
    return SampleIndex(str(form), str(fingerprint), **arrays)
