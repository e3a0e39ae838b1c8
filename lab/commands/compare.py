"""``lab compare``: runs side by side, as a page, a picture and a table."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what can be typed after the command."""
    from lab.catalog.names import add_folders

    add_folders(parser, "*", "of runs, of sweeps, or of many of them")
    parser.add_argument(
        "--last", type=int, nargs="?", const=1, metavar="N", help="the newest N of `lab ls` too"
    )
    parser.add_argument("--csv", action="store_true", help="compare.csv, not compare.parquet")
    parser.add_argument("--open", action="store_true", help="show the page in a browser")


def run(arguments: Namespace) -> int:
    """Compare; return 1 if a file could not be written."""
    from lab.catalog.names import chosen, folder_of, newest
    from lab.compare.command import compare_runs

    folders = [folder_of(word) for word in arguments.folders]
    if arguments.last is not None:
        folders += newest(arguments.last)
    folders = folders or [chosen(None, last=False)]
    return compare_runs(folders, as_csv=arguments.csv, opens=arguments.open)
