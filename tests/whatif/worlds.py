"""Runs whose memory follows a known law, reloaded by the lab's own policy, written as files."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.config.keys import Config
from lab.config.units import GB, MB
from lab.protocol import RUNGS, Rung
from lab.records.growth import GrowthTest
from lab.records.rows import METRIC_KEYS
from lab.sweep.index import INDEX_FILE, SWEEP_VERSION
from lab.train.adaptive import Limits, decide, learn, observe
from lab.train.ladder import Cycle, Ladder, Observation
from lab.train.reload_policy import PolicyState, active_triggers, reload_reason, update_back_off
from tests.compared import write_config

STEP_S, RELOAD_S, SAVE_S, STARTUP_S = 0.05, 0.3, 0.02, 1.0
SECONDS: dict[Rung, float] = {
    "clear_cache": 0.002,
    "collect": 0.02,
    "reload_in_process": RELOAD_S,
    "reload_process": 0.8,
}


@dataclass(frozen=True)
class World:
    """How memory grows: MB a step of MLX's arrays, and of what an in-process reload keeps.

    Attributes:
        since: the step after which it grows.
        noise: of each reading, in MB; the same in every run, as the same batches give it.
        cure: the least rung of ``reload=adaptive`` that gives MLX's arrays back.
    """

    active: float = 1.0
    kept: float = 0.0
    since: int = 0
    noise: float = 0.5
    cure: Rung = "reload_in_process"

    def train(self, folder: Path, steps: int, **settings: Any) -> Run:
        """Write the run of these settings (dots as two underscores) to ``folder``."""
        changed = {"train.steps": steps, "checkpoint.interval_steps": 0, "reload.policy": "none"}
        changed |= {"reload.metric": "process", "memory.budget_gb": 100.0}
        changed |= {key.replace("__", "."): value for key, value in settings.items()}
        write_config(folder, changed)
        config = Config.load(folder / "config.yaml")
        rows, events = self._rows(config)
        for name, lines in (("metrics.jsonl", rows), ("events.jsonl", events)):
            (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        taken = [e for e in events if e["event"] in ("reload", "remedy")]
        return Run(folder, config, rows, [e for e in taken if e["event"] == "reload"], taken)

    def _rows(self, config: Config) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        triggers, state, draws = active_triggers(config.reload), PolicyState(), random.Random(7)
        rows, events, start, kept, clock = [], [], 0, 0.0, STARTUP_S
        adapts = Adapts(config) if config.reload.policy == "adaptive" else None
        reloads, generation, test = 0, 0, GrowthTest()
        for step in range(1, config.train.steps + 1):
            clock += STEP_S
            grows = step > self.since
            kept += self.kept * grows
            active = 30 + self.active * max(step - max(start, self.since), 0)
            active += draws.uniform(-1, 1) * self.noise
            warm = 8 * (1 - 0.5 ** min(step, 9))
            memory = {"active": active, "cache": 12.0, "process": active + 12 + 40 + warm + kept}
            row = dict.fromkeys(METRIC_KEYS, 1.0) | {"step": step, "time": clock}
            row |= {f"memory/{name}_gb": mb * MB / GB for name, mb in memory.items()}
            figures = {name: round(mb * MB) for name, mb in memory.items()}
            trend = test.add(step, **figures)
            row |= {
                "memory/peak_gb": row["memory/active_gb"],
                "memory/trend_mb_per_step": trend and trend.bytes_per_step / MB,
            }
            row |= {
                "step_seconds": STEP_S,
                "reload/count": reloads,
                "reload/generation": generation,
            }
            rung = adapts.after_step(row) if adapts else None
            rows.append(row)
            held = int(memory[config.reload.metric] * MB)
            if reloads and start == step - 1:
                state, _ = update_back_off(triggers, state, reloaded_at=start, memory=held)
            reason = reload_reason(
                triggers, state, step=step, last_step=config.train.steps, memory=held, slope=None
            )
            if rung is not None and step < config.train.steps:
                start = step if RUNGS.index(rung) >= RUNGS.index(self.cure) else start
                reloads += rung.startswith("reload")
                generation += rung == "reload_process"
                clock += SECONDS[rung]
                events.append(_event(step, rung, clock))
            if reason:
                reloads, test = reloads + 1, GrowthTest()
                start, clock = step, clock + RELOAD_S
                seconds = {"save": SAVE_S, "load": RELOAD_S - SAVE_S}
                event = {"event": "reload", "step": step, "time": clock, "reason": reason}
                events.append(event | {"method": "in_process", "seconds": seconds})
        end = {"event": "checkpoint", "step": config.train.steps, "time": clock + SAVE_S}
        return rows, [*events, end | {"seconds": SAVE_S, "for_reload": False}]


def _event(step: int, rung: Rung, clock: float) -> dict[str, Any]:
    event: dict[str, Any] = {"step": step, "time": clock}
    if not rung.startswith("reload"):
        return event | {"event": "remedy", "remedy": rung, "seconds": SECONDS[rung]}
    method = rung.removeprefix("reload_")
    done = {"event": "reload", "reason": "adaptive", "method": method}
    return event | done | {"seconds": {"load": SECONDS[rung]}}


class Adapts:
    """``reload=adaptive``, from the rows of a run; it writes into them what growth is certain."""

    def __init__(self, config: Config) -> None:
        self._limits, self._ladder, self._cycle = Limits.of(config), Ladder(), None
        self._test, self._taken = GrowthTest(), None

    def after_step(self, row: dict[str, Any]) -> Rung | None:
        figures = {n: round(row[f"memory/{n}_gb"] * GB) for n in ("active", "cache", "process")}
        trend = self._test.add(row["step"], **figures)
        row["memory/trend_mb_per_step"] = trend and trend.bytes_per_step / MB
        now = Observation(figures["process"], figures["active"], figures["cache"], 0, STEP_S)
        if self._taken:
            rung, before = self._taken
            seen = None if rung == "reload_process" else self._cycle
            self._ladder, self._cycle = learn(
                self._ladder, seen, rung, before, SECONDS[rung], after=now
            )
        else:
            self._cycle = self._cycle.add(now) if self._cycle else Cycle.of(now)
        self._ladder = observe(self._ladder, self._cycle, now)
        found = decide(self._ladder, self._cycle, now, trend, self._limits)
        self._ladder, self._taken = found.ladder, None
        if found.rung:
            self._taken, self._test = (found.rung, now), GrowthTest()
        return found.rung


@dataclass(frozen=True)
class Run:
    """A run as it was written."""

    folder: Path
    config: Config
    rows: Sequence[Mapping[str, Any]]
    reloads: Sequence[Mapping[str, Any]]
    taken: Sequence[Mapping[str, Any]]

    @property
    def peak_gb(self) -> float:
        return max(row["memory/process_gb"] for row in self.rows)

    @property
    def mean_gb(self) -> float:
        return sum(row["memory/process_gb"] for row in self.rows) / len(self.rows)


def index_sweep(folder: Path, jobs: Sequence[str]) -> None:
    """Make a folder of runs a sweep."""
    index = {"version": SWEEP_VERSION, "overrides": [], "resumable": True, "host": "h"}
    index |= {"swept": [], "jobs": [[] for _ in jobs], "side_by_side": 1}
    (folder / INDEX_FILE).write_text(json.dumps(index))
    for number, job in enumerate(jobs):
        text = json.dumps({"number": number, "overrides": [], "exit_code": 0})
        (folder / job / "job.json").write_text(text)
