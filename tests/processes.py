"""Processes below a run's or a sweep's. Any of them may end between two looks at it."""

from __future__ import annotations

from contextlib import suppress

import psutil


def command_of(process: psutil.Process) -> list[str]:
    """The words that it was started with; none once it has ended."""
    with suppress(psutil.NoSuchProcess):  # a zombie is one too
        return process.cmdline()
    return []


def running(name: str, *, below: int, recursive: bool = False) -> list[psutil.Process]:
    """The children of a process with this in their command line."""
    children = psutil.Process(below).children(recursive=recursive)
    return [child for child in children if name in " ".join(command_of(child))]
