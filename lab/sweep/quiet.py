"""Jobs that write into their own log only, because the leading command draws on the terminal.

Launchers start processes of their own, which inherit the environment: there it is noted.
"""

from __future__ import annotations

import logging
import os

LEADER = "LAB_SWEEP_LEADER"  # its process id


def be_quiet() -> None:
    """From now on this process leads a sweep that it draws; its launcher's processes are quiet."""
    os.environ[LEADER] = str(os.getpid())


def is_quiet() -> bool:
    return LEADER in os.environ


def leave_the_terminal() -> None:
    """Let a launcher's own process write nothing on the terminal; its job's log has it."""
    if os.environ.get(LEADER) in (None, str(os.getpid())):
        return
    root = logging.getLogger()
    for handler in list(root.handlers):
        if not isinstance(handler, logging.FileHandler):
            root.removeHandler(handler)
