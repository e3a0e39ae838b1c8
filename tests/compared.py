"""Run and sweep folders for comparisons, written by the real writers without any training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lab.config.schema import to_dict
from lab.records.files import RunFiles
from lab.records.summary import summarise
from lab.sweep.index import INDEX_FILE, SWEEP_VERSION, Job, SweepIndex
from tests.runs import config_of


@cache
def plain_config() -> str:
    return json.dumps(to_dict(config_of("train.steps=40")))


def write_config(folder: Path, changed: Mapping[str, Any]) -> None:
    """Write a complete ``config.yaml``.

    Arguments:
        changed: values of settings that differ from the plain config's, by dotted key.
    """
    values = json.loads(plain_config())
    for key, value in changed.items():
        *groups, name = key.split(".")
        inner = values
        for group in groups:
            inner = inner[group]
        inner[name] = value
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def write_rows(folder: Path, steps: int, *, every: int = 0, shift: float = 0.0) -> None:
    """Write rows whose memory grows from reload to reload.

    Arguments:
        every: steps between reloads; 0 for none.
        shift: added to each loss.
    """
    files = RunFiles(folder)
    files.event({"event": "run_started", "step": 0, "time": 0.0})
    for step in range(1, steps + 1):
        since = (step - 1) % every if every else step - 1
        memory = {f"memory/{n}_gb": (1 + since / 50) * s for n, s in SHARES.items()}
        row = {"step": step, "time": step * 0.5, "loss": 5 / step + shift, "tokens": 100}
        if step % 10 == 0:
            row["val_loss"] = 4 / step
        files.row(row | {"step_seconds": 0.4, "tokens_per_second": 250.0} | memory)
        if every and step % every == 0 and step < steps:
            files.event(reload_event(step))
    files.event({"event": "run_finished", "step": steps, "time": steps * 0.5, "state": "completed"})
    files.close()


SHARES = {"process": 1.0, "active": 0.5, "cache": 0.2, "peak": 0.8}


def reload_event(step: int, reason: str = "interval") -> dict[str, Any]:
    seconds = {"save": 0.02, "drop": 0.03, "load": 0.04, "first_step": 0.01}
    event = {"event": "reload", "step": step, "time": step * 0.5, "reason": reason}
    return event | {"method": "process", "freed_gb": 0.25, "seconds": seconds}


def write_run(folder: Path, changed: Mapping[str, Any], *, steps: int = 40, **rows: Any) -> Path:
    """Write the folder of a completed run."""
    write_config(folder, changed)
    write_rows(folder, steps, **rows)
    summary = {"version": 1, "state": "completed", **summarise(folder)}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def with_test_loss(folder: Path, loss: float) -> Path:
    """Let a run's summary have the loss of its test data."""
    path = folder / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"test_loss": loss}))
    return folder


def write_sweep(folder: Path, intervals: tuple[int, ...] = (0, 5, 10), steps: int = 40) -> Path:
    """Write the folder of a completed sweep over reload intervals."""
    jobs = tuple((f"reload.interval_steps={every}",) for every in intervals)
    index = SweepIndex(
        version=SWEEP_VERSION, overrides=(), resumable=False, swept=("reload.interval_steps",),
        jobs=jobs, side_by_side=1, host="here",
    )  # fmt: skip
    folder.mkdir(parents=True)
    (folder / INDEX_FILE).write_text(index.text())
    for number, every in enumerate(intervals):
        run = folder / str(number)
        write_run(run, {"reload.interval_steps": every}, steps=steps, every=every)
        Job(number=number, overrides=jobs[number], exit_code=0).write(run)
    return folder
