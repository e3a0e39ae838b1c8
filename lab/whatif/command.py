"""``lab whatif``: what other reload settings would do to a recorded run, without training."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.records.replace import replacing
from lab.records.rows import finite
from lab.tracking.closing import relative
from lab.tracking.printed import Column, print_table, print_words
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
    best, steps = [advice.best for advice in study.advice], front(study.outcomes)
    shown = _shown(study, best, steps)
    print_table(_columns(shown, _varied(study.outcomes), best, steps))
    if len(study.outcomes) > len(shown):
        print(f"and {len(study.outcomes) - len(shown):,} more: --json shows all")
    if study.checks:
        print("\nmeasured runs of this sweep, each predicted from the others")
        print_table(_check_columns(study.checks))
    for note in study.notes:
        print_words("note", note)
    for advice in study.advice:
        print_words("advice", advice.text)
    count = len(study.outcomes)
    print(f"in {taken:.1f} s, {count:,} setting{'s' * (count != 1)} without training")


def _columns(
    shown: Sequence[Outcome],
    varied: Mapping[str, Mapping[int, str]],
    best: Sequence[Outcome],
    steps: Sequence[Outcome],
) -> list[Column]:
    def mark(outcome: Outcome) -> str:
        if outcome in best:  # where none stays within the budget it is the lowest
            return "recommended" if outcome.fits else "lowest"
        return "front" if outcome in steps else ""

    def figure(head: str, text: Callable[[Outcome], str], rank: int = 0) -> Column:
        return Column(head, [text(outcome) for outcome in shown], right=True, rank=rank)

    return [
        Column("setting", [outcome.setting.label for outcome in shown]),
        *(figure(name, lambda o, texts=texts: texts[id(o)]) for name, texts in varied.items()),
        figure("peak GB", lambda o: f"{o.predicted.peak_gb:.3f}"),
        figure("mean GB", lambda o: f"{o.predicted.mean_gb:.3f}", rank=2),
        figure("reloads", _reloads),
        figure("overhead", lambda o: f"{o.predicted.overhead_fraction:.1%}"),
        figure("over budget", lambda o: f"{o.predicted.over_budget:.0f} s", rank=1),
        Column("", [mark(outcome) for outcome in shown]),
    ]


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


def _reloads(outcome: Outcome) -> str:
    predicted = outcome.predicted
    ended = f", ends at {predicted.ended:,}" if predicted.ended else ""
    return _counted(predicted.reloads, predicted.remedies) + ended


def _counted(reloads: Mapping[str, int], remedies: Mapping[str, int]) -> str:
    """``3``, ``3 (1 budget)`` where not all have one reason, ``3 + 2 lesser`` with remedies."""
    by_budget, lesser = reloads.get("budget", 0), sum(remedies.values())
    text = str(sum(reloads.values())) + (f" ({by_budget} budget)" if by_budget else "")
    return f"{text} + {lesser} lesser" if lesser else text


def _check_columns(checks: Sequence[Check]) -> list[Column]:
    def figure(head: str, text: Callable[[Check], str], rank: int = 0) -> Column:
        return Column(head, [text(check) for check in checks], right=True, rank=rank)

    return [
        Column("run", [check.run for check in checks]),
        Column("measured", [check.setting.label for check in checks]),
        figure("peak GB", lambda c: f"{c.peak_gb:.3f}"),
        figure("predicted", lambda c: f"{c.predicted.peak_gb:.3f}"),
        figure("", lambda c: f"{c.predicted.peak_gb / c.peak_gb - 1:+.1%}", rank=1),
        figure("reloads", lambda c: _counted(c.reloads, c.remedies)),
        figure("predicted", lambda c: _counted(c.predicted.reloads, c.predicted.remedies)),
        figure("overhead", lambda c: f"{c.overhead_fraction:.1%}", rank=2),
        figure("predicted", lambda c: f"{c.predicted.overhead_fraction:.1%}", rank=2),
    ]
