"""``lab compare`` of a large sweep: 100 runs of 10,000 steps.

The files are synthetic, each as long as a real run's, made from the config and the summary of a
real run of one step. Measured is the whole command, the start of the interpreter included.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.report import Figure, Goal, Report
from benchmarks.workspace import Options, Run, Workspace, say, undisturbed

ROUNDS, STEPS, RUNS = 3, 10_000, 100
INTERVALS = (0, 10, 25, 50, 100, 200, 400, 800, 1600, 3200)
STEP_SECONDS = 0.05
SHARES = {"process": 1.0, "active": 0.5, "cache": 0.3, "peak": 0.8}


def measure(workspace: Workspace, options: Options) -> Report:
    """Make the sweep once, compare it a few times."""
    steps, rounds = options.steps or STEPS, options.rounds or ROUNDS
    model = workspace.train(*undisturbed(1), "tracker=none")
    sweep = workspace.folder / "sweep"
    say(f"making {RUNS} runs of {steps:,} steps")
    for number in range(RUNS):
        make_run(model, sweep / str(number), number, steps)
    seconds, sizes = [], []
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        began = time.time()
        workspace.child("compare", sweep)
        seconds.append(time.time() - began)
        sizes.append((sweep / "compare.html").stat().st_size / 1e6)
    rows = sum(path.stat().st_size for path in sweep.glob("*/metrics.jsonl")) / 1e6
    return Report(
        [
            Figure(f"{RUNS} runs of {steps:,} steps", seconds, "s", Goal(12)),
            Figure("compare.html", sizes, "MB", Goal(10)),
            Figure("metrics.jsonl, all", [rows], "MB"),
        ]
    )


def make_run(model: Run, folder: Path, number: int, steps: int) -> None:
    """Write a run that leaks and is reloaded at its interval, with the losses of its seed."""
    folder.mkdir(parents=True)
    every = INTERVALS[number % len(INTERVALS)]
    config = yaml.safe_load((model.folder / "config.yaml").read_text())
    config["seed"] = number // len(INTERVALS)
    config["reload"] |= {"policy": "interval", "interval_steps": every}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    write_rows(folder / "metrics.jsonl", model.rows[0], every, steps, number)
    events = [reload_event(step) for step in range(every, steps, every)] if every else []
    lines = (json.dumps(event) + "\n" for event in events)
    (folder / "events.jsonl").write_text("".join(lines))
    summary = json.loads((model.folder / "summary.json").read_text())
    summary |= {"steps": steps, "reloads": {"interval": len(events)} if events else {}}
    summary["overhead_fraction"] = len(events) * 0.1 / (steps * STEP_SECONDS)
    (folder / "summary.json").write_text(json.dumps(summary))


def write_rows(path: Path, row: Mapping[str, Any], every: int, steps: int, number: int) -> None:
    """Write rows whose numbers have as many digits as real ones."""
    import polars as pl

    draws, step = np.random.default_rng(number), np.arange(1, steps + 1)
    since = (step - 1) % every if every else step - 1
    seconds = draws.normal(STEP_SECONDS, STEP_SECONDS / 10, steps)
    memory = 0.07 + since * 1e-5 + draws.normal(0, 1e-4, steps)
    learned = np.random.default_rng(number // len(INTERVALS))
    columns = {key: np.full(steps, 0.0 if value is None else value) for key, value in row.items()}
    columns |= {
        "step": step,
        "time": np.cumsum(seconds),
        "loss": 1.5 + 4 * np.exp(-step / 900) + learned.normal(0, 0.1, steps),
        "step_seconds": seconds,
        "tokens_per_second": 1000 / seconds,
    }
    columns |= {f"memory/{name}_gb": memory * share for name, share in SHARES.items()}
    pl.DataFrame(columns).write_ndjson(path)


def reload_event(step: int) -> dict[str, Any]:
    memory = dict.fromkeys((f"memory/{name}_gb" for name in SHARES), 0.0710123456789)
    seconds = {"save": 0.02, "drop": 0.03, "load": 0.04, "first_step": 0.01}
    event = {"event": "reload", "step": step, "time": step * STEP_SECONDS, "reason": "interval"}
    event |= {"method": "in_process", "before": memory, "after": memory}
    return event | {"freed_gb": 0.001, "seconds": seconds}


def main(arguments: Sequence[str]) -> None:
    """``lab compare FOLDER``."""
    from lab.compare.command import compare_runs

    print(json.dumps(compare_runs([Path(arguments[0])])))


if __name__ == "__main__":
    main(sys.argv[1:])
