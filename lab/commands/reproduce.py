"""``lab reproduce``: train a run, or each of a sweep, again from ``config.yaml``, and compare."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what can be typed after the command."""
    from lab.catalog.names import add_folder

    add_folder(parser)


def run(arguments: Namespace) -> int:
    """Reproduce; return 0 where it is the same, 1 where it is not."""
    from lab.catalog.names import chosen
    from lab.reproduce.reproduce import reproduce
    from lab.reproduce.sweep import reproduce_sweep

    folder = chosen(arguments.folder, last=arguments.last)
    if (folder / "sweep.json").is_file():
        return reproduce_sweep(folder)
    return reproduce(folder)
