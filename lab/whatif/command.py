"""``lab whatif``: what other reload settings would do to a recorded run, without training."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.records.replace import replacing
from lab.records.rows import finite
from lab.tracking.closing import relative
from lab.whatif.figure import draw
from lab.whatif.recommend import Outcome, front
from lab.whatif.study import Check, Study, study_of

WHATIF_VERSION = 1
PICTURE = "whatif.png"
MOST_ROWS = 30  # that are printed


def whatif(folder: Path, words: Sequence[str], *, as_json: bool = False) -> int:
    """Predict, draw ``whatif.png`` into the folder, print a table or JSON.

    Arguments:
        words: settings, ``key=value,value,...``; every combination is predicted.

    Returns:
        The exit code: 1 if the picture could not be written.

    Raises:
        ConfigError: as :func:`lab.whatif.study.study_of`.
    """
    began = time.perf_counter()
    study = study_of(folder, words)
    taken = time.perf_counter() - began
    problem = ""
    try:
        with replacing(folder) as new:
            draw(study, new / PICTURE)
    except OSError as error:
        problem = f"cannot write to {folder}: {error.strerror or error}"
    if as_json:
        print(json.dumps(finite(to_json(study)), indent=1))
    else:
        _print(study, taken)
        if not problem:
            print(f"png      {relative(folder / PICTURE)}")
    if problem:
        print(problem, file=sys.stderr)
    return 1 if problem else 0


def to_json(study: Study) -> dict[str, Any]:
    """The whole study as plain values."""
    best = [advice.best for advice in study.advice]
    by_peak, by_mean = front(study.outcomes), front(study.outcomes, "mean_gb")
    return {
        "version": WHATIF_VERSION,
        "run": str(study.reference.folder),
        "recorded_steps": study.reference.steps,
        "notes": list(study.notes),
        "reload_seconds": {
            method: {"seconds": cost.seconds, "estimated": cost.estimated}
            for method, cost in study.costs.reload.items()
        },
        "settings": [
            {
                "setting": list(outcome.setting.given),
                "policy": outcome.setting.label,
                "budget_gb": outcome.budget_gb,
                **_figures(outcome),
                "fits": outcome.fits,
                "recommended": outcome in best,
                "on_peak_front": outcome in by_peak,
                "on_mean_front": outcome in by_mean,
            }
            for outcome in study.outcomes
        ],
        "advice": [{"budget_gb": a.budget_gb, "text": a.text} for a in study.advice],
        "checks": [
            {
                "run": check.run,
                "policy": check.setting.label,
                "measured": {
                    "peak_gb": check.peak_gb,
                    "mean_gb": check.mean_gb,
                    "reloads": dict(check.reloads),
                    "remedies": dict(check.remedies),
                    "overhead_fraction": check.overhead_fraction,
                },
                "predicted": {
                    "peak_gb": check.predicted.peak_gb,
                    "mean_gb": check.predicted.mean_gb,
                    "reloads": dict(check.predicted.reloads),
                    "remedies": dict(check.predicted.remedies),
                    "overhead_fraction": check.predicted.overhead_fraction,
                },
            }
            for check in study.checks
        ],
    }


def _figures(outcome: Outcome) -> dict[str, Any]:
    predicted = outcome.predicted
    return {
        "peak_gb": predicted.peak_gb,
        "mean_gb": predicted.mean_gb,
        "reloads": dict(predicted.reloads),
        "remedies": dict(predicted.remedies),
        "overhead_fraction": predicted.overhead_fraction,
        "seconds": predicted.seconds,
        "over_budget_seconds": predicted.over_budget,
        "ended_at_step": predicted.ended,
    }


# --- On the console -----------------------------------------------------------------------------


def _print(study: Study, taken: float) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, emoji=False)
    console.width = max(console.width, 110)
    best, steps = [advice.best for advice in study.advice], front(study.outcomes)
    shown = _shown(study, best, steps)
    varied = _varied(study.outcomes)
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    numbers = ("peak GB", "mean GB", "reloads", "overhead", "over budget", "")
    for name in ("setting", *varied, *numbers):
        table.add_column(name, justify="left" if name in ("setting", "") else "right")
    for outcome in shown:
        is_best = "recommended" if outcome.fits else "lowest"  # where none stays within the budget
        mark = is_best if outcome in best else "front" if outcome in steps else ""
        own = (varied[key][id(outcome)] for key in varied)
        table.add_row(outcome.setting.label, *own, *_cells(outcome), mark)
    console.print(table)
    if len(study.outcomes) > len(shown):
        print(f"and {len(study.outcomes) - len(shown):,} more: --json shows all")
    _print_checks(console, study.checks)
    for note in study.notes:
        console.print(f"note     {note}", soft_wrap=True)
    for advice in study.advice:
        console.print(f"advice   {advice.text}", soft_wrap=True)
    print(f"in {taken:.1f} s, {len(study.outcomes):,} settings without training")


def _shown(study: Study, best: Sequence[Outcome], steps: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes that are printed, in their order: first those that matter, then others."""
    matter = sorted(study.outcomes, key=lambda o: (o not in best, o not in steps))[:MOST_ROWS]
    return [outcome for outcome in study.outcomes if outcome in matter]


def _varied(outcomes: Sequence[Outcome]) -> dict[str, dict[int, str]]:
    """Columns for what differs beside the policy, by outcome."""
    columns = {
        "budget": lambda o: f"{o.budget_gb:g} GB",
        "method": lambda o: o.setting.config.reload.method,
        "metric": lambda o: o.setting.config.reload.metric,
        "window": lambda o: str(o.setting.config.reload.window_steps),
        "steps": lambda o: str(o.setting.config.train.steps),
    }
    found = {name: {id(o): text(o) for o in outcomes} for name, text in columns.items()}
    return {name: texts for name, texts in found.items() if len(set(texts.values())) > 1}


def _cells(outcome: Outcome) -> tuple[str, ...]:
    predicted = outcome.predicted
    ended = f", ends at {predicted.ended:,}" if predicted.ended else ""
    return (
        f"{predicted.peak_gb:.3f}",
        f"{predicted.mean_gb:.3f}",
        _counted(predicted.reloads, predicted.remedies) + ended,
        f"{predicted.overhead_fraction:.1%}",
        f"{predicted.over_budget:.0f} s",
    )


def _counted(reloads: Mapping[str, int], remedies: Mapping[str, int]) -> str:
    """``3``, ``3 (1 budget)`` where not all have one reason, ``3 + 2 lesser`` with remedies."""
    by_budget, lesser = reloads.get("budget", 0), sum(remedies.values())
    text = str(sum(reloads.values())) + (f" ({by_budget} budget)" if by_budget else "")
    return f"{text} + {lesser} lesser" if lesser else text


def _print_checks(console: Any, checks: Sequence[Check]) -> None:
    from rich.table import Table

    if not checks:
        return
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    names = ("run", "measured", "peak GB", "predicted", "", "reloads", "predicted", "overhead")
    for name in (*names, "predicted"):
        table.add_column(name, justify="left" if name in ("run", "measured") else "right")
    for check in checks:
        predicted = check.predicted
        table.add_row(
            check.run,
            check.setting.label,
            f"{check.peak_gb:.3f}",
            f"{predicted.peak_gb:.3f}",
            f"{predicted.peak_gb / check.peak_gb - 1:+.1%}",
            _counted(check.reloads, check.remedies),
            _counted(predicted.reloads, predicted.remedies),
            f"{check.overhead_fraction:.1%}",
            f"{predicted.overhead_fraction:.1%}",
        )
    console.print()
    console.print("measured runs of this sweep, each predicted from the others")
    console.print(table)
