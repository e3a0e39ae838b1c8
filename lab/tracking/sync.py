"""Rebuild a run's offline W&B run from the run's own files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lab.config.keys import Config
from lab.records.files import check_idle, read_summary
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
        ConfigError: the folder is not a run's, or the run is still going on.
        SyncError: W&B failed.
    """
    config, origin = Config.load(run_dir / "config.yaml"), Origin.of(run_dir)
    check_idle(run_dir)
    summary = read_summary(run_dir)
    outputs, offline = outputs_of(run_dir), replace(config.tracker, mode="offline")
    config = replace(config, tracker=offline)
    tracker = WandbTracker(
        config,
        outputs=outputs,
        run_dir=run_dir,
        origin=origin,
        finish_seconds=FINISH_SECONDS,
    )
    problems = tracker.close({**summary, **more}, 0 if summary.get("state") == "completed" else 1)
    folder = wandb_folder(config, outputs)
    assert folder is not None
    made = next(folder.glob(f"offline-run-*-{origin.run_id}"), None)
    if problems or made is None:
        raise SyncError("; ".join(problems) or "W&B left no run")
    return made
