"""``lab whatif``: what other reloads would have done to recorded runs, predicted."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what can be typed after the command."""
    parser.add_argument("folder", type=Path, help="of a run, which may go on, or of a sweep")
    parser.add_argument("settings", nargs="*", metavar="key=v1,v2", help="e.g. reload=interval")
    parser.add_argument("--json", action="store_true", help="everything, for another program")


def run(arguments: Namespace) -> int:
    """Predict, and print the recommendation."""
    from lab.whatif.command import whatif

    return whatif(arguments.folder, arguments.settings, as_json=arguments.json)
