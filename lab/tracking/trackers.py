"""Where a run's rows and events go: its files, which are the truth, and the views of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lab.config.keys import Config

if TYPE_CHECKING:
    from lab.records.origin import Origin


class Tracker(Protocol):
    """A view of a run. It never raises, and holds up its caller for microseconds."""

    def log(self, row: Mapping[str, object]) -> None:
        """Take one row of metrics.jsonl."""

    def event(self, event: Mapping[str, object]) -> None:
        """Take one row of events.jsonl."""

    def close(self, summary: Mapping[str, object], exit_code: int) -> list[str]:
        """Finish, and return one line for each problem that the user should know of."""
        ...


def open_trackers(
    config: Config,
    *,
    outputs: Path,
    run_dir: Path,
    origin: Origin,
    overrides: list[str],
    interactive: bool | None = None,
) -> list[Tracker]:
    """The trackers of one run: W&B, unless there is to be none, and the progress on the console.

    Args:
        outputs: the folder of all runs; W&B writes into its ``wandb``.
        run_dir: this run's folder; rows that it already holds are shown in W&B first.
        origin: how the run was begun: its id and the sweep that it is a job of.
        overrides: what the user set on the command line.
        interactive: draw a live line; by default if the standard output is a terminal.
    """
    from lab.tracking.console import open_progress
    from lab.tracking.wandb import WandbTracker

    trackers: list[Tracker] = []
    if config.tracker.mode != "none":
        trackers.append(
            WandbTracker(
                config,
                outputs=outputs,
                run_dir=run_dir,
                origin=origin,
                overrides=overrides,
            )
        )
    trackers.append(open_progress(config, interactive=interactive))
    return trackers
