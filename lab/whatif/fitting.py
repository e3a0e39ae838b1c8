"""The model of a run's memory, fitted to recorded sessions: levels, warm-ups, growth, ripple."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lab.config.units import GB, MB
from lab.records.slope import WARM_UP_STEPS, theil_sen
from lab.whatif.cures import Cure
from lab.whatif.growth import Level, MemoryModel, Part
from lab.whatif.recorded import PARTS, Kind, Recording, Session, Values
from lab.whatif.shapes import Shapes

KINDS: tuple[Kind, ...] = ("first", "in_process", "process")
HALF_WINDOW = 10  # steps on either side that a running median is taken over
FASTER = 1.5  # growth that is so much faster late in a run began on the way
LEAST_GROWTH = 0.02 * MB / GB  # GB a step that count as growth there
LEAST_DIFFERENCE = 2 * MB / GB  # GB between two readings that count as one
ALIKE = 0.25  # a share within it of 0 or 1 is taken for 0 or 1

Curves = Sequence[tuple[Session, Values]]  # sessions, each with a part of its memory, smoothed


def fitted(recordings: Sequence[Recording], steps: int) -> MemoryModel:
    """Fit the model to runs that differ in their reloads only, for at least so many steps."""
    steps = max(steps, *(run.steps for run in recordings))
    reference = max(recordings, key=lambda run: run.first_steps)
    sessions = [session for run in recordings for session in run.sessions]
    room = reference.config.memory.cache_limit_gb
    methods: set[Kind] = {"in_process", "process"}
    cures = [run.cures.least for run in recordings if run.cures.least is not None]
    cure = min(cures, key=lambda cure: cure.source != "measured", default=None)
    return MemoryModel(
        steps=steps,
        parts={part: _fit(part, sessions, reference, steps, room, cure) for part in PARTS},
        shapes=Shapes.learned(recordings, steps),
        assumed=frozenset(methods - {session.kind for session in sessions}),
        cure=cure,
    )


def _fit(
    name: str,
    sessions: Sequence[Session],
    reference: Recording,
    steps: int,
    room: float,
    cure: Cure | None,
) -> Part:
    curves = [(session, smoothed(session.grown(name))) for session in sessions]
    by_step = _began_midway(curves)
    growth = _growth(curves, steps, by_step=by_step)
    highest = max(float(session.parts[name].max()) for session in sessions)
    part = Part(
        levels={},
        warm_up=_warm_ups(name, curves, growth, by_step=by_step),
        growth=growth,
        by_step=by_step,
        ripple=np.zeros(steps),
        first=reference.first[name],
        ceiling=max(highest, room) if name == "cache" else np.inf,
    )
    only_process = cure is not None and cure.rung == "reload_process"
    part = replace(part, levels=_levels(name, part, sessions, only_process=only_process))
    return replace(part, ripple=_ripple(name, part, reference, steps))


def smoothed(values: Values) -> Values:
    """Running median; the window shrinks towards both ends and stays symmetric."""
    count = len(values)
    reach = [min(HALF_WINDOW, count // 6, at, count - 1 - at) for at in range(count)]
    return np.array([np.median(values[at - r : at + r + 1]) for at, r in enumerate(reach)])


def _rate(curve: Values) -> float:
    """GB a step, robust."""
    return theil_sen(list(enumerate(curve.tolist()))) if len(curve) > 1 else 0.0


def _began_midway(curves: Curves) -> bool:
    """Whether memory grows faster late in the run, at the same age of a session."""
    firsts = [curve for session, curve in curves if session.kind == "first"]
    later = [curve for session, curve in curves if session.kind != "first"]
    longest = max(firsts, key=len)[WARM_UP_STEPS:]
    later = [curve[WARM_UP_STEPS:] for curve in later if len(curve) >= 2 * WARM_UP_STEPS]
    half = len(longest) // 2
    early, late = _rate(longest[:half]), _rate(longest[half:])
    if later:
        same = min(len(longest), *map(len, later))
        early = _rate(longest[:same])
        late = float(np.mean([_rate(curve[:same]) for curve in later]))
    return late > FASTER * early + LEAST_GROWTH


def _growth(curves: Curves, steps: int, *, by_step: bool) -> Values:
    """Growth from the first age or step on, in GB: increments of what is settled.

    By step the mean of all sessions; by age those of the longest one: heaps grow in jumps, which a
    mean of sessions that jump at different ages would smear.
    """
    longest = max(curves, key=lambda found: len(found[1]))
    curves = curves if by_step else [longest]
    total, seen = np.zeros(steps), np.zeros(steps)
    for session, curve in curves:
        begin = session.start if by_step else 0
        places = np.arange(begin + WARM_UP_STEPS, begin + len(curve))
        total[places] += np.diff(curve)[WARM_UP_STEPS - 1 :]
        seen[places] += 1
    increments, known = total / np.maximum(seen, 1), np.flatnonzero(seen)
    settled = longest[1][WARM_UP_STEPS:]
    at_the_end = _rate(settled[len(settled) // 2 :])
    for at in np.flatnonzero(seen == 0):  # the growth beneath a warm-up is that of what follows
        after = known[np.searchsorted(known, at) :][: 2 * WARM_UP_STEPS]
        increments[at] = increments[after].mean() if len(after) else at_the_end
    return np.cumsum(increments) - increments[0]


def _warm_ups(name: str, curves: Curves, growth: Values, *, by_step: bool) -> dict[Kind, Values]:
    found: dict[Kind, Values] = {}
    for kind in KINDS:
        own = [(session, curve) for session, curve in curves if session.kind == kind]
        own = [(s, c) for s, c in own if len(c) >= WARM_UP_STEPS]
        excess = []
        for session, curve in own:
            at = session.start if by_step else 0
            grown = growth[at : at + WARM_UP_STEPS] - growth[at]
            excess.append(curve[: len(grown)] - curve[0] - grown)
        shared = min(map(len, excess), default=0)
        if shared == WARM_UP_STEPS:
            found[kind] = np.mean(excess, axis=0)
        elif kind == "first" or (kind == "in_process" and name == "other"):  # the heap is warm
            found[kind] = np.zeros(WARM_UP_STEPS)
        else:
            found[kind] = found["first"]
    return found


def _levels(
    name: str, part: Part, sessions: Sequence[Session], *, only_process: bool
) -> dict[Kind, Level]:
    found: dict[Kind, Level] = {}
    for kind in KINDS:
        begun = [
            (
                session.before.get(name),
                _level_of(session.grown(name), part, session.start, kind),
            )
            for session in sessions
            if session.kind == kind and len(session) > (kind != "first")
        ]
        if kind == "first":
            found[kind] = Level(float(np.mean([level for _, level in begun])))
            continue
        settled = found["first"].own + float(part.warm_up["first"][-1])
        if not begun and kind == "in_process" and only_process and name != "cache":
            found[kind] = Level(0.0, 1.0, settled)  # nothing comes back
            continue
        if not begun:  # a reload in process leaves the heap warm
            is_warm = kind == "in_process" and name == "other"
            found[kind] = Level(settled) if is_warm else found["first"]
            continue
        pairs = [(before, level) for before, level in begun if before is not None]
        kept = 0.0 if kind == "process" else _kept(pairs, settled)
        rest = [level - kept * (before or 0.0) for before, level in begun]
        own = float(np.median(rest))
        found[kind] = Level(own, kept, settled) if kept else Level(own)
    return found


def _level_of(values: Values, part: Part, start: int, kind: Kind) -> float:
    """The median, which a jump within the warm-up does not move."""
    return float(np.median(values - part.rise(start, kind, len(values))))


def _kept(pairs: Sequence[tuple[float, float]], settled: float) -> float:
    """The share of what was there before reloads that was still there after them.

    Arguments:
        pairs: GB before each reload, and the level of the session after it.
        settled: GB of the first session, warmed up and without growth.
    """
    befores, afters = np.array(pairs).T if pairs else (np.zeros(0), np.zeros(0))
    grown = befores - settled
    if grown.sum() < LEAST_DIFFERENCE * max(len(grown), 1):
        return 0.0
    share = float((afters - settled).sum() / grown.sum())
    if len(pairs) > 2 and np.ptp(befores) > LEAST_DIFFERENCE:
        share = float(np.polyfit(befores, afters, 1)[0])
    near = round(share)
    return float(np.clip(near if abs(share - near) < ALIKE else share, 0, 1))


def _ripple(name: str, part: Part, reference: Recording, steps: int) -> Values:
    """What the model leaves of each recorded step; beyond them the same once more."""
    left = np.zeros(reference.steps)
    for session in reference.sessions:
        values = session.grown(name)
        level = _level_of(values, part, session.start, session.kind)
        rise = part.rise(session.start, session.kind, len(values))
        left[session.steps - 1] = values - level - rise
    settled = left[WARM_UP_STEPS:]
    return np.concatenate([left, np.resize(settled, max(steps - len(left), 0))])[:steps]
