"""Which lab this is: its version, and its commit where it runs from a clone."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

import lab

ROOT = Path(__file__).resolve().parents[2]
GIT_SECONDS = 10.0  # a clone on a network's disk that does not answer


@functools.cache
def lab_identity() -> dict[str, str | None]:
    """The fields of a run's environment that say which lab it ran with.

    ``git_commit`` is null without git, and where the lab is installed rather than cloned: a
    repository around that is the user's own.
    """
    return {"lab": lab.__version__, "git_commit": git_commit(ROOT)}


def git_commit(root: Path) -> str | None:
    """The commit of the repository whose top is ``root``; None where git does not say."""
    command = ["git", "-C", str(root), "rev-parse", "--show-cdup", "HEAD"]
    try:
        said = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=True,
        ).stdout
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    way_to_top, _, commit = said.partition("\n")
    return commit.strip() or None if not way_to_top else None
