"""Claim a folder for a new run or sweep; give it back if nothing becomes of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from lab.config.schema import ConfigError

# With the names that files have until they are whole.
RUN_FILES = (
    *("config.yaml", "metrics.jsonl", "events.jsonl", "checkpoints"),
    *("summary.json", "summary.json.tmp", "explain.json", "explain.json.tmp", "memory.png"),
    *("profile.json", "profile.json.tmp", "profile.png"),
)
SWEEP_FILES = (
    *("sweep.json", "job.json", "job.json.part"),
    *("multirun.yaml", "optimization_results.yaml"),  # Hydra's
)
LAB_FILES = (*SWEEP_FILES, *RUN_FILES)


@dataclass
class NewFolder:
    """A folder that this process alone begins something in, and what it made for that.

    Attributes:
        path: absolute.
        files: names of files in it that are this process's to remove.
        folders: that were not there before, the innermost first.
        key: the setting that names the folder, for errors.
    """

    path: Path
    files: list[str] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    key: str = "run"

    def create(self, name: str, text: str) -> None:
        """Write a file that is not there yet; of two processes only one succeeds.

        Raises:
            ConfigError: it is there, or cannot be written. The folder is given back.
        """
        try:
            with (self.path / name).open("x", encoding="utf-8") as file:
                self.files.append(name)
                file.write(text)
        except OSError as error:
            self.give_back()
            raise _refusal(self.key, self.path, error, name) from error

    def begin_run(self, config: str, later: Sequence[str] = ()) -> Self:
        """Claim the folder for a run: its ``config.yaml``, and no rows and no events yet.

        Arguments:
            later: names of files that this process writes there besides, not there yet; they go
                too when the folder is given back.

        Raises:
            ConfigError: as :meth:`create`.
        """
        self.create("config.yaml", config)  # decides who has the folder
        for name in ("metrics.jsonl", "events.jsonl"):
            self.create(name, "")
        above = {(self.path / name).parent for name in later} - {self.path}
        self.folders[:0] = [folder for folder in above if not folder.exists()]
        self.files += later
        return self

    def refused(self, error: OSError) -> ConfigError:
        """Give it back, and say why: whoever was to write into it could not."""
        self.give_back()
        in_the_way = isinstance(error, FileExistsError) and error.filename
        return _refusal(self.key, Path(in_the_way or self.path), error)

    def give_back(self) -> None:
        """Remove what this process made, and nothing else; folders only where they are empty."""
        for name in self.files:
            (self.path / name).unlink(missing_ok=True)
        for folder in self.folders:
            with suppress(OSError):
                folder.rmdir()


def reserve(
    path: Path, *, key: str = "run", names: Sequence[str] = RUN_FILES, is_new: bool = False
) -> NewFolder:
    """Make a folder to begin in, or take one that holds none of these names.

    Arguments:
        is_new: it must not be there yet: where another took the name, ``path-2`` is made, and so
            on. Of processes that ask at the same time each gets its own.

    Raises:
        ConfigError: the folder holds one of the names, or cannot be made.
    """
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - links stay as they were typed
    try:
        if is_new:
            return _numbered(absolute, key)
        folders = _make(absolute)
    except OSError as error:
        raise _refusal(key, path, error) from error
    check_free(path, names, key=key)
    return NewFolder(absolute, [], folders, key)


def check_free(folder: Path, names: Sequence[str], *, key: str) -> None:
    """Check that a folder, if it is there, holds none of these names.

    Raises:
        ConfigError: it does; ``key`` is the setting that names another folder.
    """
    for name in names:
        if os.path.lexists(folder / name):
            raise _taken(key, folder, name)


def _taken(key: str, folder: Path, name: str) -> ConfigError:
    own = f"{name}, where this lab would write its own"
    what = {"sweep.json": "a sweep", "config.yaml": "a run"}.get(name, own)
    return ConfigError(key, folder, f"already holds {what}; choose another folder")


def _refusal(key: str, folder: Path, error: OSError, name: str = "") -> ConfigError:
    if isinstance(error, FileExistsError) and name:
        return _taken(key, folder, name)
    is_file = isinstance(error, FileExistsError)
    why = "is a file" if is_file else f"cannot be written: {error.strerror}"
    return ConfigError(key, folder, f"{why}; choose another folder")


def _numbered(path: Path, key: str) -> NewFolder:
    folder, number = path, 1
    while True:
        above = _make(path.parent)
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
            folder = path.with_name(f"{path.name}-{number}")
        except FileNotFoundError:
            continue  # who made the folder above gave it back
        else:
            return NewFolder(folder, [], [folder, *above], key)


def _make(folder: Path) -> list[Path]:
    """Make a folder and those above it; those that were not there, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing
