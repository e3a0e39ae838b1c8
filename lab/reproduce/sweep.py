"""Reproduce a sweep: each job made again, and whether it still says the same of its settings."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.config.schema import ConfigError
from lab.records.rows import plausible
from lab.reproduce.compare_records import Records
from lab.reproduce.reproduce import Reproduction, reproduce_run
from lab.sweep.index import jobs_of
from lab.sweep.lease import is_leased
from lab.tracking.closing import relative
from lab.tracking.printed import LEAST_NAME, Column, print_table
from lab.tracking.text import number

log = logging.getLogger("lab")

INTERRUPTED = (130, 143)
CONCLUSIONS = {
    "peak memory": "peak_process_gb",
    "overhead": "overhead_fraction",
    "final loss": "final_loss",
}


def reproduce_sweep(folder: Path) -> int:
    """Make each job that has begun again, one after the other; print what came of them.

    Returns:
        The exit code: 0 if all are identical, 1 if one is different, 2 if one cannot be compared,
        130 or 143 if interrupted.

    Raises:
        ConfigError: the sweep still goes on, or none of its jobs has begun.
    """
    if is_leased(folder):
        raise ConfigError("sweep", folder, "is still going on in another process")
    jobs = list(jobs_of(folder))
    if not jobs:
        raise ConfigError("sweep", folder, "none of its jobs has begun")
    made: dict[int, Reproduction] = {}
    for job, path in jobs:
        made[job.number] = _reproduced(path)
        if made[job.number].exit_code in INTERRUPTED:
            break
    _print_table(made, len(jobs))
    for line in conclusions(made):
        print(line)
    codes = [reproduction.exit_code for reproduction in made.values()]
    return codes[-1] if codes[-1] in INTERRUPTED else _worst(codes)


def _reproduced(path: Path) -> Reproduction:
    try:
        return reproduce_run(path)
    except ConfigError as error:
        log.error("%s", error)  # noqa: TRY400 - the other jobs can still be made
        return Reproduction(2, Records())


def _worst(codes: Sequence[int]) -> int:
    """Different before not to be compared before identical."""
    return 1 if set(codes) - {0, 2} else max(codes)


def _print_table(made: Mapping[int, Reproduction], jobs: int) -> None:
    figures = [
        [
            number(_figure(records, key), form)
            for key, form in (("final_loss", ".4f"), ("peak_process_gb", ".3f"))
            for records in (one.then, one.now)
        ]
        for one in made.values()
    ]
    folders = [relative(one.folder) if one.folder else "-" for one in made.values()]
    heads = (("loss then", 0), ("now", 0), ("peak GB then", 1), ("now", 1))
    print_table(
        [
            Column("job", list(map(str, made)), right=True),
            Column("result", list(map(_result, made.values()))),
            *(
                Column(head, [cells[i] for cells in figures], right=True, rank=rank)
                for i, (head, rank) in enumerate(heads)
            ),
            Column("run", folders, least=LEAST_NAME),
        ]
    )
    same = sum(one.exit_code == 0 for one in made.values())
    print(f"{same} of {jobs} jobs are identical")


def _result(one: Reproduction) -> str:
    if one.found is None:
        return "interrupted" if one.exit_code in INTERRUPTED else "not compared"
    step = one.found.first_step
    return one.found.verdict if step is None else f"{one.found.verdict} from step {step}"


# --- What the sweep says of its settings --------------------------------------------------------


def conclusions(made: Mapping[int, Reproduction]) -> list[str]:
    """For each figure whether the same job is best, and whether the jobs have the same order."""
    return [f"{name:<12} {_conclusion(*_figures(made, key))}" for name, key in CONCLUSIONS.items()]


Figures = Mapping[int, float]  # by job


def _figures(made: Mapping[int, Reproduction], key: str) -> tuple[Figures, Figures]:
    """The figure then and now of the jobs that have both."""
    then: dict[int, float] = {}
    now: dict[int, float] = {}
    for job, one in made.items():
        was, is_now = _figure(one.then, key), _figure(one.now, key)
        if was is not None and is_now is not None:
            then[job], now[job] = was, is_now
    return then, now


def _figure(records: Records | None, key: str) -> float | None:
    return plausible(records.figures.get(key)) if records else None


def _conclusion(then: Figures, now: Figures) -> str:
    if len(then) < 2:
        return "not to be compared: fewer than two jobs have it, then and now"
    was, is_now = (sorted(found, key=lambda job: (found[job], job)) for found in (then, now))
    best_then, best_now = _best(then), _best(now)
    if len(best_then) == len(best_now) == len(then):
        return f"all {len(then)} jobs are equal, then and now"
    same_best = best_then == best_now
    best = f"best is {_named(best_then)}"
    best += ", then and now" if same_best else f" then, {_named(best_now)} now"
    if was == is_now:
        return f"{best}; the jobs have the same order"
    orders = (" ".join(map(str, order)) for order in (was, is_now))
    return f"{best}; the order was {next(orders)}, and is {next(orders)}"


def _best(figures: Figures) -> list[int]:
    least = min(figures.values())
    return [job for job, value in figures.items() if value == least]


def _named(jobs: Sequence[int]) -> str:
    return f"job {' and '.join(map(str, jobs))}"
