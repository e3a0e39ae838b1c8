"""``lab reproduce``: train a run, or each of a sweep, again from ``config.yaml``, and compare."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what can be typed after the command."""
    from lab.catalog.names import add_folder

    add_folder(parser, "of a run, or of a sweep, or a file of `lab export`")


def run(arguments: Namespace) -> int:
    """Reproduce; return 0 where it is the same, 1 where it is not."""
    from pathlib import Path

    from lab.catalog.names import chosen
    from lab.reproduce.imported import import_run
    from lab.reproduce.reproduce import reproduce
    from lab.reproduce.sweep import reproduce_sweep

    word = arguments.folder or ""
    if word.endswith(".zip") and not arguments.last and not Path(word).is_dir():
        return reproduce(import_run(Path(word)))
    folder = chosen(arguments.folder, last=arguments.last)
    if (folder / "sweep.json").is_file():
        return reproduce_sweep(folder)
    return reproduce(folder)
