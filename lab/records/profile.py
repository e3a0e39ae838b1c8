"""A run's profile: where the time and the memory of a step go, and ``profile.json``, its trace.

``profile.json`` is in the Trace Event Format, which chrome://tracing and Perfetto open. It has two
processes: the steps as they were trained, and the profile pass, in which the same batches went
through the step again in parts, each of them waited for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from lab.config.schema import ConfigError, why_unreadable
from lab.config.units import GB, MB
from lab.records.files import write_json
from lab.records.rows import read_rows

PROFILE_FILE = "profile.json"

LOOP, RELOAD, PASS, FORWARD, BACKWARD = "loop", "reload", "pass", "forward", "backward"
TRACKS = {  # process and thread of each track, and what they are called
    LOOP: (1, 1, "steps as trained", "loop"),
    RELOAD: (1, 2, "steps as trained", "reloads"),
    PASS: (2, 1, "profile pass, each part waited for", "parts of a step"),
    FORWARD: (2, 2, "profile pass, each part waited for", "forward by module"),
    BACKWARD: (2, 3, "profile pass, each part waited for", "backward by module"),
}

OF_LOOP = ("batch", "probe", "row")
OF_DEVICE = ("dispatch", "evaluate")  # as trained; OF_PASS is the same work in parts
OF_PASS = ("graph", "forward, loss", "backward", "update")
WHOLE = "whole step"
PHASES = ("batch", *OF_PASS, "probe", "row")
SOME_STEPS = ("validation", "checkpoint", "reload", "cache clear")
KINDS, OTHER = ("embedding", "attention", "mlp", "norm", "head, loss"), "other"


@dataclass(frozen=True, kw_only=True)
class Span:
    """Something that was done once.

    Attributes:
        track: one of ``TRACKS``.
        name: of the phase, or of the kind of module.
        detail: the module's path in the model.
        start: seconds since the run's start.
        active: MLX's active memory at the start, in bytes; None where it was not read.
        kept: bytes that were alive at the end and not at the start. Of a module's forward pass:
            what its backward pass needs beyond its inputs, without its output.
        peak: the most that was alive meanwhile, beyond ``active``, in bytes.
    """

    track: str
    name: str
    step: int
    start: float
    seconds: float
    detail: str = ""
    active: int | None = None
    kept: int | None = None
    peak: int | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Span:
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})


@dataclass(frozen=True, kw_only=True)
class Part:
    """A phase of a step, or all modules of one kind.

    Attributes:
        seconds: median of the steps that have it; of modules those of the forward pass.
        backward: seconds of the modules' backward pass; None for a phase.
        kept, peak: as of a :class:`Span`: what a batch keeps on average, added up over modules,
            and the highest peak.
        times: how often it happened in the profiled steps.
    """

    name: str
    seconds: float
    backward: float | None = None
    kept: int | None = None
    peak: int | None = None
    times: int = 1


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Where a step goes.

    Attributes:
        steps: the first and the last that were timed.
        usual_seconds: median of a step as trained, without what happens in some steps only.
        in_parts: how many times as long a step takes in parts as whole, each done beside the
            other; None without a pass.
        phases: of each step: those of the loop as trained, those of the device from the pass.
        modules: the forward and backward pass by kinds of modules; empty without a pass.
        sometimes: what happened in some of the steps.
        active: bytes alive before a step; None without a pass.
    """

    steps: tuple[int, int]
    usual_seconds: float
    in_parts: float | None
    phases: Sequence[Part]
    modules: Sequence[Part]
    sometimes: Sequence[Part]
    active: int | None

    @property
    def seconds(self) -> float:
        """Of all phases of a step, each of them waited for."""
        return sum(part.seconds for part in self.phases)

    def slowness(self) -> list[str]:
        """What a step took as trained, in parts, and by module: a line each."""
        lines = [f"a step took {self.usual_seconds * 1e3:,.1f} ms as trained"]
        if self.modules:
            forward = next(part for part in self.phases if part.name == "forward, loss")
            by_module = sum(part.seconds for part in self.modules) / forward.seconds
            lines += [
                f"waited for part by part it takes {self.in_parts:.2f} times as long",
                f"stopped at each module, forward takes {by_module:.2f} times as long",
            ]
        return lines


def summarise_spans(spans: Sequence[Span]) -> Profile:
    """The figures of the profiled steps, at least one."""
    loop = [span for span in spans if span.track in (LOOP, RELOAD)]
    of_pass = [span for span in spans if span.track == PASS]
    found = [
        *(_part(name, loop) for name in OF_LOOP),
        *(_part(name, of_pass) for name in OF_PASS),
    ]
    phases = sorted((part for part in found if part), key=lambda part: PHASES.index(part.name))
    in_parts = _by_step(span for span in of_pass if span.name in OF_PASS)
    whole = _by_step(span for span in of_pass if span.name == WHOLE)
    steps = [span.step for span in loop]
    return Profile(
        steps=(min(steps), max(steps)),
        usual_seconds=median(
            _by_step(span for span in loop if span.name in (*OF_LOOP, *OF_DEVICE)).values()
        ),
        in_parts=median(in_parts[step] / whole[step] for step in whole) if whole else None,
        phases=phases,
        modules=_modules(spans, {part.name: part for part in phases}) if of_pass else (),
        sometimes=[part for name in SOME_STEPS if (part := _part(name, loop))],
        active=next((span.active for span in of_pass if span.name != WHOLE), None),
    )


def _by_step(spans: Iterable[Span]) -> dict[int, float]:
    """Seconds of all of them in each step."""
    seconds: dict[int, float] = {}
    for span in spans:
        seconds[span.step] = seconds.get(span.step, 0.0) + span.seconds
    return seconds


def _part(name: str, spans: Iterable[Span]) -> Part | None:
    """All spans of one name; None where there is none."""
    found = [span for span in spans if span.name == name]
    if not found:
        return None
    kept: dict[str, list[int]] = {}  # by each module
    for span in found:
        if span.kept is not None:
            kept.setdefault(span.detail, []).append(span.kept)
    return Part(
        name=name,
        seconds=median(_by_step(found).values()),
        kept=round(sum(map(fmean, kept.values()))) if kept else None,
        peak=max((span.peak for span in found if span.peak is not None), default=None),
        times=len(found),
    )


def _modules(spans: Sequence[Span], phases: Mapping[str, Part]) -> list[Part]:
    """A part for each kind; what no module accounts for is ``other``."""
    forward = [span for span in spans if span.track == FORWARD]
    backward = [span for span in spans if span.track == BACKWARD]
    known = [
        replace(part, backward=of_backward.seconds if of_backward else 0.0)
        for name in KINDS
        if (part := _part(name, forward))
        for of_backward in [_part(name, backward)]
    ]
    whole = phases["forward, loss"]
    other = _part(OTHER, forward) or replace(whole, name=OTHER)
    took = phases["backward"].seconds - sum(part.backward or 0.0 for part in known)
    kept = (whole.kept or 0) - sum(part.kept or 0 for part in known)
    return [*known, replace(other, backward=max(took, 0.0), kept=max(kept, 0))]


# --- The file -----------------------------------------------------------------------------------


def write_profile(run_dir: Path, spans: Sequence[Span]) -> None:
    """Write ``profile.json`` from the spans and the run's rows.

    Raises:
        MetricsLost: it cannot be written.
    """
    steps = {span.step for span in spans}
    rows = [row for row in read_rows(run_dir) if row["step"] in steps]
    events = [*_names(), *map(_event, spans), *_counters(spans, rows)]
    write_json(run_dir / PROFILE_FILE, {"traceEvents": events, "displayTimeUnit": "ms"})


def read_profile(run_dir: Path) -> Profile | None:
    """The figures of a run's ``profile.json``; None where it has none.

    Raises:
        ConfigError: it cannot be read, or is not one that this lab wrote.
    """
    path = run_dir / PROFILE_FILE
    try:
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
        return summarise_spans([Span.of(e["args"]) for e in events if e["ph"] == "X"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError("run", path, f"cannot be read: {why_unreadable(error)}") from error
    except (LookupError, TypeError, ArithmeticError, RecursionError) as error:
        raise ConfigError("run", path, "cannot be read: it is no profile of this lab") from error


def _names() -> Iterator[dict[str, Any]]:
    for pid, tid, process, thread in TRACKS.values():
        common = {"ph": "M", "pid": pid, "tid": tid}
        yield {**common, "name": "process_name", "args": {"name": process}}
        yield {**common, "name": "thread_name", "args": {"name": thread}}


def _event(span: Span) -> dict[str, Any]:
    pid, tid, *_ = TRACKS[span.track]
    own = {key: value for key, value in asdict(span).items() if value not in (None, "")}
    sizes = {f"{k}_mb": own[k] / MB for k in ("active", "kept", "peak") if k in own}
    name = f"step {span.step}" if span.name == "step" else span.name
    return {
        "ph": "X",
        "name": name,
        "cat": span.track,
        "pid": pid,
        "tid": tid,
        "ts": span.start * 1e6,
        "dur": span.seconds * 1e6,
        "args": {**own, **sizes},
    }


def _counters(spans: Iterable[Span], rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Memory over time, in MB: after each step, and before and at the end of each part."""
    for row in rows:
        figures = {
            name: row[f"memory/{name}_gb"] * GB / MB
            for name in ("active", "cache", "peak", "process")
            if row.get(f"memory/{name}_gb") is not None
        }
        for name, value in figures.items():
            yield _counter(1, f"{name} memory (MB)", row["time"], value)
    for span in spans:
        if span.active is not None and span.kept is not None:
            end = span.start + span.seconds
            yield _counter(2, "active memory (MB)", span.start, span.active / MB)
            yield _counter(2, "active memory (MB)", end, (span.active + span.kept) / MB)


def _counter(pid: int, name: str, seconds: float, megabytes: float) -> dict[str, Any]:
    return {"ph": "C", "name": name, "pid": pid, "ts": seconds * 1e6, "args": {"MB": megabytes}}
