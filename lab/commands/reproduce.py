"""``lab reproduce``: train a run again from its ``config.yaml``, and compare."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what can be typed after the command."""
    parser.add_argument("run_dir", type=Path)


def run(arguments: Namespace) -> int:
    """Reproduce; return 0 where it is the same, 1 where it is not."""
    from lab.reproduce.reproduce import reproduce

    return reproduce(arguments.run_dir)
