"""``lab plot``: draw a run's ``memory.png`` again."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from lab.config.schema import ConfigError


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what can be typed after the command."""
    parser.add_argument("run_dir", type=Path)


def run(arguments: Namespace) -> int:
    """Draw, and print where."""
    from lab.explain.report import growth_note
    from lab.plots.memory_plot import plot_run

    folder: Path = arguments.run_dir
    if not (folder / "metrics.jsonl").is_file():
        raise ConfigError("run", folder, "holds no metrics.jsonl; give the folder of a run")
    print(plot_run(folder, growth_note(folder)))
    return 0
