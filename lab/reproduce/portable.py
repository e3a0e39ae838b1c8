"""What of a run goes to another machine: which files, how large, and what is said of this one.

A config leaves as one that trains the same, but sends nothing: its tracker is the default, and of
paths outside the working folder only the last name is left. The same is made of a config that
arrives, whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lab.config.keys import Config, Tracker
from lab.config.units import GB, MB
from lab.tracking.labels import without_secrets

MANIFEST = "export.json"
MANIFEST_VERSION = 1
# At most, in bytes; a million rows of metrics.jsonl take 0.6 GB.
FILES = {
    MANIFEST: MB,
    "config.yaml": MB,
    "metrics.jsonl": 2 * GB,
    "events.jsonl": GB // 4,
    "summary.json": 4 * MB,
    "explain.json": GB // 16,
    "memory.png": GB // 16,
}
PATHS = (("model", "path"), ("data", "path"), ("adapter", "start_from"))


def portable(config: Config) -> Config:
    """The config as another machine may use it; of one that is portable, the same."""
    for group, key in PATHS:
        part = getattr(config, group)
        if (path := getattr(part, key)) is not None:
            config = replace(config, **{group: replace(part, **{key: _portable_path(path)})})
    return replace(config, tracker=Tracker(mode="offline", tags=()))


def paths_of(config: Config) -> dict[str, str]:
    """The files and folders that a config names, by key."""
    named = {f"{group}.{key}": getattr(getattr(config, group), key) for group, key in PATHS}
    return {key: path for key, path in named.items() if path is not None}


def _portable_path(path: str) -> str:
    absolute = Path(path) if Path(path).is_absolute() else Path.cwd() / path
    inside = absolute.is_relative_to(Path.cwd()) and ".." not in absolute.parts
    return str(absolute.relative_to(Path.cwd())) if inside else absolute.name


def anonymous(value: Any) -> Any:
    """Texts at any depth without secrets of the environment, and paths from the working folder."""
    if isinstance(value, Mapping):
        return {key: anonymous(item) for key, item in value.items()}
    if isinstance(value, list):
        return [anonymous(item) for item in value]
    if not isinstance(value, str):
        return value
    text = without_secrets(value).replace(f"{Path.cwd()}/", "")
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text
