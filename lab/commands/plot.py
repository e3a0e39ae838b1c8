"""``lab plot``: draw a run's ``memory.png`` again, and ``profile.png`` where it was profiled."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from contextlib import suppress
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
    if not any(map(_is_readable, begun)):
        unread = "holds neither a config.yaml nor a row that can be read"
        raise ConfigError("run", folder, unread)
    code = 0
    for run in begun:
        try:
            drawn = [plot_run(run, growth_note(run)), plot_profile(run)]
        except OSError as error:
            print(f"cannot draw {run}: {error.strerror or error}", file=sys.stderr)
            code = 1
            continue
        print(*filter(None, drawn), sep="\n")
    return code


def _is_readable(run_dir: Path) -> bool:
    """Whether anything in a run's files is as a run of this lab writes it; a new one is empty."""
    from lab.config.keys import Config
    from lab.records.rows import read_rows

    rows = run_dir / "metrics.jsonl"
    with suppress(OSError):
        if not rows.stat().st_size or next(read_rows(run_dir), None) is not None:
            return True
    try:
        Config.load(run_dir / "config.yaml")
    except ConfigError:
        return False
    return True
