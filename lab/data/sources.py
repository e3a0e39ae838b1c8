"""Find or make the JSONL files of a run: the user's, Python's documentation, or the hub's."""

from __future__ import annotations

import hashlib
import os.path
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lab.config.keys import Data
from lab.config.schema import ConfigError
from lab.data import hub, stdlib_docs
from lab.data.index import PROGRESS_SECONDS, JsonLinesReader, Progress, say_nothing
from lab.data.split import Split

TEST_FILE = "test.jsonl"
_NOT_VALID = ("validation.jsonl", "val.jsonl")  # names that others use for valid.jsonl


@dataclass(frozen=True)
class Source:
    """Both splits.

    Attributes:
        val_is_held_out: whether ``val`` is a fraction of the training file, not a file of its own.
        test: of ``test.jsonl``, which nothing is trained or validated on; None without one.
        notes: lines to print for the user.
    """

    train: Split
    val: Split
    val_is_held_out: bool
    notes: tuple[str, ...] = ()
    test: Split | None = None

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the fingerprints of what a run learns from, the first 16 hex digits.

        Test data is not in it: no weight depends on it, and a run resumes without it.
        """
        files = dict.fromkeys(split.lines.index.fingerprint for split in (self.train, self.val))
        return hashlib.sha256("".join(files).encode()).hexdigest()[:16]


def open_source(data: Data, cache_dir: Path, progress: Progress = say_nothing) -> Source:
    """Find or make the files, index them and split them.

    Raises:
        ConfigError: the key is ``data.path``, ``data.hub_id`` or ``data.name``.
    """
    opener = {"jsonl": _jsonl, "stdlib_docs": _stdlib_docs, "hub": _hub}[data.name]
    path, key = opener(data, cache_dir, progress)
    reader = partial(JsonLinesReader, cache_dir=cache_dir, key=key, progress=progress)
    try:
        return _open(path, data.val_fraction, reader)
    except ConfigError:
        if data.name == "jsonl":
            raise
        shutil.rmtree(path, ignore_errors=True)  # a damaged cached folder: make it again
        return _open(opener(data, cache_dir, progress)[0], data.val_fraction, reader)


def _open(path: Path, val_fraction: float, reader: Callable[[Path], JsonLinesReader]) -> Source:
    if not path.is_dir():
        return _split(reader(path), val_fraction)
    train = reader(path / "train.jsonl")
    has_test = (path / TEST_FILE).exists()
    test = whole(reader(path / TEST_FILE)) if has_test else None
    if not (path / "valid.jsonl").exists():
        return replace(_split(train, val_fraction), notes=unread(path), test=test)
    val = reader(path / "valid.jsonl")
    return Source(whole(train), whole(val), val_is_held_out=False, test=test)


def unread(folder: Path) -> tuple[str, ...]:
    """A line on each file that others would take for validation data."""
    found = [folder / name for name in _NOT_VALID if (folder / name).exists()]
    return tuple(f"{path} is not read: validation data is in valid.jsonl" for path in found)


def tested_on(data: Data) -> Path | None:
    """The file that a run on this data is tested on; None where there is none."""
    found = Path(data.path, TEST_FILE) if data.name == "jsonl" and data.path else None
    return found if found and os.path.isfile(found) else None  # noqa: PTH113


def whole(lines: JsonLinesReader) -> Split:
    """All samples of a file."""
    return Split(lines, range(len(lines)))


def _split(lines: JsonLinesReader, fraction: float) -> Source:
    """Split by a hash of each line: a sample keeps its split when others are added or removed."""
    held_out = bisect_left(lines.index.hashes, int(fraction * 2**32))
    rows = range(len(lines))
    return Source(
        Split(lines, rows[held_out:]), Split(lines, rows[:held_out]), val_is_held_out=True
    )


def _jsonl(data: Data, *_: object) -> tuple[Path, str]:
    return jsonl_path(data.path, "data.path"), "data.path"


def jsonl_path(given: str | None, key: str) -> Path:
    """A file, or a folder with ``train.jsonl``.

    Raises:
        ConfigError: it is neither; names the key.
    """
    allowed = "must be a JSONL file, or a folder with train.jsonl and, if wanted, valid.jsonl"
    if not given:
        raise ConfigError(key, given, allowed)
    path = Path(given)
    # os.path, as pathlib raises where a name is too long
    if os.path.isdir(path):  # noqa: PTH112
        if not os.path.isfile(path / "train.jsonl"):  # noqa: PTH113
            raise ConfigError(key, given, f"has no train.jsonl; {allowed}")
    elif not os.path.isfile(path):  # noqa: PTH113
        raise ConfigError(key, given, f"is no such file or folder; {allowed}")
    return path


def stdlib_docs_folder(cache_dir: Path) -> Path:
    """The cache folder of this Python version's extracted documentation."""
    python = f"{platform.python_implementation().lower()}-{platform.python_version()}"
    return cache_dir / f"stdlib_docs-{python}-{stdlib_docs.CACHE_VERSION}"


def _stdlib_docs(data: Data, cache_dir: Path, progress: Progress) -> tuple[Path, str]:
    maker = _Maker(stdlib_docs.__file__, (), "data.name", data.name, "reading this Python's docs")
    return _made(stdlib_docs_folder(cache_dir), maker, progress), maker.key


def _hub(data: Data, cache_dir: Path, progress: Progress) -> tuple[Path, str]:
    if not data.hub_id:
        raise ConfigError("data.hub_id", data.hub_id, "must name a dataset, as owner/name")
    wanted = [data.hub_id, *([data.hub_config] if data.hub_config else [])]
    name = hashlib.sha256("\0".join(wanted).encode()).hexdigest()[:16]
    folder = cache_dir / f"hub-{name}-{hub.CACHE_VERSION}"
    maker = _Maker(
        hub.__file__, tuple(wanted), "data.hub_id", data.hub_id, f"downloading {data.hub_id}"
    )
    return _made(folder, maker, progress), maker.key


@dataclass(frozen=True)
class _Maker:
    """A program that makes a cache folder.

    Attributes:
        arguments: after the folder.
        key, value: the setting that an error names.
        does: what it does, to be told while it does.
    """

    program: str
    arguments: tuple[str, ...]
    key: str
    value: str
    does: str


def _made(folder: Path, maker: _Maker, progress: Progress) -> Path:
    """Make a cache folder with a child process, once, also when several runs start together.

    Raises:
        ConfigError: the last line of the child's stderr, or the cache cannot be written.
    """
    if (folder / "train.jsonl").exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            making = Path(temporary, "making")
            making.mkdir()
            _run(maker, making, progress)
            _rename(making, folder)
    except OSError as error:
        said = f"cannot be written to {folder.parent}: {error}"
        raise ConfigError(maker.key, maker.value, said) from error
    return folder


def _run(maker: _Maker, folder: Path, progress: Progress) -> None:
    command = [sys.executable, "-P", maker.program, str(folder), *maker.arguments]
    nothing, pipe, began = subprocess.DEVNULL, subprocess.PIPE, time.monotonic()
    with subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=pipe, text=True) as child:
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    _, complaint = child.communicate(timeout=PROGRESS_SECONDS)
                    break
                progress(f"{maker.does}, once: {time.monotonic() - began:.0f} s")
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        said = complaint.strip().splitlines() or [f"its maker ended with {child.returncode}"]
        raise ConfigError(maker.key, maker.value, said[-1][:500])


def _rename(made: Path, folder: Path) -> None:
    try:
        made.rename(folder)
    except OSError:
        if not (folder / "train.jsonl").exists():  # else another run made the same folder first
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
