"""Machines that lack what others have, and clocks that were set: for child processes of one run.

Each is a few variables and a ``sitecustomize.py``, which every Python below inherits, workers too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from lab.machine.interpreter import environment_with_lab

NO_HOME = """
import pathlib
def home(cls):
    raise RuntimeError("Could not determine home directory.")
pathlib.Path.home = classmethod(home)
"""
NO_LOCKS = """
import errno, fcntl
def flock(fd, operation):
    raise OSError({number}, "No locks available")
fcntl.flock = flock
"""
NO_PROC = """
import sys
def hide(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith("/proc"):
        raise FileNotFoundError(2, "No such file or directory", arguments[0])
sys.addaudithook(hide)
"""
LACKS: Mapping[str, tuple[Mapping[str, str], str]] = {
    "git": ({"PATH": "/nowhere"}, ""),
    "a home": ({"HOME": ""}, NO_HOME),
    "a home to write to": ({"HOME": "/proc/nowhere"}, ""),
    "git and a home": ({"PATH": "/nowhere", "HOME": ""}, NO_HOME),
    "locks on a network's disk": ({}, NO_LOCKS.format(number="errno.ENOLCK")),
    "locks in a container": ({}, NO_LOCKS.format(number="errno.EOPNOTSUPP")),
    "/proc": ({}, NO_PROC),
}
"""Variables and a patch by what is missing."""

CLOCKS = """
import time
of_day, of_machine = time.time, time.monotonic
time.time = lambda: of_day() + {of_day!r}
time.monotonic = lambda: of_machine() + {of_machine!r}
"""


def environment_of(
    folder: Path, *, lacks: str | None = None, of_day: float = 0.0, of_machine: float = 0.0
) -> dict[str, str]:
    """This process's environment, as on a machine that lacks one thing and whose clocks were set.

    Arguments:
        folder: for ``sitecustomize.py`` and temporary files; it exists.
        lacks: a key of ``LACKS``.
        of_day, of_machine: seconds by which ``time.time`` and ``time.monotonic`` are ahead.
    """
    variables, patch = LACKS[lacks] if lacks else ({}, "")
    clocks = CLOCKS.format(of_day=of_day, of_machine=of_machine) if of_day or of_machine else ""
    (folder / "sitecustomize.py").write_text(patch + clocks)
    temporary = folder / "temporary"
    temporary.mkdir(exist_ok=True)
    environment = environment_with_lab() | {"TMPDIR": str(temporary), **variables}
    environment["PYTHONPATH"] = f"{folder}{os.pathsep}{environment['PYTHONPATH']}"
    for name in ("LAB_CACHE_DIR", "XDG_CACHE_HOME") if lacks else ():
        environment.pop(name, None)
    return environment
