"""What ``wandb leet`` shows: memory and loss first; of one sweep its runs only, by name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from lab.config.keys import Config
from lab.config.schema import ConfigError
from lab.records.origin import Origin
from lab.records.rows import watched_keys
from lab.tracking.folders import outputs_of, wandb_folder
from lab.tracking.labels import labels_of

FOLDER = "wandb"
STATE_FILE = ".wandb-leet.json"  # where leet keeps what it shows of a folder
CHARTS = ("^loss$", "val_loss", "reload/.*gb", "tokens_per_second")  # beside the watched memory
COLORS = 10  # of leet's palette; more runs over each other cannot be told apart


def show_first(folder: Path, metrics: Iterable[str], runs: Sequence[str] = ()) -> None:
    """Let leet open W&B's folder with loss and the watched memory, unless it was opened before.

    Leet orders charts by name, so at 80 columns the first would be padding and gradient; what it
    has is a filter for each folder, which it keeps there from then on, as the user changes it.

    Arguments:
        metrics: ``reload.metric`` of the folder's runs.
        runs: names of those to draw over each other; leet begins with the newest only.
    """
    watched = dict.fromkeys(key for metric in metrics for key in watched_keys(metric))
    state = {
        "metrics_filter": {"query": "|".join((*CHARTS[:1], *watched, *CHARTS[1:]))},
        "selected_runs": list(runs) if len(runs) <= COLORS else [],
    }
    with suppress(OSError), (folder / STATE_FILE).open("x", encoding="utf-8") as file:
        json.dump(state, file)


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
        metrics = []
        for run_dir in run_dirs:
            with suppress(ConfigError):
                metrics.append(_link(folder, run_dir))
        if runs := [path.name for path in sorted(folder.glob("run-*"))]:
            show_first(folder, metrics, runs)
            return folder
    return None


def _link(folder: Path, run_dir: Path) -> str:
    """Link the runs of a job; return its ``reload.metric``."""
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
    return config.reload.metric
