"""The folders of runs and sweeps, without a look into their files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab.catalog.find import RUN_FILES, SKIPPED_FOLDERS, STORE_FILE
from lab.sweep.index import INDEX_FILE, JOB_FILE


def walk(root: Path) -> Iterator[tuple[Path, bool]]:
    """The outermost folders of runs and sweeps in ``root``, itself included; whether a sweep's."""
    waiting = [str(root)]
    while waiting:
        folder = waiting.pop()
        names, children = _children(folder)
        if INDEX_FILE in names:
            yield Path(folder), True
        elif is_run(names):
            yield Path(folder), False
        elif STORE_FILE not in names:
            waiting += children


def job_folders(sweep: Path) -> Iterator[Path]:
    """The folders of a sweep's jobs, in no order."""
    waiting = _children(str(sweep))[1]
    while waiting:
        folder = waiting.pop()
        names, children = _children(folder)
        if is_run(names) or JOB_FILE in names:
            yield Path(folder)
        elif STORE_FILE not in names:
            waiting += children


def is_run(names: Sequence[str]) -> bool:
    """Whether a folder with these files is a run's."""
    return any(name in names for name in RUN_FILES)


def _children(folder: str) -> tuple[list[str], list[str]]:
    """The names of files in a folder, and the paths of folders that may hold runs."""
    files, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if not entry.name.startswith(".") and entry.name not in SKIPPED_FOLDERS:
                        folders.append(entry.path)
                elif entry.is_file():
                    files.append(entry.name)
    except PermissionError:
        return [RUN_FILES[0]], []  # perhaps a run's: it has its line
    except OSError:
        pass  # it is gone
    return files, folders
