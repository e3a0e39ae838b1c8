"""``lab ls``: the runs and sweeps that are there."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what can be typed after the command."""
    parser.add_argument("folder", nargs="?", help="where to look; default: outputs")
    parser.add_argument("--all", action="store_true", help="each job of each sweep too")
    parser.add_argument("--state", metavar="S1,S2", help="only these, e.g. running,killed")
    parser.add_argument("--json", action="store_true", help="everything, for another program")


def run(arguments: Namespace) -> int:
    """List them, the newest last."""
    from lab.catalog.cache import list_entries
    from lab.catalog.entries import SweepEntry, in_states, states_of
    from lab.catalog.listing import table, to_json
    from lab.catalog.names import OUTPUTS, folder_of
    from lab.tracking.printed import terminal_width

    states = states_of(arguments.state)
    folder = OUTPUTS if arguments.folder is None else folder_of(arguments.folder)
    entries = list_entries(folder)
    shown = list(in_states(entries, states)) if states else entries
    if arguments.json:
        print(json.dumps([to_json(entry) for entry in shown], indent=1))
        return 0
    if not shown:
        print(f"no runs in {folder}" + (f" that are {' or '.join(states)}" if entries else ""))
        return 0
    is_sweep = len(entries) == 1 and isinstance(entries[0], SweepEntry)
    unfold = arguments.all or is_sweep
    print("\n".join(table(shown, unfold=unfold, width=terminal_width())))
    return 0
