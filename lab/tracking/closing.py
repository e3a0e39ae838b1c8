"""The closing summary of a run on the console: figures, folder, and commands to type next."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.records.rows import read_jsonl
from lab.tracking.text import duration, number, size

HEADLINES = {
    "completed": "run completed",
    "interrupted": "run interrupted",
    "budget_exceeded": "run stopped: memory budget exceeded",
    "failed": "run failed",
}
ERROR = f"  {'error':<8} "  # how the line of a run's error begins


def format_summary(
    summary: Mapping[str, Any],
    run_dir: Path,
    *,
    wandb_dir: Path | None = None,
    view: str = "",
    others: Sequence[str] = (),
    error: str = "",
) -> str:
    """Format the closing summary as a few aligned lines.

    Arguments:
        summary: the content of summary.json; keys may be missing or null.
        wandb_dir: the folder of W&B's files; None without W&B.
        view: the address of its view in W&B, or why there is none.
        others: commands that open other trackers.
        error: error text of a failed run, e.g. a traceback; only its last line is shown.
    """
    state = summary.get("state", "failed")
    seconds = (summary.get("seconds") or {}).get("total")
    steps = summary.get("steps") or 0
    head = f"{HEADLINES.get(state, state)} after {steps} steps in {duration(seconds)}"
    opened = [command("wandb", "leet", relative(wandb_dir))] if wandb_dir else []
    lines = {
        "error": error.strip().splitlines()[-1] if error.strip() else "",
        "loss": _loss(summary, run_dir),
        "test": _test(summary),
        "speed": _speed(summary),
        "memory": f"peak {size(summary.get('peak_process_gb'))} of the process, "
        f"{size(summary.get('peak_mlx_gb'))} of MLX",
        **_peaks(summary.get("memory_at_peak") or {}),
        "reloads": _counts(summary.get("reloads") or {}),
        "remedies": _counts(summary.get("remedies") or {}, none=""),
        "run": relative(run_dir),
    }
    lines["view"] = view
    lines["open"] = f"\n  {'open':<8} ".join((*opened, *others))
    if state == "interrupted" or (state != "completed" and (steps or _has_checkpoint(run_dir))):
        lines["resume"] = resume_command(run_dir)
    return "\n".join([head, *(f"  {name:<8} {text}" for name, text in lines.items() if text)])


def command(program: str, *arguments: str) -> str:
    """A shell command line; a program beside this Python that is not on the PATH gets its path."""
    beside = Path(sys.executable).parent / program
    if shutil.which(program) is None and beside.exists():
        program = relative(beside)
    return shlex.join([program, *arguments])


def resume_command(folder: Path) -> str:
    """The command that goes on with a run or a sweep."""
    return command("lab", "resume", relative(folder))


def _loss(summary: Mapping[str, Any], run_dir: Path) -> str:
    first = next(read_jsonl(run_dir / "metrics.jsonl"), {}).get("loss")
    text = " -> ".join(number(loss, ".4f") for loss in (first, summary.get("final_loss")))
    val_loss = summary.get("final_val_loss")
    return text if val_loss is None else f"{text}, validation {number(val_loss, '.4f')}"


PARTS = {
    "process": {
        "active_gb": "arrays",
        "cache_gb": "MLX's cache",
        "rest_gb": "Python and the rest",
    },
    "mlx": {
        "weights_gb": "weights",
        "optimizer_gb": "optimizer",
        "other_gb": "other arrays",
        "activations_gb": "activations",
    },
}
"""What to call the parts of ``memory_at_peak``."""


def _peaks(peaks: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """A line for each peak: its step and its parts, but for those below a hundredth of it."""
    lines = {}
    for peak, names in PARTS.items():
        parts = {name: peaks.get(peak, {}).get(key, 0.0) for key, name in names.items()}
        shown = [f"{n} {size(gb)}" for n, gb in parts.items() if gb > sum(parts.values()) / 100]
        if shown:
            lines["MLX" if peak == "mlx" else peak] = (
                f"at step {peaks[peak]['step']}: {', '.join(shown)}"
            )
    return lines


def _test(summary: Mapping[str, Any]) -> str:
    loss, tokens = summary.get("test_loss"), summary.get("test_tokens")
    return f"{number(loss, '.4f')} over {number(tokens, ',')} tokens" if tokens else ""


def _speed(summary: Mapping[str, Any]) -> str:
    overhead = summary.get("overhead_fraction")
    share = f", {overhead:.1%} of the time in reloads and checkpoints" if overhead else ""
    return f"{number(summary.get('tokens_per_second'), ',.0f')} tokens/s{share}"


def _counts(by_name: Mapping[str, int], none: str = "0") -> str:
    total = sum(by_name.values())
    names = ", ".join(f"{name} {count}" for name, count in by_name.items())
    return f"{total} ({names})" if total else none


def relative(path: Path) -> str:
    """The path relative to the working folder; unchanged if it lies outside."""
    try:
        return str((Path.cwd() / path).relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _has_checkpoint(run_dir: Path) -> bool:
    return any((run_dir / "checkpoints").glob("step_*"))
