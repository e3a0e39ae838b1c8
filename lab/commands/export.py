"""``lab export``: a run as one file, for ``lab reproduce`` on another machine."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what can be typed after the command."""
    parser.add_argument("folder", help="of a run; or how its name begins")
    parser.add_argument("file", help="the new file, FILE.zip")


def run(arguments: Namespace) -> int:
    """Write it, and say what is in it."""
    from pathlib import Path

    from lab.catalog.names import folder_of
    from lab.reproduce.export import export
    from lab.tracking.text import clean

    file = Path(arguments.file)
    names = export(folder_of(arguments.folder), file)
    print(clean(f"{file}: {', '.join(names)}; no weights"))
    print(clean(f"on another machine: {shlex.join(['lab', 'reproduce', file.name])}"))
    return 0
