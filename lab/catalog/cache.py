"""List the runs and sweeps in a folder; what was read of each is kept until its files change.

The cache is a file for each listed folder in the user's cache folder, never in a run's. One that is
damaged is made again; one that cannot be written is done without.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from lab.catalog.entries import (
    Entry,
    RunEntry,
    Stamp,
    read_run,
    stamp_of,
    sweep_of,
)
from lab.catalog.walk import job_folders, walk
from lab.records.files import RunBusy, check_idle
from lab.records.replace import replacing
from lab.supervise.worker_process import cache_folder

VERSION = 1  # of what an entry means
KEPT = tuple(field.name for field in fields(RunEntry) if field.name != "folder")
FINAL = ("completed", "refused")  # no process goes on with such a run

Kept = tuple[Stamp, list[Any]]  # the stamp of a run's files, and the values of KEPT


def list_entries(root: Path) -> list[Entry]:
    """All runs and sweeps in a folder, the newest last; itself, where it is one."""
    reader = _Reader(root)
    entries: list[Entry] = []
    for folder, is_sweep in walk(root):
        if is_sweep:
            entries.append(sweep_of(folder, [reader.read(job) for job in job_folders(folder)]))
        else:
            entries.append(reader.read(folder))
    reader.keep()
    return sorted(entries, key=lambda entry: (entry.started, str(entry.folder)))


def cache_file(root: Path) -> Path:
    """Where the entries of a folder are kept."""
    name = hashlib.sha256(str(root.resolve()).encode(errors="surrogateescape")).hexdigest()[:24]
    return cache_folder() / "ls" / f"{name}.json"


class _Reader:
    """Reads runs through the cache of ``root``."""

    def __init__(self, root: Path) -> None:
        self._path, self._skip = cache_file(root), len(str(root))
        self._known = _load(self._path)
        self._found: dict[str, Kept] = {}

    def read(self, folder: Path) -> RunEntry:
        key, stamp = str(folder)[self._skip :], stamp_of(folder)
        known = self._known.get(key)
        if known is not None and known[0] == stamp:
            entry = RunEntry(folder=folder, **dict(zip(KEPT, known[1], strict=True)))
            if entry.state in FINAL or not _is_busy(folder):
                self._found[key] = known
                return entry
        entry = read_run(folder, stamp)
        if entry.state != "running":
            self._found[key] = stamp, [getattr(entry, name) for name in KEPT]
        return entry

    def keep(self) -> None:
        """Write what was found, if it is not what was known."""
        if self._found != self._known:
            with suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(self._path.parent) as new:
                    (new / self._path.name).write_bytes(_encode(self._found))


def _is_busy(folder: Path) -> bool:
    try:
        check_idle(folder)
    except RunBusy:
        return True
    except OSError:
        return False
    return False


def _load(path: Path) -> Mapping[str, Kept]:
    """What is in a cache file; nothing where it is not as it was written, or by another lab."""
    with suppress(OSError, ValueError):
        digest, _, text = path.read_bytes().partition(b"\n")
        if digest.decode("ascii") == _digest(text):
            return {key: (stamp, values) for key, (stamp, values) in json.loads(text).items()}
    return {}


def _encode(found: Mapping[str, Kept]) -> bytes:
    text = json.dumps(found, separators=(",", ":")).encode()
    return _digest(text).encode() + b"\n" + text


def _digest(text: bytes) -> str:
    """Of a cache's content and of what its values mean."""
    return hashlib.sha256(repr((VERSION, KEPT)).encode() + text).hexdigest()
