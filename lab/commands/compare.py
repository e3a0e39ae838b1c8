"""``lab compare``: runs side by side, as a page, a picture and a table."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what can be typed after the command."""
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="folder", help="of a run, a sweep, or many of them"
    )
    parser.add_argument("--csv", action="store_true", help="compare.csv, not compare.parquet")
    parser.add_argument("--open", action="store_true", help="show the page in a browser")


def run(arguments: Namespace) -> int:
    """Compare; return 1 if a file could not be written."""
    from lab.compare.command import compare_runs

    return compare_runs(arguments.folders, as_csv=arguments.csv, opens=arguments.open)
