"""The end of a sweep on the console: a table of its jobs, and the commands to type next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.compose.overrides import override_key, shown_value
from lab.config.keys import Config
from lab.records.rows import metric_gb, plausible, read_rows
from lab.sweep.index import Begun, SweepIndex, jobs_of, state_of, summary_of
from lab.sweep.job import LOG_FILE, last_words
from lab.sweep.page import PageError, group_of, has_page, log_sweep, make_page
from lab.sweep.scores import Scores, load_config
from lab.tracking.closing import command, relative, resume_command
from lab.tracking.folders import outputs_of
from lab.tracking.opening import ways_to_open
from lab.tracking.printed import LEAST_NAME, Column, print_table
from lab.tracking.queued import FINISH_SECONDS
from lab.tracking.text import MEMORY_WORDS, duration, number, short_names

DECIDING = ("reload", "reload.metric", "reload.policy", "experiment")  # of the memory watched


def close_sweep(folder: Path, exit_code: int) -> int:
    """Print the table of jobs, and the commands to type next.

    Arguments:
        exit_code: of the command so far; 130 or 143 where it was interrupted.

    Returns:
        The command's exit code: 1 if a job did not complete.
    """
    index = SweepIndex.read(folder)
    begun = {job.number: (job, path) for job, path in jobs_of(folder)}
    numbers = range(len(index.jobs)) if index.jobs else sorted(begun)
    states = {n: state_of(*begun[n]) if n in begun else "not begun" for n in numbers}
    scores = Scores.of(index, begun)
    print()
    print_table(_columns(index, begun, states, scores))
    failed = [path for n, (_, path) in begun.items() if states[n] in ("failed", "killed")]
    unfinished = sum(state != "completed" for state in states.values())
    next_lines = _next_lines(folder, failed, unfinished, was_interrupted=exit_code in (130, 143))
    for line in (*scores.lines(index, begun), *next_lines):
        print(line)
    return exit_code or int(unfinished > 0)


def _columns(
    index: SweepIndex, begun: Begun, states: Mapping[int, str], scores: Scores
) -> list[Column]:
    watched = _watched(index, [path for _, path in begun.values()])
    swept, figures = [], []
    for n, state in states.items():
        job, path = begun.get(n, (None, None))
        values = _values(job.overrides if job else index.jobs[n])
        swept.append([values.get(key, "") for key in index.swept])
        summary = summary_of(path) if path and state != "running" else {}
        figures.append(_figures(summary, _peak_gb(path, summary, watched) if path else None))

    def figure(i: int, head: str, rank: int = 0, short: str = "") -> Column:
        return Column(head, [cells[i] for cells in figures], right=True, rank=rank, short=short)

    peak, short_peak = f"peak GB, {MEMORY_WORDS[watched]}", "peak GB" * (watched == "process")
    return [
        Column("job", [str(n) for n in states], right=True),
        *(
            Column(name, [values[i] for values in swept], least=LEAST_NAME)
            for i, name in enumerate(short_names(index.swept))
        ),
        Column("state", list(states.values())),
        figure(0, "loss"),
        figure(1, peak, short=short_peak),
        figure(2, "reloads", rank=1),
        figure(3, "overhead", rank=2),
        figure(4, "tokens/s", rank=4),
        figure(5, "time", rank=3),
        *([Column("objective", list(map(scores.cell, states)), right=True)] if scores.name else ()),
    ]


def _values(overrides: Sequence[str]) -> dict[str, str]:
    return {override_key(o): shown_value(o) for o in overrides}


def _watched(index: SweepIndex, folders: Sequence[Path]) -> str:
    """The memory that all policies of a sweep watch; the process's where they differ or none is."""
    differ = any(key in index.swept for key in DECIDING)  # all configs take 40 ms each
    configs = filter(None, map(load_config, folders if differ else folders[:1]))
    metrics = {c.reload.metric for c in configs if c.reload.policy != "none"}
    return metrics.pop() if len(metrics) == 1 else "process"


def _peak_gb(folder: Path, summary: Mapping[str, Any], watched: str) -> float | None:
    """The highest that a job's watched memory was after a step, in GB."""
    if watched == "process" or not summary:
        return plausible(summary.get("peak_process_gb"))
    found = (metric_gb(row, watched) for row in read_rows(folder))
    return max((gb for gb in found if gb is not None), default=None)


def _figures(summary: Mapping[str, Any], peak_gb: float | None) -> list[str]:
    reloads, seconds = summary.get("reloads") or {}, summary.get("seconds") or {}
    return [  # in the order of the columns
        number(summary.get("final_loss"), ".4f"),
        number(peak_gb, ".3f"),
        str(sum(reloads.values())) if summary else "-",
        number(summary.get("overhead_fraction"), ".1%"),
        number(summary.get("tokens_per_second"), ",.0f"),
        duration(seconds.get("total")),
    ]


def _next_lines(
    folder: Path, failed: Sequence[Path], unfinished: int, *, was_interrupted: bool
) -> list[str]:
    config, shown = _config_of(folder), relative(folder)
    mode = config.tracker.mode if config else "none"
    lines = [f"sweep    {shown}"]
    if mode != "none" and not was_interrupted and has_page(folder):
        lines += _page_lines(folder, mode)
    lines.append("compare  " + command("lab", "compare", shown))
    match mode:
        case "offline":
            wandb_dir = link_sweep(folder) or outputs_of(folder) / "wandb"
            lines.append("open     " + command("wandb", "leet", relative(wandb_dir)))
            lines.append("send     " + command("lab", "sync", shown))
        case "online":
            lines.append("view     " + view_of(folder))
    opened = ways_to_open(config, folder, is_sweep=True) if config else []
    lines += [f"open     {line}" for line in opened]
    if failed:
        why = last_words(failed[0])
        lines.append(f"why      {relative(failed[0] / LOG_FILE)}" + (f": {why}" if why else ""))
    if unfinished:
        lines.append("resume   " + resume_command(folder))
    return lines


def _page_lines(folder: Path, mode: str) -> list[str]:
    try:
        page, _ = make_page(folder)
    except PageError as error:
        return [f"page     not made: {error}"]
    try:
        logged = log_sweep(folder, mode, seconds=FINISH_SECONDS)
    except PageError as error:
        return [f"page     {relative(page)}", f"page     not in W&B: {error}"]
    return [f"page     {relative(page)}", *([f"page     {logged}"] if mode == "online" else [])]


def link_sweep(folder: Path) -> Path | None:
    """Make the folder that shows ``wandb leet`` this sweep only; None where that has no runs."""
    from lab.tracking.leet import link_runs

    return link_runs(folder, (run_dir for _, run_dir in jobs_of(folder)))


def _config_of(folder: Path) -> Config | None:
    """The config of the first job which has one; reading all of them would take seconds."""
    return next(filter(None, (load_config(run_dir) for _, run_dir in jobs_of(folder))), None)


def view_of(folder: Path) -> str:
    """Save a view of a sweep in W&B; return its address, or why there is none."""
    from lab.tracking.view import Shown, view_line

    config = _config_of(folder)
    if config is None:
        return "not saved in W&B: the sweep has no run"
    return view_line(config, Shown.sweep(group_of(folder), SweepIndex.read(folder).swept))
