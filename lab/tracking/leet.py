"""A folder that shows ``wandb leet`` the runs of one sweep only, by name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from lab.config.keys import Config
from lab.config.schema import ConfigError
from lab.records.origin import Origin
from lab.tracking.folders import outputs_of, wandb_folder
from lab.tracking.labels import labels_of

FOLDER = "wandb"


def link_runs(sweep: Path, run_dirs: Iterable[Path]) -> Path | None:
    """Link the offline W&B runs of a sweep's jobs in ``sweep/wandb``, in place of earlier links.

    Leet opens ``run-DATE_TIME-NAME/run-NAME.wandb``, and shows the folder's name.

    Returns:
        The folder; None where no job has an offline run, or no link can be made.
    """
    folder = sweep / FOLDER
    with suppress(OSError):
        for earlier in [path for path in folder.glob("run-*/*.wandb") if path.is_symlink()]:
            earlier.unlink()  # links only: with WANDB_DIR the folder may be W&B's own
            earlier.parent.rmdir()
        for run_dir in run_dirs:
            with suppress(ConfigError):
                _link(folder, run_dir)
        return folder if folder.is_dir() and any(folder.iterdir()) else None
    return None


def _link(folder: Path, run_dir: Path) -> None:
    config, origin = Config.load(run_dir / "config.yaml"), Origin.of(run_dir)
    made = wandb_folder(config, outputs_of(run_dir))
    for run in made.glob(f"offline-run-*-{origin.run_id}") if made else ():
        stamp = run.name.removeprefix("offline-run-").partition("-")[0]
        name = labels_of(config, run_dir, origin).name.removeprefix("job-")
        name = re.sub(r"[^\w.,=+ -]", "-", name)
        place = folder / f"run-{stamp}-{name}"
        place.mkdir(parents=True)
        file = run / f"run-{origin.run_id}.wandb"
        (place / f"run-{name}.wandb").symlink_to(os.path.relpath(file, place.resolve()))
