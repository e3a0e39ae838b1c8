"""A sweep's page of ``lab compare``: made when the sweep ends, and logged to W&B."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from lab.config.keys import Config
from lab.config.schema import ConfigError
from lab.machine.interpreter import environment_with_lab
from lab.records.origin import Origin
from lab.sweep.index import jobs_of
from lab.tracking.folders import outputs_of
from lab.tracking.page import PageError, log_page

FILES = ("compare.html", "compare.png")
MADE_FROM = ("config.yaml", "metrics.jsonl", "events.jsonl", "summary.json", "explain.json")
MAKE_SECONDS = 60.0


def group_of(folder: Path) -> str:
    """The W&B group of a sweep's runs."""
    return os.environ.get("WANDB_RUN_GROUP") or folder.resolve().name


def has_page(folder: Path) -> bool:
    """Whether there is something to compare: two jobs with rows."""
    return sum(_time((path / "metrics.jsonl",)) > 0 for _, path in jobs_of(folder)) > 1


def make_page(folder: Path) -> list[Path]:
    """Make page and picture of a sweep, unless they are newer than its runs.

    In a process of its own: plotting cannot fail the sweep, nor hold it up for long.

    Returns:
        Their files.

    Raises:
        PageError: they could not be made.
    """
    files = [folder / name for name in FILES]
    runs = _time(path / name for _, path in jobs_of(folder) for name in MADE_FROM)
    if min(_time((file,)) for file in files) > runs:
        return files
    command = [sys.executable, "-m", "lab.cli", "compare", str(folder)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=MAKE_SECONDS,
            check=False,
            env=environment_with_lab(),
        )
    except subprocess.TimeoutExpired as error:
        raise PageError(f"it takes more than {MAKE_SECONDS:g} s") from error
    except OSError as error:
        raise PageError(str(error)) from error
    if done.returncode:
        raise PageError((done.stderr.strip() or "lab compare failed").splitlines()[-1])
    return files


def log_sweep(folder: Path, mode: str, *, seconds: float) -> str:
    """Log a sweep's page to W&B; return the address of its run, offline its folder.

    Arguments:
        mode: ``offline`` or ``online``.
        seconds: how long to wait for W&B.

    Raises:
        PageError: the page could not be made, or W&B failed.
    """
    try:
        first = next(path for _, path in jobs_of(folder) if (path / "metrics.jsonl").is_file())
        config, origin = Config.load(first / "config.yaml"), Origin.of(first)
    except (StopIteration, ConfigError) as error:
        raise PageError(str(error) or "the sweep has no run") from error
    return log_page(
        replace(config, tracker=replace(config.tracker, mode=mode)),
        folder,
        make_page(folder),
        group=group_of(folder),
        run_id=f"compare-{origin.run_id}",
        outputs=outputs_of(folder),
        seconds=seconds,
    )


def _time(files: Iterable[Path]) -> float:
    """When the newest of these files was changed; 0 where none is there, or it is empty."""
    newest = 0.0
    for file in files:
        with suppress(OSError):
            status = file.stat()
            newest = max(newest, status.st_mtime if status.st_size else 0.0)
    return newest
