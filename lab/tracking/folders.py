"""The folders of W&B's files."""

from __future__ import annotations

import os
from pathlib import Path

from lab.config.keys import Config


def outputs_of(run_dir: Path) -> Path:
    """The ``outputs`` folder that holds this run, which W&B writes into; else ``./outputs``."""
    holds = (folder for folder in run_dir.resolve().parents if folder.name == "outputs")
    return next(holds, Path("outputs"))


def wandb_folder(config: Config, outputs: Path) -> Path | None:
    """The folder of the W&B runs, for ``wandb leet``; None without W&B."""
    if config.tracker.mode == "none":
        return None
    return Path(os.environ.get("WANDB_DIR") or outputs) / "wandb"
