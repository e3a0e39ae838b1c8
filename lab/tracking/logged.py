"""What trackers log: rows, reloads, settings; and how W&B takes them, and files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lab.config.keys import Config
from lab.config.schema import to_dict
from lab.records.rows import MEMORY_KEYS, finite, metric_gb
from lab.tracking.labels import without_secrets

SAVED_FILES = ("config.yaml", "memory.png")
NO_PARAMETERS = ("version", "hardware", "tracker")  # groups that no two runs are compared by


def figures(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a row but its step."""
    return {
        key: value
        for key, value in row.items()
        if type(value) in (int, float) and key != "step" and finite(value) is not None
    }


def summary_figures(summary: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a run's summary: ``summary/final_loss``, ``summary/reloads/interval``."""
    flat = _flat({k: v for k, v in summary.items() if k not in ("version", "environment")}, "/")
    return {f"summary/{key}": value for key, value in figures(flat).items()}


def parameters(config: Config) -> dict[str, bool | int | float | str]:
    """The settings of a run by dotted key; without secrets, and without those that are null."""
    groups = {k: v for k, v in to_dict(config).items() if k not in NO_PARAMETERS}
    flat = {key: value for key, value in _flat(groups, ".").items() if value is not None}
    return without_secrets({k: str(v) if isinstance(v, list) else v for k, v in flat.items()})


def _flat(values: Mapping[str, Any], separator: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            inner = _flat(value, separator)
            found |= {f"{key}{separator}{name}": item for name, item in inner.items()}
        else:
            found[key] = value
    return found


def lab_version(event: Mapping[str, Any]) -> dict[str, Any]:
    environment = event.get("environment")
    if not isinstance(environment, dict):
        return {}
    return {"lab_version": environment.get("lab"), "commit": environment.get("git_commit")}


def set_config(run: Any, values: Mapping[str, Any]) -> None:
    """A resumed run keeps the version that it was begun with."""
    run.config.update({key: value for key, value in values.items() if key not in run.config})


def save_files(run: Any, run_dir: Path) -> None:
    """Save copies: W&B has a ``config.yaml`` of its own, which it would write through a link."""
    folder = Path(run.dir) / "lab"
    folder.mkdir(exist_ok=True)
    for name in SAVED_FILES:
        with suppress(OSError):  # no picture yet
            shutil.copyfile(run_dir / name, folder / name)
            run.save(str(folder / name), base_path=run.dir, policy="now")


def log_row(run: Any, row: Mapping[str, Any]) -> None:
    """Log what has a value: W&B would count a null as 0 in the least, the highest and the mean."""
    values = {key: value for key, value in row.items() if finite(value) is not None}
    run.log(values, step=position(row), commit=True)


def position(row: Mapping[str, Any]) -> int:
    """W&B's step of a row, which must increase; a reload comes after the next step's row."""
    return 2 * row["step"] + (3 if "reload/reason" in row or "remedy/name" in row else 0)


def reload_row(event: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """The W&B row of a reload or remedy: memory before and after it, at the step it followed."""
    is_remedy = event.get("event") == "remedy"
    kind, what = ("remedy", "remedy/name") if is_remedy else ("reload", "reload/reason")
    return {
        "step": event.get("step"),
        f"{kind}/before_gb": metric_gb(event.get("before") or {}, metric),
        f"{kind}/after_gb": metric_gb(event.get("after") or {}, metric),
        what: event.get("remedy" if is_remedy else "reason"),
    }


def define_metrics(run: Any) -> None:
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    for key in MEMORY_KEYS:  # one by one: of two matching globs W&B may take either
        run.define_metric(key, step_metric="step", summary="min,max,mean,last")
