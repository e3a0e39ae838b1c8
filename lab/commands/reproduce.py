"""``lab reproduce``: train a run again from its ``config.yaml``, and compare."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what can be typed after the command."""
    from lab.catalog.names import add_folder

    add_folder(parser, "of a run")


def run(arguments: Namespace) -> int:
    """Reproduce; return 0 where it is the same, 1 where it is not."""
    from lab.catalog.names import chosen
    from lab.reproduce.reproduce import reproduce

    return reproduce(chosen(arguments.folder, last=arguments.last))
