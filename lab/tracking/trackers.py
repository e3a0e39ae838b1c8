"""The tracker protocol, and the trackers of a run: W&B, TensorBoard, MLflow, the console."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lab.config.keys import Config
from lab.tracking.queued import ViewTracker

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
    """Open the trackers of one run: those that ``tracker`` names, and console progress.

    Arguments:
        outputs: the folder of all runs; W&B and MLflow write into it.
        run_dir: this run's folder; trackers get the rows that it already holds first.
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
    trackers += [
        _OPENERS[name](config, outputs, run_dir, origin) for name in config.tracker.beside_wandb
    ]
    trackers.append(open_progress(config, introduction=introduction, interactive=interactive))
    return trackers


def _open_tensorboard(config: Config, outputs: Path, run_dir: Path, origin: Origin) -> Tracker:
    del outputs
    from lab.tracking.tensorboard import TensorboardView

    return ViewTracker("TensorBoard", TensorboardView, config, run_dir=run_dir, origin=origin)


def _open_mlflow(config: Config, outputs: Path, run_dir: Path, origin: Origin) -> Tracker:
    from lab.tracking.mlflow import MlflowView

    open_view = partial(MlflowView, outputs=outputs)
    return ViewTracker("MLflow", open_view, config, run_dir=run_dir, origin=origin)


_OPENERS = {"tensorboard": _open_tensorboard, "mlflow": _open_mlflow}
