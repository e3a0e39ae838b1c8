"""``lab sync``: make W&B runs again from the files, and send them."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what can be typed after the command."""
    from lab.catalog.names import add_folders

    add_folders(parser, "+", "of runs, or sweeps")
    parser.add_argument("--offline", action="store_true", help="only make it")


def run(arguments: Namespace) -> int:
    """Send them and save their views, or make them offline; return the exit code."""
    from lab.catalog.names import folder_of
    from lab.tracking.sync import SyncError

    folders = [folder_of(word) for word in arguments.folders]
    try:
        return _make(folders) if arguments.offline else _send(folders)
    except SyncError as error:
        print(error, file=sys.stderr)
        return 1


def _make(folders: Sequence[Path]) -> int:
    from lab.explain.explanation import explain_figures
    from lab.sweep.report import link_sweep
    from lab.tracking.closing import command
    from lab.tracking.service import wait_for_files
    from lab.tracking.sync import rebuild

    made = [os.path.relpath(rebuild(run, explain_figures(run))) for run in _runs_of(folders)]
    for folder in filter(_is_sweep, folders):
        made += [os.path.relpath(logged) for logged in _log_page(folder, "offline")]
        link_sweep(folder)
    wait_for_files()
    line = command("wandb", "sync", *made)
    print(f"made again from the files; to send it to W&B: {line}")
    return 0


def _send(folders: Sequence[Path]) -> int:
    from lab.config.keys import Config
    from lab.explain.explanation import explain_figures
    from lab.sweep.report import view_of
    from lab.tracking.sync import send
    from lab.tracking.view import run_view
    from lab.tracking.wandb import can_send

    if not can_send():
        return _make(folders)
    for run in _runs_of(folders):
        print("sent", send(run, explain_figures(run)))
    for folder in folders:
        if _is_sweep(folder):
            for logged in _log_page(folder, "online"):
                print("page", logged)
            print("view", view_of(folder.resolve()))
        elif view := run_view(Config.load(folder / "config.yaml"), folder):
            print("view", view)
    return 0


def _log_page(folder: Path, mode: str) -> list[str]:
    """Log the page of a sweep that has one; where it is in W&B, or nothing where that failed."""
    from lab.sweep.page import has_page, log_sweep
    from lab.tracking.page import PageError
    from lab.tracking.sync import FINISH_SECONDS

    try:
        return [log_sweep(folder, mode, seconds=FINISH_SECONDS)] if has_page(folder) else []
    except PageError as error:
        print(f"the page of {folder} is not in W&B: {error}", file=sys.stderr)
        return []


def _is_sweep(folder: Path) -> bool:
    return (folder / "sweep.json").is_file()


def _runs_of(folders: Sequence[Path]) -> Iterator[Path]:
    """The given folders of runs, and for each sweep the folders of its jobs."""
    from lab.sweep.index import jobs_of

    for folder in folders:
        if _is_sweep(folder):
            yield from (path for _, path in jobs_of(folder) if (path / "config.yaml").is_file())
        else:
            yield folder
