"""What a run's files say of its memory and its time: the curve of each session, the seconds."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lab.config.keys import Config
from lab.config.schema import ConfigError
from lab.records.rows import check_rows, plausible, read_jsonl, read_rows
from lab.records.summary import figures_so_far
from lab.whatif.cures import Cures, read_cures

Values = NDArray[np.float64]
Kind = Literal["first", "in_process", "process"]  # what a session began with
PARTS = ("active", "cache", "other")  # of a process's memory; other: Python, native heap, traces
LEAST_ROWS = 20  # of a run's longest session; less cannot tell growth from warm-up


@dataclass(frozen=True)
class Session:
    """The rows between two reloads.

    Attributes:
        start: the step before its first one.
        kind: the run's first, or the method of the reload that began it; a resume is a new process,
            a lesser remedy that gave the growth back is as a reload in process.
        parts: GB of 2^30 bytes after each of its steps, by part of the process's memory.
        before: of the last step before the reload that began it; empty where none did.
        by_census: a census of the explainer began it.
    """

    start: int
    kind: Kind
    parts: Mapping[str, Values]
    before: Mapping[str, float]
    by_census: bool = False

    def __len__(self) -> int:
        return len(self.parts["cache"])

    @property
    def steps(self) -> NDArray[np.intp]:
        return np.arange(self.start + 1, self.start + 1 + len(self))

    def memory(self, figure: str) -> Values:
        return memory_of(self.parts, figure)

    def grown(self, part: str) -> Values:
        """A part without what a census freed and the process kept, to use it again.

        Nothing trims the heap there: what arrays fall by goes to the cache, then to the rest.
        """
        values = self.parts[part]
        if part == "active" or not self.by_census:
            return values
        fell = max(self.before["active"] - self.parts["active"][0], 0.0)
        return values - np.clip(values - self.before[part], 0.0, fell)


def parts_of(figure: str) -> tuple[str, ...]:
    """The parts of a figure that a policy looks at: ``active``, ``mlx`` or ``process``."""
    return {"active": PARTS[:1], "mlx": PARTS[:2]}.get(figure, PARTS)


def memory_of(parts: Mapping[str, Values], figure: str) -> Values:
    """GB of such a figure."""
    return np.sum([parts[part] for part in parts_of(figure)], axis=0)


@dataclass(frozen=True)
class Recording:
    """One run as far as it is recorded.

    Attributes:
        cures: what gave memory back short of a reload.
        cells: tokens and padding of each step's batch, NaN where a row does not tell: two steps
            with the same number have arrays of the same shapes.
        work: MLX's peak in each step, in GB: what its arrays took.
        trend: MB a step of the growth that was certain after each step up to the first reload or
            remedy, NaN where none was; empty where the rows do not tell.
        step_seconds: of each step.
        reloads: seconds of each reload, by method.
        checkpoints: seconds of each checkpoint that no reload asked for.
        figures: of its summary, as far as it goes.
        held: the figure that the budget holds: ``mlx`` on CUDA, whose process says nothing of the
            device's memory, else ``process``.
    """

    folder: Path
    config: Config
    sessions: tuple[Session, ...]
    cures: Cures
    cells: Values
    work: Values
    trend: Values
    step_seconds: Values
    reloads: Mapping[str, Sequence[float]]
    checkpoints: Sequence[float]
    figures: Mapping[str, Any]
    held: str

    @cached_property
    def first(self) -> Mapping[str, Values]:
        """GB of each part after each step up to the first reload, or remedy that helped."""
        until = next((n for n, s in enumerate(self.sessions) if n and not s.by_census), None)
        own = self.sessions[:until]
        return {part: np.concatenate([session.parts[part] for session in own]) for part in PARTS}

    @property
    def first_steps(self) -> int:
        return len(self.first["cache"])

    @property
    def steps(self) -> int:
        """The last step that is recorded."""
        return self.sessions[-1].start + len(self.sessions[-1])


def read_recording(folder: Path) -> Recording:
    """Read a run, which may still go on.

    Raises:
        ConfigError: it is no run's folder, of another version, or too short to tell.
    """
    if not (folder / "config.yaml").is_file():
        raise ConfigError("folder", folder, "is no run's: it holds no config.yaml")
    config = Config.load(folder / "config.yaml")
    if config.trainer != "lab":
        raise ConfigError("trainer", config.trainer, "has no reloads to predict; trainer=lab has")
    check_rows(folder)
    try:
        rows = list(_measured(read_rows(folder), config.train.steps))
        events = list(read_jsonl(folder / "events.jsonl"))
    except OSError as error:
        raise ConfigError("folder", folder, f"cannot be read: {error.strerror}") from error
    cures = read_cures(folder, rows, events)
    if rows and 2 * len(rows) < rows[-1]["step"]:
        said = f"has the memory of {len(rows)} of {rows[-1]['step']:,} steps, too few to tell"
        raise ConfigError("run", folder, said)
    sessions = tuple(_sessions(rows, cures))
    longest = max(map(len, sessions), default=0)
    if longest < LEAST_ROWS:
        rows_said = f"{longest} row{'s' * (longest != 1)}"
        said = f"has {rows_said} between reloads, too few to tell: {LEAST_ROWS} are needed"
        raise ConfigError("run", folder, said if rows else "has no rows with its memory yet")
    if sessions[0].start:
        raise ConfigError("run", folder, f"has no rows before step {sessions[0].start + 1}")
    reloads = defaultdict(list)
    for event in events:
        if event.get("event") == "reload" and isinstance(event.get("seconds"), Mapping):
            # The first step is measured against the median: below it, it was only a short one.
            times = [plausible(seconds) or 0.0 for seconds in event["seconds"].values()]
            reloads[str(event.get("method"))].append(sum(times))
    steps = rows[-1]["step"]
    return Recording(
        folder=folder,
        config=config,
        sessions=sessions,
        cures=cures,
        cells=_column(rows, steps, _cells),
        work=_column(rows, steps, lambda row: row.get("memory/peak_gb")),
        trend=_trend([row for row in rows if row["step"] <= (cures.first or steps)]),
        step_seconds=_column(rows, steps, lambda row: row.get("step_seconds")),
        reloads=reloads,
        checkpoints=[
            seconds
            for event in events
            if event.get("event") == "checkpoint" and not event.get("for_reload")
            if (seconds := plausible(event.get("seconds"))) is not None
        ],
        figures=figures_so_far(folder, rows)[0],
        held="mlx" if any(map(_is_on_cuda, events)) else "process",
    )


def _trend(rows: Sequence[Mapping[str, Any]]) -> Values:
    key = "memory/trend_mb_per_step"
    if not all(key in row for row in rows):
        return np.zeros(0)
    return _column(rows, rows[-1]["step"], lambda row: row[key])


def _is_on_cuda(event: Mapping[str, Any]) -> bool:
    found = event.get("environment")
    found = found if isinstance(found, Mapping) else {}
    is_linux = str(found.get("platform")).startswith("Linux")
    return is_linux and "gpu" in str(found.get("device"))


def _measured(rows: Iterator[dict[str, Any]], last: int) -> Iterator[dict[str, Any]]:
    """The rows that have the memory of all parts, with steps that rise, up to the last."""
    newest = 0
    for row in rows:
        figures = (f"memory/{name}_gb" for name in ("active", "cache", "process"))
        memory = [plausible(row.get(figure)) for figure in figures]
        if newest < row["step"] <= last and None not in memory:
            newest = row["step"]
            yield row


def _sessions(rows: Sequence[Mapping[str, Any]], cures: Cures) -> Iterator[Session]:
    """The sessions of a run; one ends with a lesser remedy or census too that helped.

    Memory after a step that was not read lies between that of its neighbours.
    """
    last: Mapping[str, Any] = {}
    helped = sorted({*cures.remedies, *cures.censuses})

    def began_with(row: Mapping[str, Any]) -> tuple[object, object, int]:
        lesser = bisect_left(helped, row["step"])
        return row.get("reload/count"), row.get("reload/generation"), lesser

    for (count, generation, _), group in groupby(rows, began_with):
        own = list(group)
        start, read = last.get("step", own[0]["step"] - 1), [row["step"] for row in own]
        steps = np.arange(start + 1, read[-1] + 1)
        is_same_worker = generation == last.get("reload/generation")
        is_reload = bool(last) and (count != last.get("reload/count") or is_same_worker)
        yield Session(
            start=start,
            kind="first" if not last else "in_process" if is_same_worker else "process",
            parts={p: np.interp(steps, read, [_part(row, p) for row in own]) for p in PARTS},
            before={part: _part(last, part) for part in PARTS} if is_reload else {},
            by_census=bool(last) and last["step"] in cures.censuses,
        )
        last = own[-1]


def _part(row: Mapping[str, Any], part: str) -> float:
    if part != "other":
        return float(row[f"memory/{part}_gb"])
    return float(row["memory/process_gb"] - row["memory/active_gb"] - row["memory/cache_gb"])


def _cells(row: Mapping[str, Any]) -> float | None:
    """Tokens and padding of a step; None where prompts are masked, whose tokens no row counts."""
    tokens, padded = plausible(row.get("tokens")), plausible(row.get("data/padded_fraction"))
    if tokens is None or padded is None or padded >= 1:
        return None
    cells = tokens / (1 - padded)
    return float(round(cells)) if abs(cells - round(cells)) < 1e-6 * cells else None


def _column(rows: Sequence[Mapping[str, Any]], steps: int, value: Any) -> Values:
    """A value of each step from 1 on; NaN where there is none."""
    found = np.full(steps, np.nan)
    for row in rows:
        figure = plausible(value(row))
        if figure is not None:
            found[row["step"] - 1] = figure
    return found
