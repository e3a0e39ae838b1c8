"""``lab plot``: draw a run's ``memory.png`` again, and ``profile.png`` where it was profiled."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from lab.config.schema import ConfigError


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what can be typed after the command."""
    from lab.catalog.names import add_folder

    add_folder(parser)


def run(arguments: Namespace) -> int:
    """Draw, and print where; of a sweep each run that has begun. Return 1 if one could not be."""
    from lab.catalog.find import find_runs
    from lab.catalog.names import chosen
    from lab.explain.report import growth_note
    from lab.plots.memory_plot import plot_run
    from lab.plots.profile_plot import plot_profile

    folder = chosen(arguments.folder, last=arguments.last)
    runs = [folder]
    if (folder / "sweep.json").is_file():
        runs = [found.folder for found in find_runs([folder]).locations]
    begun = [run for run in runs if (run / "metrics.jsonl").is_file()]
    if not begun:
        raise ConfigError("run", folder, "holds no metrics.jsonl; give the folder of a run")
    damaged = _damaged(begun)
    if len(damaged) == len(begun):
        raise damaged[begun[0]]
    code = 0
    for run in begun:
        if run in damaged:
            print(f"cannot draw {damaged[run]}", file=sys.stderr)
            code = 1
            continue
        try:
            drawn = [plot_run(run, growth_note(run)), plot_profile(run)]
        except OSError as error:
            print(f"cannot draw {run}: {error.strerror or error}", file=sys.stderr)
            code = 1
            continue
        print(*filter(None, drawn), sep="\n")
    return code


def _damaged(runs: Sequence[Path]) -> dict[Path, ConfigError]:
    """The runs whose rows are lost."""
    from lab.records.rows import check_rows

    found = {}
    for run in runs:
        try:
            check_rows(run)
        except ConfigError as error:
            found[run] = error
    return found
