"""Where W&B's files of a run lie."""

from __future__ import annotations

import os
from pathlib import Path

from lab.config.keys import Config


def outputs_of(run_dir: Path) -> Path:
    """The folder of all runs, which W&B's files go to: the one that holds this run, else ours."""
    holds = (folder for folder in run_dir.resolve().parents if folder.name == "outputs")
    return next(holds, Path("outputs"))


def wandb_folder(config: Config, outputs: Path) -> Path | None:
    """Where the W&B runs lie, for ``wandb leet``; None where there is no W&B."""
    if config.tracker.mode == "none":
        return None
    return Path(os.environ.get("WANDB_DIR") or outputs) / "wandb"
