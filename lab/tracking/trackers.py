"""The tracker protocol, and the trackers of a run: W&B and the console."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lab.config.keys import Config

if TYPE_CHECKING:
    from lab.records.origin import Origin


class Tracker(Protocol):
    """A view of a run. It never raises, and blocks its caller for microseconds only."""

    def log(self, row: Mapping[str, object]) -> None:
        """Show one row of ``metrics.jsonl``."""

    def replay(self, row: Mapping[str, object], last_step: int) -> None:
        """Show that a step whose row was logged is executed again, on the way to ``last_step``."""

    def event(self, event: Mapping[str, object]) -> None:
        """Show one row of ``events.jsonl``."""

    def close(self, summary: Mapping[str, object], exit_code: int) -> list[str]:
        """Finish the view; return one line for each problem to show to the user."""
        ...


def open_trackers(
    config: Config,
    *,
    outputs: Path,
    run_dir: Path,
    origin: Origin,
    overrides: list[str],
    introduction: Mapping[str, str] | None = None,
    interactive: bool | None = None,
) -> list[Tracker]:
    """Open the trackers of one run: W&B unless ``tracker.mode=none``, and console progress.

    Arguments:
        outputs: the folder of all runs; W&B writes into its ``wandb``.
        run_dir: this run's folder; W&B gets the rows that it already holds first.
        origin: the run's id and the sweep that it is a job of.
        overrides: from the command line.
        introduction: what the run says of itself, by subject; drawn on a terminal.
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
    trackers.append(open_progress(config, introduction=introduction, interactive=interactive))
    return trackers
