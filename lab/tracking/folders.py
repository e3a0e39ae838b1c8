"""Where trackers keep their files."""

from __future__ import annotations

import os
import re
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


def mlflow_store(config: Config, outputs: Path) -> Path | str:
    """MLflow's store: a folder of files, or the address of a server or a database."""
    named = config.tracker.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if named and re.match(r"[\w+-]+:|databricks$", named):
        return named
    return Path(named or outputs / "mlruns").expanduser().resolve()
