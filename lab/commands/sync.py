"""``lab sync``: make W&B runs again from the files, and send them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what can be typed after the command."""
    parser.add_argument(
        "folders",
        nargs="+",
        metavar="folder",
        help="of runs, or sweeps; or how their names begin",
    )
    parser.add_argument("--offline", action="store_true", help="only make it")


def run(arguments: Namespace) -> int:
    """Make them, send them and save the views of sweeps; return W&B's exit code."""
    from lab.catalog.names import folder_of
    from lab.explain.explanation import explain_figures
    from lab.sweep.report import view_of
    from lab.tracking.closing import command
    from lab.tracking.sync import SyncError, rebuild
    from lab.tracking.wandb import can_send, wait_for_files

    folders = [folder_of(word) for word in arguments.folders]
    sweeps = [folder for folder in folders if (folder / "sweep.json").is_file()]
    try:
        made = [
            os.path.relpath(rebuild(run_dir, explain_figures(run_dir)))
            for run_dir in _runs_of(folders)
        ]
    except SyncError as error:
        print(error, file=sys.stderr)
        return 1
    wait_for_files()
    line = command("wandb", "sync", *made)
    if arguments.offline or not can_send():
        print(f"made again from the files; to send it to W&B: {line}")
        return 0
    code = subprocess.run([*shlex.split(line)], check=False).returncode
    if code == 0:
        for sweep in sweeps:
            print("view", view_of(sweep.resolve()))
    return code


def _runs_of(folders: Sequence[Path]) -> Iterator[Path]:
    """The given folders of runs, and for each sweep the folders of its jobs."""
    from lab.sweep.index import jobs_of

    for folder in folders:
        if (folder / "sweep.json").is_file():
            yield from (path for _, path in jobs_of(folder) if (path / "config.yaml").is_file())
        else:
            yield folder
