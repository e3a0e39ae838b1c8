"""What the lab made and nobody needs any more: found, and removed where that is wanted.

Of a run that is complete, checkpoints before its last one; of any run that no process has, what a
killed process left half written. What is not as this lab writes it stays, and so does all of a run
that goes on.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir

from lab.catalog.cache import cache_folder, list_entries
from lab.catalog.entries import RunEntry
from lab.config.schema import ConfigError
from lab.records.files import JsonLinesWriter, check_idle
from lab.records.origin import Origin

CHECKPOINT = re.compile(r"step_(\d{1,12})")
HALF_CHECKPOINT = re.compile(r"\.step_\d+\.[0-9a-f]{12}\.tmp")
CHECKPOINT_FILE = re.compile(r"[\w.]+\.(safetensors|json)")
HALF_WRITTEN = re.compile(r"\.new-[a-z0-9_]{8}")  # of lab.records.replace
WRITTEN_FILE = re.compile(r"compare\.(html|png|csv|parquet)|whatif\.png")
CACHE_FILE = re.compile(r"[0-9a-f]{24}\.json")
OLD_SECONDS = 3600.0  # what has no lock is left alone so long: a command may be writing it


@dataclass(frozen=True)
class Leftover:
    """A folder that can go.

    Attributes:
        size: of the files in it, in bytes.
        run: the run that it belongs to, if to one.
    """

    folder: Path
    size: int
    run: Path | None = None

    def remove(self) -> None:
        """Remove it.

        Raises:
            OSError: something cannot be removed.
            RunBusy: a process has gone on with its run.
            MetricsLost: the run cannot be written.
        """
        with ExitStack() as held:
            if self.run is not None:  # no process can go on with it meanwhile
                held.enter_context(closing(JsonLinesWriter(self.run / "metrics.jsonl")))
            shutil.rmtree(self.folder)


def of_folder(root: Path, notes: list[str]) -> Iterator[Leftover]:
    """What the runs and sweeps in a folder do not need.

    Arguments:
        notes: gets a line for each thing that is left alone because it is not as the lab made it.
    """
    for entry in list_entries(root):
        for run in [entry] if isinstance(entry, RunEntry) else entry.jobs:
            yield from _of_run(run, notes)
        yield from _half_written(entry.folder)
    yield from _half_written(root / "compare")


def of_user() -> Iterator[Leftover]:
    """Caches of ``lab ls``, and copies of runs that a killed ``lab explain --measure`` left."""
    caches = cache_folder() / "ls"
    if size := _size(caches, CACHE_FILE):
        yield Leftover(caches, size)
    for copy in sorted(Path(gettempdir()).glob("lab-explain-*/copy")):
        with suppress(OSError, ConfigError):
            is_mine = copy.stat().st_uid == os.getuid() and not copy.parent.is_symlink()
            if is_mine and _is_old(copy) and os.listdir(copy.parent) == ["copy"]:  # noqa: PTH208
                check_idle(copy)
                Origin.of(copy)
                sizes = (path.lstat().st_size for path in copy.rglob("*") if path.is_file())
                yield Leftover(copy.parent, sum(sizes), copy)


# --- Of one run ---------------------------------------------------------------------------------


def _of_run(run: RunEntry, notes: list[str]) -> Iterator[Leftover]:
    folder = run.folder / "checkpoints"
    try:
        if run.state == "running" or folder.is_symlink() or not folder.is_dir():
            return
        names = sorted(os.listdir(folder))  # noqa: PTH208
        found = [folder / name for name in names if HALF_CHECKPOINT.fullmatch(name)]
        found += _before_last(folder, names) if run.state == "completed" else []
        if found:
            Origin.of(run.folder)
    except (ConfigError, OSError) as error:
        notes.append(f"{run.folder}: {error}")
        return
    for path in found:
        size = _size(path, CHECKPOINT_FILE)
        if size is None:
            notes.append(f"{path}: holds what this lab did not write")
        else:
            yield Leftover(path, size, run.folder)


def _before_last(folder: Path, names: Iterable[str]) -> list[Path]:
    """Checkpoints before the last one that is whole; none where none is."""
    steps = sorted(int(found[1]) for name in names if (found := CHECKPOINT.fullmatch(name)))
    paths = [folder / f"step_{step}" for step in steps]
    whole = [n for n, path in enumerate(paths) if _is_whole(path)]
    return [path for path in paths[: whole[-1]] if path.is_dir()] if whole else []


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint has the files of its manifest, each of its size."""
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))
        sizes = {name: file["bytes"] for name, file in manifest["files"].items()}
        there = {name: (checkpoint / name).stat().st_size for name in sizes}
        return bool(sizes) and there == sizes and f"step_{manifest['step']}" == checkpoint.name
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return False


# --- Of any folder ------------------------------------------------------------------------------


def _half_written(folder: Path) -> Iterator[Leftover]:
    """Folders in which ``lab compare`` or ``lab whatif`` was killed while it wrote."""
    with suppress(OSError):
        for path in sorted(folder.iterdir()):
            if HALF_WRITTEN.fullmatch(path.name) and _is_old(path):
                size = _size(path, WRITTEN_FILE)
                if size is not None:
                    yield Leftover(path, size)


def _is_old(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > OLD_SECONDS


def _size(folder: Path, names: re.Pattern[str]) -> int | None:
    """The bytes in a folder; None where it holds anything but files of such names."""
    size = 0
    try:
        if folder.is_symlink():
            return None
        with os.scandir(folder) as entries:
            for entry in entries:
                if not (entry.is_file(follow_symlinks=False) and names.fullmatch(entry.name)):
                    return None
                size += entry.stat(follow_symlinks=False).st_size
    except OSError:
        return None
    return size
