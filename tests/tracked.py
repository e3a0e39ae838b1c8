"""A made-up run for the tests of trackers and records: config, rows, reloads, summary."""

from __future__ import annotations

import dataclasses
import functools

from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from lab.compose.config import compose_config
from lab.compose.profiles import CONF
from lab.compose.resolvers import register
from lab.config.keys import Config
from lab.records.rows import METRIC_KEYS

SUMMARY = {
    "version": 1,
    "state": "completed",
    "steps": 5,
    "final_loss": 4.5,
    "tokens_per_second": 1234.5,
    "peak_process_gb": 0.41,
    "peak_mlx_gb": None,
    "reloads": {"interval": 2, "leak": 1},
    "seconds": {"total": 92.4},
    "overhead_fraction": 0.0312,
}


@functools.cache
def base_config() -> Config:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose_config(hydra_compose("config"), [], environ={})[0]


def make_config(mode: str = "offline", *, steps: int = 100, name: str = "a run") -> Config:
    config = base_config()
    tracker = dataclasses.replace(config.tracker, mode=mode, project="p", tags=("x", "y"))
    return dataclasses.replace(
        config,
        name=name,
        tracker=tracker,
        train=dataclasses.replace(config.train, steps=steps),
        memory=dataclasses.replace(config.memory, budget_gb=4.0),
        reload=dataclasses.replace(config.reload, metric="process"),
    )


def make_row(step: int, **fields: object) -> dict[str, object]:
    row = dict.fromkeys(METRIC_KEYS, 0.1 * step)
    row |= {"step": step, "time": step / 2, "loss": 10 / step, "reload/count": 0}
    return row | {"memory/slope_mb_per_step": None} | fields


def make_reload(step: int) -> dict[str, object]:
    return {
        "event": "reload",
        "step": step,
        "time": 1.0,
        "reason": "interval",
        "method": "process",
        "before": {"memory/process_gb": 1.5, "memory/active_gb": 1.0},
        "after": {"memory/process_gb": 0.75, "memory/active_gb": 0.5},
        "seconds": {"save": 0.25, "drop": 0.25, "load": 0.5, "first_step": -0.1},
    }
