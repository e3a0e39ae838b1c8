"""``lab explain``: what grows, who holds it, and what gives it back."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what can be typed after the command."""
    from lab.catalog.names import add_folder

    add_folder(parser)
    parser.add_argument("--json", action="store_true", help="as a program reads it")
    parser.add_argument(
        "--measure", action="store_true", help="what gives it back, in a copy of a run that ended"
    )


def run(arguments: Namespace) -> int:
    """Explain a run, or each run of a sweep."""
    from lab.catalog.find import find_runs
    from lab.catalog.names import any_entry, chosen, is_run
    from lab.explain.command import explain_one, explain_sweep

    may = is_run if arguments.measure else any_entry
    folder = chosen(arguments.folder, last=arguments.last, may=may)
    if arguments.measure:
        from lab.reproduce.measure import measure

        if code := measure(folder):
            return code
    if (folder / "sweep.json").is_file():
        runs = [found.folder for found in find_runs([folder]).locations]
        return explain_sweep(runs, arguments.json)
    return explain_one(folder, arguments.json)
