"""``lab``: what is done with runs once they are there. Starting one is ``python train.py``."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from lab.config import ConfigError


def main() -> int:
    """Run one subcommand; its exit code is that of ``train.py`` where it trains."""
    parser = argparse.ArgumentParser(prog="lab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    resume = commands.add_parser("resume", help="go on with a run that was cut off")
    resume.add_argument("run_dir", type=Path)
    plot = commands.add_parser("plot", help="draw memory.png again, of a live run too")
    plot.add_argument("run_dir", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        return {"resume": _resume, "plot": _plot}[arguments.command](arguments.run_dir)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2


def _resume(run_dir: Path) -> int:
    from lab import experiment

    return experiment.resume(run_dir).exit_code


def _plot(run_dir: Path) -> int:
    from lab.analysis.plot import plot_run

    if not (run_dir / "metrics.jsonl").is_file():
        raise ConfigError("run", run_dir, "holds no metrics.jsonl; give the folder of a run")
    print(plot_run(run_dir))
    return 0


if __name__ == "__main__":
    sys.exit(main())
