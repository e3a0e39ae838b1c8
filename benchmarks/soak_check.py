"""What a run of the soak test must end with: everything of the reference run, no figure false."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.soak_run import STEPS, Lost, Run
from lab.records.files import read_summary
from lab.supervise.replay import REPEATED_EVENTS

COMPARED = ("step", "loss", "grad_norm", "learning_rate", "tokens", "data/padded_fraction")
Record = Mapping[str, Any]


def end_of(run: Run) -> dict[str, object]:
    """Everything that a run leaves and no fault may change."""
    last = run.run_dir / "checkpoints" / f"step_{STEPS}"
    names = ("adapters.safetensors", "optimizer.safetensors")
    if missing := [name for name in names if not (last / name).exists()]:
        raise Lost(f"{last.name} lacks {missing}")
    return {
        "rows": [[row[key] for key in COMPARED] for row in run.rows()],
        "weights": read_summary(run.run_dir).get("weights_sha256"),
        "files": [hashlib.sha256((last / name).read_bytes()).hexdigest() for name in names],
        "events of steps": told(run.events()),
    }


def told(events: Sequence[Record]) -> list[tuple[str, int]]:
    """Name and step of what is told of a step once, however often it is executed."""
    return sorted((e["event"], e["step"]) for e in events if e["event"] in REPEATED_EVENTS)


def check(run: Run, expected: Mapping[str, Any]) -> None:
    """Compare with the reference run.

    Raises:
        Lost: says what differs, or what is not true.
    """
    found = end_of(run)
    for key in ("rows", "weights", "files"):
        if found[key] != expected[key]:
            raise Lost(f"{key} differ")
    _check_told(run, expected["events of steps"])
    if false := false_claims(run):
        raise Lost(f"not true: {'; '.join(false)}")
    if changed := [path.name for path, content in run.foreign.items() if not _holds(path, content)]:
        raise Lost(f"files of others were changed: {changed}")
    if left := [path.name for path in (run.run_dir / "checkpoints").glob(".step_*")]:
        raise Lost(f"left behind: {left}")
    if left := _processes(run):
        raise Lost(f"processes are left: {left}")
    if run.variant == "wandb":
        _check_wandb(run)


def _check_told(run: Run, expected: list[tuple[str, int]]) -> None:
    """Nothing is told twice, nothing that was not; what is missing must have a reason.

    A reload that was due when the run was stopped is done by going on; one without a checkpoint is
    left out. Cut rows were told and are gone.
    """
    events, found = run.events(), told(run.events())
    if wrong := [entry for entry in found if entry not in expected or found.count(entry) > 1]:
        raise Lost(f"told twice, or not true: {wrong}")
    failed = {e["step"] for e in events if e["event"] == "checkpoint" and "error" in e}
    left_out = failed | {e["step"] for e in events if e["event"] == "resumed"}
    missing = {
        (event, step)
        for event, step in set(expected) - set(found)
        if not (event == "reload" and step in left_out)
    }
    if missing and "cut rows" not in run.faults:
        raise Lost(f"not told: {sorted(missing)}")


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _processes(run: Run) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{run.folder}/" in (folder / "cmdline").read_text():
                found.append(folder.name)
    return found


def _check_wandb(run: Run) -> None:
    folders = list((run.folder / "outputs" / "wandb").glob("offline-run-*"))
    if len(folders) != 1:
        raise Lost(f"{len(folders)} W&B runs")
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json"]
    said = subprocess.run([*inspect, str(folders[0])], capture_output=True, text=True, check=True)
    records = [json.loads(line) for line in said.stdout.splitlines()]
    history = [r["history"]["item"] for r in records if r["type"] == "history"]
    rows = {h["step"]: h["loss"] for h in history if "loss" in h}
    if rows != {row["step"]: row["loss"] for row in run.rows()}:
        raise Lost("W&B does not hold the rows")


# --- Figures ------------------------------------------------------------------------------------


def false_claims(run: Run) -> list[str]:
    """What the summary, the rows and the events of a complete run say that is not so."""
    summary, rows, events = read_summary(run.run_dir), run.rows(), run.events()
    claims = {
        **_claims_of_summary(summary, rows, events),
        **_claims_of_time(summary["seconds"], rows, events, ran=run.seconds),
        **_claims_of_workers(run, rows, events),
    }
    return [claim for claim, holds in claims.items() if not holds]


def _claims_of_summary(summary: Record, rows: Sequence[Record], events: Sequence[Record]) -> dict:
    def column(key: str) -> list[float]:
        return [row[key] for row in rows if row[key] is not None]

    def is_of(name: str, key: str, figure: Callable[[list[float]], float]) -> bool:
        values = column(key)
        return _equal(summary[name], figure(values) if values else None)

    seconds, reloads = summary["seconds"], [e for e in events if e["event"] == "reload"]
    reasons = {e["reason"] for e in reloads}
    return {
        "state": summary["state"] == "completed",
        "steps": summary["steps"] == len(rows) == STEPS,
        "final_loss": summary["final_loss"] == rows[-1]["loss"],
        "peak_process_gb": is_of("peak_process_gb", "memory/process_gb", max),
        "peak_mlx_gb": is_of("peak_mlx_gb", "memory/peak_gb", max),
        "mean_process_gb": is_of(
            "mean_process_gb", "memory/process_gb", lambda values: sum(values) / len(values)
        ),
        "tokens_per_second": is_of(
            "tokens_per_second", "tokens", lambda values: sum(values) / seconds["train"]
        ),
        "reloads": summary["reloads"]
        == {reason: sum(e["reason"] == reason for e in reloads) for reason in reasons},
        "overhead_fraction": _equal(
            summary["overhead_fraction"],
            (seconds["reload"] + seconds["checkpoint"]) / (seconds["total"] - seconds["startup"]),
        ),
    }


def _claims_of_time(
    seconds: Record, rows: Sequence[Record], events: Sequence[Record], *, ran: float
) -> dict[str, bool]:
    """Of the run's clock, which stands still while the run lies still.

    Arguments:
        ran: seconds for which the run's processes ran, measured from outside.
    """
    reloads = [e for e in events if e["event"] == "reload"]
    saved = [e for e in events if e["event"] == "checkpoint" and "error" not in e]
    times = [row["time"] for row in rows]
    # The excess of the first step after a reload is in its step_seconds too.
    twice = sum(max(e["seconds"]["first_step"], 0.0) for e in reloads)
    parts = [sum(e["seconds"][part] for part in ("save", "drop", "load")) for e in reloads]
    within = seconds["startup"] + seconds["train"] + seconds["reload"] + seconds["checkpoint"]
    return {
        "rows in the order of time": all(a < b for a, b in pairwise([0.0, *times])),
        "events in the order of time": all(a["time"] <= b["time"] for a, b in pairwise(events)),
        "step_seconds within the time between two rows": all(
            row["step_seconds"] <= row["time"] - before + 1e-3
            for row, before in zip(rows, [0.0, *times], strict=False)
        ),
        "seconds not below 0": min(seconds.values()) >= 0,
        "startup": _equal(seconds["startup"], times[0] - rows[0]["step_seconds"]),
        "train": _equal(seconds["train"], sum(row["step_seconds"] for row in rows)),
        "checkpoint": _equal(
            seconds["checkpoint"], sum(e["seconds"] for e in saved if not e["for_reload"])
        ),
        "reload": _equal(seconds["reload"], _reload_seconds(times, reloads)),
        "parts of a reload not below 0": all(
            e["seconds"][part] >= 0 for e in reloads for part in ("save", "drop", "load")
        ),
        "reloads within the time that it ran": sum(parts) <= ran,
        "seconds within total": within - twice <= seconds["total"] + 1e-3,
        "total": _equal(seconds["total"], max(times[-1], events[-1]["time"])),
        "total within the time that it ran": seconds["total"] <= ran,
    }


def _reload_seconds(times: Sequence[float], reloads: Sequence[Record]) -> float:
    """Their parts, none of them longer than the time between the rows around it."""
    return sum(
        min(
            sum(max(part, 0.0) for part in e["seconds"].values()),
            times[e["step"]] - times[e["step"] - 1],
        )
        for e in reloads
    )


def _claims_of_workers(
    run: Run, rows: Sequence[Record], events: Sequence[Record]
) -> dict[str, bool]:
    names = [e["event"] for e in events]
    started = [e["generation"] for e in events if e["event"] == "worker_started"]
    reloaded = [e["step"] for e in events if e["event"] == "reload"]
    is_cut = "cut rows" in run.faults  # worker_started and reload may be gone with them
    return {
        "one start": names.count("run_started") == 1 and names[0] == "run_started",
        "the end": events[-1]["event"] == "run_finished" and events[-1]["state"] == "completed",
        "every replayed loss": "replay_mismatch" not in names,
        "each worker's generation its own": is_cut or all(a < b for a, b in pairwise(started)),
        "reload/generation": is_cut
        or all(a["reload/generation"] <= b["reload/generation"] for a, b in pairwise(rows)),
        # At most: a stop leaves out a reload that is due, and a replay of that step makes it up
        # when the rows that follow are on file already; the first row of a step is kept.
        "reload/count": is_cut
        or all(row["reload/count"] <= sum(s < row["step"] for s in reloaded) for row in rows),
        "memory of the process": all(
            row["memory/process_gb"] is None
            if run.lacks == "/proc"
            else 0 < row["memory/process_gb"] < 2
            for row in rows
        ),
    }


def _equal(found: float | None, expected: float | None) -> bool:
    if found is None or expected is None:
        return found is expected
    return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9)
