"""Pure comparison of losses: which runs learn the same, bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lab.compare.read import Run

# Not shown as differences: they follow from other settings, or say nothing about the training.
HIDDEN_GROUPS = ("version", "name", "hardware", "tracker", "objective", "sweep")
# Losses are equal bit for bit whatever these are.
NOT_AFFECTING_LOSS = (
    *HIDDEN_GROUPS,
    "explain",
    "profiler",
    "reload",
    "memory",
    "worker",
    "checkpoint",
    "fault",
)
KEYS_NOT_AFFECTING_LOSS = ("train.val_interval_steps", "train.val_batches")
REFERENCE = "reference"


def match_losses(runs: Sequence[Run], numbers: Sequence[int]) -> list[str]:
    """Compare the loss of each run with that of the longest run with the same learning settings.

    Equal means bit for bit at every step that both have.

    Arguments:
        numbers: of the runs, as they are printed.

    Returns:
        One text for each run, ``loss_match`` of an entry.
    """
    alike: dict[tuple[Any, ...], list[int]] = {}
    for i, run in enumerate(runs):
        if run.settings and len(run.columns):
            alike.setdefault(_learning_settings(run.settings), []).append(i)
    result = [""] * len(runs)
    for members in alike.values():
        reference = max(members, key=lambda i: (len(runs[i].columns), -i))
        for i in members if len(members) > 1 else ():
            result[i] = _loss_match(runs[i], runs[reference], numbers[reference])
        if len(members) > 1:
            result[reference] = REFERENCE
    return result


def _learning_settings(settings: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(
        (key, repr(value))
        for key, value in sorted(settings.items())
        if key.partition(".")[0] not in NOT_AFFECTING_LOSS and key not in KEYS_NOT_AFFECTING_LOSS
    )


def _loss_match(run: Run, reference: Run, number: int) -> str:
    steps = min(len(run.columns), len(reference.columns))
    same = np.ones(steps, bool)
    for key in ("step", "loss"):
        mine, other = (r.columns[key][:steps] for r in (run, reference))
        same &= (mine == other) | (np.isnan(mine) & np.isnan(other))
    if not same.all():
        return f"≠ {number} from step {run.columns['step'][np.argmin(same)]:.0f}"
    return f"= {number}" + (f", {steps} steps" if steps < len(reference.columns) else "")


def agreement(matches: Iterable[str]) -> str:
    """Sum up the loss matches of all runs in a few words; empty if none can be compared."""
    alike = [match for match in matches if match]
    different = sum(match.startswith("≠") for match in alike)
    kinds = alike.count(REFERENCE)
    if different:
        return f"{different} of {len(alike)} runs differ from one with the same settings"
    if kinds > 1:
        return f"the same in every bit within each of {kinds} settings ({len(alike)} runs)"
    return f"the same in every bit in {len(alike)} runs" if alike else ""
