"""``lab clean``: free what the lab made and nobody needs any more."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what can be typed after the command."""
    parser.add_argument(
        "folder", nargs="?", help="of runs; default: outputs, and the lab's own caches"
    )
    parser.add_argument("--yes", action="store_true", help="do it; without, it is only told")


def run(arguments: Namespace) -> int:
    """Tell what can go, or remove it; return 1 where something cannot be removed."""
    from lab.catalog.leftovers import of_folder, of_user
    from lab.catalog.names import OUTPUTS, folder_of
    from lab.config.schema import ConfigError
    from lab.config.units import MB
    from lab.records.files import MetricsLost
    from lab.tracking.text import clean

    notes: list[str] = []
    folder = OUTPUTS if arguments.folder is None else folder_of(arguments.folder)
    found = [*of_folder(folder, notes), *(of_user() if arguments.folder is None else ())]
    freed, code = 0, 0
    for leftover in found:
        try:
            if arguments.yes:
                leftover.remove()
        except (OSError, ConfigError, MetricsLost) as error:
            print(clean(f"cannot remove {leftover.folder}: {error}"), file=sys.stderr)
            code = 1
            continue
        freed += leftover.size
        print(f"{leftover.size / MB:8,.1f} MB  {clean(str(leftover.folder))}")
    for note in notes:
        print(f"{'left':>11}  {clean(note)}")
    if not found:
        print("nothing to free")
    elif arguments.yes:
        print(f"{freed / MB:8,.1f} MB  freed")
    else:
        print(f"{freed / MB:8,.1f} MB  in all: `lab clean --yes` frees it")
    return code
