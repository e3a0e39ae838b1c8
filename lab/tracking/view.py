"""Saved W&B workspace views of a run or a sweep: memory, loss, reloads over steps."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_type_hints

from lab.config.keys import Config
from lab.config.schema import ConfigError
from lab.records.origin import Origin
from lab.tracking import service
from lab.tracking.labels import labels_of
from lab.tracking.page import JOB_TYPE
from lab.tracking.wandb import PROJECT

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

SECTIONS = {
    "Memory (GB)": (
        "memory/process_gb",
        "memory/active_gb",
        "memory/cache_gb",
        "memory/peak_gb",
        "memory/slope_mb_per_step",
        "memory/trend_mb_per_step",
    ),
    "Loss": ("loss", "val_loss", "grad_norm", "learning_rate"),
    "Reloads": ("reload/count", "reload/before_gb", "reload/after_gb"),
    "Speed": ("tokens_per_second", "step_seconds"),
}
COLUMNS = ("final_loss", "peak_process_gb", "peak_mlx_gb", "overhead_fraction", "tokens_per_second")
OPTION_KEYS = ("mode", "policy", "kind", "name")  # the first that a group has names its option


SAVE_SECONDS = 15.0  # W&B's client would try for minutes


class ViewError(RuntimeError):
    """The view could not be saved; the message is one line."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a view shows.

    Attributes:
        name: of the view.
        key: a view of the same one takes the place of the earlier.
        filters: which runs, as W&B parses it.
        swept: the keys and groups that differ between them.
    """

    name: str
    key: str
    filters: str
    swept: Sequence[str] = ()

    @classmethod
    def sweep(cls, group: str, swept: Sequence[str]) -> Self:
        """The runs of a W&B group, without the one that has no rows but their page."""
        runs = f"Metric('Group') == '{_escaped(group)}' and Metric('JobType') != '{JOB_TYPE}'"
        return cls(name=group, key=group, filters=runs, swept=swept)

    @classmethod
    def run(cls, config: Config, run_dir: Path) -> Self | None:
        """A run of its own; None for what a sweep, the lab's or W&B's, shows.

        Raises:
            ConfigError: the folder is not a run's.
        """
        origin = Origin.of(run_dir)
        if origin.group is not None or os.environ.get("WANDB_SWEEP_ID"):
            return None
        name = os.environ.get("WANDB_NAME") or labels_of(config, run_dir, origin).name
        run_id = origin.run_id
        return cls(name=f"{name} {run_id}", key=run_id, filters=f"Metric('ID') == '{run_id}'")


def run_view(config: Config, run_dir: Path) -> str:
    """Save the view of a run; return its URL or why there is none, empty for a job of a sweep."""
    try:
        shown = Shown.run(config, run_dir)
    except ConfigError as error:
        return f"not saved in W&B: {error}"
    return view_line(config, shown) if shown else ""


def view_line(config: Config, shown: Shown) -> str:
    """Save a view within ``SAVE_SECONDS``; return its URL, or why there is none."""
    try:
        return service.bounded(lambda: save_view(config, shown), SAVE_SECONDS)
    except (ViewError, TimeoutError) as error:
        return f"not saved in W&B: {error}"


def save_view(config: Config, shown: Shown) -> str:
    """Save a view on the W&B server of its runs; return its URL.

    Arguments:
        config: of any of its runs.

    Raises:
        ViewError: wandb-workspaces is not installed, or the server cannot be reached.
    """
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise ViewError("its package is missing: pip install 'mlx-memory-lab[workspaces]'")
    import wandb

    try:
        wandb.setup(settings=wandb.Settings(silent=True))  # the caller prints the address
        entity = config.tracker.entity or wandb.Api().default_entity
        project = config.tracker.project or PROJECT
        view = make_view(str(entity), project, shown)
        view._internal_name = _view_name(shown.key)  # noqa: SLF001  else each save adds a view
        view.save()
    except Exception as error:  # W&B's client raises many types; all mean the same here
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ViewError(lines[0]) from error
    return view.url


def make_view(entity: str, project: str, shown: Shown) -> Workspace:
    """Build the view without saving it."""
    from wandb_workspaces import expr
    from wandb_workspaces import workspaces as ws

    keys = swept_settings(shown.swept)
    return ws.Workspace(
        entity=entity,
        project=project,
        name=re.sub(r"[^\w.,-]+", " ", shown.name),  # others may count as emojis, which W&B refuses
        sections=[_section(name, charts) for name, charts in SECTIONS.items()],
        settings=ws.WorkspaceSettings(x_axis="step", max_runs=100),
        runset_settings=ws.RunsetSettings(
            filters=shown.filters,
            groupby=[expr.Config(key) for key in keys],
            pinned_columns=[
                *(f"config:{_in_config(key)}" for key in keys),
                *(f"summary:{name}" for name in COLUMNS),
            ],
        ),
    )


def _view_name(key: str) -> str:
    """W&B's own name of a view: saved again, the view takes the place of the earlier."""
    return f"nw-{hashlib.sha256(key.encode()).hexdigest()[:12]}-v"


def _section(name: str, charts: Sequence[str]) -> Section:
    from wandb_workspaces import workspaces as ws
    from wandb_workspaces.reports import v2 as wr

    # Min-max bucketing where there are more points than pixels: no spike is lost.
    panels: list[Any] = [
        wr.LinePlot(x="step", y=[key], title=key, point_visualization_method="bucketing-gorilla")
        for key in charts
    ]
    return ws.Section(name=name, panels=panels, is_open=True)


def swept_settings(swept: Sequence[str]) -> list[str]:
    """The swept settings as keys of ``config.yaml``; for a swept group the key of its option."""
    hints = get_type_hints(Config)
    found = []
    for key in swept:
        group = hints.get(key)
        if group is None or not hasattr(group, "__dataclass_fields__"):
            if key.partition(".")[0] in hints:
                found.append(key)
            continue
        names = [f.name for f in fields(group)]
        found += [f"{key}.{name}" for name in OPTION_KEYS if name in names][:1]
    return found


def _escaped(text: str) -> str:
    """Escape for a filter, which W&B parses as Python after doubling each ``=`` in it."""
    return re.sub(r"\W", lambda match: rf"\U{ord(match[0]):08x}", text)


def _in_config(key: str) -> str:
    """A setting's name in W&B, which inserts ``value`` after the first part."""
    first, _, rest = key.partition(".")
    return f"{first}.value" + (f".{rest}" if rest else "")
