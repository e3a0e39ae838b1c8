"""Make a run's W&B run again from the run's own files: offline, or on the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lab.config.keys import Config
from lab.records.files import check_idle, check_lines, read_summary
from lab.records.origin import Origin
from lab.tracking.folders import outputs_of, wandb_folder
from lab.tracking.wandb import WandbTracker

FINISH_SECONDS = 600.0  # enough for a million rows


class SyncError(RuntimeError):
    """W&B failed; the message is its error."""


def rebuild(run_dir: Path, more: Mapping[str, object]) -> Path:
    """Write one complete offline W&B run in place of any unfinished one.

    Arguments:
        more: what its summary has beside ``summary.json``.

    Returns:
        Its folder, which ``wandb sync`` uploads.

    Raises:
        ConfigError: the folder is not a run's, or the run is still going on, or a line of its
            files is not this lab's.
        SyncError: W&B failed.
    """
    tracker, folder = _track(run_dir, more, "offline")
    made = next(folder.glob(f"offline-run-*-{tracker.run_id}"), None)
    if made is None:
        raise SyncError("W&B left no run")
    return made


def send(run_dir: Path, more: Mapping[str, object]) -> str:
    """Send a run to W&B's server: its summary, and the rows that the server lacks.

    ``wandb sync`` would append every row to those that the server has.

    Arguments:
        more: what its summary has beside ``summary.json``.

    Returns:
        Its address.

    Raises:
        ConfigError: the folder is not a run's, or the run is still going on, or a line of its
            files is not this lab's.
        SyncError: W&B failed.
    """
    return _track(run_dir, more, "online")[0].url


def _track(run_dir: Path, more: Mapping[str, object], mode: str) -> tuple[WandbTracker, Path]:
    """Hand a run's files to W&B; return the tracker and W&B's folder."""
    config, origin = Config.load(run_dir / "config.yaml"), Origin.of(run_dir)
    check_idle(run_dir)
    check_lines(run_dir)
    summary, outputs = read_summary(run_dir), outputs_of(run_dir)
    config = replace(config, tracker=replace(config.tracker, mode=mode))
    tracker = WandbTracker(
        config,
        outputs=outputs,
        run_dir=run_dir,
        origin=origin,
        finish_seconds=FINISH_SECONDS,
        is_training=False,
    )
    problems = tracker.close({**summary, **more}, 0 if summary.get("state") == "completed" else 1)
    if problems:
        raise SyncError("; ".join(problems))
    folder = wandb_folder(config, outputs)
    assert folder is not None
    return tracker, folder
